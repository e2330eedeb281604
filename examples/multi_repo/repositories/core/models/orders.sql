MODEL (
  name core.orders,
  kind INCREMENTAL_BY_TIME_RANGE (time_column ordered_on),
  description 'Three made-up orders a day.',
  grain order_id,
  audits (unique_values(columns := (order_id)))
);

SELECT
  CAST(STRFTIME(d, '%Y%m%d') AS BIGINT) * 10 + n AS order_id, -- Identifies the order.
  CAST((DAYOFYEAR(d) * n) % 5 + 1 AS INT) AS customer_id, -- Who ordered.
  CAST(d AS DATE) AS ordered_on, -- Day of the order (UTC).
  CAST(n * 12.50 AS DECIMAL(10, 2)) AS amount -- What it cost, in euros.
FROM RANGE(@start_ts::TIMESTAMP, @end_ts::TIMESTAMP, INTERVAL '1' DAY) AS days(d)
CROSS JOIN RANGE(1, 4) AS numbers(n)
