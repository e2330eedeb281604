"""What a model's table has after its last batch: its columns, and its rows if they are to be counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlglot import exp
from sqlmesh.core.engine_adapter import EngineAdapter
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotEvaluator

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import unquoted
from dg_sqlmesh_component.worker.environment import has_table
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sql_text import column_types

_T = TypeVar("_T")


@dataclass(frozen=True)
class ComputedTables:
    """Sends what the table of a computed model has. Pool threads call it."""

    pipe: Pipe
    evaluator: SnapshotEvaluator
    index: DeployabilityIndex
    counts_rows: Callable[[Snapshot], bool] = lambda _: False  # whether to count the rows of a model

    def report(self, snapshot: Snapshot) -> None:
        """Send the columns of the version that was computed, and the rows of its table."""
        if not has_table(snapshot):
            return
        columns = snapshot.model.columns_to_types
        if columns is None:  # SQLMesh does not know what `SELECT *` reads
            columns = self._ask(snapshot, lambda adapter, table: adapter.columns(table))
        self.pipe.send(msg.TableComputed(snapshot.name, self.count(snapshot), column_types(snapshot.model, columns)))

    def count(self, snapshot: Snapshot) -> int | None:
        """The rows of the table of a model; None unless they are to be counted."""
        return self._ask(snapshot, _count) if self.counts_rows(snapshot) else None

    def _ask(self, snapshot: Snapshot, question: Callable[[EngineAdapter, exp.Table], _T]) -> _T | None:
        table = exp.to_table(snapshot.table_name(is_deployable=self.index.is_representative(snapshot)))
        try:
            return question(self.evaluator.get_adapter(snapshot.model_gateway), table)
        except Exception as error:  # noqa: BLE001  # any driver's: a model that was executed does not fail for this
            text = f"The table of {unquoted(snapshot.name)} could not be described: {describe_error(error)}"
            self.pipe.log("warning", text)
            return None


def _count(adapter: EngineAdapter, table: exp.Table) -> int:
    """The rows of a physical table. The catalog of its view may not be attached."""
    [(rows,)] = adapter.fetchall(exp.select(exp.Count(this=exp.Star())).from_(table), quote_identifiers=True)
    return int(rows)
