"""Runs of SQLMesh's unit tests and linter on the project's files."""
