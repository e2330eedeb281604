"""Opening a SQLMesh project the way the `sqlmesh` command does, with errors that say what to do."""

from __future__ import annotations

import inspect
import os
import shlex
import stat
import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from sqlglot import exp
from sqlmesh.core import constants as c
from sqlmesh.core.config import Config
from sqlmesh.core.config.connection import ConnectionConfig
from sqlmesh.core.config.loader import load_configs
from sqlmesh.core.console import NoopConsole, set_console
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.state_sync import StateSync

from dg_sqlmesh_component.protocol.bootstrap import sqlmesh_program
from dg_sqlmesh_component.protocol.errors import (
    DatabaseInUseError,
    DeclarationError,
    EnvironmentNotReadyError,
    EvaluationError,
    ProjectLoadError,
    SQLMeshComponentError,
)
from dg_sqlmesh_component.protocol.formatting import plain, short_hash
from dg_sqlmesh_component.protocol.messages import LogLine, OpenProject, SecretsKnown
from dg_sqlmesh_component.protocol.redaction import secrets_in
from dg_sqlmesh_component.worker.duckdb_lock_holder import is_locked, who_holds
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.secrets import secrets_of
from dg_sqlmesh_component.worker.transient_errors import is_transient

HAS_INDEX = "use_project_index" in inspect.signature(Context.load).parameters
"""Whether this SQLMesh can load some models without the others: 0.235 cannot, and loads all of them."""


class SteadyContext(Context):
    """A Context that takes a state it cannot reach for no state that is not there.

    SQLMesh asks for the state's version with a query whose every error means "no such table" to it, and then sets up
    the state anew: a DuckDB file that is locked at that moment and free at the next would be migrated from nothing.
    """

    def _new_state_sync(self) -> StateSync:
        state_sync = super()._new_state_sync()
        adapter = getattr(state_sync, "engine_adapter", None)
        if adapter is not None:
            adapter.fetchone(exp.select("1"))  # the connection is open from here on
        return state_sync


_Context = TypeVar("_Context", bound=SteadyContext)


class PipeConsole(NoopConsole):
    """SQLMesh's console, as far as it speaks in sentences: they become log lines."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self.pipe = pipe

    def log_warning(self, short_message: str, *_: Any, **__: Any) -> None:
        # The long form adds an audit's query, which its asset check shows.
        self.pipe.send(LogLine("warning", plain(short_message), "sqlmesh"))

    def log_error(self, message: str, *_: Any, **__: Any) -> None:
        self.pipe.send(LogLine("error", plain(message), "sqlmesh"))

    def log_status_update(self, message: str) -> None:
        self.pipe.send(LogLine("info", plain(message), "sqlmesh"))


def open_context(
    project: OpenProject,
    console: PipeConsole,
    *,
    load: bool,
    context_type: type[_Context],
    concurrent_tasks: int | None = None,
    models: Collection[str] = (),
) -> _Context:
    """Open the project; with `load` parse its models too, without it only its configuration is read.

    Args:
        models: Load these and what they read, no more, where SQLMesh has an index of the project.

    Raises:
        DeclarationError: No such gateway.
        ProjectLoadError: SQLMesh refuses the project's files.
    """
    set_console(console)  # what SQLMesh says while loading goes to the console of the process
    try:
        dotenv = _dotenv()
        # With a configuration at hand SQLMesh reads the `.env` files and no more: their secrets are known before the
        # project's configuration says anything, or is refused.
        load_configs(Config(), Config, list(project.paths), dotenv_path=dotenv)
        console.pipe.send(SecretsKnown(tuple(secrets_in(os.environ))))
        with console.pipe.loading():
            configs = load_configs(project.config, Config, list(project.paths), dotenv_path=dotenv)
        console.pipe.send(SecretsKnown(tuple(secret for config in configs.values() for secret in secrets_of(config))))
        _require_gateway(project, configs)
        _keep_cache_where_it_can_be_written(configs, console.pipe)
        if concurrent_tasks is not None:
            for config in configs.values():
                _set_concurrency(config, project.gateway, concurrent_tasks)
        context = context_type(paths=list(project.paths), config=configs, gateway=project.gateway, load=False)
        if load:
            context.load(**({"model_fqns": set(models) or None, "use_project_index": True} if HAS_INDEX else {}))
        return context
    except SQLMeshComponentError:
        raise
    except Exception as error:  # a project's Python files may raise anything while they are loaded
        explained = explain(error, project)
        if isinstance(explained, EnvironmentNotReadyError):
            raise explained from error
        raise ProjectLoadError(
            f"SQLMesh cannot load the project at {', '.join(project.paths)}: {describe_error(error)}",
            is_transient=is_transient(error),
        ) from error


def as_typed(project: OpenProject) -> OpenProject:
    """The project as the `sqlmesh` command opens it: an environment variable stands in for a gateway left out."""
    return replace(project, gateway=project.gateway or os.environ.get("SQLMESH_GATEWAY") or None)


def _dotenv() -> Path | None:
    """The file that the `sqlmesh` command reads instead of the project's `.env`."""
    named = os.environ.get("SQLMESH_DOTENV_PATH")
    if named and not Path(named).is_file():
        raise DeclarationError(
            f"The environment variable SQLMESH_DOTENV_PATH names {named}, and there is no such file. Correct it or "
            "take it away."
        )
    return Path(named) if named else None


def _require_gateway(project: OpenProject, configs: dict[Path, Config]) -> None:
    if project.gateway is None:
        return
    known = sorted({name for config in configs.values() for name in config.gateways if name})
    if project.gateway.lower() not in {name.lower() for name in known}:
        raise DeclarationError(
            f"Gateway {project.gateway!r} does not exist in the SQLMesh project at "
            f"{', '.join(project.paths)}. Its gateways: {', '.join(known) or 'none has a name'}. "
            "Correct `project.gateway` in defs.yaml (or the variable SQLMESH_GATEWAY where there is none), or leave it "
            "out to use the project's default."
        )


def _keep_cache_where_it_can_be_written(configs: dict[Path, Config], pipe: Pipe) -> None:
    """A project in a read-only folder, as in a container image, has its cache among the temporary files."""
    for path, config in configs.items():
        usual = path / ".cache"
        if config.cache_dir is None and not os.access(usual if usual.exists() else path, os.W_OK):
            # SQLMesh knows a cached model by its path within the project and by times, which images often make equal.
            own = f"{path.name}_{short_hash([str(path.resolve())])}"
            config.cache_dir = str(_own_folder(f"dg_sqlmesh_cache_{os.getuid()}") / own)
            text = f"{path} cannot be written to, so SQLMesh's cache is kept in {config.cache_dir}."
            pipe.send(LogLine("info", text, "dg_sqlmesh"))


def _own_folder(name: str) -> Path:
    """A folder for temporary files that nobody else writes to: SQLMesh unpickles what it finds in its cache."""
    folder = Path(tempfile.gettempdir()) / name
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            return Path(tempfile.mkdtemp(prefix=f"{name}_"))
    return folder


def _set_concurrency(config: Config, gateway_name: str | None, concurrent_tasks: int) -> None:
    """Override the connection's own setting: `Context(concurrent_tasks=...)` leaves its adapter single-threaded."""
    gateway = config.get_gateway(gateway_name)
    owner, field = (gateway, "connection") if gateway.connection else (config, "default_connection")
    connection = config.get_connection(gateway_name)
    setattr(owner, field, connection.model_copy(update={"concurrent_tasks": concurrent_tasks}))


def state_connection(context: Context) -> ConnectionConfig:
    """Where SQLMesh keeps its state: a connection of its own, or the gateway's."""
    gateway = context.selected_gateway
    return context.config.get_state_connection(gateway) or context.config.get_connection(gateway)


def environment_name(project: OpenProject, context: Context) -> str:
    """The environment to speak of: the one asked for, else the project's default target."""
    return Environment.sanitize_name(project.environment or context.config.default_target_environment)


def sqlmesh_command(project: OpenProject, *words: str) -> str:
    """What to type to do this with SQLMesh's own command, from anywhere."""
    where = project.working_directory or project.paths[0]
    paths = project.paths if project.paths != (where,) else ()
    options = [option for path in paths for option in ("-p", path)]
    if project.gateway:
        options += ["--gateway", project.gateway]
    if project.config:
        options += ["--config", project.config]
    return f"cd {shlex.quote(where)} && {shlex.join([sqlmesh_program(), *options, *words])}"


def plan_command(project: OpenProject, environment: str, context: Context, *, is_new: bool = False) -> str:
    """The plan that updates the environment, or creates it."""
    default = Environment.sanitize_name(context.config.default_target_environment)
    named = [] if environment == default else [environment]
    # Where the files are those of prod, SQLMesh refuses to create another environment without being told so.
    options = ["--include-unmodified"] if is_new and environment != c.PROD else []
    return sqlmesh_command(project, "plan", *named, *options)


def describe_error(error: BaseException) -> str:
    """An exception in its own words, with its class where the words alone say little."""
    text = plain(error)
    name = type(error).__name__
    return text if text and name in ("ConfigError", "SQLMeshError") else f"{name}: {text}"


def unfinished_plan(project: OpenProject, environment: str | None) -> EnvironmentNotReadyError:
    """What to do about an environment that a plan is updating for too long."""
    said = [environment] if environment else []
    return EnvironmentNotReadyError(
        f"The environment{''.join(f' {name!r}' for name in said)} is being updated by a plan that has not finished "
        "within `execution.environment_timeout` (in defs.yaml). If that plan was broken off, apply it again: "
        f"{sqlmesh_command(project, 'plan', *said)}",
        is_transient=True,
    )


def explain(error: Exception, project: OpenProject, environment: str | None = None) -> SQLMeshComponentError:
    """Tell who must act on an error that stopped a whole request.

    Args:
        environment: The one that runs.
    """
    text = plain(error)
    if is_locked(text):
        return DatabaseInUseError(
            "The DuckDB file is in use by another process, and DuckDB lets only one write at a time: "
            f"{who_holds(text)} End that process, or wait for it.",
            is_transient=True,
        )
    if "Please run a migration" in text:
        return EnvironmentNotReadyError(
            f"SQLMesh's stored state is older than this SQLMesh. {text} "
            f"Back up the state and run: {sqlmesh_command(project, 'migrate')}"
        )
    if "Please upgrade" in text:
        return EnvironmentNotReadyError(
            f"SQLMesh's stored state was written by a newer SQLMesh. {text} "
            "Upgrade it in the interpreter that runs the project (`project.python` in defs.yaml)."
        )
    if "Exceeded the maximum wait time for environment" in text:
        return unfinished_plan(project, environment or project.environment)
    return EvaluationError(
        f"SQLMesh ended the run with an error: {describe_error(error)}", is_transient=is_transient(error)
    )
