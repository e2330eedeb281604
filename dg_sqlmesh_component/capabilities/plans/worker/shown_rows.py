"""What a plan changes of the rows that an environment shows, as the plain picture that `lost_rows` decides over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sqlmesh.core.model import IncrementalUnmanagedKind
from sqlmesh.core.plan.common import is_breaking_kind_change
from sqlmesh.core.snapshot import Snapshot
from sqlmesh.core.snapshot.definition import Interval
from sqlmesh.utils.date import make_exclusive, now_timestamp, to_timestamp

from dg_sqlmesh_component.capabilities.plans.worker.lost_rows import ChangedModel, ShownVersion, Shows
from dg_sqlmesh_component.protocol.intervals import merged
from dg_sqlmesh_component.worker.environment import has_table
from dg_sqlmesh_component.worker.intervals.query_ranges import range_limits
from dg_sqlmesh_component.worker.intervals.tables import due_at, is_incremental

Intervals = Mapping[str, Sequence[Interval]]
"""By name of the model."""


def changed_models(
    versions: Mapping[str, tuple[Snapshot, Snapshot | None]],
    parents: Mapping[str, Sequence[str]],
    missing: Intervals,
    waiting: Intervals,
    pending: Callable[[str], Sequence[Interval]],
    not_loaded: Callable[[str], Sequence[Interval]],
) -> dict[str, ChangedModel]:
    """The picture of changed models, by name.

    Args:
        versions: The new version and the old one; None if the environment has none.
        parents: The nodes that each node reads.
        missing: What the plan computes.
        waiting: What it leaves out, because tables are not loaded.
        pending: Finds what a run would compute right after the plan.
        not_loaded: Finds what such a run would leave out, because tables are not loaded.
    """
    read = {parent for name in versions for parent in parents[name]}
    return {
        name: _changed_model(
            new,
            # Only readers show the rows of an embedded model, and SQLMesh has none of an external table.
            old if old is not None and (has_table(old) or (old.is_embedded and name in read)) else None,
            frozenset(parents[name]) & versions.keys(),
            missing.get(name, ()),
            waiting.get(name, ()),
            partial(pending, name),
            partial(not_loaded, name),
        )
        for name, (new, old) in versions.items()
        if new.is_model and not new.is_external
    }


def _changed_model(
    new: Snapshot,
    old: Snapshot | None,
    reads: frozenset[str],
    missing: Sequence[Interval],
    waiting: Sequence[Interval],
    pending: Callable[[], Sequence[Interval]],
    not_loaded: Callable[[], Sequence[Interval]],
) -> ChangedModel:
    end, keeps = new.model.end, old is not None and keeps_rows(new, old)
    return ChangedModel(
        reads=reads,
        # A forgotten interval is marked. Its old rows are shown until it is computed again.
        before=None if old is None else _version(old, merged([*old.intervals, *old.pending_restatement_intervals])),
        after=_version(new, sorted([*new.intervals, *missing])),
        keeps_rows=keeps,
        replaced_at=_replaced_at(new, old, missing) if old is not None and keeps else None,
        is_redefined=old is None or new.fingerprint.data_hash != old.fingerprint.data_hash,
        is_computed=bool(missing),
        waiting=waiting,
        pending=pending,
        not_loaded=not_loaded,
        computed_until=partial(_computed_until, new),
        first_due=0 if new.intervals or missing or waiting or not new.is_full or pending() else _first_due(new),
        end=None if end is None else to_timestamp(make_exclusive(end)),
    )


def keeps_rows(snapshot: Snapshot, old: Snapshot) -> bool:
    """Whether a version fills the table of the old one. Of some kinds, SQLMesh then replaces only what it computes."""
    if old.version != snapshot.version:
        return False
    return not is_breaking_kind_change(old, snapshot) or (old.is_materialized and snapshot.is_incremental_by_time_range)


def is_replaced(snapshot: Snapshot) -> bool:
    """Whether each computation replaces all rows. That of an `SCD_TYPE_2` model copies those with an equal source."""
    return snapshot.is_full and not snapshot.depends_on_self


def next_due(snapshot: Snapshot, computed: Sequence[Interval]) -> int:
    """When the next interval of a model becomes due, if nothing else is computed before."""
    return due_at(snapshot, to_timestamp(snapshot.node.interval_unit.cron_next(computed[-1][1])))


def _first_due(snapshot: Snapshot) -> int:
    """When the first interval of a model without intervals becomes due, if nothing is computed before."""
    node, now = snapshot.node, now_timestamp()
    start = max(to_timestamp(node.start), now) if node.start else now
    return due_at(snapshot, to_timestamp(node.interval_unit.cron_next(node.interval_unit.cron_floor(start))))


def _replaced_at(snapshot: Snapshot, old: Snapshot, missing: Sequence[Interval]) -> int | None:
    """As in `ChangedModel`, of a version that fills the table of the old one."""
    if not is_replaced(snapshot) or not old.intervals:
        return None
    return 0 if missing else max(next_due(snapshot, old.intervals), now_timestamp())


def _computed_until(snapshot: Snapshot, at: int) -> int:
    """As in `ChangedModel`: the last tick of its cron, in whole intervals."""
    if _shows(snapshot) == "sources":
        return at
    return int(to_timestamp(snapshot.node.interval_unit.cron_floor(snapshot.node.cron_floor(at))))


def _version(snapshot: Snapshot, computed: Sequence[Interval]) -> ShownVersion:
    limits = partial(range_limits, snapshot.model)
    return ShownVersion(_shows(snapshot), computed, limits, _has_past(snapshot), _appends(snapshot))


def _shows(snapshot: Snapshot) -> Shows:
    # SQLMesh loads a seed when it creates its table.
    if snapshot.is_view or snapshot.is_seed or snapshot.is_embedded:
        return "sources"
    return "ranges" if is_incremental(snapshot) or snapshot.is_custom else "whole"


def _appends(snapshot: Snapshot) -> bool:
    return isinstance(snapshot.model.kind, IncrementalUnmanagedKind) and not snapshot.model.kind.insert_overwrite


def _has_past(snapshot: Snapshot) -> bool:
    """Whether a table has rows that no computation brings back: it was made of earlier rows, or SQLMesh says so.

    SQLMesh says the same of managed tables, which the engine computes as a whole.
    """
    if not has_table(snapshot):
        return False
    is_made_of_own_rows = snapshot.is_scd_type_2 or (snapshot.depends_on_self and not is_incremental(snapshot))
    return is_made_of_own_rows or (snapshot.disable_restatement and not snapshot.is_managed)
