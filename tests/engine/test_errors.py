"""Each error is a sentence that says what, where and what to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from harness import CONFIG, RARELY, DagsterProject, dagster_project, plan, query, run, sqlmesh, write_project

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol.errors import (
    ConfigurationError,
    InstallationError,
    ProjectLoadError,
    SQLMeshComponentError,
)
from dg_sqlmesh_component.worker_process.requests import load_manifest

ONE_MODEL = {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"}


def complaint(project: SQLMeshProject, kind: type[SQLMeshComponentError], **selection: list[str]) -> str:
    with pytest.raises(kind) as caught:
        load_manifest(project, **selection)
    return str(caught.value)


# -- when definitions are loaded ------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    message = complaint(SQLMeshProject((tmp_path / "nowhere",)), ConfigurationError)
    assert f"There is no folder {tmp_path / 'nowhere'}" in message
    assert "`project` in defs.yaml" in message


def test_a_folder_without_a_configuration_is_named_with_the_command_that_makes_it_a_project(tmp_path: Path) -> None:
    message = complaint(SQLMeshProject((tmp_path,)), ConfigurationError)
    assert f"{tmp_path} is not a SQLMesh project" in message
    assert "config.yaml" in message
    assert message.endswith(f"To create a project there:\n    cd {tmp_path} && sqlmesh init")


def test_of_a_dbt_project_it_is_said_how_it_becomes_one_of_sqlmesh(tmp_path: Path) -> None:
    (tmp_path / "dbt_project.yml").write_text("name: shop\nversion: '1'\nprofile: shop\n")
    message = complaint(SQLMeshProject((tmp_path,)), ConfigurationError)
    assert message.endswith(
        f"It is a dbt project. To add what SQLMesh needs:\n    cd {tmp_path} && sqlmesh init -t dbt"
    )
    sqlmesh(tmp_path, "init", "-t", "dbt")
    SQLMeshProject((tmp_path,)).check_folders()


def test_a_model_that_cannot_be_parsed_is_named_by_file_and_line(tmp_path: Path) -> None:
    write_project(tmp_path, {"models/bad.sql": "MODEL (name t.bad, kind FULL);\nSELECT 1 AS a,\n  FROM WHERE x = ("})
    message = complaint(SQLMeshProject((tmp_path,)), ProjectLoadError)
    assert str(tmp_path / "models" / "bad.sql") in message
    assert "Line 3" in message
    assert "\x1b" not in message


def test_a_python_model_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    write_project(tmp_path, {"models/bad.py": "import a_module_that_nobody_has\n"})
    message = complaint(SQLMeshProject((tmp_path,)), ProjectLoadError)
    assert "bad.py" in message
    assert "a_module_that_nobody_has" in message


def test_an_unknown_gateway_lists_those_that_exist(tmp_path: Path) -> None:
    write_project(
        tmp_path, ONE_MODEL, CONFIG.replace("gateways:", "gateways:\n  other:\n    connection:\n      type: duckdb")
    )
    message = complaint(SQLMeshProject((tmp_path,), gateway="warehouse"), ConfigurationError)
    assert "Gateway 'warehouse' does not exist" in message
    assert "Its gateways: local, other." in message


def test_an_unknown_configuration_object_is_named(tmp_path: Path) -> None:
    write_project(tmp_path, ONE_MODEL)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "config.py").write_text("from sqlmesh.core.config import Config\nconfig = Config()\n")
    assert "other_config" in complaint(SQLMeshProject((tmp_path,), config="other_config"), ProjectLoadError)


@pytest.mark.parametrize("attribute", ["select", "exclude"])
def test_a_selection_that_is_none_is_quoted(tmp_path: Path, attribute: str) -> None:
    write_project(tmp_path, ONE_MODEL)
    message = complaint(SQLMeshProject((tmp_path,)), ConfigurationError, **{attribute: ["t.one &"]})
    assert f"`{attribute}` in defs.yaml is not a SQLMesh model selection: 't.one &'" in message
    assert "tag:finance" in message


def test_a_selection_that_matches_nothing_is_quoted(tmp_path: Path) -> None:
    write_project(tmp_path, ONE_MODEL)
    message = complaint(SQLMeshProject((tmp_path,)), ConfigurationError, select=["tag:finanze"])
    assert "matches no model: 'tag:finanze'" in message


def test_a_project_none_of_whose_models_is_executed_is_refused_and_one_without_models_is_empty(tmp_path: Path) -> None:
    project = SQLMeshProject((write_project(tmp_path, {}),))
    assert not load_manifest(project).models
    tables = "- name: raw.orders\n  columns: {id: int}\n"
    write_project(
        tmp_path,
        {"models/some.sql": "MODEL (name t.some, kind EMBEDDED); SELECT 1 AS id", "external_models.yaml": tables},
    )
    message = complaint(project, ProjectLoadError)
    assert f"No model of the SQLMesh project at {tmp_path} becomes an asset." in message
    assert "(all are external or embedded): raw.orders, t.some. Add a model of another" in message


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_project(tmp_path, ONE_MODEL)
    message = complaint(SQLMeshProject((tmp_path,), python="no-such-python"), InstallationError)
    assert "The interpreter no-such-python cannot be started" in message
    assert "`project.python`" in message


def test_an_interpreter_without_sqlmesh_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    write_project(tmp_path / "project", ONE_MODEL)
    run([sys.executable, "-m", "venv", "--without-pip", "bare"], cwd=tmp_path)
    bare = str(tmp_path / "bare" / "bin" / "python")
    message = complaint(SQLMeshProject((tmp_path / "project",), python=bare), InstallationError)
    assert "SQLMesh is not installed for the interpreter" in message
    assert "bare/bin/python" in message
    assert "pip install 'sqlmesh>=" in message


def test_a_sqlmesh_that_is_too_old_is_named_with_both_versions(tmp_path: Path) -> None:
    """An interpreter whose metadata says SQLMesh 0.150: its distribution's record is all that is looked at."""
    write_project(tmp_path / "project", ONE_MODEL)
    record = tmp_path / "old" / "sqlmesh-0.150.0.dist-info" / "METADATA"
    record.parent.mkdir(parents=True)
    record.write_text("Metadata-Version: 2.1\nName: sqlmesh\nVersion: 0.150.0\n")
    project = SQLMeshProject((tmp_path / "project",), env={"PYTHONPATH": str(record.parent.parent)})
    message = complaint(project, InstallationError)
    assert re.search(r"has SQLMesh 0\.150\.0; at least 0\.\d+\.\d+ is needed", message)


def test_an_error_at_load_reaches_the_person_who_loads(tmp_path: Path) -> None:
    with dagster_project(tmp_path) as dagster:
        dagster.declare("gone", {"project": "../nowhere"})
        message = dagster.refusal()
    assert f"There is no folder {dagster.root / dagster.root.name / 'defs' / 'nowhere'}" in message


# -- when a step runs -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, DagsterProject]]:
    folder = tmp_path_factory.mktemp("errors")
    project = write_project(folder / "shop", ONE_MODEL)
    plan(project)
    with dagster_project(folder) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        yield project, dagster


def failure(dagster: DagsterProject, **selection: list[str]) -> str:
    told = dagster.launch("in_process", **selection)
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert not told.materializations
    [description] = told.failures
    return description


def test_an_environment_that_does_not_exist_names_the_plan_that_creates_it(tmp_path: Path) -> None:
    """SQLMesh refuses another environment without a change, unless it is told so."""
    project = write_project(tmp_path / "new shop", ONE_MODEL)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": {"path": str(project), "environment": "dev_ada"}})
        dagster.refresh()
        told = dagster.launch()
        [description] = told.failures
        [words] = re.findall(rf"cd '{project}' && sqlmesh (plan [-\w ]+)", description)
        sqlmesh(project, *words.split(), "--auto-apply", "--no-prompts")
        assert dagster.launch().status == dg.DagsterRunStatus.SUCCESS
    assert "Environment 'dev_ada' does not exist" in description
    assert description.count("does not exist") == 1
    assert told.reasons == {"Not evaluated: the run was refused."}
    assert not told.observations
    assert told.log.count("does not exist") == 0
    assert "memory" not in description


def test_a_state_in_memory_is_told_apart_from_one_without_the_environment(tmp_path: Path) -> None:
    in_memory = CONFIG.replace("      database: warehouse.duckdb\n", "")
    assert in_memory != CONFIG
    project = write_project(tmp_path / "shop", ONE_MODEL, config=in_memory)
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        description = failure(dagster)
    assert "Environment 'prod' does not exist" in description
    assert "a plan's result is lost when the process that applied it ends" in description
    assert "`database: warehouse.duckdb`" in description


def test_a_model_that_is_not_promoted_does_not_stop_those_that_are(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", ONE_MODEL)
    plan(project)
    audited = "MODEL (name t.two, kind FULL, audits (not_null(columns := (id)))); SELECT 2 AS id"
    (project / "models" / "two.sql").write_text(audited)
    (project / "models" / "three.sql").write_text("MODEL (name t.three, kind FULL); SELECT id FROM t.two")
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        told = dagster.launch("in_process")
        alone = dagster.launch("in_process", assets=["t/two"])
        dagster.declare("shop", {"project": str(project), "exclude": "t.one"})
        dagster.refresh()
        refused = dagster.launch("in_process")
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert set(told.materializations) == {"t/one"}
    assert (told.status_of("t/two"), told.status_of("t/three")) == ("not_in_environment", "not_in_environment")
    unevaluated = [check for name, check in told.checks.items() if name.startswith("t/two:not_null")]
    assert [(one.passed, one.severity) for one in unevaluated] == [(False, dg.AssetCheckSeverity.WARN)]
    assert unevaluated[0].description == "Not evaluated: t.two is not promoted in environment prod."
    command = f"\n\n    cd {project} && sqlmesh plan"
    [description] = told.failures
    assert "t.two, t.three: Not promoted in environment prod, so not run." in description
    assert description.endswith(command)
    assert str(told.checks["t/two:sqlmesh_execution_status"].description).endswith(command)
    assert alone.status_of("t/two") == "not_in_environment"
    assert refused.failures == [
        "Environment 'prod' has promoted none of the models of the SQLMesh project at "
        f"{project}, so nothing can run. To promote them:{command}"
    ]
    repeated = [check for check in refused.checks.values() if "sqlmesh/not_evaluated" not in check.metadata]
    assert all(str(check.description).endswith("Repeated, because the run was refused.") for check in repeated)


def test_a_model_that_is_promoted_as_external_or_embedded_is_not_in_the_environment(tmp_path: Path) -> None:
    """SQLMesh would have nothing to do for it, for ever."""
    project = write_project(
        tmp_path / "shop",
        {
            "external_models.yaml": "- name: t.landed\n  columns: {id: int}\n",
            "models/inlined.sql": "MODEL (name t.inlined, kind EMBEDDED); SELECT 1 AS id",
            "models/reader.sql": "MODEL (name t.reader, kind FULL); SELECT id FROM t.landed JOIN t.inlined USING (id)",
        },
    )
    query(project, "CREATE SCHEMA t")
    query(project, "CREATE TABLE t.landed AS SELECT 1 AS id")
    plan(project)
    (project / "external_models.yaml").unlink()
    for name in ("landed", "inlined"):
        (project / f"models/{name}.sql").write_text(f"MODEL (name t.{name}, kind FULL); SELECT 1 AS id")
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        told = dagster.launch()
    assert told.status == dg.DagsterRunStatus.FAILURE
    assert {told.status_of(f"t/{name}") for name in ("landed", "inlined")} == {"not_in_environment"}
    assert set(told.materializations) == {"t/reader"}


@pytest.mark.attribute("execution.environment_timeout")
@pytest.mark.parametrize("selection", [{}, {"checks": ["t/one:sqlmesh_execution_status"]}], ids=["a run", "checks"])
def test_an_environment_that_a_plan_is_updating_is_waited_for_as_long_as_declared(
    planned: tuple[Path, DagsterProject], selection: dict[str, list[str]]
) -> None:
    """Its views may be of two plans till then, so that no check is evaluated either."""
    project, dagster = planned
    [(finalized,)] = query(project, "SELECT finalized_ts FROM sqlmesh._environments")
    query(project, "UPDATE sqlmesh._environments SET finalized_ts = NULL")
    dagster.declare("shop", {"project": str(project), "execution": {"environment_timeout": 2}})
    start = time.monotonic()
    try:
        description = failure(dagster, **selection)
    finally:
        query(project, f"UPDATE sqlmesh._environments SET finalized_ts = {finalized}")
    assert time.monotonic() - start < 60
    assert "is being updated by a plan that has not finished" in description
    assert f"cd {project} && sqlmesh plan prod" in description


def test_a_database_that_another_process_holds_names_that_process(planned: tuple[Path, DagsterProject]) -> None:
    project, dagster = planned
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import duckdb, time; held = duckdb.connect({str(project / 'warehouse.duckdb')!r});"
            "print('held', flush=True); time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        dagster.declare("shop", {"project": str(project), "execution": {"overlap_timeout": 2}})
        description = failure(dagster)
    finally:
        holder.kill()
        holder.wait()
    assert "The DuckDB file is in use by another process" in description
    if sys.platform == "linux":
        assert f"is held by `{Path(sys.executable).name} -c " in description
        assert f"(PID {holder.pid}, started at " in description
    assert f"PID {holder.pid}" in description
    assert "This run has waited for 2 seconds" in description


@pytest.mark.parametrize(
    ("recorded", "advice"), [("0.1.0", "sqlmesh migrate"), ("9.9.9", "Upgrade SQLMesh in the interpreter")]
)
def test_a_state_of_another_sqlmesh_says_what_to_do(
    planned: tuple[Path, DagsterProject], recorded: str, advice: str
) -> None:
    project, dagster = planned
    [(version,)] = query(project, "SELECT sqlmesh_version FROM sqlmesh._versions")
    query(project, f"UPDATE sqlmesh._versions SET sqlmesh_version = '{recorded}'")
    try:
        description = failure(dagster)
    finally:
        query(project, f"UPDATE sqlmesh._versions SET sqlmesh_version = '{version}'")
    assert recorded in description
    assert advice in description


def test_loading_a_project_leaves_its_database_alone(tmp_path: Path) -> None:
    write_project(tmp_path, ONE_MODEL)
    load_manifest(SQLMeshProject((tmp_path,)), select=["t.*"])
    assert not (tmp_path / "warehouse.duckdb").exists()
    assert os.listdir(tmp_path)


AFTER_ALL = {
    "models/fine.sql": "MODEL (name t.fine, kind FULL); SELECT 1 AS id",
    "models/idle.sql": f"MODEL (name t.idle, kind FULL, cron '{RARELY}', start '2020-01-01'); SELECT 1 AS id",
    "models/broken.sql": "MODEL (name t.broken, kind FULL); "
    "SELECT CASE WHEN is_up THEN error('boom') END AS id FROM ctl.up",
    "models/below.sql": "MODEL (name t.below, kind FULL); SELECT id FROM t.broken",
}


def test_an_after_all_statement_that_fails_fails_the_run_and_changes_nothing_about_the_models(tmp_path: Path) -> None:
    statements = "after_all:\n  - SELECT error('Connection reset by peer') FROM ctl.late\n"
    project = write_project(tmp_path / "shop", AFTER_ALL, CONFIG + "\n" + statements)
    query(project, "CREATE SCHEMA ctl")
    query(project, "CREATE TABLE ctl.late (id INT)")
    query(project, "CREATE TABLE ctl.up AS SELECT true AS is_up WHERE false")
    plan(project)
    query(project, "INSERT INTO ctl.late VALUES (1)")
    query(project, "INSERT INTO ctl.up VALUES (true)")
    with dagster_project(tmp_path) as dagster:
        # An attempt for what had nothing to do would run no statement, and end well.
        retries = {"max_retries": 2, "delay": 0, "transient_errors": ["Connection reset by peer"]}
        dagster.declare("shop", {"project": str(project), "execution": {"retries": retries}})
        dagster.refresh()
        both = dagster.launch()
        query(project, "UPDATE ctl.up SET is_up = false")
        alone = dagster.launch()
    for told in (both, alone):
        assert told.status == dg.DagsterRunStatus.FAILURE
        assert "an `after_all` statement fails: " in told.failures[0]
        assert "Connection reset by peer" in told.failures[0]
        assert "a retry of this run, succeeds without executing it" in told.failures[0]
        assert told.status_of("t/idle") == "up_to_date"
    assert set(both.materializations) == {"t/fine"}
    assert (both.status_of("t/broken"), both.status_of("t/below")) == ("failed", "blocked")
    assert "Blocked by it: t.below." in both.failures[0]
    assert set(alone.materializations) == {"t/broken", "t/below"}


PRINTS_IT = """
import os

from sqlmesh.core.config import Config, DuckDBConnectionConfig, GatewayConfig, ModelDefaultsConfig

print("loading with", os.environ["API_TOKEN"])
config = Config(
    gateways={"local": GatewayConfig(connection=DuckDBConnectionConfig(database=os.environ["WAREHOUSE"]))},
    model_defaults=ModelDefaultsConfig(dialect="duckdb", start="6 days ago"),
)
"""
TELLS_ITS_TOKEN = """
import os

import pandas as pd
from sqlmesh import model


@model("t.one", columns={"id": "int"}, kind="FULL")
def execute(context, **kwargs):
    if os.path.exists("is_up"):
        print("using", os.environ["API_TOKEN"])
        raise ValueError(f"no answer to {os.environ['API_TOKEN']}")
    return pd.DataFrame({"id": [1]})
"""


def test_variables_of_the_projects_own_env_file_are_known_and_its_secrets_hidden(tmp_path: Path) -> None:
    env = "WAREHOUSE=named_there.duckdb\nAPI_TOKEN=correct-horse-battery\n"
    project = write_project(tmp_path / "shop", {"models/one.py": TELLS_ITS_TOKEN, ".env": env, "config.py": PRINTS_IT})
    (project / "config.yaml").unlink()
    plan(project)
    assert (project / "named_there.duckdb").exists()
    (project / "is_up").touch()
    with dagster_project(tmp_path) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        told = dagster.launch()
        [failure] = told.failures
        assert "no answer to ***" in failure
        assert "using ***" in told.log
        assert "loading with" not in told.log, "it is printed in every run"
        assert "correct-horse" not in "".join(map(str, told.entries))
        (project / "config.py").write_text(f"{PRINTS_IT}\nraise ValueError(os.environ['API_TOKEN'])")
        refusal = dagster.refusal()
        assert "Failed to load config file: ***" in refusal
        assert "The configuration printed before the error:\nloading with ***" in refusal
        failed = dagster.launch()
        assert "The configuration printed before the error:\nloading with ***" in failed.failures[0]
        assert "correct-horse" not in refusal
