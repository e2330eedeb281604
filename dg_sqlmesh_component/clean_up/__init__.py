"""Runs of SQLMesh's janitor."""
