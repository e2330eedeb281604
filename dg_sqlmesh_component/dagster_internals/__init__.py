"""Every private interface of Dagster that this package uses. Each function is named after its purpose.

If the reason is not obvious, the docstring gives it. Each has a test in tests/upstream/test_dagster_internals.py, which
fails if Dagster changes it. No other module imports `dagster._*` (ruff refuses it).
"""
