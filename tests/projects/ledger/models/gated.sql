MODEL (name t.gated, kind FULL, signals (landed()));
SELECT count(*) AS n FROM t.events
