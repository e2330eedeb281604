"""Sentences about the outcomes of a step. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from dg_sqlmesh_component.definitions.awaited import Source
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.history.earlier_results import EarlierResult, FailedIntervals
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import (
    as_sentence,
    block,
    counted,
    duration_text,
    listed,
    plan_block,
    ranges,
    utc_text,
)
from dg_sqlmesh_component.report.causes import CauseWording
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, AuditResult, NodeOutcome, Outcome

NEXT_STEP = "The next run computes what is left."
"""What computes the models that a cancelled run has not."""

_LONGEST_LINE = 200
"""Characters of an error in the description of a check."""


@dataclass(frozen=True)
class Wording:
    """Describes the outcomes of one run in an environment."""

    assets: ProjectAssets
    environment: str
    query_history_url: str | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)
    bounds: Sequence[str] = ()  # those of `start`, `end` and `restate` that the run config has

    @property
    def causes(self) -> CauseWording:
        """Describes what models wait for."""
        return CauseWording(self.assets, self.sources, self.bounds)

    @property
    def is_declared(self) -> bool:
        """Whether the run is in the declared environment. Only there are assets materialized and checks evaluated."""
        return self.environment == self.assets.manifest.environment

    def sentence(self, outcome: NodeOutcome) -> str:
        """What SQLMesh did with a model, and the error if it failed."""
        return self.summary(outcome) + "".join(map(block, self._errors(outcome)))

    def summary(self, outcome: NodeOutcome) -> str:
        """What SQLMesh did with a model, without the error. The environment is named if it is not the declared one."""
        place = "" if self.is_declared else f"In environment {self.environment}: "
        return place + self._summary(outcome)

    def summary_with_error(self, outcome: NodeOutcome) -> str:
        """What SQLMesh did with a model, and the first line of the error if it failed."""
        line = next((error.strip().split("\n")[0] for error in self._errors(outcome)), "")
        shown = line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..."
        return self.summary(outcome) + (f" {as_sentence(shown)}" if shown else "")

    def _errors(self, outcome: NodeOutcome) -> Sequence[str]:
        """The errors that the summary does not have."""
        is_in_summary = outcome.outcome is Outcome.AUDIT_FAILED and self._failing_audits(outcome)
        return outcome.errors if outcome.outcome.rule.is_cause and not is_in_summary else ()

    def _summary(self, outcome: NodeOutcome) -> str:
        name = self.assets.name(outcome.fqn)
        match outcome.outcome:
            case Outcome.EXECUTED:
                computed = computed_text(self.assets, outcome.fqn, outcome.intervals)
                others = f"{self.others_waiting(outcome)}{self._unaccepted(outcome)}"
                return f"{name} was executed for {computed}.{_earlier(outcome)}{others}"
            case Outcome.UP_TO_DATE:
                due = f" Next due at {utc_text(outcome.idle.next_due)}." if outcome.idle.next_due else ""
                return f"{name} had nothing to do: {outcome.idle.reason}.{due}{self._unaccepted(outcome)}"
            case Outcome.WAITING:
                return f"{name} is waiting: {self.awaited(outcome)}.{self._when_loaded(outcome)}"
            case Outcome.BLOCKED:
                failed = msg.HeldBack(tuple(msg.Cause("failed", fqn) for fqn in outcome.failed_upstream))
                why = self.causes.text(outcome.fqn, failed) or "a model upstream of it failed"
                return f"{name} was not executed, because {why}."
            case Outcome.FAILED:
                return f"{name}{self._file(outcome)} failed{self._failed_range(outcome)}.{self._details(outcome)}"
            case Outcome.AUDIT_FAILED:
                failing = self._failing_audits(outcome) or "."
                return f"{name}{self._file(outcome)} failed its audit{failing}{self.others_waiting(outcome)}"
            case Outcome.PARTLY_EXECUTED:
                return (
                    f"{name}{self._file(outcome)} failed{self._failed_range(outcome)}. {outcome.finished_batches} of "
                    f"{counted(outcome.planned_batches, 'batch', 'batches')} are computed and kept: "
                    f"{ranges(outcome.intervals)}."
                    f"{self._details(outcome)}"
                )
            case Outcome.INTERRUPTED if outcome.was_not_started and outcome.is_cancelled:
                return f"{name} was not started: the run was cancelled. {NEXT_STEP}"
            case Outcome.INTERRUPTED if outcome.was_not_started:
                return f"{name} was not started: {' '.join(map(as_sentence, outcome.errors))}"
            case Outcome.INTERRUPTED:
                cause = " ".join(map(as_sentence, outcome.errors))
                finished = [f"Finished before that: {ranges(outcome.intervals)}."] if outcome.intervals else []
                sentences = [*finished, *([NEXT_STEP] if outcome.is_cancelled else [])]
                separator = "\n\n" if "\n" in cause else " "
                return f"{name} was interrupted: {cause}{separator}{' '.join(sentences)}".rstrip()
            case Outcome.NOT_IN_ENVIRONMENT:
                return f"{name}: {' '.join(outcome.errors)}"

    def audit_only_sentence(self, outcome: AuditOnlyOutcome) -> str:
        """The state of a model whose audits were evaluated without running it."""
        name = self.assets.name(outcome.fqn)
        if outcome.error:
            return f"{name}: its audits could not be evaluated: {outcome.error}"
        if outcome.missing:
            return (
                f"{name} has pending intervals: {ranges(outcome.missing)}. Only checks were selected, so it was not "
                f"executed.{self._unaccepted(outcome)}"
            )
        return f"{name} has nothing to do. Only checks were selected.{self._unaccepted(outcome)}"

    def audit_sentence(self, fqn: str, audit: AuditResult) -> str:
        """The result of one audit of a node. The environment is named if it is not the declared one."""
        place = "" if self.is_declared else f" in environment {self.environment}"
        name = f"{self.assets.name(fqn)}{place}: audit {audit.name}"
        if audit.error:
            return f"{name} could not be evaluated.{block(audit.error)}"
        return f"{name} passed." if audit.passed else f"{name} failed: {counted(audit.failing_rows, 'row')}."

    def audit_result(self, fqn: str, audit: AuditResult) -> str:
        """The result of an audit on its check's page: the number of failing rows and the batches that have them.

        What a standalone audit reads is in its query only.
        """
        rows = "No failing rows" if audit.passed else f"{counted(audit.failing_rows, 'row')} failed"
        if fqn in self.assets.standalone_audits or not audit.intervals:
            return f"{rows}."
        intervals = audit.failed_intervals or audit.intervals
        where = "the whole table" if audit.of_whole_table else computed_text(self.assets, fqn, intervals)
        shown = ""
        if audit.query and audit.shown and not audit.of_whole_table and audit.failed_intervals != (audit.shown,):
            shown = f" The query is of {computed_text(self.assets, fqn, [audit.shown])}."
        return f"{rows} in {where}.{shown}"

    def why_not_evaluated(self, outcome: NodeOutcome, earlier: str = "is known to apply to the current data") -> str:
        """Why a node's audits have no result. `earlier` ends the sentence that begins with "No earlier result"."""
        if outcome.outcome.is_failure:
            return self.summary(outcome)
        return f"{self.summary(outcome)} No earlier result {earlier}. Execute this check alone to evaluate it."

    def known_failure(self, fqn: str, check: str, result: EarlierResult) -> str:
        """A blocking audit that failed in an earlier run and was not evaluated since."""
        return (
            f"{self.assets.name(fqn)}: the check {check} failed when its audit was last evaluated (run "
            f"{result.run_id}), and nothing has been computed since. Execute the check alone to evaluate it again."
        )

    def promoted_version(self, fqn: str, difference: str) -> str:
        """In what the promoted version of a model differs, so that a check has no result."""
        return (
            f"the version of {self.assets.name(fqn)} that environment {self.environment} has promoted {difference}. "
            "If the local file is newer, apply a plan. If not, refresh the manifest: `dg utils refresh-defs-state`."
        )

    def _when_loaded(self, outcome: NodeOutcome) -> str:
        held_back = outcome.idle.held_back
        is_due_to_sources = bool(held_back) and all(cause.kind == "source" for cause in held_back.causes)
        if not is_due_to_sources or self.causes.signals(outcome.fqn):
            return ""
        if held_back.through_others:
            return " When its sources are loaded, launch a run of it with all models upstream of it."
        without = f" without {self.causes.named_bounds}" if self.bounds else ""
        return f" The first run{without} after its sources are loaded computes it."

    def others_waiting(self, outcome: NodeOutcome) -> str:
        """What the other intervals of an executed or audited node wait for; empty if none waits."""
        if not outcome.idle.held_back:
            return ""
        model = self.assets.models.get(outcome.fqn)
        is_whole = model is not None and not (model.is_incremental or model.is_external)
        others = "A later run computes it again" if is_whole else "Its other intervals are waiting"
        return f" {others}: {self.awaited(outcome)}."

    def _unaccepted(self, outcome: NodeOutcome | AuditOnlyOutcome) -> str:
        """The rows that a view shows although they are old or refused, and what helps; empty if there are none."""
        if not outcome.unaccepted:
            return ""
        tables = [f"{self.assets.name(fqn)} ({ranges(of)})" for fqn, of in outcome.unaccepted.items()]
        return (
            f" It may show rows that are old or refused: {listed(tables)}. Correct what has failed there, then launch "
            f"a run of {self.names(outcome.unaccepted)} without `start` and `end`: it computes these rows again."
        )

    def awaited(self, outcome: NodeOutcome) -> str:
        """What a model waits for: the text after "is waiting:", without the last full stop. It may end with advice."""
        held_back, is_part = outcome.idle.held_back, bool(outcome.intervals)
        return self.causes.text(outcome.fqn, held_back, is_part=is_part) or "none of its pending intervals is ready"

    def names(self, nodes: Iterable[str]) -> str:
        """The names of nodes, separated by commas."""
        return ", ".join(map(self.assets.name, nodes))

    def _file(self, outcome: NodeOutcome) -> str:
        """The model's file, relative to the project's folder."""
        model = self.assets.models.get(outcome.fqn)
        path = model.path if model else None
        for folder in self.assets.manifest.paths:
            if path is not None and path.startswith(f"{folder}{os.sep}"):
                return f" ({os.path.relpath(path, folder)})"
        return ""

    def _failed_range(self, outcome: NodeOutcome) -> str:
        """What a failed model has not computed, if SQLMesh computes it range by range."""
        model = self.assets.models.get(outcome.fqn)
        is_known = outcome.not_computed and model is not None and model.is_incremental
        return f" for {ranges(outcome.not_computed)}" if is_known else ""

    def _failing_audits(self, outcome: NodeOutcome) -> str:
        failing = [audit for audit in outcome.audits if audit.blocking and not audit.passed]
        model = self.assets.models.get(outcome.fqn)
        is_by_range = model is not None and model.is_incremental
        names = [
            f"{audit.name} ({counted(audit.failing_rows, 'row')}"
            + (f" in {ranges(audit.failed_intervals)})" if is_by_range and not audit.of_whole_table else ")")
            for audit in failing
        ]
        return f" {', '.join(names)}." if names else ""

    def _details(self, outcome: NodeOutcome) -> str:
        """The audits that raised the error, which does not name them, and why a later attempt left out the model."""
        names = ", ".join(audit.name for audit in outcome.audits if audit.error)
        raised = f" Its audit {names} raised the error." if names else ""
        return raised + (f" A later attempt skipped it: {self.awaited(outcome)}." if outcome.idle.held_back else "")


def correction_advice(plan_command: str | None) -> str:
    """What to do after models failed for a cause that a retry alone does not remove.

    There is no `plan_command` if the worker has not read the environment.
    """
    advice = (
        "Correct the model or its data, then launch a run: it computes all pending intervals. No restatement is "
        "needed, unless a model upstream has computed wrong rows. If you change a file of the project, apply a plan "
        "before that run"
    )
    return f"{advice}:{plan_block(plan_command)}" if plan_command else f"{advice}."


def uncorrected_sentence(failed: FailedIntervals, *, is_pending: bool) -> str:
    """What an audit of other intervals found in an earlier run, as further sentences.

    Args:
        failed: Where.
        is_pending: Whether the next run of all pending intervals computes and audits them.
    """
    where, at = ranges(failed.intervals), utc_text(failed.at)
    found = f"some of the rows that failed at {at} may be in {where}"
    if failed.rows:
        found = f"{counted(failed.rows, 'row')} failed in {where} at {at}"
    advice = (
        "They are pending. Correct the data, then launch a run without `start` and `end`: it computes and audits them."
        if is_pending
        else "Execute this check alone to audit all intervals."
    )
    return f" Other intervals: {found}, and no run has audited them since. {advice}"


def computed_text(assets: ProjectAssets, fqn: str, intervals: Sequence[msg.Interval]) -> str:
    """What was computed of a node: its ranges, or all of it if SQLMesh always computes it as a whole."""
    model = assets.models.get(fqn)
    return ranges(intervals) if model is None or model.is_incremental else "the whole table"


def _earlier(outcome: NodeOutcome) -> str:
    """The intervals that failed or cancelled runs have computed before, as a further sentence."""
    if not outcome.earlier_intervals:
        return ""
    return f" Before that, runs that failed or were cancelled had computed {ranges(outcome.earlier_intervals)}."


def restate_config(start: int, end: int) -> str:
    """The run config that computes a range again. SQLMesh includes the day of an end that is a date."""
    first, last = restate_bounds(start, end)
    return f"restate: {{start: '{first}', end: '{last}'}}"


def restate_bounds(start: int, end: int) -> tuple[str, str]:
    """The start and the end of a restatement as its run config writes them."""
    bounds = utc_text(start), utc_text(end)
    if all(bound.endswith("T00:00:00Z") for bound in bounds):
        return utc_text(start)[:10], utc_text(end - 1)[:10]
    return bounds


def progress(assets: ProjectAssets, event: msg.BatchesRunning) -> str:
    """Which nodes run, the longest-running ones first, and how many have finished."""
    running = [
        f"{assets.name(fqn)} for {duration_text(timedelta(seconds=int(seconds)))}"
        + (f" ({finished} of {planned} batches finished)" if planned > 1 else "")
        for fqn, (finished, planned, seconds) in sorted(event.running.items(), key=lambda item: -item[1][2])
    ]
    return f"Running: {listed(running)}. Finished: {event.finished} of {event.planned}."


def not_cancelled(assets: ProjectAssets, event: msg.QueriesNotCancelled) -> str:
    """Which queries the engine may still execute after a cancelled run, and why."""
    return " ".join(
        f"A query of {assets.name(fqn)} was not cancelled: {as_sentence(reason)} End it in the engine."
        for fqn, reason in sorted(event.reasons.items())
    )


def killed(assets: ProjectAssets, seconds: float, running: Sequence[str]) -> str:
    """The problem of a cancelled run whose worker had to be killed, while these nodes still ran."""
    names = listed([assets.name(node) for node in running]) or "it"
    return (
        f"The run was cancelled. SQLMesh's process was killed after {seconds:.0f} seconds, because {names} was still "
        "running."
    )
