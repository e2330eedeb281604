MODEL (
  name marts.invoiced_by_country,
  kind FULL,
  description 'What each country has been invoiced.',
  grain country_code
);

SELECT
  country_code, -- Customers' country, ISO 3166 alpha-2.
  CAST(SUM(amount) AS DECIMAL(18, 2)) AS amount -- Sum of the invoices, in euros.
FROM core.invoices
GROUP BY
  country_code
