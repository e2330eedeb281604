"""A schedule's tick, a dry run and a run give the same answer to what is missing, what waits and what is batched."""

import random
import time
from datetime import datetime, timezone
from pathlib import Path

import dagster as dg
import pytest
from clock import MovedClock
from harness import CONFIG, RunRecord, at_night, planned_shop
from random_models import random_models

from dg_sqlmesh_component.capabilities.schedule.messages import PendingFound, PendingRequest
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import ranges
from dg_sqlmesh_component.worker_client.calls import answered

SIGNALS = """
from sqlmesh import signal


@signal()
def on_odd_days(batch):
    return [interval for interval in batch if interval[0].day % 2]


@signal()
def never(batch):
    return False
"""
TABLES = {"ctl.broken": "SELECT '' AS name, DATE '2020-01-01' AS day LIMIT 0", "ctl.action": "SELECT 1 AS n"}


def outcome_in(run: RunRecord, model: str) -> str:
    """The outcome of a model, by the run's table: a model that the run did not compute may show the plan's data."""
    rows = run.logged["sqlmesh/not_executed"].records if "sqlmesh/not_executed" in run.logged else ()
    outcomes = {row.data["model"]: str(row.data["outcome"]) for row in rows}
    return outcomes.get(model, "executed").replace(" ", "_")


@pytest.mark.parametrize("seed", [0, *at_night(*range(1, 14))])
def test_tick_dry_run_and_run_of_a_drawn_project_agree(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    models = random_models(rng)
    signals = rng.choice(((), ("signals (on_odd_days()), ", "signals (never()), ")))
    files = {"signals/__init__.py": SIGNALS} if signals else {}
    for model in models:
        files[f"models/{model.name}.sql"] = model.text(0).replace(
            "cron '", f"{rng.choice(('', '', *signals))}cron '", 1
        )
        if model.kind == "SEED":
            files[f"seeds/{model.name}.csv"] = "n,upstream,change\n1,0,0\n"
    # No hour ends between the tick and the run.
    clock = MovedClock(datetime.now(timezone.utc).replace(minute=30))
    with clock.shown(), planned_shop(tmp_path, files, CONFIG.replace("6 days", "2 weeks"), TABLES) as shop:
        shop.refresh()
        fqn_of = {name.split('"')[-2]: name for name in shop.state()["versions"]}
        fqns = {model.name: fqn_of[model.name] for model in models}
        project = SQLMeshProject((shop.project,))
        nodes, now = frozenset(fqns.values()), int(time.time() * 1000)
        request = PendingRequest(project.open_request, "prod", nodes, now, msg.AwaitedTables())
        tick, next_tick = (answered(project, request, PendingFound) for _ in range(2))
        predicted = shop.launch(ops={"sqlmesh_shop": {"dry_run": True}})
        run = shop.launch()

    assert next_tick == tick, "it reads the snapshots that the first has kept"
    predictions = {row["model"].split(".")[-1]: row for row in predicted.logged["sqlmesh/dry_run_json"]}
    assert run.status is dg.DagsterRunStatus.SUCCESS, run.failures
    assert {name: row["outcome"] for name, row in predictions.items()} == {
        model.name: outcome_in(run, f"t.{model.name}") for model in models
    }
    assert {name for name, row in predictions.items() if row["outcome"] == "executed"} == {
        name for name, fqn in fqns.items() if fqn in tick.pending
    }
    assert {name for name, row in predictions.items() if row["outcome"] == "waiting"} == {
        name for name, fqn in fqns.items() if fqn in tick.waiting
    }
    for name, row in predictions.items():
        if row["outcome"] == "executed":
            computed = run.materializations[f"t/{name}"].metadata["sqlmesh/intervals"].value
            assert row["intervals"] == computed
            assert computed in (ranges(tick.intervals[fqns[name]]), "the whole table")
