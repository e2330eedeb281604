"""What SQLMesh did with a node, in sentences for people. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence, Set

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import block, counted, instant, listed
from dg_sqlmesh_component.run.outcomes import AuditOnlyOutcome, NodeOutcome, Outcome


class Wording:
    """Tells outcomes of one step.

    Args:
        environment: The environment that runs.
    """

    def __init__(self, assets: ProjectAssets, environment: str) -> None:
        self._assets = assets
        self.environment = environment
        self.running: Set[str] | None = None
        """In a cancelled run: the models that were running when it was cancelled."""

    @property
    def is_declared(self) -> bool:
        """Whether the declared environment runs. Of another one nothing is materialized, and no check evaluated."""
        return self.environment == self._assets.manifest.environment

    def sentence(self, outcome: NodeOutcome) -> str:
        """What SQLMesh did with a model, for people; of another environment than the declared one, with its name."""
        place = "" if self.is_declared else f"In environment {self.environment}: "
        return place + self._sentence(outcome)

    def _sentence(self, outcome: NodeOutcome) -> str:
        name = self._assets.name(outcome.fqn)
        errors = "".join(map(block, outcome.errors))
        match outcome.outcome:
            case Outcome.EXECUTED:
                later = f" More is due, and waits: {self.awaited(outcome)}." if outcome.unselected else ""
                return f"{name} was executed for {ranges(outcome.intervals)}.{later}"
            case Outcome.UP_TO_DATE:
                due = f" Next due at {instant(outcome.next_due)}." if outcome.next_due else ""
                return f"{name} had nothing to do: {outcome.reason}.{due}"
            case Outcome.WAITING:
                return f"{name} is waiting: {self.awaited(outcome)}."
            case Outcome.BLOCKED:
                return f"{name} was not executed, because of a failure upstream of it: {self._culprits(outcome)}."
            case Outcome.FAILED:
                return f"{name}{self._file(outcome)} failed.{self._waits_now(outcome)}{errors}"
            case Outcome.AUDIT_FAILED:
                return f"{name}{self._file(outcome)} failed its audit{self._failing_audits(outcome) or f'.{errors}'}"
            case Outcome.PARTLY_EXECUTED:
                return (
                    f"{name}{self._file(outcome)} failed after {outcome.finished_batches} of "
                    f"{counted(outcome.planned_batches, 'batch', 'batches')}. "
                    f"What is finished stays: {ranges(outcome.intervals)}.{self._waits_now(outcome)}{errors}"
                )
            case Outcome.INTERRUPTED if self.was_not_started(outcome):
                return f"{name} was not started: the run was cancelled. The next run executes it."
            case Outcome.INTERRUPTED:
                cause = " ".join(map(as_sentence, outcome.errors))
                done = f"Finished before that: {ranges(outcome.intervals)}." if outcome.intervals else ""
                behind = "\n\n" if "\n" in cause else " "
                return f"{name} was interrupted: {cause}{behind}{done}".rstrip()
            case Outcome.NOT_IN_ENVIRONMENT:
                return f"{name}: {' '.join(outcome.errors)}"

    def was_not_started(self, outcome: NodeOutcome) -> bool:
        """Whether a cancelled run has not reached the model."""
        return self.running is not None and not outcome.intervals and outcome.fqn not in self.running

    def _file(self, outcome: NodeOutcome) -> str:
        """Where to look: the model's file, from the project's folder."""
        model = self._assets.models.get(outcome.fqn)
        path = model.path if model else None
        for folder in self._assets.manifest.paths:
            if path is not None and path.startswith(f"{folder}{os.sep}"):
                return f" ({os.path.relpath(path, folder)})"
        return ""

    def _culprits(self, outcome: NodeOutcome) -> str:
        return ", ".join(map(self._assets.name, outcome.culprits)) or "a model upstream"

    def audit_lines(self, outcome: NodeOutcome | AuditOnlyOutcome) -> list[str]:
        """The results of a node's audits in a run of another environment, whose checks nobody reports."""
        start = f"{self._assets.name(outcome.fqn)} in environment {self.environment}: audit"
        return [
            f"{start} {audit.name} passed."
            if audit.passed
            else f"{start} {audit.name} could not be evaluated.{block(audit.error)}"
            if audit.error
            else f"{start} {audit.name} failed: {rows(audit.failing_rows)}."
            for audit in outcome.audits
        ]

    def _failing_audits(self, outcome: NodeOutcome) -> str:
        failing = [audit for audit in outcome.audits if audit.blocking and not audit.passed]
        said = ", ".join(f"{audit.name} ({rows(audit.failing_rows)})" for audit in failing)
        return f" {said}." if said else ""

    def _waits_now(self, outcome: NodeOutcome) -> str:
        """Why another attempt left out what failed in an earlier one."""
        is_waiting = outcome.signals or outcome.upstream or outcome.unselected
        return f" Another attempt left it out: {self.awaited(outcome)}." if is_waiting else ""

    def awaited(self, outcome: NodeOutcome) -> str:
        """What a model waits for, as a clause."""
        if outcome.signals:
            return f"its signal {', '.join(outcome.signals)} has no interval ready"
        if outcome.upstream:
            return f"upstream of it, {', '.join(map(self._assets.name, outcome.upstream))} waits for a signal"
        if outcome.unselected:
            names = {fqn: self._assets.name(fqn) for fqn in outcome.unselected}
            elsewhere = [name for fqn, name in names.items() if fqn not in self._assets.specs]
            advice = "Select them too, with all that is upstream of them"
            if elsewhere:
                others = listed(elsewhere)
                advice = (
                    f"Not in this component: {others}. If the file was deleted, promote that with `sqlmesh plan`; else "
                    "run it with the component of its project, or with `sqlmesh run`"
                )
            due = listed([*names.values()])
            return f"models upstream have pending intervals and are not part of this step: {due}. {advice}"
        return "none of its missing intervals is ready"

    def why_not_evaluated(self, outcome: NodeOutcome) -> str:
        """Why a node's audits have no result, in a sentence."""
        name = self._assets.name(outcome.fqn)
        match outcome.outcome:
            case Outcome.BLOCKED:
                return f"{name} was not executed, because of a failure upstream of it: {self._culprits(outcome)}."
            case Outcome.FAILED | Outcome.PARTLY_EXECUTED:
                return f"{name} failed."
            case Outcome.AUDIT_FAILED:
                return f"{name} failed another audit."
            case Outcome.INTERRUPTED:
                return f"{name} was interrupted."
            case Outcome.NOT_IN_ENVIRONMENT:
                return f"{name} is not promoted in environment {self.environment}."
            case _:
                return (
                    f"{name} was not executed in this run, and no earlier result is about the data that it has now. "
                    "Execute this check alone to evaluate it."
                )

    def names(self, nodes: Sequence[str]) -> str:
        """Nodes as people call them."""
        return ", ".join(map(self._assets.name, nodes))


def ranges(intervals: Iterable[msg.Interval]) -> str:
    """Intervals for people: `[start, end)` in UTC, those of whole days without a time."""
    return ", ".join(f"[{', '.join(_alike(interval))})" for interval in intervals)


def _alike(interval: msg.Interval) -> list[str]:
    """Both ends in one format."""
    ends = [instant(end) for end in interval]
    midnight = "T00:00:00Z"
    return [end.removesuffix(midnight) for end in ends] if all(end.endswith(midnight) for end in ends) else ends


def rows(count: int) -> str:
    """How many rows, for people."""
    return counted(count, "row")


def as_sentence(text: str) -> str:
    """A text with a full stop, if it has no other end."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
