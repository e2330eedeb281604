"""Each error says what is wrong, where, and what to do."""

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from harness import (
    BIN,
    CONFIG,
    PYTHON_CONFIG,
    YEARLY_CRON,
    NewShop,
    Shop,
    at_night,
    duckdb_file_in_use,
    plan,
    planned_shop,
    python_model,
    run,
    sqlmesh,
    write_project,
)
from postgres import postgres_server

from dg_sqlmesh_component.capabilities.schedule.messages import PendingFound, PendingRequest
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol.errors import (
    ConfigurationError,
    DatabaseInUseError,
    EnvironmentNotReadyError,
    InstallationError,
    ProjectLoadError,
    SQLMeshComponentError,
    WorkerError,
)
from dg_sqlmesh_component.protocol.messages import AwaitedTables, LoadRequest
from dg_sqlmesh_component.worker_client.calls import answered, load_project

ONE_MODEL = {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"}


def project_load_error(
    project: SQLMeshProject, kind: type[SQLMeshComponentError], select: Sequence[str] = (), exclude: Sequence[str] = ()
) -> str:
    with pytest.raises(kind) as caught:
        load_project(project, LoadRequest(project.open_request, tuple(select), tuple(exclude)))
    return str(caught.value)


def loaded(project: SQLMeshProject) -> list[str]:
    return [model.name for model in load_project(project, LoadRequest(project.open_request)).manifest.models]


# -- when definitions are loaded ------------------------------------------------------------------


@pytest.mark.advice("Correct `project` in defs.yaml.", "Correct `project.working_directory` in defs.yaml.")
def test_missing_folder_is_named(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    message = project_load_error(SQLMeshProject((nowhere,)), ConfigurationError)
    assert f"There is no folder {nowhere}" in message
    assert "`project` in defs.yaml" in message
    project = SQLMeshProject((write_project(tmp_path, ONE_MODEL),), working_directory=nowhere)
    message = project_load_error(project, ConfigurationError)
    assert message == f"There is no folder {nowhere}. Correct `project.working_directory` in defs.yaml."
    assert loaded(SQLMeshProject((tmp_path,), working_directory=tmp_path))


@pytest.mark.advice("Grant it read and search permission, or correct `project` in defs.yaml.")
def test_folder_that_the_user_may_not_search_is_named(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "shop", ONE_MODEL)
    folder.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # who may search every folder
            os.seteuid(65534)
        with pytest.raises(ConfigurationError) as refusal:
            SQLMeshProject((folder,)).check_folders()
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
    assert f"has no permission to search the folder {folder}, or one that contains it" in str(refusal.value)
    SQLMeshProject((folder,)).check_folders()


def test_folder_without_config_is_named_with_init_command(tmp_path: Path) -> None:
    message = project_load_error(SQLMeshProject((tmp_path,)), ConfigurationError)
    assert f"{tmp_path} is not a SQLMesh project" in message
    assert "config.yaml" in message
    assert message.endswith(f"To create a project there:\n    cd {tmp_path} && sqlmesh init")


def test_dbt_project_without_sqlmesh_config_is_named_with_init_command(tmp_path: Path) -> None:
    (tmp_path / "dbt_project.yml").write_text("name: shop\nversion: '1'\nprofile: shop\n")
    message = project_load_error(SQLMeshProject((tmp_path,)), ConfigurationError)
    assert message.endswith(
        f"It is a dbt project. To add what SQLMesh needs:\n    cd {tmp_path} && sqlmesh init -t dbt"
    )
    sqlmesh(tmp_path, "init", "-t", "dbt")
    SQLMeshProject((tmp_path,)).check_folders()


def test_parse_error_names_file_and_line(tmp_path: Path) -> None:
    write_project(tmp_path, {"models/bad.sql": "MODEL (name t.bad, kind FULL);\nSELECT 1 AS a,\n  FROM WHERE x = ("})
    message = project_load_error(SQLMeshProject((tmp_path,)), ProjectLoadError)
    assert str(tmp_path / "models" / "bad.sql") in message
    assert "Line 3" in message
    assert "\x1b" not in message


def test_import_error_of_python_model_names_its_file(tmp_path: Path) -> None:
    write_project(tmp_path, {"models/bad.py": "import a_module_that_nobody_has\n"})
    message = project_load_error(SQLMeshProject((tmp_path,)), ProjectLoadError)
    assert "bad.py" in message
    assert "a_module_that_nobody_has" in message


@pytest.mark.advice("Correct `project.gateway` in defs.yaml, or `gateway` of the SQLMeshResource.")
def test_error_of_unknown_gateway_lists_existing_gateways(tmp_path: Path) -> None:
    write_project(
        tmp_path, ONE_MODEL, CONFIG.replace("gateways:", "gateways:\n  other:\n    connection:\n      type: duckdb")
    )
    message = project_load_error(SQLMeshProject((tmp_path,), gateway="warehouse"), ConfigurationError)
    assert "Gateway 'warehouse' does not exist" in message
    assert "Its gateways: local, other." in message
    assert loaded(SQLMeshProject((tmp_path,), gateway="other"))


def test_unknown_config_object_is_named(tmp_path: Path) -> None:
    write_project(tmp_path, ONE_MODEL)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "config.py").write_text("from sqlmesh.core.config import Config\nconfig = Config()\n")
    assert "other_config" in project_load_error(SQLMeshProject((tmp_path,), config="other_config"), ProjectLoadError)


@pytest.mark.parametrize("attribute", ["select", "exclude"])
def test_invalid_selection_is_quoted_in_error(tmp_path: Path, attribute: str) -> None:
    write_project(tmp_path, ONE_MODEL)
    message = project_load_error(SQLMeshProject((tmp_path,)), ConfigurationError, **{attribute: ["t.one &"]})
    assert f"`{attribute}` in defs.yaml is not a SQLMesh model selection: 't.one &'" in message
    assert "tag:finance" in message


def test_selection_without_match_is_quoted_in_error_with_what_exists(tmp_path: Path) -> None:
    project = SQLMeshProject((write_project(tmp_path, ONE_MODEL),))
    message = project_load_error(project, ConfigurationError, select=["tag:finanze"])
    assert "matches no model: 'tag:finanze'. No model has a tag." in message
    write_project(tmp_path, {"models/two.sql": "MODEL (name t.two, kind FULL, tags [daily, sales]); SELECT 1 AS id"})
    message = project_load_error(project, ConfigurationError, select=["+tag:nope"])
    assert "matches no model: '+tag:nope'. Known: tag:daily, tag:sales." in message
    assert "'t.twoo'. Did you mean t.two" in project_load_error(project, ConfigurationError, select=["t.twoo"])
    assert not (tmp_path / "warehouse.duckdb").exists(), "loading a project does not create its database"


@pytest.mark.advice(
    "Add a model of another kind, or remove the component from defs.yaml.",
    "(external and embedded models are not executed). Correct the selections.",
)
def test_project_with_only_external_and_embedded_models_is_an_error_and_empty_project_is_not(tmp_path: Path) -> None:
    project = SQLMeshProject((write_project(tmp_path, {}),))
    assert not load_project(project, LoadRequest(project.open_request)).manifest.models
    tables = "- name: raw.orders\n  columns: {id: int}\n"
    write_project(
        tmp_path,
        {"models/some.sql": "MODEL (name t.some, kind EMBEDDED); SELECT 1 AS id", "external_models.yaml": tables},
    )
    message = project_load_error(project, ProjectLoadError)
    assert f"No model of the SQLMesh project at {tmp_path} becomes an asset." in message
    assert "(all are external or embedded): raw.orders, t.some. Add a model of another" in message
    write_project(tmp_path, {"models/more.sql": "MODEL (name t.more, kind FULL); SELECT 1 AS id"})
    assert "t.more" in loaded(project)
    assert "Correct the selections." in project_load_error(project, ConfigurationError, ["t.some"])
    corrected = LoadRequest(project.open_request, ("t.more",), ())
    assert len(load_project(project, corrected).manifest.selected) == 1


@pytest.mark.advice("cannot be started: {}. Correct `project.python` in defs.yaml")
def test_missing_interpreter_is_named(tmp_path: Path) -> None:
    write_project(tmp_path, ONE_MODEL)
    message = project_load_error(SQLMeshProject((tmp_path,), python="no-such-python"), InstallationError)
    assert "The interpreter no-such-python cannot be started" in message
    assert "`project.python`" in message
    assert loaded(SQLMeshProject((tmp_path,), python=sys.executable))


def test_program_that_is_no_interpreter_is_named(tmp_path: Path) -> None:
    write_project(tmp_path, ONE_MODEL)
    message = project_load_error(SQLMeshProject((tmp_path,), python="/bin/true"), WorkerError)
    assert (
        "It was started with /bin/true: `project.python` in defs.yaml, or `python` of the SQLMeshResource, sets"
        in message
    )


def test_interpreter_without_sqlmesh_is_named_with_install_command(tmp_path: Path) -> None:
    write_project(tmp_path / "project", ONE_MODEL)
    run([sys.executable, "-m", "venv", "--without-pip", "bare"], cwd=tmp_path)
    bare = str(tmp_path / "bare" / "bin" / "python")
    message = project_load_error(SQLMeshProject((tmp_path / "project",), python=bare), InstallationError)
    assert "SQLMesh is not installed for the interpreter" in message
    assert "bare/bin/python" in message
    assert "pip install 'sqlmesh>=" in message


def test_too_old_sqlmesh_is_reported_with_both_versions(tmp_path: Path) -> None:
    """Only the metadata of the installed distribution is read, so the test writes metadata of SQLMesh 0.150."""
    write_project(tmp_path / "project", ONE_MODEL)
    metadata = tmp_path / "old" / "sqlmesh-0.150.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: sqlmesh\nVersion: 0.150.0\n")
    project = SQLMeshProject((tmp_path / "project",), env={"PYTHONPATH": str(metadata.parent.parent)})
    message = project_load_error(project, InstallationError)
    assert re.search(r"has SQLMesh 0\.150\.0; at least 0\.\d+\.\d+ is needed", message)


def test_project_code_that_exits_is_named_by_file_and_line(new_shop: NewShop) -> None:
    shop = new_shop({"models/leaves.py": "import sys\nsys.exit(0)\n"}, planned_at=None)
    message = shop.load_error()
    assert "Code of the SQLMesh project ended SQLMesh's process: " in message
    assert "models/leaves.py, line 2, in <module>, raised SystemExit(0), as `sys.exit` does." in message


@pytest.mark.parametrize("closes", ["sys.stdout.close()", "sys.stdout = None", "sys.stderr.close()"])
def test_configuration_that_closes_its_output_is_no_error(new_shop: NewShop, closes: str) -> None:
    shop = new_shop({**ONE_MODEL, "config.py": f"{PYTHON_CONFIG}\nimport sys\n{closes}\n"}, planned_at=None)
    assert shop.refresh().resolve_all_asset_keys() == [dg.AssetKey(["t", "one"])]


# -- when a step runs -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with planned_shop(tmp_path_factory.mktemp("errors"), ONE_MODEL) as shop:
        shop.refresh()
        yield shop


def failure_of_run(shop: Shop, **selection: Any) -> str:
    record = shop.launch(**selection).failed()
    assert not record.materializations
    [description] = record.failures
    return description


def test_error_of_missing_environment_names_plan_command(tmp_path: Path) -> None:
    """Without an option, SQLMesh refuses to create an environment that has no change."""
    with planned_shop(tmp_path / "new folder", ONE_MODEL) as shop:
        shop.configure(project={"path": str(shop.project), "environment": "dev_ada"})
        record = shop.launch()
        [description] = record.failures
        [arguments] = re.findall(rf"cd '{shop.project}' && sqlmesh (plan [-\w ]+)", description)
        shop.sqlmesh(*arguments.split(), "--auto-apply", "--no-prompts")
        assert shop.launch().status == dg.DagsterRunStatus.SUCCESS
    assert "Environment 'dev_ada' does not exist" in description
    assert description.count("does not exist") == 1
    assert record.not_evaluated_reasons == {"Not evaluated: the run was refused."}
    assert not record.observations
    assert record.log.count("does not exist") == 0
    assert "memory" not in description


@pytest.mark.advice("If the name is wrong, correct `environment` in the run config, or")
def test_error_of_missing_environment_names_the_environments_that_exist_and_the_closest(new_shop: NewShop) -> None:
    shop = new_shop(ONE_MODEL)
    plan(shop.project, "staging", "--include-unmodified")
    shop.configure(project={"path": str(shop.project), "environment": "prdo"})
    [description] = shop.launch().failures
    warehouse = shop.project / "warehouse.duckdb"
    assert f"(gateway 'local'), which is the DuckDB file {warehouse}. This state has: prod, staging." in description
    assert "Did you mean prod? If the name is wrong, correct `environment` in the run config, or" in description
    shop.configure(execution={"environments": ["*"]})
    [description] = shop.launch(ops={"sqlmesh_shop": {"environment": "stagng"}}).failures
    assert "Did you mean staging?" in description
    shop.launch(ops={"sqlmesh_shop": {"environment": "staging"}}).succeeded()
    shop.launch().succeeded()


@pytest.mark.advice("correct the gateway's connection and its environment variables.")
def test_error_of_a_missing_state_names_its_file(new_shop: NewShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLMesh renders a variable that is not set as None."""
    monkeypatch.setenv("WAREHOUSE_OF_THE_TEST", "warehouse.duckdb")
    shop = new_shop(ONE_MODEL, CONFIG.replace("warehouse.duckdb", "{{ env_var('WAREHOUSE_OF_THE_TEST') }}"))
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS
    monkeypatch.delenv("WAREHOUSE_OF_THE_TEST")
    [description] = shop.launch().failures
    assert f"which is the DuckDB file {shop.project / 'None'}. This state has no environment. If your plans use" in (
        description
    )
    assert "correct the gateway's connection and its environment variables" in description
    monkeypatch.setenv("WAREHOUSE_OF_THE_TEST", "warehouse.duckdb")
    shop.launch().succeeded()


@pytest.mark.advice("Give the gateway's connection a file (`database: warehouse.duckdb`)")
def test_error_of_missing_environment_recognizes_state_in_memory(new_shop: NewShop) -> None:
    in_memory = CONFIG.replace("      database: warehouse.duckdb\n", "")
    assert in_memory != CONFIG
    shop = new_shop(ONE_MODEL, in_memory)
    description = failure_of_run(shop)
    (shop.project / "config.yaml").write_text(CONFIG)
    shop.plan()
    shop.refresh()
    shop.launch().succeeded()
    assert "Environment 'prod' does not exist" in description
    assert "a plan's result is lost when the process that applied it ends" in description
    assert "`database: warehouse.duckdb`" in description


@pytest.mark.advice("If its file was deleted, refresh the manifest, and then reload the definitions:")
def test_model_that_is_not_promoted_does_not_stop_promoted_models(new_shop: NewShop) -> None:
    shop = new_shop(ONE_MODEL)
    audited = "MODEL (name t.two, kind FULL, audits (not_null(columns := (id)))); SELECT 2 AS id"
    (shop.project / "models" / "two.sql").write_text(audited)
    (shop.project / "models" / "three.sql").write_text("MODEL (name t.three, kind FULL); SELECT id FROM t.two")
    record = shop.launch("in_process")
    shop.configure(deploy=True)
    alone = shop.launch("in_process", assets=["t/two"])
    shop.configure(deploy=True, exclude="t.one")
    refused = shop.launch("in_process")
    assert record.status == dg.DagsterRunStatus.FAILURE
    assert set(record.materializations) == {"t/one"}
    assert (record.status_of("t/two"), record.status_of("t/three")) == ("not_in_environment", "not_in_environment")
    unevaluated = [check for name, check in record.checks.items() if name.startswith("t/two:not_null")]
    assert [(check.passed, check.severity) for check in unevaluated] == [(False, dg.AssetCheckSeverity.WARN)]
    command = f"\n\n    cd {shop.project} && sqlmesh plan"
    reason = (
        f"Not evaluated: t.two: Not promoted in environment prod, so not run. To promote the project's files:{command}"
    )
    assert str(unevaluated[0].description).startswith(reason)
    [description] = record.failures
    assert "t.two, t.three: Not promoted in environment prod, so not run." in description
    advice = (
        f"{command}\n\nIf its file was deleted, refresh the manifest, and then reload the definitions:\n\n"
        "    dg utils refresh-defs-state"
    )
    assert description.endswith(advice)
    assert str(record.checks["t/two:sqlmesh_execution_status"].description).endswith(advice)
    assert alone.status_of("t/two") == "not_in_environment"
    shown_by = (
        "\n\n    dg launch --job sqlmesh_shop_plan\n\n"
        "This job applies nothing. Its report has the command that applies the plan."
    )
    assert f"1 requested model. To promote the project's files:{shown_by}" in alone.log
    assert refused.failures == [
        "Environment 'prod' has promoted none of the models of the SQLMesh project at "
        f"{shop.project}, so nothing can run. To promote them:{shown_by}\n\n"
        "Until the next successful run of the same assets, Dagster's lineage graph and catalog show "
        "2 assets of this run as failed."
    ]
    last = {name: check for name, check in {**record.checks, **alone.checks}.items() if not name.startswith("t/one:")}
    assert refused.checks.keys() == last.keys()
    for name, check in last.items():
        description, _, repeated = str(refused.checks[name].description).partition("\n\nEvaluated 20")
        assert description == check.description
        assert repeated.endswith("Z. Repeated, because the run was refused.") == ("sqlmesh_execution_status" in name)
    shop.configure()
    (shop.project / "models" / "three.sql").unlink()
    shop.plan(at=None)
    shop.refresh()
    followed = shop.launch("in_process").succeeded()
    assert followed.status_of("t/two") == "up_to_date", "the plan has computed it"
    assert "t/three:sqlmesh_execution_status" not in followed.checks


def test_model_promoted_as_external_or_embedded_is_not_in_environment(new_shop: NewShop) -> None:
    """SQLMesh would never compute it."""
    shop = new_shop(
        {
            "external_models.yaml": "- name: t.landed\n  columns: {id: int}\n",
            "models/inlined.sql": "MODEL (name t.inlined, kind EMBEDDED); SELECT 1 AS id",
            "models/reader.sql": "MODEL (name t.reader, kind FULL); SELECT id FROM t.landed JOIN t.inlined USING (id)",
        },
        tables={"t.landed": "SELECT 1 AS id"},
    )
    (shop.project / "external_models.yaml").unlink()
    for name in ("landed", "inlined"):
        (shop.project / f"models/{name}.sql").write_text(f"MODEL (name t.{name}, kind FULL); SELECT 1 AS id")
    record = shop.launch().failed()
    assert {record.status_of(f"t/{name}") for name in ("landed", "inlined")} == {"not_in_environment"}
    assert set(record.materializations) == {"t/reader"}


@pytest.mark.advice("If that plan was interrupted, apply it again:{}")
@pytest.mark.attribute("execution.environment_timeout")
@pytest.mark.parametrize(
    "selection", [{}, *at_night({"checks": ["t/one:sqlmesh_execution_status"]})], ids=["run of models", "run of checks"]
)
def test_run_waits_for_unfinished_plan_until_environment_timeout(shop: Shop, selection: dict[str, Any]) -> None:
    """Until then its views may belong to two plans, so checks are not evaluated either."""
    shop.query("UPDATE sqlmesh._environments SET finalized_ts = NULL")
    shop.add_component("shop", {"project": str(shop.project), "execution": {"environment_timeout": 2}})
    start = time.monotonic()
    try:
        description = failure_of_run(shop, **selection)
    finally:
        shop.plan(at=None)
    assert time.monotonic() - start < 60
    assert "is being updated by a plan that has not finished" in description
    assert f"cd {shop.project} && sqlmesh plan prod" in description
    shop.launch(**selection).succeeded()


def test_error_of_locked_duckdb_file_names_the_process_that_holds_it(shop: Shop) -> None:
    with duckdb_file_in_use(shop.project / "warehouse.duckdb") as pid:
        shop.add_component("shop", {"project": str(shop.project), "execution": {"overlap_timeout": 2}})
        description = failure_of_run(shop)
    assert "The DuckDB file is in use by another process" in description
    assert f"PID {pid}" in description
    assert "This run has waited for 2 seconds" in description


def test_dg_sqlmesh_does_not_touch_the_state_in_a_duckdb_file_that_another_process_has(shop: Shop) -> None:
    """Plain `sqlmesh` may delete it (tests/upstream/test_sqlmesh_internals.py)."""
    with duckdb_file_in_use(shop.project / "warehouse.duckdb") as pid:
        done = run([BIN / "dg_sqlmesh", "plan", "--auto-apply", "--no-prompts"], cwd=shop.project, check=False)
    output = done.stdout + done.stderr
    assert done.returncode
    assert "Could not set lock on file" in output
    assert f"(PID {pid})" in output
    assert "rollback" not in output, "SQLMesh has not begun to create a state, which it would delete after that"


@pytest.mark.advice("Wait for that process, or end it.")
def test_error_of_duckdb_file_locked_while_a_project_is_loaded_names_the_process_that_holds_it(tmp_path: Path) -> None:
    """A project with a name reads the state while it is loaded."""
    project = write_project(tmp_path, ONE_MODEL, CONFIG + "project: shop\n")
    with duckdb_file_in_use(project / "warehouse.duckdb") as pid:
        message = project_load_error(SQLMeshProject((project,)), DatabaseInUseError)
    assert "The DuckDB file is in use by another process" in message
    assert f"PID {pid}" in message
    assert message.endswith("Wait for that process, or end it.")
    assert loaded(SQLMeshProject((project,))) == ["t.one"]


CONFIG_WITH_BUG = f"""{PYTHON_CONFIG}
bug = Path(__file__).parent / "bug.py"
if bug.exists():
    exec(bug.read_text())
"""
IN_TRACKER = "from dg_sqlmesh_component.worker.observe.run_tracker import RunTracker, Tracker; "
"""Without one of its methods, the next line of our own code that calls it raises an AttributeError."""


def test_bug_of_this_package_during_a_run_is_reported_as_one_with_its_traceback(new_shop: NewShop) -> None:
    """A real worker, whose code is damaged by the project's configuration."""
    shop = new_shop({**ONE_MODEL, "config.py": CONFIG_WITH_BUG}, include_metadata=["row_count"])
    bug = shop.project / "bug.py"
    shop.refresh()
    bug.write_text("from dg_sqlmesh_component.worker.evaluate import evaluation; evaluation.resolved_range = 0")
    before = shop.launch()
    bug.write_text(IN_TRACKER + "del Tracker._start_reports")
    planned = shop.launch()
    bug.write_text(IN_TRACKER + "del RunTracker._report_coverage")
    in_batch = shop.launch()
    for record, line in (
        (before, "TypeError: 'int' object is not callable"),
        (planned, "AttributeError: 'RunTracker' object has no attribute '_start_reports'"),
        (in_batch, "AttributeError: 'RunTracker' object has no attribute '_report_coverage'"),
    ):
        assert record.status == dg.DagsterRunStatus.FAILURE
        [failure] = record.failures
        assert failure.count("This is a bug of dg-sqlmesh-component, not of your project.") == 1
        assert failure.count("Traceback (most recent call last)") >= 1
        assert line in failure
        assert "SQLMesh ended the run with an error" not in failure
        assert "Correct the model" not in failure
    reason = "Not evaluated: the run failed before SQLMesh computed or audited anything."
    assert before.not_evaluated_reasons == planned.not_evaluated_reasons == {reason}
    assert in_batch.status_of("t/one") == "failed"


@pytest.mark.parametrize(
    ("recorded", "advice"), [("0.1.0", "sqlmesh migrate"), ("9.9.9", "Upgrade SQLMesh in the interpreter")]
)
def test_error_of_state_from_another_sqlmesh_version_says_what_to_do(shop: Shop, recorded: str, advice: str) -> None:
    [(version,)] = shop.query("SELECT sqlmesh_version FROM sqlmesh._versions")
    shop.query(f"UPDATE sqlmesh._versions SET sqlmesh_version = '{recorded}'")
    try:
        description = failure_of_run(shop)
    finally:
        shop.query(f"UPDATE sqlmesh._versions SET sqlmesh_version = '{version}'")
    assert recorded in description
    assert advice in description


@pytest.mark.advice("does not have the versions. Restore the whole state from a backup of its database.")
def test_each_job_names_the_promoted_models_whose_versions_the_state_has_lost(new_shop: NewShop) -> None:
    shop = new_shop({**ONE_MODEL, "models/fine.sql": "MODEL (name t.fine, kind FULL); SELECT 1 AS id"}, deploy=True)
    project = SQLMeshProject((shop.project,))
    tick = PendingRequest(project.open_request, "prod", frozenset(), 0, AwaitedTables())
    answered(project, tick, PendingFound)  # it keeps the snapshots for the next tick
    shop.query("CREATE TABLE backup AS SELECT * FROM sqlmesh._snapshots")
    shop.query("DELETE FROM sqlmesh._snapshots WHERE name LIKE '%one%'")
    with pytest.raises(EnvironmentNotReadyError, match=r"state is damaged: .* shows warehouse\.t\.one"):
        answered(project, tick, PendingFound)
    found = shop.refresh()
    run = found.resolve_job_def("sqlmesh_shop_plan").execute_in_process(instance=shop.instance, raise_on_error=False)
    predicted = shop.launch(ops={"sqlmesh_shop": {"dry_run": True}})
    answers = [*shop.launch().failures, predicted.logged["sqlmesh/refusal"], *shop.run_record(run.run_id).failures]
    assert len(answers) == 3
    for failure in answers:
        assert "SQLMesh's state is damaged: environment prod shows warehouse.t.one, and the state's table" in failure
        reason = failure.partition("\nUntil the next successful run of the same assets")[0]
        assert reason.endswith("Restore the whole state from a backup of its database.")
    shop.query("DELETE FROM sqlmesh._snapshots")
    shop.query("INSERT INTO sqlmesh._snapshots SELECT * FROM backup")
    shop.launch().succeeded()


@pytest.mark.advice("Rename one of them, and apply a plan.")
def test_two_models_in_one_table_are_refused_by_name_and_the_others_run(new_shop: NewShop) -> None:
    files = {
        f"models/{name}.sql": f'MODEL (name t."{name}", kind FULL); SELECT 1 AS id' for name in ("a-b", "a b", "c")
    }
    shop = new_shop({**files, "models/other.sql": 'MODEL (name t.other, kind FULL); SELECT id FROM t."a-b"'})
    record = shop.launch()
    assert set(record.materializations) == {"t/c"}
    [failure] = record.failures
    assert "SQLMesh in environment prod: 2 failed, 1 executed, 1 waiting." in failure
    models = '"warehouse"."t"."a b" and "warehouse"."t"."a-b"'
    reason = f"SQLMesh keeps {models} in one table, warehouse.sqlmesh__t.t__a_b__"
    assert failure.count(reason) == 2
    assert "Rename one of them, and apply a plan." in failure
    assert "bug" not in failure
    dry_run = shop.launch(ops={"sqlmesh_shop": {"dry_run": True}}).logged["sqlmesh/dry_run_json"]
    reasons = [row["why"] for row in dry_run if row["outcome"] == "failed"]
    assert len(reasons) == 2
    for why in reasons:
        assert why.startswith(reason)
        assert why.endswith("Rename one of them, and apply a plan.")
    (shop.project / "models" / "a b.sql").write_text('MODEL (name t."a c", kind FULL); SELECT 1 AS id')
    shop.plan()
    shop.refresh()
    shop.launch().succeeded()


AUDIT_THAT_RAISES = {
    "models/items.sql": "MODEL (name t.items, kind FULL, audits (unique_values(columns := (id)), "
    "below(limit := 3), not_null(columns := (id)))); "
    "SELECT 1 AS id, CASE WHEN is_up THEN 'x' ELSE '1' END AS price FROM ctl.up",
    "audits/below.sql": "AUDIT (name below); SELECT id FROM @this_model WHERE price::INT > @limit",
}


def test_audit_that_raises_an_error_is_named_with_its_error(new_shop: NewShop) -> None:
    shop = new_shop(AUDIT_THAT_RAISES, tables={"ctl.up": "SELECT false AS is_up"})
    shop.query("UPDATE ctl.up SET is_up = true")
    record = shop.launch()
    alone = shop.launch(checks=["t/items:below_limit_3"])
    assert record.status_of("t/items") == "failed"
    assert (
        "t.items (models/items.sql) failed. Its audit below raised the error.\n\n    Conversion" in record.failures[0]
    )
    assert "t.items: audit below could not be evaluated." in alone.failures[0]
    assert record.checks["t/items:unique_values_id"].passed
    for check in (record.checks["t/items:below_limit_3"], alone.checks["t/items:below_limit_3"]):
        assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert str(check.description).startswith("Not evaluated: ConversionException: ")
    assert record.description_of("t/items:not_null_id") == (
        "Not evaluated: t.items (models/items.sql) failed. Its audit below raised the error."
    )


AFTER_ALL = {
    "models/fine.sql": "MODEL (name t.fine, kind FULL); SELECT 1 AS id",
    "models/idle.sql": f"MODEL (name t.idle, kind FULL, cron '{YEARLY_CRON}', start '2020-01-01'); SELECT 1 AS id",
    "models/broken.sql": "MODEL (name t.broken, kind FULL); "
    "SELECT CASE WHEN is_up THEN error('boom') END AS id FROM ctl.up",
    "models/below.sql": "MODEL (name t.below, kind FULL); SELECT id FROM t.broken",
}


STATE_TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'sqlmesh' ORDER BY 1"
HALF_RESTORED = "DELETE FROM sqlmesh._versions"
NAMES_OF_STATE = ("snapshots", "environments", "versions", "intervals", "auto_restatements", "environment_statements")
ONLY_COPIES = "; ".join(f"ALTER TABLE sqlmesh._{name} RENAME TO _{name}_backup" for name in NAMES_OF_STATE)
RENAMED_BACK = "; ".join(f"ALTER TABLE sqlmesh._{name}_backup RENAME TO _{name}" for name in NAMES_OF_STATE)


@pytest.mark.advice("Restore the whole state from a backup of its database. Tables whose names end in _backup")
@pytest.mark.parametrize("engine", ["duckdb", pytest.param("postgres", marks=pytest.mark.slow)])
@pytest.mark.parametrize("damage", [HALF_RESTORED, *at_night(ONLY_COPIES)], ids=["half restored", "only copies"])
def test_jobs_refuse_a_state_without_version_and_leave_its_tables(new_shop: NewShop, damage: str, engine: str) -> None:
    with postgres_server() if engine == "postgres" else nullcontext() as server:
        if server is not None:
            server.query("CREATE DATABASE damaged")
        attributes: dict[str, Any] = {"deploy": True, "janitor": True}
        config = CONFIG if server is None else server.config("damaged")
        shop = new_shop({"models/fine.sql": AFTER_ALL["models/fine.sql"]}, config, **attributes)
        ask = shop.query if server is None else partial(server.query, database="damaged")
        ask("CREATE TABLE saved AS SELECT * FROM sqlmesh._versions")
        ask(damage)
        tables = ask(STATE_TABLES)
        definitions = shop.refresh()
        for name in (None, "sqlmesh_shop_plan", "sqlmesh_shop_janitor"):
            job = definitions.resolve_job_def(name) if name else definitions.resolve_implicit_global_asset_job_def()
            run = job.execute_in_process(instance=shop.instance, raise_on_error=False)
            [failure] = shop.run_record(run.run_id).failures
            assert "SQLMesh's state has no version, and has rows in sqlmesh._" in failure
            assert "Restore the whole state from a backup" in failure
            assert ask(STATE_TABLES) == tables
        ask("INSERT INTO sqlmesh._versions SELECT * FROM saved" if damage == HALF_RESTORED else RENAMED_BACK)
        shop.launch().succeeded()


@pytest.mark.night("engine/test_retries.py::test_retry_runs_failed_after_all_statement_again")
def test_failed_after_all_statement_fails_the_run_but_not_the_models(new_shop: NewShop) -> None:
    statements = "after_all:\n  - SELECT error('Connection reset by peer') FROM ctl.late\n"
    retries = {"max_retries": 2, "delay": 0, "transient_errors": ["Connection reset by peer"]}
    shop = new_shop(
        AFTER_ALL,
        CONFIG + "\n" + statements,
        tables={"ctl.late": "SELECT NULL::INT AS id LIMIT 0", "ctl.up": "SELECT true AS is_up WHERE false"},
        execution={"retries": retries},
    )
    shop.query("INSERT INTO ctl.late VALUES (1)")
    shop.query("INSERT INTO ctl.up VALUES (true)")
    both = shop.launch()
    shop.query("UPDATE ctl.up SET is_up = false")
    alone = shop.launch()
    for record in (both, alone):
        assert record.status == dg.DagsterRunStatus.FAILURE
        assert "an `after_all` statement fails: " in record.failures[0]
        assert "Connection reset by peer" in record.failures[0]
        assert "a retry of this run, succeeds without executing it" in record.failures[0]
        assert record.status_of("t/idle") == "up_to_date"
    assert set(both.materializations) == {"t/fine"}
    assert (both.status_of("t/broken"), both.status_of("t/below")) == ("failed", "blocked")
    assert "Blocked by it: t.below." in both.failures[0]
    assert set(alone.materializations) == {"t/broken", "t/below"}


BEFORE_ALL = {
    "models/fine.sql": "MODEL (name t.fine, kind FULL, audits (not_null(columns := (id)))); SELECT 1 AS id",
    "models/idle.sql": f"MODEL (name t.idle, kind FULL, cron '{YEARLY_CRON}', start '2020-01-01', "
    "audits (not_null(columns := (id)))); SELECT 1 AS id",
    "models/late.sql": "MODEL (name t.late, kind FULL, cron '@hourly'); SELECT id FROM t.fine",
}
ONLY_ONCE = "before_all:\n  - SELECT error('Connection reset by peer') FROM ctl.late\n"


@pytest.mark.parametrize(
    "retries", [None, *at_night({"max_retries": 1, "delay": 0, "transient_errors": ["reset by peer"]})]
)
def test_failed_before_all_fails_once_and_repeats_results(new_shop: NewShop, retries: dict[str, Any] | None) -> None:
    shop = new_shop(
        BEFORE_ALL,
        CONFIG + "\n" + ONLY_ONCE,
        tables={"ctl.late": "SELECT NULL::INT AS id LIMIT 0"},
        execution={"retries": retries} if retries else {},
    )
    healthy = shop.launch(ops={"sqlmesh_shop": {"end": "yesterday"}})
    shop.query("INSERT INTO ctl.late VALUES (1)")
    failed = shop.launch()
    [failure] = failed.failures
    assert failure.startswith(
        "SQLMesh ended the run with an error: An error occurred during execution of the following"
    )
    assert "'before_all' statement" in failure
    assert "SELECT ERROR('Connection reset by peer') FROM ctl.late" in failure
    assert "interrupted" not in failed.log
    assert failed.checks.keys() == healthy.checks.keys()
    for name in healthy.checks:
        assert "sqlmesh/carried_over" in failed.checks[name].metadata, name
        assert failed.checks[name].passed
    assert not failed.materializations
    (shop.project / "models" / "new.sql").write_text("MODEL (name t.new, kind FULL); SELECT 1 AS id")
    shop.refresh()
    with_new = shop.launch()
    assert "'before_all' statement" in with_new.failures[0]
    assert with_new.checks.keys() == {*failed.checks, "t/new:sqlmesh_execution_status"}
    assert len(with_new.events(dg.DagsterEventType.ASSET_CHECK_EVALUATION)) == len(with_new.checks)
    assert with_new.status_of("t/new") == "not_in_environment"
    shop.query("DELETE FROM ctl.late")
    assert set(shop.launch().materializations) == {"t/fine", "t/late"}


PRINTING_CONFIG = PYTHON_CONFIG.replace('"warehouse.duckdb"', 'os.environ["WAREHOUSE"]') + (
    'print("loading with", os.environ["API_TOKEN"])\n'
)
PRINT_TOKEN = """
if os.path.exists("is_up"):
    print("using", os.environ["API_TOKEN"])
    raise ValueError(f"no answer to {os.environ['API_TOKEN']}")
"""


@pytest.mark.advice("SQLMesh uses those of the file. Remove them in one of the two places.")
def test_env_file_of_project_is_loaded_and_its_secrets_are_hidden(new_shop: NewShop) -> None:
    env = "WAREHOUSE=named_there.duckdb\nAPI_TOKEN=correct-horse-battery\n"
    shop = new_shop({"models/one.py": python_model("t.one", PRINT_TOKEN), ".env": env, "config.py": PRINTING_CONFIG})
    assert (shop.project / "named_there.duckdb").exists()
    (shop.project / "is_up").touch()
    shop.configure(project={"path": str(shop.project), "env": {"WAREHOUSE": "elsewhere.duckdb"}})
    record = shop.launch()
    [warning] = [line for line in record.warnings if "The .env file" in line]
    assert "has other values of WAREHOUSE than `project.env` in defs.yaml or the environment" in warning
    shop.configure(project={"path": str(shop.project)})
    assert not [line for line in shop.launch().warnings if "The .env file" in line]
    [failure] = record.failures
    assert "no answer to ***" in failure
    assert "using ***" in record.log
    assert "loading with" not in record.log, "the config prints it in every run"
    assert "correct-horse" not in "".join(map(str, record.entries))
    (shop.project / "config.py").write_text(f"{PRINTING_CONFIG}\nraise ValueError(os.environ['API_TOKEN'])")
    error_text = shop.load_error()
    assert "Failed to load config file: ***" in error_text
    assert "The configuration printed before the error:\nloading with ***" in error_text
    failed = shop.launch()
    assert "The configuration printed before the error:\nloading with ***" in failed.failures[0]
    assert "correct-horse" not in error_text


SIGNAL_THAT_RAISES = """
from sqlmesh import signal


@signal()
def landed(batch):
    raise ConnectionError("the landing zone did not answer")
"""


def test_signal_that_raises_fails_its_model(new_shop: NewShop) -> None:
    shop = new_shop(
        {
            "models/fine.sql": "MODEL (name t.fine, kind FULL); SELECT 1 AS id",
            "models/gated.sql": "MODEL (name t.gated, kind FULL, signals (landed())); SELECT 1 AS id",
            "signals/landed.py": SIGNAL_THAT_RAISES.replace("raise", "return True\n    raise"),
        }
    )
    # The signal is part of the model's code, so a plan must promote the signal that raises.
    (shop.project / "signals" / "landed.py").write_text(SIGNAL_THAT_RAISES)
    shop.plan("--skip-backfill")
    record = shop.launch().failed()
    assert record.status_of("t/gated") == "failed"
    assert record.status_of("t/fine") == "interrupted"
    [failure] = record.failures
    assert "t.gated" in failure
    assert "the landing zone did not answer" in failure
    assert not record.materializations
