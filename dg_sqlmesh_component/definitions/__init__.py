"""Builds Dagster definitions from the manifest."""
