"""What the engine tests share: a real SQLMesh project, a real Dagster project, a real instance, real processes.

Nothing here imports sqlmesh: the process that runs the tests is a process of Dagster's, as at a user's.
"""

from __future__ import annotations

import atexit
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster.components.core import load_defs

# Each load of definitions describes every component that is installed, for `dg`'s lists: most of the load's time, and
# the same each time, since nothing in the descriptions depends on the project that is loaded.
_describe_installed_components = load_defs.get_library_json_enriched_defs
_installed_components = cache(lambda: _describe_installed_components(None).metadata)
load_defs.get_library_json_enriched_defs = lambda tree: dg.Definitions(
    metadata=_installed_components(), component_tree=tree
)

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
BIN = Path(sys.executable).parent
COMPONENT = "dg_sqlmesh_component.SQLMeshProjectComponent"
EXECUTORS = ("in_process", "multiprocess")
# A cron that ticks once a year, half a year from today: it is never due between a plan and the run behind it, whichever
# day of the year the tests run on. With a `start` of two years ago there is something that the plan computes.
RARELY = f"0 0 1 {(datetime.date.today().month + 5) % 12 + 1} *"


def run(
    command: Sequence[str | Path], *, cwd: Path, check: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as a person would; on failure the test shows all that it said."""
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
    """The JSON object in a command's output, behind whatever warnings stand before it."""
    return json.loads(text[text.index("{") :])


def sqlmesh(project: Path, *words: str, check: bool = True) -> str:
    """SQLMesh's own command, typed in the project's folder."""
    where = [] if "-p" in words else ["-p", str(project)]  # the command looks up its default while it is imported
    status, said = _in_fork(["sqlmesh", *where, *words], project)
    assert not check or status == 0, f"sqlmesh {words} ended with {status}:\n{said}"
    return said


@cache
def _server() -> subprocess.Popen[str]:
    """A process that has imported SQLMesh once; it ends with the process that runs the tests."""
    server = subprocess.Popen(
        [sys.executable, TESTS / "sqlmesh_server.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    return server


def _in_fork(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run SQLMesh's command or a script; its exit status and all that it said."""
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as output:
        request = {
            "arguments": arguments,
            "folder": str(folder),
            "environment": dict(os.environ),
            "output": output.name,
        }
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline()), output.read()


def plan(project: Path, *words: str) -> str:
    """Apply a plan as of three days ago, so that a run has something to do today."""
    return sqlmesh(project, "plan", *words, "--auto-apply", "--no-prompts", "--execution-time", "3 days ago")


def state(folder: Path, environment: str = "prod", path: str = ".") -> dict[str, Any]:
    """What SQLMesh's own state says: computed milliseconds by model, and more. `path`: the project, from `folder`."""
    status, said = _in_fork([str(TESTS / "sqlmesh_state.py"), environment, path], folder)
    assert status == 0, said
    return json.loads(said.splitlines()[-1])


def query(project: Path, sql: str) -> list[tuple[Any, ...]]:
    """Speak to the project's DuckDB file, which nobody holds between runs."""
    import duckdb

    with duckdb.connect(str(project / "warehouse.duckdb")) as connection:
        return (
            connection.sql(sql).fetchall() if sql.lstrip().upper().startswith("SELECT") else _execute(connection, sql)
        )


def _execute(connection: Any, sql: str) -> list[tuple[Any, ...]]:
    connection.execute(sql)
    return []


def raise_flags(project: Path, *names: str) -> None:
    """Make the models and audits of tests/projects/ledger fail that look at these flags."""
    query(project, "DELETE FROM ctl.flags")
    for name in names:
        query(project, f"INSERT INTO ctl.flags VALUES ('{name}')")


def asset_job(root: str, selection: dict[str, list[str]]) -> dg.JobDefinition:
    """The job of a Dagster project, rebuilt from its folder in whichever process needs it."""
    definitions = load(Path(root))
    chosen = dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks()
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
    return dg.Definitions.merge(definitions, dg.Definitions(jobs=[job])).resolve_job_def("everything")


def load(root: Path) -> dg.Definitions:
    """Load a Dagster project's defs folder, as its `definitions.py` does."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return dg.load_from_defs_folder(path_within_project=root / root.name)


@dataclass
class DagsterProject:
    """A Dagster project on disk with an instance of its own."""

    root: Path
    instance: dg.DagsterInstance

    def declare(
        self, name: str, attributes: dict[str, Any], file: str = "defs.yaml", type: str = COMPONENT, **more: Any
    ) -> Path:
        """Write one component's YAML, as a person would."""
        folder = self.root / self.root.name / "defs" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(yaml.safe_dump({"type": type, "attributes": attributes, **more}))
        return folder / file

    def add_module(self, name: str, code: str) -> None:
        """Put a Python module beside the components."""
        (self.root / self.root.name / "defs" / f"{name}.py").write_text(code)

    def refresh(self) -> dg.Definitions:
        """Load the definitions as `dg dev` does at its start: the state is written."""
        # A launch before, in this process, has left Dagster in the belief that it is in a run, which writes no state:
        # each of the several loads of a launch would then describe the project anew.
        DefinitionsLoadContext.set(DefinitionsLoadContext(DefinitionsLoadType.INITIALIZATION))
        os.environ["DAGSTER_IS_DEV_CLI"] = "1"
        try:
            return load(self.root)
        finally:
            del os.environ["DAGSTER_IS_DEV_CLI"]

    def refusal(self) -> str:
        """All that a person is told when the definitions do not load."""
        with pytest.raises(Exception) as caught:  # Dagster wraps ours in one of its own
            self.refresh()
        error: BaseException | None = caught.value
        words = []
        while error is not None:
            words.append(str(error))
            error = error.__cause__
        return "\n".join(words)

    def launch(
        self,
        executor: str = "in_process",
        ops: dict[str, Any] | None = None,
        executor_config: dict[str, Any] | None = None,
        retry_of: str | None = None,
        tags: dict[str, str] | None = None,
        **selection: list[str],
    ) -> Told:
        """Run assets or checks for real, and return what Dagster was told.

        Args:
            ops: Config by op name.
            executor_config: Said to the executor beside the usual.
            retry_of: The id of a failed run to execute again from its failure, as Dagster's run retries do.
            tags: Of the run.
        """
        # Dagster keeps what it has rebuilt from the same arguments, and the declaration may have changed since.
        arguments = (str(self.root), {**selection, "launch": [uuid.uuid4().hex]})
        job = dg.build_reconstructable_job("harness", "asset_job", reconstructable_args=arguments)
        usual = {} if executor == "in_process" else {"max_concurrent": 2}
        again = dg.ReexecutionOptions.from_failure(retry_of, self.instance) if retry_of else None
        run_config = {
            "execution": {"config": {executor: {**usual, **(executor_config or {})}}},
            "ops": {name: {"config": said} for name, said in (ops or {}).items()},
        }
        with dg.execute_job(
            job, instance=self.instance, run_config=run_config, reexecution_options=again, tags=tags
        ) as result:
            return Told(self.instance, result.run_id)

    def told(self, run_id: str) -> Told:
        """What Dagster was told in a run."""
        return Told(self.instance, run_id)

    def launch_beside(
        self, executor: str = "in_process", inside: Sequence[str] = (), **env: str
    ) -> subprocess.Popen[str]:
        """Launch everything in a process of its own, as another host would; it prints the run's id at its end.

        Args:
            inside: A command that runs the one behind it.
        """
        return subprocess.Popen(
            [*inside, sys.executable, "-c", LAUNCH, TESTS, self.instance.root_directory, self.root, executor],
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
setup_interrupt_handlers()  # as the process of a run does
with dg.DagsterInstance.from_config(sys.argv[2]) as instance:
    print(DagsterProject(Path(sys.argv[3]), instance).launch(sys.argv[4]).run_id)
"""


def wait_until(is_true: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    """Wait for an event, which must come while the processes run. The limit is there for tests that hang."""
    deadline = time.monotonic() + 300
    while not is_true():
        for process in processes:
            assert process.poll() is None, "a process ended before the event that the test waits for"
        assert time.monotonic() < deadline, "the event that the test waits for did not come"
        time.sleep(0.02)


@contextmanager
def dagster_project(folder: Path) -> Iterator[DagsterProject]:
    """A new, empty Dagster project below `folder`, as a package that no other project of this process is named like."""
    name = f"orchestra_{uuid.uuid4().hex[:8]}"
    root = folder / name
    defs = root / name / "defs"
    defs.mkdir(parents=True)
    (root / "pyproject.toml").write_text(
        f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{name}"\n'
    )
    (root / name / "__init__.py").write_text("")
    (root / name / "definitions.py").write_text(
        "from pathlib import Path\n\nimport dagster as dg\n\n\n@dg.definitions\ndef defs():\n"
        "    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )
    sys.path.insert(0, str(root))  # what installing it would do
    shutil.copytree(_empty_dagster_home(), folder / "dagster_home")
    with dg.instance_for_test(temp_dir=str(folder / "dagster_home")) as instance:
        yield DagsterProject(root, instance)


@cache
def _empty_dagster_home() -> str:
    """A Dagster home with databases that hold nothing: creating their tables takes longer than copying the files."""
    home = tempfile.mkdtemp()
    with dg.instance_for_test(temp_dir=home):
        atexit.register(shutil.rmtree, home)
    return home


def copy_project(name: str, folder: Path) -> Path:
    """A copy of tests/projects/<name> below `folder`, to be planned and run; what is '@yearly' there ticks RARELY."""
    project = Path(shutil.copytree(TESTS / "projects" / name, folder / name))
    for model in project.glob("models/*.sql"):
        model.write_text(model.read_text().replace("@yearly", RARELY))
    return project


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


def write_project(folder: Path, files: dict[str, str], config: str = CONFIG) -> Path:
    """A SQLMesh project out of a few strings, by path."""
    for name, text in {"config.yaml": config, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@dataclass
class Told:
    """What Dagster's event log holds of one run."""

    instance: dg.DagsterInstance
    run_id: str
    entries: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.entries = self.instance.all_logs(self.run_id)

    @property
    def status(self) -> dg.DagsterRunStatus:
        run = self.instance.get_run_by_id(self.run_id)
        assert run is not None
        return run.status

    def events(self, kind: dg.DagsterEventType) -> list[Any]:
        return [
            entry.dagster_event
            for entry in self.entries
            if entry.dagster_event and entry.dagster_event.event_type == kind
        ]

    @cached_property
    def _all_materializations(self) -> dict[str, dg.AssetMaterialization]:
        found = [
            event.event_specific_data.materialization
            for event in self.events(dg.DagsterEventType.ASSET_MATERIALIZATION)
        ]
        assert len(found) == len({one.asset_key for one in found}), "an asset was materialized twice"
        return {one.asset_key.to_user_string(): one for one in found}

    @cached_property
    def materializations(self) -> dict[str, dg.AssetMaterialization]:
        """Of what the run itself has computed."""
        return {key: one for key, one in self._all_materializations.items() if "sqlmesh/origin" not in one.metadata}

    @cached_property
    def computed_outside(self) -> dict[str, dg.AssetMaterialization]:
        """Of what was computed outside of Dagster, and was up to date in this run."""
        return {key: one for key, one in self._all_materializations.items() if "sqlmesh/origin" in one.metadata}

    @cached_property
    def observations(self) -> dict[str, dg.AssetObservation]:
        found = [
            event.event_specific_data.asset_observation for event in self.events(dg.DagsterEventType.ASSET_OBSERVATION)
        ]
        assert len(found) == len({one.asset_key for one in found}), "an asset was observed twice"
        return {one.asset_key.to_user_string(): one for one in found}

    @cached_property
    def checks(self) -> dict[str, Any]:
        found = [event.event_specific_data for event in self.events(dg.DagsterEventType.ASSET_CHECK_EVALUATION)]
        names = [f"{one.asset_key.to_user_string()}:{one.check_name}" for one in found]
        assert len(names) == len(set(names)), "a check was reported twice"
        return dict(zip(names, found))

    @property
    def reasons(self) -> set[str]:
        """Why checks were not evaluated; each of them is a warning without another result."""
        results = list(self.checks.values())
        assert all("sqlmesh/not_evaluated" in one.metadata for one in results), "a check was evaluated"
        assert {(one.passed, one.severity) for one in results} <= {(False, dg.AssetCheckSeverity.WARN)}
        return {str(one.description) for one in results}

    @property
    def failures(self) -> list[str]:
        """Descriptions of the steps' Failures."""
        data = [event.event_specific_data for event in self.events(dg.DagsterEventType.STEP_FAILURE)]
        return [one.user_failure_data.description if one.user_failure_data else str(one.error) for one in data]

    @property
    def step_keys(self) -> list[str]:
        return [event.step_key for event in self.events(dg.DagsterEventType.STEP_START)]

    @property
    def succeeded_steps(self) -> set[str]:
        return {event.step_key for event in self.events(dg.DagsterEventType.STEP_SUCCESS)}

    @property
    def log(self) -> str:
        """Every message that is not an event."""
        return "\n".join(entry.user_message for entry in self.entries if not entry.dagster_event)

    def status_of(self, asset: str) -> str | None:
        """`sqlmesh/status` of what was said of an asset, None if nothing was."""
        said = self._all_materializations.get(asset) or self.observations.get(asset)
        return str(said.metadata["sqlmesh/status"].value) if said else None
