MODEL (name t.through_embedded, kind FULL);
SELECT max(double_id) AS most FROM t.embedded
