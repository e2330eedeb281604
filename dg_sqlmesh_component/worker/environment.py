"""The models that an environment has promoted, and the tables that it shows. Everything comes from the state."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlmesh.core import constants as c
from sqlmesh.core.config.connection import ConnectionConfig, DuckDBAttachOptions, DuckDBConnectionConfig
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotTableInfo

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError
from dg_sqlmesh_component.protocol.formatting import block, closest, listed, unquoted
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.protocol.intervals import merged, subtract
from dg_sqlmesh_component.protocol.manifest import INCREMENTAL_KINDS
from dg_sqlmesh_component.worker.commands import plan_command
from dg_sqlmesh_component.worker.context import PipeConsole, closed_on_error, open_context, state_connection
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import read_snapshots_without_cache

# -- read it --------------------------------------------------------------------------------------


@contextmanager
def opened_without_lock(
    request: msg.PendingRequest | msg.ChangesRequest, pipe: Pipe
) -> Iterator[tuple[Context, Environment]]:
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


def sharing_a_table(environment: Environment) -> dict[str, str]:
    """Why models cannot be computed that SQLMesh keeps in one table, by fqn."""
    models = [snapshot for snapshot in environment.snapshots if snapshot.is_model and not snapshot.is_symbolic]
    # SQLMesh takes a millisecond to make the name of a table, and few names of models are that similar.
    similar = Counter(map(_letters, models))
    models_by_table: dict[str, list[str]] = {}
    for snapshot in models:
        if similar[_letters(snapshot)] > 1:
            models_by_table.setdefault(snapshot.table_name(), []).append(snapshot.name)
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
    """The environment, as in the state.

    Raises:
        EnvironmentNotReadyError: It does not exist.
    """
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


def upstream(snapshots: Mapping[str, Snapshot] | Mapping[str, SnapshotTableInfo]) -> dict[str, list[str]]:
    """The nodes that each node of the environment reads, as far as they are in it too, by name."""
    return {
        name: [parent.name for parent in snapshot.parents if parent.name in snapshots]
        for name, snapshot in snapshots.items()
    }


@dataclass(frozen=True)
class ExternalTables:
    """The tables that SQLMesh reads and does not compute.

    Attributes:
        awaited: The ranges for which awaited tables are not complete.
        known: Which tables models read, as the request has it, or as the promoted versions have it.
    """

    awaited: msg.Sources = field(default_factory=dict)
    known: Mapping[str, msg.TablesRead] = field(default_factory=dict)

    @classmethod
    def of(cls, tables: msg.AwaitedTables) -> ExternalTables:
        return cls(tables.incomplete, tables.read)

    @classmethod
    def of_promoted(
        cls, tables: msg.AwaitedTables, environment: Environment, context: Context, pipe: Pipe
    ) -> ExternalTables:
        """Those of an environment. Its versions may read other tables than the models of the manifest do.

        Raises:
            EvaluationError: The run was cancelled meanwhile.
        """
        found = cls.of(tables)
        if tables.are_all:
            return found
        infos = {info.name: info for info in environment.snapshots}
        ours = reachable(tables.read.keys() & infos.keys(), upstream(infos).__getitem__)
        others = [infos[name] for name in ours if infos[name].is_model and not found.knows(infos[name])]
        computed = {info.name for info in environment.snapshots if not info.is_model or not info.is_external}
        read = {
            snapshot.name: msg.TablesRead(
                snapshot.fingerprint.data_hash, tuple(sorted(snapshot.node.depends_on - computed))
            )
            for snapshot in (context.state_reader.get_snapshots(others).values() if others else ())
        }
        asked = {table for of in read.values() for table in of.tables}
        asked -= {table for of in tables.read.values() for table in of.tables}
        awaited = found.awaited
        if asked:
            pipe.send(msg.OtherTablesFound(tuple(sorted(asked))))
            awaited = {**awaited, **pipe.receive_tables().incomplete}
        return cls(awaited, {**found.known, **read})

    def without(self, tables: Set[str]) -> ExternalTables:
        """The same, as if these tables were complete."""
        return replace(self, awaited={fqn: of for fqn, of in self.awaited.items() if fqn not in tables})

    def knows(self, snapshot: Snapshot | SnapshotTableInfo) -> bool:
        """Whether the tables of this version of a model are known, so that its query is not rendered."""
        known = self.known.get(snapshot.name)
        return known is not None and known.data_hash == snapshot.fingerprint.data_hash

    def read_by(self, snapshot: Snapshot) -> Set[str]:
        """The tables that a node reads itself; if the request does not have them, with the models that it reads."""
        return frozenset(self.known[snapshot.name].tables) if self.knows(snapshot) else snapshot.node.depends_on

    def awaited_by(self, snapshot: Snapshot) -> Set[str]:
        """The awaited tables that a model reads itself."""
        return self.awaited.keys() & self.read_by(snapshot) if snapshot.is_model and self.awaited else frozenset()

    def behind_views(
        self,
        name: str,
        nodes: Mapping[str, Snapshot] | Mapping[str, SnapshotTableInfo],
        parents: Mapping[str, list[str]],
    ) -> Set[str]:
        """The tables that a promoted model reads, also through views and embedded models.

        Args:
            parents: Of each node, by name.
        """

        def is_behind(node: str) -> bool:
            return nodes[node].is_view or nodes[node].is_symbolic

        read = reachable(parents[name], lambda node: parents[node] if is_behind(node) else ())
        through = {name, *filter(is_behind, read)} & self.known.keys()
        return {table for node in through for table in self.known[node].tables}

    def reads_of(self, environment: Environment) -> dict[str, msg.PromotedReads]:
        """As in `StateLocked`."""
        infos = {info.name: info for info in environment.snapshots}
        parents = upstream(infos)
        return {
            name: msg.PromotedReads(info.version, tuple(sorted(self.behind_views(name, infos, parents))))
            for name, info in infos.items()
            if info.is_model and self.knows(info) and info.model_kind_name.value in INCREMENTAL_KINDS
        }

    def not_loaded(self, snapshot: Snapshot) -> Sequence[msg.Interval]:
        """The ranges for which a model cannot be computed, because a table that it reads itself is not complete.

        A computation of a whole table reads all rows, so it needs everything before its end.
        """
        found = merged(interval for table in self.awaited_by(snapshot) for interval in self.awaited[table])
        if not found:
            return ()  # a standalone audit awaits no table, and has no kind
        shows_rows = snapshot.is_view or snapshot.is_symbolic or snapshot.model_kind_name.value in INCREMENTAL_KINDS
        return found if shows_rows else ((found[0][0], msg.FOREVER),)


# -- the table that it shows for a model ----------------------------------------------------------


def deployability(environment: str, snapshots: Iterable[Snapshot], start: Any = None) -> DeployabilityIndex:
    """Which models of the environment show production tables, and which show a preview table of their own.

    Args:
        snapshots: All of the environment: it depends on the upstream models too.
        start: The start of the run config.
    """
    if environment == c.PROD:
        return DeployabilityIndex.all_deployable()
    return DeployabilityIndex.create(snapshots, start=start)


def shown_version(snapshot: Snapshot, index: DeployabilityIndex) -> str:
    """The version of that table."""
    return snapshot.version_get_or_generate() if index.is_representative(snapshot) else snapshot.dev_version


def computed_intervals(snapshot: Snapshot, index: DeployabilityIndex) -> list[msg.Interval]:
    """The computed intervals of that table."""
    return snapshot.intervals if index.is_representative(snapshot) else snapshot.dev_intervals


def forgotten_intervals(snapshot: Snapshot, index: DeployabilityIndex) -> Sequence[msg.Interval]:
    """The intervals of that table that a run of ours has forgotten, and that nobody has computed since.

    The snapshot must have the intervals of the state. An automatic restatement marks intervals too, but the state has
    them as computed.
    """
    if not (snapshot.is_model and snapshot.model.lookback and index.is_representative(snapshot)):
        return ()
    return subtract(snapshot.pending_restatement_intervals, snapshot.intervals)


def altered_at(snapshot: Snapshot, index: DeployabilityIndex) -> int | None:
    """When that table was last computed, restated or loaded."""
    return snapshot.last_altered_ts if index.is_representative(snapshot) else snapshot.dev_last_altered_ts
