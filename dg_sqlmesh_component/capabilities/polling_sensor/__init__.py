"""The sensor that records runs and plans made outside of Dagster."""
