MODEL (
  name staging.orders,
  kind VIEW,
  description 'Orders with the day on which they were placed.',
  grain order_id
);

SELECT
  order_id, -- Identifies the order.
  CAST(ordered_at AS DATE) AS sold_on, -- Day of the order (UTC).
  branch, -- Where the order was placed.
  item_id, -- What was ordered.
  quantity -- How many of it.
FROM raw.orders
