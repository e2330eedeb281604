"""One Dagster step: what was selected, what SQLMesh did, what Dagster is told."""
