MODEL (name t.embedded, kind EMBEDDED);
SELECT ds, id * 2 AS double_id FROM t.events
