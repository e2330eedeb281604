MODEL (name t.below_audited, kind FULL);
SELECT n FROM t.audited
