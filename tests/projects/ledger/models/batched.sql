MODEL (
  name t.batched,
  kind INCREMENTAL_BY_TIME_RANGE (time_column ds, batch_size 1, batch_concurrency 1)
);
-- With the flag set, the batch of yesterday fails and those before it do not.
SELECT
  ds::DATE AS ds,
  CASE
    WHEN EXISTS (SELECT 1 FROM ctl.flags WHERE name = 'batched') AND @end_date >= current_date - 1
    THEN error('boom in the last batch') ELSE id
  END AS id
FROM raw.events
WHERE ds BETWEEN @start_ds AND @end_ds
