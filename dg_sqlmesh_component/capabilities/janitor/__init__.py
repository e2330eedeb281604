"""SQLMesh's janitor as a job with a schedule: it deletes what has expired, and merges intervals."""
