"""How far a restatement reaches through views and tables that are computed as a whole. Pure.

SQLMesh computes more of some models than was asked for: all days after the range of one that reads itself, all rows of
one with a unique key. It pushes this range down to incremental models that read such a model directly. Behind a view or
a `FULL` table, it computes only the range that was asked for, and the other rows would stay old.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from dg_sqlmesh_component.protocol.graph import parents_first
from dg_sqlmesh_component.protocol.messages import Interval


def pushed_ranges(
    ranges: Mapping[str, Interval], parents: Mapping[str, Iterable[str]], incremental: Set[str]
) -> dict[str, Interval]:
    """The restated range of each model, by name.

    Args:
        ranges: As SQLMesh has planned them.
        parents: What each restated model reads.
        incremental: The incremental ones.
    """
    restated = {name: [of for of in parents[name] if of in ranges] for name in ranges}
    pushed, reached = dict(ranges), dict[str, list[Interval]]()
    for name in parents_first(ranges, restated.__getitem__):
        reached[name] = [
            interval for of in restated[name] for interval in ([pushed[of]] if of in incremental else reached[of])
        ]
        if name in incremental:
            starts, ends = zip(ranges[name], *reached[name], strict=True)
            pushed[name] = min(starts), max(ends)
    return pushed
