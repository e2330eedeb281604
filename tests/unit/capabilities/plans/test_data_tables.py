"""What a report says about the data of a preview, by counts alone."""

from dataclasses import replace
from typing import Any

import pytest
from unit.builders import days
from unit.capabilities.plans.plans import ORDERS, drops, plan, with_facts

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.data_tables import (
    HEAD,
    as_json,
    column_rows,
    differs,
    lacks_rows,
    note,
    row,
)
from dg_sqlmesh_component.capabilities.plans.gate import Refusal
from dg_sqlmesh_component.capabilities.plans.report import Planned, PlanReport
from dg_sqlmesh_component.capabilities.plans.report_markdown import markdown


def compared(**more: Any) -> msg.ModelCompared:
    counts = {"rows": 10, "rows_prod": 12, "added": 1, "removed": 3, "changed": 2}
    return msg.ModelCompared('"t"."a"', "t.a", **{**counts, **more})


def test_a_row_of_the_table_has_all_counts_and_the_columns_that_differ() -> None:
    differing = compared(columns={"a": 1.0, "b": 0.5, "c": 0.99999, "d": 0.0})
    assert dict(zip(HEAD, row(differing), strict=True)) == {
        "Model": "t.a", "Rows": "10", "In prod": "12", "Added": "1", "Removed": "3", "Changed": "2", "Note": "",
    }  # fmt: skip


def test_added_and_removed_rows_without_a_key_say_so_in_their_cells() -> None:
    assert row(compared(key_problem="no_grain", removed=0, changed=None))[3:6] == ["1 (no key)", "0", ""]


def test_amounts_that_are_not_finite_are_shown() -> None:
    amounts = {"x": (msg.Amounts(0, "inf", 1.0, "inf"), msg.Amounts(0, 3.0, 1.0, 2.0))}
    assert [cells[3:5] for cells in column_rows(compared(amounts=amounts))] == [["inf, was 3", "1 to inf, was 1 to 2"]]


@pytest.mark.parametrize(
    ("new", "total"),
    [
        (msg.Amounts(0, 0.1 + 0.2, -1.0, 1.0), None),
        (msg.Amounts(1, 0.1 + 0.2, -1.0, 1.0), "0.3"),
        (msg.Amounts(0, 0.3 + 1e-10, -1.0, 1.0), "0.3, +< 0.1 %"),
        (msg.Amounts(0, None, -1.0, 1.0), "none, was 0.3"),
    ],
    ids=["the last digits", "NULLs", "more than these", "no total"],
)
def test_a_total_that_was_added_up_in_another_order_is_equal(new: msg.Amounts, total: str | None) -> None:
    rows = list(column_rows(compared(changed=None, amounts={"x": (new, msg.Amounts(0, 0.3, -1.0, 1.0))})))
    assert [cells[3] for cells in rows] == ([] if total is None else [total])


def test_totals_of_whole_numbers_are_equal_only_if_all_digits_are() -> None:
    amounts = {"id": (msg.Amounts(0, 3e12 + 5, 1.0, 9e6), msg.Amounts(0, 3e12, 1.0, 9e6))}
    assert [cells[1] for cells in column_rows(compared(changed=None, amounts=amounts))] == ["id"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"rows_prod": None}, "New in the preview."),
        ({"rows": None}, "Removed in the preview."),
        (
            {"schema": (*drops("x"), msg.ColumnChange("y", None, "INT"), msg.ColumnChange("z", None, ""))},
            "The new table drops x, adds y INT, adds z.",
        ),
        ({"ranges": (days(1, 2),)}, "Only 2026-01-01 to 2026-01-02 (2 days) was compared, which both have computed."),
        ({"is_partial": True}, "The preview has computed only a part, so the other rows of prod count as removed."),
        (
            {"is_partial": True, "rows": None, "rows_prod": None},
            "The preview has computed nothing of it, so there is nothing to compare.",
        ),
        (
            {"only_its_time": True, "rows": 0},
            "The preview has no rows, and it is not known which time it has computed, so all of prod was compared.",
        ),
        ({"ignored": ("a_at", "b_at")}, "Not compared, because `preview.diff.ignore` names them: a_at, b_at."),
        ({"clock": ("at",)}, "Rows differ only in columns that have another value each time: at."),
        ({"sample": 0.01}, "A sample of 1 % of the keys: it has these added, removed and changed rows."),
        (
            {"key_problem": "no_grain", "changed": None},
            "Rows were not matched, because the model has no `grain`. A changed row counts as removed and as added.",
        ),
        (
            {"key_problem": "duplicate_keys", "keys": ("id",), "added": None, "removed": None, "changed": None},
            "Rows were not matched, because several rows share a key (id). There are too many rows to compare them "
            "without a key, so they were only counted.",
        ),
        (
            {"key_problem": "engine", "added": None, "removed": None, "changed": None},
            "Rows were not matched, because no test has done that on this engine. They were only counted.",
        ),
        (
            {"reads_partial": ("t.b",)},
            "These are not the rows that prod will have: the preview has computed only a part of t.b, which this model "
            "reads.",
        ),
        (
            {"error": "ConversionException"},
            "Not compared: the engine raised ConversionException. The failure of the step has the query.",
        ),
    ],
)
def test_the_note_says_what_a_reader_has_to_know(more: dict[str, Any], sentence: str) -> None:
    assert note(compared(**more)) == sentence


KEPT = "Prod keeps its rows until a run after the next tick of its cron (`@daily`) computes them."


@pytest.mark.parametrize(
    ("planned", "sentence"),
    [
        ({}, ""),
        ({"kept": msg.KeptRows("@daily", 0, True)}, KEPT),
        (
            {"kept": msg.KeptRows("@daily", 0, False), "is_shared": True},
            "Prod keeps its rows: runs compute later intervals by the new definition.",
        ),
        ({"is_shared": True}, "Prod will not get this table: it has its own, which an apply computes."),
        ({"is_shared": True, "intervals": 0}, ""),
        (
            {"reads_kept": ("t.b", "t.c")},
            "Prod will have other rows at first: this model reads t.b, t.c, which keeps its rows.",
        ),
    ],
)
def test_the_note_says_which_rows_prod_will_have_after_the_apply(planned: dict[str, Any], sentence: str) -> None:
    assert note(compared(), with_facts(ORDERS, **planned)) == sentence


def test_json_has_the_names_that_scripts_use() -> None:
    assert as_json(compared(columns={"a": 0.5})).items() >= {
        "model": "t.a", "rows": 10, "rows_prod": 12, "added": 1, "removed": 3, "changed": 2, "columns": {"a": 0.5},
        "note": "",
    }.items()  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        {"removed": 0},
        {"removed": None},
        {"is_partial": True},
        {"reads_partial": ("t.b",)},
        {"rows": None},
        {"clock": ("at",)},
        {"key_problem": "no_grain", "rows_prod": 10},
    ],
)
def test_rows_that_a_preview_has_not_computed_are_not_removed(more: dict[str, Any]) -> None:
    assert lacks_rows(compared())
    assert not lacks_rows(compared(**more))


EQUAL: dict[str, Any] = {"rows_prod": 10, "added": 0, "removed": 0, "changed": 0}


@pytest.mark.parametrize(
    ("more", "is_different"),
    [
        ({}, False),
        ({"changed": 1}, True),
        ({"schema": drops("x")}, True),
        ({"rows_prod": None}, True),
        ({"rows": None}, True),
        ({"added": None, "removed": None, "changed": None}, False),
        ({"changed": None, "amounts": {"x": (msg.Amounts(0, 1.0), msg.Amounts(0, 2.0))}}, True),
        ({"error": "Error", "rows": None}, False),
    ],
    ids=str,
)
def test_a_compared_model_is_different_if_its_rows_or_columns_are(more: dict[str, Any], is_different: bool) -> None:
    assert differs(compared(**{**EQUAL, **more})) is is_different


def test_columns_that_a_plan_does_not_know_are_those_of_the_tables_that_a_preview_has_compared() -> None:
    planned = Planned(plan(replace(ORDERS, columns=None)))
    of_tables = replace(compared(schema=drops("x"), removed=0), fqn=ORDERS.fqn)
    unknown = "columns are not known before it is computed"
    for diff, columns, seen, to_decide in (
        ([], None, unknown, "1 model with unknown columns"),
        ([replace(of_tables, schema=(), error="Error")], None, unknown, "1 model with unknown columns"),
        ([of_tables], ["drops x"], "drops x", "1 loss."),
    ):
        report = PlanReport("pr_1", is_preview=True, prod=planned, diff=diff)
        [model] = report.as_json()["models"]
        text = markdown(report)
        assert model["columns"] == columns
        assert f"| `core.orders` | changed (breaking) | {seen} |" in text
        assert f"**To decide:** {to_decide}" in text
        assert ("drops x: queries that use the column will fail" in text) == (columns is not None)


def test_a_job_that_has_failed_reports_the_failure_once_and_first() -> None:
    refused = [Refusal("error", ("t.a",), "Failed. t.a failed its audit.")]
    report = PlanReport("prod", is_apply=True, prod=Planned(plan(ORDERS)), problems=refused, result=refused[0].message)
    text = markdown(report)
    assert "\n\nFailed. t.a failed its audit.\n\n**To decide:** 1 failure.\n\n" in text
    assert text.count("failed its audit") == 1


@pytest.mark.parametrize("is_shown", [True, False])
def test_a_report_has_the_views_of_a_preview_only_after_its_promotion(is_shown: bool) -> None:
    planned = Planned(plan(with_facts(ORDERS, view="core__pr_1.orders")))
    report = PlanReport("pr_1", is_preview=True, preview=planned, prod=planned if is_shown else None)
    assert ("SELECT * FROM core__pr_1.orders" in markdown(report)) is is_shown


def test_the_markdown_of_a_preview_has_the_command_that_applies_it_before_its_data() -> None:
    report = PlanReport(
        "pr_1",
        is_preview=True,
        prod=Planned(plan(ORDERS), digest="d1", apply_config={"ops": {"shop_apply": {}}}),
        result="The preview is ready.",
        diff=[compared()],
    )
    text = markdown(report)
    assert text.startswith("## Preview pr_1\n\nThe preview is ready.\n\n**To decide:** 1 model with removed rows.\n")
    assert "\n\nPlan for environment prod: 1 changed; 3 intervals to compute.\n\n" in text
    assert "### Data compared with prod\n\n| Model | Rows |" in text
    assert "| `t.a` | 10 | 12 | 1 | 3 | 2 |" in text
    assert text.index("dg launch --job shop_apply") < text.index("| `t.a` |")
