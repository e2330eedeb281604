"""What each attribute of `defs.yaml` does."""

import shutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from harness import BIN, CONFIG, DagsterProject, dagster_project, load, plan, run, sqlmesh, write_project

from dg_sqlmesh_component import SQLMeshProjectComponent
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.manifest import Manifest
from dg_sqlmesh_component.protocol.messages import LoadRequest
from dg_sqlmesh_component.worker_client.calls import load_project

ONE_MODEL = {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"}


def manifest_of(dagster: DagsterProject, project: Any, **attributes: Any) -> Manifest:
    """Write a `defs.yaml`, load the component from it, and load the project of the component."""
    opened = component_of(dagster, {"project": project, **attributes}).project
    return load_project(opened, LoadRequest(opened.open_request)).manifest


def component_of(dagster: DagsterProject, attributes: dict[str, Any]) -> SQLMeshProjectComponent:
    """Write a `defs.yaml` and load the component from it."""
    dagster.add_component("shop", attributes)
    return dg.ComponentTree.for_project(dagster.root).load_component("shop", SQLMeshProjectComponent)


@pytest.fixture
def dagster(tmp_path: Path) -> Iterator[DagsterProject]:
    with dagster_project(tmp_path) as project:
        yield project


@pytest.mark.attribute("project.path")
def test_path_is_relative_to_defs_yaml(dagster: DagsterProject) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    assert manifest_of(dagster, "../../../shop").paths == (str(dagster.root / "shop"),)


def test_list_of_paths_is_a_multi_repository_project(dagster: DagsterProject) -> None:
    write_project(dagster.root / "left", ONE_MODEL)
    write_project(dagster.root / "right", {"models/two.sql": "MODEL (name t.two, kind FULL); SELECT id FROM t.one"})
    manifest = manifest_of(dagster, {"path": ["../../../left", "../../../right"]})
    assert [model.name for model in manifest.models] == ["t.one", "t.two"]
    assert manifest.models[1].depends_on == (manifest.models[0].fqn,)


def test_second_project_may_have_a_gateway_that_the_first_does_not_have(dagster: DagsterProject) -> None:
    managed = "gateway_managed_virtual_layer: true\n"
    config = f"{managed}{CONFIG.replace('local', 'second').replace('warehouse', 'second')}"
    left = write_project(dagster.root / "left", ONE_MODEL, f"{CONFIG}{managed}")
    two = {"models/two.sql": "MODEL (name t.two, kind FULL, gateway second); SELECT 2 AS id"}
    right = write_project(dagster.root / "right", two, config)
    sqlmesh(left, "-p", str(left), "-p", str(right), "plan", "--auto-apply", "--no-prompts", "--skip-backfill")

    project = {"path": ["../../../left", "../../../right"], "gateway": "local"}
    manifest = manifest_of(dagster, project, execution={"concurrent_tasks": 2})
    assert {model.name: model.engine for model in manifest.models} == {"t.one": "duckdb", "t.two": "duckdb"}
    assert set(dagster.launch().materializations) == {"t/one", "t/two"}


@pytest.mark.attribute("project.gateway", "project.environment")
def test_configured_gateway_and_environment_are_used(dagster: DagsterProject) -> None:
    other = "gateways:\n  other:\n    connection:\n      type: duckdb\n      database: other.duckdb"
    write_project(dagster.root / "shop", ONE_MODEL, CONFIG.replace("gateways:", other))
    manifest = manifest_of(dagster, {"path": "../../../shop", "gateway": "other", "environment": "Dev_Ada"})
    assert (manifest.gateway, manifest.environment) == ("other", "dev_ada")
    assert [(model.catalog, model.table_name) for model in manifest.models] == [("other", "other.t__dev_ada.one")]


def test_environment_from_variable_changes_tables_but_not_keys(
    dagster: DagsterProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a branch deployment: the same assets, in separate tables."""
    write_project(dagster.root / "shop", ONE_MODEL)
    tables = {}
    for environment in ("prod", "pr_17"):
        monkeypatch.setenv("SQLMESH_ENVIRONMENT", environment)
        dagster.add_component(
            "shop", {"project": {"path": "../../../shop", "environment": "{{ env.SQLMESH_ENVIRONMENT }}"}}
        )
        [spec] = dagster.refresh().resolve_all_asset_specs()
        tables[environment] = (spec.key.to_user_string(), spec.metadata["dagster/table_name"])
    assert tables == {"prod": ("t/one", "warehouse.t.one"), "pr_17": ("t/one", "warehouse.t__pr_17.one")}


@pytest.mark.night(
    "test_configured_gateway_and_environment_are_used",
    "test_project_env_reaches_only_sqlmesh",
    "engine/test_errors.py::test_env_file_of_project_is_loaded_and_its_secrets_are_hidden",
)
@pytest.mark.advice("and there is no such file. Correct it or unset it.")
@pytest.mark.attribute("project.gateway", "project.env")
def test_sqlmesh_variables_set_gateway_and_env_file(dagster: DagsterProject) -> None:
    other = "gateways:\n  other:\n    connection:\n      type: duckdb\n      database: \"{{ env_var('IN_FILE') }}\""
    project = write_project(dagster.root / "shop", ONE_MODEL, CONFIG.replace("gateways:", other))
    (project / "production.env").write_text("IN_FILE=other.duckdb")
    command: dict[str, Any] = {"SQLMESH_GATEWAY": "other", "SQLMESH_DOTENV_PATH": "production.env"}
    run([BIN / "sqlmesh", "plan", "--auto-apply", "--no-prompts"], cwd=project, **command)
    dagster.add_component("shop", {"project": {"path": str(project), "env": command}})
    dagster.refresh()
    record = dagster.launch()
    assert record.status_of("t/one") == "up_to_date", record.failures
    assert not (project / "warehouse.duckdb").exists()
    dagster.add_component(
        "shop", {"project": {"path": str(project), "env": {**command, "SQLMESH_DOTENV_PATH": "no.env"}}}
    )
    assert "SQLMESH_DOTENV_PATH names no.env, and there is no such file" in dagster.load_error()
    unset = {"SQLMESH_GATEWAY": "other", "IN_FILE": "other.duckdb"}
    for variables in (command, unset):
        dagster.add_component("shop", {"project": {"path": str(project), "env": variables}})
        assert dagster.refresh()


@pytest.mark.advice(
    "The environment variable {} is not set. Set it or {}", "Set the variable that it names or {}", "give a default: "
)
@pytest.mark.parametrize("value", [None, ""], ids=["not set", "empty"])
@pytest.mark.parametrize("attribute", ["environment", "gateway", "config", "python", "working_directory"])
def test_unset_or_empty_variable_does_not_mean_the_default(
    dagster: DagsterProject, monkeypatch: pytest.MonkeyPatch, attribute: str, value: str | None
) -> None:
    """A branch deployment without its variable would run prod."""
    if value is not None:
        monkeypatch.setenv("OF_THE_TEST", value)
    project = {"path": "../../../shop", attribute: "{{ env.OF_THE_TEST }}"}
    dagster.add_component("shop", {"project": project})
    problem = f"`project.{attribute}` in defs.yaml is '{{{{ env.OF_THE_TEST }}}}', which resolves to nothing."
    assert (problem if value == "" else "variable OF_THE_TEST is not set") in dagster.load_error()
    project[attribute] = "{{ env('OF_THE_TEST_2', 'given') }}"
    assert component_of(dagster, {"project": project})
    monkeypatch.setenv("OF_THE_TEST", "given")
    project[attribute] = "{{ env.OF_THE_TEST }}"
    assert component_of(dagster, {"project": project})


@pytest.mark.parametrize(
    "attributes",
    [
        {"select": "{{ env.OF_THE_TEST }}"},
        {"exclude": "{{ env.OF_THE_TEST }}"},
        {"op": {"pool": "{{ env.OF_THE_TEST }}"}},
        {"op": {"name": "shop_{{ env.OF_THE_TEST }}"}},
        {"restate": True, "budget": {"seconds": "{{ env.OF_THE_TEST }}"}},
        {"external_models": {"key": "{{ env.OF_THE_TEST }}/{{ external.name }}"}},
        {"translation": {"key": "{{ env.OF_THE_TEST }}/{{ model.name }}"}},
        {"project": {"path": "../../../shop", "environment": "dev_{{ env.OF_THE_TEST }}"}},
    ],
    ids=str,
)
def test_unset_variable_is_an_error_where_it_changes_a_run(dagster: DagsterProject, attributes: dict[str, Any]) -> None:
    """For example, a missing selection would select the whole project."""
    files = {**ONE_MODEL, "models/two.sql": "MODEL (name t.two, kind FULL); SELECT id FROM raw.orders"}
    write_project(dagster.root / "shop", files)
    dagster.add_component("shop", {"project": "../../../shop", **attributes})
    assert "The environment variable OF_THE_TEST is not set" in dagster.load_error()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"project": "../../../nowhere"}, "There is no folder "),
        (
            {"execution": {"retries": {"max_retries": 1, "transient_errors": ["("]}}},
            "`execution.retries.transient_errors` in defs.yaml has '(', which is not a regular expression",
        ),
        ({"external_models": {"keys": {"raw.orders": "a//b"}}}, "`external_models.keys` in defs.yaml, at 'raw.orders'"),
    ],
    ids=["build definitions", "create attributes", "resolve attributes"],
)
def test_error_has_no_cause_and_one_frame_of_component_code(
    dagster: DagsterProject, attributes: dict[str, Any], message: str
) -> None:
    """`dg check defs` prints every frame and every cause of an error that is not one of Dagster's."""
    dagster.add_component("shop", {"project": "../../../shop", **attributes})
    with pytest.raises(Exception, match="Error while") as caught:
        dagster.refresh()
    error = caught.value.__cause__
    assert type(error) is ConfigurationError
    assert str(error).startswith(message)
    assert error.__cause__ is None
    assert error.__suppress_context__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    assert len(frames) == 1


@pytest.mark.advice("In a template of `translation`, use `model` and `spec`.")
def test_component_whose_template_loads_its_own_assets_is_an_error(dagster: DagsterProject) -> None:
    """Otherwise it would build itself recursively until the memory is full."""
    write_project(dagster.root / "shop", ONE_MODEL)
    deps = "{{ [context.load_component('shop').asset_key_for_model('t.one')] }}"
    dagster.add_component("shop", {"project": "../../../shop", "translation": {"deps": deps}})
    assert "asks for its own assets while they are being built" in dagster.load_error()
    corrected = "{{ ['before/' ~ model.name] }}"
    dagster.add_component("shop", {"project": "../../../shop", "translation": {"deps": corrected}})
    assert load(dagster.root)
    dagster.add_component("shop", {"project": "../../../shop", "translation": {"deps": deps}})
    [folder] = {path.parent for path in dagster.root.rglob("state")}
    shutil.rmtree(folder)
    folder.write_text("no folder")
    assert "asks for its own assets while they are being built" in dagster.load_error()


CONFIG_WITH_ENVIRONMENT_FROM_VARIABLE = CONFIG + "default_target_environment: {{ env_var('TARGET', 'prod') }}\n"


@pytest.mark.advice("or refresh the manifest with the variables of this deployment:")
def test_manifest_of_another_environment_does_not_run(dagster: DagsterProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest may be used where variables have other values, as in a deployment, but not if they change the
    environment.
    """
    project = write_project(dagster.root / "shop", ONE_MODEL, CONFIG_WITH_ENVIRONMENT_FROM_VARIABLE)
    plan(project)
    monkeypatch.setenv("TARGET_HERE", "staging")
    dagster.add_component("shop", {"project": {"path": "../../../shop", "env": {"TARGET": "{{ env.TARGET_HERE }}"}}})
    dagster.refresh()
    state = {
        path: path.read_bytes() for path in dagster.root.rglob("*") if path.is_file() and "defs_state" in str(path)
    }
    assert state
    monkeypatch.setenv("TARGET_HERE", "prod")
    for path, stored in state.items():
        path.write_bytes(stored)
    [failure] = dagster.launch().failures
    assert "was created for environment 'staging', but the project's configuration now has" in failure
    assert "now has environment 'prod'" in failure
    assert "dg utils refresh-defs-state" in failure
    dagster.refresh()
    dagster.launch().succeeded()


@pytest.mark.attribute("project.env")
def test_project_env_reaches_only_sqlmesh(dagster: DagsterProject) -> None:
    config = CONFIG + "default_target_environment: {{ env_var('TARGET_OF_THE_TEST') }}\n"
    write_project(dagster.root / "shop", ONE_MODEL, config)
    project = {"path": "../../../shop", "env": {"TARGET_OF_THE_TEST": "staging"}}
    assert manifest_of(dagster, project).environment == "staging"
    assert "staging" not in repr(component_of(dagster, {"project": project}))


NAMED_CONFIGS = """
import os
from pathlib import Path

from sqlmesh.core.config import Config, GatewayConfig, ModelDefaultsConfig
from sqlmesh.core.config.connection import DuckDBConnectionConfig

Path("sqlmesh_was_here").touch()


def named(environment):
    return Config(
        gateways={"local": GatewayConfig(connection=DuckDBConnectionConfig())},
        model_defaults=ModelDefaultsConfig(dialect="duckdb"),
        default_target_environment=environment,
    )


config = named("prod")
other = named("other_one")
"""


@pytest.mark.attribute("project.config", "project.working_directory")
def test_configured_config_and_working_directory_are_used(dagster: DagsterProject) -> None:
    project = write_project(dagster.root / "shop", {**ONE_MODEL, "config.py": NAMED_CONFIGS})
    (dagster.root / "elsewhere").mkdir()
    arguments = {"path": "../../../shop", "config": "other", "working_directory": "../../../elsewhere"}
    assert manifest_of(dagster, arguments).environment == "other_one"
    assert (dagster.root / "elsewhere" / "sqlmesh_was_here").exists()
    assert not (project / "sqlmesh_was_here").exists()
    assert manifest_of(dagster, "../../../shop").environment == "prod"
    assert (project / "sqlmesh_was_here").exists()


@pytest.mark.attribute("project.python")
def test_python_is_the_interpreter_that_runs_sqlmesh(dagster: DagsterProject) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    interpreter = dagster.root / "bin" / "python"
    interpreter.parent.mkdir()
    interpreter.write_text(f'#!/bin/sh\ntouch "{dagster.root}/was_used"\nexec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    assert manifest_of(dagster, {"path": "../../../shop", "python": "../../../bin/python"}).models
    assert (dagster.root / "was_used").exists()


def test_symlink_to_interpreter_is_not_resolved(dagster: DagsterProject) -> None:
    """The interpreter of a virtual environment is a symlink. It finds its environment by the path of the symlink."""
    write_project(dagster.root / "shop", ONE_MODEL)
    link = dagster.root / "python"
    link.symlink_to(sys.executable)
    component = component_of(dagster, {"project": {"path": "../../../shop", "python": "../../../python"}})
    assert component.project.python == str(link)


@pytest.mark.attribute(
    "select",
    "exclude",
    "tag_convention.prefix",
    "tag_convention.separator",
    "op.name",
    "op.description",
    "op.pool",
    "op.tags",
)
def test_configured_selection_tag_convention_and_op_are_used(dagster: DagsterProject) -> None:
    tagged = "MODEL (name t.{0}, kind FULL, tags [{0}, 'own/group_name/of_{0}', 'dagster:colour:red']); SELECT 1 AS id"
    files = {f"models/{name}.sql": tagged.format(name) for name in ("one", "two", "three")}
    write_project(dagster.root / "shop", {**files, "models/below.sql": "MODEL (name t.below); SELECT id FROM t.three"})
    dagster.add_component(
        "shop",
        {
            "project": "../../../shop",
            "select": ["tag:one", "tag:two", "+t.below"],
            "exclude": "t.two",
            "tag_convention": {"prefix": "own", "separator": "/"},
            "op": {"name": "our_op", "description": "Ours.", "pool": "our_pool", "tags": {"a": "b"}},
        },
    )
    definitions = dagster.refresh()
    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    assert set(specs) == {"t/one", "t/three", "t/below"}
    assert specs["t/one"].group_name == "of_one"
    assets = definitions.resolve_assets_def(dg.AssetKey(["t", "one"]))
    assert (assets.op.name, assets.op.description, assets.op.pool) == ("our_op", "Ours.", "our_pool")
    assert assets.op.tags is not None
    assert assets.op.tags["a"] == "b"


DOWNSTREAM_ASSET = """
import dagster as dg

@dg.asset(deps=[dg.AssetKey(["t", "one"])])
def page(): ...
"""


@pytest.mark.attribute("execution.record_unchanged", "execution_status_check")
def test_record_unchanged_false_counts_up_to_date_models_and_runs_downstream_assets(dagster: DagsterProject) -> None:
    model = "MODEL (name t.one, kind FULL, audits (not_null(columns := (id)))); SELECT 1 AS id"
    two = "MODEL (name t.two, kind FULL); SELECT id FROM t.one"
    plan(write_project(dagster.root / "shop", {"models/one.sql": model, "models/two.sql": two}))
    dagster.add_module("page", DOWNSTREAM_ASSET)
    attributes: dict[str, Any] = {"project": "../../../shop", "execution": {"record_unchanged": False}}
    dagster.add_component("shop", {**attributes, "execution_status_check": False})
    dagster.refresh()
    executed = dagster.launch()
    assert set(executed.materializations) == {"t/one", "t/two", "page"}
    assert list(executed.checks) == ["t/one:not_null_id"]

    unchanged = dagster.launch("multiprocess").succeeded()
    assert (list(unchanged.materializations), unchanged.observations) == (["page"], {})
    assert unchanged.checks["t/one:not_null_id"].passed, "if `page` failed, Dagster would show this check as failed"
    released = [event.event_specific_data.output_name for event in unchanged.events(dg.DagsterEventType.STEP_OUTPUT)]
    assert sorted(released) == ["result", "t__one", "t__one__not_null_id"]
    assert "Nothing to do: 2 models. 2: all complete intervals are computed." in unchanged.log

    broken = "MODEL (name t.broken, kind FULL, cron '@hourly'); SELECT error('on purpose')::INT AS id"
    write_project(dagster.root / "shop", {"models/broken.sql": broken})
    plan(dagster.root / "shop", "--skip-backfill")
    dagster.refresh()
    failed = dagster.launch().failed()
    assert "t/one:not_null_id" in failed.checks, "Dagster would show it as failed"
    alone = dagster.launch(assets=["t/one", "t/two"]).succeeded()
    assert (alone.materializations, alone.observations, alone.checks) == ({}, {}, {})
    assert "Nothing to do: 2 models. 2: all complete intervals are computed." in alone.log
    failed_alone = dagster.launch(assets=["t/one", "t/two", "t/broken"]).failed()
    assert "t/one:not_null_id" in failed_alone.checks, "Dagster would show it as failed"


def test_up_to_date_models_are_observed_and_their_checks_carried_over_by_default(dagster: DagsterProject) -> None:
    model = "MODEL (name t.one, kind FULL, audits (not_null(columns := (id)))); SELECT 1 AS id"
    plan(write_project(dagster.root / "shop", {"models/one.sql": model}))
    dagster.add_component("shop", {"project": "../../../shop"})
    dagster.refresh()
    dagster.launch()
    unchanged = dagster.launch()
    assert list(unchanged.observations) == ["t/one"]
    assert set(unchanged.checks) == {"t/one:not_null_id", "t/one:sqlmesh_execution_status"}
    released = {event.event_specific_data.output_name for event in unchanged.events(dg.DagsterEventType.STEP_OUTPUT)}
    assert "t__one" not in released, "no step waits for it, so this event is not recorded"


@pytest.mark.night(
    "unit/definitions/test_translator.py::test_cut_column_schema_and_column_lineage_have_a_note",
    "unit/protocol/test_formatting.py::test_longer_text_is_cut_with_a_note_of_its_length",
)
def test_long_queries_and_schemas_are_cut(dagster: DagsterProject) -> None:
    columns = ", ".join(f"id AS column_{number}" for number in range(1_017))
    wide = f"MODEL (name t.wide, kind FULL, audits (long_one)); SELECT {columns} FROM t.one"
    audit = f"AUDIT (name long_one); SELECT * FROM @this_model WHERE {' OR '.join(['column_1 < 0'] * 800)}"
    project = write_project(dagster.root / "shop", {**ONE_MODEL, "models/wide.sql": wide, "audits/long.sql": audit})
    plan(project)
    dagster.add_component("shop", {"project": str(project), "include_metadata": ["sql"]})
    key = dg.AssetKey(["t", "wide"])
    definitions = dagster.refresh().resolve_assets_def(key)
    spec = definitions.get_asset_spec(key)
    metadata = spec.metadata
    check = definitions.get_spec_for_check_key(dg.AssetCheckKey(key, "long_one"))
    kept = [f"column_{number}" for number in range(1_000)]
    assert [column.name for column in metadata["dagster/column_schema"].columns] == kept
    assert metadata["sqlmesh/columns_cut"].startswith("17 columns left out")
    evaluated = dagster.launch().checks["t/wide:long_one"]
    of_model, of_check = (f"```sql{str(text).partition('```sql')[2]}" for text in (spec.description, check.description))
    for query in (of_model, of_check, evaluated.metadata["sqlmesh/query"].value):
        assert "-- cut here" in str(query)
        assert len(str(query)) == 10_000 + len("```sql\n\n```")


def test_two_components_with_same_op_name_are_an_error_that_names_both(dagster: DagsterProject) -> None:
    """Ops whose names come from similar folder names get different names."""
    write_project(dagster.root / "shop", ONE_MODEL)
    write_project(dagster.root / "other", {"models/two.sql": "MODEL (name t.two, kind FULL); SELECT 1 AS id"})
    dagster.add_component("a-b", {"project": "../../../shop"})
    dagster.add_component("a_b", {"project": "../../../other"})
    ops = {assets.op.name for assets in dagster.refresh().resolve_asset_graph().assets_defs if assets.is_executable}
    assert len(ops) == 2
    dagster.add_component("a-b", {"project": "../../../shop", "op": {"name": "sqlmesh_a_b"}})
    message = dagster.load_error()
    assert "would both give the name 'sqlmesh_a_b' to a job or op. Set another `op.name`" in message
    assert "defs/a-b" in message
    assert "defs/a_b" in message


AUDITED = (
    "MODEL (name t.{name}, kind FULL, audits (not_null(columns := (id)), "
    "number_of_rows(threshold := 9, blocking := false))); SELECT {value}::INT AS id"
)


BAD_ROWS = {"good": "1", "bad": "NULL"}


@pytest.mark.attribute("audits.checks")
def test_audits_without_a_check_still_run_and_their_failures_are_named(dagster: DagsterProject) -> None:
    models = {f"models/{name}.sql": AUDITED.format(name=name, value=value) for name, value in BAD_ROWS.items()}
    plan(write_project(dagster.root / "shop", models), "--skip-backfill")
    dagster.add_component("shop", {"project": "../../../shop", "audits": {"checks": "blocking"}})
    dagster.refresh()
    record = dagster.launch()
    audits = {check for check in record.checks if not check.endswith("status")}
    assert audits == {"t/good:not_null_id", "t/bad:not_null_id"}
    assert "t.good: audit number_of_rows failed: 1 row. It has no check in Dagster." in record.log

    dagster.add_component("shop", {"project": "../../../shop", "audits": {"checks": ["Number_*"]}})
    dagster.refresh()
    record = dagster.launch().failed()
    assert {check for check in record.checks if check.startswith("t/bad:number_of_rows")}
    assert not {check for check in record.checks if "not_null" in check}
    [failure] = record.failures
    assert "t.bad" in failure
    assert "not_null" in failure

    dagster.add_component("shop", {"project": "../../../shop", "audits": {"checks": ["not_nul"]}})
    assert "`audits.checks` in defs.yaml names 'not_nul'" in dagster.load_error()
