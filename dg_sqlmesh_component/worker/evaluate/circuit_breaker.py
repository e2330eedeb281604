"""Whether a plan has changed the environment while it runs, which SQLMesh asks before each node."""

from __future__ import annotations

from collections.abc import Callable

from sqlmesh.core.environment import EnvironmentSummary
from sqlmesh.core.state_sync import StateReader


def unless_unchanged(has_changed: Callable[[], bool], state: StateReader, environment: str) -> Callable[[], bool]:
    """SQLMesh's question, put to SQLMesh only where the environment's summary is not what it was the last time.

    SQLMesh reads and parses every snapshot of the environment to compare two fields that the summary has too: at
    3,000 models that was more than half of its run. The summary says only that nothing has changed; that something
    has is for SQLMesh to say. Safe to call from any thread.
    """
    unchanged: list[EnvironmentSummary] = []

    def breaker() -> bool:
        # Read before SQLMesh is asked: what lands between the two is a difference the next time.
        found = [one for one in state.get_environments_summary() if one.name == environment]
        if found and found == unchanged:
            return False
        if has_changed():
            return True
        unchanged[:] = found
        return False

    return breaker
