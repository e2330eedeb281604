"""The log of a run shows which models run. At its end, a summary shows what was executed, and what was not."""

import re
from collections.abc import Mapping
from typing import Any

import dagster as dg
import pytest
from harness import REPOSITORY, YEARLY_CRON, NewShop, RunRecord, Shop, wait_until

PAUSING_MODEL = """
import time
from pathlib import Path

import pandas as pd
from sqlmesh import model
from sqlmesh.core.model.kind import ModelKindName


@model(
    "t.pause",
    kind=dict(name=ModelKindName.INCREMENTAL_BY_TIME_RANGE, time_column="day", batch_size=1),
    columns={"day": "date"},
)
def execute(context, start, end, execution_time, **kwargs):
    while Path("pause").exists() and Path("first_batch").exists():
        time.sleep(0.02)
    if Path("pause").exists():
        Path("first_batch").touch()
    return pd.DataFrame({"day": [start.date()]})
"""
FILES = {
    "models/pause.py": PAUSING_MODEL,
    "models/after.sql": "MODEL (name t.after, kind FULL); SELECT count(*) AS days FROM t.pause",
    "models/idle.sql": f"MODEL (name t.idle, kind FULL, cron '{YEARLY_CRON}', start '2020-01-01'); SELECT 1 AS id",
    "models/late.sql": "MODEL (name t.late, kind FULL, signals (never(on_days := 1))); SELECT 1 AS id",
    "signals/__init__.py": "from pathlib import Path\nfrom sqlmesh import signal\n\n\n@signal()\n"
    "def never(batch, on_days: int):\n    return not Path('is_late').exists()\n",
}


@pytest.fixture
def shop(new_shop: NewShop) -> Shop:
    shop = new_shop(FILES, execution={"environments": ["dev"]})
    (shop.project / "is_late").touch()
    return shop


def summary_of(record: RunRecord) -> tuple[str, Mapping[str, Any]]:
    """Return the line and the tables at the end of a run's only step."""
    events = record.events(dg.DagsterEventType.ENGINE_EVENT)
    [event] = [event for event in events if event.message.startswith("SQLMesh in environment")]
    tables = event.event_specific_data.metadata
    return event.message, {name: [row.data for row in table.records] for name, table in tables.items()}


def test_log_shows_a_running_model_and_the_end_shows_every_model(shop: Shop) -> None:
    pause = shop.project / "pause"
    pause.touch()
    process = shop.start()

    def is_reported() -> bool:
        return any("Running: t.pause for " in shop.run_record(run.run_id).log for run in shop.instance.get_runs())

    wait_until(is_reported, process)
    pause.unlink()
    process.wait(300)
    [run] = shop.instance.get_runs()
    record = shop.run_record(run.run_id).succeeded()
    assert " (1 of 3 batches finished). Finished: 0 of 2." in record.log
    line, tables = summary_of(record)
    assert line == "SQLMesh in environment prod: 2 executed, 1 up to date, 1 waiting."
    slowest = tables["sqlmesh/slowest"]
    assert [(row["model"], row["batches"]) for row in slowest] == [("t.pause", 3), ("t.after", 1)]
    assert slowest[0]["seconds"] >= 1.0
    assert [(row["model"], row["outcome"]) for row in tables["sqlmesh/not_executed"]] == [
        ("t.late", "waiting"),
        ("t.idle", "up to date"),
    ]
    assert tables["sqlmesh/not_executed"][0]["reason"].replace("\n", " ") == (
        "t.late is waiting: its signal never has no interval ready."
    )


def test_quick_run_of_another_environment_has_no_progress_and_a_summary(shop: Shop) -> None:
    shop.plan("dev", "--include-unmodified")
    record = shop.launch(ops={"sqlmesh_shop": {"environment": "dev"}}).succeeded()
    line, tables = summary_of(record)
    assert line == "SQLMesh in environment dev: 2 executed, 1 up to date, 1 waiting."
    assert {row["model"] for row in tables["sqlmesh/slowest"]} == {"t.pause", "t.after"}
    assert record.log.count("Running: ") <= 1


DOCUMENTED_RUN = {
    "models/orders.sql": "MODEL (name t.orders, kind INCREMENTAL_BY_TIME_RANGE (time_column day), "
    "audits (not_null(columns := (day)))); SELECT @start_date AS day",
    "models/revenue.sql": "MODEL (name t.revenue, kind FULL); SELECT count(*) AS n FROM t.orders",
}


def messages_in(text: str) -> dict[str, list[str]]:
    """The direction and the name of each message, by worker. Those that depend on the time are left out."""
    messages: dict[str, list[str]] = {}
    for worker, message in re.findall(r"^\[wire (\d+)\] +\d+ ms  (.*?) +\d+ bytes$", text, re.MULTILINE):
        if not message.endswith("BatchesRunning"):
            messages.setdefault(worker, []).append(re.sub(" +", " ", message))
    return messages


def test_messages_of_a_load_and_of_a_run_are_those_of_the_docs_and_have_no_secret(
    new_shop: NewShop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DG_SQLMESH_DEBUG", "1")
    monkeypatch.setenv("WAREHOUSE_TOKEN", "correct-horse-battery")
    assert new_shop(DOCUMENTED_RUN).launch().status == dg.DagsterRunStatus.SUCCESS
    stderr = capsys.readouterr().err
    load, run = messages_in(stderr).values()
    opened = ["from worker SecretsKnown"] * 2
    ended = ["to worker release", "to worker cancel"]
    assert load == ["to worker LoadRequest", *opened, "from worker ProjectLoaded", *ended]
    assert [run] == list(messages_in((REPOSITORY / "contributing" / "wire.md").read_text()).values())
    assert "correct-horse-battery" not in stderr
