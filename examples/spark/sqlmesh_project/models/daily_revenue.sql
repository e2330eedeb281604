MODEL (
  name shop.daily_revenue,
  kind INCREMENTAL_BY_TIME_RANGE (time_column ordered_on),
  audits (revenue_is_positive, not_null(columns := (revenue)))
);

SELECT ordered_on, SUM(amount) AS revenue
FROM shop.orders
WHERE ordered_on BETWEEN @start_ds AND @end_ds
GROUP BY ordered_on
