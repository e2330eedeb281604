MODEL (name t.below_gated, kind FULL);
SELECT n FROM t.gated
