MODEL (
  name lake.greenhouse.readings,
  gateway lake,
  kind INCREMENTAL_BY_TIME_RANGE (time_column measured_on),
  description 'Four made-up readings a day from each of two sensors.',
  audits (not_null(columns := (sensor, degrees)))
);

SELECT
  'bed_' || CAST(n % 2 + 1 AS TEXT) AS sensor, -- Where it hangs.
  CAST(d AS DATE) AS measured_on, -- Day of the reading (UTC).
  CAST(18 + (DAYOFYEAR(d) * n) % 9 AS INT) AS degrees -- Celsius.
FROM RANGE(@start_ts::TIMESTAMP, @end_ts::TIMESTAMP, INTERVAL '1' DAY) AS days(d)
CROSS JOIN RANGE(1, 9) AS numbers(n)
