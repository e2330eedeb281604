"""Helpers of the engine tests: real SQLMesh projects, Dagster projects, instances and processes.

This module does not import sqlmesh, because the test process takes the part of a Dagster process.
"""

from __future__ import annotations

import atexit
import datetime
import fcntl
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from _pytest.mark.structures import ParameterSet
from dagster._core.code_pointer import CustomPointer, ModuleCodePointer
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.executor import multiprocess
from dagster._core.storage.defs_state.base import set_defs_state_storage
from dagster._core.storage.event_log.sqlite import consolidated_sqlite_event_log, sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster.components.core import load_defs
from forked import AnyProcess, ForkedProcess

from dg_sqlmesh_component.dagster_internals.steps import step_metadata
from dg_sqlmesh_component.history.stored_record import stored_record

# Each load of definitions also describes every installed component, for the lists of `dg`. That takes most of the time
# of a load and does not depend on the project, so it is done once for all tests.
_describe_components = load_defs.get_library_json_enriched_defs
_components = cache(lambda: _describe_components(None).metadata)
load_defs.get_library_json_enriched_defs = lambda tree: dg.Definitions(metadata=_components(), component_tree=tree)


def _keep_engines(create_engine: Callable[..., Any]) -> Callable[..., Any]:
    """Dagster creates an engine for each connection, and compiles each query again: a third of the time of a run."""
    engines: dict[str, Any] = {}

    def kept_engine(url: str, **options: Any) -> Any:
        if url not in engines:
            if len(engines) >= 9:  # those of earlier tests
                engines.clear()
            engines[url] = create_engine(url, **options)
        return engines[url]

    return kept_engine


for storage in (consolidated_sqlite_event_log, sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
    vars(storage)["create_engine"] = _keep_engines(vars(storage)["create_engine"])

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
BIN = Path(sys.executable).parent
COMPONENT = "dg_sqlmesh_component.SQLMeshProjectComponent"
EXECUTORS = ("in_process", "multiprocess")
# A cron that ticks once a year, half a year from today. It is never due between a plan and the run after it, on any day
# of the year. With a `start` of two years ago, the plan has an interval to compute.
YEARLY_CRON = f"0 0 1 {(datetime.date.today().month + 5) % 12 + 1} *"

HAS_PREVIEWS = tuple(map(int, version("sqlmesh").split(".")[:2])) >= (0, 236)
needs_previews = pytest.mark.skipif(not HAS_PREVIEWS, reason="Previews need SQLMesh 0.236.0.")


def at_night(*values: Any) -> list[ParameterSet]:
    """Values of a parameter that only `make nightly` tests, because the others test the same rule in CI."""
    return rows_at_night(*((value,) for value in values))


def rows_at_night(*rows: tuple[Any, ...]) -> list[ParameterSet]:
    """The same for several parameters: a row has a value of each."""
    return [pytest.param(*row, marks=pytest.mark.night) for row in rows]


ONE_EXECUTOR = [EXECUTORS[0], *at_night(EXECUTORS[1])]
"""Where the step does not differ. Both are in CI where a signal, another step or the order of events decides."""


def run(
    command: Sequence[str | Path], *, cwd: Path, check: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does. If it fails, the test shows its complete output."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if check and done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def json_in(text: str) -> Any:
    """Return the JSON object in a command's output, without the warnings in front of it."""
    return json.loads(text[text.index("{") :])


def sqlmesh(project: Path, *arguments: str, check: bool = True) -> str:
    """Run the `sqlmesh` command in the project's folder and return its output."""
    # The path is always given, because the command looks up its default when it is imported.
    path = [] if "-p" in arguments else ["-p", str(project)]
    status, output = run_in_fork(["sqlmesh", *path, *arguments], project)
    assert not check or status == 0, f"sqlmesh {arguments} ended with {status}:\n{output}"
    return output


@cache
def _sqlmesh_server() -> subprocess.Popen[str]:
    """Start a process that has imported SQLMesh. It ends with the test process."""
    server = subprocess.Popen(
        [sys.executable, TESTS / "sqlmesh_server.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return server


def is_free(database: Path) -> bool:
    """Whether no process has the DuckDB file open."""
    import duckdb

    try:
        duckdb.connect(str(database), read_only=True).close()
    except duckdb.IOException:
        return False
    return True


def run_in_fork(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run the `sqlmesh` command or a script. Return its exit status and output.

    It starts when no process has a DuckDB file of the folder open: else SQLMesh may delete the state in it.
    """
    wait_until(lambda: all(is_free(database) for database in folder.glob("*.duckdb")))
    server = _sqlmesh_server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as output:
        request = {"arguments": arguments, "folder": str(folder), "environment": {**os.environ}, "output": output.name}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline()), output.read()


def plan(project: Path, *arguments: str, at: str | None = "3 days ago") -> str:
    """Apply a plan as of three days ago, so that a run of today has pending intervals.

    Args:
        at: The execution time. None is now.
    """
    time_of_plan = () if at is None else ("--execution-time", at)
    return sqlmesh(project, "plan", *arguments, "--auto-apply", "--no-prompts", *time_of_plan)


def state(folder: Path, path: str = ".") -> dict[str, Any]:
    """Return what the SQLMesh state contains: computed milliseconds by model, and more.

    Args:
        path: The project, relative to `folder`.
    """
    content: dict[str, Any] = script("sqlmesh_state.py", folder, path)
    return content


def script(name: str, folder: Path, *arguments: str) -> Any:
    """Run a script of this folder in another folder. Return the JSON in the last line of its output."""
    status, output = run_in_fork([str(TESTS / name), *arguments], folder)
    assert status == 0, output
    content: dict[str, Any] = json.loads(output.splitlines()[-1])
    return content


def query(project: Path, sql: str) -> list[tuple[Any, ...]]:
    """Run SQL in the project's DuckDB file. No process holds it between runs."""
    import duckdb

    with duckdb.connect(str(project / "warehouse.duckdb")) as connection:
        return (
            connection.sql(sql).fetchall() if sql.lstrip().upper().startswith("SELECT") else _execute(connection, sql)
        )


def _execute(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    connection.execute(sql)
    return []


def raise_flags(project: Path, *names: str) -> None:
    """Make the models and audits of tests/projects/ledger fail that read these flags."""
    query(project, "DELETE FROM ctl.flags")
    for name in names:
        query(project, f"INSERT INTO ctl.flags VALUES ('{name}')")


def definitions_with_job(root: str, selection: dict[str, list[str]]) -> dg.Definitions:
    """Load a Dagster project from its folder, and add the job `everything`. Each process of a run calls this."""
    return _definitions_with_job(root, json.dumps(selection))


@lru_cache(maxsize=1)
def _definitions_with_job(root: str, selection_json: str) -> dg.Definitions:
    """In one process, Dagster calls it three times for each launch. The id of a launch is part of its selection."""
    definitions, selection = load(Path(root)), json.loads(selection_json)
    chosen: dg.AssetSelection = dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks()
    if "assets" in selection:
        chosen = dg.AssetSelection.assets(*(dg.AssetKey.from_user_string(key) for key in selection["assets"]))
    if "assets_without_checks" in selection:
        keys = [dg.AssetKey.from_user_string(key) for key in selection["assets_without_checks"]]
        chosen = dg.AssetSelection.assets(*keys).without_checks()
    if "checks" in selection:
        named = [check.rsplit(":", 1) for check in selection["checks"]]
        checks = dg.AssetSelection.checks(
            *(dg.AssetCheckKey(dg.AssetKey.from_user_string(key), name) for key, name in named)
        )
        chosen = chosen | checks if "assets" in selection else checks
    job = dg.define_asset_job("everything", selection=chosen)
    return dg.Definitions.merge(definitions, dg.Definitions(jobs=[job]))


os.register_at_fork(after_in_child=_definitions_with_job.cache_clear)


def reconstructable_job(root: Path, selection: dict[str, list[str]], job: str = "everything") -> dg.ReconstructableJob:
    """Return a job of `definitions_with_job`, as every process of a run needs it."""
    function = ModuleCodePointer("harness", "definitions_with_job", os.getcwd())
    pointer = CustomPointer(function, [str(root), selection], [])
    return ReconstructableRepository(pointer).get_reconstructable_job(job)


def load(root: Path) -> dg.Definitions:
    """Load a Dagster project's defs folder, as its `definitions.py` does."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return dg.load_from_defs_folder(path_within_project=root / root.name)


class _Forking:
    """Stands for the module `multiprocessing` in Dagster's executor: each step is a fork, whatever is configured."""

    def __getattr__(self, name: str) -> Any:
        return (lambda _: multiprocessing.get_context("fork")) if name == "get_context" else vars(multiprocessing)[name]


@dataclass
class DagsterProject:
    """A Dagster project on disk, with its own instance."""

    root: Path
    instance: dg.DagsterInstance

    def load_for_launch(self) -> None:
        """Called before each launch."""

    def add_component(
        self, name: str, attributes: dict[str, Any], file: str = "defs.yaml", type: str = COMPONENT, **more: Any
    ) -> Path:
        """Write the YAML file of one component and return its path."""
        folder = self.root / self.root.name / "defs" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(yaml.safe_dump({"type": type, "attributes": attributes, **more}))
        return folder / file

    def add_module(self, name: str, code: str) -> None:
        """Write a Python module into the `defs` folder."""
        (self.root / self.root.name / "defs" / f"{name}.py").write_text(code)

    def refresh(self) -> dg.Definitions:
        """Load the definitions as `dg dev` does at its start, which also stores the manifest."""
        # After a launch in this process, Dagster still has the load context of a run. A run stores no manifest, so
        # each of the several loads of a launch would load the SQLMesh project again.
        # After many instances in this process, Dagster may have the storage of an earlier one.
        with set_defs_state_storage(self.instance.defs_state_storage):
            DefinitionsLoadContext.set(DefinitionsLoadContext(DefinitionsLoadType.INITIALIZATION))
            os.environ["DAGSTER_IS_DEV_CLI"] = "1"
            try:
                return load(self.root)
            finally:
                del os.environ["DAGSTER_IS_DEV_CLI"]

    def load_error(self) -> str:
        """Load the definitions, which must fail. Return the messages of the error and its causes."""
        with pytest.raises(Exception) as caught:  # Dagster wraps our error in its own
            self.refresh()
        error: BaseException | None = caught.value
        messages = []
        while error is not None:
            messages.append(str(error))
            error = error.__cause__
        return "\n".join(messages)

    def launch(
        self,
        executor: str = "in_process",
        ops: dict[str, Any] | None = None,
        executor_config: dict[str, Any] | None = None,
        retry_of: str | None = None,
        tags: dict[str, str] | None = None,
        spawns_steps: bool = False,
        **selection: list[str],
    ) -> RunRecord:
        """Run assets or checks, and return what Dagster recorded.

        Args:
            ops: Config by op name.
            executor_config: Additional config of the executor.
            retry_of: The id of a failed run. It is executed again from its failure, as by Dagster's run retries.
            tags: Tags of the run.
            spawns_steps: Whether the multiprocess executor starts Python for each step, as on a user's machine. Else it
                forks this process, which has imported Dagster.
            selection: The keyword arguments of `definitions_with_job`'s selection, for example `assets` or `checks`.
        """
        self.load_for_launch()
        # Dagster caches a job by its arguments. The id makes them unique, because `defs.yaml` may have changed.
        job = reconstructable_job(self.root, {**selection, "launch": [uuid.uuid4().hex]})
        default_config = {} if executor == "in_process" else {"max_concurrent": 2}
        reexecution = dg.ReexecutionOptions.from_failure(retry_of, self.instance) if retry_of else None
        run_config = {
            "execution": {"config": {executor: {**default_config, **(executor_config or {})}}},
            "ops": {name: {"config": config} for name, config in (ops or {}).items()},
        }
        with pytest.MonkeyPatch.context() as monkeypatch:
            if not spawns_steps:
                monkeypatch.setattr(multiprocess, "multiprocessing", _Forking())
            with dg.execute_job(
                job, instance=self.instance, run_config=run_config, reexecution_options=reexecution, tags=tags
            ) as result:
                return RunRecord(self.instance, result.run_id)

    def run_record(self, run_id: str) -> RunRecord:
        """Return what Dagster recorded of a run."""
        return RunRecord(self.instance, run_id)

    def start(self, executor: str = "in_process", **selection: Any) -> ForkedProcess:
        """Launch all assets, or some, in a fork of this process. It prints the run's id at its end."""
        self.load_for_launch()

        def launch(instance: dg.DagsterInstance) -> str:
            return DagsterProject(self.root, instance).launch(executor, **selection).run_id

        return self.start_fork(launch)

    def start_fork(self, function: Callable[[dg.DagsterInstance], str]) -> ForkedProcess:
        """Call a function in a fork of this process, as in the process of a run."""

        def call() -> str:
            setup_interrupt_handlers()
            with dg.DagsterInstance.from_config(self.instance.root_directory) as instance:
                return function(instance)

        return ForkedProcess(call, self.root.parent / "log")

    def start_new_process(self, wrapper: Sequence[str] = (), **env: str) -> subprocess.Popen[str]:
        """Launch all assets in a new process, as another host does. It prints the run's id at its end.

        Args:
            wrapper: A command that runs the command after it.
        """
        self.load_for_launch()
        return subprocess.Popen(
            [*wrapper, sys.executable, "-c", LAUNCH, TESTS, self.instance.root_directory, self.root],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **env},
        )


LAUNCH = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import dagster as dg
from dagster._utils.interrupts import setup_interrupt_handlers
from harness import DagsterProject
setup_interrupt_handlers()  # as in the process of a run
with dg.DagsterInstance.from_config(sys.argv[2]) as instance:
    print(DagsterProject(Path(sys.argv[3]), instance).launch().run_id)
"""


def wait_until(is_true: Callable[[], bool], *processes: AnyProcess) -> None:
    """Wait until a condition holds. It must hold while the processes still run. The limit ends tests that hang."""
    deadline = time.monotonic() + 300
    while not is_true():
        for process in processes:
            assert process.poll() is None, "a process ended before the event that the test waits for"
        assert time.monotonic() < deadline, "the event that the test waits for did not come"
        time.sleep(0.02)


def processes_in(folder: Path) -> list[int]:
    """Return the processes whose working directory is this folder, as that of SQLMesh's processes is the project."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")) == folder:
                pids.append(int(process.name))
        except OSError:
            continue  # it has ended
    return pids


HOLD_DATABASE = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def duckdb_file_in_use(path: Path) -> Iterator[int]:
    """Let another process have a DuckDB file open until the block ends. Yield its id."""
    command = [sys.executable, "-c", HOLD_DATABASE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        try:
            yield holder.pid
        finally:
            holder.communicate()


def write_dagster_project(root: Path) -> Path:
    """Write the files of an empty Dagster project, whose package has the name of its folder."""
    package = root / root.name
    (package / "defs").mkdir(parents=True)
    (root / "pyproject.toml").write_text(
        f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{root.name}"\n'
    )
    (package / "__init__.py").write_text("")
    (package / "definitions.py").write_text(
        "from pathlib import Path\n\nimport dagster as dg\n\n\n@dg.definitions\ndef defs():\n"
        "    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    return root


@contextmanager
def dagster_project(folder: Path, *, has_default_storage: bool = False) -> Iterator[DagsterProject]:
    """Create an empty Dagster project below `folder`. Its package name is unique in this process.

    Args:
        has_default_storage: Each run has a database of its own, as on a user's machine. Else one database has all
            events, which is Dagster's storage for tests and twice as fast.
    """
    root = write_dagster_project(folder / f"orchestra_{uuid.uuid4().hex[:8]}")
    sys.path.insert(0, str(root))  # instead of installing it
    with empty_instance(folder, has_default_storage=has_default_storage) as instance:
        yield DagsterProject(root, instance)


@contextmanager
def empty_instance(folder: Path, *, has_default_storage: bool = False) -> Iterator[dg.DagsterInstance]:
    """Create an instance whose home is below `folder`; the storage as for `dagster_project`."""
    home = folder / "dagster_home"
    shutil.copytree(_empty_dagster_home(has_default_storage), home)
    storage = {} if has_default_storage else _one_event_log(home)
    with dg.instance_for_test(temp_dir=str(home), overrides=storage) as instance:
        yield instance


def _one_event_log(home: Path) -> dict[str, Any]:
    storage = {"module": "dagster._core.storage.event_log", "class": "ConsolidatedSqliteEventLogStorage"}
    return {"event_log_storage": {**storage, "config": {"base_dir": str(home / "history")}}}


@cache
def _empty_dagster_home(has_default_storage: bool) -> Path:
    """Create a Dagster home with empty databases. Copying its files is faster than creating the tables each time."""
    home = Path(tempfile.mkdtemp())
    with dg.instance_for_test(temp_dir=str(home), overrides={} if has_default_storage else _one_event_log(home)):
        atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


@contextmanager
def ledger_shop(folder: Path) -> Iterator[Shop]:
    """Plan tests/projects/ledger, with YEARLY_CRON instead of '@yearly'."""
    source = TESTS / "projects" / "ledger"
    files = {str(file.relative_to(source)): file.read_text() for file in source.rglob("*.*") if file.is_file()}
    files = {name: text.replace("@yearly", YEARLY_CRON) for name, text in files.items()}
    with planned_shop(folder, files, files["config.yaml"]) as shop:
        yield shop


CONFIG = """
gateways:
  local:
    connection:
      type: duckdb
      database: warehouse.duckdb
default_gateway: local
model_defaults:
  dialect: duckdb
  start: 6 days ago
disable_anonymized_analytics: true
"""


PYTHON_CONFIG = """
import os
import time
from pathlib import Path

from sqlmesh.core.config import Config, DuckDBConnectionConfig, GatewayConfig, ModelDefaultsConfig

config = Config(
    gateways={"local": GatewayConfig(connection=DuckDBConnectionConfig(database="warehouse.duckdb"))},
    model_defaults=ModelDefaultsConfig(dialect="duckdb", start="6 days ago"),
)
"""


def write_project(folder: Path, files: dict[str, str], config: str = CONFIG) -> Path:
    """Write a SQLMesh project.

    Args:
        files: The text of each file, by path.
        config: The text of `config.yaml`, unless `files` has a `config.py`.
    """
    if "config.py" not in files:
        files = {"config.yaml": config, **files}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def python_model(name: str, code: str, depends_on: Sequence[str] = ()) -> str:
    """Return the file of a model in Python that runs some code and then returns one row."""
    return f"""
import os
import signal
import time
from pathlib import Path

import pandas as pd
from sqlmesh import model


@model({name!r}, kind="FULL", columns={{"id": "int"}}, depends_on={list(depends_on)})
def execute(context, start, end, execution_time, **kwargs):
{textwrap.indent(textwrap.dedent(code).strip(), "    ")}
    return pd.DataFrame({{"id": [1]}})
"""


PAUSE = """
if Path("pause").exists():
    Path("pausing").touch()
    while Path("pause").exists():
        time.sleep(0.02)
"""
"""Code that waits while the project has a file `pause`, and meanwhile creates `pausing`."""

OWN_MATERIALIZATION = """
from sqlmesh import CustomMaterialization


class Own(CustomMaterialization):
    NAME = "own"

    def insert(self, table_name, query_or_df, model, is_first_insert, render_kwargs, **kwargs):
        insert = self.adapter.replace_query if is_first_insert else self.adapter.insert_append
        insert(table_name, query_or_df, model.columns_to_types)
"""
"""The file of the materialization `own` of `CUSTOM` models. It appends the rows of later intervals."""


@dataclass
class Shop(DagsterProject):
    """A SQLMesh project, and a Dagster project with a component of it. The first launch loads the definitions."""

    project: Path
    is_loaded: bool = False

    def configure(self, **attributes: Any) -> dg.Definitions:
        """Write the component's `defs.yaml` again, and load the definitions."""
        self.add_component("shop", {"project": str(self.project), **attributes})
        return self.refresh()

    def refresh(self) -> dg.Definitions:
        self.is_loaded = True
        return super().refresh()

    def load_for_launch(self) -> None:
        if not self.is_loaded:
            self.refresh()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return query(self.project, sql)

    def plan(self, *arguments: str, at: str | None = "3 days ago") -> str:
        return plan(self.project, *arguments, at=at)

    def sqlmesh(self, *arguments: str) -> str:
        return sqlmesh(self.project, *arguments)

    def state(self) -> dict[str, Any]:
        return state(self.project)


NewShop = Callable[..., Shop]
"""The arguments of `planned_shop` without its folder."""


@contextmanager
def planned_shop(
    folder: Path,
    files: dict[str, str],
    config: str = CONFIG,
    tables: dict[str, str] | None = None,
    planned_at: str | None = "3 days ago",
    has_default_storage: bool = False,
    **attributes: Any,
) -> Iterator[Shop]:
    """Write and plan a SQLMesh project, and create a Dagster project with a component of it.

    Args:
        tables: The queries of tables that exist before the plan, by name.
        planned_at: The execution time of the plan. None: no plan is applied.
        has_default_storage: As for `dagster_project`.
        attributes: The attributes of the component in addition to `project`.
    """
    project = planned_project(folder / "shop", files, config, tables or {}, planned_at)
    with dagster_project(folder, has_default_storage=has_default_storage) as dagster:
        dagster.add_component("shop", {"project": str(project), **attributes})
        yield Shop(dagster.root, dagster.instance, project)


def planned_project(
    project: Path, files: dict[str, str], config: str, tables: dict[str, str], planned_at: str | None
) -> Path:
    """Write a project and plan it, or copy one that this run of the tests has planned before.

    A copy is as good: the DuckDB file is part of the project. A database on a server is not, and "now" differs.
    """

    def create(folder: Path) -> None:
        write_project(folder, files, config)
        for table, rows in tables.items():
            query(folder, f"CREATE SCHEMA IF NOT EXISTS {table.split('.')[0]}")
            query(folder, f"CREATE TABLE {table} AS {rows}")
        if planned_at:
            plan(folder, at=planned_at)

    names_this_folder = tempfile.gettempdir() in repr((files, config, tables))
    if planned_at in (None, "now") or "port:" in config or names_this_folder:
        create(project)
        return project
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    hour = int(time.time()) // 3600  # of the test's clock
    facts = json.dumps([files, config, tables, planned_at, hour, environment], sort_keys=True)
    planned = Path(tempfile.gettempdir()) / "planned" / hashlib.sha256(facts.encode()).hexdigest()[:16]
    planned.mkdir(parents=True, exist_ok=True)
    with (planned / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests of another process may need the same project
        if not (planned / "shop").exists():
            create(planned / "new")
            # SQLMesh's cache names the files of this folder.
            shutil.rmtree(planned / "new" / ".cache", ignore_errors=True)
            (planned / "new").rename(planned / "shop")
    shutil.copytree(planned / "shop", project, dirs_exist_ok=True)
    return project


def version_of(event: dg.AssetMaterialization | dg.AssetObservation) -> str | None:
    """Return the version of the table that an event describes."""
    stored = stored_record(event.metadata)
    return stored.version if stored else None


@dataclass
class RunRecord:
    """What Dagster's event log contains of one run."""

    instance: dg.DagsterInstance
    run_id: str
    entries: Sequence[dg.EventLogEntry] = field(init=False)

    def __post_init__(self) -> None:
        self.entries = self.instance.all_logs(self.run_id)

    @property
    def run(self) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(self.run_id)
        assert run is not None
        return run

    @property
    def status(self) -> dg.DagsterRunStatus:
        return self.run.status

    @property
    def tags(self) -> Mapping[str, str]:
        return self.run.tags

    def succeeded(self) -> RunRecord:
        """Return this record of a run, which must have succeeded."""
        assert self.status is dg.DagsterRunStatus.SUCCESS, [*self.failures, self.log]
        return self

    def failed(self) -> RunRecord:
        """Return this record of a run, which must have failed."""
        assert self.status is dg.DagsterRunStatus.FAILURE, self.log
        return self

    def events(self, kind: dg.DagsterEventType) -> list[Any]:
        events = [entry.dagster_event for entry in self.entries]
        return [event for event in events if event and event.event_type == kind]

    @property
    def logged(self) -> dict[str, Any]:
        """The values of the metadata that steps have logged, by name."""
        found = step_metadata(self.instance, self.run_id)
        return {name: value.value for step, logged in found if step is not None for name, value in logged.items()}

    @property
    def job_metadata(self) -> dict[str, Any]:
        """The metadata of the output of a job with one op or, if it failed, of its failure, without `sqlmesh/`."""
        kinds = (dg.DagsterEventType.STEP_OUTPUT, dg.DagsterEventType.STEP_FAILURE)
        [data] = [event.event_specific_data for kind in kinds for event in self.events(kind)]
        metadata = (getattr(data, "user_failure_data", None) or data).metadata
        return {name.removeprefix("sqlmesh/"): entry.value for name, entry in metadata.items()}

    def _materializations(self, *, is_outside: bool) -> dict[str, dg.AssetMaterialization]:
        materializations = [
            materialization
            for event in self.events(dg.DagsterEventType.ASSET_MATERIALIZATION)
            if ("sqlmesh/origin" in (materialization := event.event_specific_data.materialization).metadata)
            is is_outside
        ]
        by_key = {event.asset_key.to_user_string(): event for event in materializations}
        assert len(by_key) == len(materializations), "an asset was materialized twice"
        return by_key

    @cached_property
    def materializations(self) -> dict[str, dg.AssetMaterialization]:
        """The materializations of data that this run has computed, by asset."""
        return self._materializations(is_outside=False)

    @cached_property
    def reported_outside(self) -> dict[str, dg.AssetMaterialization]:
        """The same as `computed_outside`, for assets that had something to do. These are no events of the run."""
        since, until = self.entries[0].timestamp, self.entries[-1].timestamp
        reported = {}
        for key in self.instance.get_asset_keys():
            for record in self.instance.fetch_materializations(
                dg.AssetRecordsFilter(key, after_timestamp=since, before_timestamp=until), limit=9
            ).records:
                if not record.run_id and record.asset_materialization is not None:
                    reported[key.to_user_string()] = record.asset_materialization
        return reported

    @cached_property
    def computed_outside(self) -> dict[str, dg.AssetMaterialization]:
        """The materializations of data that was computed outside of Dagster, by asset."""
        return self._materializations(is_outside=True)

    @cached_property
    def observations(self) -> dict[str, dg.AssetObservation]:
        observations = [
            event.event_specific_data.asset_observation for event in self.events(dg.DagsterEventType.ASSET_OBSERVATION)
        ]
        by_key = {event.asset_key.to_user_string(): event for event in observations}
        assert len(by_key) == len(observations), "an asset was observed twice"
        return by_key

    @cached_property
    def checks(self) -> dict[str, dg.AssetCheckEvaluation]:
        results = [event.event_specific_data for event in self.events(dg.DagsterEventType.ASSET_CHECK_EVALUATION)]
        names = [f"{check.asset_key.to_user_string()}:{check.check_name}" for check in results]
        assert len(names) == len(set(names)), "a check was reported twice"
        return dict(zip(names, results))

    def description_of(self, check: str) -> str:
        """Return the description of a check's result, which must have one."""
        description = self.checks[check].description
        assert description is not None, check
        return description

    @property
    def not_evaluated_reasons(self) -> set[str]:
        """Why the checks were not evaluated. Asserts that every check of the run is such a warning."""
        checks = list(self.checks.values())
        assert all("sqlmesh/not_evaluated" in check.metadata for check in checks), "a check was evaluated"
        assert {(check.passed, check.severity) for check in checks} <= {(False, dg.AssetCheckSeverity.WARN)}
        return {str(check.description) for check in checks}

    @property
    def failures(self) -> list[str]:
        """Descriptions of the steps' Failures."""
        found = [event.event_specific_data for event in self.events(dg.DagsterEventType.STEP_FAILURE)]
        return [data.user_failure_data.description if data.user_failure_data else str(data.error) for data in found]

    @property
    def step_keys(self) -> list[str]:
        return [event.step_key for event in self.events(dg.DagsterEventType.STEP_START)]

    @property
    def succeeded_steps(self) -> set[str]:
        return {event.step_key for event in self.events(dg.DagsterEventType.STEP_SUCCESS)}

    @property
    def log(self) -> str:
        """All log messages that are not events."""
        return "\n".join(entry.user_message for entry in self.entries if not entry.dagster_event)

    @property
    def warnings(self) -> list[str]:
        """The warnings in the log."""
        return [entry.user_message for entry in self.entries if entry.level == logging.WARNING]

    def status_of(self, asset: str) -> str | None:
        """Return the outcome of an asset, in one word: `sqlmesh/status` of its event.

        The event of an executed model has none: a materialization or, in another environment, an observation.
        """
        event = self.materializations.get(asset) or self.observations.get(asset) or self.computed_outside.get(asset)
        if event is None:
            return None
        if status := event.metadata.get("sqlmesh/status"):
            return str(status.value).replace(" ", "_")
        if asset in self.computed_outside:  # recorded before a model downstream, so before its own outcome
            return "up_to_date"
        is_executed = asset in self.materializations or "sqlmesh/environment" in event.metadata
        assert is_executed, f"{asset} has an event without an outcome"
        return "executed"
