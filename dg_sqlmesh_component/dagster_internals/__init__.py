"""Every private interface of Dagster that this package uses. Each function is named after its purpose.

If the reason is not obvious, the docstring gives it. Each has a test that fails if Dagster changes it, most of them in
tests/upstream/test_dagster_internals.py. No other module imports `dagster._*` (ruff refuses it).
"""
