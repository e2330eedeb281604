MODEL (
  name staging.orders,
  kind VIEW,
  description 'Raw orders with tidy names and types: the only model that reads the raw table.',
  owner 'analytics@example.com',
  tags ['staging'],
  grain order_id
);

SELECT
  order_id, -- Identifies the order.
  CAST(ordered_at AS DATE) AS order_date, -- Day of the order (UTC).
  product_id, -- Ordered product.
  UPPER(country_code) AS country_code, -- Customer's country, ISO 3166 alpha-2.
  quantity, -- Pieces ordered.
  amount -- Total of the order, in euros.
FROM raw.orders
