"""What Dagster knows and SQLMesh's state does not: tables that are not loaded, and ranges to compute again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import Snapshot, SnapshotTableInfo

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.graph import reachable
from dg_sqlmesh_component.worker.intervals.read_early import ReadEarly
from dg_sqlmesh_component.worker.intervals.tables import Nodes, is_incremental, shows_others, tables_read, upstream
from dg_sqlmesh_component.worker.pipe import Pipe


@dataclass(frozen=True)
class ExternalTables:
    """The tables that SQLMesh reads and does not compute."""

    awaited: msg.Sources = field(default_factory=dict)  # the ranges for which awaited tables are not complete
    # Which tables models read, as the request has it, or as the promoted versions have it.
    known: Mapping[str, msg.TablesRead] = field(default_factory=dict)

    @classmethod
    def of_promoted(
        cls, tables: msg.AwaitedTables, environment: Environment, context: Context, pipe: Pipe
    ) -> ExternalTables:
        """Those of an environment. Its versions may read other tables than the models of the manifest do.

        Raises an EvaluationError if the run was cancelled meanwhile.
        """
        found = cls(tables.incomplete, tables.read)
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
            awaited = {**awaited, **pipe.receive(msg.AwaitedTables).incomplete}
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

    def behind_views(self, name: str, nodes: Nodes, parents: Mapping[str, list[str]]) -> Set[str]:
        """The tables that a promoted model reads, also through views and embedded models.

        `parents` has those of each node.
        """
        read = tables_read(name, nodes, parents)
        through = {name, *(node for node in read if shows_others(nodes[node]))} & self.known.keys()
        return {table for node in through for table in self.known[node].tables}

    def reads_of(self, environment: Environment) -> dict[str, msg.PromotedReads]:
        """As in `StateLocked`."""
        infos = {info.name: info for info in environment.snapshots}
        parents = upstream(infos)
        return {
            name: msg.PromotedReads(info.version, tuple(sorted(self.behind_views(name, infos, parents))))
            for name, info in infos.items()
            if self.knows(info) and is_incremental(info)
        }


@dataclass(frozen=True)
class KnownToDagster:
    """Ranges about which Dagster knows more than SQLMesh's state."""

    tables: ExternalTables  # the awaited tables, with the ranges that are not loaded
    # By model, computed ranges whose source was loaded afterwards.
    late: Mapping[str, Sequence[msg.Interval]] = field(default_factory=dict)
    # Finds the computed ranges of a model that a model upstream has got only afterwards. Its second argument finds what
    # a model upstream, by name, lacks and should have.
    read_early: Callable[[Snapshot, Callable[[str], Sequence[msg.Interval]]], ReadEarly] = lambda _, __: ReadEarly()
