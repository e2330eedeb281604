"""Dagster's own schema checks, and whatever reads events, see the columns of the version that ran.

The first test takes more than ten seconds: each of its three plans and six runs sees other columns.
"""

import re
from typing import Any

import dagster as dg
import pytest
from engine.recorded_models import BY_DAY, OP, day, tick
from harness import CONFIG, REPOSITORY, NewShop, RunRecord, Shop

MODELS = {
    "models/days.sql": f"MODEL (name t.days, {BY_DAY}, column_descriptions (n = 'A number.')); "
    "SELECT @start_ds::DATE AS ds, u.n FROM t.unit AS u",
    "models/unit.sql": "MODEL (name t.unit, kind FULL); SELECT 1 AS n",
    # No external_models.yaml: SQLMesh does not know what `*` is.
    "models/star.sql": "MODEL (name t.star, kind FULL); SELECT * FROM raw.wide",
}

WIDER = MODELS["models/days.sql"].replace("SELECT", "SELECT 'x' AS extra,")


def schema_changes(shop: Shop, by: str = "columns") -> dict[str, str]:
    """What Dagster's checks of columns or rows find, by asset that they fail for."""
    [code] = re.findall(r"```python\n(# defs/alarms.py.*?)```", (REPOSITORY / "docs/alerts.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace('"shop", "orders"', '"t", "days"').replace('"shop", "revenue"', '"t", "star"'), names)
    checks = names["schema_checks"] if by == "columns" else names["row_checks"]
    job = dg.define_asset_job("checks", dg.AssetSelection.all_asset_checks())
    run = dg.Definitions(asset_checks=checks, jobs=[job]).resolve_job_def("checks")
    result = run.execute_in_process(instance=shop.instance)
    return {
        evaluation.asset_key.to_user_string(): evaluation.description or ""
        for evaluation in result.get_asset_check_evaluations()
        if not evaluation.passed
    }


def columns(run: RunRecord, asset: str) -> dict[str, tuple[str, str | None]]:
    schema: Any = run.materializations[asset].metadata["dagster/column_schema"].value
    return {column.name: (column.type, column.description) for column in schema.columns}


@pytest.mark.night("test_materializations_have_their_columns_and_rows")
def test_each_materialization_has_the_columns_of_the_version_that_ran(new_shop: NewShop) -> None:
    tables = {"raw.wide": "SELECT 1 AS a, 'x' AS b"}
    config = CONFIG.replace("6 days ago", f"'{day(8)}'")
    attributes: dict[str, Any] = {"include_metadata": ["column_lineage"], "polling_sensor": True}
    shop = new_shop(MODELS, config, tables=tables, planned_at=f"{day(7)} 12:00:00", **attributes)
    shop.launch(ops={OP: {"end": day(6)}})
    # The run has recorded what the plan has computed. Its columns are those of the definitions.
    assert schema_changes(shop) == {"t/star": "Previous materialization has no column schema metadata"}
    run = shop.launch(ops={OP: {"end": day(5)}})
    assert schema_changes(shop) == {}
    assert columns(run, "t/days") == {"ds": ("DATE", None), "n": ("INT", "A number. From t.unit.n.")}
    assert columns(run, "t/star") == {"a": ("INT", None), "b": ("TEXT", None)}, "the database knows them"
    lineage: Any = run.materializations["t/days"].metadata["dagster/column_lineage"].value
    assert lineage.deps_by_column["n"] == [dg.TableColumnDep(dg.AssetKey(["t", "unit"]), "n")]

    (shop.project / "models/days.sql").write_text(WIDER)  # and the definitions stay as they are
    shop.plan(at=f"{day(4)} 12:00:00")
    run = shop.launch(ops={OP: {"end": day(3)}})
    assert [*columns(run, "t/days")] == ["extra", "ds", "n"]
    assert "dagster/column_lineage" not in run.materializations["t/days"].metadata, "it is of another version"
    assert schema_changes(shop) == {}, "the run has recorded what the plan has computed, with the same columns"

    (shop.project / "models/days.sql").write_text(MODELS["models/days.sql"])
    shop.plan(at=f"{day(2)} 12:00:00")
    tick(shop)
    assert {asset: "extra" in text for asset, text in schema_changes(shop).items()} == {"t/days": True}
    shop.launch()
    assert schema_changes(shop) == {}


def test_materializations_have_their_columns_and_rows(new_shop: NewShop) -> None:
    shop = new_shop(MODELS, tables={"raw.wide": "SELECT 1 AS a, 'x' AS b"}, include_metadata=["row_count"])
    shop.query("DELETE FROM raw.wide")
    run = shop.launch()
    assert [*columns(run, "t/days")] == ["ds", "n"]
    assert [*columns(run, "t/star")] == ["a", "b"]
    assert [*schema_changes(shop, by="rows")] == ["t/star"]
