"""All small changes of a model's kind and schedule: which rows prod loses, by a simulation of every row.

The simulation (tests/simulated_tables.py) computes the model and its readers before the change, at the plan, at the
next run, and long after it. The rule must name exactly the rows that go, and what brings them back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import product

from simulated_tables import END, NO_TIME, SOURCE, Range, Schedule, Table, ranges, run_all

from dg_sqlmesh_component.capabilities.plans.messages import LostRows
from dg_sqlmesh_component.capabilities.plans.worker.lost_rows import (
    NO_LOSSES,
    ChangedModel,
    Losses,
    ShownVersion,
    lost_rows,
)
from dg_sqlmesh_component.protocol.intervals import ALL_TIME

NOW = 42
"""Two slots of the current day, the eleventh, are over. A week has 28 slots."""
LAST_WEEK = END // 28 * 28
"""At the end of all rows, the intervals before it are over, also those of a week."""
KINDS = ("view", "whole", "by_time", "unfiltered")
SCHEDULES = [Schedule(*values) for values in product((0, 8), (None, 24), (1, 4, 28))]
UNTIL = (NOW, NOW - 4)
"""Up to when prod is computed, and so the plan computes: now, or a day earlier."""
READERS = {"view": "view", "full": "whole", "days": "by_time"}


@dataclass(frozen=True)
class Change:
    """Another kind and schedule of a model. Its readers are computed again.

    Attributes:
        before, old: Its kind and schedule before.
        after, new: Its kind and schedule after.
        until: Up to when prod is computed.
    """

    before: str
    after: str
    old: Schedule
    new: Schedule
    until: int

    @property
    def prod(self) -> dict[str, Table]:
        return computed(self.before, self.old, self.until)

    @property
    def planned(self) -> dict[str, Table]:
        return computed(self.after, self.new, self.until)


def tables_of(kind: str, schedule: Schedule, until: int) -> dict[str, Table]:
    """Compute the model and its readers."""
    model = Table(schedule, None, kind)
    tables = {"model": model} | {name: Table(Schedule(), model, of) for name, of in READERS.items()}
    run_all([*tables.values()], until)
    return tables


computed = cache(tables_of)
"""The same, to be read only."""


def missing(table: Table) -> list[Range]:
    return ranges(table.missing(NOW))


def version(table: Table) -> ShownVersion:
    if table.kind == "view":
        return ShownVersion("sources")
    if table.kind == "whole":
        return ShownVersion("whole", ranges(table.computed))
    is_filtered = table.kind == "by_time"
    return ShownVersion("ranges", ranges(table.computed), lambda: (is_filtered, is_filtered))


def named(lost: LostRows) -> set[int]:
    return rows_of(lost.intervals) | ({NO_TIME} if lost.without_time else set())


def rows_of(pairs: tuple[Range, ...]) -> set[int]:
    """The rows of ranges. The report calls those of all time "all rows"."""
    if ALL_TIME in pairs:
        return {*SOURCE}
    return {row for row in SOURCE - {NO_TIME} if any(start <= row < end for start, end in pairs)}


def together(losses: Losses) -> LostRows:
    """The rows that a model loses by its own change, or that of the model that it reads."""
    own, read = losses.own, losses.read
    return LostRows(
        (*own.intervals, *read.intervals),
        (*own.not_loaded, *read.not_loaded),
        (*own.until_run, *read.until_run),
        (*own.until_later_runs, *read.until_later_runs),
        own.without_time or read.without_time,
    )


def changes() -> Iterator[Change]:
    return (Change(*values) for values in product(KINDS, KINDS, SCHEDULES, SCHEDULES, UNTIL))


def model_of(change: Change) -> ChangedModel:
    before, after = change.prod["model"], change.planned["model"]
    return ChangedModel(
        reads=(),
        before=version(before),
        after=version(after),
        is_computed=bool(after.computed),
        pending=partial(missing, after),
        computed_until=lambda at: at // after.schedule.unit * after.schedule.unit,
        end=change.new.end,
    )


def losses(change: Change) -> dict[str, LostRows]:
    """What the rule finds, for the model and its readers: a breaking change, so that these are computed again."""
    before, after = change.prod, change.planned
    readers = {
        name: ChangedModel(
            reads=("model",),
            before=version(before[name]),
            after=version(after[name]),
            is_redefined=False,
            is_computed=bool(after[name].computed),
            pending=partial(missing, after[name]),
        )
        for name in READERS
    }
    found = lost_rows({"model": model_of(change), **readers})
    return {name: together(found[name]) if name in found else LostRows() for name in before}


def test_rows_that_go_are_named() -> None:
    for change in changes():
        before, after = change.prod, change.planned
        for name, lost in losses(change).items():
            gone = before[name].shown - after[name].shown
            assert named(lost) == gone, (change, name, lost, sorted(gone ^ named(lost)))


def test_a_whole_table_that_keeps_its_rows_loses_what_is_not_there_at_its_next_tick() -> None:
    """As in `dev_only`, where a plan does not compute it."""
    for change in changes():
        before, model, kept = change.prod, change.planned["model"].copy(None), change.prod["full"].copy(None)
        kept.reads = model
        at = max(max(kept.computed) + 1 + kept.schedule.unit, NOW)
        run_all([model, kept], at)
        own = model_of(change)
        whole = version(before["full"])
        reader = ChangedModel(("model",), whole, whole, True, at, is_redefined=False, is_computed=False)
        found = lost_rows({"model": own, "reader": reader}).get("reader", NO_LOSSES)
        gone = before["full"].rows - kept.rows
        assert named(together(found)) == gone, (change, at, found, sorted(gone ^ named(together(found))))


def back(shown: dict[str, set[int]], tables: dict[str, Table], now: int) -> dict[str, set[int]]:
    run_all([*tables.values()], now)
    return {name: tables[name].shown - rows for name, rows in shown.items()}


def test_what_brings_rows_back_is_named() -> None:
    for change in changes():
        before, tables = change.prod, tables_of(change.after, change.new, change.until)
        at_plan = {name: {*table.shown} for name, table in tables.items()}
        by_next_run, later = back(at_plan, tables, NOW), back(at_plan, tables, END)
        for name, lost in losses(change).items():
            gone, case = before[name].shown - at_plan[name], (change, name, lost)
            until_run, until_later = rows_of(lost.until_run), rows_of(lost.until_later_runs)
            assert until_run == gone & by_next_run[name], (*case, "the next run")
            in_sight = {row for row in gone if row < LAST_WEEK}
            assert until_later & in_sight == (later[name] - by_next_run[name]) & in_sight, (*case, "later runs")
