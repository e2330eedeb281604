MODEL (
  name usage.daily_rides,
  kind INCREMENTAL_BY_TIME_RANGE (time_column ridden_on),
  description 'Rides of each day and station.',
  grain (ridden_on, station),
  audits (not_null(columns := (station, rides)))
);

SELECT
  CAST(rides.started_at AS DATE) AS ridden_on, -- Day on which the rides began (UTC).
  stations.station, -- Where they began.
  COUNT(*) AS rides, -- How many.
  SUM(rides.minutes) AS minutes -- How long, all together.
FROM bikes.rides AS rides
JOIN bikes.stations AS stations
  ON rides.station_id = stations.station_id
WHERE
  rides.started_at BETWEEN @start_ts AND @end_ts
GROUP BY
  ridden_on,
  stations.station
