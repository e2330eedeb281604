"""SQLMesh's process as Dagster's processes see it: start it, hand it one request, read its events, end it."""
