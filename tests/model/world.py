"""A small world in plain Python: a source, models, their rows, and what SQLMesh's state says of them.

The deciders are the real ones. What SQLMesh does with an interval is a model of a page: a batch writes rows, the state
records it if its audits pass, and a batch that failed, was cancelled or killed leaves its rows and no record.

Each row remembers the load that it comes from, and whether it was accepted. `Story.faults` compares that with what the
pages of docs/ promise, and `outcomes.py` what the real ledger and checks make of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

from dg_sqlmesh_component.protocol.intervals import merged, ready_by_signals, subtract, without
from dg_sqlmesh_component.protocol.messages import FOREVER, HeldBack, Interval, Sources
from dg_sqlmesh_component.worker.intervals.availability import Left, Node, brings_new, may_compute, tables_read
from dg_sqlmesh_component.worker.intervals.causes import Waiting, held_back
from dg_sqlmesh_component.worker.intervals.missing import Expected

HOURS = (0, 1, 2)
"""They are one day."""
SOURCE = "source"

Stop = Literal["cancelled before batch", "killed before the rows of batch", "killed after the rows of batch"]
"""A batch that was begun is marked. Its rows are there before SQLMesh records it."""

Kind = Literal["incremental", "by_key", "whole", "history", "view"]
"""INCREMENTAL_BY_TIME_RANGE, INCREMENTAL_BY_UNIQUE_KEY, FULL, SCD_TYPE_2, VIEW."""


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

    @property
    def forgotten(self) -> frozenset[int]:
        return self.marked - self.computed


@dataclass(frozen=True)
class Model:
    """A model of the project.

    Attributes:
        name: Its name.
        kind: How SQLMesh computes it.
        reads: The models that it reads, or the source.
        is_daily: Whether its interval is the whole day.
        is_audited: Whether it has an audit, which the rows of a bad load fail.
        blocks: Whether that audit is blocking.
        start: Its first hour.
        lookback: How many hours SQLMesh computes again with each.
        has_signal: Whether it waits for a signal, for each hour.
        cron: After how many hours its cron ticks.
        allows_partials: Whether its cron also ticks each hour of a day that is not over, and computes that much of it.
    """

    name: str
    kind: Kind
    reads: tuple[str, ...] = (SOURCE,)
    is_daily: bool = False
    is_audited: bool = False
    blocks: bool = True
    start: int = 0
    lookback: int = 0
    has_signal: bool = False
    cron: int = 1
    allows_partials: bool = False

    @property
    def intervals(self) -> list[Interval]:
        return [(0, len(HOURS))] if self.is_daily else [(hour, hour + 1) for hour in HOURS[self.start :]]

    @property
    def is_by_interval(self) -> bool:
        return self.kind in ("incremental", "by_key")

    @property
    def is_whole(self) -> bool:
        return self.kind in ("whole", "history")

    @property
    def depends_on_past(self) -> bool:
        """As SQLMesh says it of a model that it restates only as a whole."""
        return self.kind != "incremental"

    def ticked(self, now: int) -> int:
        """The last tick of its cron."""
        every = len(HOURS) if self.is_daily and not self.allows_partials else self.cron
        return now // every * every

    def complete(self, now: int) -> int:
        """The end of the last interval that is over, and whose cron has ticked."""
        return self.ticked(now) // len(HOURS) * len(HOURS) if self.is_daily else self.ticked(now)

    def intervals_until(self, now: int) -> list[Interval]:
        """Its intervals that are over, and what it may compute of one that is not."""
        if self.allows_partials:
            return [(first, min(last, now)) for first, last in self.intervals if first < now]
        return [of for of in self.intervals if of[1] <= now]


@dataclass(frozen=True)
class World:
    """The source and the tables at an instant.

    Attributes:
        loads: By hour, how often the source was loaded.
        bad: The loads with rows that an audit refuses: hour and number.
        tables: By model, in the order of the project.
        closed: The hours for which signals are not ready.
        now: How many hours are over.
    """

    loads: tuple[int, ...]
    bad: frozenset[tuple[int, int]]
    tables: tuple[Table, ...]
    closed: frozenset[int] = frozenset()
    now: int = len(HOURS)


@dataclass(frozen=True)
class Load:
    """A load of an hour of the source."""

    hour: int
    is_bad: bool = False

    def __str__(self) -> str:
        return f"load hour {self.hour}{' with rows that the audit refuses' if self.is_bad else ''}"


@dataclass(frozen=True)
class Signal:
    """The signals open or close for an hour."""

    hour: int
    opens: bool = True

    def __str__(self) -> str:
        return f"signals {'open' if self.opens else 'close'} for hour {self.hour}"


@dataclass(frozen=True)
class Hour:
    """An hour passes."""

    def __str__(self) -> str:
        return "an hour passes"


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        models: The selected models, upstream models first.
        start: The first hour of the run config.
        restates: Whether it computes only the hour `start` again, with all models downstream.
        stops: How it ends before its last batch, or None.
        batches: After how many batches.
    """

    models: tuple[str, ...]
    start: int = 0
    restates: bool = False
    stops: Stop | None = None
    batches: int = 0

    def __str__(self) -> str:
        end = f", {self.stops} {self.batches + 1}" if self.stops else ""
        if self.restates:
            return f"restate hour {self.start} of {', '.join(self.models)}{end}"
        bound = f" from hour {self.start}" if self.start else ""
        return f"run {', '.join(self.models)}{bound}{end}"


Action = Run | Load | Signal | Hour
Project = tuple[Model, ...]


def planned(project: Project) -> World:
    """Return the world after a plan that computes nothing. Nothing is loaded either.

    If a model has a cron of several hours, or computes parts of a day, the last hour is not over. Signals are closed.
    """
    has_signals = any(model.has_signal for model in project)
    now = len(HOURS) - any(model.cron > 1 or model.allows_partials for model in project)
    closed = frozenset(HOURS) if has_signals else frozenset[int]()
    return World((0,) * len(HOURS), frozenset(), tuple(Table() for _ in project), closed, now)


class Batch(NamedTuple):
    """A batch that has ended: of which model, whether it was accepted, and whether rows have failed the audit."""

    model: str
    interval: Interval
    is_accepted: bool
    fails: bool


@dataclass
class Executed:
    """What a run has done.

    Attributes:
        requested: The intervals that SQLMesh has found, of all models of the run.
        batches: The planned batches. None of a model: all of its intervals wait.
        held_back: Why intervals wait.
        unready: The intervals that signals hold back.
        ended: The batches that have ended, in order.
        blocked: The models that SQLMesh has not started, with the failed models upstream.
        stopped: How it has ended before its last batch. If it was killed, then in the last batch of `ended`.
    """

    requested: Mapping[str, Sequence[Interval]]
    batches: Mapping[str, Sequence[Interval]]
    held_back: Mapping[str, HeldBack]
    unready: Mapping[str, Set[Interval]]
    ended: list[Batch] = field(default_factory=list)
    blocked: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stopped: Stop | None = None


_PLANS: dict[object, dict[object, Executed]] = {}
"""By deciders, for tests that replace one."""


class Story:
    """What one action does in a world."""

    def __init__(self, project: Project, world: World) -> None:
        self.project = {model.name: model for model in project}
        self.world = world
        self.tables = dict(zip(self.project, world.tables, strict=True))
        self.executed: Executed | None = None
        self.computed: dict[str, set[int]] = {name: set() for name in self.project}
        """By model, the hours that a run or a plan has computed."""

    def after(self, action: Action) -> World:
        """Return the world after the action."""
        match action:
            case Load():
                loads = tuple(count + (hour == action.hour) for hour, count in enumerate(self.world.loads))
                bad = {(action.hour, loads[action.hour])} if action.is_bad else set()
                return replace(self.world, loads=loads, bad=self._bad_still(loads) | bad)
            case Signal():
                closed = self.world.closed - {action.hour} if action.opens else self.world.closed | {action.hour}
                return replace(self.world, closed=closed)
            case Hour():
                return replace(self.world, now=self.world.now + 1)
        self._run(self._restated(action) if action.restates else self.missing(action.models, action.start), action)
        return replace(self.world, tables=tuple(self.tables.values()), bad=self._bad_still(self.world.loads))

    def _bad_still(self, loads: tuple[int, ...]) -> frozenset[tuple[int, int]]:
        """The bad loads that a query may still find."""
        rows = [row.load for table in self.tables.values() for row in table.rows if row]
        return frozenset((hour, load) for hour, load in self.world.bad if load in (loads[hour], *rows))

    @property
    def facts(self) -> object:
        """What deciders look at. Worlds may differ in their rows alone."""
        tables = tuple((table.computed, table.forgotten) for table in self.tables.values())
        return tables, tuple(map(bool, self.world.loads)), self.world.closed, self.world.now

    # -- what SQLMesh finds ---------------------------------------------------------------------------

    def missing(self, models: Iterable[str], start: int = 0, *, ignore_cron: bool = False) -> dict[str, list[Interval]]:
        """The intervals that a run requests: those that SQLMesh finds, and those that a run has forgotten."""
        return {name: self._missing(self.project[name], start, ignore_cron=ignore_cron) for name in models}

    def _missing(self, model: Model, start: int, *, ignore_cron: bool) -> list[Interval]:
        table, now = self.tables[model.name], self.world.now
        end = now if ignore_cron else model.ticked(now)
        over = model.intervals_until(now)
        due = [of for of in over if of[1] <= end]
        has = [(table.computed | table.forgotten).issuperset(range(*of)) for of in due]
        # Each with the next ones: a `lookback` computes those before a new one again.
        found = {of for n, of in enumerate(due) if not all(has[n : n + model.lookback + 1])}
        found |= {of for of in over if not table.forgotten.isdisjoint(range(*of))}
        return [of for of in over if of in found and of[1] > start]

    def _restated(self, run: Run) -> dict[str, list[Interval]]:
        """Forget the restated hour, as a restatement does before its first batch, and return what it requests.

        recompute.md: it computes the models downstream too, and what models upstream lack of the range.
        """
        ranges = self._restated_hours(run)
        for name, hours in ranges.items():
            table = self.tables[name]
            lost = table.computed & hours
            if self.project[name].kind == "view" and lost:  # one interval is enough to create it again
                lost = frozenset({max(lost)})
            self.tables[name] = replace(table, computed=table.computed - lost, marked=table.marked | lost)
        names = [name for name in self.project if name in ranges or any(self.reads_any(of, [name]) for of in ranges)]
        return {
            name: [
                interval
                for interval in missing
                if (name in ranges and self.project[name].kind != "incremental")
                or (ranges.get(name) or self._day_of(name, run)).issuperset(hours_of([interval]))
            ]
            for name, missing in self.missing(names).items()
        }

    def _restated_hours(self, run: Run) -> dict[str, set[int]]:
        """The hours that SQLMesh restates of each model.

        It extends the range of a model that it restates only as a whole, and hands that on to models downstream if the
        model is incremental.
        """
        ranges: dict[str, set[int]] = {}
        for name, model in self.project.items():
            if model.kind == "history" or not (name in run.models or self.reads_any(name, run.models)):
                continue
            hours, computed = self._day_of(name, run), self.tables[name].computed
            if model.kind != "incremental" and computed:
                hours |= {*range(min(computed), max(hours) + 1)}
            for of in model.reads:
                hours |= ranges.get(of, set()) if of != SOURCE and self.project[of].is_by_interval else set()
            ranges[name] = {*hours_of(of for of in model.intervals if hours.intersection(range(*of)))}
        return ranges

    def _day_of(self, name: str, run: Run) -> set[int]:
        """The hours of the model's interval that has the restated hour."""
        return {*hours_of(of for of in self.project[name].intervals if of[0] <= run.start < of[1])}

    # -- what a run does ------------------------------------------------------------------------------

    def _run(self, requested: Mapping[str, Sequence[Interval]], run: Run) -> None:
        is_bounded = bool(run.start or run.restates)
        self.executed = executed = self._planned(requested, {*requested, *run.models}, is_bounded=is_bounded)
        failed = set[str]()
        for name, batches in executed.batches.items():
            upstream = tuple(sorted(of for of in failed if self.reads_any(name, [of])))
            if batches and upstream:
                executed.blocked[name] = upstream  # SQLMesh does not start it
                continue
            again = self.tables[name].computed & {*hours_of(batches)}
            for number, batch in enumerate(batches):
                stop = run.stops if len(executed.ended) == run.batches else None
                executed.stopped = stop
                if stop == "cancelled before batch":
                    return
                if number == 0:  # a `lookback` forgets what it computes again
                    table = self.tables[name]
                    self.tables[name] = replace(table, computed=table.computed - again, marked=table.marked | again)
                ended = self._compute(name, batch, stop)
                executed.ended.append(ended)
                if stop:
                    return
                if not ended.is_accepted:
                    failed.add(name)
                    if self.project[name].depends_on_past:
                        break

    @cached_property
    def plan_of_all(self) -> Executed:
        """What a run of all models would plan."""
        return self._planned(self.missing(self.project), {*self.project})

    def plan(self, selected: Iterable[str], start: int) -> Executed:
        """What a run of these models would plan."""
        return self._planned(self.missing(selected, start), {*selected}, is_bounded=bool(start))

    def possible(self, requested: Mapping[str, Sequence[Interval]]) -> dict[str, list[Interval]]:
        """Return what is computed of the requested intervals."""
        batches = self._planned(requested, {*requested}).batches
        return {name: [*self._single(name, of)] for name, of in batches.items() if of}

    def _planned(
        self, requested: Mapping[str, Sequence[Interval]], selected: Set[str], *, is_bounded: bool = False
    ) -> Executed:
        """As the worker plans a run. Many worlds differ in nothing that it looks at, so each plan is made once."""
        asked = tuple((name, tuple(of)) for name, of in requested.items())
        key = (*self.project.values(), self.facts, asked, frozenset(selected), is_bounded)
        plans = _PLANS.setdefault((may_compute, ready_by_signals, held_back), {})
        if key not in plans:
            plans[key] = self._plan(requested, selected, is_bounded=is_bounded)
        return replace(plans[key], ended=[], blocked={})

    def _plan(self, requested: Mapping[str, Sequence[Interval]], selected: Set[str], *, is_bounded: bool) -> Executed:
        """What is held back, then the signals."""
        found = {name: of for name, of in requested.items() if of}
        nodes, decided = self._nodes(found), self.decided(found)
        left = {name: decided[name][0] if name in decided else list(of) for name, of in found.items()}
        left = {name: of if brings_new(nodes[name], of) else [] for name, of in left.items()}
        unready, closed = dict[str, Set[Interval]](), dict[str, list[str]]()
        if self.world.closed:
            left = self._signalled(left, nodes, unready, closed)
            left = {name: of if brings_new(nodes[name], of) else [] for name, of in left.items()}

        def if_all() -> dict[str, Left]:
            of_all = self.decided({name: of for name, of in self.missing(self.project).items() if of})
            return {name: (list(subtract(of, found.get(name, ()))), by) for name, (of, by) in of_all.items()}

        by = {name: by for name, (_, by) in decided.items() if by}
        waiting = Waiting(nodes, by, if_all, selected, frozenset(), is_bounded, unready, closed)
        why = {name: held_back(name, waiting) for name in found}
        return Executed(requested, {name: self._batches(name, of) for name, of in left.items()}, why, unready)

    def _signalled(
        self,
        left: Mapping[str, list[Interval]],
        nodes: Mapping[str, Node],
        unready: dict[str, Set[Interval]],
        closed: dict[str, list[str]],
    ) -> dict[str, list[Interval]]:
        """As SQLMesh asks signals and batches what they leave."""
        found, lacking_by = dict[str, list[Interval]](), dict[str, Set[Interval]]()
        for name, intervals in left.items():
            model, parents = self.project[name], self.project[name].reads
            ready = intervals
            if model.has_signal:
                ready = [of for of in intervals if self.world.closed.isdisjoint(range(*of))]
                closed |= {} if ready == intervals else {name: ["signal"]}
            ready, unready[name] = ready_by_signals(
                intervals,
                ready,
                [unready.get(of, frozenset()) for of in tables_read(name, nodes)],
                depends_on_past=lambda model=model: model.depends_on_past,  # type: ignore[misc]
                drops_rows=nodes[name].drops_rows,
            )
            own = set(intervals).difference(ready)
            lacking_by[name] = own.union(*(lacking_by.get(of, ()) for of in parents))
            found[name] = without(ready, merged(lacking_by[name]), uninterrupted=model.depends_on_past)
        return found

    def _batches(self, name: str, intervals: Sequence[Interval]) -> list[Interval]:
        return [*intervals] if self.project[name].is_by_interval else [*merged(intervals)]

    def _single(self, name: str, intervals: Iterable[Interval]) -> Iterator[Interval]:
        hours = {*hours_of(intervals)}
        return (of for of in self.project[name].intervals_until(self.world.now) if hours.issuperset(range(*of)))

    def decided(self, requested: Mapping[str, Sequence[Interval]], *, lack_no_others: bool = False) -> dict[str, Left]:
        """Return what the worker decides about a run. `lack_no_others`: as if no model lacked other intervals."""
        nodes = self._nodes(requested)
        if lack_no_others:
            nodes = {name: replace(node, lacks=requested.get(name, ())) for name, node in nodes.items()}
        return may_compute(nodes, self._awaited)

    def _nodes(self, requested: Mapping[str, Sequence[Interval]]) -> dict[str, Node]:
        return {name: self._node(model, requested.get(name) or None) for name, model in self.project.items()}

    def compute(self, intervals: Mapping[str, Sequence[Interval]]) -> None:
        """Compute these intervals of models, upstream models first."""
        for name, of_model in intervals.items():
            for batch in self._batches(name, of_model):
                self._compute(name, batch)

    def reads_any(self, name: str, others: Iterable[str]) -> bool:
        reads = [of for of in self.project[name].reads if of in self.project]
        return any(of in others or self.reads_any(of, others) for of in reads)

    def _compute(self, name: str, batch: Interval, stop: Stop | None = None) -> Batch:
        """Compute a batch."""
        model, table, hours = self.project[name], self.tables[name], {*range(*batch)}
        # SQLMesh records, and we mark, no interval that is not over.
        recorded = hours.intersection(range(model.complete(self.world.now))) if model.allows_partials else hours
        if stop == "killed before the rows of batch":
            self.tables[name] = replace(table, marked=table.marked | recorded)
            return Batch(name, batch, False, False)
        shown, written = self.read(model), {"view": set[int](), "incremental": hours, "by_key": hours}
        rows = list(table.rows)
        if model.kind in ("by_key", "history") and not table.computed:  # the first batch replaces all rows
            rows = [None] * len(HOURS)
        for hour in written.get(model.kind, HOURS):
            rows[hour] = shown[hour] or (rows[hour] if model.kind == "history" else None)
        audited = sorted(hours) if model.kind == "incremental" else HOURS
        looked_at = shown if model.kind == "view" else rows
        fails = model.is_audited and any(self.is_bad(hour, looked_at[hour]) for hour in audited)
        if stop or (fails and model.blocks):
            for hour in written.get(model.kind, HOURS):
                rows[hour] = (row := rows[hour]) and replace(row, is_refused=True)
            self.tables[name] = Table(tuple(rows), table.computed, table.marked | recorded)
            return Batch(name, batch, False, fails)
        self.tables[name] = Table(tuple(rows), table.computed | recorded, table.marked - recorded)
        self.computed[name] |= hours
        return Batch(name, batch, True, fails)

    def is_bad(self, hour: int, row: Row | None) -> bool:
        return row is not None and (hour, row.load) in self.world.bad

    # -- what a query sees ----------------------------------------------------------------------------

    def due(self, name: str) -> set[int]:
        """The hours that a query sees in a model or in the source, when everything is loaded and computed.

        As in SQLMesh, a model does not wait for a slower cron of another: it sees what that one has at its last tick.
        """
        if name == SOURCE:
            return {*HOURS}
        model = self.project[name]
        read = set(HOURS).intersection(*map(self.due, model.reads))
        if model.kind == "view":
            return read
        ticked = read.intersection(range(model.ticked(self.world.now)))
        return ticked.intersection(hours_of(model.intervals)) if model.is_by_interval else ticked

    def shown(self, name: str) -> Rows:
        """Return what a query sees in a model or in the source."""
        if name == SOURCE:
            return tuple(Row(count) if count else None for count in self.world.loads)
        model = self.project[name]
        return self.read(model) if model.kind == "view" else self.tables[name].rows

    def read(self, model: Model) -> Rows:
        """What a model's query returns: a join over the hours, so an hour that a table lacks is lacking."""
        found: list[Row | None] = []
        for rows in zip(*map(self.shown, model.reads), strict=True):
            known = [row for row in rows if row is not None]
            is_refused = any(row.is_refused for row in known)
            found.append(Row(min(row.load for row in known), is_refused) if len(known) == len(rows) else None)
        return tuple(found)

    # -- pictures, as the worker makes them from SQLMesh's snapshots --------------------------------------

    @property
    def _awaited(self) -> Sources:
        missing = [(hour, hour + 1) for hour in HOURS if not self.world.loads[hour]]
        return {SOURCE: merged([*missing, (len(HOURS), FOREVER)])}

    def _node(self, model: Model, requested: Sequence[Interval] | None) -> Node:
        table = self.tables[model.name]
        computed = intervals_of(table.computed)
        lacks = self._missing(model, 0, ignore_cron=False)
        return Node(
            model.name,
            [of for of in model.reads if of in self.project],
            depends_on_past=lambda: model.depends_on_past,
            is_due=lambda: subtract(lacks, computed),
            awaits={SOURCE} & set(model.reads),
            requested=requested,
            lacks=merged(lacks),
            computed=computed,
            forgotten=intervals_of(table.forgotten),
            shows_others=model.kind == "view",
            is_by_interval=model.is_by_interval,
            starts_with_all=model.kind not in ("incremental", "view"),
            lookback=model.lookback,
            signals=("signal",) if model.has_signal else (),
        )

    def expected(self, name: str, unready: Set[Interval] = frozenset()) -> Expected:
        """The picture of a model for its check of intervals.

        Args:
            unready: What signals have held back in the last run.
        """
        all_pending = self.missing(self.project, ignore_cron=True)

        def picture(name: str) -> Expected:
            table, model = self.tables[name], self.project[name]
            return Expected(
                until=model.complete(self.world.now),
                pending=all_pending[name],
                waits_for_tables=frozenset,
                due_at=lambda end: -(-end // model.cron) * model.cron,
                computed=intervals_of(table.computed),
                forgotten=intervals_of(table.forgotten),
            )

        def waits_for_tables() -> set[Interval]:
            due = {of: picture(of).due(pending) for of, pending in all_pending.items()}
            decided = self.decided({of: pending for of, pending in due.items() if pending}, lack_no_others=True)
            left, by = decided.get(name, (all_pending[name], None))
            return set(all_pending[name]).difference(left) if by else set()

        return replace(picture(name), waits_for_tables=waits_for_tables, unready=unready)

    # -- what is wrong ----------------------------------------------------------------------------------

    def faults(self) -> Iterator[str]:
        """Yield what is wrong with the rows that the run has reported as computed.

        - audits.md: a model does not run on rows that a blocking audit of a model upstream has refused.
        - wait.md: an interval is computed after its sources were loaded. A model that is computed as a whole waits for
          everything before the end of its interval, and does not read rows after a gap.
        """
        if self.executed is None:
            return
        failed = {batch.model for batch in self.executed.ended if not batch.is_accepted}
        for name, model in self.project.items():
            hours, rows = self.computed[name], self.tables[name].rows
            # A later batch of a whole table that failed has replaced the rows of those before. The run says so.
            if not hours or model.kind == "view" or (model.is_whole and name in failed):
                continue
            used = HOURS if model.is_whole else sorted(hours)
            if any(row is not None and row.is_refused for row in (rows[hour] for hour in used)):
                yield f"{name} was computed from rows that were refused"
            if any(rows[hour] is None for hour in hours & self.due(name)):
                yield f"{name} was computed before what it reads"
            if {*used} & {hour for of in self._tables_read(name) for hour in self.tables[of].forgotten}:
                yield f"{name} was computed from rows that have to be computed again"
            if model.is_whole and any(map(self._has_gap, model.reads)):
                yield f"{name} was computed past a gap"
            if any(rows[hour] is None and hour not in hours for hour in self.tables[name].computed & self.due(name)):
                yield f"{name} has lost rows of hours that SQLMesh counts as computed"

    def _tables_read(self, name: str) -> Iterator[str]:
        for of in self.project[name].reads:
            if of != SOURCE:
                yield from self._tables_read(of) if self.project[of].kind == "view" else [of]

    def _has_gap(self, name: str) -> bool:
        """Whether an hour that is due has no rows, and a later one has."""
        shown = {hour for hour, row in zip(HOURS, self.shown(name), strict=True) if row}
        return any(hour < max(shown, default=0) for hour in self.due(name) - shown)


def hours_of(intervals: Iterable[Interval]) -> list[int]:
    return [hour for first, last in intervals for hour in range(first, last)]


def intervals_of(hours: Iterable[int]) -> tuple[Interval, ...]:
    return merged((hour, hour + 1) for hour in hours)
