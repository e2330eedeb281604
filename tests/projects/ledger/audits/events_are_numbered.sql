AUDIT (name events_are_numbered, standalone true, cron '@daily', start '2026-01-01');
SELECT ds FROM t.events WHERE id IS NULL OR EXISTS (SELECT 1 FROM ctl.flags WHERE name = 'standalone')
