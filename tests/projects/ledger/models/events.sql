MODEL (
  name t.events,
  kind INCREMENTAL_BY_TIME_RANGE (time_column ds),
  description 'Events by day.',
  owner ada,
  grain id,
  tags ['dagster:group_name:landing', 'dagster:tag:tier=gold', 'plain tag'],
  audits (
    not_null(columns := (id)),
    not_null(columns := (ds)),
    flag_is_down(flag_name := 'events_warn', blocking := false)
  )
);

SELECT
  ds::DATE AS ds, -- the day
  id::BIGINT AS id -- the number
FROM raw.events
WHERE ds BETWEEN @start_ds AND @end_ds
