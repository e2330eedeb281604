"""DuckDB lets one process write at a time, so the steps of a run share one."""

import dagster as dg

defs = dg.Definitions(executor=dg.in_process_executor)
