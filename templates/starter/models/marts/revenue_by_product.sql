MODEL (
  name marts.revenue_by_product,
  kind FULL,
  description 'Revenue of each product since the first order.',
  owner 'finance',
  tags [
    -- Tags of the form dagster:<property>:<value> set properties of the asset. Others stay tags.
    'finance',
    'dagster:group_name:finance',
    'dagster:owner:team:analytics',
    'dagster:kind:table',
    'dagster:tag:tier=gold'
  ],
  grain product_id,
  audits (
    unique_values(columns := (product_id))
  )
);

SELECT
  products.product_id, -- Identifies the product.
  products.product_name, -- Name shown in the shop.
  products.category, -- Shelf on which the product is sold.
  CAST(SUM(daily_orders.quantity) AS BIGINT) AS quantity, -- Pieces sold.
  CAST(SUM(daily_orders.revenue) AS DECIMAL(18, 2)) AS revenue -- Sum of the orders, in euros.
FROM core.daily_orders AS daily_orders
JOIN reference.products AS products
  ON daily_orders.product_id = products.product_id
GROUP BY
  products.product_id,
  products.product_name,
  products.category
