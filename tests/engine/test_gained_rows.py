"""A plan names the models without rows that a model upstream gains, and the apply computes them again after it.

SQLMesh alone computes no interval again that a model has computed from nothing, and counts it as complete.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from clock import MovedClock
from engine.beside_lab import DAILY, PAUSES, all_rows, day, new_warehouse
from engine.beside_lab import WITHIN as OF_DAYS
from engine.hourly_rows import EARLY, HOURS, TIME, reader, rows, source
from engine.plan_jobs import APPLY, PLAN, change, launch, report_of, text_of
from harness import OWN_MATERIALIZATION, NewShop, RunRecord, Shop
from postgres import Server

MIDDLE, LATE = "start '4 days ago'", "end '4 days ago'"


@dataclass
class Case:
    """A change of a source, and the days after it that its reader has computed without the rows of the source."""

    before: str
    after: str
    outdated: int
    columns: str = "ts"  # after the change
    kind: str = TIME  # after the change
    head: str = EARLY  # of the reader
    is_computed_by_run: bool = False  # the plan computes each model only as far as prod has it


CASES = {
    "start": Case(MIDDLE, EARLY, 4),
    "ended": Case(f"{EARLY}, {LATE}", f"{EARLY}, end '2 days ago'", 2, is_computed_by_run=True),
    "endless": Case(f"{EARLY}, {LATE}", EARLY, 4, is_computed_by_run=True),
    "columns": Case(MIDDLE, EARLY, 4, "ts, 1 AS more"),
    "forward": Case(
        f"{EARLY}, {LATE}",
        f"{EARLY}, end '2 days ago'",
        2,
        "ts, 1 AS more",
        TIME.replace("ts)", "ts, forward_only true)"),
        is_computed_by_run=True,
    ),
    "evening": Case(f"{EARLY}, cron '59 23 * * *'", EARLY, 1, is_computed_by_run=True),
}


def applied(shop: Shop, report: dict[str, Any], **config: Any) -> RunRecord:
    return launch(shop, APPLY, digest=report["digest"], **config).succeeded()


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {of["name"].removeprefix("t."): of for of in [*report["models"], *report["catch_up"]]}


def days_of(ranges: list[list[str]]) -> float:
    hours = [
        (datetime.fromisoformat(end) - datetime.fromisoformat(start)) / timedelta(hours=1) for start, end in ranges
    ]
    return sum(hours) / 24


def test_readers_are_computed_again_where_a_changed_source_gains_rows(new_shop: NewShop) -> None:
    """The next run computes the rest: a plan computes each model only as far as prod has it."""
    models: dict[str, str] = {}
    for name, case in CASES.items():
        models |= {name: source(name, case.before), f"{name}_r": reader(f"{name}_r", name, head=case.head)}
    # Of today, the daily model has nothing, and the hourly one has computed the hours that are over.
    models |= {"hourly": source("hourly", EARLY), "hourly_r": reader("hourly_r", "hourly", f"{TIME}, cron '@hourly'")}
    files = {f"models/{name}.sql": text for name, text in models.items()}
    shop = new_shop(files, tables=HOURS, planned_at="now", deploy=True, intervals_check=True)
    before = {name: rows(shop, name) for name in CASES}
    changed = {name: source(name, case.after, case.columns, case.kind) for name, case in CASES.items()}
    change(shop, **changed, hourly=source("hourly", f"{EARLY}, cron '@hourly'"))

    planned = launch(shop, PLAN).succeeded()

    report, text = report_of(planned), text_of(planned)
    assert report["refusals"] == []
    found = by_name(report)
    assert {name: days_of(found[f"{name}_r"]["outdated"]) for name in CASES} == {
        name: case.outdated for name, case in CASES.items()
    }
    now = datetime.now(timezone.utc)
    assert now.hour == 0 or days_of(found["hourly_r"]["outdated"]) * 24 == now.hour
    for name, case in CASES.items():
        of_reader = found[f"{name}_r"]
        assert of_reader["intervals"] == (0 if case.is_computed_by_run else case.outdated), name
        assert f"t.{name}_r for 20" in text
    assert "Outdated and computed again, because a model that they read gains rows: " in text
    assert {name: rows(shop, f"{name}_r") for name in CASES} == before, "the plan alone forgets nothing"

    done = applied(shop, report)

    assert "Outdated and computed again, because a model that they read gains rows: t.columns_r for 20" in done.log
    assert "The next run computes both." in done.log
    for name, case in CASES.items():
        assert rows(shop, name) == rows(shop, f"{name}_r"), name
        assert (rows(shop, name) == before[name]) is case.is_computed_by_run, name
    run = shop.launch().succeeded()
    for name, case in CASES.items():
        assert rows(shop, name) == rows(shop, f"{name}_r") == before[name] + 24 * case.outdated, name
        assert run.checks[f"t/{name}_r:sqlmesh_intervals_complete"].passed
    assert rows(shop, "hourly") == rows(shop, "hourly_r") >= 192
    assert by_name(report_of(launch(shop, PLAN).succeeded())) == {}, "nothing is outdated any more"


KEY = "INCREMENTAL_BY_UNIQUE_KEY (unique_key ts)"


@pytest.mark.night(
    "unit/worker/intervals/test_gained.py", "test_readers_are_computed_again_where_a_changed_source_gains_rows"
)
@pytest.mark.advice(
    "restate these models for these ranges. If a model has `disable_restatement`, first set it to false"
)
def test_readers_of_readers_are_computed_again_and_those_that_cannot_be_are_named(new_shop: NewShop) -> None:
    models = {
        "x": source("x", MIDDLE),
        "shown": "MODEL (name t.shown, kind VIEW); SELECT ts FROM t.x",
        "embedded": "MODEL (name t.embedded, kind EMBEDDED); SELECT ts FROM t.shown",
        "r": reader("r", "embedded"),
        "days": "MODEL (name t.days, kind FULL); SELECT ts::DATE AS ts FROM t.r",
        "s": reader("s", "days").replace("SELECT ts", "SELECT ts::TIMESTAMP AS ts"),
        "total": "MODEL (name t.total, kind FULL); SELECT ts FROM t.s",
        "by_key": reader("by_key", "x", KEY),
        "of_key": reader("of_key", "by_key"),
        "fixed": reader("fixed", "r", TIME.replace("ts)", "ts, disable_restatement true)")),
        "other": source("other", EARLY),
    }
    files = {f"models/{name}.sql": text for name, text in models.items()}
    shop = new_shop(files, tables=HOURS, planned_at="now", deploy=True, restate=True, intervals_check=True)
    change(shop, x=source("x", EARLY))
    planned = launch(shop, PLAN).succeeded()
    report, text = report_of(planned), text_of(planned)
    found = by_name(report)
    outdated = {name: days_of(of["outdated"]) for name, of in found.items() if of["outdated"]}
    assert {**outdated, "days": 0} == {"r": 4, "days": 0, "s": 4}
    left = {name: days_of(of["left_outdated"]) for name, of in found.items() if of["left_outdated"]}
    assert left == {"by_key": 4, "of_key": 4, "fixed": 4}
    assert "3 models that will lack rows" in text
    assert "Outdated and not computed again, although a model that they read gains rows: t.by" in text

    done = applied(shop, report)

    assert {name: rows(shop, name) for name in ("x", "r", "days", "s")} == dict.fromkeys(("x", "r", "days", "s"), 192)
    assert {name: rows(shop, name) for name in ("by_key", "of_key", "fixed")} == {
        "by_key": 96,
        "of_key": 96,
        "fixed": 96,
    }
    assert "Outdated and not computed again, although" in done.log

    left_out = ("by_key", "of_key", "fixed")
    for run in (done, shop.launch().succeeded(), shop.launch().succeeded()):
        checks = {name: run.checks.get(f"t/{name}:sqlmesh_intervals_complete") for name in ("r", "s", *left_out)}
        warns = [name for name, check in checks.items() if check is not None and not check.passed]
        assert sorted(warns) == sorted(left_out)

    change(shop, fixed=reader("fixed", "r"))
    applied(shop, report_of(launch(shop, PLAN).succeeded()))
    [[start, end]] = found["by_key"]["left_outdated"]
    config = {"sqlmesh_shop": {"restate": {"start": start, "end": end}}}
    shop.launch(assets=["t/by_key", "t/of_key", "t/fixed"], ops=config).succeeded()
    assert {rows(shop, name) for name in left_out} == {192}
    last = shop.launch().succeeded()
    assert all(last.checks[f"t/{name}:sqlmesh_intervals_complete"].passed for name in left_out)


@pytest.mark.night(
    "engine/test_plan_gate.py::test_a_plan_over_the_budget_is_refused_and_computes_nothing",
    "test_readers_are_computed_again_where_a_changed_source_gains_rows",
)
def test_a_budget_counts_outdated_intervals_and_a_refused_plan_forgets_nothing(new_shop: NewShop) -> None:
    models = {"x": source("x", MIDDLE), "r": reader("r", "x")}
    files = {f"models/{name}.sql": text for name, text in models.items()}
    shop = new_shop(files, tables=HOURS, deploy=True, budget={"seconds": 0.0001})
    shop.launch(ops={"sqlmesh_shop": {"over_budget": True}}).succeeded()
    change(shop, x=source("x", EARLY))
    report = report_of(launch(shop, PLAN).succeeded())
    [refusal] = report["refusals"]
    assert (refusal["kind"], sorted(refusal["models"])) == ("over_budget", ["t.r", "t.x"])
    launch(shop, APPLY, digest=report["digest"]).failed()
    assert shop.launch().succeeded().materializations == {}, "no interval is pending"
    applied(shop, report, over_budget=True)
    assert rows(shop, "x") == rows(shop, "r") == 192


def test_models_that_lose_the_rows_of_a_source_are_named_with_it(new_shop: NewShop) -> None:
    models = {"x": source("x", EARLY), "r": reader("r", "x"), "s": reader("s", "r")}
    files = {f"models/{name}.sql": text for name, text in models.items()}
    shop = new_shop(files, tables=HOURS, deploy=True)
    change(shop, x=source("x", MIDDLE, "ts").replace("WHERE", "WHERE ts IS NOT NULL AND"))
    planned = launch(shop, PLAN).succeeded()
    report, text = report_of(planned), text_of(planned)
    found = by_name(report)
    assert {name: days_of(found[name]["lost_intervals"]) for name in ("x", "r", "s")} == {"x": 4, "r": 4, "s": 4}
    assert {name: found[name]["loses_with"] for name in ("x", "r", "s")} == {"x": [], "r": ["t.x"], "s": ["t.x"]}
    assert "**To decide:** 3 losses, 1 refusal." in text
    [refusal] = report["refusals"]
    assert refusal["models"] == ["t.x"]
    assert "Models that show or read them lose rows too: t.r (rows of 20" in refusal["message"]
    done = applied(shop, report, allow_lost_intervals=["t.x"])
    assert "Rows no longer shown, if it had such rows: t.x (rows of 20" in done.log
    assert "t.s (rows of 20" in done.log.partition("Rows no longer shown")[2]
    assert rows(shop, "r") == rows(shop, "s") == rows(shop, "x")


@pytest.mark.night(
    "unit/worker/intervals/test_gained.py",
    "engine/test_apply_beside_runs.py::test_run_does_not_wait_for_the_backfill_...",
)
def test_readers_are_computed_again_under_the_lock_while_runs_go_on(server: Server, new_shop: NewShop) -> None:
    """Of a new version, of a table that stays, and of one that SQLMesh computes after the promotion."""
    warehouse = new_warehouse(server, new_shop)
    shorter = f"{DAILY}, start '{day(4)}'"
    heads = {"orders_2": shorter, "plain": shorter, "ends": f"{DAILY}, end '{day(5)}'"}
    model = "MODEL (name t.{name}, {head}); SELECT day, n FROM {of} " + OF_DAYS
    sources = {name: model.format(name=name, head=of, of="raw.orders") for name, of in heads.items()}
    readers = {f"of_{name}": model.format(name=f"of_{name}", head=DAILY, of=f"t.{name}") for name in heads}
    late = "MODEL (name t.late, kind FULL); SELECT count(*) AS n FROM t.of_orders_2"
    warehouse.add(**sources, **readers, late=late)
    assert warehouse.rows("of_orders_2") == warehouse.rows("of_plain") == [(day(4), 4)]
    warehouse.change("plain", shorter, DAILY)
    warehouse.change("ends", f"{DAILY}, end '{day(5)}'", DAILY.replace("day)", "day, forward_only true)"))
    warehouse.change("ends", "day, n", "day, n, 1 AS more")
    warehouse.change("late", "count(*) AS n", "count(*) AS n, 1 AS one")
    warehouse.change("orders_2", shorter, DAILY)

    with warehouse.applying("orders_2", "day, n", f"day, n {PAUSES}") as process:
        assert "Waiting" not in warehouse.run().log
        assert warehouse.rows("of_orders_2") == warehouse.rows("of_plain") == all_rows()[1:], "of the old versions"
    applied = warehouse.end(process)

    assert f"t.of_orders_2 for {day(5)}, of t.orders_2" in applied.log
    assert warehouse.rows("of_orders_2") == warehouse.rows("of_plain") == all_rows()
    assert warehouse.query("SELECT n FROM t.late") == [(5,)]
    warehouse.run()
    assert warehouse.rows("of_ends") == all_rows()


def test_a_reader_that_reads_all_rows_lacks_none_after_its_tick_and_a_custom_one_is_named(new_shop: NewShop) -> None:
    """Nobody knows whether a custom materialization replaces rows, so the apply does not compute it again."""
    by_all = "MODEL (name t.{name}, kind {kind}, start '8 days ago'); SELECT ts FROM t.x"
    models = {
        "x": source("x", MIDDLE),
        "own": reader("own", "x", "CUSTOM (materialization 'own')"),
        "of_own": reader("of_own", "own"),
        "key": by_all.format(name="key", kind=KEY),
        "of_key": reader("of_key", "key"),
        "hidden": "MODEL (name t.hidden, kind EMBEDDED); SELECT ts FROM raw.x",
        "of_hidden": reader("of_hidden", "hidden", "INCREMENTAL_UNMANAGED"),
        "own_all": by_all.format(name="own_all", kind="CUSTOM (materialization 'own')"),
    }
    files = {f"models/{name}.sql": text for name, text in models.items()}
    files["materializations/own.py"] = OWN_MATERIALIZATION
    clock = MovedClock(datetime.now(timezone.utc).replace(hour=12))
    with clock.shown():
        shop = new_shop(files, tables=HOURS, planned_at="now", deploy=True, intervals_check=True)
        change(shop, x=source("x", EARLY), hidden=source("hidden", EARLY))  # the reader of the latter keeps its rows
        report = report_of(launch(shop, PLAN).succeeded())
        left = {name: days_of(of["left_outdated"]) for name, of in by_name(report).items() if of["left_outdated"]}
        assert left == {"own": 4, "of_own": 4, "of_key": 4}
        applied(shop, report, allow_lost_intervals=["t.hidden"])
    clock.move_to(clock.now + timedelta(days=1))
    with clock.shown():
        for run in (shop.launch().succeeded(), shop.launch().succeeded()):
            assert rows(shop, "key") == rows(shop, "x")
            assert run.checks["t/key:sqlmesh_intervals_complete"].passed
            assert rows(shop, "of_key") < rows(shop, "x") > rows(shop, "own")
            assert not run.checks["t/of_key:sqlmesh_intervals_complete"].passed
