"""Rows of tables that a plan keeps: which go at the next tick, and which runs append once more."""

from datetime import datetime, timedelta, timezone

import pytest
from clock import MovedClock
from engine.hourly_rows import HOURS, WITHIN
from engine.plan_jobs import APPLY, PLAN, change, launch, planned, report_of, text_of
from harness import CONFIG, NewShop


@pytest.mark.night(
    "unit/capabilities/plans/worker/test_lost_row_matrix.py::test_a_whole_table_that_keeps_its_rows_loses_what_is_not_there_at_its_next_tick",
    "engine/test_dev_only.py::test_a_preview_says_which_rows_prod_will_not_have_and_an_apply_until_when",
)
def test_a_table_that_stays_and_is_replaced_at_its_next_tick_loses_the_rows_of_its_source_then(
    new_shop: NewShop,
) -> None:
    """In `dev_only`, a plan does not compute it."""
    models = {
        "a": "MODEL (name t.a, kind VIEW); SELECT ts FROM raw.x",
        "b": "MODEL (name t.b, kind FULL); SELECT ts FROM t.a",
    }
    files = {f"models/{name}.sql": text for name, text in models.items()}
    clock = MovedClock(datetime.now(timezone.utc).replace(hour=12))
    config = f"{CONFIG}virtual_environment_mode: dev_only\n"
    with clock.shown():
        shop = new_shop(files, tables=HOURS, planned_at="now", deploy=True, config=config)
        kind = "INCREMENTAL_BY_TIME_RANGE (time_column ts)"
        change(shop, a=f"MODEL (name t.a, kind {kind}, start '4 days ago'); SELECT ts FROM raw.x {WITHIN}")
        report = planned(shop)
        [b] = [model for model in report["models"] if model["name"] == "t.b"]
        assert b["loses_with"] == ["t.a"]
        assert (b["lost_intervals"][0][0], b["lost_without_time"]) == (None, True)
        [refusal] = report["refusals"]
        assert "t.b (rows before 20" in refusal["message"]
        done = launch(shop, APPLY, digest=report["digest"], allow_lost_intervals=["t.a"]).succeeded()
        assert "at the first run after 20" in text_of(done)
        assert "t.b" not in done.log.partition("Rows no longer shown")[2].partition(". ")[0]
        assert shop.query("SELECT count(*) FROM t.b") == [(216,)]
    clock.move_to(clock.now + timedelta(days=1))
    with clock.shown():
        shop.launch().succeeded()
        assert shop.query("SELECT * FROM t.b ORDER BY ts") == shop.query("SELECT * FROM t.a ORDER BY ts")


@pytest.mark.advice("To compute new tables instead, set `forward_only false` in the kinds of these models")
def test_a_plan_names_rows_that_runs_append_to_a_table_that_has_them(new_shop: NewShop) -> None:
    """INCREMENTAL_UNMANAGED is forward-only by default."""
    model = "MODEL (name t.{name}, kind {kind}); SELECT ts FROM raw.x"
    key, appends = "INCREMENTAL_BY_UNIQUE_KEY (unique_key ts)", "INCREMENTAL_UNMANAGED"
    files = {f"models/{name}.sql": model.format(name=name, kind=key) for name in ("kept", "new")}
    clock = MovedClock(datetime.now(timezone.utc).replace(hour=12))
    hours = {
        "raw.x": HOURS["raw.x"].replace("- INTERVAL 1 HOUR * range", "+ INTERVAL 24 HOUR - INTERVAL 1 HOUR * range")
    }
    with clock.shown():
        shop = new_shop(files, tables=hours, planned_at="now", deploy=True)
        model += f" {WITHIN}"
        change(shop, **{name: model.format(name=name, kind=appends) for name in ("kept", "new")})
        first = launch(shop, PLAN).succeeded()
        both = {model["name"]: len(model["appended_again"]) for model in report_of(first)["models"]}
        assert both == {"t.kept": 1, "t.new": 1}
        assert "2 models with rows twice" in text_of(first)
        assert "will be there twice. To compute new tables instead" in text_of(first)
        change(shop, new=model.format(name="new", kind=f"{appends} (forward_only false)"))
        report = planned(shop)
        assert {model["name"]: len(model["appended_again"]) for model in report["models"]} == {"t.kept": 1, "t.new": 0}
        done = launch(shop, APPLY, digest=report["digest"], allow_lost_intervals=["t.new"]).succeeded()
        assert "their runs append rows that the tables may have already: t.kept (rows from 20" in done.log
    clock.move_to(clock.now + timedelta(days=1))
    with clock.shown():
        shop.launch().succeeded()
    twice = "SELECT count(*) FROM (SELECT ts FROM t.{} GROUP BY ts HAVING count(*) > 1)"
    assert [bool(shop.query(twice.format(name))[0][0]) for name in ("kept", "new")] == [True, False]
