"""Customization in YAML and Python: Dagster's test suites for components, and the order of precedence."""

import inspect
import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.testing.test_cases import TestOpCustomization, TestTranslation
from engine.plan_jobs import applied
from harness import YEARLY_CRON, DagsterProject, NewShop, at_night, dagster_project, load, plan, write_project

from dg_sqlmesh_component import SQLMeshComponentError, SQLMeshProjectComponent, SQLMeshResource
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.definitions.translator import HAS_VIRTUAL_ASSETS
from dg_sqlmesh_component.protocol.errors import ConfigurationError, InstallationError
from dg_sqlmesh_component.protocol.manifest import Model

FILES = {
    "models/orders.sql": "MODEL (name shop.orders, kind FULL); SELECT id::INT AS id, 2 AS two FROM raw.orders",
    "models/seen.sql": "MODEL (name shop.seen, kind VIEW); SELECT id FROM shop.orders",
    "external_models.yaml": "- name: raw.orders\n  columns:\n    id: int\n",
}
ORDERS, SEEN = dg.AssetKey(["shop", "orders"]), dg.AssetKey(["shop", "seen"])


class ShopProject:
    """A project with a stored manifest. Each test builds the component's definitions from that manifest."""

    def __init__(self, folder: Path) -> None:
        self.project = write_project(folder / "shop", FILES)
        self.state = folder / "state"
        self.component().write_state_to_path(self.state)

    def component(self, **attributes: Any) -> SQLMeshProjectComponent:
        return SQLMeshProjectComponent.from_attributes_dict(attributes={"project": str(self.project), **attributes})

    def definitions(self, **attributes: Any) -> dg.Definitions:
        component = self.component(**attributes)
        return component.build_defs_from_state(dg.ComponentTree.for_test().load_context, self.state)

    def specs(self, **attributes: Any) -> dict[dg.AssetKey, dg.AssetSpec]:
        return {spec.key: spec for spec in self.definitions(**attributes).resolve_all_asset_specs()}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> ShopProject:
    return ShopProject(tmp_path_factory.mktemp("customization"))


class TestTranslationOfModels(TestTranslation):
    @pytest.mark.attribute("translation")
    def test_dagsters_translation_suite_passes(
        self, shop: ShopProject, attributes: Any, assertion: Any, key_modifier: Any
    ) -> None:
        if "partitions_def" in attributes:  # the only attribute that models cannot have
            with pytest.raises(ConfigurationError, match="SQLMesh itself decides which intervals it computes"):
                shop.specs(translation=attributes)
            return
        specs = shop.specs(translation=attributes)
        key = key_modifier(SEEN) if key_modifier else SEEN
        assert assertion(specs[key])


class TestTheOp(TestOpCustomization):
    @pytest.mark.attribute("op.name", "op.tags", "op.backfill_policy")
    def test_dagsters_op_suite_passes(self, shop: ShopProject, attributes: Any, assertion: Any) -> None:
        if "backfill_policy" in attributes:  # is about partitions, which assets of models do not have
            with pytest.raises(ConfigurationError, match="SQLMesh models have no partitions"):
                shop.component(op=attributes)
            return
        assert assertion(shop.definitions(op=attributes).resolve_assets_def(ORDERS).op)


@pytest.mark.attribute("op.tags")
def test_op_tag_configures_kubernetes_container(shop: ShopProject) -> None:
    """The Kubernetes executor reads this tag."""
    container = {"container_config": {"resources": {"limits": {"memory": "2Gi"}}}}
    op = shop.definitions(op={"tags": {"dagster-k8s/config": container}}).resolve_assets_def(ORDERS).op
    assert json.loads(op.tags["dagster-k8s/config"]) == container


def test_template_can_use_model_and_default_spec(shop: ShopProject) -> None:
    specs = shop.specs(
        translation={
            "group_name": "{{ model.schema }}_{{ model.kind | lower }}",
            "description": "{{ spec.description }} From {{ model.depends_on | length }} table.",
            "metadata": {"columns": "{{ model.columns | map(attribute='name') | list }}"},
            "deps": "{{ spec.deps + [['other', 'asset']] }}",
        }
    )
    assert specs[ORDERS].group_name == "shop_full"
    assert specs[ORDERS].description == "SQLMesh model shop.orders (FULL). From 1 table."
    assert specs[ORDERS].metadata["columns"] == ["id", "two"]
    deps = [dep.asset_key.to_user_string() for dep in specs[ORDERS].deps]
    assert deps == ["raw/orders", "other/asset"]


@pytest.mark.attribute("external_models.key", "external_models.keys")
def test_external_model_keys_come_from_template_or_mapping(shop: ShopProject) -> None:
    def upstream(**options: Any) -> list[tuple[str, Any]]:
        deps = shop.specs(external_models=options)[ORDERS].deps
        return [(dep.asset_key.to_user_string(), dep.metadata.get("dagster/table_name")) for dep in deps]

    table = "warehouse.raw.orders"
    assert upstream() == [("raw/orders", table)]
    assert upstream(key="landing/{{ external.catalog }}/{{ external.name }}") == [("landing/warehouse/orders", table)]
    assert upstream(key="x/{{ external.name }}", keys={"raw.orders": "dlt/orders"}) == [("dlt/orders", None)]
    with pytest.raises(Exception, match=r"names 'raw.oders'.*Did you mean raw.orders"):
        upstream(keys={"raw.oders": "dlt/orders"})


@pytest.mark.attribute("external_models.assets")
def test_external_tables_become_assets_with_kind_group_and_columns_if_configured(shop: ShopProject) -> None:
    key = dg.AssetKey(["raw", "orders"])
    assert shop.specs()[key].group_name == "default", "Dagster's default for a key without definition"
    spec = shop.specs(external_models={"assets": True})[key]
    assert (spec.group_name, spec.kinds) == ("raw", {"external", "duckdb"})
    assert spec.description == "The table warehouse.raw.orders, which SQLMesh only reads."
    restated = shop.specs(external_models={"assets": True}, restate=True)[key]
    assert "tables: [warehouse.raw.orders]}` in the run config." in str(restated.description)
    assert spec.metadata["dagster/table_name"] == "warehouse.raw.orders"
    assert [column.name for column in spec.metadata["dagster/column_schema"].columns] == ["id"]
    definitions = shop.definitions(external_models={"assets": True, "keys": {"raw.orders": "dlt/orders"}})

    @dg.asset(key=["dlt", "orders"])
    def orders() -> None: ...

    keys = dg.Definitions.merge(definitions, dg.Definitions([orders])).resolve_asset_graph().get_all_asset_keys()
    assert keys == {ORDERS, SEEN, orders.key}, "a key in `keys` belongs to an asset that another definition creates"


@pytest.mark.attribute("virtual_views")
@pytest.mark.skipif(not HAS_VIRTUAL_ASSETS, reason="this Dagster has no virtual assets: they came with 1.13")
def test_views_are_virtual_assets_unless_switched_off(shop: ShopProject) -> None:
    assert {key for key, spec in shop.specs().items() if spec.is_virtual} == {SEEN}
    assert not any(spec.is_virtual for spec in shop.specs(virtual_views=False).values())


@pytest.mark.attribute("include_metadata")
def test_dependencies_and_column_lineage_use_translated_keys(shop: ShopProject) -> None:
    with_lineage = shop.component(include_metadata=["column_lineage"], translation={"key_prefix": "lab"})
    with_lineage.write_state_to_path(shop.state.with_name("lineage"))
    definitions = with_lineage.build_defs_from_state(
        dg.ComponentTree.for_test().load_context, shop.state.with_name("lineage")
    )
    seen = definitions.resolve_assets_def(SEEN.with_prefix("lab")).get_asset_spec(SEEN.with_prefix("lab"))
    assert [dep.asset_key for dep in seen.deps] == [ORDERS.with_prefix("lab")]
    lineage = seen.metadata["dagster/column_lineage"]
    assert lineage.deps_by_column == {"id": [dg.TableColumnDep(ORDERS.with_prefix("lab"), "id")]}


@pytest.mark.parametrize(
    ("translation", "message"),
    [
        ({"group_name": "not a group"}, "`translation` in defs.yaml cannot be applied to Model shop.orders"),
        ({"group_name": "{{ modle.schema }}"}, "modle"),
        ({"owners": ["bob"]}, "`translation` in defs.yaml cannot be applied to Model shop.orders"),
        (
            {"deps": "{{ spec.deps + [['raw', 'orders']] }}"},
            "`translation` in defs.yaml cannot be applied to Model shop.orders",
        ),
    ],
)
def test_error_of_invalid_translation_names_model(shop: ShopProject, translation: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        shop.specs(translation=translation)


HOOKS = ("get_asset_spec", "get_asset_check_spec", "execute", "op_config_schema")


def example(hook: str) -> str:
    """The subclass in the docstring of a public hook."""
    documented = inspect.getdoc(getattr(SQLMeshProjectComponent, hook))
    assert documented is not None
    return documented.partition("```python\n")[2].partition("```")[0]


CUSTOM_COMPONENT = f"""
import dagster as dg

from dg_sqlmesh_component import SQLMeshProjectComponent, SQLMeshRunConfig

{"".join(map(example, HOOKS))}

class Ours(LayerTags, WithoutRowCounts, Announced, WithTicket):
    def get_asset_spec(self, model):
        spec = super().get_asset_spec(model)
        return spec.merge_attributes(tags={{"by_override": spec.tags["by_translation"], "last": "override"}})

    def get_asset_check_spec(self, asset_spec, node, audit):
        spec = super().get_asset_check_spec(asset_spec, node, audit)
        return spec and spec._replace(name=f"our_{{spec.name}}", description=f"Ask {{node.name}} about it.")

    def execute(self, context):
        context.log.info(f"ticket {{context.op_execution_context.op_config['ticket']}}")
        yield from super().execute(context)
"""
PRECEDENCE = {
    "models/orders.sql": """MODEL (name shop.orders, kind FULL, owner ada,
        tags ['dagster:group_name:by_tag', 'dagster:tag:first=tag', 'dagster:tag:last=tag'],
        audits (not_null(columns := (id)), number_of_rows(threshold := 0))); SELECT 1 AS id""",
    "models/rare.sql": f"MODEL (name shop.rare, kind FULL, cron '{YEARLY_CRON}', interval_unit 'day', "
    "start '2026-01-01'); SELECT id FROM shop.orders",
}
# If the file `together` exists in the project, each of the two models waits until the other one runs too.
PARALLEL_MODEL = """
import time
import typing as t
from pathlib import Path

import pandas as pd
from sqlmesh import model


@model("shop.{0}", kind="FULL", columns={{"id": "int"}})
def execute(context, start, end, execution_time, **kwargs: t.Any) -> pd.DataFrame:
    Path("{0}_is_at_work").touch()
    deadline = time.monotonic() + 20
    while Path("together").exists() and not Path("{1}_is_at_work").exists():
        assert time.monotonic() < deadline, "the other model never started"
        time.sleep(0.1)
    return pd.DataFrame({{"id": [1]}})
"""
PRECEDENCE |= {
    "models/left.py": PARALLEL_MODEL.format("left", "right"),
    "models/right.py": PARALLEL_MODEL.format("right", "left"),
}


@pytest.fixture(scope="module")
def overridden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterProject]:
    folder = tmp_path_factory.mktemp("overridden")
    project = write_project(folder / "shop", PRECEDENCE)
    plan(project)
    plan(project, "dev", "--include-unmodified")
    with dagster_project(folder) as dagster:
        (dagster.root / dagster.root.name / "components.py").write_text(CUSTOM_COMPONENT)
        dagster.add_component(
            "shop",
            {
                "project": str(project),
                "translation": {"tags": {"by_translation": "{{ spec.group_name }}", "last": "translation"}},
                "execution": {"environments": ["dev"], "concurrent_tasks": 2},
                "include_metadata": ["row_count", "sql", "storage_kind", "links"],
                "op": {"name": "shop"},
            },
            type=f"{dagster.root.name}.components.Ours",
            post_processing={"assets": [{"target": "key:shop/orders", "attributes": {"group_name": "at_last"}}]},
        )
        dagster.add_module(
            "neighbour",
            "import dagster as dg\n\n"
            "@dg.definitions\ndef defs(context: dg.ComponentLoadContext):\n"
            "    shop = context.load_component('shop')\n"
            "    job = dg.define_asset_job('rarely', shop.get_asset_selection('+shop.rare', exclude='shop.orders'))\n"
            "    @dg.asset(deps=[shop.asset_key_for_model('shop.rare')])\n"
            "    def downstream(): ...\n"
            "    return dg.Definitions(assets=[downstream], jobs=[job])\n",
        )
        dagster.refresh()
        yield dagster


@pytest.mark.attribute("post_processing")
def test_precedence_is_defaults_tags_translation_override_post_processing(overridden: DagsterProject) -> None:
    definitions = load(overridden.root)
    spec = definitions.resolve_assets_def(ORDERS).get_asset_spec(ORDERS)
    assert spec.owners == ["team:ada"]  # a default
    assert spec.tags["first"] == "tag"
    assert spec.tags["by_translation"] == "by_tag"
    assert spec.tags["by_override"] == "by_tag"
    assert spec.tags["layer"] == "shop"  # the example of a docstring, as are the next ones in the run
    assert spec.tags["last"] == "override"
    assert spec.group_name == "at_last"
    assert "```sql\nSELECT" in str(spec.description)
    assert spec.metadata["dagster/storage_kind"] == "duckdb"


def test_other_definitions_can_use_model_keys_and_sqlmesh_selections(overridden: DagsterProject) -> None:
    definitions = load(overridden.root)
    downstream = definitions.resolve_assets_def(dg.AssetKey("downstream"))
    assert {dep.asset_key for dep in downstream.get_asset_spec().deps} == {dg.AssetKey(["shop", "rare"])}
    selected = definitions.resolve_job_def("rarely").asset_layer.selected_asset_keys
    assert selected == {dg.AssetKey(["shop", "rare"])}


@pytest.mark.attribute("execution.environments")
def test_run_config_and_overrides_reach_the_run(overridden: DagsterProject) -> None:
    assets = ["shop/orders", "shop/rare"]
    on_cron = overridden.launch(assets=assets, ops={"shop": {"ticket": "T-1"}}).succeeded()
    assert "ticket T-1" in on_cron.log
    assert "Tell the team: everything is computed." in on_cron.log
    assert {asset: on_cron.status_of(asset) for asset in assets} == dict(zip(assets, ["executed", "up_to_date"]))
    assert on_cron.checks["shop/orders:our_not_null_id"].passed
    assert not any("number_of_rows" in check for check in on_cron.checks)
    record = overridden.launch(assets=assets, ops={"shop": {"ignore_cron": True, "environment": "dev"}}).succeeded()
    assert {asset: record.status_of(asset) for asset in assets} == dict(zip(assets, ["up_to_date", "executed"]))
    assert not record.materializations
    metadata = record.observations["shop/rare"].metadata
    assert metadata["sqlmesh/environment"].value == "dev"
    assert metadata["dagster/table_name"].value == "warehouse.shop__dev.rare"
    assert metadata["dagster/row_count"].value == 1
    run = overridden.instance.get_run_by_id(record.run_id)
    assert run is not None
    assert {name: value for name, value in run.tags.items() if name.startswith("sqlmesh/")} == {
        "sqlmesh/environment": "dev",
        "sqlmesh/ignore_cron": "true",
        "sqlmesh/result": "1 executed, 1 up to date",
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"environment": "staging"}, "allowed are: prod, dev"),
        ({"start": "the day after never"}, "SQLMesh cannot parse start 'the day after never'"),
        ({"start": "2026-02-01", "end": "2026-01-01"}, "is after end"),
        ({"environment": "dev", "skip_janitor": False}, "only before a run of environment prod"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_invalid_run_config_is_a_clear_error(overridden: DagsterProject, config: dict[str, Any], message: str) -> None:
    record = overridden.launch(assets=["shop/orders"], ops={"shop": config}).failed()
    assert message in record.failures[0]
    assert not record.materializations


@pytest.mark.advice("Write a date, an instant or words such as '1 week ago'.")
@pytest.mark.parametrize("start", ["2026-01-20", "2026-01-20T12:00:00Z", "1 week ago"])
def test_start_is_a_date_an_instant_or_words(overridden: DagsterProject, start: str) -> None:
    record = overridden.launch(assets=["shop/orders"], ops={"shop": {"start": start}}).succeeded()
    assert record.status_of("shop/orders") is not None


@pytest.mark.attribute("execution.concurrent_tasks")
def test_concurrent_tasks_sets_number_of_parallel_batches(overridden: DagsterProject) -> None:
    project = overridden.root.parent / "shop"
    for file in project.glob("*_is_at_work"):
        file.unlink()
    (project / "together").touch()
    record = overridden.launch(assets=["shop/left", "shop/right"]).succeeded()
    assert set(record.materializations) == {"shop/left", "shop/right"}


# If the file `together` exists in the project, a heavy model waits until both light ones have run while it is at work.
GROUPED_MODEL = """
import time
from pathlib import Path

import pandas as pd
from sqlmesh import model


@model("t.{name}", kind="FULL", columns={{"id": "int"}}, tags={tags})
def execute(context, start, end, execution_time, **kwargs):
    if Path("together").exists():
        at_work, deadline = Path("heavy_at_work"), time.monotonic() + 20
        if {tags}:
            at_work.touch(exist_ok=False)  # an error if another heavy model is at work
        while not (all(Path(light).exists() for light in "yz") if {tags} else at_work.exists()):
            assert time.monotonic() < deadline, "the others do not run"
            time.sleep(0.02)
        at_work.unlink() if {tags} else Path("{name}").touch()
    return pd.DataFrame({{"id": [{id}]}})
"""


def grouped_models(id: int) -> dict[str, str]:
    heavy = {f"models/{name}.py": GROUPED_MODEL.format(name=name, tags=["heavy", "slow"], id=id) for name in "abc"}
    return heavy | {f"models/{name}.py": GROUPED_MODEL.format(name=name, tags=[], id=id) for name in "yz"}


@pytest.mark.attribute("execution.tag_concurrency_limits")
@pytest.mark.parametrize("what", ["run", *at_night("apply")])
def test_models_of_limited_tag_run_one_after_another_and_leave_threads_to_others(new_shop: NewShop, what: str) -> None:
    """Three such models are ready before the other two, and SQLMesh has two threads."""
    execution = {"concurrent_tasks": 2, "tag_concurrency_limits": {"heavy": 1, "slow": 2}}
    shop = new_shop(grouped_models(1), execution=execution, deploy=True)
    (shop.project / "together").touch()
    if what == "apply":
        write_project(shop.project, grouped_models(2))
        applied(shop)
        assert shop.query("SELECT id FROM t.c") == [(2,)]
    else:
        assert len(shop.launch().succeeded().materializations) == 5
    assert all((shop.project / light).exists() for light in "yz")


@pytest.mark.advice("So Dagster could show a partition as materialized that is not. Remove it.")
def test_assets_with_partitions_from_post_processing_do_not_run(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"})
    plan(project)
    daily = {"partitions_def": {"type": "daily", "start_date": "2026-01-01"}}
    with dagster_project(tmp_path) as dagster:
        processing = {"assets": [{"target": "*", "attributes": daily}]}
        dagster.add_component("shop", {"project": str(project)}, post_processing=processing)
        dagster.refresh()
        record = dagster.launch()
        dagster.add_component("shop", {"project": str(project)})
        dagster.refresh()
        dagster.launch().succeeded()
    assert record.status == dg.DagsterRunStatus.FAILURE
    assert not record.materializations
    [failure] = record.failures
    assert failure.startswith("The asset t/one has a `partitions_def`. SQLMesh itself decides which intervals")


@pytest.mark.advice("Pass a selection such as 'tag:finance', a list of selections, or None.")
def test_empty_job_selection_is_an_error(shop: ShopProject, tmp_path: Path) -> None:
    """Otherwise the job would succeed without a step. An empty selection would select all models."""
    component = shop.component(exclude="shop.seen")
    component.write_state_to_path(tmp_path / "state")
    component.build_defs_from_state(dg.ComponentTree.for_test().load_context, tmp_path / "state")
    for selection in ("", [], [None], ["shop.orders", ""], 5, 0, object()):
        with pytest.raises(ConfigurationError, match="get_asset_selection was given select="):
            component.get_asset_selection(selection)  # type: ignore[arg-type]  # it must refuse wrong types
    with pytest.raises(ConfigurationError, match="matches no asset of the SQLMesh project 'shop'"):
        component.get_asset_selection("shop.seen")
    for selection in ("shop.orders", ["shop.orders", "shop.or*"], None):
        assert ORDERS in component.get_asset_selection(selection).resolve(
            shop.definitions(exclude="shop.seen").resolve_asset_graph()
        )


class AsksForItself(SQLMeshProjectComponent):
    def get_asset_spec(self, model: Model) -> dg.AssetSpec:
        return super().get_asset_spec(model).replace_attributes(deps=[self.asset_key_for_model(model.name)])


def test_override_that_asks_for_assets_of_its_own_component_is_an_error(shop: ShopProject) -> None:
    """A component that is created in Python would build itself until the stack overflows."""
    component = AsksForItself(project=SQLMeshProject((shop.project,)))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="asks for its own assets while they are being built"):
            component.build_defs_from_state(dg.ComponentTree.for_test().load_context, shop.state)


class InvalidComponent(SQLMeshProjectComponent):
    """A user's subclass in which one method returns an invalid value."""


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("get_asset_spec", "get_asset_spec returned None. It must return a dagster.AssetSpec"),
        ("op_config_schema", "op_config_schema returned <.*It must be a property"),
    ],
)
def test_overridden_method_with_wrong_return_type_is_named_in_error(
    shop: ShopProject, monkeypatch: pytest.MonkeyPatch, method: str, message: str
) -> None:
    monkeypatch.setattr(InvalidComponent, method, lambda *_: None)
    component = InvalidComponent.from_attributes_dict(attributes={"project": str(shop.project)})
    with pytest.raises(ConfigurationError, match=message):
        component.build_defs_from_state(dg.ComponentTree.for_test().load_context, shop.state)


class WithoutSeen(SQLMeshProjectComponent):
    def get_asset_spec(self, model: Model) -> Any:
        return None if model.name == "shop.seen" else super().get_asset_spec(model)


@pytest.mark.advice("It must return a dagster.AssetSpec. To leave a model out, name it in `exclude`.")
def test_model_is_left_out_by_exclude_and_not_by_an_override_that_returns_nothing(
    shop: ShopProject, tmp_path: Path
) -> None:
    for number, attributes in enumerate(({}, {"exclude": "shop.seen"})):
        component = WithoutSeen.from_attributes_dict(attributes={"project": str(shop.project), **attributes})
        component.write_state_to_path(tmp_path / str(number))
        refused = pytest.raises(ConfigurationError, match=r"To leave a model out, name it in `exclude`\.")
        with nullcontext() if attributes else refused:
            built = component.build_defs_from_state(dg.ComponentTree.for_test().load_context, tmp_path / str(number))
            assert SEEN not in built.resolve_all_asset_keys()


# -- a resource for assets of the user's own ------------------------------------------------------


@pytest.mark.advice("Correct `project` of the SQLMeshResource.", "Install the same versions of pandas and NumPy")
def test_asset_of_the_users_own_reads_what_a_query_returns_through_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write_project(tmp_path / "shop", {"models/days.sql": "MODEL (name t.days, kind FULL); SELECT 1 AS id"})
    plan(project)

    @dg.asset
    def report(sqlmesh: SQLMeshResource) -> dict[str, Any]:
        rows = sqlmesh.fetchdf("SELECT id, DATE '2026-01-01' AS day FROM t.days")
        return {name: rows[name][0] for name in rows}

    monkeypatch.setenv("HOME", str(tmp_path))
    resource = SQLMeshResource(project="~/shop", python=os.path.relpath(sys.executable))
    result = dg.materialize([report], resources={"sqlmesh": resource})
    row = result.output_for_node("report")
    assert (row["id"], str(row["day"])[:10]) == (1, "2026-01-01")
    with pytest.raises(SQLMeshComponentError, match="no_such_table"):
        resource.fetchdf("SELECT * FROM no_such_table")
    with monkeypatch.context() as without_pandas:
        without_pandas.setitem(sys.modules, "pandas.core.frame", None)
        with pytest.raises(InstallationError, match=r"cannot be loaded here: .*pandas.* Install the same versions of"):
            resource.fetchdf("SELECT 1 AS id")
    assert len(resource.fetchdf("SELECT 1 AS id")) == 1
    with pytest.raises(ConfigurationError, match=r"crm is not a SQLMesh project: .* Correct `project` of the SQLMesh"):
        SQLMeshResource(project=str(tmp_path / "crm")).fetchdf("SELECT 1 AS id")
    for wrong, option in (
        (SQLMeshResource(project="~/shop", gateway="none"), "gateway"),
        (SQLMeshResource(project="~/shop", python="none"), "python"),
    ):
        with pytest.raises(SQLMeshComponentError, match=f"Correct .* or `{option}` of the SQLMeshResource"):
            wrong.fetchdf("SELECT 1 AS id")
