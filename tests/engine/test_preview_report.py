"""The report of a preview: audits and unit tests, amounts, affected assets, and where to look."""

import json
from pathlib import Path

import pytest
from engine.plan_jobs import APPLY, launch, text_of
from engine.preview_lab import ORDERS, PREVIEW, REVENUE, Lab, audits, on_duckdb, report_of_last
from harness import BIN, needs_previews, run

pytestmark = needs_previews

AUDITED = REVENUE.replace(
    "grain day",
    "grain day, audits (not_null(columns := (amount)), few_orders, "
    "forall(criteria := (amount < 150), blocking := false))",
)
FEW_ORDERS = "AUDIT (name few_orders, blocking false); SELECT * FROM @this_model WHERE orders > 10"
UNIT_TEST = """
test_revenue:
  model: t.revenue
  inputs:
    t.orders:
    - {day: 2026-01-01, id: 1, amount: 2.0, label: x}
    - {day: 2026-01-01, id: 2, amount: 3.0, label: x}
  outputs:
    query:
    - {day: 2026-01-01, amount: 5.0, orders: 2}
"""
DOWNSTREAM = """
import dagster as dg


@dg.asset(deps=[dg.AssetKey(["t", "revenue"])], group_name="dashboards", owners=["ann@example.com"])
def dashboard(): ...


@dg.asset(deps=[dashboard])
def mail(): ...


@dg.asset(deps=[dg.AssetKey(["t", "other"])])
def unrelated(): ...


def of_revenue(column):
    deps = [dg.TableColumnDep(asset_key=dg.AssetKey(["t", "revenue"]), column_name=column)]
    metadata = {"dagster/column_lineage": dg.TableColumnLineage(deps_by_column={"own": deps})}
    return dg.AssetSpec(f"dbt_{column}", deps=[dg.AssetKey(["t", "revenue"])], metadata=metadata)


defs = dg.Definitions(assets=[dashboard, mail, unrelated, of_revenue("amount"), of_revenue("orders")])
"""


@pytest.fixture
def audited(lab: Lab) -> Lab:
    """Prod has models with audits and a unit test, and assets of others read them."""
    lab.change(revenue=AUDITED)
    (lab.shop.project / "audits").mkdir(exist_ok=True)
    (lab.shop.project / "audits" / "few.sql").write_text(FEW_ORDERS)
    (lab.shop.project / "tests").mkdir(exist_ok=True)
    (lab.shop.project / "tests" / "test_revenue.yaml").write_text(UNIT_TEST)
    (lab.shop.root / lab.shop.root.name / "defs" / "downstream.py").write_text(DOWNSTREAM)
    lab.shop.plan(at=None)
    return lab


def test_audits_of_changed_models_are_compared_with_prod_and_unit_tests_are_counted(audited: Lab) -> None:
    audited.change(orders=ORDERS.format(factor=3))

    record = audited.job(PREVIEW)

    report, text = report_of_last(record), text_of(record)
    assert audits(report) == {"not_null": (0, 0), "few_orders": (0, 0), "forall": (6, 0)}
    assert report["unit_tests"] == 1
    assert "**To decide:** 1 failing audit, 3 assets outside of SQLMesh affected." in text
    assert "Audits that pass in the preview: 2 of 3. 1 unit test passed." in text
    assert "| `t.revenue` | forall (criteria: (amount &#60; 150)) | 6 | 0 | only warns |" in text
    assert text.index("### Audits and unit tests") < text.index("### Data compared with prod")


@pytest.mark.night("test_audits_of_changed_models_are_compared_with_prod_and_unit_tests_are_counted")
@on_duckdb
def test_an_audit_that_only_the_preview_has_is_evaluated_on_prods_table(audited: Lab) -> None:
    audited.change(
        revenue=AUDITED.replace("few_orders", "few_orders, number_of_rows(threshold := 9, blocking := false)")
    )

    report = audited.preview()

    assert audits(report)["number_of_rows"] == (1, 1), "only the audits differ, so the table is prod's"


@pytest.mark.slow
@on_duckdb
def test_an_audit_of_a_new_column_has_no_result_in_prod(audited: Lab) -> None:
    more = AUDITED.replace("count(*) AS orders", "count(*) AS orders, NULL::INT AS tax")
    audited.change(revenue=more.replace("few_orders", "few_orders, not_null(columns := (tax), blocking := false)"))

    record = audited.job(PREVIEW)

    by_columns = {audit["args"].get("columns"): audit for audit in report_of_last(record)["audits"]}
    assert (by_columns["(tax)"]["failing_rows"], by_columns["(tax)"]["failing_rows_prod"]) == (6, None)
    assert "| `t.revenue` | not&#95;null (columns: (tax)) | 6 |  | only warns |" in text_of(record).replace(
        "not_null", "not&#95;null"
    )


@pytest.mark.night(
    "unit/capabilities/plans/test_data_tables.py",
    "engine/test_preview_diffs.py::test_a_large_model_is_compared_on_a_sample_of_its_keys_and_marked",
)
def test_amounts_of_columns_that_differ_are_shown_for_both(audited: Lab) -> None:
    audited.change(orders=ORDERS.format(factor=3).replace("'x' AS label", "NULLIF(id, 1)::INT AS label"))

    record = audited.job(PREVIEW)

    found = {diff["model"]: diff["amounts"] for diff in report_of_last(record)["diff"]}
    amounts = {"preview": {"nulls": 0, "sum": 990.0, "minimum": 165.0, "maximum": 165.0},
               "prod": {"nulls": 0, "sum": 660.0, "minimum": 110.0, "maximum": 110.0}}  # fmt: skip
    assert found["t.revenue"]["amount"] == amounts
    assert found["t.orders"]["label"]["preview"]["nulls"] == 6
    text = text_of(record)
    assert "| `t.orders` | `amount` | 60 of 60 | 990, was 660, +50 % | 3 to 30, was 2 to 20 | 0 |" in text
    assert "| `t.orders` | `label` | 60 of 60 |  |  | 6, was 0 |" in text
    assert "`SELECT * FROM" in text
    assert f"- The run: `{record.run_id}`" in text


@pytest.mark.slow
@on_duckdb
@pytest.mark.attribute("webserver_base_url")
def test_assets_downstream_of_changed_models_are_named_with_their_owners(audited: Lab, tmp_path: Path) -> None:
    audited.shop.configure(
        deploy={}, preview={"environment": "pr_1"}, webserver_base_url="https://dagster.example.com/"
    )
    audited.change(orders=ORDERS.format(factor=3))
    root = audited.shop.root
    done = run(
        [BIN / "dg", "launch", "--target-path", root, "--job", PREVIEW],
        cwd=tmp_path,
        DAGSTER_HOME=str(audited.shop.instance.root_directory),
        PYTHONPATH=str(root),
        DG_SQLMESH_REPORT=str(tmp_path / "report"),
    )

    assert "RUN_SUCCESS" in done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    reached = [
        {"asset": "dashboard", "owner": "ann@example.com", "columns": None},
        {"asset": "dbt_amount", "owner": None, "columns": ["amount"]},
        {"asset": "dbt_orders", "owner": None, "columns": []},
        {"asset": "mail", "owner": None, "columns": None},
    ]
    assert {model["name"]: model["downstream"] for model in report["models"]} == dict.fromkeys(
        ("t.orders", "t.revenue"), reached
    )
    text = (tmp_path / "report.md").read_text()
    assert "**To decide:** 1 failing audit, 3 assets outside of SQLMesh affected." in text
    unknown = "(columns not known)"
    assert f"| dashboards | ann@<!-- -->example.com | `t.orders` {unknown}, `t.revenue` {unknown} |" in text
    assert "| `dbt_amount` | default |  | `t.orders` (`amount`), `t.revenue` (`amount`) |" in text
    assert "Downstream, but reads no lost or changed column: 1 asset." in text
    assert "m1 --> a0" in text
    assert "m0 --> a0" not in text, "it reads t.orders only through t.revenue"
    assert f"(https://dagster.example.com/runs/{report['run_id']})" in text


@pytest.mark.attribute("preview.sample_rows", "preview.columns", "preview.mask")
def test_example_rows_have_the_chosen_columns_and_no_masked_values(audited: Lab) -> None:
    audited.shop.configure(
        deploy={},
        preview={
            "environment": "pr_1", "sample_rows": 2, "columns": ["day", "id", "amount", "label"], "mask": ["label"],
        },
    )  # fmt: skip
    more = ORDERS.format(factor="(CASE WHEN id = 3 THEN 5 ELSE 2 END)").replace("'x' AS label", "'y' AS label")
    audited.change(orders=more.replace("WHERE day", "WHERE id <> 7 AND day"))

    record = audited.job(PREVIEW)

    examples = {diff["model"]: diff["examples"] for diff in report_of_last(record)["diff"]}["t.orders"]
    assert sorted(examples) == ["changed", "removed"]
    assert [set(row) for row in examples["removed"]] == [{"day", "id", "amount", "label"}] * 2
    assert {(row["id"], float(row["amount"]), row["label"]) for row in examples["removed"]} == {("7", 14, "***")}
    changed = examples["changed"][0]
    assert set(changed) == {"day", "id", "amount", "amount in prod", "label", "label in prod"}
    assert (changed["label"], changed["label in prod"]) == ("***", "***")
    assert "<summary>Some changed rows of <code>t.orders</code></summary>" in text_of(record)


def test_audits_of_a_preview_are_results_of_checks_after_the_apply(audited: Lab) -> None:
    audited.change(
        orders=ORDERS.format(factor=3),
        other="MODEL (name t.other, kind FULL, audits (not_null(columns := (x)))); SELECT 2 AS x",
    )
    preview = audited.job(PREVIEW)

    record = launch(audited.shop, APPLY, digest=report_of_last(preview)["digest"])

    checks = record.checks
    [forall] = [name for name in checks if name.startswith("t/revenue:forall")]
    assert (checks[forall].passed, checks["t/revenue:not_null_amount"].passed) == (False, True)
    assert checks["t/other:not_null_x"].passed
    failed = checks[forall]
    assert str(failed.description).startswith("6 rows failed")
    assert failed.metadata["sqlmesh/evaluated_in_run"].value == preview.run_id
    assert failed.metadata["sqlmesh/failing_row_count"].value == 6
