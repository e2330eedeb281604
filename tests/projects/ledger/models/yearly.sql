MODEL (name t.yearly, kind FULL, cron '@yearly', start '2020-01-01');
SELECT count(*) AS n FROM t.colours
