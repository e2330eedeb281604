"""Compute a range of models again, with SQLMesh's own restatement.

A restatement is a plan that changes no code: `plan_builder(restate_models=...)` takes the models from the state,
whatever the local files contain. SQLMesh decides which downstream models have to be computed again. In prod, SQLMesh
also removes the intervals of other versions of these models from the state: their data would be older than prod's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from typing import Any

from sqlmesh.core import constants as c
from sqlmesh.core.context import Context
from sqlmesh.core.plan import Plan
from sqlmesh.core.plan.common import identify_restatement_intervals_across_snapshot_versions
from sqlmesh.core.selector import NativeSelector
from sqlmesh.core.snapshot import Snapshot
from sqlmesh.utils.date import now_timestamp
from sqlmesh.utils.errors import PlanError

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import counted, listed
from dg_sqlmesh_component.worker.context import describe_error
from dg_sqlmesh_component.worker.coverage import is_incremental
from dg_sqlmesh_component.worker.evaluate.bounds import resolved_range
from dg_sqlmesh_component.worker.pipe import Pipe


class ExactSelector(NativeSelector):
    """Takes each selection as the fqn of a model, because SQLMesh's language cannot quote every name."""

    def expand_model_selections(
        self, model_selections: Iterable[str], models: dict[str, Any] | None = None
    ) -> set[str]:
        return set(model_selections) - {"*"}


def plan_restatement(request: msg.EvaluationRequest, context: Context, pipe: Pipe) -> Plan:
    """Plan the restatement and report it.

    Args:
        context: It selects with `ExactSelector`.

    Raises:
        ConfigurationError: A requested model cannot be restated, the range is empty, or the restatement is too large.
    """
    restate = request.restate
    assert restate is not None, "the request restates"
    requested = [fqn for fqn in request.models if fqn not in request.external_models]
    try:
        plan = context.plan_builder(
            request.environment,
            restate_models=requested,
            start=restate.start,
            end=restate.end,
            execution_time=request.execution_time,
            skip_tests=True,
            skip_linter=True,
        ).build()
    except PlanError as error:
        raise ConfigurationError(
            f"SQLMesh refuses the restatement: {describe_error(error).rstrip('.')}. Nothing was computed. Correct "
            "`restate` in the run config."
        ) from error
    snapshots = {snapshot.name: snapshot for snapshot in plan.context_diff.snapshots.values()}
    ranges = {
        missing.snapshot_id.name: (
            (missing.intervals[0][0], missing.intervals[-1][1]),
            # SQLMesh counts days for a view too, but computes it once.
            len(missing.intervals) if is_incremental(snapshots[missing.snapshot_id.name]) else 1,
        )
        for missing in plan.missing_intervals
        if missing.intervals
    }
    _refuse_unrestatable(request, requested, ranges.keys(), snapshots)
    planned = estimated(restate, ranges, _environments(plan, context) if request.environment == c.PROD else {})
    pipe.send(replace(planned, added=tuple(sorted(ranges.keys() - set(request.models)))))
    refuse_large(restate, planned, resolved_range(request))
    return plan


def _refuse_unrestatable(
    request: msg.EvaluationRequest, requested: list[str], restated: Set[str], snapshots: Mapping[str, Snapshot]
) -> None:
    reasons = [
        f"{snapshots[fqn].model.name} ({_why_not(snapshots[fqn], request.environment)})"
        for fqn in requested
        if fqn in snapshots and fqn not in restated
    ]
    if reasons:
        raise ConfigurationError(
            f"SQLMesh cannot restate {listed(reasons)}. Nothing was computed. Leave these models out of the run."
        )


def _why_not(snapshot: Snapshot, environment: str) -> str:
    if snapshot.is_seed:
        return "a seed: to load it again, change its file and apply a plan"
    if environment != c.PROD and not snapshot.is_paused:
        return f"environment {environment} shows the table of prod: restate it in prod"
    if snapshot.disable_restatement:
        return f"kind {snapshot.model.kind.name.value}: `disable_restatement` is true"
    unit = snapshot.node.interval_unit.value
    return f"no complete interval of its unit, {unit}, lies in this range: choose a longer one"


def estimated(
    restate: msg.Restatement, ranges: Mapping[str, tuple[msg.Interval, int]], environments: Mapping[str, int]
) -> msg.RestatementPlanned:
    """The restatement with its estimate: recorded costs of each model, in proportion to the length of its range."""
    seconds, rows, sizes = [], [], []
    for fqn, ((start, end), _) in ranges.items():
        if fqn not in restate.costs:
            continue
        cost = _closest(restate.costs[fqn], end - start)
        part = (end - start) / cost.covered_ms if cost.covered_ms else 1.0
        seconds.append(part * cost.duration_ms / 1000)
        rows += [] if cost.rows is None else [part * cost.rows]
        sizes += [] if cost.bytes is None else [part * cost.bytes]
    return msg.RestatementPlanned(
        ranges=dict(ranges),
        added=(),
        environments=dict(environments),
        seconds=sum(seconds) if seconds else None,
        rows=round(sum(rows)) if rows else None,
        bytes=round(sum(sizes)) if sizes else None,
        without_cost=tuple(sorted(ranges.keys() - restate.costs.keys())),
        planned_at=now_timestamp(),
    )


def _closest(costs: tuple[msg.RecordedCost, ...], length: int) -> msg.RecordedCost:
    """The record of the range that is closest in length.

    Each computation has a fixed cost. In a model with a short query, 30 days take little longer than one day.
    """
    return min(costs, key=lambda cost: abs(math.log(length / cost.covered_ms)) if cost.covered_ms else 0)


def _environments(plan: Plan, context: Context) -> dict[str, int]:
    """The other environments that lose intervals, with the number of their models, as SQLMesh finds them."""
    evaluatable = plan.to_evaluatable()
    cleared = identify_restatement_intervals_across_snapshot_versions(
        state_reader=context.state_reader,
        prod_restatements=evaluatable.restatements,
        disable_restatement_models=evaluatable.disabled_restatement_models,
        loaded_snapshots=plan.context_diff.snapshots,
    )
    return dict(Counter(name for request in cleared.values() for name in sorted(request.environment_names)))


def refuse_large(restate: msg.Restatement, planned: msg.RestatementPlanned, asked_for: str) -> None:
    """Refuse a restatement beyond a limit.

    Args:
        asked_for: The range of the run config.

    Raises:
        ConfigurationError: With the size, the limit and what to do.
    """
    intervals = sum(number for _, number in planned.ranges.values())
    remedy = "Choose a shorter range or fewer models, or raise the limit in defs.yaml."
    if restate.max_intervals is not None and intervals > restate.max_intervals:
        raise ConfigurationError(
            f"The restatement {asked_for} would compute {counted(intervals, 'interval')} of "
            f"{counted(len(planned.ranges), 'model')}; `restate.max_intervals` in defs.yaml is "
            f"{restate.max_intervals}. Nothing was computed. {remedy}"
        )
    if restate.max_seconds is not None and (planned.seconds or 0) > restate.max_seconds:
        raise ConfigurationError(
            f"The restatement {asked_for} would take about {planned.seconds:.0f} seconds, as estimated from earlier "
            f"runs; `restate.max_seconds` in defs.yaml is {restate.max_seconds:g}. Nothing was computed. {remedy}"
        )
