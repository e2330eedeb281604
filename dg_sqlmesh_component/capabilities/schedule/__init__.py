"""Schedules: which models a tick requests, and the Dagster schedules and job that request them."""
