-- Five made-up rides a day, up to today.
SELECT
  CAST(STRFTIME(d, '%Y%m%d') AS BIGINT) * 10 + n AS ride_id,
  d + n * INTERVAL 3 HOUR AS started_at,
  CAST((DAYOFYEAR(d) * n) % 3 + 1 AS INTEGER) AS station_id,
  CAST(7 + (DAYOFYEAR(d) * n) % 31 AS INTEGER) AS minutes
FROM RANGE(DATE '2026-01-01', CURRENT_DATE + INTERVAL 1 DAY, INTERVAL 1 DAY) AS days(d)
CROSS JOIN RANGE(1, 6) AS numbers(n)
