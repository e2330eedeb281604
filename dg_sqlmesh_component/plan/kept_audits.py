"""The audits that previews and failed applies have evaluated. A later apply may promote the very same tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import dagster as dg
from pydantic import TypeAdapter

from dg_sqlmesh_component.dagster_internals import log_step_metadata, step_metadata
from dg_sqlmesh_component.history.active_runs import CHANGES_TAG
from dg_sqlmesh_component.history.stored_record import internal, internal_part
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, NodeOutcome

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
    wanted = {model.fqn: model.audited for model in models if model.audited is not None}
    runs = instance.get_runs(dg.RunsFilter(tags={CHANGES_TAG: state}), limit=_MAX_RUNS) if wanted else ()
    return [
        (run.run_id, outcome)
        for run in reversed(runs)
        for outcome in _kept_in(instance, run.run_id)
        if outcome.audits[0].audited_data == wanted.get(outcome.fqn)
    ]


def _kept_in(instance: dg.DagsterInstance, run_id: str) -> Iterator[AuditOnlyOutcome]:
    for _, metadata in step_metadata(instance, run_id):
        yield from _STORED.validate_python(internal_part(metadata, _KEY) or [])
