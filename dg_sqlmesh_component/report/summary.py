"""How a step ended: a line with the number of models of each outcome, and tables of its models. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import dagster as dg

from dg_sqlmesh_component.protocol.formatting import in_column
from dg_sqlmesh_component.report.outcomes import NodeOutcome, Outcome, Verdict
from dg_sqlmesh_component.report.wording import Wording

_BAR = 20
"""The characters of the longest bar."""

MAX_ROWS = 50
"""How many models a table has. The other models are counted."""

_WORST_FIRST = (Verdict.FAILED, Verdict.WARNING, Verdict.PASSED)
_CAUSES_FIRST = sorted(Outcome, key=lambda kind: (not kind.is_failure, not kind.rule.is_cause))


def summary_counts(outcomes: Collection[NodeOutcome]) -> str:
    """How many models have each outcome, failures first."""
    numbers = Counter(outcome.outcome for outcome in outcomes)
    return ", ".join(f"{numbers[kind]} {kind.words}" for kind in _CAUSES_FIRST if numbers[kind])


def summary_line(wording: Wording, outcomes: Collection[NodeOutcome]) -> str:
    """The same, with the environment."""
    return f"SQLMesh in environment {wording.environment}: {summary_counts(outcomes)}."


def summary_metadata(wording: Wording, outcomes: Collection[NodeOutcome]) -> dict[str, dg.MetadataValue]:
    """The executed models, slowest first, and the other models with the reason, failures first."""
    executed = [outcome for outcome in outcomes if outcome.outcome.rule.materializes]
    others = [outcome for outcome in outcomes if not outcome.outcome.rule.materializes]
    slowest_ms = max((outcome.duration_ms for outcome in executed), default=0) or 1
    name = wording.assets.name
    slowest = [
        {
            "model": name(outcome.fqn),
            "seconds": round(outcome.duration_ms / 1000, 1),
            "bar": "█" * max(round(_BAR * outcome.duration_ms / slowest_ms), 1),
            "batches": outcome.finished_batches,
        }
        for outcome in sorted(executed, key=lambda outcome: -outcome.duration_ms)
    ]
    others.sort(key=lambda outcome: (_WORST_FIRST.index(outcome.outcome.rule.verdict), name(outcome.fqn)))
    not_executed = [
        {"model": name(outcome.fqn), "outcome": outcome.outcome.words, "reason": in_column(wording.summary(outcome))}
        for outcome in others
    ]
    return {**_table("sqlmesh/slowest", slowest), **_table("sqlmesh/not_executed", not_executed)}


def _table(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, dg.MetadataValue]:
    """The first rows as a table, and the number of those that it leaves out."""
    metadata: dict[str, dg.MetadataValue] = {}
    if rows:
        metadata[name] = dg.MetadataValue.table(list(map(dg.TableRecord, rows[:MAX_ROWS])))
    if len(rows) > MAX_ROWS:
        metadata[f"{name}_cut"] = dg.MetadataValue.int(len(rows) - MAX_ROWS)
    return metadata
