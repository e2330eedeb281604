"""Open a SQLMesh project as the `sqlmesh` command does."""

from __future__ import annotations

import inspect
import os
import stat
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from sqlglot import exp
from sqlmesh.core.config import Config
from sqlmesh.core.config.connection import ConnectionConfig
from sqlmesh.core.config.loader import load_configs
from sqlmesh.core.console import NoopConsole, set_console
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot.definition import Node
from sqlmesh.core.state_sync import StateSync

from dg_sqlmesh_component.protocol.errors import (
    ConfigurationError,
    EnvironmentNotReadyError,
    LinterRuleError,
    ProjectLoadError,
    ProjectRuleError,
    SQLMeshComponentError,
    UnitTestError,
    WorkerError,
)
from dg_sqlmesh_component.protocol.formatting import block, listed, plain, short_hash, unquoted
from dg_sqlmesh_component.protocol.messages import OpenProject, SecretsKnown
from dg_sqlmesh_component.protocol.redaction import SECRET_NAME, secrets_in
from dg_sqlmesh_component.worker.explain import describe_error, explain
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import (
    loaders_without_pandas,
    require_existing_state,
    tables_without_version,
)
from dg_sqlmesh_component.worker.transient_errors import is_transient

_Context = TypeVar("_Context", bound=Context)

HAS_INDEX = "use_project_index" in inspect.signature(Context.load).parameters
"""Whether this SQLMesh can load some models without the others. 0.235 cannot; it loads all models."""


class PipeConsole(NoopConsole):
    """SQLMesh's console: its messages become log lines of the run. Everything else is ignored.

    Attributes:
        violations: The rules of the project that its files break, by the class of our error.
        unit_tests: How many SQLMesh has executed.
        lint_warnings: How many the linter has logged.
    """

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self.pipe = pipe
        self.violations: dict[type[ProjectRuleError], list[str]] = defaultdict(list)
        self.unit_tests = self.lint_warnings = 0

    def log_warning(self, short_message: str, *_: Any, **__: Any) -> None:
        # The long message adds an audit's query, which its asset check shows.
        self.pipe.log("warning", plain(short_message), "sqlmesh")

    def log_error(self, message: str, *_: Any, **__: Any) -> None:
        self.pipe.log("error", plain(message), "sqlmesh")

    def log_status_update(self, message: str) -> None:
        self.pipe.log("info", plain(message), "sqlmesh")

    def log_test_results(self, result: Any, *_: Any, **__: Any) -> None:
        self.unit_tests = result.testsRun
        for test, problem in [*result.failures, *result.errors]:
            self.violations[UnitTestError].append(f"The unit test {test} fails:{block(plain(problem))}")

    def show_linter_violations(self, violations: Any, model: Any, is_error: bool = False) -> None:
        for violation in violations:
            text = f"{unquoted(model.fqn)}: {violation.rule.name}: {violation.violation_msg}"
            if is_error:
                self.violations[LinterRuleError].append(text)
            else:
                self.lint_warnings += 1
                self.pipe.log("warning", text, "sqlmesh linter")


def open_context(
    project: OpenProject,
    console: PipeConsole,
    *,
    context_type: Callable[..., _Context] = Context,
    load: Collection[str] | None = None,
    concurrent_tasks: int | None = None,
) -> _Context:
    """Open the project.

    Args:
        load: The models to parse, with their upstream models, if SQLMesh has an index of the project; empty: all of
            them. None: only the configuration is read.

    Raises:
        ConfigurationError: The gateway or the file of SQLMESH_DOTENV_PATH does not exist.
        DatabaseInUseError: Another process holds a DuckDB file that the project reads while it is loaded.
        EnvironmentNotReadyError: The state belongs to an older or newer SQLMesh.
        ProjectLoadError: SQLMesh refuses the project's files.
        WorkerError: A bug of this package.
    """
    set_console(console)  # SQLMesh logs to the process's console while it loads
    try:
        dotenv = _dotenv()
        # Given a `Config`, SQLMesh reads only the `.env` files. So their secrets are known before the project's
        # configuration prints anything or is refused.
        before = dict(os.environ)
        load_configs(Config(), Config, list(project.paths), dotenv_path=dotenv)
        console.pipe.send(SecretsKnown(tuple(secrets_in(os.environ))))
        _warn_of_overridden_variables(before, dotenv, console.pipe)
        with console.pipe.loading():
            configs = load_configs(project.config, Config, list(project.paths), dotenv_path=dotenv)
        console.pipe.send(
            SecretsKnown(tuple(secret for config in configs.values() for secret in secret_values(config)))
        )
        _require_gateway(project, configs)
        _move_cache_if_read_only(configs, console.pipe)
        if concurrent_tasks is not None:
            for config in configs.values():
                if project.gateway is None or project.gateway.lower() in config.gateways:
                    _set_concurrency(config, project.gateway, concurrent_tasks)
        with loaders_without_pandas() if load is None else nullcontext():
            context = context_type(paths=list(project.paths), config=configs, gateway=project.gateway, load=False)
        context.console = console
        require_existing_state(context, _refuse_state_without_version)
        if load is not None:
            context.load(**({"model_fqns": set(load) or None, "use_project_index": True} if HAS_INDEX else {}))
        return context
    except SQLMeshComponentError:
        raise
    except Exception as error:  # a project's Python files may raise anything
        explained = explain(error, project)
        if isinstance(explained, (EnvironmentNotReadyError, WorkerError)):
            raise explained from error
        raise ProjectLoadError(
            f"SQLMesh cannot load the project at {', '.join(project.paths)}: {describe_error(error)}",
            is_transient=is_transient(error),
        ) from error


@contextmanager
def closed_on_error(context: Context, project: OpenProject, environment: str | None = None) -> Iterator[None]:
    """Close the context if its state cannot be read. The error is the one that `explain` makes of it."""
    try:
        yield
    except Exception as error:  # a driver's, or SQLMesh's about the version of the state
        context.close()
        if isinstance(error, SQLMeshComponentError):
            raise
        raise explain(error, project, environment) from error


def _refuse_state_without_version(state_sync: StateSync) -> None:
    tables = tables_without_version(state_sync)
    if tables:
        raise EnvironmentNotReadyError(
            f"SQLMesh's state has no version, and has rows in {listed(tables)}. It is damaged, or only a part of it "
            "was restored. Restore the whole state from a backup of its database. Tables whose names end in _backup "
            "are SQLMesh's copies from before its last migration: if all are there, rename them. Do not use `sqlmesh "
            "plan`, `migrate` or `rollback` before that: SQLMesh may delete the tables of a state without a version."
        )


def with_default_gateway(project: OpenProject) -> OpenProject:
    """The project; if it names no gateway, with the gateway of SQLMESH_GATEWAY, as the `sqlmesh` command does."""
    return replace(project, gateway=project.gateway or os.environ.get("SQLMESH_GATEWAY") or None)


def _dotenv() -> Path | None:
    """The file that the `sqlmesh` command reads instead of the project's `.env`."""
    path = os.environ.get("SQLMESH_DOTENV_PATH")
    if path and not Path(path).is_file():
        raise ConfigurationError(
            f"The environment variable SQLMESH_DOTENV_PATH names {path}, and there is no such file. "
            "Correct it or unset it."
        )
    return Path(path) if path else None


def _warn_of_overridden_variables(before: Mapping[str, str], dotenv: Path | None, pipe: Pipe) -> None:
    """Log which environment variables the file of variables has changed. SQLMesh gives it the last word.

    `before` are the variables before the file was read.
    """
    names = sorted(name for name, value in before.items() if os.environ.get(name) != value)
    if names:
        pipe.log(
            "warning",
            f"{dotenv or 'The .env file of the project'} has other values of {listed(names)} than `project.env` in "
            "defs.yaml or the environment of Dagster's process. SQLMesh uses those of the file. Remove them in one of "
            "the two places.",
        )


def _require_gateway(project: OpenProject, configs: dict[Path, Config]) -> None:
    if project.gateway is None:
        return
    known = sorted({name for config in configs.values() for name in config.gateways if name})
    if project.gateway.lower() not in {name.lower() for name in known}:
        raise ConfigurationError(
            f"Gateway {project.gateway!r} does not exist in the SQLMesh project at "
            f"{', '.join(project.paths)}. Its gateways: {', '.join(known) or 'none has a name'}. "
            "Correct `project.gateway` in defs.yaml, or `gateway` of the SQLMeshResource. If neither is set, correct "
            "the environment variable SQLMESH_GATEWAY. Without all three, SQLMesh uses the project's default gateway."
        )


def _move_cache_if_read_only(configs: dict[Path, Config], pipe: Pipe) -> None:
    """Put the cache of a project in a read-only folder, as in a container image, among the temporary files."""
    for path, config in configs.items():
        usual = path / ".cache"
        if config.cache_dir is None and not os.access(usual if usual.exists() else path, os.W_OK):
            # A folder for each project: SQLMesh finds a cached model by its path within the project and by file times,
            # which images often make equal.
            name = f"{path.name}_{short_hash([str(path.resolve())])}"
            config.cache_dir = str(_own_folder(f"dg_sqlmesh_cache_{os.getuid()}") / name)
            pipe.log("info", f"{path} cannot be written to, so SQLMesh's cache is kept in {config.cache_dir}.")


def _own_folder(name: str) -> Path:
    """A temporary folder that no other user can write to, because SQLMesh unpickles the files of its cache."""
    folder = Path(tempfile.gettempdir()) / name
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            return Path(tempfile.mkdtemp(prefix=f"{name}_"))
    return folder


def _set_concurrency(config: Config, gateway_name: str | None, concurrent_tasks: int) -> None:
    """Override the connection's setting. `Context(concurrent_tasks=...)` would leave the adapter single-threaded."""
    gateway = config.get_gateway(gateway_name)
    owner, field = (gateway, "connection") if gateway.connection else (config, "default_connection")
    connection = config.get_connection(gateway_name)
    setattr(owner, field, connection.model_copy(update={"concurrent_tasks": concurrent_tasks}))


def connection_of(gateway: str, context: Context) -> ConnectionConfig:
    """The connection of a gateway. As in SQLMesh, it is that of the first project that configures the gateway."""
    configs = (config for config in context.configs.values() if gateway.lower() in config.gateways)
    return next(configs, context.config).get_connection(gateway)


def state_connection(context: Context) -> ConnectionConfig:
    """The connection to the state: one of its own, or the gateway's."""
    gateway = context.selected_gateway
    return context.config.get_state_connection(gateway) or context.config.get_connection(gateway)


def display_name(node: Node, context: Context) -> str:
    """The name of a model as its author wrote it, with the catalog if that is not the default one, as in SQLMesh."""
    return name_with_catalog(node, context) or node.name


def name_with_catalog(node: Node, context: Context) -> str | None:
    """The name of a model with its catalog; None if that is the default one, or if its author wrote it."""
    catalog = node.fully_qualified_table.args.get("catalog") if node.is_model else None
    if not catalog or catalog.name == _default_catalog(context):
        return None
    if exp.to_table(node.name, dialect=node.dialect).catalog:
        return None
    return f"{exp.table_name(exp.Table(this=catalog))}.{node.name}"


@lru_cache(maxsize=1)
def _default_catalog(context: Context) -> str | None:
    """SQLMesh asks each gateway's database again each time."""
    return context.default_catalog


def environment_name(project: OpenProject, context: Context) -> str:
    """The environment that `defs.yaml` names, else the project's default."""
    return Environment.sanitize_name(project.environment or context.config.default_target_environment)


def secret_values(config: Config) -> tuple[str, ...]:
    """Passwords, tokens and the like of all connections, and variables whose names say that they are secret."""
    gateways = [*config.gateways.values()] if isinstance(config.gateways, dict) else [config.gateways]
    connections = [config.default_connection]
    for gateway in gateways:
        connections += [gateway.connection, gateway.state_connection, gateway.test_connection]
    settings = [connection.model_dump() for connection in connections if connection is not None]
    settings += [config.variables, *(gateway.variables for gateway in gateways)]
    return tuple(sorted(set(_secrets("", settings))))


_MIXED = {"secrets", "keyfile_json"}
"""Settings of connections (DuckDB's, BigQuery's) that mix secrets with other values, such as a region.

Inside them, a value is secret only if its own name says so.
"""


def _secrets(name: str, value: Any, is_mixed: bool = False) -> Iterator[str]:
    """Texts and numbers that are secret by their names. `name` joins all names from the outermost to the innermost."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _secrets(key if is_mixed else f"{name} {key}", item, is_mixed or key in _MIXED)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _secrets(name, item, is_mixed)
    elif isinstance(value, (str, int)) and not isinstance(value, bool) and SECRET_NAME.search(name):
        yield str(value)
