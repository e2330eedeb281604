"""All histories of a small world, breadth first. Worlds that are equal are visited once.

PYTHONPATH=tests .venv/bin/python -m model.histories 5
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations
from time import monotonic
from typing import get_args

from model import outcomes
from model.world import HOURS, Action, Executed, Hour, Load, Model, Project, Run, Signal, Stop, Story, World, planned

A = Model("a", "incremental", is_audited=True)
PROJECTS: dict[str, Project] = {
    "incremental": (A, Model("b", "incremental", ("a",))),
    "daily": (A, Model("b", "incremental", ("a",), is_daily=True)),
    "whole": (A, Model("b", "whole", ("a",))),
    "daily whole": (A, Model("b", "whole", ("a",), is_daily=True)),
    "whole, through a view": (A, Model("v", "view", ("a",)), Model("b", "whole", ("v",))),
    "whole over incremental": (A, Model("b", "incremental", ("a",)), Model("c", "whole", ("b",))),
    "whole over daily": (A, Model("b", "incremental", ("a",), is_daily=True), Model("c", "whole", ("b",))),
    "whole over whole": (A, Model("b", "whole", ("a",)), Model("c", "whole", ("b",))),
    "incremental over whole": (Model("a", "whole", is_audited=True), Model("b", "incremental", ("a",))),
    "whole over a whole table, through a view": (
        Model("a", "whole", is_audited=True), Model("v", "view", ("a",)), Model("b", "whole", ("v",)),
    ),
    "whole over two tables": (A, Model("b", "incremental"), Model("c", "whole", ("a", "b"))),
    "whole over a table and the source": (A, Model("b", "whole", ("a", "source"))),
    "by key": (A, Model("b", "by_key", ("a",))),
    "incremental over by key": (Model("a", "by_key", is_audited=True), Model("b", "incremental", ("a",))),
    "history": (A, Model("b", "history", ("a",))),
    "whole over history": (Model("a", "history", is_audited=True), Model("b", "whole", ("a",))),
    "lookback": (A, Model("b", "incremental", ("a",), lookback=1)),
    "over a lookback": (Model("a", "incremental", is_audited=True, lookback=1), Model("b", "incremental", ("a",))),
    "by key over a lookback": (Model("a", "incremental", is_audited=True, lookback=1), Model("b", "by_key", ("a",))),
    "signal": (Model("a", "incremental", has_signal=True), Model("b", "incremental", ("a",))),
    "whole over a signal": (Model("a", "incremental", has_signal=True), Model("b", "whole", ("a",))),
    "through a view of a signal": (
        Model("a", "incremental", has_signal=True), Model("v", "view", ("a",)), Model("b", "incremental", ("v",)),
    ),
    "over a whole table over a signal": (
        Model("a", "incremental", has_signal=True), Model("b", "whole", ("a",)), Model("c", "incremental", ("b",)),
    ),
    "signal of a reader": (A, Model("b", "incremental", ("a",), has_signal=True)),
    "slow cron": (Model("a", "incremental", cron=2), Model("b", "incremental", ("a",))),
    "slow cron of a reader": (A, Model("b", "whole", ("a",), cron=2)),
    "whole over a slow cron": (Model("a", "incremental", cron=2), Model("b", "whole", ("a",))),
    "lookback and a slow cron": (
        Model("a", "incremental", is_audited=True, cron=2, lookback=1), Model("b", "incremental", ("a",)),
    ),
    "partials": (A, Model("b", "incremental", ("a",), is_daily=True, allows_partials=True)),
    "partials of a whole table": (A, Model("b", "whole", ("a",), is_daily=True, allows_partials=True)),
    "incremental over partials": (
        Model("a", "incremental", is_daily=True, allows_partials=True), Model("b", "incremental", ("a",)),
    ),
}  # fmt: skip
STILL_WAITS = "still waits after one has done what its reasons say"


@dataclass(frozen=True)
class Found:
    """A history that ends in a fault."""

    fault: str
    history: tuple[Action, ...]

    def __str__(self) -> str:
        lines = [f"{number}. {action}" for number, action in enumerate(self.history, 1)]
        return "\n".join([*lines, f"=> {self.fault}"])


@dataclass(frozen=True)
class Searched:
    """How many worlds were visited, and one of the shortest histories of each fault."""

    worlds: int
    found: list[Found]


def actions_of(project: Project, world: World) -> Iterator[Action]:
    """Yield what may happen next. An hour is loaded twice at most, and only the second hour with bad rows."""
    for hour in HOURS:
        if world.loads[hour] < 2:
            yield Load(hour)
    if world.loads[1] < 2:
        yield Load(1, is_bad=True)
    names = [model.name for model in project]
    if any(model.has_signal for model in project):
        for hour in HOURS:
            yield Signal(hour, opens=hour in world.closed)
    if world.now < len(HOURS):
        yield Hour()
    for selected in _selections(names):
        for start in HOURS[: world.now]:
            yield Run(selected, start)
    yield from stopped(project, world, Run(tuple(names)))
    for model in project:
        if not (model.kind == "history" or model.allows_partials):  # SQLMesh refuses to restate a history
            restatement = Run((model.name,), 1, restates=True)
            yield restatement
            yield from stopped(project, world, restatement)


def stopped(project: Project, world: World, run: Run) -> Iterator[Run]:
    """Yield the same run, stopped in each way at each of its batches."""
    story = Story(project, world)
    story.after(run)
    assert story.executed is not None, "it has run"
    for batches in range(len(story.executed.ended)):
        yield from (replace(run, stops=stop, batches=batches) for stop in get_args(Stop))


def searched(project: Project, length: int) -> Searched:
    """Return what all histories of so many actions lead to. A history with a fault is not continued."""
    first = planned(project)
    histories: dict[World, tuple[Action, ...]] = {first: ()}
    edge, found, asked = [first], dict[str, Found](), set[object]()
    for _ in range(length):
        following = []
        for world in edge:
            for action in actions_of(project, world):
                story = Story(project, world)
                after, history = story.after(action), (*histories[world], action)
                faults = [*story.faults(), *(outcomes.faults(story, action) if isinstance(action, Run) else ())]
                for fault in faults:
                    found.setdefault(fault, Found(fault, history))
                if not faults and after not in histories:
                    for fault in outcomes.check_faults(Story(project, after), project):
                        found.setdefault(fault, Found(fault, history))
                    if (facts := Story(project, after).facts) not in asked:
                        asked.add(facts)
                        for fault in tick_faults(project, after):
                            found.setdefault(fault, Found(fault, history))
                        for run, fault in advice_faults(project, after):
                            found.setdefault(fault, Found(fault, (*history, run)))
                    histories[after] = history
                    following.append(after)
        edge = following
    for world, history in histories.items():
        if still := not_healed(project, world):
            found.setdefault(still, Found(still, history))
    return Searched(len(histories), list(found.values()))


def tick_faults(project: Project, world: World) -> Iterator[str]:
    """Yield where a run that a tick requests does not compute what a run of all models would. See scheduling.md."""
    story = Story(project, world)
    of_all = story.possible(story.missing(story.project))
    of_requested = story.possible(story.missing([name for name in story.project if name in of_all]))
    for name in story.project:
        if of_requested.get(name, []) != of_all.get(name, []):
            yield f"a tick requests {name}, and its run computes something else than a run of all models"


def advice_faults(project: Project, world: World) -> Iterator[tuple[Run, str]]:
    """Yield the runs in which a model waits, and whose reasons do not lead to its computation if one follows them.

    outcomes.md: load the sources, open the signals, select the models too with all upstream of them, leave out `start`.
    Following a reason may lead to another one, but never to the same again.
    """
    for selected in _selections([model.name for model in project]):
        for start in HOURS[: world.now]:
            run = Run(selected, start)
            executed = Story(project, world).plan(selected, start)
            for name in (name for name, batches in executed.batches.items() if not batches):
                if not _is_computed_as_advised(project, world, name, run):
                    yield run, f"{name} {STILL_WAITS}"


def _is_computed_as_advised(project: Project, world: World, name: str, run: Run) -> bool:
    while True:
        executed = Story(project, world).plan(run.models, run.start)
        if executed.batches.get(name):
            return True
        advised = _as_advised(project, world, name, run, executed)
        if advised == (world, run):
            return False
        world, run = advised


def _as_advised(project: Project, world: World, name: str, run: Run, executed: Executed) -> tuple[World, Run]:
    """Do what the sentence of each cause says."""
    story, held_back = Story(project, world), executed.held_back[name]
    kinds = {cause.kind for cause in held_back.causes}
    if "source" in kinds:
        world = replace(world, loads=tuple(load or 1 for load in world.loads))
    # A model also names its own signals that were not evaluated, because its sources are not loaded.
    if any(cause.signals for cause in held_back.causes) or ("source" in kinds and story.project[name].has_signal):
        world = replace(world, closed=frozenset())
    others = {cause.of for cause in held_back.causes if cause.kind == "unselected"}
    needed = {name} if held_back.through_others else others
    selected = {*run.models, *others, *(of for of in story.project for model in needed if story.reads_any(model, [of]))}
    is_unbounded = kinds & {"source", "own", "bounds"}  # "The first run after its sources are loaded", without `start`
    return world, Run(tuple(of for of in story.project if of in selected), 0 if is_unbounded else run.start)


def _selections(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1))


def not_healed(project: Project, world: World) -> str | None:
    """Return what is still wrong after everything was loaded without errors, and two runs of all models."""
    loads = [Load(hour) for hour in HOURS if not world.loads[hour] or (hour, world.loads[hour]) in world.bad]
    passing = [Hour()] * (len(HOURS) - world.now)
    signals = [Signal(hour) for hour in sorted(world.closed)]
    actions: list[Action] = [*passing, *signals, *loads, *[Run(tuple(model.name for model in project))] * 2]
    for action in actions:
        world = Story(project, world).after(action)
    story = Story(project, world)
    for model in project:
        if story.missing([model.name])[model.name]:
            return f"{model.name} still waits after everything was loaded, and two runs"
        rows = story.shown(model.name)
        if any(row is not None and row.is_refused for row in rows) or any(not rows[of] for of in story.due(model.name)):
            return f"{model.name} still shows refused rows, or lacks rows, after two runs"
    return None


def main(length: int) -> None:
    for name, project in PROJECTS.items():
        began = monotonic()
        result = searched(project, length)
        print(f"{name}: {result.worlds:,} worlds, {monotonic() - began:.1f} s", *result.found, sep="\n", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
