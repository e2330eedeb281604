MODEL (
  name core.daily_orders,
  kind INCREMENTAL_BY_TIME_RANGE (
    time_column order_date -- Each run computes only the days that are missing.
  ),
  description 'Orders per day, product and country.',
  owner 'analytics@example.com',
  tags ['core', 'dagster:group_name:sales', 'dagster:kind:table'],
  grain (order_date, product_id, country_code),
  audits (
    -- A failed audit stops the downstream models, unless it is declared with `blocking false`.
    not_null(columns := (order_date, product_id, country_code)),
    no_negative_revenue,
    unusually_large_order(threshold := 250)
  )
);

SELECT
  order_date, -- Day of the orders (UTC).
  product_id, -- Ordered product.
  country_code, -- Customers' country, ISO 3166 alpha-2.
  CAST(COUNT(*) AS BIGINT) AS orders, -- Number of orders.
  CAST(SUM(quantity) AS BIGINT) AS quantity, -- Pieces sold.
  CAST(SUM(amount) AS DECIMAL(18, 2)) AS revenue, -- Sum of the orders, in euros.
  CAST(MAX(amount) AS DECIMAL(18, 2)) AS largest_order -- Largest single order, in euros.
FROM staging.orders
WHERE
  -- SQLMesh replaces these by the days that it computes.
  order_date BETWEEN @start_date AND @end_date
GROUP BY
  order_date,
  product_id,
  country_code
