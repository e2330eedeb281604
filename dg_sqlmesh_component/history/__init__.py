"""What Dagster's event log says about models: records of data, results of checks, costs, and runs."""
