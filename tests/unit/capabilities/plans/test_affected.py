"""Which assets of others a plan affects, and by which columns."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
from unit.builders import manifest, model, project_assets
from unit.capabilities.plans.plans import drops, plan, with_facts

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.affected import (
    Affected,
    affected_assets,
    by_asset,
    changed_columns,
    lineage_in,
)

BASE, MIDDLE = '"db"."core"."base"', '"db"."core"."middle"'
LOST_X = msg.PlannedModel(BASE, "core.base", "changed", "breaking", columns=drops("x"))
RETYPED_Z = msg.ColumnChange("z", "INT", "TEXT")
SAME = msg.ModelCompared(BASE, "core.base", 5, 5, 0, 0, 0, {"x": 1.0, "y": 0.5, "z": 1.0})


@pytest.mark.parametrize(
    ("planned", "compared", "is_compared", "changed"),
    [
        ({}, SAME, True, {"x", "y"}),
        ({}, None, True, {"x"}),
        ({}, None, False, None),
        ({"category": "non_breaking"}, None, False, {"x"}),
        ({"columns": None}, None, True, None),
        ({"columns": None}, replace(SAME, schema=(*drops("x"), RETYPED_Z)), True, {"x", "y", "z"}),
    ],
    ids=["values differ", "the same table", "nothing compared", "nothing else can differ", "not known", "of the table"],
)
def test_lost_and_changed_columns(
    planned: dict[str, Any], compared: msg.ModelCompared | None, is_compared: bool, changed: set[str] | None
) -> None:
    found = changed_columns(replace(LOST_X, **planned), compared, "xyz", is_compared=is_compared)
    assert found == changed


@pytest.mark.parametrize(
    ("counts", "changed"),
    [
        ({"added": 1}, {"x", "y", "z"}),
        ({"removed": 1}, {"x", "y", "z"}),
        ({"added": None, "removed": None}, None),
        ({"sample": 0.1}, None),
        ({"ranges": ((1, 2),)}, None),
        ({"is_partial": True}, None),
        ({"only_its_time": True}, None),
        ({"reads_partial": ("core.raw",)}, None),
        ({"error": "Error"}, None),
    ],
)
def test_other_rows_change_all_columns_and_some_tell_of_none(counts: dict[str, Any], changed: set[str] | None) -> None:
    assert changed_columns(LOST_X, replace(SAME, **counts), "xyz", is_compared=True) == changed


def test_rows_that_differ_only_by_the_clock_change_no_other_column() -> None:
    by_clock = replace(SAME, added=5, removed=5, clock=("z",))
    assert changed_columns(LOST_X, by_clock, "xyz", is_compared=True) == {"x", "z"}


def test_rows_that_prod_keeps_may_change_later() -> None:
    kept = with_facts(LOST_X, kept=msg.KeptRows("@daily", 0, False))
    assert changed_columns(kept, None, "xyz", is_compared=True) is None
    assert changed_columns(kept, SAME, "xyz", is_compared=True) is None


def test_other_rows_of_a_model_without_known_columns() -> None:
    new = replace(LOST_X, change="added", columns=())
    rows = msg.ModelCompared(BASE, "core.base", 5, None, 5, 0, 0)
    assert changed_columns(new, rows, (), is_compared=True) is None
    common = replace(SAME, added=1, amounts={"y": (msg.Amounts(0), msg.Amounts(0))}, keys=("k",))
    assert changed_columns(LOST_X, common, (), is_compared=True) == {"x", "y", "k"}


def followed(
    reads: Mapping[str, msg.ColumnReads | None],
    *,
    lineage: dict[str, list[str]] | None = None,
    deps: Sequence[str] = ("core/middle",),
    base: msg.PlannedModel = LOST_X,
) -> dict[str, Affected]:
    """What is found in `page`, and in `mail`, which reads `page`, if `base` loses x."""
    metadata = {}
    if lineage is not None:
        columns = {
            own: [dg.TableColumnDep(asset_key=dg.AssetKey(["core", "middle"]), column_name=name) for name in names]
            for own, names in lineage.items()
        }
        metadata = {"dagster/column_lineage": dg.TableColumnLineage(deps_by_column=columns)}
    keys = [dg.AssetKey.from_user_string(dep) for dep in deps]

    @dg.asset(deps=keys, metadata=metadata, group_name="pages", owners=["ann@example.com"])
    def page() -> None: ...

    @dg.asset(deps=[page])
    def mail() -> None: ...

    assets = project_assets(manifest(model("core.base"), model("core.middle", ["core.base"])))
    specs = [dg.AssetSpec(spec.key, deps=spec.deps) for spec in assets.specs.values()]
    graph = dg.Definitions(assets=[*specs, page, mail]).get_repository_def().asset_graph
    found = affected_assets(
        plan(base, reads=dict(reads)), [], assets, graph, lambda key: lineage_in(graph.get(key).metadata)
    )
    return {asset.asset: asset for asset in found.get(BASE, ())}


READS_X = {MIDDLE: {BASE: {"x": ["q"], "y": ["r"]}}}


def test_columns_are_followed_through_models_and_column_lineage() -> None:
    assert followed(READS_X, lineage={"total": ["q"]})["page"] == Affected("page", "pages", "ann@example.com", ("x",))
    assert followed(READS_X, lineage={"total": ["r"]})["page"].columns == ()


def test_a_column_that_decides_rows_affects_all_columns() -> None:
    reads = {MIDDLE: {BASE: {"x": [msg.ROWS], "y": ["r"]}}}
    assert followed(reads, lineage={"total": ["r"]})["page"].columns == ("x",)


@pytest.mark.parametrize("reads", [{MIDDLE: None}, {}])
def test_columns_are_not_known_below_a_model_whose_columns_are_not_known(reads: Any) -> None:
    assert followed(reads, lineage={"total": ["q"]})["page"].columns is None


def test_columns_are_not_known_below_an_asset_without_column_lineage() -> None:
    found = followed(READS_X)
    assert (found["page"].columns, found["mail"].columns) == (None, None)


def test_nothing_is_affected_below_a_model_that_reads_no_lost_column() -> None:
    found = followed({MIDDLE: {BASE: {"y": ["r"]}}})
    assert (found["page"].columns, found["mail"].columns) == ((), ())
    assert by_asset({BASE: list(found.values())}) == {}


def test_an_asset_upstream_or_beside_is_not_affected() -> None:
    assert followed(READS_X, deps=["elsewhere"]) == {}


def test_a_changed_external_table_affects_nothing_because_sqlmesh_changes_none_of_its_rows() -> None:
    assert followed(READS_X, base=with_facts(LOST_X, exists=False)) == {}


@pytest.mark.parametrize(
    ("counts", "changed"),
    [({}, {"x", "y", "w"}), ({"added": 1}, {"x", "y", "z", "w"}), ({"added": 1, "clock": ("z",)}, {"x", "z", "w"})],
    ids=["matched", "other rows", "without a key"],
)
def test_columns_that_were_not_compared_may_have_changed(counts: dict[str, Any], changed: set[str]) -> None:
    ignored = replace(SAME, ignored=("w",), **counts)
    assert changed_columns(LOST_X, ignored, "xyz", is_compared=True) == changed


@pytest.mark.parametrize("key", ["core/base", "shop/core/base"])
def test_assets_that_read_a_removed_model_are_found_by_its_name_whatever_the_prefix_of_its_key(key: str) -> None:
    @dg.asset(deps=[dg.AssetKey.from_user_string(key)])
    def page() -> None: ...

    @dg.asset(key_prefix=["raw", "core"])
    def base() -> None: ...

    @dg.asset(deps=[base])
    def of_another_table() -> None: ...

    assets = project_assets(manifest(model("core.middle")))
    specs = [dg.AssetSpec(spec.key, deps=spec.deps) for spec in assets.specs.values()]
    graph = dg.Definitions(assets=[*specs, page, base, of_another_table]).get_repository_def().asset_graph
    removed = msg.PlannedModel(BASE, "core.base", "removed")
    found = affected_assets(plan(removed, reads={}), [], assets, graph, dict[dg.AssetKey, None]().get)
    assert found == {BASE: [Affected("page", "default", None)]}
