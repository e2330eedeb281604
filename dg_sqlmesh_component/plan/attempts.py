"""The earlier attempts to apply a plan, from what Dagster has recorded of their runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import dagster as dg

from dg_sqlmesh_component.dagster_internals import step_metadata
from dg_sqlmesh_component.history.active_runs import APPLIES_TAG, computing_since
from dg_sqlmesh_component.protocol import messages as msg

DIGEST_TAG = "sqlmesh/plan_digest"
"""Tag of a run: the digest of the plan that it shows or applies."""

_MAX_RUNS = 20


@dataclass(frozen=True)
class Attempt:
    """A run that has begun to apply the plan and has not finished it."""

    run_id: str
    # By name of the model, what SQLMesh had yet to drop when this attempt began.
    losses: Mapping[str, tuple[msg.ColumnChange, ...]]


def earlier_attempts(
    instance: dg.DagsterInstance, apply_job: str, state: str, digest: str, run_id: str
) -> list[Attempt]:
    """The attempts since the plan was applied last, the oldest first, without the own run (`run_id`).

    Those of other states (`state_tag`) do not count: another code location may have a job of this name.
    """
    of_plan = dg.RunsFilter(job_name=apply_job, tags={DIGEST_TAG: digest, APPLIES_TAG: state})
    attempts = []
    for record in instance.get_run_records(of_plan, limit=_MAX_RUNS):
        if record.dagster_run.is_success:
            break
        # A refused run has computed nothing.
        if record.dagster_run.run_id != run_id and computing_since(record) is not None:
            losses = dict(_reported_losses(instance, record.dagster_run.run_id))
            attempts.append(Attempt(record.dagster_run.run_id, losses))
    return attempts[::-1]


def _reported_losses(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[str, tuple[msg.ColumnChange, ...]]]:
    for _, metadata in step_metadata(instance, run_id):
        report = metadata.get("sqlmesh/plan_json")
        if isinstance(report, dg.JsonMetadataValue) and isinstance(report.value, dict):
            for model in report.value["models"]:
                yield model["name"], tuple(msg.ColumnChange(**column) for column in model["dropped_columns"])


def all_losses(attempts: Iterable[Attempt], plan: msg.PlanBuilt) -> dict[str, tuple[msg.ColumnChange, ...]]:
    """By name of the model, what all attempts have dropped, if this one has applied the plan."""
    losses: dict[str, tuple[msg.ColumnChange, ...]] = {}
    own = {model.name: model.destructive for model in plan.models}
    for of_attempt in (*(attempt.losses for attempt in attempts), own):
        for name, columns in of_attempt.items():
            losses[name] = tuple(dict.fromkeys([*losses.get(name, ()), *columns]))
    return {name: columns for name, columns in losses.items() if columns}
