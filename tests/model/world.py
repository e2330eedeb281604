"""A small world in plain Python: a source, models, their rows, and what SQLMesh's state says of them.

The decider is the real one. What SQLMesh does with an interval is a model of a page: a batch writes rows, the state
records it if its audits pass, and a batch that failed, was cancelled or killed leaves its rows and no record.

Each row remembers the load that it comes from, and whether it was accepted. `Story.faults` compares that with what the
pages of docs/ promise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dg_sqlmesh_component.protocol.intervals import merged
from dg_sqlmesh_component.protocol.messages import FOREVER, Interval, Sources
from dg_sqlmesh_component.worker.intervals.availability import Left, Node, brings_new, may_compute
from dg_sqlmesh_component.worker.intervals.missing import Expected

HOURS = (0, 1, 2)
"""All of them are over. They are one day."""
SOURCE = "source"

Kind = Literal["incremental", "whole", "view"]


@dataclass(frozen=True, order=True)
class Row:
    """The rows of an hour, as a table shows them.

    Attributes:
        load: The load of the source that they come from: the oldest one if there are several sources.
        is_refused: Whether a batch that was not accepted has written them, or what they were computed from.
    """

    load: int
    is_refused: bool = False


Rows = tuple[Row | None, ...]
"""By hour. None: there is no row."""


@dataclass(frozen=True, order=True)
class Table:
    """A table, and its record in SQLMesh's state.

    Attributes:
        rows: What it shows.
        computed: The hours that the state records.
        marked: The hours that are marked, because a batch of them was begun.
    """

    rows: Rows = (None,) * len(HOURS)
    computed: frozenset[int] = frozenset()
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Model:
    """A model of the project.

    Attributes:
        name: Its name.
        kind: How SQLMesh computes it.
        reads: The models that it reads, or the source.
        is_daily: Whether its interval is the whole day.
        is_audited: Whether it has a blocking audit, which the rows of a bad load fail.
        start: Its first hour.
    """

    name: str
    kind: Kind
    reads: tuple[str, ...] = (SOURCE,)
    is_daily: bool = False
    is_audited: bool = False
    start: int = 0

    @property
    def intervals(self) -> list[Interval]:
        return [(0, len(HOURS))] if self.is_daily else [(hour, hour + 1) for hour in HOURS[self.start :]]


@dataclass(frozen=True)
class World:
    """The source and the tables at an instant.

    Attributes:
        loads: By hour, how often the source was loaded.
        bad: The hours whose last load has rows that an audit refuses.
        tables: By model, in the order of the project.
    """

    loads: tuple[int, ...]
    bad: frozenset[int]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Load:
    """A load of an hour of the source."""

    hour: int
    is_bad: bool = False

    def __str__(self) -> str:
        return f"load hour {self.hour}{' with rows that the audit refuses' if self.is_bad else ''}"


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        models: The selected models, upstream models first.
        start: The first hour of the run config.
        killed_after: After how many batches it is killed, while it computes the next one. None: it ends.
        restates: Whether it computes only the hour `start` again, with all models downstream.
    """

    models: tuple[str, ...]
    start: int = 0
    killed_after: int | None = None
    restates: bool = False

    def __str__(self) -> str:
        if self.restates:
            return f"restate hour {self.start} of {', '.join(self.models)}"
        bound = f" from hour {self.start}" if self.start else ""
        end = "" if self.killed_after is None else f", killed in batch {self.killed_after + 1}"
        return f"run {', '.join(self.models)}{bound}{end}"


Action = Run | Load
Project = tuple[Model, ...]


def planned(project: Project) -> World:
    """Return the world after a plan that computes nothing. Nothing is loaded either."""
    return World((0,) * len(HOURS), frozenset(), tuple(Table() for _ in project))


class Story:
    """What one action does in a world."""

    def __init__(self, project: Project, world: World) -> None:
        self.project = {model.name: model for model in project}
        self.world = world
        self.tables = dict(zip(self.project, world.tables, strict=True))
        self.executed: dict[str, set[int]] = {name: set() for name in self.project}
        """By model, the hours that the run has computed."""

    def after(self, action: Action) -> World:
        """Return the world after the action."""
        if isinstance(action, Load):
            loads = tuple(count + (hour == action.hour) for hour, count in enumerate(self.world.loads))
            bad = self.world.bad | {action.hour} if action.is_bad else self.world.bad - {action.hour}
            return replace(self.world, loads=loads, bad=bad)
        self._run(self._restated(action) if action.restates else self.missing(action.models, action.start), action)
        return replace(self.world, tables=tuple(self.tables.values()))

    def missing(self, models: Iterable[str], start: int = 0) -> dict[str, list[Interval]]:
        """The intervals that a run requests."""
        return {
            name: [
                (first, last)
                for first, last in self.project[name].intervals
                if last > start and not self.tables[name].computed.issuperset(range(first, last))
            ]
            for name in models
        }

    def _restated(self, run: Run) -> dict[str, list[Interval]]:
        """Forget the restated hour, as a restatement does before its first batch, and return what it requests.

        recompute.md: it computes the models downstream too, and what models upstream lack of the range.
        """
        restated = [name for name in self.project if name in run.models or self.reads_any(name, run.models)]
        for name in restated:
            table = self.tables[name]
            forgotten = {
                "incremental": self._day_of(name, run),
                "whole": table.computed,
                "view": {max(table.computed, default=0)},  # one interval is enough to create it again
            }
            lost = table.computed & forgotten[self.project[name].kind]
            self.tables[name] = replace(table, computed=table.computed - lost, marked=table.marked | lost)
        names = [
            name for name in self.project if any(self.reads_any(of, [name]) for of in restated) or name in restated
        ]
        return {
            name: [
                interval
                for interval in missing
                if (name in restated and self.project[name].kind != "incremental")
                or self._day_of(name, run).issuperset(hours_of([interval]))
            ]
            for name, missing in self.missing(names).items()
        }

    def _day_of(self, name: str, run: Run) -> set[int]:
        """The hours of the model's interval that has the restated hour."""
        return {*hours_of(of for of in self.project[name].intervals if of[0] <= run.start < of[1])}

    def _run(self, requested: Mapping[str, Sequence[Interval]], run: Run) -> None:
        batches, failed = 0, set[str]()
        for name, left in self.possible(requested).items():
            if self.reads_any(name, failed):
                continue  # SQLMesh does not start it
            for batch in [[of] for of in left] if self.project[name].kind == "incremental" else [left]:
                is_killed = batches == run.killed_after
                batches += 1
                if not self._compute(name, batch, is_killed=is_killed):
                    failed.add(name)
                if is_killed:
                    return

    def decided(self, requested: Mapping[str, Sequence[Interval]]) -> dict[str, Left]:
        """Return what the worker decides about a run."""
        return may_compute(self._nodes(requested), self._awaited())

    def possible(self, requested: Mapping[str, Sequence[Interval]]) -> dict[str, list[Interval]]:
        """Return what is computed of the requested intervals."""
        nodes, decided = self._nodes(requested), self.decided(requested)
        left = {name: decided[name][0] if name in decided else list(of) for name, of in requested.items()}
        return {name: of for name, of in left.items() if of and brings_new(nodes[name], of)}

    def _nodes(self, requested: Mapping[str, Sequence[Interval]]) -> dict[str, Node]:
        return {name: self._node(model, requested.get(name)) for name, model in self.project.items()}

    def compute(self, intervals: Mapping[str, Sequence[Interval]]) -> None:
        """Compute these intervals of models, upstream models first."""
        for name, of_model in intervals.items():
            self._compute(name, of_model, is_killed=False)

    def reads_any(self, name: str, others: Iterable[str]) -> bool:
        reads = [of for of in self.project[name].reads if of in self.project]
        return any(of in others or self.reads_any(of, others) for of in reads)

    def _compute(self, name: str, intervals: Sequence[Interval], *, is_killed: bool) -> bool:
        """Compute a batch. Return whether it was accepted."""
        model, table, hours = self.project[name], self.tables[name], set(hours_of(intervals))
        shown = self._read(model)
        audited = HOURS if model.kind == "whole" else sorted(hours)
        accepted = not is_killed and not (model.is_audited and any(self._is_bad(hour, shown[hour]) for hour in audited))
        rows = list(table.rows)
        for hour in HOURS if model.kind == "whole" else hours if model.kind == "incremental" else ():
            row = shown[hour]
            rows[hour] = row and replace(row, is_refused=row.is_refused or not accepted)
        computed, marked = table.computed, table.marked | hours
        if accepted:
            computed, marked = computed | hours, marked - hours
            self.executed[name] |= hours
        self.tables[name] = Table(tuple(rows), computed, marked)
        return accepted

    def _is_bad(self, hour: int, row: Row | None) -> bool:
        return row is not None and hour in self.world.bad and row.load == self.world.loads[hour]

    def due(self, name: str) -> set[int]:
        """The hours that a query sees in a model or in the source, when everything is loaded and computed."""
        if name == SOURCE:
            return {*HOURS}
        model = self.project[name]
        read = set(HOURS).intersection(*map(self.due, model.reads))
        return read.intersection(hours_of(model.intervals)) if model.kind == "incremental" else read

    def shown(self, name: str) -> Rows:
        """Return what a query sees in a model or in the source."""
        if name == SOURCE:
            return tuple(Row(count) if count else None for count in self.world.loads)
        model = self.project[name]
        return self._read(model) if model.kind == "view" else self.tables[name].rows

    def _read(self, model: Model) -> Rows:
        """What a model's query returns: a join over the hours, so an hour that a table lacks is lacking."""
        found: list[Row | None] = []
        for rows in zip(*map(self.shown, model.reads), strict=True):
            known = [row for row in rows if row is not None]
            is_refused = any(row.is_refused for row in known)
            found.append(Row(min(row.load for row in known), is_refused) if len(known) == len(rows) else None)
        return tuple(found)

    def _awaited(self) -> Sources:
        missing = [(hour, hour + 1) for hour in HOURS if not self.world.loads[hour]]
        return {SOURCE: merged([*missing, (len(HOURS), FOREVER)])}

    def _node(self, model: Model, requested: Sequence[Interval] | None) -> Node:
        """The picture of a model, as the worker makes it from SQLMesh's snapshot."""
        table = self.tables[model.name]
        lacks = merged(self.missing([model.name])[model.name])
        return Node(
            model.name,
            [of for of in model.reads if of in self.project],
            depends_on_past=lambda: model.kind != "incremental",
            is_due=lambda: lacks,
            awaits={SOURCE} & set(model.reads),
            requested=requested,
            lacks=lacks,
            computed=intervals_of(table.computed),
            forgotten=intervals_of(table.marked - table.computed),
            shows_others=model.kind == "view",
            is_by_interval=model.kind == "incremental",
            starts_with_all=model.kind == "whole",
        )

    def expected(self, name: str) -> Expected:
        """The picture of a model for its check of intervals, as the worker makes it."""
        table, of_all = self.tables[name], self.missing(self.project)

        def waits_for_tables() -> set[Interval]:
            left, by = self.decided(of_all).get(name, (of_all[name], None))
            return set(of_all[name]).difference(left) if by else set()

        return Expected(
            until=len(HOURS),
            pending=of_all[name],
            waits_for_tables=waits_for_tables,
            due_at=lambda end: end,
            computed=intervals_of(table.computed),
            forgotten=intervals_of(table.marked - table.computed),
        )

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the rows that the run has reported as computed.

        - audits.md: a model does not run on rows that a blocking audit of a model upstream has refused.
        - wait.md: an interval is computed after its sources were loaded. A model that is computed as a whole waits for
          everything before the end of its interval, and does not read rows after a gap.
        """
        for name, hours in self.executed.items():
            model, rows = self.project[name], self.tables[name].rows
            if not hours or model.kind == "view":
                continue
            used = HOURS if model.kind == "whole" else sorted(hours)
            if any(row is not None and row.is_refused for row in (rows[hour] for hour in used)):
                yield f"{name} was computed from rows that were refused"
            if any(rows[hour] is None for hour in hours & self.due(name)):
                yield f"{name} was computed before what it reads"
            if model.kind == "whole" and any(map(self._has_gap, model.reads)):
                yield f"{name} was computed past a gap"

    def _has_gap(self, name: str) -> bool:
        """Whether an hour that is due has no rows, and a later one has."""
        shown = {hour for hour, row in zip(HOURS, self.shown(name), strict=True) if row}
        return any(hour < max(shown, default=0) for hour in self.due(name) - shown)


def hours_of(intervals: Iterable[Interval]) -> list[int]:
    return [hour for first, last in intervals for hour in range(first, last)]


def intervals_of(hours: Iterable[int]) -> tuple[Interval, ...]:
    return merged((hour, hour + 1) for hour in hours)
