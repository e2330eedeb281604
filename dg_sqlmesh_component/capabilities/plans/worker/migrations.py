"""The tables that a plan alters in place, and what they lose.

SQLMesh compares the definitions of models whose files have changed. It alters tables of other models too, after it has
begun to promote (SQLMesh#5719). A table may also have columns that no definition has: of a model that ignored
destructive changes, or altered by somebody. So the tables themselves are compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from sqlglot import exp
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers
from sqlmesh.core.context import Context
from sqlmesh.core.context_diff import ContextDiff
from sqlmesh.core.engine_adapter import EngineAdapter
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import Snapshot
from sqlmesh.core.state_sync import StateReader

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.worker.column_changes import Columns, column_change, is_known
from dg_sqlmesh_component.capabilities.plans.worker.data_objects import data_objects
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError
from dg_sqlmesh_component.protocol.graph import parents_first
from dg_sqlmesh_component.worker.environment import has_one_table
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.intervals.tables import upstream


@dataclass(frozen=True)
class Alterations:
    """What SQLMesh changes of an existing table, as in `PlannedModel`."""

    drops: tuple[msg.ColumnChange, ...] = ()
    refused: tuple[str, ...] = ()


def alterations(plan: Plan, diff: ContextDiff, context: Context) -> dict[str, Alterations]:
    """What SQLMesh drops from existing tables, or cannot change, by fqn of the model.

    Args:
        diff: The changes since a plan has finished last.

    Raises:
        EnvironmentNotReadyError: The columns of a table cannot be read.
    """
    if plan.is_dev:  # other environments show a preview of a forward-only change, in a table of its own
        return {}
    migrated = [s for s in migrated_snapshots(diff.snapshots_by_name) if s.is_materialized]
    old = {name: old for name, (_, old) in diff.modified_snapshots.items()}
    found = {t.snapshot.name: t.alterations(old.get(t.snapshot.name)) for t in existing_tables(migrated, context)}
    # In this mode, SQLMesh inserts the rows of a changed seed before it adds columns to the table, and fails.
    seeds = [new for new, _ in diff.modified_snapshots.values() if new.is_seed and has_one_table(new, is_dev=False)]
    found |= {t.snapshot.name: Alterations(refused=t.lacking()) for t in existing_tables(seeds, context)}
    return {name: of_table for name, of_table in found.items() if of_table != Alterations()}


def migrated_snapshots(snapshots: Mapping[str, Snapshot]) -> list[Snapshot]:
    """The versions whose tables SQLMesh alters, and whose views it replaces, when it promotes them in prod.

    These are versions that keep a table or view, and the versions upstream of them that prod does not show yet.
    """
    altered = [name for name, snapshot in snapshots.items() if snapshot.requires_schema_migration_in_prod]
    parents = upstream(snapshots)
    found = [snapshots[name] for name in parents_first(altered, parents.__getitem__)]
    return [s for s in found if s.supports_schema_migration_in_prod and s.version]


@dataclass(frozen=True)
class ExistingTable:
    """An existing table of a version."""

    snapshot: Snapshot
    name: exp.Table
    adapter: EngineAdapter
    state: StateReader

    def alterations(self, old: Snapshot | None) -> Alterations:
        """What SQLMesh drops from the table, or may not change. The environment shows the `old` version."""
        model = self.snapshot.model
        before = self._named(self._columns())
        after = self._columns_after(before, old)
        if not after:
            return Alterations()
        promoted = self._named(old.model.columns_to_types or {}) if old is not None and old.is_model else {}
        operations = self.adapter.schema_differ.compare_columns(
            self.name,
            dict(before),
            dict(after),
            ignore_destructive=model.on_destructive_change.is_ignore,
            ignore_additive=model.on_additive_change.is_ignore,
        )
        dropped = dict.fromkeys(operation.column.name for operation in operations if operation.is_destructive)
        added = dict.fromkeys(operation.column.name for operation in operations if operation.is_additive)
        return Alterations(
            tuple(column_change(name, promoted, after, self.adapter.dialect) for name in dropped),
            tuple(added) if model.on_additive_change.is_error or model.is_seed else (),
        )

    def lacking(self) -> tuple[str, ...]:
        """The columns of the version that the table does not have."""
        has = self._named(self._columns())
        return tuple(name for name in self._named(self.snapshot.model.columns_to_types or {}) if name not in has)

    def lost(self, new: Snapshot) -> list[str]:
        """The columns whose values the table has lost, if a plan has altered it for a `new` version of the model."""
        now, after = self._named(self._columns()), self._named(new.model.columns_to_types or {})
        return [
            name
            for name, type_ in self._named(self.snapshot.model.columns_to_types or {}).items()
            if name not in now or self._is_retyped(name, type_, after.get(name, type_), now[name])
        ]

    def _is_retyped(self, name: str, before: exp.DataType, after: exp.DataType, now: exp.DataType) -> bool:
        """Whether SQLMesh has dropped the column and added it again, because it could not change its type."""
        if before == after or not is_known(before):
            return False
        was, compare = {name: self._engines_type(before)}, self.adapter.schema_differ.compare_columns
        return any(operation.is_destructive for operation in compare(self.name, was, {name: now}))

    def added(self, new: Snapshot) -> list[str]:
        """The columns that the table has for the `new` version alone."""
        before, after = self._named(self.snapshot.model.columns_to_types or {}), new.model.columns_to_types or {}
        return [name for name in self._named(self._columns()) if name not in before and name in self._named(after)]

    def _columns(self) -> Columns:
        try:
            return self.adapter.columns(self.name)
        except Exception as error:  # any driver's
            raise EnvironmentNotReadyError(
                f"The plan alters the table {self.name.sql(self.adapter.dialect)} of {self.snapshot.node.name}, and "
                f"its columns cannot be read: {describe_error(error)}. Allow the user of the SQLMesh connection to "
                "read and alter this table."
            ) from error

    def _columns_after(self, before: Columns, old: Snapshot | None) -> Columns:
        """The columns that SQLMesh gives to the table; empty if not even their names are known.

        A type is compared only if it may change, because engines have names of their own for types, and only if
        SQLMesh knows it before it computes the model.
        """
        after = self._named(self.snapshot.model.columns_to_types or {})
        kept = self._types_of(old) if old is not None and old.version == self.snapshot.version else {}

        def type_after(name: str, data_type: exp.DataType) -> exp.DataType:
            if not is_known(data_type):
                return before.get(name, data_type)
            is_kept = name in before and kept.get(name) == data_type
            return before[name] if is_kept else self._engines_type(data_type)

        return {name: type_after(name, data_type) for name, data_type in after.items()}

    def _types_of(self, old: Snapshot) -> Columns:
        """The types of the table's columns, as the promoted definition calls them.

        If that definition ignores destructive changes, the table may have a type of an earlier version. Then only types
        are returned that no version of the table has changed.
        """
        types = self._named(old.model.columns_to_types or {})
        if not old.model.on_destructive_change.is_ignore:
            return types
        of_table = [
            version.snapshot_id(old.name) for version in old.previous_versions if version.version == old.version
        ]
        earlier = self.state.get_snapshots(of_table).values()
        if len(earlier) < len(of_table):  # SQLMesh's janitor has deleted some
            return {}
        for snapshot in earlier:
            columns = self._named(snapshot.model.columns_to_types or {})
            types = {name: data_type for name, data_type in types.items() if columns.get(name, data_type) == data_type}
        return types

    def _engines_type(self, data_type: exp.DataType) -> exp.DataType:
        """A type as the engine's dialect reads it: INT64 of a model in BigQuery's dialect is BIGINT in DuckDB."""
        dialect = self.adapter.dialect
        return exp.DataType.build(data_type.sql(dialect), dialect=dialect, udt=True)

    def _named(self, columns: Columns) -> Columns:
        """The columns by name, in lower case if the engine ignores case also for quoted names."""
        return {
            normalize_identifiers(
                exp.to_identifier(name, quoted=True), dialect=self.adapter.dialect
            ).name: data_type.copy()
            for name, data_type in columns.items()  # the differ changes the types of nested columns
        }


def existing_tables(snapshots: Collection[Snapshot], context: Context) -> Iterator[ExistingTable]:
    """The tables of these versions that exist."""
    named = {(snapshot.model_gateway, exp.to_table(snapshot.table_name())): snapshot for snapshot in snapshots}
    for (gateway, name), found in data_objects(named, context):
        if found.type.is_table:
            adapter = context.snapshot_evaluator.get_adapter(gateway)
            yield ExistingTable(named[gateway, name], name, adapter, context.state_reader)
