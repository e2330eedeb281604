"""Name the causes for which a model waits, as far upstream as somebody can act on them. Pure.

`availability` names the nearest pending models. If one of them waits itself, a run of it changes nothing, so its own
causes are named instead. They are those that it would have in a run of all models without bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from dg_sqlmesh_component.protocol.intervals import common
from dg_sqlmesh_component.protocol.messages import HeldBackBy
from dg_sqlmesh_component.worker.intervals.availability import Left


def with_causes(name: str, by: HeldBackBy, if_all: Mapping[str, Left], selected: Set[str]) -> HeldBackBy:
    """What a model waits for, with the causes in place of models that wait themselves.

    Args:
        by: What `availability` has found for the run.
        if_all: What a run of all models without bounds would decide, less the intervals that the run computes itself. A
            model that waits for nothing is not in it.
        selected: The models that the run selects, also those that it does not compute.
    """
    models: set[str] = set()
    tables = set(by.tables)
    seen: set[str] = set()
    to_visit = [of for of in by.models if of != name]
    while to_visit:
        of = to_visit.pop()
        if of in seen:
            continue
        seen.add(of)
        left, own = if_all.get(of, (None, HeldBackBy()))
        causes = [cause for cause in own.models if cause != of]
        if left is None or common(left, by.intervals) or not (own.tables or causes):
            models.add(of)  # a run of it computes something that is read
        if left is not None and (not left or common(own.intervals, by.intervals)):
            tables |= set(own.tables)
            to_visit += causes
    itself = {name} & {*by.models}
    return HeldBackBy(
        tuple(sorted((models - selected) | itself)),
        tuple(sorted(tables)),
        by.intervals,
        beyond_bounds=tuple(sorted(models & selected - itself)),
        through=tuple(sorted(seen - models - selected)),
    )
