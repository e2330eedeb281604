"""The report of a plan names each loss, or that it cannot know one."""

from typing import Any

import dagster as dg
import pytest
from engine.plan_jobs import APPLY, PLAN, change, edit_config, failure_of, launch, planned, report_of, text_of
from engine.preview_lab import PREVIEW, report_of_last
from harness import CONFIG, NewShop, Shop, at_night, needs_previews, rows_at_night

ORDERS = "MODEL (name t.orders, kind FULL); SELECT {columns} FROM raw.x"
TABLES = {"raw.x": "SELECT 1 AS id, 2 AS amount"}


def reported(shop: Shop) -> tuple[list[Any], str]:
    """The columns of each changed model, and the report."""
    record = launch(shop, PLAN).succeeded()
    return [model["columns"] for model in report_of(record)["models"]], text_of(record)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("id, amount, 1 AS extra", "id, 1 AS extra", ["drops amount"]),
        (
            "id, amount, 1 AS extra",
            "amount, id, 1 AS extra, amount AS more",
            ["adds more", "changes the order of columns"],
        ),
        *rows_at_night(
            ("id, 1 AS extra", "id, 'a' AS extra", ["changes extra from INT to TEXT"]),
            ("id, 1 AS extra", "id::INT AS id, 1 AS extra", []),
        ),
    ],
    ids=["dropped", "added, and in another order", "another type", "a type that was not known"],
)
def test_columns_are_compared_by_name_although_not_all_types_are_known(
    new_shop: NewShop, before: str, after: str, expected: list[str]
) -> None:
    shop = new_shop({"models/orders.sql": ORDERS.format(columns=before)}, tables=TABLES, deploy=True)
    change(shop, orders=ORDERS.format(columns=after))
    columns, text = reported(shop)
    assert columns == [expected]
    is_loss = "drops amount" in expected
    assert ("1 loss" in text) is is_loss
    assert ("drops amount: queries that use the column will fail" in text) is is_loss


@pytest.mark.night("test_columns_are_compared_by_name_although_not_all_types_are_known")
def test_another_order_of_columns_is_named_of_a_view_but_not_of_a_table_that_stays(new_shop: NewShop) -> None:
    view = ORDERS.replace("orders", "shown").replace("FULL", "VIEW")
    files = {"orders": ORDERS.format(columns="id, 1 AS x"), "shown": view.format(columns="id, 1 AS x")}
    shop = new_shop({f"models/{name}.sql": text for name, text in files.items()}, tables=TABLES, deploy=True)
    edit_config("plan: {forward_only: true}\n")(shop)
    change(shop, orders=ORDERS.format(columns="1 AS x, id"), shown=view.format(columns="1 AS x, id"))
    report = planned(shop)
    assert {model["name"]: (model["forward_only"], model["columns"]) for model in report["models"]} == {
        "t.orders": (True, []),
        "t.shown": (True, ["changes the order of columns"]),
    }
    launch(shop, APPLY, digest=report["digest"]).succeeded()
    order = (
        "SELECT list(column_name ORDER BY column_index) FROM duckdb_columns() WHERE schema_name = 't' AND table_name = "
    )
    assert [shop.query(f"{order}'{name}'") for name in ("orders", "shown")] == [[(["id", "x"],)], [(["x", "id"],)]]


def test_columns_that_nobody_can_know_are_null_and_named(new_shop: NewShop) -> None:
    shop = new_shop({"models/orders.sql": ORDERS.format(columns="*")}, tables=TABLES, deploy=True)
    change(shop, orders=ORDERS.format(columns="id, amount"))
    columns, text = reported(shop)
    assert columns == [None]
    assert "**To decide:** 1 model with unknown columns." in text
    assert "Whether `t.orders` would lose columns is not known before it is computed." in text
    assert "nothing is lost" not in text


DAYS = """
MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column day){head});
SELECT day::DATE AS day, 1 AS x FROM raw.days WHERE day BETWEEN @start_ds AND @end_ds
"""
HISTORY = """
MODEL (name t.history, kind SCD_TYPE_2_BY_COLUMN (unique_key day, columns [x], forward_only false));
SELECT day::DATE AS day, {x} AS x FROM raw.days
"""
RAW_DAYS = {"raw.days": "SELECT CURRENT_DATE - range::INT AS day FROM range(10)"}


@needs_previews
def test_days_that_a_plan_takes_from_readers_are_named_and_refused_until_they_are_allowed(new_shop: NewShop) -> None:
    preview = {"environment": "pr_1"}
    files = {"models/days.sql": DAYS.format(head=""), "models/history.sql": HISTORY.format(x=1)}
    shop = new_shop(files, tables=RAW_DAYS, deploy=True, preview=preview)
    shown = "SELECT count(*) FROM t.days"
    assert shop.query(shown) == [(3,)]
    change(shop, days=DAYS.format(head=", cron '@yearly'"), history=HISTORY.format(x=2))

    previewed = launch(shop, PREVIEW).succeeded()
    text, report = text_of(previewed), report_of_last(previewed)
    assert "**To decide:** 2 losses, 1 refusal." in text
    assert "`t.days` loses rows of 20" in text
    assert "(3 days): they are not shown any more. The apply deletes no data" in text
    lost = {model["name"]: (model["intervals"], len(model["lost_intervals"])) for model in report["models"]}
    assert lost == {"t.days": (0, 1), "t.history": (0, 0)}
    assert report["models"][1]["lost_rows"] == "rows that the source does not have any more"
    [refusal] = report["refusals"]
    assert (refusal["kind"], refusal["models"]) == ("lost_intervals", ["t.days", "t.history"])
    assert "a new table for a model whose rows cannot be computed again" in refusal["message"]
    assert '"allow_lost_intervals": ["t.days", "t.history"]' in report["command"]
    assert shop.query(shown) == [(3,)]
    allowed = launch(shop, APPLY, digest=report["digest"], allow_lost_intervals=refusal["models"]).succeeded()
    assert "Rows no longer shown, if it had such rows: t.days (rows of 20" in allowed.log
    assert ", t.history (rows that the source does not have any more)." in allowed.log
    assert shop.query(shown) == [(0,)]


ALL_DAYS = "SELECT id::INT AS id, day::DATE AS day FROM raw.all_days"
WITHIN = f"{ALL_DAYS} WHERE day BETWEEN @start_ds AND @end_ds"
FULL_DAYS = "MODEL (name t.days, kind FULL, grain id); {query}"
DAYS_BY_RANGE = "MODEL (name t.days, kind {kind}, grain id, start '{start}'); {query}"
RAW_ALL_DAYS = "SELECT range AS id, CASE WHEN range < 27 THEN CURRENT_DATE + 2 - range::INT END AS day FROM range(28)"
"""28 rows: two of the future, today, 24 of earlier days, and one without a day."""

OF_DAYS = {
    "shown": "MODEL (name t.shown, kind VIEW, grain id); SELECT id, day FROM t.days",
    "total": "MODEL (name t.total, kind FULL, grain id); SELECT id, day FROM t.shown",
    "late": """
    MODEL (name t.late, kind INCREMENTAL_BY_TIME_RANGE (time_column day), grain id);
    SELECT id, day FROM t.shown WHERE day BETWEEN @start_ds AND @end_ds
    """,
}


@pytest.mark.night(
    "upstream/test_sqlmesh_shown_rows.py",
    "engine/test_gained_rows.py::test_models_that_lose_the_rows_of_a_source_are_named_with_it",
)
@needs_previews
def test_rows_that_another_kind_does_not_show_are_named_in_all_readers_and_refused_until_they_are_allowed(
    new_shop: NewShop,
) -> None:
    """The rows before the start, of today, of the future and without a day."""
    files = {f"models/{name}.sql": text for name, text in {**OF_DAYS, "days": FULL_DAYS.format(query=ALL_DAYS)}.items()}
    preview = {"environment": "pr_1"}
    tables = {"raw.all_days": RAW_ALL_DAYS}
    shop = new_shop(files, tables=tables, planned_at=None, deploy=True, preview=preview)
    shop.plan(at=None)
    first, today = shop.query("SELECT CURRENT_DATE - 13, CURRENT_DATE")[0]
    by_time = DAYS_BY_RANGE.format(kind="INCREMENTAL_BY_TIME_RANGE (time_column day)", start=first, query=WITHIN)
    shown = "SELECT count(*) FROM t.{}"
    assert [shop.query(shown.format(name)) for name in ("days", "shown", "total", "late")] == [[(28,)]] * 3 + [[(6,)]]

    change(shop, days=by_time.replace(str(first), str(today)))
    other = planned(shop)["digest"]
    change(shop, days=by_time)
    previewed = launch(shop, PREVIEW).succeeded()

    text, report = text_of(previewed), report_of_last(previewed)
    gone = f"rows before {first}, rows without a time"
    later = f"rows from {today} on"
    models = {model["name"]: model for model in report["models"]}
    assert f"`t.days` loses {gone}: they are not shown any more. The apply deletes no data" in text
    assert f"`t.days` loses {later} until later runs compute them: a run computes each after the end" in text
    assert "The preview has counted 15 rows of prod that it does not have." in text
    for name in ("t.days", "t.shown", "t.total"):
        assert models[name]["lost_intervals"] == [[None, f"{first}T00:00:00Z"], [f"{today}T00:00:00Z", None]]
        assert models[name]["lost_without_time"]
        assert models[name]["lost_rows"] == f"{gone}, {later} until later runs compute them"
        assert models[name]["loses_with"] == ([] if name == "t.days" else ["t.days"])
    assert models["t.late"]["lost_rows"] == ""
    [refusal] = report["refusals"]
    assert (refusal["kind"], refusal["models"]) == ("lost_intervals", ["t.days"])
    assert f"t.days ({gone}, {later} until later runs compute them). Models that show or read" in refusal["message"]
    assert f"lose rows too: t.shown ({gone}, {later} until later runs compute them); t.total (" in refusal["message"]
    assert '"allow_lost_intervals": ["t.days"]' in report["command"]
    assert report["digest"] != other, "another start takes other rows"
    assert "lost_intervals" in failure_of(launch(shop, APPLY, digest=report["digest"]))
    allowed = launch(shop, APPLY, digest=report["digest"], allow_lost_intervals=["t.days"]).succeeded()
    assert f"Rows no longer shown, if it had such rows: t.days ({gone}, {later}" in allowed.log
    assert [shop.query(shown.format(name)) for name in ("days", "shown", "total", "late")] == [[(13,)]] * 3 + [[(6,)]]


@pytest.mark.night("upstream/test_sqlmesh_shown_rows.py")
def test_a_kind_that_shows_all_rows_of_its_query_loses_nothing(new_shop: NewShop) -> None:
    """Its query does not use the range, so the rows of each computation are those of the whole query."""
    tables = {"raw.all_days": RAW_ALL_DAYS}
    shop = new_shop({"models/days.sql": FULL_DAYS.format(query=ALL_DAYS)}, tables=tables, deploy=True)
    by_key = "INCREMENTAL_BY_UNIQUE_KEY (unique_key id)"
    change(shop, days=DAYS_BY_RANGE.format(kind=by_key, start="6 days ago", query=ALL_DAYS))
    report = planned(shop)
    assert (report["refusals"], report["models"][0]["lost_rows"]) == ([], "")
    launch(shop, APPLY, digest=report["digest"]).succeeded()
    assert shop.query("SELECT count(*) FROM t.days") == [(28,)]


@pytest.mark.night("engine/test_plan_gate.py::test_a_version_without_an_interval_is_promoted_with_one_that_is_computed")
@needs_previews
def test_models_that_read_a_new_table_without_an_interval_are_computed(new_shop: NewShop) -> None:
    """SQLMesh does not create such a table, so the plan could not be applied with the command of its report."""
    unknown = ORDERS.replace("t.orders", "t.unknown").replace("raw.x", "t.days").format(columns="*")
    files = {"days": DAYS.format(head=""), "total": "MODEL (name t.total, kind FULL); SELECT count(*) AS n FROM t.days"}
    paths = {f"models/{name}.sql": text for name, text in {**files, "unknown": unknown}.items()}
    shop = new_shop(paths, tables=RAW_DAYS, deploy=True, preview={"environment": "pr_1"})
    change(shop, days=DAYS.format(head=", cron '@yearly'").replace("1 AS x", "2 AS x"))

    report = report_of_last(launch(shop, PREVIEW, allow_pending=True).succeeded())
    launch(shop, APPLY, digest=report["digest"], allow_lost_intervals=["t.days"]).succeeded()

    counts = "SELECT (SELECT n FROM t.total), (SELECT count(*) FROM t.days), (SELECT count(*) FROM t.unknown)"
    assert shop.query(counts) == [(0, 0, 0)]


@pytest.mark.night(
    "engine/test_plan_reports.py::test_dev_only_promises_no_old_version",
    "unit/capabilities/plans/test_gate.py::test_markdown_promises_an_old_version_only_if_versions_have_tables_of_their_own",
)
def test_no_old_version_is_promised_if_a_new_mode_drops_the_only_table(new_shop: NewShop) -> None:
    config = f"{CONFIG}virtual_environment_mode: dev_only\n"
    shop = new_shop({"models/history.sql": HISTORY.format(x=1)}, config, tables=RAW_DAYS, deploy=True)
    (shop.project / "config.yaml").write_text(CONFIG)

    record = launch(shop, PLAN).succeeded()

    report = report_of(record)
    assert [refusal["kind"] for refusal in report["refusals"]] == ["lost_intervals"]
    assert "they are not shown any more. No old version stays:" in text_of(record)
    launch(shop, APPLY, digest=report["digest"], allow_lost_intervals=["t.history"]).succeeded()
    tables = "SELECT table_schema FROM information_schema.tables WHERE table_name LIKE '%history%' ORDER BY 1"
    assert shop.query(tables) == [("sqlmesh__t",), ("t",)], "the new table and its view"


MODEL_WITH_TABLE = "MODEL (name t.last, kind FULL); SELECT 1 AS x"


@pytest.mark.advice("Then queries that use the view fail. Drop the view after the apply.")
def test_a_model_that_loses_its_table_is_reported_as_removed_and_its_view_stays(new_shop: NewShop) -> None:
    """Without a view that stays: a model that is not enabled, and one whose name a standalone audit has now."""
    orders, other, off, checked = (
        ORDERS.format(columns="id").replace("t.orders", f"t.{name}") for name in ("orders", "other", "off", "checked")
    )
    files = {"orders": orders, "other": other, "off": off, "checked": checked, "last": MODEL_WITH_TABLE}
    shop = new_shop({f"models/{name}.sql": text for name, text in files.items()}, tables=TABLES, deploy=True)
    change(shop, orders=orders.replace("FULL", "EMBEDDED"), off=off.replace("FULL", "FULL, enabled false"))
    (shop.project / "models" / "other.sql").unlink()
    (shop.project / "models" / "checked.sql").unlink()
    (shop.project / "audits").mkdir()
    (shop.project / "audits" / "checked.sql").write_text(
        AUDIT.format(more="", least=0).replace("name alone", "name checked")
    )
    (shop.project / "external_models.yaml").write_text("- name: t.other\n  columns: {id: INT}\n")

    record = launch(shop, PLAN)

    report, text = report_of(record), text_of(record)
    changes = [(model["name"], model["change"], model["becomes"]) for model in report["models"]]
    assert sorted(changes) == [
        ("checked", "added", None),
        ("t.checked", "removed", None),
        ("t.off", "removed", None),
        ("t.orders", "removed", "EMBEDDED"),
        ("t.other", "removed", "EXTERNAL"),
    ]
    assert "**To decide:** 4 losses." in text
    assert "`t.orders` is removed: its kind is EMBEDDED now, so SQLMesh computes nothing for it. Its view stays" in text
    launch(shop, APPLY, digest=report["digest"]).succeeded()
    assert shop.query("SELECT orders.id, other.id FROM t.orders, t.other") == [(1, 1)]
    assert shop.query("SELECT view_name FROM duckdb_views() WHERE view_name IN ('off', 'checked')") == []
    shop.query("DROP VIEW t.orders")
    assert planned(shop)["models"] == []
    shop.launch().succeeded()


AMOUNTS = {"raw.amounts": "SELECT CURRENT_DATE - range::INT AS day, 1 AS amount FROM range(10)"}
SOURCE = """
MODEL (name t.source, kind INCREMENTAL_BY_TIME_RANGE (time_column day));
SELECT day::DATE AS day, amount FROM raw.amounts WHERE day BETWEEN @start_ds AND @end_ds
"""
DAILY = """
MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day));
SELECT day, amount * {factor} AS amount FROM t.source WHERE day BETWEEN @start_ds AND @end_ds
"""
ALL = "MODEL (name t.everything, kind FULL); SELECT sum(amount) AS amount FROM t.source"


def test_corrected_rows_stay_corrected_if_a_plan_shows_an_earlier_version_again(new_shop: NewShop) -> None:
    files = {"models/source.sql": SOURCE, "models/daily.sql": DAILY.format(factor=2), "models/everything.sql": ALL}
    shop = new_shop(files, tables=AMOUNTS, deploy=True)
    change(shop, daily=DAILY.format(factor=3))
    (shop.project / "models" / "everything.sql").unlink()
    shop.plan(at=None)
    [(day,)] = shop.query("SELECT max(day)::TEXT FROM t.daily")
    shop.query(f"UPDATE raw.amounts SET amount = 5 WHERE day = '{day}'")
    shop.plan("--restate-model", "t.source", "-s", day, "-e", day, at=None)
    change(shop, daily=DAILY.format(factor=2), everything=ALL)

    report = planned(shop)
    applied = launch(shop, APPLY, digest=report["digest"], allow_revert=["t.daily"])

    assert {model["name"]: model["intervals"] for model in report["models"]} == {"t.daily": 1, "t.everything": 1}
    assert applied.status is dg.DagsterRunStatus.SUCCESS, failure_of(applied)
    assert f"t.daily has rows that predate a correction or come from another version, for {day}." in applied.log
    assert shop.query("SELECT amount FROM t.daily ORDER BY day") == [(2,), (2,), (10,)]
    assert shop.query("SELECT amount FROM t.everything") == [(7,)]


RUNNING = """
MODEL (name t.running, kind INCREMENTAL_BY_TIME_RANGE (time_column day), columns (day DATE, total INT));
SELECT day, (sum(amount) OVER (ORDER BY day)
  + COALESCE((SELECT max(r.total) FROM t.running AS r WHERE r.day = @start_ds::DATE - 1), 0))::INT AS total
FROM t.source WHERE day BETWEEN @start_ds AND @end_ds
"""


@pytest.mark.night(
    "test_corrected_rows_stay_corrected_if_a_plan_shows_an_earlier_version_again",
    "unit/capabilities/plans/worker/test_versions.py::test_a_version_that_depends_on_its_past_is_computed_again_behind_a_gap",
)
@needs_previews
@pytest.mark.parametrize("number", [0, 1])
def test_days_behind_a_restated_one_are_computed_again_if_the_model_reads_itself(
    new_shop: NewShop, number: int
) -> None:
    """A restatement takes intervals of versions in previews, too, and SQLMesh leaves the days that have read them."""
    files = {"models/source.sql": SOURCE}
    shop = new_shop(files, tables=AMOUNTS, deploy=True, preview={"environment": "pr_1"}, planned_at=None)
    shop.plan(at=None)
    change(shop, running=RUNNING)
    launch(shop, PREVIEW).succeeded()
    day = str(shop.query("SELECT day FROM t.source ORDER BY day")[number][0])
    shop.query(f"UPDATE raw.amounts SET amount = 5 WHERE day = '{day}'")
    shop.plan("--restate-model", "t.source", "-s", day, "-e", day, at=None)

    launch(shop, APPLY, digest=planned(shop)["digest"]).succeeded()

    totals = [total for (total,) in shop.query("SELECT total FROM t.running ORDER BY day")]
    assert totals == [n + 1 + 4 * (n >= number) for n in range(6)]


@pytest.mark.night("test_a_model_that_is_added_again_with_another_definition_names_its_old_rows_or_computes_new_ones")
@pytest.mark.advice("If you corrected others, restate them after the apply.")
def test_rows_of_a_removed_model_that_is_added_again_are_named_with_their_time(new_shop: NewShop) -> None:
    """Nothing in the state tells that a table which SQLMesh does not compute was corrected."""
    files = {"source": SOURCE, "days": DAYS.format(head=""), "history": HISTORY.format(x=1)}
    paths = {f"models/{name}.sql": text for name, text in files.items()}
    shop = new_shop(paths, tables={**AMOUNTS, **RAW_DAYS}, deploy=True, restate=True)
    (shop.project / "models" / "days.sql").unlink()
    (shop.project / "models" / "history.sql").unlink()
    shop.plan(at=None)
    shop.sqlmesh("run")
    shop.query("DELETE FROM raw.days")
    change(shop, **files, new="MODEL (name t.new, kind FULL); SELECT 1 AS x")

    record = launch(shop, PLAN)

    text, models = text_of(record), {model["name"]: model for model in report_of(record)["models"]}
    assert models["t.history"]["intervals"] == 1
    assert models["t.new"]["shows_again"] is None
    assert "**To decide:** 2 models with rows of an earlier time." in text
    assert f"computed earlier, most recently at this time: t.days ({models['t.days']['shows_again'][:10]}" in text
    assert f"t.history ({models['t.history']['shows_again'][:10]}" in text
    launch(shop, APPLY, digest=report_of(record)["digest"]).succeeded()
    assert shop.query("SELECT count(*) > 0 FROM t.days") == [(True,)], "rows that raw.days does not have any more"
    again = {"sqlmesh_shop": {"restate": {"start": "1 week ago", "end": "yesterday"}}}
    shop.launch(assets=["t/days"], ops=again).succeeded()
    assert shop.query("SELECT count(*) FROM t.days") == [(0,)]


SEED = "SEED (path '../seeds/again.csv')"
ADDED_AGAIN = "MODEL (name t.again, kind {kind}); SELECT CURRENT_DATE - 5 AS day, {columns}"
BY_DAY = "INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true)"
OLD, NEW = [(7, None)], [(1, 2)]


@pytest.mark.parametrize(
    ("mode", "kind", "later", "kept", "rows"),
    [
        ("full", BY_DAY, BY_DAY, {"cron": "@daily", "all": False}, OLD),
        *rows_at_night(
            ("dev_only", "VIEW", "FULL", None, NEW),
            ("dev_only", BY_DAY, BY_DAY, {"cron": "@daily", "all": False}, OLD),
            ("dev_only", "FULL", "FULL", {"cron": "@daily", "all": True}, OLD),
            ("dev_only", SEED, SEED, None, NEW),
            ("full", "FULL", "FULL", None, NEW),
        ),
    ],
    ids=["by day", "another kind", "by day, one table", "full, one table", "seed", "full"],
)
def test_a_model_that_is_added_again_with_another_definition_names_its_old_rows_or_computes_new_ones(
    new_shop: NewShop, mode: str, kind: str, later: str, kept: dict[str, Any] | None, rows: list[Any]
) -> None:
    last = {"models/last.sql": MODEL_WITH_TABLE, "seeds/again.csv": "id\n7\n"}
    files = {"models/again.sql": ADDED_AGAIN.format(kind=kind, columns="7 AS id"), **last}
    shop = new_shop(files, f"{CONFIG}virtual_environment_mode: {mode}\n", deploy=True)
    (shop.project / "models" / "again.sql").unlink()
    shop.plan()
    (shop.project / "seeds" / "again.csv").write_text("id,more\n1,2\n")
    change(shop, again=ADDED_AGAIN.format(kind=later, columns="1 AS id, 2 AS more"))

    record = launch(shop, PLAN)
    [model] = report_of(record)["models"]
    launch(shop, APPLY, digest=report_of(record)["digest"]).succeeded()

    assert (model["change"], model["kept_rows"], bool(model["intervals"])) == ("added", kept, kept is None)
    assert ("1 model with rows of an earlier time" in text_of(record)) is (kept is not None)
    assert shop.query("SELECT DISTINCT id, more FROM t.again") == rows


@pytest.mark.parametrize("mode", ["full", *at_night("dev_only")])
def test_a_corrected_model_keeps_no_rows_that_a_failed_apply_has_computed_by_its_first_definition(
    new_shop: NewShop, mode: str
) -> None:
    """Both versions have one table, and prod has never shown the first one."""
    again = ADDED_AGAIN.format(kind=BY_DAY.replace(")", ", batch_size 1)"), columns="{id} AS id")
    again = again.replace("CURRENT_DATE - 5", "@start_ds::DATE")
    config = f"{CONFIG}virtual_environment_mode: {mode}\n"
    shop = new_shop({"models/last.sql": MODEL_WITH_TABLE}, config, deploy=True)
    change(shop, again=again.format(id="IF(@start_ds::DATE > CURRENT_DATE - 5, error('down')::INT, 7)"))
    assert "down" in failure_of(launch(shop, APPLY, digest=planned(shop)["digest"]))

    change(shop, again=again.format(id=1))
    report = planned(shop)
    launch(shop, APPLY, digest=report["digest"]).succeeded()

    assert (report["models"][0]["intervals"], report["models"][0]["kept_rows"]) == (3, None)
    assert shop.query("SELECT id FROM t.again") == [(1,)] * 3


@pytest.mark.night(
    "test_a_model_that_is_added_again_with_another_definition_names_its_old_rows_or_computes_new_ones",
    "unit/capabilities/plans/test_gate.py::test_table_says_when_kept_rows_are_computed",
)
def test_a_table_that_is_filled_by_day_after_it_was_full_keeps_its_rows(new_shop: NewShop) -> None:
    full = "MODEL (name t.days, kind FULL); SELECT day::DATE AS day, 0 AS x FROM raw.days"
    shop = new_shop(
        {"models/days.sql": full}, f"{CONFIG}virtual_environment_mode: dev_only\n", tables=RAW_DAYS, deploy=True
    )
    before = shop.query("SELECT count(*) FROM t.days")
    change(shop, days=DAYS.format(head=", start '4 days ago'"))

    report = planned(shop)
    launch(shop, APPLY, digest=report["digest"]).succeeded()

    [model] = report["models"]
    assert (report["refusals"], model["lost_intervals"]) == ([], [])
    assert model["kept_rows"] == {"cron": "@daily", "all": False}
    assert shop.query("SELECT count(*) FROM t.days") == before
    assert shop.query("SELECT DISTINCT x FROM t.days ORDER BY x") == [(0,), (1,)]


AUDIT = "AUDIT (name alone, standalone true{more}); SELECT * FROM t.orders WHERE id < {least}"


@pytest.mark.night(
    "engine/test_new_audits.py::test_a_standalone_audit_is_evaluated_by_each_apply_that_adds_or_changes_it"
)
@pytest.mark.parametrize(
    ("more", "least"), [("", 1), *rows_at_night((", description 'Orders have an id'", 0))], ids=["query", "description"]
)
def test_a_changed_standalone_audit_is_planned_and_applied(new_shop: NewShop, more: str, least: int) -> None:
    """Another one is removed, and an external table and an embedded model. They have no rows of SQLMesh to lose."""
    alone = AUDIT.format(more="", least=0)
    gone = {
        "audits/gone.sql": alone.replace("name alone", "name gone"),
        "models/part.sql": "MODEL (name t.part, kind EMBEDDED); SELECT 1 AS id",
        "external_models.yaml": "- name: raw.old\n  columns: {id: INT}\n",
    }
    files = {"audits/alone.sql": alone, **gone}
    shop = new_shop({"models/orders.sql": ORDERS.format(columns="id"), **files}, tables=TABLES, deploy=True)
    (shop.project / "audits" / "alone.sql").write_text(AUDIT.format(more=more, least=least))
    for name in gone:
        (shop.project / name).unlink()
    change(shop, orders=ORDERS.format(columns="id, amount"))
    record = launch(shop, PLAN).succeeded()
    report = report_of(record)
    assert {model["name"] for model in report["models"] if model["change"] == "removed"} == {
        "gone",
        "t.part",
        "raw.old",
    }
    assert "**To decide:** nothing is lost" in text_of(record)
    launch(shop, APPLY, digest=report["digest"]).succeeded()
    assert shop.query("SELECT amount FROM t.orders") == [(2,)]


@pytest.mark.night("engine/test_new_audits.py::test_a_standalone_audit_is_evaluated_by_each_apply_...")
@needs_previews
@pytest.mark.parametrize("state", ["added", *at_night("changed", "removed")])
def test_a_standalone_audit_can_be_previewed_in_each_state(new_shop: NewShop, state: str) -> None:
    files = {"models/orders.sql": ORDERS.format(columns="id")}
    audit = {"audits/alone.sql": AUDIT.format(more="", least=0)}
    shop = new_shop({**files, **({} if state == "added" else audit)}, tables=TABLES, preview={"environment": "pr_1"})
    file = shop.project / "audits" / "alone.sql"
    file.parent.mkdir(exist_ok=True)
    if state == "removed":
        file.unlink()
    else:
        file.write_text(AUDIT.format(more="", least=1))
    change(shop, orders=ORDERS.format(columns="id, amount"))
    launch(shop, PREVIEW).succeeded()
