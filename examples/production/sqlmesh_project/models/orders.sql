MODEL (
  name shop.orders,
  kind FULL,
  cron '*/5 * * * *',
  audits (not_null(columns := (order_id)), amount_is_positive)
);

-- In place of a source: each run finds as many orders as hours have passed today.
SELECT
  hour AS order_id,
  CURRENT_DATE AS ordered_on,
  10 + hour AS amount
FROM GENERATE_SERIES(0, EXTRACT(HOUR FROM CURRENT_TIMESTAMP)::INT) AS hours(hour)
