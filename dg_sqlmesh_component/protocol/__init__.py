"""What both processes may import: neither Dagster nor SQLMesh."""
