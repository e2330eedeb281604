"""Whether a plan has changed the environment during a run. SQLMesh asks this before each node."""

from __future__ import annotations

from collections.abc import Callable

from sqlmesh.core.environment import EnvironmentSummary
from sqlmesh.core.state_sync import StateReader


def cached_circuit_breaker(has_changed: Callable[[], bool], state: StateReader, environment: str) -> Callable[[], bool]:
    """Call SQLMesh's own circuit breaker only if the environment's summary has changed since the last call.

    SQLMesh reads and parses every snapshot of the environment to compare two fields. The summary has both; at 3,000
    models, SQLMesh's comparison took more than half of the run. An unchanged summary proves that nothing has changed.
    If it differs, SQLMesh decides. Safe to call from any thread.

    Args:
        has_changed: SQLMesh's circuit breaker.
    """
    unchanged: list[EnvironmentSummary] = []

    def breaker() -> bool:
        # Read before SQLMesh is asked: a plan that lands between the two makes the next summary differ.
        summaries = [summary for summary in state.get_environments_summary() if summary.name == environment]
        if summaries and summaries == unchanged:
            return False
        if has_changed():
            return True
        unchanged[:] = summaries
        return False

    return breaker
