"""Find the rows that a view shows although they are old, or were not accepted. Pure.

A batch writes its rows before its audits. If they fail, the rows stay in the table, and a table downstream waits for
their correction (`availability`). A view has no rows of its own: it shows them at once, also if it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import merged, subtract
from dg_sqlmesh_component.protocol.messages import Interval


def unaccepted_rows(
    views: Iterable[str],
    parents: Mapping[str, Iterable[str]],
    shows_others: Callable[[str], bool],
    begun: Mapping[str, Sequence[Interval]],
    planned: Mapping[str, Sequence[Interval]],
) -> dict[str, dict[str, tuple[Interval, ...]]]:
    """The intervals of such rows, by view and by table. A view without such rows is left out.

    Args:
        parents: The nodes that each node reads, by name.
        shows_others: Whether a node has no rows of its own.
        begun: The intervals that a run has begun to compute, and that are not computed since, by table.
        planned: The intervals of each table that this run computes before the view.
    """
    left = {table: subtract(merged(intervals), planned.get(table, ())) for table, intervals in begun.items()}
    tables = {table: intervals for table, intervals in left.items() if intervals}
    if not tables:
        return {}

    def read_through(name: str) -> Iterable[str]:
        return parents[name] if shows_others(name) else ()

    read = {view: reachable(parents[view], read_through) & tables.keys() for view in views}
    return {view: {name: tables[name] for name in sorted(names)} for view, names in read.items() if names}
