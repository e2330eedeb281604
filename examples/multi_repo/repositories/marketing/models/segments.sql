MODEL (
  name marketing.segments,
  kind FULL,
  description 'Whom to write to. Reads a model of the other repository.',
  owner marketing,
  grain customer_id,
  audits (accepted_values(column := segment, is_in := ('gold', 'regular')))
);

SELECT
  customer_id, -- Identifies the customer.
  CASE WHEN spent > 100 THEN 'gold' ELSE 'regular' END AS segment -- Gold above 100 euros.
FROM core.customers
