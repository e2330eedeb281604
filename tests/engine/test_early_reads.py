"""A model that was computed before a table that it reads: its check warns until it is computed again."""

from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pytest
from clock import MovedClock
from engine.hourly_rows import EARLY, HOURS, reader, rows, source
from engine.plan_jobs import APPLY, PLAN, change, launch, report_of
from engine.recorded_models import day
from harness import NewShop, RunRecord

CHECK = "t/r:sqlmesh_intervals_complete"


def is_warning(run: RunRecord, model: str = "r") -> bool:
    evaluation = run.succeeded().checks[f"t/{model}:sqlmesh_intervals_complete"]
    assert evaluation.passed or evaluation.severity is dg.AssetCheckSeverity.WARN
    return not evaluation.passed


@pytest.mark.night(
    "unit/report/test_intervals_check.py::test_outdated_ranges_are_a_warning_with_the_restatement_to_launch",
    "test_the_check_at_the_end_of_a_chain_names_the_model_to_restate_first",
)
@pytest.mark.advice("To have these rows, set an earlier `start` and apply a plan first")
def test_a_restatement_is_not_advised_for_days_before_the_start(new_shop: NewShop) -> None:
    """A relative `start` moves past a day; here, a plan moves it."""
    earlier, later = reader("r", "x", head=f"start '{day(5)}'"), reader("r", "x", head=f"start '{day(3)}'")
    files = {"models/x.sql": source("x", f"start '{day(6)}'"), "models/r.sql": earlier}
    shop = new_shop(files, tables=HOURS, planned_at=f"{day(4)} 01:00", deploy=True, intervals_check=True, restate=True)
    shop.sqlmesh("run", "--no-auto-upstream", "--select-model", "t.r")
    assert f"Outdated: {day(4)} to {day(1)} (4 days)." in shop.launch().description_of(CHECK)
    change(shop, r=later)
    plan = report_of(launch(shop, PLAN))
    launch(shop, APPLY, digest=plan["digest"]).succeeded()

    text = (record := shop.launch()).description_of(CHECK)

    assert f"restate: {{start: '{day(3)}'" in text
    assert f" Before the `start` of t.r, so computed by no run: {day(4)}." in text
    assert is_warning(shop.launch(assets=["t/r"], ops=restatement(record, "r")))
    text = shop.launch().description_of(CHECK)
    assert f"Outdated: {day(4)}." in text
    assert "launch a run" not in text
    change(shop, r=reader("r", "x", head=f"start '{day(6)}'"))
    plan = report_of(launch(shop, PLAN))
    launch(shop, APPLY, digest=plan["digest"]).succeeded()
    assert not is_warning(shop.launch(assets=["t/r"], ops=restatement(shop.launch(), "r")))


def test_the_check_at_the_end_of_a_chain_names_the_model_to_restate_first(new_shop: NewShop) -> None:
    models = {
        "x": source("x", EARLY),
        "first": reader("first", "x"),
        "shown": "MODEL (name t.shown, kind VIEW); SELECT ts FROM t.first",
        "r": reader("r", "shown"),
    }
    files = {f"models/{name}.sql": text for name, text in models.items()}
    shop = new_shop(files, tables=HOURS, intervals_check=True, restate=True)
    for name in ("first", "r"):
        shop.sqlmesh("run", "--no-auto-upstream", "--select-model", f"t.{name}")
    run = shop.launch()
    assert is_warning(run, "first")
    assert is_warning(run)
    assert "launch a run of t.first with `restate: " in run.description_of(CHECK)
    assert "It also computes t.r." in run.description_of(CHECK)

    restated = shop.launch(assets=["t/first"], ops=restatement(run, "r"))

    assert restated.status_of("t/r") == "executed"
    assert rows(shop, "x") == rows(shop, "r") == rows(shop, "first")
    again = shop.launch()
    assert not is_warning(again, "first")
    assert not is_warning(again)


@pytest.mark.night(
    "model/test_every_shell.py::test_no_history_of_four_actions_hides_an_hour_that_was_computed_before_its_source",
    "test_the_check_at_the_end_of_a_chain_names_the_model_to_restate_first",
)
@pytest.mark.advice("To read them, launch a run of {} with `{}` in the run config")
def test_a_model_that_a_shell_has_computed_before_its_source_warns_until_it_is_restated(new_shop: NewShop) -> None:
    """The janitor merges the times by which these intervals are found."""
    models = {
        "x": source("x", EARLY),
        "shown": "MODEL (name t.shown, kind VIEW); SELECT ts FROM t.x",
        "r": reader("r", "shown"),
        "new": reader("new", "shown"),
        "hourly": reader("hourly", "x", head=f"{EARLY}, cron '@hourly'"),
    }
    files = {f"models/{name}.sql": text for name, text in models.items()}
    shop = new_shop(files, tables=HOURS, intervals_check=True, restate=True)
    alone = ("--no-auto-upstream", "--select-model")
    shop.sqlmesh("run", *alone, "t.r")
    shop.sqlmesh("run", *alone, "t.new", "--end", day(2))  # the run computes another day
    first = shop.launch()
    assert is_warning(first), "before the source is computed in this run"
    assert is_warning(first, "new")
    assert not is_warning(first, "hourly"), "as in SQLMesh, it does not wait for the day of its source"
    lacks = {name: rows(shop, "x") - rows(shop, name) for name in ("r", "new")}
    assert lacks == {"r": 72, "new": 48}
    assert is_warning(shop.launch())
    shop.sqlmesh("janitor")
    again = shop.launch()
    assert is_warning(again)
    assert is_warning(again, "new")
    assert not is_warning(again, "hourly")
    text = again.description_of(CHECK)
    assert "t.r was computed for these ranges before a model that it reads, so it lacks rows. " in text

    restated = shop.launch(assets=["t/r"], ops=restatement(again, "r"))

    assert not is_warning(restated)
    assert rows(shop, "x") == rows(shop, "r")
    last = shop.launch()
    assert not is_warning(last)
    assert is_warning(last, "new")
    shop.sqlmesh("janitor")
    assert not is_warning(shop.launch())


def restatement(run: RunRecord, model: str) -> dict[str, Any]:
    """The run config that the check of a model advises."""
    text = run.description_of(f"t/{model}:sqlmesh_intervals_complete")
    start, end = text.partition("`restate: {start: '")[2].partition("'}`")[0].split("', end: '")
    return {"sqlmesh_shop": {"restate": {"start": start, "end": end}}}


def test_a_model_warns_that_was_computed_before_a_table_that_is_computed_as_a_whole_has_read_a_source(
    new_shop: NewShop,
) -> None:
    """The tick of the table brings the rows that its source has gained by a plan, and no run computes the model again.

    `c` reads `b` when `b` has not ticked since the plan. `z` had read `y` before.
    """
    earlier, later = f"start '{day(8)}'", f"start '{day(4)}'"
    models = {
        "a": source("a", later),
        "b": "MODEL (name t.b, kind FULL); SELECT ts FROM t.a",
        "c": "MODEL (name t.c, kind FULL); SELECT ts FROM t.b",
        "x": source("x", later),
        "y": "MODEL (name t.y, kind FULL); SELECT ts FROM t.x",
        "z": reader("z", "y", head=earlier),
    }
    files = {f"models/{name}.sql": text for name, text in models.items()}
    clock = MovedClock(datetime.now(timezone.utc).replace(hour=12))
    with clock.shown():
        shop = new_shop(files, tables=HOURS, planned_at="now", deploy=True, restate=True, intervals_check=True)
        for changed in ({"a": source("a", earlier)}, {"c": reader("c", "b", head=earlier)}):
            change(shop, **changed)
            report = report_of(launch(shop, PLAN).succeeded())
            losses = ["t.c"] if "c" in changed else []
            launch(shop, APPLY, digest=report["digest"], allow_lost_intervals=losses).succeeded()
        change(shop, x=source("x", earlier))
        shop.plan(at="now")
        shop.refresh()
        assert not is_warning(shop.launch(), "c"), "`b` has not ticked"
    clock.move_to(clock.now + timedelta(days=1))
    with clock.shown():
        for run in (shop.launch(), shop.launch()):
            assert is_warning(run, "c")
            assert is_warning(run, "z")
        assert rows(shop, "b") - rows(shop, "c") >= 96 <= rows(shop, "y") - rows(shop, "z")
        for name in ("c", "z"):
            assert not is_warning(shop.launch(assets=[f"t/{name}"], ops=restatement(run, name)), name)
        assert rows(shop, "c") == rows(shop, "b") == rows(shop, "z") == rows(shop, "y")
        last = shop.launch()
        assert not is_warning(last, "c")
        assert not is_warning(last, "z")


def test_rows_that_a_shell_restates_hide_no_others_that_lack_rows(new_shop: NewShop) -> None:
    """The record of the shell's rows is newer than the check that has named the others, and the janitor has merged."""
    models = {"x": source("x", EARLY), "r": reader("r", "x")}
    files = {f"models/{name}.sql": text for name, text in models.items()}
    shop = new_shop(files, tables=HOURS, intervals_check=True, restate=True)
    shop.sqlmesh("run", "--no-auto-upstream", "--select-model", "t.r")
    assert is_warning(shop.launch()), "the source is computed in this run"
    lacking = rows(shop, "x") - rows(shop, "r")
    assert lacking > 0
    first = day(2)
    shop.sqlmesh("plan", "--restate-model", "t.r", "--start", first, "--end", first, "--auto-apply", "--no-prompts")
    shop.sqlmesh("janitor")
    assert rows(shop, "x") - rows(shop, "r") > 0, "other days"
    assert is_warning(shop.launch())
    assert is_warning(shop.launch())
