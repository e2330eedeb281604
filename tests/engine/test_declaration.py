"""Every attribute of `project`, and what it does."""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from harness import BIN, CONFIG, DagsterProject, dagster_project, plan, run, write_project

from dg_sqlmesh_component import SQLMeshProjectComponent
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.manifest import Manifest
from dg_sqlmesh_component.worker_process.requests import load_manifest

ONE_MODEL = {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"}


def describe(dagster: DagsterProject, project: Any, **attributes: Any) -> Manifest:
    """The manifest that the component gets from a declaration, paths resolved as from a real file."""
    return load_manifest(component(dagster, {"project": project, **attributes}).project)


def component(dagster: DagsterProject, attributes: dict[str, Any]) -> SQLMeshProjectComponent:
    """The component of a declaration in a real file."""
    dagster.declare("shop", attributes)
    return dg.ComponentTree.for_project(dagster.root).load_component("shop")


@pytest.fixture
def dagster(tmp_path: Path):
    with dagster_project(tmp_path) as project:
        yield project


@pytest.mark.attribute("project.path")
def test_a_path_is_relative_to_the_file_it_stands_in(dagster: DagsterProject) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    assert describe(dagster, "../../../shop").paths == (str(dagster.root / "shop"),)


def test_a_list_of_paths_is_a_multi_repository_project(dagster: DagsterProject) -> None:
    write_project(dagster.root / "left", ONE_MODEL)
    write_project(dagster.root / "right", {"models/two.sql": "MODEL (name t.two, kind FULL); SELECT id FROM t.one"})
    manifest = describe(dagster, {"path": ["../../../left", "../../../right"]})
    assert [model.name for model in manifest.models] == ["t.one", "t.two"]
    assert manifest.models[1].depends_on == (manifest.models[0].fqn,)


@pytest.mark.attribute("project.gateway", "project.environment")
def test_gateway_and_environment_are_those_asked_for(dagster: DagsterProject) -> None:
    other = "gateways:\n  other:\n    connection:\n      type: duckdb\n      database: other.duckdb"
    write_project(dagster.root / "shop", ONE_MODEL, CONFIG.replace("gateways:", other))
    manifest = describe(dagster, {"path": "../../../shop", "gateway": "other", "environment": "Dev_Ada"})
    assert (manifest.gateway, manifest.environment) == ("other", "dev_ada")
    assert [(model.catalog, model.table_name) for model in manifest.models] == [("other", "other.t__dev_ada.one")]


def test_the_environment_may_come_from_a_variable_and_changes_tables_but_no_keys(
    dagster: DagsterProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a branch deployment: the same assets, in tables of their own."""
    write_project(dagster.root / "shop", ONE_MODEL)
    tables = {}
    for environment in ("prod", "pr_17"):
        monkeypatch.setenv("SQLMESH_ENVIRONMENT", environment)
        dagster.declare("shop", {"project": {"path": "../../../shop", "environment": "{{ env.SQLMESH_ENVIRONMENT }}"}})
        [spec] = dagster.refresh().resolve_all_asset_specs()
        tables[environment] = (spec.key.to_user_string(), spec.metadata["dagster/table_name"])
    assert tables == {"prod": ("t/one", "warehouse.t.one"), "pr_17": ("t/one", "warehouse.t__pr_17.one")}


@pytest.mark.attribute("project.gateway", "project.env")
def test_the_variables_that_the_sqlmesh_command_knows_say_which_gateway_and_which_env_file(
    dagster: DagsterProject,
) -> None:
    other = "gateways:\n  other:\n    connection:\n      type: duckdb\n      database: \"{{ env_var('IN_FILE') }}\""
    project = write_project(dagster.root / "shop", ONE_MODEL, CONFIG.replace("gateways:", other))
    (project / "production.env").write_text("IN_FILE=other.duckdb")
    command = {"SQLMESH_GATEWAY": "other", "SQLMESH_DOTENV_PATH": "production.env"}
    run([BIN / "sqlmesh", "plan", "--auto-apply", "--no-prompts"], cwd=project, **command)
    dagster.declare("shop", {"project": {"path": str(project), "env": command}})
    dagster.refresh()
    told = dagster.launch()
    assert told.status_of("t/one") == "up_to_date", told.failures
    assert not (project / "warehouse.duckdb").exists()
    dagster.declare("shop", {"project": {"path": str(project), "env": {**command, "SQLMESH_DOTENV_PATH": "no.env"}}})
    assert "SQLMESH_DOTENV_PATH names no.env, and there is no such file" in dagster.refusal()


@pytest.mark.parametrize("value", [None, ""], ids=["not set", "empty"])
@pytest.mark.parametrize("attribute", ["environment", "gateway", "config", "python", "working_directory"])
def test_a_variable_that_gives_nothing_does_not_stand_for_the_default(
    dagster: DagsterProject, monkeypatch: pytest.MonkeyPatch, attribute: str, value: str | None
) -> None:
    """A branch deployment without its variable would run prod."""
    if value is not None:
        monkeypatch.setenv("OF_THE_TEST", value)
    project = {"path": "../../../shop", attribute: "{{ env.OF_THE_TEST }}"}
    dagster.declare("shop", {"project": project})
    assert (
        f"`project.{attribute}` in defs.yaml is '{{{{ env.OF_THE_TEST }}}}', which resolves to nothing."
        in dagster.refusal()
    )
    project[attribute] = "{{ env('OF_THE_TEST_2', 'given') }}"
    assert component(dagster, {"project": project})


def test_a_variable_for_sqlmesh_that_gives_nothing_is_named(dagster: DagsterProject) -> None:
    """One that is empty on purpose is what it is."""
    project = {"path": "../../../shop", "env": {"EMPTY": "", "WAREHOUSE": "{{ env.OF_THE_TEST }}"}}
    dagster.declare("shop", {"project": project})
    assert "`project.env.WAREHOUSE` in defs.yaml resolves to nothing. Set the variable" in dagster.refusal()


@pytest.mark.parametrize("value", ["1234", "0123", "1e5", "'quoted'", "true"])
def test_a_variable_reaches_sqlmesh_as_it_is(
    dagster: DagsterProject, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """A template would make a number of digits, such as those of a pull request, and take quotes for its own."""
    write_project(dagster.root / "shop", ONE_MODEL)
    monkeypatch.setenv("OF_THE_TEST", value)
    template = "{{ env.OF_THE_TEST }}"
    declared = component(dagster, {"project": {"path": "../../../shop", "gateway": template, "env": {"IT": template}}})
    assert (declared.project.gateway, declared.project.env) == (value, {"IT": value})


@pytest.mark.parametrize(
    "declared",
    [
        {"select": "{{ env.OF_THE_TEST }}"},
        {"exclude": "{{ env.OF_THE_TEST }}"},
        {"op": {"pool": "{{ env.OF_THE_TEST }}"}},
        {"external_models": {"key": "{{ env.OF_THE_TEST }}/{{ external.name }}"}},
        {"translation": {"key": "{{ env.OF_THE_TEST }}/{{ model.name }}"}},
        {"project": {"path": "../../../shop", "environment": "dev_{{ env.OF_THE_TEST }}"}},
    ],
    ids=str,
)
def test_a_variable_that_is_not_set_is_refused_wherever_it_would_change_what_runs(
    dagster: DagsterProject, declared: dict[str, Any]
) -> None:
    """A selection that is not there would be the whole project."""
    files = {**ONE_MODEL, "models/two.sql": "MODEL (name t.two, kind FULL); SELECT id FROM raw.orders"}
    write_project(dagster.root / "shop", files)
    dagster.declare("shop", {"project": "../../../shop", **declared})
    said = dagster.refusal()
    assert "resolves to nothing" in said or "is not set" in said


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"project": "../../../nowhere"}, "There is no folder "),
        (
            {"execution": {"retries": {"max_retries": 1, "transient_errors": ["("]}}},
            "`execution.retries.transient_errors` in defs.yaml has '(', which is not a regular expression",
        ),
        ({"external_models": {"keys": {"raw.orders": "a//b"}}}, "`external_models.keys` in defs.yaml, at 'raw.orders'"),
    ],
    ids=["while it is built", "while attributes are created", "while attributes are resolved"],
)
def test_what_is_wrong_is_printed_without_frames_of_ours_around_it(
    dagster: DagsterProject, declared: dict[str, Any], message: str
) -> None:
    """`dg check defs` prints every frame and every cause of an error that is not Dagster's."""
    dagster.declare("shop", {"project": "../../../shop", **declared})
    with pytest.raises(Exception, match="Error while") as caught:
        dagster.refresh()
    error = caught.value.__cause__
    assert type(error) is ConfigurationError
    assert str(error).startswith(message)
    assert error.__cause__ is None
    assert error.__suppress_context__
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
    assert len(ours) == 1


def test_a_declaration_that_asks_for_its_own_assets_is_told_so(dagster: DagsterProject) -> None:
    """Else it would be built within itself until the memory is gone."""
    write_project(dagster.root / "shop", ONE_MODEL)
    deps = "{{ [context.load_component('shop').asset_key_for_model('t.one')] }}"
    dagster.declare("shop", {"project": "../../../shop", "translation": {"deps": deps}})
    assert "asks for its own assets while they are being built" in dagster.refusal()


BY_VARIABLE = CONFIG + "default_target_environment: {{ env_var('TARGET', 'prod') }}\n"


def test_what_is_described_for_another_environment_does_not_run_in_this_one(
    dagster: DagsterProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an image describes holds in its deployment, where variables have other values; that of these does not."""
    project = write_project(dagster.root / "shop", ONE_MODEL, BY_VARIABLE)
    plan(project)
    monkeypatch.setenv("TARGET_HERE", "staging")
    dagster.declare("shop", {"project": {"path": "../../../shop", "env": {"TARGET": "{{ env.TARGET_HERE }}"}}})
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


@pytest.mark.attribute("project.env")
def test_environment_variables_reach_sqlmesh_and_nobody_else(dagster: DagsterProject) -> None:
    config = CONFIG + "default_target_environment: {{ env_var('TARGET_OF_THE_TEST') }}\n"
    write_project(dagster.root / "shop", ONE_MODEL, config)
    project = {"path": "../../../shop", "env": {"TARGET_OF_THE_TEST": "staging"}}
    assert describe(dagster, project).environment == "staging"
    assert "staging" not in repr(component(dagster, {"project": project}))


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
def test_config_and_working_directory_are_those_asked_for(dagster: DagsterProject) -> None:
    project = write_project(dagster.root / "shop", {**ONE_MODEL, "config.py": NAMED_CONFIGS})
    (project / "config.yaml").unlink()
    (dagster.root / "elsewhere").mkdir()
    arguments = {"path": "../../../shop", "config": "other", "working_directory": "../../../elsewhere"}
    assert describe(dagster, arguments).environment == "other_one"
    assert (dagster.root / "elsewhere" / "sqlmesh_was_here").exists()
    assert not (project / "sqlmesh_was_here").exists()
    assert describe(dagster, "../../../shop").environment == "prod"
    assert (project / "sqlmesh_was_here").exists()


@pytest.mark.attribute("project.python")
def test_python_is_the_interpreter_that_runs_sqlmesh(dagster: DagsterProject) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    interpreter = dagster.root / "bin" / "python"
    interpreter.parent.mkdir()
    interpreter.write_text(f'#!/bin/sh\ntouch "{dagster.root}/was_used"\nexec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    assert describe(dagster, {"path": "../../../shop", "python": "../../../bin/python"}).models
    assert (dagster.root / "was_used").exists()


def test_a_link_to_an_interpreter_is_not_followed(dagster: DagsterProject) -> None:
    """The interpreter of a virtual environment is a link, and knows by its own place which environment it is of."""
    write_project(dagster.root / "shop", ONE_MODEL)
    link = dagster.root / "python"
    link.symlink_to(sys.executable)
    declared = component(dagster, {"project": {"path": "../../../shop", "python": "../../../python"}})
    assert declared.project.python == str(link)


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
def test_selection_and_tag_convention_and_op_are_those_asked_for(dagster: DagsterProject) -> None:
    tagged = "MODEL (name t.{0}, kind FULL, tags [{0}, 'own/group_name/of_{0}']); SELECT 1 AS id"
    files = {f"models/{name}.sql": tagged.format(name) for name in ("one", "two", "three")}
    write_project(dagster.root / "shop", {**files, "models/below.sql": "MODEL (name t.below); SELECT id FROM t.three"})
    dagster.declare(
        "shop",
        {
            "project": "../../../shop",
            "select": ["tag:one", "tag:two", "+t.below"],
            "exclude": "t.two",
            "tag_convention": {"prefix": "own", "separator": "/"},
            "op": {
                "name": "our_op",
                "description": "Ours.",
                "pool": "our_pool",
                "tags": {"a": "b"},
            },
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


def test_the_pool_is_by_default_that_of_the_project_and_environment(dagster: DagsterProject) -> None:
    write_project(dagster.root / "my shop", ONE_MODEL)
    dagster.declare("shop", {"project": {"path": "../../../my shop", "environment": "dev"}})
    assert dagster.refresh().resolve_assets_def(dg.AssetKey(["t", "one"])).op.pool == "sqlmesh_my_shop_dev"


SLOW = """
import time
import typing as t

import pandas as pd
from sqlmesh import model


@model("t.slow", kind="FULL", columns={"id": "int"}, depends_on=["t.one"])
def execute(context, start, end, execution_time, **kwargs: t.Any) -> pd.DataFrame:
    time.sleep(4)
    return pd.DataFrame({"id": [1]})
"""


def test_results_are_recorded_while_sqlmesh_is_still_at_work(dagster: DagsterProject) -> None:
    project = write_project(dagster.root / "shop", {**ONE_MODEL, "models/slow.py": SLOW})
    plan(project)
    dagster.declare("shop", {"project": "../../../shop"})
    dagster.refresh()
    told = dagster.launch("in_process")
    recorded = {
        entry.dagster_event.asset_key.to_user_string(): entry.timestamp
        for entry in told.entries
        if entry.dagster_event and entry.dagster_event.is_step_materialization
    }
    assert recorded["t/slow"] - recorded["t/one"] > 3
    assert abs(time.time() - recorded["t/slow"]) < 60


PAGE = """
import dagster as dg

@dg.asset(deps=[dg.AssetKey(["t", "one"])])
def page(): ...
"""


@pytest.mark.attribute("execution.record_unchanged", "execution_status_check")
def test_what_had_nothing_to_do_is_only_counted_where_so_declared_and_lets_what_reads_it_run(
    dagster: DagsterProject,
) -> None:
    one = "MODEL (name t.one, kind FULL, audits (not_null(columns := (id)))); SELECT 1 AS id"
    two = "MODEL (name t.two, kind FULL); SELECT id FROM t.one"
    plan(write_project(dagster.root / "shop", {"models/one.sql": one, "models/two.sql": two}))
    dagster.add_module("page", PAGE)
    declared: dict[str, Any] = {"project": "../../../shop", "execution": {"record_unchanged": False}}
    dagster.declare("shop", {**declared, "execution_status_check": False})
    dagster.refresh()
    executed = dagster.launch()
    assert set(executed.materializations) == {"t/one", "t/two", "page"}
    assert list(executed.checks) == ["t/one:not_null_id"]

    unchanged = dagster.launch("multiprocess")
    assert unchanged.status == dg.DagsterRunStatus.SUCCESS
    assert (list(unchanged.materializations), unchanged.observations) == (["page"], {})
    assert unchanged.checks["t/one:not_null_id"].passed, "should `page` fail, Dagster would show it as failed"
    released = [event.event_specific_data.output_name for event in unchanged.events(dg.DagsterEventType.STEP_OUTPUT)]
    assert sorted(released) == ["result", "t__one", "t__one__not_null_id"]
    assert "Nothing to do: 2 models. 2: all complete intervals are computed." in unchanged.log

    broken = "MODEL (name t.broken, kind FULL, cron '@hourly'); SELECT error('on purpose')::INT AS id"
    write_project(dagster.root / "shop", {"models/broken.sql": broken})
    plan(dagster.root / "shop", "--skip-backfill")
    dagster.refresh()
    failed = dagster.launch()
    assert failed.status == dg.DagsterRunStatus.FAILURE
    assert "t/one:not_null_id" in failed.checks, "Dagster would show it as failed"
    alone = dagster.launch(assets=["t/one", "t/two"])
    assert alone.status == dg.DagsterRunStatus.SUCCESS
    assert (alone.materializations, alone.observations, alone.checks) == ({}, {}, {})
    assert "Nothing to do: 2 models. 2: all complete intervals are computed." in alone.log
    failed_alone = dagster.launch(assets=["t/one", "t/two", "t/broken"])
    assert failed_alone.status == dg.DagsterRunStatus.FAILURE
    assert "t/one:not_null_id" in failed_alone.checks, "Dagster would show it as failed"


def test_what_had_nothing_to_do_is_observed_and_its_checks_repeated_by_default(dagster: DagsterProject) -> None:
    one = "MODEL (name t.one, kind FULL, audits (not_null(columns := (id)))); SELECT 1 AS id"
    plan(write_project(dagster.root / "shop", {"models/one.sql": one}))
    dagster.declare("shop", {"project": "../../../shop"})
    dagster.refresh()
    dagster.launch()
    unchanged = dagster.launch()
    assert list(unchanged.observations) == ["t/one"]
    assert set(unchanged.checks) == {"t/one:not_null_id", "t/one:sqlmesh_execution_status"}
    released = {event.event_specific_data.output_name for event in unchanged.events(dg.DagsterEventType.STEP_OUTPUT)}
    assert "t__one" not in released, "nothing waits for it, so it is one event less to record"


@pytest.mark.attribute("metadata_limits.characters", "metadata_limits.columns", "metadata_limits.lineage_pairs")
def test_metadata_limits_bound_what_is_kept_of_queries_schemas_and_lineage(dagster: DagsterProject) -> None:
    columns = ", ".join(f"id AS column_{number}" for number in range(20))
    wide = f"MODEL (name t.wide, kind FULL, audits (long_one)); SELECT {columns} FROM t.one"
    audit = f"AUDIT (name long_one); SELECT * FROM @this_model WHERE {' OR '.join(['column_1 < 0'] * 40)}"
    project = write_project(dagster.root / "shop", {**ONE_MODEL, "models/wide.sql": wide, "audits/long.sql": audit})
    plan(project)
    limits = {"characters": 200, "columns": 3, "lineage_pairs": 5}
    said = {"project": str(project), "include_metadata": ["sql", "column_lineage"], "metadata_limits": limits}
    dagster.declare("shop", said)
    key = dg.AssetKey(["t", "wide"])
    definitions = dagster.refresh().resolve_assets_def(key)
    metadata = definitions.get_asset_spec(key).metadata
    check = definitions.get_spec_for_check_key(dg.AssetCheckKey(key, "long_one"))
    assert [column.name for column in metadata["dagster/column_schema"].columns] == [f"column_{n}" for n in range(3)]
    assert metadata["sqlmesh/columns_cut"].startswith("17 columns left out")
    assert len(metadata["dagster/column_lineage"].deps_by_column) == 5
    assert metadata["sqlmesh/column_lineage_cut"].startswith("15 pairs of columns left out")
    evaluated = dagster.launch().checks["t/wide:long_one"]
    for query in (metadata["sqlmesh/query"], check.metadata["sqlmesh/query"], evaluated.metadata["sqlmesh/query"]):
        assert "-- cut here" in query.value
        assert len(query.value) == 200 + len("```sql\n\n```")


def test_two_declarations_whose_ops_are_named_alike_are_refused_with_both_places(dagster: DagsterProject) -> None:
    """Where only their folders are alike, the names are not."""
    write_project(dagster.root / "shop", ONE_MODEL)
    write_project(dagster.root / "other", {"models/two.sql": "MODEL (name t.two, kind FULL); SELECT 1 AS id"})
    dagster.declare("a-b", {"project": "../../../shop"})
    dagster.declare("a_b", {"project": "../../../other"})
    ops = {one.op.name for one in dagster.refresh().resolve_asset_graph().assets_defs if one.is_executable}
    assert len(ops) == 2
    dagster.declare("a-b", {"project": "../../../shop", "op": {"name": "sqlmesh_a_b"}})
    said = dagster.refusal()
    assert "both name their op 'sqlmesh_a_b'" in said
    assert "defs/a-b" in said
    assert "defs/a_b" in said
