-- An audit is a query that finds bad rows. It passes if it finds none.
AUDIT (
  name no_negative_revenue
);

SELECT
  *
FROM @this_model
WHERE
  revenue < 0
