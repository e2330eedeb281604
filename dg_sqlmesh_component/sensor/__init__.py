"""The sensor that records what was computed and promoted outside of Dagster."""
