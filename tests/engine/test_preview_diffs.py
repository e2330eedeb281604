"""How `<op>_preview` compares the data of a pull request with prod."""

import json
import re

import pytest
from engine.plan_jobs import failure_of
from engine.preview_lab import (
    ENVIRONMENT,
    FORWARD_ONLY,
    LATE,
    ORDERS,
    PREVIEW,
    REVENUE,
    Lab,
    audits,
    diffs,
    on_duckdb,
    report_of_last,
)
from harness import needs_previews

pytestmark = needs_previews


AUDITED_FORWARD_ONLY = FORWARD_ONLY.replace(
    "grain (day, id)", "grain (day, id), audits (forall(criteria := (amount < 20), blocking := false))"
)


def test_a_forward_only_change_is_compared_on_its_own_range_and_others_on_all_of_theirs(lab: Lab) -> None:
    lab.change(orders=AUDITED_FORWARD_ONLY.format(factor=2))
    lab.shop.plan(at=None)
    before = lab.prod()
    lab.change(orders=AUDITED_FORWARD_ONLY.format(factor=3), late=LATE)

    report = lab.preview()

    assert audits(report) == {"forall": (4, 1)}, "of the only day that the preview has computed"
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


WIDE = """
MODEL (name t.wide, kind FULL, grain id);
SELECT id::INT AS id, {a} AS a, {b} AS b, {c} AS c, {d} AS d{e} FROM raw.orders WHERE day = CURRENT_DATE
"""


@pytest.mark.attribute("preview.diff.decimals")
def test_values_are_equal_up_to_a_decimal_place_and_types_may_differ(lab: Lab) -> None:
    lab.change(wide=WIDE.format(a="1.5::DOUBLE PRECISION", b="1::INT", c="NULL::TEXT", d="id::INT", e=", 1 AS gone"))
    lab.shop.plan(at=None)
    changed = {"a": "1.5004::DOUBLE PRECISION", "b": "1.0::DOUBLE PRECISION", "c": "NULLIF(id, 1)::TEXT"}
    lab.change(wide=WIDE.format(**changed, d="id::TEXT", e=", 1 AS come"))

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
    nulls = {side: amounts["nulls"] for side, amounts in orders["amounts"]["amount"].items()}
    assert nulls == {"preview": 6, "prod": 0}
    assert 0 < orders["changed"] < 60
    assert (orders["added"], orders["removed"]) == (0, 0), "the same keys on both sides"


@pytest.mark.night(
    "unit/capabilities/plans/test_data_tables.py::test_the_note_says_which_rows_prod_will_have_after_the_apply",
    "engine/test_previews.py::test_a_new_forward_only_model_is_marked_and_its_preview_is_deleted_after_the_apply",
)
@on_duckdb
def test_a_model_that_reads_a_forward_only_preview_is_marked(lab: Lab) -> None:
    lab.change(orders=FORWARD_ONLY.format(factor=2))
    lab.shop.plan(at=None)
    lab.change(orders=FORWARD_ONLY.format(factor=3), revenue=REVENUE.replace("count(*)", "count(*) + 1"))

    revenue = diffs(lab.preview())["t.revenue"]

    assert (revenue["rows"], revenue["rows_prod"]) == (1, 6)
    assert "These are not the rows that prod will have" in revenue["note"]
    assert "t.orders, which this model reads" in revenue["note"]


@pytest.mark.slow
@on_duckdb
def test_the_range_of_a_forward_only_change_is_known_after_the_janitor_has_merged_intervals(lab: Lab) -> None:
    lab.change(orders=AUDITED_FORWARD_ONLY.format(factor=2))
    lab.shop.plan(at=None)
    lab.change(orders=AUDITED_FORWARD_ONLY.format(factor=3))
    lab.preview()
    lab.shop.sqlmesh("janitor")

    report = lab.preview()

    assert audits(report) == {"forall": (4, None)}
    orders = diffs(report)["t.orders"]
    assert (orders["rows"], orders["rows_prod"], orders["removed"], orders["changed"]) == (10, 10, 0, 10)
    assert orders["note"] == (
        "Only the time from the first to the last row of the preview was compared. "
        "Prod keeps its rows: runs compute later intervals by the new definition."
    )


SHAPE = "MODEL (name t.{name}, kind FULL{grain}); SELECT {columns} FROM raw.orders WHERE day = CURRENT_DATE"


@pytest.mark.night(
    "unit/capabilities/plans/worker/test_table_comparison.py",
    "unit/capabilities/plans/worker/test_table_comparison_queries.py",
    "test_new_and_removed_models_are_part_of_the_diff",
)
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


@pytest.mark.advice("so it is not shown. Execute the query to see it.")
def test_a_model_that_cannot_be_compared_fails_the_job_without_a_value_in_its_report(lab: Lab) -> None:
    """A key of another type is compared as a number. The engine's message would quote the text of the row."""
    view = "MODEL (name t.broken, kind VIEW, grain id); SELECT id, {x} AS x FROM t.orders"
    lab.change(broken=view.format(x="label"))
    lab.shop.plan(at=None)
    lab.change(broken=view.format(x="(label || 'secret')::INT"))

    record = lab.job(PREVIEW).failed()
    assert "Could not be compared: t.broken." in failure_of(record)
    [query] = re.findall(r"^t\.broken: .*\n((?:.|\n)+?)(?:\n\n|\Z)", failure_of(record).strip(), re.MULTILINE)
    with pytest.raises(Exception, match="xsecret"):
        lab.ask(query)
    broken = diffs(report_of_last(record))["t.broken"]
    assert broken["note"].startswith("Not compared: the engine raised ")
    assert "secret" not in json.dumps(broken)


LOADED = """
MODEL (name t.{name}, kind FULL{grain});
SELECT id, {x} AS x, {clock} AS {column} FROM raw.orders WHERE day = CURRENT_DATE
"""


@pytest.mark.attribute("preview.diff.ignore")
@on_duckdb
def test_what_differs_by_the_clock_alone_is_told_or_ignored(lab: Lab) -> None:
    lab.shop.configure(preview={"environment": ENVIRONMENT, "diff": {"ignore": ["*_LOADED_AT"]}}, deploy=True)

    def write(x: str) -> None:
        lab.change(
            ignored=LOADED.format(name="ignored", grain=", grain id", x=x, clock="random()", column="_loaded_at"),
            clock=LOADED.format(name="clock", grain="", x=x, clock="now()::TEXT", column="at"),
            reader="MODEL (name t.reader, kind FULL, grain id); SELECT c.id, c.at || '!' AS seen FROM t.clock AS c",
        )

    write("1")
    lab.shop.plan(at=None)
    write("1::INT")

    record = lab.job(PREVIEW).succeeded()
    assert "Compared with prod: 3 models, 2 different, 2 of them only by the clock." in record.log
    found = diffs(report_of_last(record))
    assert (found["t.ignored"]["changed"], found["t.ignored"]["columns"]) == (0, {"x": 1.0})
    assert found["t.ignored"]["note"] == "Not compared, because `preview.diff.ignore` names them: _loaded_at."
    for name, column in (("t.clock", "at"), ("t.reader", "seen")):
        assert f"Rows differ only in columns that have another value each time: {column}." in found[name]["note"]
