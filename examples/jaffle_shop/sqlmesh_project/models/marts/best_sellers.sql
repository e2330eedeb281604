MODEL (
  name @branch.best_sellers, -- One model for each branch, in a schema of its own.
  kind FULL,
  blueprints (
    (branch := harbour),
    (branch := station)
  ),
  description 'What this branch sells most.',
  grain item,
  audits (
    unique_values(columns := (item))
  )
);

SELECT
  item, -- What was sold.
  CAST(SUM(pieces) AS BIGINT) AS pieces, -- How many of it, since the beginning.
  CAST(SUM(revenue) AS DECIMAL(18, 2)) AS revenue -- For how much.
FROM marts.daily_sales
WHERE
  branch = @SQL('''@branch''')
GROUP BY
  item
