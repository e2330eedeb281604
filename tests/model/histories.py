"""All histories of a small world, breadth first. Worlds that are equal are visited once.

PYTHONPATH=tests .venv/bin/python -m model.histories 5
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from time import monotonic

from model.world import HOURS, Action, Load, Model, Project, Run, Story, World, hours_of, planned

from dg_sqlmesh_component.worker.intervals.missing import missing

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
}  # fmt: skip
HIDDEN = "run with all models upstream of it, waits for a source that its reason has not named"


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
    for selected in _selections(names):
        for start in HOURS:
            yield Run(selected, start)
    for batches in range(4):
        yield Run(tuple(names), killed_after=batches)
    for name in names:
        yield Run((name,), 1, restates=True)


def searched(project: Project, length: int) -> Searched:
    """Return what all histories of so many actions lead to. A history with a fault is not continued."""
    first = planned(project)
    histories: dict[World, tuple[Action, ...]] = {first: ()}
    edge, found = [first], dict[str, Found]()
    for _ in range(length):
        following = []
        for world in edge:
            for action in actions_of(project, world):
                story = Story(project, world)
                after, history = story.after(action), (*histories[world], action)
                faults = list(story.faults())
                for fault in faults:
                    found.setdefault(fault, Found(fault, history))
                if not faults and after not in histories:
                    for fault in tick_faults(project, after):
                        found.setdefault(fault, Found(fault, history))
                    for fault in check_faults(project, after):
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


def check_faults(project: Project, world: World) -> Iterator[str]:
    """Yield where `sqlmesh_intervals_complete` says something else than the rows. See intervals.md."""
    story = Story(project, world)
    of_all = story.possible(story.missing(story.project))
    for model in project:
        if model.kind != "incremental":
            continue
        gaps, waiting = map(hours_of, missing(story.expected(model.name)))
        refused = {hour for hour, row in zip(HOURS, story.shown(model.name), strict=True) if row and row.is_refused}
        lacking = set(hours_of(model.intervals)) - story.tables[model.name].computed
        possible = set(hours_of(of_all.get(model.name, ())))
        if refused.difference(gaps) and not model.is_daily:
            yield f"{model.name} shows refused rows, and its intervals check does not name them"
        if lacking != {*gaps, *waiting}:
            yield f"the intervals check of {model.name} names other hours than those that are not computed"
        if possible.intersection(waiting):
            yield f"the intervals check of {model.name} says that hours wait, and a run computes them"


def advice_faults(project: Project, world: World) -> Iterator[tuple[Run, str]]:
    """Yield the runs whose reason for a waiting model, "select them too", does not help. See outcomes.md.

    If the reason names a source too, it has to be loaded first.
    """
    story, names = Story(project, world), [model.name for model in project]
    for selected in _selections(names):
        for name, (left, by) in story.decided(story.missing(selected)).items():
            if left or not by.models or by.tables:
                continue
            if not set(by.models).isdisjoint(selected):
                yield Run(selected), f"{name} waits for a model that is selected"
                continue
            upstream = {of for of in names for model in by.models if of == model or story.reads_any(model, [of])}
            more = [of for of in names if of in upstream or of in selected]
            if name not in story.possible(story.missing(more)):
                yield Run(selected), f"{name}, {HIDDEN}"


def _selections(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(names, size) for size in range(1, len(names) + 1))


def not_healed(project: Project, world: World) -> str | None:
    """Return what is still wrong after everything was loaded without errors, and two runs of all models."""
    loads = [Load(hour) for hour in HOURS if not world.loads[hour] or hour in world.bad]
    actions: list[Action] = [*loads, *[Run(tuple(model.name for model in project))] * 2]
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
