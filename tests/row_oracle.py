"""What the rows of a small project should be, written from the user documentation alone.

It shares no code with the component, nor with its other models of SQLMesh, so that a rule that is wrong there is not
wrong here too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime

from row_projects import INCREMENTAL, SHOWN, RowModel, at, hour_of, hours

Key = tuple[datetime, int]


@dataclass(frozen=True)
class Row:
    """A row without its key.

    Attributes:
        loads: Which loads of sources it was computed from, with the sum of their values.
        is_bad: Whether an audit refuses it.
        batches: Which batches have computed it, and the rows that it was computed from.
        own: The batch of its own table; empty in a source or a view.
    """

    value: int
    loads: tuple[str, ...]
    is_bad: bool
    batches: frozenset[str] = frozenset()
    own: str = ""

    def is_like(self, other: Row | None) -> bool:
        return other is not None and (self.value, self.loads, self.is_bad) == (other.value, other.loads, other.is_bad)


Rows = dict[Key, Row]


@dataclass
class Warehouse:
    """What all tables contain after an action, and what SQLMesh's state has as computed.

    Attributes:
        tables: The rows of sources (`raw.s0`) and of models with a view in prod (`t.m0`).
        computed: The hours of the intervals of each model.
        fresh: The hours of the intervals that this action has computed.
    """

    models: Mapping[str, RowModel]
    first: date
    now: datetime
    tables: dict[str, Rows]
    computed: Mapping[str, frozenset[int]]
    fresh: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def read_by(self, model: RowModel) -> Rows:
        """The rows that its query returns now, without its range."""
        found: Rows = {}
        for table in model.reads:
            for key, row in self.rows(table).items():
                other = found.get(key)
                found[key] = row if other is None else added(row, other)
        return {key: replace(row, own="") for key, row in found.items()}

    def rows(self, table: str) -> Rows:
        model = self.models.get(table.removeprefix("t."))
        return self.read_by(model) if model and model.kind == "embedded" else self.tables[table]

    def start_of(self, model: RowModel) -> datetime:
        return at(model.start or self.first)

    def due(self, model: RowModel) -> frozenset[int]:
        return hours(self.start_of(model), max(model.due_until(self.now), self.start_of(model)))

    def expected(self, model: RowModel) -> Rows:
        """The rows that it should have, if the tables that it reads are right."""
        rows = self.read_by(model)
        if model.kind not in INCREMENTAL:
            return rows
        due = self.due(model)
        return {key: row for key, row in rows.items() if hour_of(key[0]) in due}

    def wrong(self, model: RowModel) -> dict[Key, str]:
        """The rows that differ from the expected ones, and how: `lacks`, `outdated` or `surplus`."""
        if model.kind == "embedded":
            return {}
        expected, found, due = self.expected(model), self.tables[f"t.{model.name}"], self.due(model)
        wrong = {}
        for key, row in expected.items():
            if not row.is_like(found.get(key)):
                wrong[key] = "outdated" if key in found else "lacks"
        if model.kind not in ("scd", "key"):  # these keep what their source has lost
            wrong |= {key: "surplus" for key in found.keys() - expected.keys() if is_within(model, key, due)}
        return wrong

    def tables_of(self, model: RowModel) -> set[str]:
        """The tables with rows of their own that it reads, also through views and embedded models."""
        found: set[str] = set()
        for table in model.reads:
            read = self.models.get(table.removeprefix("t."))
            found |= self.tables_of(read) if read and read.kind in SHOWN else {table}
        return found

    def lacking(self, table: str, wanted: Collection[int]) -> frozenset[int]:
        """Which of the hours the table of a model has not computed, although they are due."""
        model = self.models[table.removeprefix("t.")]
        return frozenset(wanted) & self.due(model) - self.computed[model.name]

    def upstream(self, model: RowModel) -> set[str]:
        """The names of all models upstream."""
        read = {table.removeprefix("t.") for table in model.reads} & self.models.keys()
        return read.union(*(self.upstream(self.models[name]) for name in read))


def is_within(model: RowModel, key: Key, due: Collection[int]) -> bool:
    return model.kind not in INCREMENTAL or hour_of(key[0]) in due


def added(row: Row, other: Row) -> Row:
    loads = tuple(sorted((*row.loads, *other.loads)))
    return Row(row.value + other.value, loads, row.is_bad or other.is_bad, row.batches | other.batches)
