"""Wait for the assets that load the tables which SQLMesh reads, and find data that was loaded late."""
