-- An audit is a query for bad rows: it passes when it finds none.
AUDIT (
  name no_negative_revenue
);

SELECT
  *
FROM @this_model
WHERE
  revenue < 0
