MODEL (
  name marts.weekly_revenue,
  kind FULL,
  cron '@weekly', -- Sundays at midnight UTC, while the rest of the project is daily.
  description 'Revenue of each complete week, from Sunday to Saturday.',
  owner 'finance',
  tags ['finance', 'dagster:group_name:finance', 'dagster:kind:table'],
  grain week_start
);

WITH weeks AS (
  SELECT
    CAST(order_date - CAST(DAYOFWEEK(order_date) AS INT) AS DATE) AS week_start,
    orders,
    revenue
  FROM core.daily_orders
)
SELECT
  week_start, -- Sunday on which the week begins.
  CAST(SUM(orders) AS BIGINT) AS orders, -- Number of orders.
  CAST(SUM(revenue) AS DECIMAL(18, 2)) AS revenue -- Sum of the orders, in euros.
FROM weeks
WHERE
  -- Leaves out the week that is not complete.
  week_start + INTERVAL '7' DAY <= @execution_date
GROUP BY
  week_start
