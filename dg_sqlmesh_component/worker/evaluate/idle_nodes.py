"""Why requested nodes have nothing to do: they wait, or they are up to date."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from types import MappingProxyType

from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from sqlmesh.utils.date import is_relative, make_exclusive, now_timestamp, to_datetime, to_timestamp

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import block, listed, unquoted, utc_text
from dg_sqlmesh_component.protocol.graph import parents_first
from dg_sqlmesh_component.worker.intervals.coverage import Coverages
from dg_sqlmesh_component.worker.intervals.tables import (
    altered_at,
    computed_intervals,
    forgotten_intervals,
    has_no_rows,
    shows_others,
    upstream,
    with_shown,
)
from dg_sqlmesh_component.worker.intervals.unaccepted import unaccepted_rows
from dg_sqlmesh_component.worker.observe.audits import audited, has_audits
from dg_sqlmesh_component.worker.observe.run_tracker import RunTracker

_MAX_NAMED = 5
"""How many models a message names."""


def idle_nodes(
    request: msg.EvaluationRequest,
    nodes: Set[str],
    snapshots: Mapping[str, Snapshot],
    tracker: RunTracker,
    coverages: Coverages,
) -> Iterator[msg.NodeIdle | msg.IntervalCoverage | msg.UnacceptedRowsShown]:
    """Explain each node for which SQLMesh has planned no batch. The coverage of an incremental model comes first.

    Before all, the rows that requested views show although they are old or refused.

    Args:
        nodes: The nodes to run. All of them are in the environment.
        snapshots: The environment's, by name.
        tracker: Knows the planned batches, and why others are held back.
    """
    yield from unaccepted_rows_shown(nodes, snapshots, coverages.index, tracker.planned)
    index, graph = coverages.index, upstream(snapshots)
    computed = {fqn for fqn, batches in tracker.planned.items() if batches}
    _warn_of_computed_range(
        request, [snapshots[fqn] for fqn in sorted(nodes - tracker.planned.keys())], coverages, tracker
    )
    # Only the results of audits are compared with it, and it takes a walk through the graph.
    idle_and_audited = {fqn for fqn in nodes - computed if has_audits(snapshots[fqn])}
    altered = _data_altered_at(idle_and_audited, snapshots, graph, coverages, computed)
    for fqn in sorted(nodes - computed):
        batches = tracker.planned.get(fqn)
        snapshot = snapshots[fqn]
        intervals = coverages.node(fqn).filled
        if batches is None:  # nothing is pending; an empty tuple means that no pending interval is ready
            idle = _up_to_date(snapshot, fqn in coverages.pending, request)
        else:
            idle = msg.NodeIdle(fqn, held_back=tracker.held_back(fqn))
        if coverage := coverages.of(fqn):
            yield coverage
        yield replace(
            idle,
            last_interval_end=intervals[-1][1] if intervals else None,
            audited_data=audited(snapshot, index),
            altered_at=altered.get(fqn) or None,
            is_unaccepted=fqn in idle_and_audited
            and any(forgotten_intervals(snapshots[name], index) for name in with_shown(fqn, snapshots, graph)),
        )


def unaccepted_rows_shown(
    nodes: Iterable[str],
    snapshots: Mapping[str, Snapshot],
    index: DeployabilityIndex,
    planned: Mapping[str, Sequence[msg.Interval]] = MappingProxyType({}),
) -> Iterator[msg.UnacceptedRowsShown]:
    """The event if some of these nodes are views of such rows. `planned` is what this run computes before them."""
    marked = [node for node in snapshots.values() if node.pending_restatement_intervals]
    begun = {node.name: of_node for node in marked if (of_node := forgotten_intervals(node, index))}
    if not begun:
        return
    views = [fqn for fqn in nodes if snapshots[fqn].is_model and shows_others(snapshots[fqn])]
    found = unaccepted_rows(views, upstream(snapshots), lambda name: shows_others(snapshots[name]), begun, planned)
    if found:
        yield msg.UnacceptedRowsShown(found)


def _up_to_date(snapshot: Snapshot, is_pending: bool, request: msg.EvaluationRequest) -> msg.NodeIdle:
    if snapshot.is_seed:
        return msg.NodeIdle(snapshot.name, "the seed has not changed since it was loaded")
    bounds = [f"{name} {bound!r}" for name, bound in (("start", request.start), ("end", request.end)) if bound]
    if not is_pending:
        within = f", also those within {' and '.join(bounds)} of the run config" if bounds else ""
        reason = f"all complete intervals are computed{within}"
    elif bounds:
        reason = f"no interval is pending within {' and '.join(bounds)} of the run config"
    else:
        reason = f"its cron {snapshot.node.cron!r} is not due"
    is_over = not is_pending and _has_ended(snapshot, request.execution_time)
    next_due = None if is_over else to_timestamp(snapshot.node.cron_next(to_datetime(request.execution_time)))
    return msg.NodeIdle(snapshot.name, reason, next_due)


def _has_ended(snapshot: Snapshot, now: int) -> bool:
    """Whether no cron tick adds an interval any more. An end such as `5 days ago` moves on."""
    end = snapshot.node.end
    return end is not None and not is_relative(end) and to_timestamp(make_exclusive(end)) <= now


def _warn_of_computed_range(
    request: msg.EvaluationRequest, up_to_date: Iterable[Snapshot], coverages: Coverages, tracker: RunTracker
) -> None:
    """Log that the range of the run config is computed: who asks for it may expect that it is computed again."""
    restatable = [
        node
        for node in up_to_date
        if node.is_model and not node.is_seed and not node.disable_restatement and node.name not in coverages.pending
    ]
    computed = [interval for node in restatable for interval in computed_intervals(node, coverages.index)]
    if not (request.start or request.end) or not computed:
        return
    start = request.start or utc_text(min(computed)[0])
    end = request.end or utc_text(request.execution_time)
    tracker.pipe.log(
        "warning",
        f"Already computed in the range of `start` and `end` of the run config, so not computed again: "
        f"{listed([unquoted(node.name) for node in restatable], _MAX_NAMED)}. To compute it again, write this in place "
        f"of them, with `restate: true` in defs.yaml:{block(f'restate: {{start: {start!r}, end: {end!r}}}')}",
    )


def _data_altered_at(
    nodes: Iterable[str],
    snapshots: Mapping[str, Snapshot],
    graph: Mapping[str, Sequence[str]],
    coverages: Coverages,
    computed: Container[str],
) -> dict[str, int]:
    """When the data of these nodes was last altered. A view or an audit is as new as the newest node that it reads.

    Any process may alter an external table at any time, so its value is now.

    Args:
        computed: Nodes that this run computes. The snapshots were read before and do not know.
    """

    def shown(name: str) -> Sequence[str]:
        return graph[name] if has_no_rows(snapshots[name]) else ()

    now, tables = now_timestamp(), coverages.known.tables
    altered: dict[str, int] = {}
    for name in parents_first(nodes, shown):
        snapshot = snapshots[name]
        is_external = snapshot.is_model and snapshot.model.kind.is_external
        reads_external = has_no_rows(snapshot) and not tables.read_by(snapshot) <= snapshots.keys()
        is_now = name in computed or is_external or reads_external
        own = now if is_now else altered_at(snapshot, coverages.index) or 0
        altered[name] = max([own, *(altered[parent] for parent in shown(name))])
    return altered
