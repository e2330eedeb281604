"""Metadata of materializations, observations and check results. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.translator import sql_metadata
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import fenced
from dg_sqlmesh_component.protocol.manifest import MAX_COLUMNS
from dg_sqlmesh_component.report.intervals_check import coverage_metadata
from dg_sqlmesh_component.report.outcomes import AuditResult, NodeOutcome
from dg_sqlmesh_component.report.wording import Wording, computed_text

_SCHEMA, _LINEAGE = "dagster/column_schema", "dagster/column_lineage"
"""Dagster's names. Its checks of schemas, and exporters of events, look for them in materializations."""


def outcome_metadata(wording: Wording, outcome: NodeOutcome) -> dict[str, Any]:
    """Pages keep this order: what was computed or why nothing was, the coverage, then what few people look for."""
    assets, idle, promoted = wording.assets, outcome.idle, outcome.promoted
    materializes = outcome.outcome.rule.materializes
    model = assets.models.get(outcome.fqn) if outcome.intervals else None
    computed = sum(end - start for start, end in outcome.intervals)
    up_to = idle.last_interval_end if outcome.coverage is None else None
    own_environment = None if wording.is_declared else wording.environment
    metadata = {
        # Why a model, or a part of it, was not executed. A waiting model has it in its description and in the log.
        **_error(outcome),
        "sqlmesh/waiting_for": wording.awaited(outcome) if materializes and idle.held_back else None,
        "sqlmesh/blocked_by": wording.names(outcome.failed_upstream) or None,
        "sqlmesh/failed_audits": ", ".join(outcome.failed_audits) or None,
        "sqlmesh/status": None if materializes else outcome.outcome.words,
        # Numbers are numbers, so that Dagster plots them.
        "sqlmesh/reason": idle.reason,
        "sqlmesh/next_due": timestamp(idle.next_due) if idle.next_due else None,
        "sqlmesh/computed_up_to": timestamp(up_to) if up_to else None,
        "sqlmesh/rows": outcome.rows,
        "dagster/row_count": outcome.row_count,
        "sqlmesh/seconds": outcome.duration_ms / 1000 if model else None,
        "sqlmesh/computed_intervals": model.interval_count(computed) if model else None,
        **intervals_metadata(assets, outcome.fqn, outcome.intervals, outcome.earlier_intervals),
        **coverage_metadata(outcome.coverage),
        "sqlmesh/bytes": outcome.bytes,
        "sqlmesh/batches": outcome.finished_batches if outcome.finished_batches > 1 else None,
        "sqlmesh/attempts": outcome.attempts if outcome.attempts > 1 else None,
        "sqlmesh/environment": own_environment,
        "dagster/table_name": promoted.table_name if promoted and own_environment else None,
        "sqlmesh/unapplied_change": unapplied_change(assets, outcome.fqn, promoted) if promoted else None,
        **_queries(wording.query_history_url, outcome.correlation_id),
    }
    return {name: value for name, value in metadata.items() if value is not None}


def column_metadata(
    assets: ProjectAssets, fqn: str, promoted: msg.PromotedVersion | None, computed: Mapping[str, str]
) -> dict[str, Any]:
    """The columns of the version that ran, and their lineage if the asset has it.

    Pages show them in place of those of the asset. So they have its descriptions. If the computed columns are not
    known, those of the asset are shown, unless another version ran.
    """
    of_asset = assets.specs[fqn].metadata
    is_of_asset = promoted is not None and unapplied_change(assets, fqn, promoted) != "data"
    shown = {name: of_asset[name] for name in (_SCHEMA, _LINEAGE) if name in of_asset and is_of_asset}
    if computed:
        schema, shown_columns = of_asset.get(_SCHEMA), [*computed.items()][:MAX_COLUMNS]
        known = {column.name: column for column in schema.columns} if isinstance(schema, dg.TableSchema) else {}
        described = [(known.get(name, dg.TableColumn(name)), text) for name, text in shown_columns]
        shown[_SCHEMA] = dg.TableSchema(
            [dg.TableColumn(of.name, text, of.description, of.constraints, of.tags) for of, text in described]
        )
    return shown


def status_metadata(outcome: NodeOutcome) -> dict[str, Any]:
    """What the description of a status check leaves out: the whole error, and the coverage of a model that failed."""
    return {**_error(outcome), **coverage_metadata(outcome.coverage if outcome.outcome.is_failure else None)}


def intervals_metadata(
    assets: ProjectAssets, fqn: str, intervals: Sequence[msg.Interval], earlier: Sequence[msg.Interval] = ()
) -> dict[str, Any]:
    """The computed intervals as text, and the `earlier` ones of failed or cancelled runs. Empty without any."""
    computed = {"sqlmesh/intervals": intervals, "sqlmesh/earlier_intervals": earlier}
    return {key: computed_text(assets, fqn, of) for key, of in computed.items() if of}


def audit_metadata(audit: AuditResult, *, of_all_intervals: bool = False) -> dict[str, Any]:
    """The number of failing rows, a sample of them and the query. The check's description has the rest."""
    query = {"sqlmesh/query": sql_metadata(audit.query)} if audit.query else {}
    sample = {"sqlmesh/failing_rows": _sample(audit.sample)} if audit.sample else {}
    # Dagster plots both numbers. One is about the intervals of a run.
    of_all = "sqlmesh/failing_row_count_of_all_intervals"
    count = of_all if of_all_intervals else "sqlmesh/failing_row_count"
    return {count: audit.failing_rows, **sample, **query}


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


def _queries(url: str | None, correlation_id: str | None) -> dict[str, Any]:
    """The page that lists the engine's queries of the run. Each of them contains the run's id."""
    if correlation_id is None or url is None:
        return {}
    return {"sqlmesh/query_history": dg.MetadataValue.url(url.replace("{run_id}", correlation_id.rpartition(" ")[2]))}


def _error(outcome: NodeOutcome) -> dict[str, Any]:
    """An error of one line as text, which pages show. Others as code, on a click: line breaks and carets stay."""
    error = "\n".join(outcome.errors)
    readable = dg.MetadataValue.md(fenced(error)) if "\n" in error else dg.MetadataValue.text(error)
    return {"sqlmesh/error": readable} if error else {}
