"""The end of a step: counts of outcomes, and tables with a limit."""

from dataclasses import replace
from typing import Any

import dagster as dg
from unit.builders import fqn, manifest, model, project_assets
from unit.calls import calls_of, growth
from unit.outcome_table import OUTCOME_TABLE

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.report.outcomes import NodeOutcome, Outcome
from dg_sqlmesh_component.report.summary import MAX_ROWS, summary_line, summary_metadata
from dg_sqlmesh_component.report.wording import Wording, progress

NAMES = [f"core.m{number}" for number in range(100)]
WORDING = Wording(project_assets(manifest(*map(model, NAMES))), "prod")
EXAMPLES = {row.outcome.outcome: row.outcome for row in OUTCOME_TABLE}


def outcome(number: int, kind: Outcome, **fields: Any) -> NodeOutcome:
    return replace(EXAMPLES[kind], fqn=fqn(NAMES[number]), **fields)


def rows(metadata: dict[str, dg.MetadataValue], name: str) -> list[Any]:
    table = metadata[name]
    assert isinstance(table, dg.TableMetadataValue)
    return [dict(record.data) for record in table.records]


def test_line_counts_failures_first() -> None:
    kinds = [Outcome.UP_TO_DATE, Outcome.EXECUTED, Outcome.BLOCKED, Outcome.FAILED, Outcome.EXECUTED, Outcome.WAITING]
    line = summary_line(WORDING, [outcome(number, kind) for number, kind in enumerate(kinds)])
    assert line == "SQLMesh in environment prod: 1 failed, 1 blocked, 2 executed, 1 up to date, 1 waiting."


def test_executed_models_are_listed_slowest_first() -> None:
    durations = [1_000, 61_234, 49]
    outcomes = [
        outcome(number, Outcome.EXECUTED, duration_ms=duration, finished_batches=2)
        for number, duration in enumerate(durations)
    ]
    metadata = summary_metadata(WORDING, outcomes)
    assert metadata.keys() == {"sqlmesh/slowest"}
    assert rows(metadata, "sqlmesh/slowest") == [
        {"model": "core.m1", "seconds": 61.2, "bar": "█" * 20, "batches": 2},
        {"model": "core.m0", "seconds": 1.0, "bar": "█", "batches": 2},
        {"model": "core.m2", "seconds": 0.0, "bar": "█", "batches": 2},
    ]


def test_other_models_have_a_reason_and_failures_come_first() -> None:
    kinds = [Outcome.UP_TO_DATE, Outcome.WAITING, Outcome.BLOCKED]
    metadata = summary_metadata(WORDING, [outcome(number, kind) for number, kind in enumerate(kinds)])
    assert metadata.keys() == {"sqlmesh/not_executed"}
    table = rows(metadata, "sqlmesh/not_executed")
    assert [row["outcome"] for row in table] == ["blocked", "waiting", "up to date"]
    assert (
        table[0]["reason"] == "core.m2 was not executed,\nbecause a model upstream of it\nfailed: db.staging.orders."
    ), "room for names"


def test_tables_have_a_limit() -> None:
    outcomes = [outcome(number, Outcome.EXECUTED) for number in range(MAX_ROWS + 3)]
    metadata = summary_metadata(WORDING, outcomes)
    assert len(rows(metadata, "sqlmesh/slowest")) == MAX_ROWS
    assert metadata["sqlmesh/slowest_cut"] == dg.MetadataValue.int(3)


def test_summary_of_twice_as_many_models_costs_twice_as_much() -> None:
    def cost(size: int) -> int:
        kinds = [Outcome.EXECUTED, Outcome.UP_TO_DATE] * (size // 2)
        outcomes = [outcome(number, kind) for number, kind in enumerate(kinds)]
        return calls_of(lambda: summary_metadata(WORDING, outcomes))

    assert growth(cost, 50) < 2.2


def test_progress_lists_the_longest_running_model_first() -> None:
    running = {fqn("core.m1"): (0, 1, 2.4), fqn("core.m2"): (3, 12, 245.0)}
    assert progress(WORDING.assets, msg.BatchesRunning(running, finished=12, planned=40)) == (
        "Running: core.m2 for 0:04:05 (3 of 12 batches finished), core.m1 for 0:00:02. Finished: 12 of 40."
    )
