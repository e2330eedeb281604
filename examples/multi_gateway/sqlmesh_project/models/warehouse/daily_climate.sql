MODEL (
  name greenhouse.daily_climate, -- No gateway: the default one.
  kind FULL,
  description 'The warmest and coldest reading of each day, out of the lake.',
  grain (measured_on, sensor)
);

SELECT
  measured_on, -- Day of the readings (UTC).
  sensor, -- Where it hangs.
  MIN(degrees) AS coldest, -- Celsius.
  MAX(degrees) AS warmest -- Celsius.
FROM lake.greenhouse.readings
GROUP BY
  measured_on,
  sensor
