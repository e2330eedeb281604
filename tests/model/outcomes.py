"""What the real ledger, the real rules and the real check of intervals make of a run in the small world.

`reported` sends the events that the worker sends, in its order, and `faults` says what is wrong with the outcomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import get_args

import dagster as dg
from model.world import HOURS, Executed, Project, Run, Stop, Story, hours_of
from unit.builders import HOUR, attributes, fqn, manifest, model

from dg_sqlmesh_component.config.attribute_types import IntervalsCheck
from dg_sqlmesh_component.definitions.build_assets import build_assets
from dg_sqlmesh_component.definitions.translator import INTERVALS_CHECK, Translator
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.report.checks import Checks
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, NodeOutcome, Outcome
from dg_sqlmesh_component.report.wording import Wording
from dg_sqlmesh_component.run.ledger import Ledger
from dg_sqlmesh_component.worker.intervals.missing import coverage

PROMOTED = msg.PromotedVersion("1", "1", "1")
AUDITED = msg.AuditedData("1", "1")
KINDS = {
    "incremental": "INCREMENTAL_BY_TIME_RANGE",
    "by_key": "INCREMENTAL_BY_UNIQUE_KEY",
    "whole": "FULL",
    "history": "SCD_TYPE_2",
    "view": "VIEW",
}


def reported(story: Story, run: Run) -> tuple[list[NodeOutcome | AuditOnlyOutcome], tuple[str, ...]]:
    """Return the outcomes of a run, and what the ledger calls contradictions."""
    executed = story.executed
    assert executed is not None, "it has run"
    ledger = Ledger(run.models)
    if run.restates:
        ledger.add(name for name, intervals in executed.requested.items() if intervals)
    outcomes = []
    for event in events(story, executed, run):
        if isinstance(event, msg.RequestFailed):
            ledger.cancel()
        outcomes += ledger.feed(event)
    if executed.stopped:  # nothing is open any more if it was cancelled
        outcomes += ledger.close("SQLMesh's process was killed.")
    return outcomes, ledger.contradictions


def events(story: Story, executed: Executed, run: Run) -> Iterator[msg.Event]:
    """Yield what the worker sends."""
    nodes = {*run.models, *(name for name, of in executed.requested.items() if of)}
    yield msg.EnvironmentOpened("prod", dict.fromkeys(nodes, PROMOTED), (), "")
    if not executed.batches:
        yield from _idle(executed, nodes)
        yield msg.EvaluationFinished("nothing_to_do")
        return
    batches = {name: tuple(of) for name, of in executed.batches.items()}
    partly = {name: executed.held_back[name] for name, of in batches.items() if of and executed.held_back[name]}
    yield msg.EvaluationPlanned(batches, partly)
    yield from _idle(executed, nodes)
    is_killed = executed.stopped in get_args(Stop)[1:]
    is_audited = {name: story.project[name].is_audited for name in story.project}
    for number, (name, interval, accepted, fails) in enumerate(executed.ended):
        yield msg.BatchStarted(name)
        if is_killed and number == len(executed.ended) - 1:
            return
        if is_audited[name]:
            yield audited(story, name, interval, fails=fails)
        if not accepted:
            yield msg.NodeFailed(name, "AuditError", "refused", ("good",))
        index = batches[name].index(interval)
        yield msg.BatchFinished(name, index, interval, 1 if accepted else None, None, None, at=1)
    if executed.stopped:
        yield msg.RequestFailed("EvaluationError", "The run was cancelled.")
        return
    if executed.blocked:
        yield msg.NodesBlocked(executed.blocked)
    is_failed = any(not batch.is_accepted for batch in executed.ended)
    yield msg.EvaluationFinished("failure" if is_failed else "success")


def audited(story: Story, name: str, interval: msg.Interval, *, fails: bool) -> msg.AuditEvaluated:
    """Return the event about an audit that was evaluated."""
    model = story.project[name]
    return msg.AuditEvaluated(
        name,
        "good",
        position=0,
        args_hash="",
        blocking=model.blocks,
        failing_rows=int(fails),
        query=None,
        interval=interval,
        of_whole_table=model.kind != "incremental",
        audited_data=AUDITED,
    )


def _idle(executed: Executed, nodes: Iterable[str]) -> Iterator[msg.NodeIdle]:
    for name in sorted(nodes):
        if name not in executed.batches:
            yield msg.NodeIdle(name, "nothing is pending")
        elif not executed.batches[name]:
            yield msg.NodeIdle(name, held_back=executed.held_back[name])


def faults(story: Story, run: Run) -> Iterator[str]:
    """Yield what is wrong with the outcomes of a run. See outcomes.md and intervals.md."""
    executed = story.executed
    assert executed is not None, "it has run"
    outcomes, contradictions = reported(story, run)
    yield from contradictions
    if executed.stopped and not executed.ended and not outcomes:
        return  # outcomes.md: the run has ended before SQLMesh has computed or audited anything
    requested = {*run.models, *(name for name, of in executed.requested.items() if of)}
    if sorted(outcome.fqn for outcome in outcomes) != sorted(requested):
        yield "not each requested model has exactly one outcome"
    for outcome in outcomes:
        assert isinstance(outcome, NodeOutcome), "nothing is only audited"
        yield from _wrong(story, executed, outcome)
    has_failed = bool(executed.stopped) or any(not batch.is_accepted for batch in executed.ended)
    if has_failed != any(outcome.outcome.is_failure for outcome in outcomes if isinstance(outcome, NodeOutcome)):
        yield "the run is green although a batch failed, or red although none failed"


def _wrong(story: Story, executed: Executed, outcome: NodeOutcome) -> Iterator[str]:
    name, requested = outcome.fqn, executed.requested.get(outcome.fqn, ())
    done = story.computed[name]
    left = set(hours_of(requested)) - done
    names_cause = bool(outcome.idle.held_back)
    if {*hours_of(outcome.intervals)} != done:
        yield f"the outcome of {name} names other hours than those that were computed"
    match outcome.outcome:
        case Outcome.EXECUTED if left and not names_cause:
            yield f"{name} was executed, and its outcome does not name why some hours wait"
        case Outcome.UP_TO_DATE if left:
            yield f"{name} is up to date, and has pending hours"
        case Outcome.WAITING if done or not left or not names_cause:
            yield f"{name} is waiting, without a cause, or although it was computed"
        case Outcome.EXECUTED | Outcome.UP_TO_DATE if not done and (wrong := _refused(story, name)):
            yield f"{name} is {outcome.outcome.words}, and shows refused rows of {wrong}"


def _refused(story: Story, name: str) -> list[int]:
    """The hours with refused rows in a table, as far as SQLMesh counts them as computed."""
    if story.project[name].kind == "view":
        return []  # its audits are those of its sources
    table = story.tables[name]
    return [hour for hour in table.computed if (row := table.rows[hour]) and row.is_refused]


# -- the check of intervals --------------------------------------------------------------------------


def check_faults(story: Story, project: Project) -> Iterator[str]:
    """Yield where `sqlmesh_intervals_complete` says something else than the rows. See intervals.md."""
    of_all = story.possible(story.missing(story.project))
    for of in project:
        if not of.is_by_interval:
            continue
        expected = story.expected(of.name, frozenset(story.plan_of_all.unready.get(of.name, ())))
        found = coverage(of.name, expected, story.world.now + 1)
        gaps, waiting = {*hours_of(found.gaps)}, {*hours_of(found.waiting)}
        named, table = gaps | waiting, story.tables[of.name]
        is_green = _passed(project, of.name, found, story.world.now + 1)
        refused = {hour for hour, row in zip(HOURS, table.rows, strict=True) if row and row.is_refused}
        if of.allows_partials:  # the rows of a day that is not over are not remembered
            refused &= {*range(of.complete(story.world.now))}
        lacking = {*hours_of(i for i in of.intervals if i[1] <= of.complete(story.world.now))} - table.computed
        possible = {*hours_of(of_all.get(of.name, ()))}
        if is_green and refused - waiting:
            yield f"{of.name} shows refused rows, and its intervals check is green and does not name them"
        if is_green and lacking - waiting:
            yield f"{of.name} lacks hours, and its intervals check is green and does not name them"
        if not lacking <= named or (named - lacking) & table.computed:
            yield f"the intervals check of {of.name} names other hours than those that are not computed"
        if possible & waiting:
            yield f"the intervals check of {of.name} says that hours wait, and a run computes them"


@cache
def _passed(project: Project, name: str, found: msg.IntervalCoverage, now: int) -> bool:
    checks, checked = _checks(project, now * HOUR)
    idle = msg.NodeIdle(name, "nothing is pending")
    outcome = NodeOutcome(fqn(f"t.{name}"), Outcome.UP_TO_DATE, idle=idle, coverage=_in_milliseconds(found))
    result = checks.result(checked[name], outcome)
    assert result is not None, "the model is incremental"
    return result.passed


def _in_milliseconds(found: msg.IntervalCoverage) -> msg.IntervalCoverage:
    def scaled(intervals: Iterable[msg.Interval]) -> tuple[msg.Interval, ...]:
        return tuple((start * HOUR, end * HOUR) for start, end in intervals)

    return replace(
        found,
        computed=scaled([found.computed])[0] if found.computed else None,
        gaps=scaled(found.gaps),
        waiting=scaled(found.waiting),
        missing_since=None if found.missing_since is None else found.missing_since * HOUR,
        lacking=found.lacking * HOUR,
    )


@cache
def _checks(project: Project, now: int) -> tuple[Checks, Mapping[str, dg.AssetCheckKey]]:
    models = [
        model(f"t.{of.name}", [f"t.{read}" for read in of.reads], kind=KINDS[of.kind], interval_unit="hour")
        for of in project
    ]
    translator = Translator(manifest(*models), attributes(intervals_check=IntervalsCheck(timedelta(0))))
    assets = build_assets(translator, translator.asset_spec, lambda *_: None)
    keys: Sequence[str] = [of.name for of in project]
    checks = {name: dg.AssetCheckKey(dg.AssetKey(["t", name]), INTERVALS_CHECK) for name in keys}
    return Checks(Wording(assets, "prod"), now), checks
