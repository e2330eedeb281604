"""The models that an environment has promoted, as the state has them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlmesh.core.config.connection import ConnectionConfig, DuckDBAttachOptions, DuckDBConnectionConfig
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import Snapshot, SnapshotTableInfo

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError
from dg_sqlmesh_component.protocol.formatting import block, closest, listed, unquoted
from dg_sqlmesh_component.protocol.graph import grouped
from dg_sqlmesh_component.worker.commands import plan_command
from dg_sqlmesh_component.worker.context import PipeConsole, closed_on_error, open_context, state_connection
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import read_snapshots_without_cache


@contextmanager
def opened_without_lock(request: msg.StateQuestion, pipe: Pipe) -> Iterator[tuple[Context, Environment]]:
    """The project's context and the requested environment, for a request that only reads the state.

    Raises:
        EnvironmentNotReadyError: The environment does not exist.
        DatabaseInUseError: Another process has the DuckDB file of the state open.
    """
    read_snapshots_without_cache()
    context: Context = open_context(request.project, PipeConsole(pipe))
    with closed_on_error(context, request.project, request.environment):
        yield context, stored_environment(request.project, request.environment, context)
    context.close()


def refuse_lost_versions(environment: Environment, found: Container[str]) -> None:
    """Refuse a state that has lost versions which the environment shows.

    Args:
        found: The nodes whose versions the state has, by name.

    Raises:
        EnvironmentNotReadyError: It has lost some.
    """
    lost = sorted(unquoted(info.name) for info in environment.snapshots if info.name not in found)
    if lost:
        raise EnvironmentNotReadyError(
            f"SQLMesh's state is damaged: environment {environment.name} shows {listed(lost)}, and the state's table "
            "_snapshots does not have the versions. Restore the whole state from a backup of its database."
        )


def has_table(node: Snapshot | SnapshotTableInfo) -> bool:
    """Whether SQLMesh keeps a table or view for a node: not for audits, embedded models and external tables."""
    return node.is_model and not node.is_symbolic


def has_one_table(node: Snapshot | SnapshotTableInfo, *, is_dev: bool) -> bool:
    """Whether all versions of a model share one table or view, which has the model's name."""
    return node.is_model and node.virtual_environment_mode.is_dev_only and not is_dev


def is_table_of_its_name(node: Snapshot | SnapshotTableInfo, *, is_dev: bool) -> bool:
    """Whether the environment has a table with the model's name, which SQLMesh alters and fills, and no view."""
    return node.is_materialized and has_one_table(node, is_dev=is_dev)


def sharing_a_table(environment: Environment) -> dict[str, str]:
    """Why models cannot be computed that SQLMesh keeps in one table, by fqn."""
    models = [snapshot for snapshot in environment.snapshots if has_table(snapshot)]
    # SQLMesh takes a millisecond to make the name of a table, and few names of models are that similar.
    similar = Counter(map(_letters, models))
    similar_models = [snapshot for snapshot in models if similar[_letters(snapshot)] > 1]
    models_by_table = grouped((snapshot.table_name(), snapshot.name) for snapshot in similar_models)
    return {
        fqn: f"SQLMesh keeps {' and '.join(sorted(models))} in one table, {table}: their queries are equal, and their "
        "names differ in punctuation only. Each would be computed into the table of the other. Rename one of them, and "
        "apply a plan."
        for table, models in models_by_table.items()
        if len(models) > 1
        for fqn in models
    }


def _letters(snapshot: SnapshotTableInfo) -> tuple[str, str]:
    """The version of a model and the letters of its name. They are equal if its table has the name of another one's."""
    return snapshot.version, re.sub(r"[\W_]+", "_", snapshot.name, flags=re.ASCII)


def stored_environment(project: msg.OpenProject, name: str, context: Context) -> Environment:
    """The environment, as in the state. Raises an EnvironmentNotReadyError if it does not exist."""
    environment = context.state_reader.get_environment(name)
    if environment is None:
        plan = plan_command(project, name, context, is_new=True)
        raise EnvironmentNotReadyError(
            f"{missing_environment(project, name, context)} Nothing can run before its first plan is applied:"
            f"{block(plan)}"
        )
    return environment


def missing_environment(project: msg.OpenProject, name: str, context: Context) -> str:
    """That an environment does not exist, what the state has instead, and what to correct, in sentences."""
    names = sorted(summary.name for summary in context.state_reader.get_environments_summary())
    others = (
        f"has: {listed(names)}.{closest(name, names)} If the name is wrong, correct `environment` in the run config, "
        "or `project.environment` in defs.yaml."
        if names
        else "has no environment. If your plans use another database, correct the gateway's connection and its "
        "environment variables."
    )
    return (
        f"Environment {name!r} does not exist in the state of the SQLMesh project at {', '.join(project.paths)} "
        f"(gateway {context.selected_gateway!r}), which is {_place(state_connection(context))}. This state {others}"
    )


def _place(connection: ConnectionConfig) -> str:
    """The database of the connection."""
    if not isinstance(connection, DuckDBConnectionConfig):
        names = (getattr(connection, field, None) for field in ("host", "account", "project", "database", "db"))
        return f"in {connection.type_} ({'/'.join(str(name) for name in names if name) or 'its default database'})"
    first = next(iter((connection.catalogs or {}).values()), connection.database)
    file = first.path if isinstance(first, DuckDBAttachOptions) else first
    if file in (None, "", ":memory:"):
        return (
            "in memory, so a plan's result is lost when the process that applied it ends. Give the gateway's "
            "connection a file (`database: warehouse.duckdb`)"
        )
    return f"the DuckDB file {Path(str(file)).absolute()}"


def promoted_version(info: SnapshotTableInfo, table_name: str | None = None) -> msg.PromotedVersion:
    """The promoted version of a node, with the name of the table or view that consumers read."""
    hashes = info.fingerprint
    return msg.PromotedVersion(info.version, hashes.data_hash, hashes.metadata_hash, table_name, info.identifier)
