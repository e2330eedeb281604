"""Every private interface of Dagster that this package uses, named after what it is for.

Each has its reason here and a test in tests/upstream/test_dagster_internals.py, which fails when Dagster changes it.
"""

from __future__ import annotations

from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType


def is_rebuilding_definitions() -> bool:
    """Whether Dagster builds definitions that it has built before, as for a run: they are to be the same.

    Private, because Dagster offers no public way to tell a rebuild from a load.
    """
    return DefinitionsLoadContext.get().load_type is DefinitionsLoadType.RECONSTRUCTION
