"""The jobs `<op>_preview` and `<op>_preview_close`: what they compute, compare and delete, and what stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from engine.test_plan_gate import failure_of, launch, planned
from harness import NewShop, RunRecord, Shop, query
from postgres import postgres_server

PREVIEW, CLOSE, APPLY = "sqlmesh_shop_preview", "sqlmesh_shop_preview_close", "sqlmesh_shop_apply"
ENVIRONMENT = "pr_{{ env.PULL_REQUEST }}"

ORDERS = """
MODEL (name t.orders, kind INCREMENTAL_BY_TIME_RANGE (time_column day), grain (day, id));
SELECT day::DATE AS day, id::INT AS id, (id * {factor})::DOUBLE PRECISION AS amount, 'x' AS label
FROM raw.orders WHERE day BETWEEN @start_ds::DATE AND @end_ds::DATE
"""
REVENUE = """
MODEL (name t.revenue, kind FULL, grain day);
SELECT day, sum(amount) AS amount, count(*) AS orders FROM t.orders GROUP BY day
"""
OTHER = "MODEL (name t.other, kind FULL); SELECT 1 AS x"
MODELS = {"models/orders.sql": ORDERS.format(factor=2), "models/revenue.sql": REVENUE, "models/other.sql": OTHER}
RAW = """
SELECT CAST(days.day AS DATE) AS day, ids.id
FROM (SELECT generate_series AS day FROM generate_series(CURRENT_DATE - 6, CURRENT_DATE, INTERVAL '1 day')) AS days,
(SELECT generate_series AS id FROM generate_series(1, 10)) AS ids
"""
DAY = 24 * 60 * 60 * 1000


@dataclass
class Lab:
    """A shop whose tables are in DuckDB or PostgreSQL."""

    shop: Shop
    ask: Callable[[str], list[tuple[Any, ...]]]
    monkeypatch: pytest.MonkeyPatch

    def change(self, **models: str) -> None:
        for name, text in models.items():
            (self.shop.project / "models" / f"{name}.sql").write_text(text)

    def job(self, name: str, pull_request: int | None = 1, **config: Any) -> RunRecord:
        if pull_request is None:
            self.monkeypatch.delenv("PULL_REQUEST", raising=False)
        else:
            self.monkeypatch.setenv("PULL_REQUEST", str(pull_request))
        return launch(self.shop, name, **config)

    def preview(self, pull_request: int = 1, **config: Any) -> dict[str, Any]:
        record = self.job(PREVIEW, pull_request, **config)
        assert record.status is dg.DagsterRunStatus.SUCCESS, record.log
        return report_of_last(record)

    def close(self, pull_request: int = 1) -> RunRecord:
        record = self.job(CLOSE, pull_request)
        assert record.status is dg.DagsterRunStatus.SUCCESS, record.log
        return record

    def prod(self) -> dict[str, Any]:
        """Everything that must not change: the rows and views of prod, and its rows of SQLMesh's state."""
        names = [
            name for (name,) in self.ask("SELECT table_name FROM information_schema.views WHERE table_schema = 't'")
        ]
        [(shown,)] = self.ask("SELECT snapshots FROM sqlmesh._environments WHERE name = 'prod'")
        versions = {(info["name"], info["version"]) for info in json.loads(shown)}
        state_of_models = "SELECT name, version, identifier, snapshot, updated_ts, unpaused_ts FROM sqlmesh._snapshots"
        intervals = "SELECT name, version, start_ts, end_ts, is_removed, last_altered_ts FROM sqlmesh._intervals"
        views = "SELECT table_name, view_definition FROM information_schema.views WHERE table_schema = 't'"
        return {
            "rows": {name: sorted(self.ask(f"SELECT * FROM t.{name}"), key=str) for name in names},
            "views": sorted(self.ask(views)),
            "environment": self.ask("SELECT * FROM sqlmesh._environments WHERE name = 'prod'"),
            "intervals": sorted(row for row in self.ask(f"{intervals} WHERE NOT is_dev") if row[:2] in versions),
            "models": sorted(row for row in self.ask(state_of_models) if row[:2] in versions and row[-1] is not None),
        }

    def left_over(self) -> dict[str, Any]:
        """What the state and the warehouse have, to compare before and after a preview was closed."""
        intervals = "SELECT name, version, dev_version, start_ts, end_ts, is_dev FROM sqlmesh._intervals"
        tables = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema LIKE '%t%'"
        schemas = "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 't%'"
        return {
            "environments": set(self.ask("SELECT name FROM sqlmesh._environments")),
            "models": set(self.ask("SELECT name, identifier FROM sqlmesh._snapshots")),
            "intervals": sorted(self.ask(intervals)),
            "tables": {row for row in self.ask(tables) if row[0] not in ("information_schema", "pg_catalog")},
            "schemas": set(self.ask(schemas)),
        }


def report_of_last(record: RunRecord) -> dict[str, Any]:
    """The JSON report that a job has published last."""
    reports = [
        event.event_specific_data.metadata["sqlmesh/plan_json"].value
        for event in record.events(dg.DagsterEventType.ENGINE_EVENT)
        if "sqlmesh/plan_json" in event.event_specific_data.metadata
    ]
    report: dict[str, Any] = reports[-1]
    return report


def diffs(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {diff["model"]: diff for diff in report["diff"]}


def kinds(report: dict[str, Any]) -> list[str]:
    return [refusal["kind"] for refusal in report["refusals"]]


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["duckdb", "postgres"])
def lab(request: pytest.FixtureRequest, new_shop: NewShop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lab:
    attributes = {"deploy": {}, "preview": {"environment": ENVIRONMENT}}
    if request.param == "duckdb":
        shop = new_shop(MODELS, planned_at=None, **attributes)
        lab = Lab(shop, lambda sql: query(shop.project, sql), monkeypatch)
    else:
        server = request.getfixturevalue("server")
        database = f"shop_{abs(hash(str(tmp_path))) % 10**9}"
        server.query(f"CREATE DATABASE {database}")
        shop = new_shop(MODELS, config=server.config(database), planned_at=None, **attributes)
        lab = Lab(shop, lambda sql: server.query(sql, database), monkeypatch)
    lab.ask("CREATE SCHEMA raw")
    lab.ask(f"CREATE TABLE raw.orders AS {RAW}")
    shop.plan(at=None)
    return lab


on_duckdb = pytest.mark.parametrize("lab", ["duckdb"], indirect=True)
"""For facts that do not depend on the engine."""


@pytest.mark.attribute("preview", "preview.environment")
def test_prod_is_identical_before_and_after_a_preview_and_the_changed_models_are_compared(lab: Lab) -> None:
    before = lab.prod()
    lab.change(orders=ORDERS.format(factor="(CASE WHEN id = 3 THEN 5 ELSE 2 END)"))

    report = lab.preview()

    assert lab.prod() == before
    found = diffs(report)
    assert sorted(found) == ["t.orders", "t.revenue"]
    orders = found["t.orders"]
    assert (orders["rows"], orders["rows_prod"]) == (60, 60)
    assert (orders["added"], orders["removed"], orders["changed"]) == (0, 0, 6)
    assert orders["columns"] == {"amount": pytest.approx(0.9), "label": 1.0}
    assert found["t.revenue"]["changed"] == 6
    assert report["environment"] == "pr_1"
    assert kinds(report) == []


def test_applying_a_previewed_plan_by_its_digest_computes_nothing(lab: Lab) -> None:
    lab.change(orders=ORDERS.format(factor=3))
    report = lab.preview()

    assert {model["name"]: model["intervals"] for model in report["models"]} == {"t.orders": 0, "t.revenue": 0}
    assert planned(lab.shop)["digest"] == report["digest"]
    record = launch(lab.shop, APPLY, digest=report["digest"])

    assert record.status is dg.DagsterRunStatus.SUCCESS, record.log
    assert "Computed: 0 models" in record.log
    assert lab.ask("SELECT DISTINCT amount FROM t.orders WHERE id = 1") == [(3.0,)]


def test_the_second_commit_is_compared_with_prod_and_replaces_the_tables_of_the_first(lab: Lab) -> None:
    lab.change(orders=ORDERS.format(factor=3))
    lab.preview()
    first = lab.left_over()
    lab.change(revenue=REVENUE.replace("count(*)", "count(*) + 1"))

    report = lab.preview()

    found = diffs(report)
    assert found["t.orders"]["changed"] == 60
    assert found["t.revenue"]["columns"] == {"amount": 0.0, "orders": 0.0}
    assert len(lab.left_over()["models"]) == len(first["models"])
    assert len(lab.left_over()["tables"]) == len(first["tables"])
    assert {model["name"] for model in report["models"]} == {"t.orders", "t.revenue"}


def test_closing_a_preview_leaves_nothing_and_only_its_own(lab: Lab) -> None:
    before, prod = lab.left_over(), lab.prod()
    lab.change(orders=ORDERS.format(factor=3))
    lab.preview(pull_request=1)
    lab.change(revenue=REVENUE.replace("count(*)", "count(*) + 1"))
    lab.preview(pull_request=2)
    both = lab.left_over()

    lab.close(pull_request=1)

    assert lab.ask("SELECT count(*), sum(amount) FROM t__pr_2.orders") == [(60, 6 * 55 * 3.0)]
    assert lab.ask("SELECT count(*) FROM t__pr_2.revenue") == [(6,)]
    assert both["environments"] - lab.left_over()["environments"] == {("pr_1",)}
    assert len(both["models"] - lab.left_over()["models"]) == 1, "only the version of t.revenue is no longer used"
    lab.close(pull_request=2)
    assert lab.left_over() == before
    assert lab.prod() == prod
    assert lab.close(pull_request=2).status is dg.DagsterRunStatus.SUCCESS


def make_gap(lab: Lab, after: int, before: int, models: str = "%orders%") -> None:
    """Let the state forget the days of these models between the first and the last ones."""
    columns = "name, identifier, version, dev_version, is_dev, is_removed, is_compacted, last_altered_ts, created_ts"
    [row] = lab.ask(f"SELECT {columns}, start_ts, end_ts FROM sqlmesh._intervals WHERE name LIKE '%orders%'")
    start, end = row[-2:]
    lab.ask(f"UPDATE sqlmesh._intervals SET end_ts = {start + after * DAY} WHERE name LIKE '%orders%'")
    if before:
        lab.ask(
            f"INSERT INTO sqlmesh._intervals ({columns}, id, start_ts, end_ts, is_pending_restatement) "
            f"SELECT {columns}, 'later', {end - before * DAY}, {end}, FALSE FROM sqlmesh._intervals "
            "WHERE name LIKE '%orders%'"
        )


@pytest.mark.parametrize(("after", "before"), [(3, 0), (2, 2)], ids=["three days behind", "with a gap"])
def test_a_preview_is_refused_if_prod_lacks_intervals_that_it_would_read(lab: Lab, after: int, before: int) -> None:
    make_gap(lab, after, before)
    prod = lab.prod()
    lab.change(revenue=REVENUE.replace("count(*)", "count(*) + 1"))

    record = lab.job(PREVIEW)

    assert record.status is dg.DagsterRunStatus.FAILURE
    report = report_of_last(record)
    assert kinds(report) == ["pending_upstream"]
    assert report["refusals"][0]["models"] == ["t.orders"]
    assert f"t.orders ({6 - after - before} intervals)" in report["refusals"][0]["message"]
    assert "Run prod first" in report["refusals"][0]["message"]
    assert lab.prod() == prod
    assert ("pr_1",) not in lab.left_over()["environments"]

    again = lab.job(PREVIEW, allow_pending=True)
    assert kinds(report_of_last(again)) == ["pending_upstream"], "its data would be wrong, and count as complete"


@on_duckdb
def test_intervals_that_are_later_than_those_of_the_preview_can_be_allowed(lab: Lab) -> None:
    lab.ask(f"UPDATE sqlmesh._intervals SET end_ts = end_ts - {3 * DAY}")
    before = lab.prod()
    lab.change(revenue=REVENUE.replace("count(*)", "count(*) + 1"))

    assert kinds(report_of_last(lab.job(PREVIEW))) == ["pending_upstream"]
    report = lab.preview(allow_pending=True)

    assert diffs(report)["t.revenue"]["columns"]["orders"] == 0.0
    assert lab.prod() == before, "the pending days are not computed in prod's table"


@on_duckdb
def test_an_unset_variable_breaks_no_code_location_and_the_jobs_name_it(lab: Lab) -> None:
    for name in (PREVIEW, CLOSE):
        record = lab.job(name, None)

        assert record.status is dg.DagsterRunStatus.FAILURE
        assert "needs the environment variable PULL_REQUEST, which is not set here" in failure_of(record)


@on_duckdb
def test_files_that_equal_prod_are_green_without_a_preview(lab: Lab) -> None:
    report = lab.preview()

    assert report["result"] == "The files are the same as in prod, so there is nothing to preview."
    assert (report["models"], report["diff"]) == ([], [])
    assert ("pr_1",) not in lab.left_over()["environments"]


LATE = ORDERS.format(factor=2).replace("t.orders", "t.late")
FORWARD_ONLY = ORDERS.replace("(time_column day)", "(time_column day, forward_only true)")


def test_a_forward_only_change_is_compared_on_its_own_range_and_others_on_all_of_theirs(lab: Lab) -> None:
    lab.change(orders=FORWARD_ONLY.format(factor=2))
    lab.shop.plan(at=None)
    before = lab.prod()
    lab.change(orders=FORWARD_ONLY.format(factor=3), late=LATE)

    report = lab.preview()

    assert diffs(report)["t.late"]["rows"] == 60
    assert {model["name"]: model["intervals"] for model in report["models"]}["t.late"] == 0, "an apply computes nothing"
    orders = diffs(report)["t.orders"]
    assert (orders["rows"], orders["rows_prod"], orders["changed"], orders["added"]) == (10, 10, 10, 0)
    assert "was compared, which both have computed" in orders["note"]
    assert lab.prod() == before
    assert lab.ask("SELECT count(*) FROM t__pr_1.orders") == [(10,)]

    again = lab.preview()
    assert diffs(again)["t.orders"] == orders, "also if the preview exists already"


def test_new_and_removed_models_are_part_of_the_diff(lab: Lab) -> None:
    lab.change(new="MODEL (name t.new, kind FULL); SELECT day FROM t.orders")
    (lab.shop.project / "models" / "other.sql").unlink()

    found = diffs(lab.preview())

    counts = {name: (d["rows"], d["rows_prod"], d["added"], d["removed"], d["changed"]) for name, d in found.items()}
    assert counts == {"t.new": (60, None, 60, 0, 0), "t.other": (None, 1, 0, 1, 0)}
    assert found["t.new"]["note"] == "New in the preview."
    assert found["t.other"]["note"] == "Removed in the preview."


KEYED = "MODEL (name t.keyed, kind FULL{grain}); SELECT id{key}, day, (id * {factor})::INT AS x FROM raw.orders"


@pytest.mark.parametrize(
    ("grain", "key", "reason"),
    [
        ("", "", "Rows were not matched, because the model has no `grain`."),
        (", grain id", "", "Rows were not matched, because several rows share a key (id)."),
        (", grain id", ", NULLIF(id, 3) AS k", "Rows were not matched, because several rows share a key (id)."),
        (", grain k", ", NULLIF(id, 3) AS k", "Rows were not matched, because some rows have no key (k)."),
    ],
)
def test_without_a_usable_key_rows_are_counted_and_the_note_says_why(
    lab: Lab, grain: str, key: str, reason: str
) -> None:
    lab.change(keyed=KEYED.format(grain=grain, key=key, factor=2))
    lab.shop.plan(at=None)
    lab.change(keyed=KEYED.format(grain=grain, key=key, factor="CASE WHEN id = 1 THEN 9 ELSE 2 END"))

    keyed = diffs(lab.preview())["t.keyed"]

    assert (keyed["rows"], keyed["rows_prod"], keyed["added"], keyed["removed"]) == (70, 70, 7, 7)
    assert (keyed["changed"], keyed["columns"]) == (None, {})
    assert keyed["note"].startswith(reason)


WIDE = """
MODEL (name t.wide, kind FULL, grain id);
SELECT id::INT AS id, {a} AS a, {b} AS b, {c} AS c, {d} AS d{e} FROM raw.orders WHERE day = CURRENT_DATE
"""


@pytest.mark.attribute("preview.diff.decimals")
def test_values_are_equal_up_to_a_decimal_place_and_types_may_differ(lab: Lab) -> None:
    lab.change(wide=WIDE.format(a="1.5::DOUBLE PRECISION", b="1::INT", c="NULL::TEXT", d="id::INT", e=", 1 AS gone"))
    lab.shop.plan(at=None)
    lab.change(
        wide=WIDE.format(
            a="1.5004::DOUBLE PRECISION",
            b="1.0::DOUBLE PRECISION",
            c="NULLIF(id, 1)::TEXT",
            d="id::TEXT",
            e=", 1 AS come",
        )
    )

    exact = diffs(lab.preview())["t.wide"]

    assert exact["columns"] == {"a": 0.0, "b": 1.0, "c": pytest.approx(0.1), "d": 1.0}
    assert exact["changed"] == 10
    assert [change.split()[:2] for change in exact["schema"]] == [
        ["changes", "b"],
        ["changes", "d"],
        ["drops", "gone"],
        ["adds", "come"],
    ] or len(exact["schema"]) == 4
    lab.shop.configure(preview={"environment": ENVIRONMENT, "diff": {"decimals": 3}}, deploy=True)
    assert diffs(lab.preview())["t.wide"]["columns"]["a"] == 1.0


@pytest.mark.attribute("preview.diff.max_rows", "preview.diff")
def test_a_large_model_is_compared_on_a_sample_of_its_keys_and_marked(lab: Lab) -> None:
    lab.shop.configure(preview={"environment": ENVIRONMENT, "diff": {"max_rows": 20}}, deploy=True)
    lab.change(orders=ORDERS.format(factor="(CASE WHEN id = 3 THEN NULL ELSE 3 END)"))

    orders = diffs(lab.preview())["t.orders"]

    assert (orders["rows"], orders["rows_prod"]) == (60, 60)
    assert orders["sample"] == pytest.approx(1 / 3)
    assert orders["note"].startswith("A sample of 33.3 % of the keys")
    assert "amount has a value in 54 rows, in prod in 60." in orders["note"]
    assert 0 < orders["changed"] < 60
    assert (orders["added"], orders["removed"]) == (0, 0), "the same keys on both sides"


@on_duckdb
def test_a_preview_over_the_budget_computes_nothing(lab: Lab) -> None:
    make_gap(lab, 3, 0)
    assert lab.shop.launch().status is dg.DagsterRunStatus.SUCCESS
    lab.shop.configure(preview={"environment": ENVIRONMENT}, budget={"seconds": 0.000001})
    before = lab.left_over(), lab.prod()
    lab.change(orders=ORDERS.format(factor=3))

    record = lab.job(PREVIEW)

    assert kinds(report_of_last(record)) == ["over_budget"]
    assert (lab.left_over(), lab.prod()) == before
    assert "Estimated: " in lab.preview(over_budget=True)["result"]


@on_duckdb
def test_a_failed_audit_of_a_preview_is_named_and_prod_stays(lab: Lab) -> None:
    before = lab.prod()
    audited = REVENUE.replace("grain day", "grain day, audits (forall(criteria := (amount < 0)))")
    lab.change(revenue=audited)

    record = lab.job(PREVIEW)

    assert record.status is dg.DagsterRunStatus.FAILURE
    assert "there is no environment pr_1 yet" in failure_of(record)
    assert "forall" in failure_of(record)
    assert lab.prod() == before


@on_duckdb
@pytest.mark.parametrize("suffix", ["md", "json"])
def test_the_report_is_written_to_a_file_also_if_the_preview_is_refused_or_closed(
    lab: Lab, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"report.{suffix}"
    lab.monkeypatch.setenv("DG_SQLMESH_REPORT", str(file))
    lab.change(orders=ORDERS.format(factor="(CASE WHEN id = 3 THEN 5 ELSE 2 END)"))
    lab.preview()
    ready = file.read_text()
    lab.close()
    closed = file.read_text()
    lab.job(PREVIEW, None)
    refused = file.read_text()

    if suffix == "json":
        assert diffs(json.loads(ready)).keys() == {"t.orders", "t.revenue"}
        assert json.loads(closed)["result"] == "Deleted the preview pr_1."
        assert kinds(json.loads(refused)) == ["unset_variable"]
    else:
        assert "| t.orders | 60 | 60 | 0 | 0 | 6 | amount (10 %) |" in ready
        assert "dg launch --job sqlmesh_shop_apply" in ready
        assert "Deleted the preview pr_1." in closed
        assert "PULL_REQUEST" in refused


@pytest.mark.attribute("preview.tags")
def test_jobs_have_the_tags_of_preview(new_shop: NewShop) -> None:
    shop = new_shop({"models/other.sql": OTHER})
    definitions = shop.configure(preview={"environment": ENVIRONMENT, "tags": {"team": "data"}})
    for job in (PREVIEW, CLOSE):
        assert definitions.resolve_job_def(job).tags["team"] == "data"


@on_duckdb
def test_a_model_that_reads_a_forward_only_preview_is_marked(lab: Lab) -> None:
    lab.change(orders=FORWARD_ONLY.format(factor=2))
    lab.shop.plan(at=None)
    lab.change(orders=FORWARD_ONLY.format(factor=3), revenue=REVENUE.replace("count(*)", "count(*) + 1"))

    revenue = diffs(lab.preview())["t.revenue"]

    assert (revenue["rows"], revenue["rows_prod"]) == (1, 6)
    assert "These are not the rows that prod will have" in revenue["note"]
    assert "t.orders, which this model reads" in revenue["note"]


@on_duckdb
def test_the_second_commit_is_categorized_against_prod(lab: Lab) -> None:
    lab.change(revenue=REVENUE.replace("sum(amount)", "avg(amount)"))
    lab.preview()
    lab.change(revenue=REVENUE.replace("sum(amount)", "avg(amount)").replace("AS orders", "AS orders, 1 AS new"))

    [model] = lab.preview()["models"]

    assert (model["name"], model["category"]) == ("t.revenue", "breaking")


@on_duckdb
def test_a_commit_that_takes_everything_back_shows_the_versions_of_prod(lab: Lab) -> None:
    before = lab.left_over()
    lab.change(orders=ORDERS.format(factor=3))
    lab.preview()
    lab.change(orders=ORDERS.format(factor=2))

    report = lab.preview()

    assert (report["models"], report["diff"]) == ([], [])
    assert lab.left_over()["models"] == before["models"]
    lab.close()
    assert lab.left_over() == before


@on_duckdb
def test_closing_leaves_the_version_that_prod_has_shown_before(lab: Lab) -> None:
    """It is needed to go back. SQLMesh's janitor deletes it when it expires."""
    before = lab.left_over()["models"]
    lab.change(orders=ORDERS.format(factor=3))
    launch(lab.shop, APPLY, digest=lab.preview()["digest"])
    lab.change(orders=ORDERS.format(factor=4))
    lab.preview()
    lab.close()
    assert before < lab.left_over()["models"]

    lab.change(orders=ORDERS.format(factor=5))
    launch(lab.shop, APPLY, digest=lab.preview(pull_request=2)["digest"])
    lab.change(orders=ORDERS.format(factor=6))
    launch(lab.shop, APPLY, digest=lab.preview(pull_request=3)["digest"])
    shown_before = lab.left_over()["models"]
    lab.close(pull_request=2)
    assert lab.left_over()["models"] == shown_before


@on_duckdb
def test_the_range_of_a_forward_only_change_is_known_after_the_janitor_has_merged_intervals(lab: Lab) -> None:
    lab.change(orders=FORWARD_ONLY.format(factor=2))
    lab.shop.plan(at=None)
    lab.change(orders=FORWARD_ONLY.format(factor=3))
    lab.preview()
    lab.shop.sqlmesh("janitor")

    orders = diffs(lab.preview())["t.orders"]

    assert (orders["rows"], orders["rows_prod"], orders["removed"], orders["changed"]) == (10, 10, 0, 10)
    assert orders["note"] == "Only the time from the first to the last row of the preview was compared."


def test_a_new_forward_only_model_is_marked_and_its_preview_is_deleted_after_the_apply(lab: Lab) -> None:
    before = lab.left_over()
    reader = "MODEL (name t.reader, kind FULL); SELECT day FROM t.late"
    lab.change(late=FORWARD_ONLY.format(factor=2).replace("t.orders", "t.late"), reader=reader)
    report = lab.preview()
    for name in ("t.late", "t.reader"):
        assert "Prod will not get this table: it has its own, which an apply computes." in diffs(report)[name]["note"]
    assert {model["name"]: model["intervals"] for model in report["models"]} == {"t.late": 6, "t.reader": 1}
    launch(lab.shop, APPLY, digest=report["digest"])

    lab.close()

    left = lab.left_over()
    assert not [name for _, name in left["tables"] - before["tables"] if name.endswith("__dev")]
    assert [row for row in left["intervals"] if row[-1]] == []
    assert lab.ask("SELECT count(*) FROM t.reader") == [(60,)]


def test_closing_two_previews_of_a_forward_only_change_leaves_no_intervals(lab: Lab) -> None:
    lab.change(orders=FORWARD_ONLY.format(factor=2))
    lab.shop.plan(at=None)
    before = lab.left_over()
    lab.change(orders=FORWARD_ONLY.format(factor=3))
    lab.preview(pull_request=1)
    lab.change(revenue=REVENUE.replace("kind FULL", "kind FULL, owner ann"))
    lab.preview(pull_request=2)

    lab.close(pull_request=1)
    assert lab.ask("SELECT count(*) FROM t__pr_2.orders") == [(10,)]
    lab.close(pull_request=2)

    assert lab.left_over() == before


SHAPE = "MODEL (name t.{name}, kind FULL{grain}); SELECT {columns} FROM raw.orders WHERE day = CURRENT_DATE"


def test_tables_of_other_shapes_are_compared_or_the_note_says_why_not(lab: Lab) -> None:
    def write(**columns: tuple[str, str]) -> None:
        lab.change(
            **{name: SHAPE.format(name=name, grain=grain, columns=text) for name, (grain, text) in columns.items()}
        )

    write(
        upper=(", grain (ID)", "id, 1 AS x"),
        apart=("", "1 AS a"),
        new_key=(", grain (id, other)", "id, 1 AS x"),
        wide=(", grain id", "id::INT AS id, -9000000000000000000000000000::DECIMAL(38, 10) AS x"),
        sampled=(", grain id", "id::INT AS id, 1 AS x"),
    )
    lab.shop.plan(at=None)
    write(
        upper=(", grain (ID)", "id, 2 AS x"),
        apart=("", "1 AS b"),
        new_key=(", grain (id, other)", "id, 1 AS x, 5 AS other"),
        wide=(", grain id", "id::INT AS id, 9000000000000000000000000000::DECIMAL(38, 10) AS x"),
        sampled=(", grain id", "id::DECIMAL(10, 2) AS id, 2 AS x"),
    )

    found = diffs(lab.preview())

    counts = {name: (diff["added"], diff["removed"], diff["changed"]) for name, diff in found.items()}
    assert counts["t.upper"] == counts["t.wide"] == counts["t.sampled"] == (0, 0, 10)
    assert "have no column in common" in found["t.apart"]["note"]
    assert "do not both have all columns of the key (id, other)" in found["t.new_key"]["note"]
    lab.shop.configure(preview={"environment": ENVIRONMENT, "diff": {"max_rows": 5}})
    sampled = diffs(lab.preview())["t.sampled"]
    assert (sampled["added"], sampled["removed"]) == (0, 0), "the same keys on both sides, although their types differ"


def test_a_model_that_cannot_be_compared_fails_the_job_without_a_value_in_its_report(lab: Lab) -> None:
    """A key of another type is compared as a number. The engine's message would quote the text of the row."""
    view = "MODEL (name t.broken, kind VIEW, grain id); SELECT id, {x} AS x FROM t.orders"
    lab.change(broken=view.format(x="label"))
    lab.shop.plan(at=None)
    lab.change(broken=view.format(x="(label || 'secret')::INT"))

    record = lab.job(PREVIEW)

    assert record.status is dg.DagsterRunStatus.FAILURE
    assert "Could not be compared: t.broken." in failure_of(record)
    assert "SELECT" in failure_of(record)
    broken = diffs(report_of_last(record))["t.broken"]
    assert broken["note"].startswith("Not compared: the engine raised ")
    assert "secret" not in json.dumps(broken)
