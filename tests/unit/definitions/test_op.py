"""The op that executes all assets of a project."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.resolved.core_models import OpSpec
from unit.builders import audit, manifest, model, project_assets, standalone

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.config.run_config import RestateConfig, SQLMeshRunConfig, config_of_run, run_config
from dg_sqlmesh_component.definitions.op import ComponentOp
from dg_sqlmesh_component.definitions.translator import STATUS_CHECK
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.manifest import Manifest, Model

Compute = Callable[[dg.AssetExecutionContext], Iterator[Any]]


def materialize_selection(context: dg.AssetExecutionContext) -> Iterator[Any]:
    """Yield the results of a step in which every model is executed and every audit passes."""
    for key in context.assets_def.keys_by_output_name.values():
        if key in context.selected_asset_keys:
            yield dg.MaterializeResult(asset_key=key)
    for check in sorted(context.selected_asset_check_keys):
        yield dg.AssetCheckResult(asset_key=check.asset_key, check_name=check.name, passed=True)


def built(
    project: Manifest, compute: Compute = materialize_selection, config_schema: object = None, **configured: Any
) -> dg.AssetsDefinition:
    op = ComponentOp(OpSpec(**configured), SQLMeshProject((Path("/shop"),)))
    name, assets = configured.get("name", "shop"), project_assets(project)
    return op.build(name, assets, compute, config_schema)


USUAL = SQLMeshRunConfig().model_dump(exclude={"restate"})
"""What Dagster fills in. `restate` has no default."""


def paths(keys: Any) -> set[tuple[str, ...]]:
    return {tuple(key.path) for key in keys}


# -- names ----------------------------------------------------------------------------------------

AWKWARD_NAMES = {
    "spaces": ["core.orders of 2026", "core.orders"],
    "dashes and underscores": ["core.a-b", "core.a_b", "core.a b"],
    "underscores at the border of schema and name": ["a.b__c", "a__b.c"],
    "other scripts": ["größe.注文", "größe.顧客"],
    "upper and lower case": ["core.Orders", "core.oRders", "core.orders"],
    "punctuation": ['core.a"b', "core.a/b", "core.a'b", "core.a[0]", "core.*", "core.$x"],
    "digits first": ["2026.01_orders"],
    "a name like the numbered form of another": ["core.a-b", "core.a_b", "core.a_b_2"],
    "reserved words of Python and Dagster": ["core.class", "config.context"],
}


def output_names(definition: dg.AssetsDefinition) -> list[str]:
    return [*definition.keys_by_output_name, *definition.check_specs_by_output_name]


@pytest.mark.parametrize("names", AWKWARD_NAMES.values(), ids=AWKWARD_NAMES)
def test_awkward_model_names_keep_their_asset_keys_and_can_be_materialized(names: list[str]) -> None:
    definition = built(manifest(*(model(name, audits=(audit("not_null"),)) for name in names)))
    expected = {tuple(name.split(".")) for name in names}
    assert paths(definition.keys) == expected
    assert {(tuple(check.asset_key.path), check.name) for check in definition.check_keys} == {
        (key, name) for key in expected for name in (STATUS_CHECK, "not_null")
    }
    assert len({name.lower() for name in output_names(definition)}) == len(output_names(definition)) == 3 * len(names)
    dg.Definitions.validate_loadable(dg.Definitions([definition]))
    result = dg.materialize([definition])
    assert paths(event.asset_key for event in result.get_asset_materialization_events()) == expected
    assert len(result.get_asset_check_evaluations()) == 2 * len(names)


@pytest.mark.parametrize(
    "audits_by_model",
    [
        {"core.orders": ["items_not_null"], "core.orders_items": ["not_null"]},
        {"core.orders_items": ["not_null"], "core.orders__items": ["not_null", "_not_null"]},
        {"a.b": ["c"], "a.b__c": []},
    ],
    ids=["checks of two models", "checks of one model", "a check and an asset"],
)
def test_checks_with_colliding_identifiers_have_different_outputs(audits_by_model: dict[str, list[str]]) -> None:
    models = [
        model(name, audits=tuple(audit(use, position=position) for position, use in enumerate(audits)))
        for name, audits in audits_by_model.items()
    ]
    definition = built(manifest(*models))
    assert {*definition.check_keys} == {*project_assets(manifest(*models)).checks}
    outputs = output_names(definition)
    assert len({*outputs}) == len(outputs) == 2 * len(models) + sum(map(len, audits_by_model.values()))


EXTERNAL_NAMES = ['"db"."raw"."a-b"', '"db"."raw"."a_b"', '"db"."raw"."注 文"', '"db"."core"."orders_2"', '"events"']


def test_external_tables_are_inputs_with_unique_names_that_are_not_reserved() -> None:
    reserved = ["input", "output", "class", "type", "from"]
    orders = model("core.orders", depends_on=(*EXTERNAL_NAMES, *(f'"{name}"' for name in reserved)))
    definition = built(manifest(orders, model("core.orders-2")))
    inputs = {("raw", "a-b"), ("raw", "a_b"), ("raw", "注 文"), ("core", "orders_2"), ("events",)}
    assert paths(definition.keys_by_input_name.values()) == inputs | {(name,) for name in reserved}
    dg.Definitions.validate_loadable(dg.Definitions([definition]))


# -- the definition -------------------------------------------------------------------------------

SHOP = manifest(
    model("staging.orders"),
    model("core.orders", reads=["staging.orders", "raw.events"], audits=(audit("not_null"),)),
    standalone_audits=[standalone("add_up", ["core.orders"])],
)


def test_op_has_the_given_name_description_tags_and_pool_which_may_be_a_tag_too() -> None:
    tags = {"team": "data", "dagster/concurrency_key": "our"}
    op = built(SHOP, name="my_op", description="Runs it.", tags=tags, pool="our").op
    assert (op.name, op.description, op.pool) == ("my_op", "Runs it.", "our")
    assert op.tags.keys() == {*tags, "sqlmesh/project"}
    assert op.tags.items() >= tags.items()


@pytest.mark.parametrize(
    ("configured", "message"),
    [
        ({"pool": "my pool"}, r"`op\.pool` in defs\.yaml is 'my pool', which Dagster refuses: Pool \"my pool\" is not"),
        ({"pool": ""}, r"`op\.pool` in defs\.yaml is ''\. Write a name, or remove it"),
        ({"pool": 5}, r"`op\.pool` in defs\.yaml is 5, which Dagster refuses"),
        ({"tags": {"team": {1: 2}}}, r"`op\.tags` in defs\.yaml is {'team': {1: 2}}, which Dagster refuses"),
        ({"tags": {"dagster/concurrency_key": "our"}}, r"the op is in another pool\. Write `op\.pool: our` instead"),
        ({"tags": {"sqlmesh/project": "x"}}, r"`op\.tags` in defs\.yaml contains 'sqlmesh/project', a tag that this"),
    ],
)
def test_pool_or_tag_that_the_op_cannot_have_is_refused(configured: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ComponentOp(OpSpec.model_construct(**configured), SQLMeshProject((Path("/shop"),)))


def test_plans_of_all_environments_of_a_state_have_the_same_tag_and_their_runs_have_not() -> None:
    op, of_dev = ComponentOp(OpSpec(), SQLMeshProject((Path("/shop"),))), replace(SHOP, environment="dev")
    assert op.changes_tag(of_dev) == op.changes_tag(SHOP)
    assert op.state_tag(of_dev) != op.state_tag(SHOP)


def test_op_without_configuration_has_defaults_from_its_project_and_environment() -> None:
    definition = built(SHOP)
    assert definition.op.description == "Runs SQLMesh in environment prod."
    assert definition.op.pool == "sqlmesh_shop_prod"
    assert ComponentOp(OpSpec(), SQLMeshProject((Path("/my shop"),))).pool("dev") == "sqlmesh_my_shop_dev"
    [(tag, project)] = definition.op.tags.items()
    assert tag == "sqlmesh/project"
    assert re.fullmatch("shop_[0-9a-f]{8}", project)


RANGE: Any = {"start": "2026-01-01", "end": "2026-01-02"}


class OurConfig(SQLMeshRunConfig):
    """A run config class with an additional field."""

    ticket: str | None = None


def config_fields(definition: dg.AssetsDefinition) -> dict[str, Any]:
    config_type = definition.op.config_schema.config_type
    assert isinstance(config_type, dg.Shape)
    return dict(config_type.fields)


@pytest.mark.parametrize("schema", [SQLMeshRunConfig, OurConfig], ids=["the default", "a subclass"])
def test_config_schema_of_the_op_is_the_run_config_class(schema: type[dg.Config]) -> None:
    fields = config_fields(built(SHOP, config_schema=schema))
    assert fields.keys() == schema.model_fields.keys()
    assert not fields["restate"].default_provided, "the launchpad does not show it"


@pytest.mark.parametrize(
    ("config", "without_our_fields"),
    [
        (SQLMeshRunConfig(restate=RestateConfig(**RANGE)), SQLMeshRunConfig(restate=RestateConfig(**RANGE))),
        (OurConfig(start="yesterday", ticket="T-1"), SQLMeshRunConfig(start="yesterday")),
    ],
    ids=["the default", "a subclass"],
)
def test_typed_and_written_run_config_reaches_the_op_and_unknown_fields_are_refused(
    config: SQLMeshRunConfig, without_our_fields: SQLMeshRunConfig
) -> None:
    received_configs: list[dict[str, Any]] = []

    def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
        received_configs.append({**context.op_execution_context.op_config})
        yield from ()

    definition = built(SHOP, compute, config_schema=type(config))
    written = config.model_dump(exclude_none=True)
    for launched_with in (dg.RunConfig(ops={"shop": config}), {"ops": {"shop": {"config": written}}}):
        dg.materialize([definition], run_config=launched_with)
    typed, plain = received_configs
    assert typed == plain
    assert (type(config)(**plain), run_config(plain)) == (config, without_our_fields)
    with pytest.raises(dg.DagsterInvalidConfigError):
        dg.materialize([definition], run_config={"ops": {"shop": {"config": {"startt": "yesterday"}}}})


def test_op_without_config_schema_refuses_run_config() -> None:
    definition = built(manifest(model("core.orders")), config_schema=None)
    assert not config_fields(definition)
    assert dg.materialize([definition], run_config={}).success
    for config in ({"ignore_cron": True}, {"startt": "yesterday"}):
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.materialize([definition], run_config={"ops": {"shop": {"config": config}}})


def test_definition_has_the_specs_and_checks_of_the_project() -> None:
    assets, definition = project_assets(SHOP), built(SHOP)
    as_they_were = {spec.key: spec.replace_attributes(skippable=False) for spec in definition.specs}
    assert as_they_were == {spec.key: spec for spec in assets.specs.values()}
    assert {spec.key: spec for spec in definition.check_specs} == assets.checks
    assert definition.can_subset


def test_outputs_are_optional_because_only_executed_models_have_one() -> None:
    definition = built(SHOP)
    assert not any(output.is_required for output in definition.op.output_dict.values())
    assert all(spec.skippable for spec in definition.specs)


def test_project_without_models_can_be_built() -> None:
    assert not built(manifest()).keys


# -- execution ------------------------------------------------------------------------------------


def test_asset_is_executed_with_its_checks_and_a_check_can_be_selected_alone() -> None:
    orders = dg.AssetKey(["core", "orders"])
    result = dg.materialize([built(SHOP)], selection=dg.AssetSelection.assets(orders))
    assert [event.asset_key for event in result.get_asset_materialization_events()] == [orders]
    assert {check.check_name for check in result.get_asset_check_evaluations()} == {STATUS_CHECK, "not_null", "add_up"}
    not_null = dg.AssetCheckKey(orders, "not_null")
    result = dg.materialize([built(SHOP)], selection=dg.AssetSelection.checks(not_null))
    assert [evaluation.asset_check_key for evaluation in result.get_asset_check_evaluations()] == [not_null]
    assert not result.get_asset_materialization_events()


def scored_after(name: str) -> dg.AssetsDefinition:
    """Return the asset `raw/scored`, which depends on a model."""

    @dg.asset(key=["raw", "scored"], deps=[dg.AssetKey(name.split("."))])
    def scored() -> None: ...

    return scored


BETWEEN = [model("core.a-b"), model("marts.revenue", reads=["raw.scored", "core.a-b"])]
BEHIND_A_VIEW = [
    model("core.a-b"),
    model("core.scored", reads=["raw.scored"], kind="VIEW"),
    model("marts.revenue", reads=["core.scored"]),
]
"""`raw/scored` waits for the step, and the view, which is a virtual asset, for `raw/scored`."""


@pytest.mark.parametrize(
    ("models", "chosen", "steps"),
    [
        (BETWEEN, dg.AssetSelection.all(), [{("core", "a-b")}, {("marts", "revenue")}]),
        (BEHIND_A_VIEW, dg.AssetSelection.all(), [{("core", "a-b")}, {("core", "scored"), ("marts", "revenue")}]),
        (BEHIND_A_VIEW, dg.AssetSelection.assets("core/a-b", "raw/scored"), [{("core", "a-b")}]),
    ],
    ids=["an asset between two models", "an asset before a view", "only the assets upstream of the view"],
)
def test_asset_between_two_models_splits_the_op_and_a_step_waits_only_for_assets_that_its_models_read(
    models: list[Model], chosen: dg.AssetSelection, steps: list[set[tuple[str, ...]]]
) -> None:
    selections: list[set[tuple[str, ...]]] = []

    def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
        selections.append(paths(context.selected_asset_keys))
        yield from materialize_selection(context)

    assert dg.materialize([scored_after("core.a-b"), built(manifest(*models), compute)], selection=chosen).success
    assert selections == steps


def test_run_config_of_the_first_part_of_a_split_op_reaches_the_second() -> None:
    received_configs: dict[str, Any] = {}

    def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
        op = context.op_execution_context
        step = op.op_handle.name
        received_configs[step] = config_of_run(context.run.run_config, step, op.op_def.name, op.op_config)
        yield from materialize_selection(context)

    models = [model("core.a"), model("marts.revenue", reads=["raw.scored", "core.a"])]
    definition = built(manifest(*models), compute, config_schema=SQLMeshRunConfig)
    run_config = {"ops": {"shop": {"config": {"start": "a"}}}}
    assert dg.materialize([scored_after("core.a"), definition], run_config=run_config).success
    assert received_configs == {"shop": {**USUAL, "start": "a"}, "shop_2": {"start": "a"}}


def test_model_in_a_second_step_needs_the_outputs_of_its_parents_in_the_first() -> None:
    without_output = dg.AssetKey(["core", "a-b"])

    def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
        yield from (dg.MaterializeResult(asset_key=key) for key in context.selected_asset_keys - {without_output})

    models = [model("core.a-b"), model("core.a_b"), model("marts.revenue", reads=["raw.scored", "core.a-b"])]
    result = dg.materialize([scored_after("core.a_b"), built(manifest(*models), compute)])
    assert paths(event.asset_key for event in result.get_asset_materialization_events()) == {
        ("core", "a_b"),
        ("raw", "scored"),
    }


@pytest.mark.parametrize("restate", [{}, None, {"start": "2026-01-01"}], ids=["empty", "null", "without an end"])
def test_range_beside_an_empty_restate_is_refused(restate: Any) -> None:
    """It is a wrong indentation. A run would compute what is pending in this range, and restate nothing."""
    job = dg.Definitions([built(SHOP, config_schema=SQLMeshRunConfig)], jobs=[dg.define_asset_job("all")])
    config = {"ops": {"shop": {"config": {**RANGE, "restate": restate}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="config:restate"):
        job.resolve_job_def("all").execute_in_process(run_config=config)
