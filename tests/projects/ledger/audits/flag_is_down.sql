AUDIT (name flag_is_down);
SELECT * FROM ctl.flags WHERE name = @flag_name
