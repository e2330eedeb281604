MODEL (
  name marts.daily_sales,
  kind INCREMENTAL_BY_TIME_RANGE (time_column sold_on),
  description 'Pieces and revenue of each day, branch and item.',
  owner 'sales@example.com',
  grain (sold_on, branch, item),
  audits (
    not_null(columns := (sold_on, branch, item))
  )
);

SELECT
  orders.sold_on, -- Day of the sales (UTC).
  orders.branch, -- Where it was sold.
  menu.item, -- What was sold.
  CAST(SUM(orders.quantity) AS BIGINT) AS pieces, -- How many of it.
  CAST(SUM(orders.quantity * menu.price) AS DECIMAL(18, 2)) AS revenue -- For how much.
FROM staging.orders AS orders
JOIN staging.menu AS menu
  ON orders.item_id = menu.item_id
WHERE
  orders.sold_on BETWEEN @start_date AND @end_date
GROUP BY
  orders.sold_on,
  orders.branch,
  menu.item
