MODEL (
  name core.customers,
  kind FULL,
  description 'Customers, with their first order.',
  grain customer_id
);

SELECT
  customer_id, -- Identifies the customer.
  MIN(ordered_on) AS first_ordered_on, -- Day of the first order.
  CAST(SUM(amount) AS DECIMAL(18, 2)) AS spent -- All orders together, in euros.
FROM core.orders
GROUP BY
  customer_id
