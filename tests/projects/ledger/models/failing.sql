MODEL (name t.failing, kind FULL);
SELECT
  count(*) AS n,
  CASE WHEN EXISTS (SELECT 1 FROM ctl.flags WHERE name = 'failing') THEN error('boom') ELSE 'fine' END AS state
FROM t.events
