"""Plans in the small world of `model.world`: another `start`, another kind, another query of one model.

    PYTHONPATH=tests .venv/bin/python -m model.plans 4

Four deciders are the real ones: which rows prod loses (`lost_rows`), what is refused because of that (`refusals`),
which models lack rows that a table gains (`lacking_rows`), and which were computed before a table that they read
(`read_early`). The rows themselves say what they should have found. Nothing is killed, and no audit fails.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any

from model.histories import Found, Searched
from model.world import (
    HOURS,
    SOURCE,
    Kind,
    Load,
    Model,
    Project,
    Run,
    Story,
    Table,
    World,
    hours_of,
    intervals_of,
    planned,
)

from dg_sqlmesh_component.capabilities.plans.gate import Decision, apply_config, refusals
from dg_sqlmesh_component.capabilities.plans.lost_rows import all_lost
from dg_sqlmesh_component.capabilities.plans.messages import PlanBuilt, PlannedModel, PlannedRows
from dg_sqlmesh_component.capabilities.plans.worker.lost_rows import (
    NO_LOSSES,
    ChangedModel,
    Losses,
    ShownVersion,
    Shows,
    lost_rows,
)
from dg_sqlmesh_component.protocol.intervals import ComputedRange, subtract
from dg_sqlmesh_component.protocol.messages import Interval
from dg_sqlmesh_component.worker.intervals.gained import LackingRows, ReadTable, lacking_rows
from dg_sqlmesh_component.worker.intervals.read_early import Reader, Source, read_early, shown_by, time_of

A = Model("a", "incremental", start=1)
PROJECTS: dict[str, Project] = {
    "incremental": (A, Model("b", "incremental", ("a",))),
    "daily": (A, Model("b", "incremental", ("a",), is_daily=True)),
    "incremental, through a view": (A, Model("v", "view", ("a",)), Model("b", "incremental", ("v",))),
    "whole": (A, Model("b", "whole", ("a",))),
    "incremental over incremental": (A, Model("b", "incremental", ("a",)), Model("c", "incremental", ("b",))),
    "incremental over whole": (A, Model("b", "whole", ("a",)), Model("c", "incremental", ("b",))),
    "incremental over a whole table": (Model("a", "whole", start=1), Model("b", "incremental", ("a",))),
    "whole over a view": (Model("a", "view", start=1), Model("b", "whole", ("a",))),
    "incremental over two tables": (A, Model("b", "incremental"), Model("c", "incremental", ("a", "b"))),
}
SHOWS: dict[Kind, Shows] = {"incremental": "ranges", "whole": "whole", "view": "sources"}


@dataclass(frozen=True)
class Plan:
    """A plan that changes one model, and accepts all losses that one may accept.

    Attributes:
        kind: Its new kind, or None.
        start: Its new start, or None.
        is_daily: Whether its cron becomes daily or hourly, or None. SQLMesh keeps its table then.
        is_built: Whether its query changes too, so that it and all models downstream are built again.
    """

    model: str
    kind: Kind | None = None
    start: int | None = None
    is_daily: bool | None = None
    is_built: bool = False

    def __str__(self) -> str:
        changed = [
            f"kind {self.kind}" if self.kind else "",
            "" if self.start is None else f"start at hour {self.start}",
            "" if self.is_daily is None else f"cron {'@daily' if self.is_daily else '@hourly'}",
        ]
        query = ["another query"] if self.is_built and not self.kind else []
        return f"plan: {self.model} gets {' and '.join([*filter(None, changed), *query])}"

    def of(self, project: Project) -> Project:
        """Return the project with the change."""

        def changed(model: Model) -> Model:
            start = model.start if self.start is None else self.start
            is_daily = model.is_daily if self.is_daily is None else self.is_daily
            return replace(model, kind=self.kind or model.kind, start=start, is_daily=is_daily)

        return tuple(changed(model) if model.name == self.model else model for model in project)


Times = frozenset[tuple[str, int, Interval, bool]]
"""The computed ranges of all tables: name, a number that grows with the time, interval, and whether it is of an old
version."""


@dataclass(frozen=True)
class State:
    """What has been planned, its tables, and which rows the reports of plans have named as lacking."""

    project: Project
    world: World
    times: Times = frozenset()
    named: frozenset[tuple[str, int]] = frozenset()

    def after(self, story: Story, built: Iterable[str] = ()) -> State:
        """Return the state after a run or plan: a story of one action, and which tables are new."""
        times = {(name, at, of, is_old or name in built) for name, at, of, is_old in self.times}
        for number, (name, hours) in enumerate(story.computed.items(), len(times)):
            times |= {(name, number, interval, False) for interval in intervals_of(hours)}
        numbers = {at: number for number, at in enumerate(sorted({at for _, at, _, _ in times}))}
        in_order = frozenset((name, numbers[at], of, is_old) for name, at, of, is_old in times)
        world = replace(self.world, tables=tuple(story.tables.values()))
        return replace(self, project=tuple(story.project.values()), world=world, times=in_order)

    def rows(self, name: str, *, is_old: bool) -> list[ComputedRange]:
        found = (
            ComputedRange(of, at, False, None)
            for of_name, at, of, old in self.times
            if (of_name, old) == (name, is_old)
        )
        return sorted(found, key=time_of)

    def outdated(self, name: str, *, directly: bool = True) -> set[int]:
        """The hours that the check of a model names: it was computed for them before a table that it reads.

        `directly`: compare it also with what no whole table between has read.
        """
        story = Story(self.project, self.world)
        if story.project[name].kind != "incremental":
            return set()
        reader = Reader(self.rows(name, is_old=False), intervals_of(story.tables[name].computed))
        return {*hours_of(read_early(reader, self._sources(story, name, directly=directly)).intervals)}

    def _sources(self, story: Story, name: str, *, directly: bool = True) -> Iterator[Source]:
        for of in _tables_read(story, name):
            shown, others = self.rows(of, is_old=False), self.rows(of, is_old=True)
            is_whole = story.project[of].kind == "whole"
            if not is_whole and directly:
                yield Source(shown, list, partial(list, others), _single, lambda _: 0)
            for source in self._sources(story, of) if is_whole else ():
                yield shown_by(sorted([*shown, *others], key=time_of), source, lambda end: end)


class Apply:
    """What a plan does in a state."""

    def __init__(self, state: State, plan: Plan) -> None:
        self.state, self.plan = state, plan
        self.before = Story(state.project, state.world)
        project = plan.of(state.project)
        downstream = [model.name for model in project if self.before.reads_any(model.name, [plan.model])]
        self.modified = {plan.model, *downstream}
        self.built = self.modified if plan.kind or plan.is_built else set[str]()
        tables = [Table() if name in self.built else table for name, table in self.before.tables.items()]
        self.after = Story(project, replace(state.world, tables=tuple(tables)))
        self.planned = self._planned()
        self.lacking = self._lacking()
        self._forget()
        requested = {name: of for name, of in self._planned().items() if of}
        self.computed = self.after.possible(requested)
        self.waiting = {name: subtract(of, self.computed.get(name, ())) for name, of in requested.items()}
        self.losses = lost_rows({name: self._changed(name) for name in self.modified})

    def refused(self, *, accepts: bool) -> list[str]:
        """The kinds of refusals of the gate. `accepts`: whether the run config has what the report offers."""
        models = [
            PlannedModel(name, name, "changed", rows=PlannedRows(loses=found.own, reads_lost=found.read))
            for name, found in self.losses.items()
        ]
        built, decision = PlanBuilt("prod", "p2", "p1", {}, tuple(models)), Decision()
        names = {model.fqn: model.name for model in models}
        found = refusals(built, decision, "apply", names)
        if accepts and found and (config := apply_config("", built, decision, found, names)):
            offered: Any = config.get("allow_lost_intervals", ())
            decision = Decision(allow_lost_intervals=tuple(offered))
            found = refusals(built, decision, "apply", names)
        return [refusal.kind for refusal in found]

    def state_after(self) -> State:
        self.after.compute(self.computed)
        named = {*self.state.named, *((name, hour) for name in self.modified for hour in self.named(name))}
        return replace(self.state.after(self.after, self.built), named=frozenset(named))

    def named(self, name: str) -> set[int]:
        """The hours whose rows the report names as lost, or as lacking for good."""
        return {*_within(self.lost(name)), *_within(self.lacking.left.get(name, ()))}

    def lost(self, name: str) -> Sequence[Interval]:
        found: Losses = self.losses.get(name, NO_LOSSES)
        return all_lost(PlannedRows(loses=found.own, reads_lost=found.read)).intervals

    def faults(self) -> Iterator[str]:
        """Yield what the report says wrong of the rows, after `state_after`. plan-reference.md: it names each loss."""
        for name in self.before.project:
            had, has = _shown(self.before, name), _shown(self.after, name)
            if had - has - self.named(name):
                yield f"{name} loses rows, and the plan does not name them"
            if had & has & {*_within(self.lost(name))}:
                yield f"{name} keeps rows, and the plan names them as lost"

    def _planned(self) -> dict[str, list[Interval]]:
        """What the plan computes: each model as far as prod has it."""
        missing = self.after.missing(self.after.project)
        ends = {name: max(table.computed, default=-1) for name, table in self.before.tables.items()}
        return {name: [of for of in missing[name] if of[1] - 1 <= ends[name]] for name in missing}

    def _lacking(self) -> LackingRows:
        """As `gained_rows.py` asks it."""
        coming, coming_before = (story.missing(story.project) for story in (self.after, self.before))
        names = [name for name in self.modified if self.after.project[name].kind != "view"]

        def picture(name: str) -> ReadTable:
            kind, old = self.after.project[name].kind, self.before
            shown = intervals_of(old.tables[name].computed)
            if old.project[name].kind != "incremental":
                shown = ((0, shown[-1][1]),) if shown else ()
            return ReadTable(
                reads={*_tables_read(self.after, name)},
                shown=shown,
                coming=coming_before[name],
                computed=intervals_of(self.after.tables[name].computed),
                planned=[*self.planned[name], *coming[name]],
                keeps_rows=name not in self.built,
                again="in_parts" if kind == "incremental" else "as_a_whole",
                whole=lambda interval: (0, len(HOURS)) if self.after.project[name].is_daily else interval,
                depends_on_past=lambda: kind != "incremental",
            )

        return lacking_rows({name: picture(name) for name in names})

    def _forget(self) -> None:
        """Forget what lacks rows, so that the plan computes it."""
        for name, intervals in self.lacking.again.items():
            table, hours = self.after.tables[name], {*hours_of(intervals)}
            self.after.tables[name] = replace(table, computed=table.computed - hours, marked=table.marked | hours)

    def _changed(self, name: str) -> ChangedModel:
        """As `shown_rows.py` pictures it."""
        reads = {of for of in self.after.project[name].reads if of in self.modified}
        will_be = {*self.after.tables[name].computed, *hours_of(self.computed.get(name, ()))}
        left = [of for of in self.after.missing([name])[name] if of not in self.computed.get(name, ())]
        old = self.before.tables[name]
        return ChangedModel(
            reads=reads,
            before=ShownVersion(SHOWS[self.before.project[name].kind], intervals_of(old.computed | old.marked)),
            after=ShownVersion(SHOWS[self.after.project[name].kind], intervals_of(will_be)),
            keeps_rows=name not in self.built,
            is_redefined=name == self.plan.model,
            is_computed=bool(self.computed.get(name)),
            waiting=self.waiting.get(name, ()),
            pending=lambda: left,
            not_loaded=lambda: subtract(left, self.after.possible({name: left}).get(name, ())),
        )


def _shown(story: Story, name: str) -> set[int]:
    return {hour for hour, row in zip(HOURS, story.shown(name), strict=True) if row}


def _within(intervals: Iterable[Interval]) -> list[int]:
    return [hour for hour in HOURS if any(first <= hour < last for first, last in intervals)]


def _tables_read(story: Story, name: str) -> Iterator[str]:
    for of in story.project[name].reads:
        if of != SOURCE:
            yield from _tables_read(story, of) if story.project[of].kind == "view" else [of]


def _single(ranges: Iterable[Interval]) -> list[Interval]:
    return [(hour, hour + 1) for hour in hours_of(ranges)]


Action = Load | Run | Plan
NOT_ASKED = "still lacks rows after the next run, and the gate has not asked"


def actions_of(state: State) -> Iterator[Action]:
    """Yield what may happen next. There is a plan only if each model has computed something."""
    for hour in HOURS:
        if not state.world.loads[hour]:
            yield Load(hour)
    names = tuple(model.name for model in state.project)
    yield Run(names)
    for name in names:
        yield Run((name,))
        yield Run((name,), 1, restates=True)
    if not all(table.computed for table in state.world.tables):
        return
    for model in state.project:
        for kind in SHOWS:
            if kind != model.kind:
                yield Plan(model.name, kind=kind)
        if model.kind == "incremental":
            yield Plan(model.name, start=1 - model.start)
            yield Plan(model.name, start=1 - model.start, is_built=True)
        if model.kind == "incremental":
            yield Plan(model.name, is_daily=not model.is_daily)


def _waits_for_tick(story: Story, name: str) -> bool:
    """Whether a whole table gets rows that a plan has brought at its next tick, as plan-reference.md says."""
    computed = story.tables[name].computed
    lacking = story.due(name) - _shown(story, name)
    return story.project[name].kind == "whole" and any(hour < max(computed, default=-1) for hour in lacking)


def after(state: State, action: Action) -> tuple[State, list[str]]:
    """Return the next state, and what was wrong on the way."""
    if not isinstance(action, Plan):
        story = Story(state.project, state.world)
        waits = any(map(_waits_for_tick, [story] * len(state.project), story.project))
        world = story.after(action)
        following = replace(state.after(story), world=world)
        return following, [*([] if waits else story.faults()), *_named_and_right(following)]
    applied = Apply(state, action)
    if refused := applied.refused(accepts=True):
        # As long as a source is not loaded, the report offers no command.
        is_waiting = "not_loaded" in refused
        return state, [] if is_waiting else ["the plan is refused, and what its report offers does not help"]
    is_accepted = bool(applied.refused(accepts=False))
    following = applied.state_after()
    wrong = [*applied.faults(), *_named_and_right(following)]
    return following, wrong if is_accepted or wrong else [*_gone_for_good(state, following)]


def _gone_for_good(before: State, state: State) -> Iterator[str]:
    """Yield what prod has lost after the next run and the next tick of whole tables, by a plan that needed no yes."""
    old, story = Story(before.project, before.world), Story(state.project, state.world)
    world = story.after(Run(tuple(story.project)))
    story = Story(state.project, world)
    story.compute({name: [(2, 3)] for name, model in story.project.items() if model.kind == "whole"})
    for name in story.project:
        if _shown(old, name) - _shown(story, name):
            yield f"{name} {NOT_ASKED}"


def _named_and_right(state: State) -> Iterator[str]:
    story = Story(state.project, state.world)
    for name in story.project:
        if state.outdated(name) & _shown(story, name):
            yield f"{name} has rows, and its check says that it lacks them"


def first_states(project: Project) -> Iterator[State]:
    """Yield the states after a first run of everything: the last hour is loaded, or not."""
    names = tuple(model.name for model in project)
    first: list[Load | Run] = [*map(Load, HOURS[:2]), Run(names)]
    rest: list[Load | Run] = [Load(2), Run(names)]
    state = State(project, planned(project))
    for actions in (first, rest):
        for action in actions:
            state, _ = after(state, action)
        yield state


def not_healed(state: State) -> Iterator[str]:
    """Yield what a model lacks after everything was loaded, two runs, and the next tick of whole tables."""
    names = tuple(model.name for model in state.project)
    actions: list[Load | Run] = [Load(hour) for hour in HOURS if not state.world.loads[hour]]
    for action in [*actions, Run(names), Run(names)]:
        state, _ = after(state, action)
    story = Story(state.project, state.world)
    for name in names:
        if story.project[name].kind == "whole":
            story.compute({name: [(2, 3)]})
    state = state.after(story)
    for name in names:
        named = {hour for of, hour in state.named if of == name} | state.outdated(name, directly=False)
        if story.missing([name])[name]:
            yield f"{name} still waits after everything was loaded, and two runs"
        elif story.due(name) - _shown(story, name) - named:
            yield f"{name} lacks rows of its source for good, and neither a plan nor its check names them"


def searched(project: Project, length: int) -> Searched:
    """Return what all histories of so many actions after a first run lead to."""
    histories: dict[State, tuple[Any, ...]] = dict.fromkeys(first_states(project), ())
    edge, found = list(histories), dict[str, Found]()
    for _ in range(length):
        following = []
        for state in edge:
            for action in actions_of(state):
                next_state, faults = after(state, action)
                history = (*histories[state], action)
                if not faults:
                    faults = [] if next_state in histories else list(not_healed(next_state))
                for fault in faults:
                    found.setdefault(fault, Found(fault, history))
                if not faults and next_state not in histories:
                    histories[next_state] = history
                    following.append(next_state)
        edge = following
    return Searched(len(histories), list(found.values()))


def main(length: int) -> None:
    for name, project in PROJECTS.items():
        began = monotonic()
        result = searched(project, length)
        print(f"{name}: {result.worlds:,} states, {monotonic() - began:.1f} s", *result.found, sep="\n", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
