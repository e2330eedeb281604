MODEL (
  name t.audited,
  kind FULL,
  audits (
    flag_is_down(flag_name := 'audited_block'),
    flag_is_down(flag_name := 'audited_warn', blocking := false),
    not_null(columns := (n))
  )
);
SELECT count(*) AS n FROM t.events
