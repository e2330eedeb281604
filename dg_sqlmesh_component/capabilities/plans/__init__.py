"""Plans, applies and previews as jobs. They are still moving here from `plan/` and `worker/plan/`."""
