-- Two made-up loans a day, each for two weeks.
SELECT
  CAST(STRFTIME(d, '%Y%m%d') AS BIGINT) * 10 + n AS loan_id,
  CAST((DAYOFYEAR(d) * n) % 3 + 1 AS INTEGER) AS book_id,
  CAST(d AS DATE) AS lent_on,
  CASE WHEN d + INTERVAL 14 DAY < CURRENT_DATE THEN 'returned' ELSE 'out' END AS status
FROM RANGE(DATE '2026-01-01', CURRENT_DATE, INTERVAL 1 DAY) AS days(d)
CROSS JOIN RANGE(1, 3) AS numbers(n)
