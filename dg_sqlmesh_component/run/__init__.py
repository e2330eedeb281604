"""One Dagster step: its request to SQLMesh, the outcomes, and the results for Dagster."""
