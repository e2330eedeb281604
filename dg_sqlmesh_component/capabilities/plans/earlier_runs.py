"""Earlier runs of plans: attempts to apply a plan, and the audits that previews and failed applies have evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import dagster as dg
from pydantic import TypeAdapter

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.dagster_internals.steps import log_step_metadata, step_metadata
from dg_sqlmesh_component.history.active_runs import APPLIES_TAG, CHANGES_TAG, computing_since
from dg_sqlmesh_component.history.stored_record import internal, internal_part
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, NodeOutcome

DIGEST_TAG = "sqlmesh/plan_digest"
"""Tag of a run: the digest of the plan that it shows or applies."""

PLAN_TAG = "sqlmesh/plan_id"
"""Tag of a run: SQLMesh's id of the plan that it applies."""

_MAX_ATTEMPTS = 20
_MAX_APPLIES = 400


Losses = Mapping[str, tuple[msg.ColumnChange, ...]]
"""By name of the model, what SQLMesh has yet to drop."""


def earlier_attempts(
    instance: dg.DagsterInstance, apply_job: str, state: str, digest: str, run_id: str
) -> dict[str, Losses]:
    """The attempts since the plan was applied last, the oldest first, without the own run (`run_id`).

    Those of other states (`state_tag`) do not count: another code location may have a job of this name.
    """
    of_plan = dg.RunsFilter(job_name=apply_job, tags={DIGEST_TAG: digest, APPLIES_TAG: state})
    attempts: dict[str, Losses] = {}
    for record in instance.get_run_records(of_plan, limit=_MAX_ATTEMPTS):
        if record.dagster_run.is_success:
            break
        # A refused run has computed nothing.
        if record.dagster_run.run_id != run_id and computing_since(record) is not None:
            attempts[record.dagster_run.run_id] = dict(_reported_losses(instance, record.dagster_run.run_id))
    return dict(reversed(attempts.items()))


def applied_plans(instance: dg.DagsterInstance, state: str) -> frozenset[str]:
    """SQLMesh's ids of the plans that jobs of this instance have applied to a state (`state_tag`), or tried to."""
    applies = dg.RunsFilter(tags={APPLIES_TAG: state})
    tags = [record.dagster_run.tags for record in instance.get_run_records(applies, limit=_MAX_APPLIES)]
    return frozenset(of_run[PLAN_TAG] for of_run in tags if PLAN_TAG in of_run)


def with_way_back(plan: msg.PlanBuilt, instance: dg.DagsterInstance, state: str) -> msg.PlanBuilt:
    """The plan with all obstacles to take back an unfinished one: only that of a job of this instance can be."""
    if plan.unfinished_plan_id is None or plan.unfinished_plan_id in applied_plans(instance, state):
        return plan
    return replace(
        plan, way_back_obstacles=("no job of this Dagster instance has applied it", *plan.way_back_obstacles)
    )


def _reported_losses(instance: dg.DagsterInstance, run_id: str) -> Iterator[tuple[str, tuple[msg.ColumnChange, ...]]]:
    for _, metadata in step_metadata(instance, run_id):
        report = metadata.get("sqlmesh/plan_json")
        if isinstance(report, dg.JsonMetadataValue) and isinstance(report.value, dict):
            for model in report.value["models"]:
                yield model["name"], tuple(msg.ColumnChange(**column) for column in model["dropped_columns"])


def all_losses(attempts: Iterable[Losses], plan: msg.PlanBuilt) -> dict[str, tuple[msg.ColumnChange, ...]]:
    """By name of the model, what all attempts have dropped, if this one has applied the plan."""
    losses: dict[str, tuple[msg.ColumnChange, ...]] = {}
    own = {model.name: model.table.destructive for model in plan.models}
    for of_attempt in (*attempts, own):
        for name, columns in of_attempt.items():
            losses[name] = tuple(dict.fromkeys([*losses.get(name, ()), *columns]))
    return {name: columns for name, columns in losses.items() if columns}


_KEY = "audits_of_tables"
_MAX_RUNS = 50
"""How many previews and applies are searched."""

_STORED = TypeAdapter(list[AuditOnlyOutcome])


def keep_audits(context: dg.OpExecutionContext, outcomes: Iterable[NodeOutcome]) -> None:
    """Keep the audits of these outcomes, in their order, that are about the tables that an apply would promote."""
    kept = []
    for outcome in outcomes:
        audits = tuple(audit for audit in outcome.audits if audit.audited_data is not None and audit.error is None)
        if audits and outcome.computed_until is not None:
            kept.append(AuditOnlyOutcome(outcome.fqn, audits, (), None, evaluated_at=outcome.computed_until))
    if kept:
        stored = internal(**{_KEY: _STORED.dump_python(kept, mode="json")})
        log_step_metadata(context, "Audits that were evaluated, for an apply of the same tables.", stored)


def kept_audits(
    instance: dg.DagsterInstance, state: str, models: Sequence[msg.PlannedModel]
) -> list[tuple[str, AuditOnlyOutcome]]:
    """The kept audits of the very tables and audits that a plan promotes, oldest first.

    Each is with its run, and about the model's table alone, as it was computed at `evaluated_at`. Those of other states
    (`changes_tag`) do not count.
    """
    wanted = {model.fqn: model.rows.audited for model in models if model.rows.audited is not None}
    runs = instance.get_runs(dg.RunsFilter(tags={CHANGES_TAG: state}), limit=_MAX_RUNS) if wanted else ()
    return [
        (run.run_id, outcome)
        for run in reversed(runs)
        for _, metadata in step_metadata(instance, run.run_id)
        for outcome in _STORED.validate_python(internal_part(metadata, _KEY) or [])
        if outcome.audits[0].audited_data == wanted.get(outcome.fqn)
    ]
