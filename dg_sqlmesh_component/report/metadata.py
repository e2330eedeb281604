"""Metadata of materializations, observations and check results. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.translator import sql_metadata
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import fenced, listed
from dg_sqlmesh_component.report.coverage import coverage_metadata
from dg_sqlmesh_component.report.outcomes import AuditResult, NodeOutcome
from dg_sqlmesh_component.report.wording import Wording, ranges


def outcome_metadata(wording: Wording, outcome: NodeOutcome) -> dict[str, Any]:
    """The promoted version, the computed data, the coverage, and why a model was not executed."""
    return {
        **_promoted(wording, outcome),
        **_computed(outcome),
        **_queries(wording.query_history_url, outcome.correlation_id),
        **coverage_metadata(outcome.coverage),
        **_causes(wording, outcome),
    }


def status_metadata(wording: Wording, outcome: NodeOutcome) -> dict[str, Any]:
    """Why a model was not executed. The coverage too if it failed."""
    coverage = outcome.coverage if outcome.outcome.is_failure else None
    return {**_status(outcome), **coverage_metadata(coverage), **_causes(wording, outcome)}


def intervals_metadata(intervals: Sequence[msg.Interval]) -> dict[str, Any]:
    return {"sqlmesh/intervals": listed([ranges([interval]) for interval in intervals])}


def audit_metadata(audit: AuditResult) -> dict[str, Any]:
    """The number of failing rows, a sample of them and the query. The check's description has the rest."""
    query = {"sqlmesh/query": sql_metadata(audit.query)} if audit.query else {}
    sample = {"sqlmesh/failing_rows": _sample(audit.sample)} if audit.sample else {}
    return {"sqlmesh/failing_row_count": audit.failing_rows, **sample, **query}


def _sample(sample: msg.Sample) -> dg.TableMetadataValue:
    texts = [["NULL" if value is None else value for value in row] for row in sample.rows]
    return dg.MetadataValue.table(
        [dg.TableRecord(dict(zip(sample.columns, row, strict=True))) for row in texts],
        dg.TableSchema([dg.TableColumn(name) for name in sample.columns]),
    )


def unapplied_change(assets: ProjectAssets, node: str, promoted: msg.PromotedVersion) -> str | None:
    """How the manifest's version of a model differs from the promoted one: `data`, `metadata` or None.

    Only the model's own definition counts. The upstream model reports a change upstream.
    """
    model = assets.models.get(node)
    if model is None:
        return None
    if model.data_hash != promoted.data_hash:
        return "data"
    return None if model.metadata_hash == promoted.metadata_hash else "metadata"


def timestamp(milliseconds: int) -> dg.TimestampMetadataValue:
    return dg.MetadataValue.timestamp(milliseconds / 1000)


def _status(outcome: NodeOutcome) -> dict[str, Any]:
    """The outcome, unless it is the usual one."""
    is_usual = outcome.outcome.rule.materializes
    return {} if is_usual else {"sqlmesh/status": outcome.outcome.value}


def _promoted(wording: Wording, outcome: NodeOutcome) -> dict[str, Any]:
    metadata = _status(outcome)
    if not wording.is_declared:
        metadata["sqlmesh/environment"] = wording.environment
    if outcome.promoted is not None:
        metadata["sqlmesh/snapshot_version"] = outcome.promoted.version
        if outcome.promoted.table_name and not wording.is_declared:
            metadata["dagster/table_name"] = outcome.promoted.table_name
        change = unapplied_change(wording.assets, outcome.fqn, outcome.promoted)
        if change:
            metadata["sqlmesh/unapplied_change"] = change
    return metadata


def _computed(outcome: NodeOutcome) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    if outcome.intervals:
        metadata = {
            **intervals_metadata(outcome.intervals),
            "sqlmesh/computed_hours": sum(end - start for start, end in outcome.intervals) / 3_600_000,
            "sqlmesh/batches": outcome.finished_batches,
            "sqlmesh/seconds": outcome.duration_ms / 1000,  # a number, so that Dagster plots it
        }
    optional = {
        "sqlmesh/rows": outcome.rows,
        "dagster/row_count": outcome.row_count,
        "sqlmesh/bytes": outcome.bytes,
        "sqlmesh/attempts": outcome.attempts if outcome.attempts > 1 else None,
        "sqlmesh/reason": outcome.idle.reason,
        "sqlmesh/next_due": timestamp(outcome.idle.next_due) if outcome.idle.next_due else None,
    }
    if outcome.idle.last_interval_end and outcome.coverage is None:
        optional["sqlmesh/computed_up_to"] = timestamp(outcome.idle.last_interval_end)
    return {**metadata, **{name: value for name, value in optional.items() if value is not None}}


def _queries(url: str | None, correlation_id: str | None) -> dict[str, Any]:
    """What the engine's queries of the run contain, and the page that lists them."""
    if correlation_id is None:
        return {}
    run_id = correlation_id.rpartition(" ")[2]
    page = {"sqlmesh/query_history": dg.MetadataValue.url(url.replace("{run_id}", run_id))} if url else {}
    return {"sqlmesh/correlation_id": correlation_id, **page}


def _causes(wording: Wording, outcome: NodeOutcome) -> dict[str, Any]:
    """Why a model was not executed. A run's page in Dagster shows metadata, but no descriptions."""
    waits = outcome.outcome.rule.waits or outcome.idle.unselected
    is_waiting = waits and not outcome.outcome.is_failure
    error = "\n".join(outcome.errors)
    metadata = {
        "sqlmesh/waiting_for": wording.awaited(outcome) if is_waiting else None,
        "sqlmesh/blocked_by": wording.names(outcome.failed_upstream),
        "sqlmesh/failed_audits": ", ".join(outcome.failed_audits),
        "sqlmesh/error": error and _readable(error),
    }
    return {name: value for name, value in metadata.items() if value}


def _readable(error: str) -> dg.MetadataValue:
    """An error of one line as text, which pages show. Others as code, on a click: line breaks and carets stay."""
    return dg.MetadataValue.md(fenced(error)) if "\n" in error else dg.MetadataValue.text(error)
