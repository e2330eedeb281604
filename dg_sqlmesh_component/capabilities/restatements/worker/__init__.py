"""The worker's half: it imports SQLMesh, and never Dagster."""
