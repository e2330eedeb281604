-- Worth a look, but no reason to hold back the day: it warns and lets the run go on.
-- The sample data contain one such order a day.
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
