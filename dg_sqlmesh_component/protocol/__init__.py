"""Modules that Dagster's processes and the worker both import. They import neither Dagster nor SQLMesh."""
