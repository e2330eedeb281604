MODEL (
  name core.invoices,
  kind FULL,
  description 'One invoice for each order that is over.',
  grain order_id,
  audits (
    unique_values(columns := (order_id)) -- Nobody pays twice.
  )
);

SELECT
  order_id, -- Identifies the order.
  order_date, -- Day of the order (UTC).
  country_code, -- Customer's country, ISO 3166 alpha-2.
  amount -- Total of the order, in euros.
FROM staging.orders
WHERE
  order_date < @execution_date
