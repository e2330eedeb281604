-- Such an order should be looked at, but must not stop the run, so this audit only warns.
-- The sample data contains one such order a day.
AUDIT (
  name unusually_large_order,
  blocking false,
  defaults (
    threshold = 250
  )
);

SELECT
  *
FROM @this_model
WHERE
  largest_order > @threshold
