MODEL (name shop.orders, kind FULL);

SELECT
  CAST(id AS INT) AS order_id,
  DATE_ADD(DATE '2026-01-01', CAST(id % 7 AS INT)) AS ordered_on,
  CAST(10 + id % 5 AS DECIMAL(10, 2)) AS amount
FROM RANGE(1, 1001)
