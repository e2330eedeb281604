"""What a user may write: `defs.yaml` and the run config. Each attribute has its type, default and description.

These modules and `component.py` have no `from __future__ import annotations`: Dagster reads annotations as objects.
"""
