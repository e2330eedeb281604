MODEL (name t.events_view, kind VIEW);
SELECT ds, id FROM t.events
