"""Manifest -> Dagster definitions."""
