"""Jobs for backfills in Dagster's UI."""
