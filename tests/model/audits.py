"""The check of an audit in the small world of `model.world`: what runs evaluate, and what later runs repeat.

    PYTHONPATH=tests .venv/bin/python -m model.audits 5

The real functions decide what a check says (`Ledger`, `Checks`). A run may be cancelled or killed, with its step or
without it, and commands in a shell compute intervals of which Dagster has no result. Each row knows whether the audit
would find it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from time import monotonic
from typing import Any

import dagster as dg
from model import outcomes
from model.histories import Found, Searched, stopped
from model.world import HOURS, Hour, Load, Model, Project, Run, Signal, Story, World, hours_of, planned
from unit.builders import HOUR, audit, fqn, manifest, model, project_assets

from dg_sqlmesh_component.history import repetition
from dg_sqlmesh_component.history.earlier_results import (
    NOT_EVALUATED,
    EarlierResult,
    FailedIntervals,
    data_metadata,
    repeated,
)
from dg_sqlmesh_component.history.stored_record import internal_part
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.report.checks import Checks
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, NodeOutcome
from dg_sqlmesh_component.report.wording import Wording
from dg_sqlmesh_component.run.ledger import Ledger

PROJECTS: dict[str, Project] = {
    "incremental": (Model("a", "incremental", is_audited=True, has_signal=True),),
    "incremental, not blocking": (Model("a", "incremental", is_audited=True, blocks=False, has_signal=True),),
    "whole": (Model("a", "whole", is_audited=True, has_signal=True),),
    "whole, not blocking": (Model("a", "whole", is_audited=True, blocks=False, has_signal=True),),
    "by key": (Model("a", "by_key", is_audited=True, has_signal=True),),
    "whole of another": (Model("b", "incremental", has_signal=True), Model("a", "whole", ("b",), is_audited=True)),
    "view": (Model("b", "incremental", has_signal=True), Model("a", "view", ("b",), is_audited=True)),
}
"""`a` has the audit."""
NAME = "a"
CHECK = dg.AssetCheckKey(dg.AssetKey(["t", NAME]), "good")
DATA = ("prod", outcomes.AUDITED, 1)


@dataclass(frozen=True)
class Memory:
    """What Dagster's records say of the check.

    Attributes:
        passed: The last result of an evaluation, or None.
        is_blocking: Whether it stops models downstream if it has not passed.
        failed: Where rows have failed.
        is_rewritten: Whether a run has begun to compute the model since, and has said so.
        is_altered: Whether SQLMesh has recorded other data since.
        is_newest: Whether the newest record is a result, and not why there is none.
    """

    passed: bool | None = None
    is_blocking: bool = False
    failed: FailedIntervals | None = None
    is_rewritten: bool = False
    is_altered: bool = False
    is_newest: bool = False

    @property
    def earlier(self) -> EarlierResult | None:
        if self.passed is None:
            return None
        severity = dg.AssetCheckSeverity.ERROR if self.is_blocking else dg.AssetCheckSeverity.WARN
        metadata = data_metadata(DATA, self.failed)
        return EarlierResult(self.passed, severity, "", 0.0, DATA, metadata, is_rewritten=self.is_rewritten)


@dataclass(frozen=True)
class State:
    """The world, and what Dagster remembers."""

    world: World
    memory: Memory = Memory()


@dataclass(frozen=True)
class Silent:
    """A run whose step dies with SQLMesh's process: Dagster gets no result."""

    run: Run

    def __str__(self) -> str:
        return f"{self.run}, with its step"


@dataclass(frozen=True)
class Shell:
    """`sqlmesh run`, which asks no source."""

    def __str__(self) -> str:
        return "sqlmesh run"


@dataclass(frozen=True)
class Check:
    """A run of the check alone."""

    def __str__(self) -> str:
        return "execute the check alone"


Action = Load | Signal | Hour | Run | Silent | Shell | Check


def actions_of(project: Project, world: World) -> Iterator[Action]:
    """Yield what may happen next. Only the second hour is loaded again, and only its signal opens and closes."""
    for hour in HOURS:
        if not world.loads[hour]:
            yield Load(hour)
    if 0 < world.loads[1] < 3:
        yield Load(1)
        yield Load(1, is_bad=True)
    yield Signal(1, opens=1 in world.closed)
    names = tuple(model.name for model in project)
    runs = [Run(names), Run(names, 2), Run((NAME,)), Run((names[0],), 1, restates=True)]
    for run in runs:
        yield run
        for other in stopped(project, world, run):
            yield other
            yield Silent(other)
    story = Story(project, world)
    story.compute(missing := {name: of for name, of in story.missing(story.project).items() if of})
    if missing and all(story.tables[name].computed.issuperset(hours_of(of)) for name, of in missing.items()):
        yield Shell()  # if its audit failed, neither SQLMesh's state nor Dagster would know of the rows
    yield Check()


def after(project: Project, state: State, action: Action) -> tuple[State, list[str]]:
    """Return the next state, and what is wrong with the check."""
    story, memory = Story(project, state.world), state.memory
    if isinstance(action, Check):
        return _audited_alone(story, state)
    if isinstance(action, Shell):
        story.compute({name: of for name, of in story.missing(story.project).items() if of})
        world = replace(state.world, tables=tuple(story.tables.values()))
        return State(world, replace(memory, is_altered=memory.is_altered or _has_recorded(story))), []
    world = story.after(action.run if isinstance(action, Silent) else action)
    memory = replace(memory, is_altered=memory.is_altered or _has_recorded(story))
    if not isinstance(action, Run):
        return State(world, memory), []
    result, memory = _result_of_run(story, memory, action, state)
    ended = story.executed.ended if story.executed else ()
    return State(world, memory), [*_wrong(story, result, hours_of(of.interval for of in ended if of.model == NAME))]


def _has_recorded(story: Story) -> bool:
    """Whether SQLMesh has recorded data that the check is about."""
    return any(story.computed[name] for name in _shown(story))


def _shown(story: Story) -> tuple[str, ...]:
    """The model, and those whose rows it shows."""
    return (NAME, *story.project[NAME].reads) if story.project[NAME].kind == "view" else (NAME,)


def _result_of_run(story: Story, memory: Memory, run: Run, before: State) -> tuple[dg.AssetCheckResult | None, Memory]:
    """What the step says of the check, as `StepResults` asks for it."""
    found = [of for of in outcomes.reported(story, run)[0] if of.fqn == NAME]
    if not found or not isinstance(outcome := found[0], NodeOutcome):
        return None, memory
    checks, node = _checks(tuple(story.project.values())), _named(outcome, story, memory)
    earlier = memory.earlier if node.outcome.rule.repeats or not _is_whole(story) else None
    wanted = node.outcome.value == "up_to_date" and repetition.why_not_repeated(node.idle, earlier, "prod")
    if wanted and (audits := _evaluated(story)):
        node = replace(node, audits=audits)
    result = checks.result(CHECK, node, earlier)
    if result is None and not (story.executed and story.executed.stopped == "cancelled before batch"):
        result = _filled_in(story, before, node, checks)
    return result, _remembered(memory, result)


def _filled_in(story: Story, before: State, node: NodeOutcome, checks: Checks) -> dg.AssetCheckResult | None:
    """As the step fills in what it has not evaluated. None: Dagster has no result."""
    started = {fqn(f"t.{batch.model}") for batch in story.executed.ended} if story.executed else set[str]()
    shown, earlier = checks.wording.assets.shown_tables(node.fqn), before.memory.earlier
    is_as_before = repetition.is_as_before(is_untouched=node.is_untouched, shown_tables=shown, started=started)
    if earlier and before.memory.is_newest and is_as_before:
        tables = dict(zip(story.project, before.world.tables, strict=True))
        is_unaccepted = any(tables[name].forgotten for name in _shown(story))
        rows = msg.EarlierRows(outcomes.AUDITED, _altered_at(before.memory), is_unaccepted=is_unaccepted)
        if repetition.repeats_unreached(earlier, outcomes.AUDITED.version, rows):
            return repeated(CHECK, earlier, "why", earlier.metadata)
    return checks.not_evaluated(CHECK, node, "why")


def _altered_at(memory: Memory) -> int:
    return 2 if memory.is_altered else 1


def _named(outcome: NodeOutcome, story: Story, memory: Memory) -> NodeOutcome:
    """The same with what the worker knows of the data."""
    name, table = fqn(f"t.{NAME}"), story.tables[NAME]
    causes = (msg.Cause("signal", name, ("s",)),) if outcome.idle.held_back else ()
    computed = table.computed if story.project[NAME].kind != "view" else story.tables["b"].computed
    idle = replace(
        outcome.idle,
        held_back=msg.HeldBack(causes),
        last_interval_end=max(computed) + 1 if computed else None,
        audited_data=outcomes.AUDITED,
        altered_at=_altered_at(memory),
        is_unaccepted=any(story.tables[name].forgotten for name in _shown(story)),
    )
    return replace(outcome, fqn=name, idle=idle)


def _remembered(memory: Memory, result: dg.AssetCheckResult | None) -> Memory:
    if result is None:
        return memory
    if NOT_EVALUATED in result.metadata:
        is_rewritten = memory.is_rewritten or internal_part(result.metadata, "rewritten_in") == "prod"
        return replace(memory, is_rewritten=is_rewritten, is_newest=False)
    is_repeated = "sqlmesh/carried_over" in result.metadata
    of_result = EarlierResult(result.passed, result.severity, "", 0.0, metadata=result.metadata)
    failed = memory.failed if is_repeated else of_result.failed_in
    is_blocking = result.severity is dg.AssetCheckSeverity.ERROR
    failed = failed and replace(failed, at=1)
    return Memory(result.passed, is_blocking, failed, is_altered=is_repeated and memory.is_altered, is_newest=True)


def _audited_alone(story: Story, state: State) -> tuple[State, list[str]]:
    """The real worker evaluates the audit over everything between the first and the last computed interval."""
    if not (audits := _evaluated(story)):
        return state, []
    node = AuditOnlyOutcome(fqn(f"t.{NAME}"), audits, (), None, evaluated_at=2, altered_at=1)
    checks = _checks(tuple(story.project.values()))
    result = checks.result(CHECK, node, None if _is_whole(story) else state.memory.earlier)
    return State(state.world, _remembered(state.memory, result)), [*_wrong(story, result, _audited_hours(story))]


def _evaluated(story: Story) -> Any:
    """The results of the audit if it is evaluated now. None if nothing is computed."""
    if not (hours := _audited_hours(story)):
        return ()
    fails = any(story.is_bad(hour, story.shown(NAME)[hour]) for hour in (HOURS if _is_whole(story) else hours))
    interval = (hours[0], hours[-1] + 1)
    ledger = Ledger((), [NAME])
    ledger.feed(outcomes.audited(story, NAME, interval, fails=fails))
    [outcome] = ledger.feed(msg.NodeAudited(NAME, (), None, 2, 1))
    return outcome.audits


def _audited_hours(story: Story) -> Sequence[int]:
    """All hours between the first and the last one that is computed."""
    computed = story.tables[NAME].computed
    return range(min(computed), max(computed) + 1) if computed else ()


def _is_whole(story: Story) -> bool:
    return story.project[NAME].kind != "incremental"


@cache
def _checks(project: Project) -> Checks:
    of_audit = audit("good", blocking=project[-1].blocks)
    models = [
        model(
            f"t.{of.name}",
            [f"t.{read}" for read in of.reads],
            kind=outcomes.KINDS[of.kind],
            interval_unit="hour",
            audits=(of_audit,) if of.name == NAME else (),
        )
        for of in project
    ]
    return Checks(Wording(project_assets(manifest(*models)), "prod"), HOUR)


def _wrong(story: Story, result: dg.AssetCheckResult | None, evaluated: Sequence[int]) -> Iterator[str]:
    """Yield what the check says wrong. See audits.md: of an incremental model, it names the evaluated hours."""
    if result is None:
        return
    rows = story.shown(NAME)
    bad = {hour for hour in HOURS if story.is_bad(hour, rows[hour])}
    is_repeated = "sqlmesh/carried_over" in result.metadata
    evaluated = evaluated or _audited_hours(story)  # of a model that is up to date
    if result.passed and bad.intersection(HOURS if is_repeated or _is_whole(story) else evaluated):
        yield f"the check {'repeats that it has passed' if is_repeated else 'has passed'}, and the audit would fail"


def searched(project: Project, length: int) -> Searched:
    """Return what all histories of so many actions lead to. A history with a fault is not continued.

    The first day was loaded and computed, and all signals are open.
    """
    world = replace(planned(project), loads=(1, 1, 0), closed=frozenset())
    first, _ = after(project, State(world), Run(tuple(model.name for model in project)))
    histories: dict[State, tuple[Any, ...]] = {first: ()}
    edge, found = [first], dict[str, Found]()
    for _ in range(length):
        following = []
        for state in edge:
            for action in actions_of(project, state.world):
                next_state, faults = after(project, state, action)
                history = (*histories[state], action)
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
