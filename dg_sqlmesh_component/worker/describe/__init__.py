"""SQLMesh project -> manifest."""
