"""Queries of the user's own assets, through the gateway of a SQLMesh project."""
