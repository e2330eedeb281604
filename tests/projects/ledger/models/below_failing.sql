MODEL (name t.below_failing, kind FULL);
SELECT n FROM t.failing
