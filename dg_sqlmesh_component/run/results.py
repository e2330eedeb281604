"""An outcome as Dagster results. Pure: no context, no instance, nothing is yielded here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import dagster as dg

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.translator import STATUS_CHECK, sql_metadata
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import MAX_LISTED, block, counted, instant, listed
from dg_sqlmesh_component.run.check_history import NOT_EVALUATED, Data, EarlierResult, data_metadata
from dg_sqlmesh_component.run.outcomes import AuditOnlyOutcome, AuditResult, NodeOutcome, Outcome


class Reporter:
    """Turns outcomes of one step into Dagster's words.

    Args:
        assets: The project's assets.
        selected_checks: Checks of this step; no others are reported.
        environment: The environment that runs.
        execution_time: The instant of the run, epoch milliseconds.
    """

    def __init__(
        self,
        assets: ProjectAssets,
        selected_checks: Set[dg.AssetCheckKey],
        environment: str,
        execution_time: int,
    ) -> None:
        self._assets = assets
        self._selected = selected_checks
        self._environment = environment
        self._execution_time = execution_time
        self.running: Set[str] | None = None
        """In a cancelled run: the models that were running when it was cancelled."""

    @property
    def is_declared(self) -> bool:
        """Whether the declared environment runs. Of another one nothing is materialized, and no check evaluated."""
        return self._environment == self._assets.manifest.environment

    # -- models -----------------------------------------------------------------------------------

    def materialization(self, outcome: NodeOutcome) -> dg.MaterializeResult[None]:
        """An executed model, with a result for each of its selected checks."""
        assert outcome.outcome is Outcome.EXECUTED
        metadata = {**self._what_ran(outcome), **self._computed(outcome)}
        version = outcome.promoted.version if outcome.promoted else "unknown"
        return dg.MaterializeResult(
            asset_key=self._assets.key(outcome.fqn),
            metadata=metadata,
            data_version=dg.DataVersion(f"{version}@{instant(self._execution_time)}"),
            # Dagster would record the local file's version; the code that ran is what is promoted.
            tags={"dagster/code_version": outcome.promoted.data_hash} if outcome.promoted else None,
            check_results=[
                *self.status_check(outcome),
                *self.audit_checks(outcome.fqn, outcome.audits),
                *self.audits_that_did_not_run(outcome),
            ],
        )

    def computed_outside(self, outcome: NodeOutcome) -> dg.AssetMaterialization:
        """The data of an up-to-date model that no recorded run of Dagster has computed, with all of its intervals.

        Not a `MaterializeResult`: Dagster refuses one behind those of assets downstream, which may be executed by then.
        """
        assert outcome.outcome is Outcome.UP_TO_DATE
        assert outcome.computed_at is not None
        assert outcome.promoted is not None
        computed_at = instant(outcome.computed_at)
        return dg.AssetMaterialization(
            asset_key=self._assets.key(outcome.fqn),
            metadata={
                **self._what_ran(outcome),
                **self._computed(outcome),
                **_intervals_metadata(outcome.computed),
                "sqlmesh/origin": f"outside of Dagster, at {computed_at}",
                "sqlmesh/computed_at": _timestamp(outcome.computed_at),
            },
            tags={
                "dagster/data_version": f"{outcome.promoted.version}@{computed_at}",
                "dagster/code_version": outcome.promoted.data_hash,
            },
        )

    def has_seen(self, last: dg.AssetMaterialization | None, recorded_at: float, outcome: NodeOutcome) -> bool:
        """Whether the last materialization on record is of the data that an up-to-date model has now.

        Args:
            recorded_at: When it was recorded, in epoch seconds.
        """
        if last is None or outcome.promoted is None or outcome.computed_at is None:
            return False
        is_same = (
            _plain(last.metadata, "environment") == self._environment
            and _plain(last.metadata, "snapshot_version") == outcome.promoted.version
        )
        known_until = _plain(last.metadata, "computed_at")  # of data that was itself computed elsewhere
        seconds = recorded_at if known_until is None else float(known_until)
        return is_same and outcome.computed_at <= round(seconds * 1000)

    def observation(self, outcome: NodeOutcome) -> dg.AssetObservation:
        """A model that was not executed, or not in the declared environment, and why. Never a materialization."""
        return dg.AssetObservation(
            asset_key=self._assets.key(outcome.fqn),
            description=self.sentence(outcome),
            metadata={**self._what_ran(outcome), **self._computed(outcome)},
        )

    def status_check(self, outcome: NodeOutcome) -> list[dg.AssetCheckResult]:
        """The status check of a model, if it is selected."""
        key = dg.AssetCheckKey(self._assets.key(outcome.fqn), STATUS_CHECK)
        if key not in self._selected:
            return []
        fine = outcome.outcome in (Outcome.EXECUTED, Outcome.UP_TO_DATE)
        # What somebody has cancelled has not gone wrong.
        is_warning = outcome.outcome is Outcome.WAITING or (
            outcome.outcome is Outcome.INTERRUPTED and self.running is not None
        )
        return [
            dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=fine,
                severity=dg.AssetCheckSeverity.WARN if is_warning else dg.AssetCheckSeverity.ERROR,
                description=self.sentence(outcome),
                metadata={**self._what_ran(outcome), **self._causes(outcome)},
            )
        ]

    def sentence(self, outcome: NodeOutcome) -> str:
        """What SQLMesh did with a model, for people; of another environment than the declared one, with its name."""
        place = "" if self.is_declared else f"In environment {self._environment}: "
        return place + self._sentence(outcome)

    def _sentence(self, outcome: NodeOutcome) -> str:
        name = self._assets.name(outcome.fqn)
        errors = "".join(map(block, outcome.errors))
        match outcome.outcome:
            case Outcome.EXECUTED:
                later = f" More is due, and waits: {self._awaited(outcome)}." if outcome.unselected else ""
                return f"{name} was executed for {ranges(outcome.intervals)}.{later}"
            case Outcome.UP_TO_DATE:
                due = f" Next due at {instant(outcome.next_due)}." if outcome.next_due else ""
                return f"{name} had nothing to do: {outcome.reason}.{due}"
            case Outcome.WAITING:
                return f"{name} is waiting: {self._awaited(outcome)}."
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
            case Outcome.INTERRUPTED if self._was_not_started(outcome):
                return f"{name} was not started: the run was cancelled. The next run executes it."
            case Outcome.INTERRUPTED:
                cause = " ".join(map(_as_sentence, outcome.errors))
                done = f"Finished before that: {ranges(outcome.intervals)}." if outcome.intervals else ""
                behind = "\n\n" if "\n" in cause else " "
                return f"{name} was interrupted: {cause}{behind}{done}".rstrip()
            case Outcome.NOT_IN_ENVIRONMENT:
                return f"{name}: {' '.join(outcome.errors)}"

    def _was_not_started(self, outcome: NodeOutcome) -> bool:
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
        start = f"{self._assets.name(outcome.fqn)} in environment {self._environment}: audit"
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
        return f" Another attempt left it out: {self._awaited(outcome)}." if is_waiting else ""

    def _awaited(self, outcome: NodeOutcome) -> str:
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

    # -- checks -----------------------------------------------------------------------------------

    def audit_checks(
        self, node: str, audits: Sequence[AuditResult], *, alone: bool = False
    ) -> list[dg.AssetCheckResult]:
        """Results of audits that SQLMesh evaluated in this run, as far as their checks are selected.

        Args:
            alone: Whether the model was not run.
        """
        return [
            dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=audit.passed,
                severity=self._assets.severity(node, audit),
                description=None if audit.passed else f"{rows(audit.failing_rows)} failed.",
                metadata={
                    **_audit_metadata(audit),
                    "sqlmesh/environment": self._environment,
                    **data_metadata(self._data_of(audit), alone),
                },
            )
            for key, audit in self._assets.check_of(node, audits).items()
            if key in self._selected and audit.error is None
        ]

    def _data_of(self, audit: AuditResult) -> Data | None:
        if audit.of is None or not audit.intervals:
            return None
        return (self._environment, audit.of, audit.intervals[-1][1])

    def holds(self, outcome: NodeOutcome, result: EarlierResult) -> bool:
        """Whether a result is of the very data that a node has, which was not run.

        One of a blocking audit that failed in a run of its model is not: the model would not be without anything to do
        if SQLMesh had not computed it since, and so that audit has passed, outside of Dagster.
        """
        if outcome.of is None or outcome.last_interval_end is None:
            return False
        has = (self._environment, outcome.of, outcome.last_interval_end)
        is_older = result.evaluated_at * 1000 < (outcome.altered_at or 0)  # than a restatement, or what a view shows
        return result.of == has and not is_older and (result.alone or not result.is_blocking_failure)

    def carried_over(
        self, outcome: NodeOutcome, results: Mapping[dg.AssetCheckKey, EarlierResult]
    ) -> list[dg.AssetCheckResult]:
        """Last known results of a node that had nothing to do, labelled as such, as far as they still hold."""
        return [
            dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=result.passed,
                severity=result.severity,
                description=f"{result.sentence}. Repeated, because {self._assets.name(outcome.fqn)} was not executed.",
                metadata={**data_metadata(result.of, result.alone), **result.label},
            )
            for key, result in results.items()
            if self.holds(outcome, result)
        ]

    def known_failures(self, outcome: NodeOutcome, results: Mapping[dg.AssetCheckKey, EarlierResult]) -> list[str]:
        """Blocking audits of a node that had nothing to do which are known to fail, each in a sentence."""
        return [
            f"{self._assets.name(outcome.fqn)}: the check {key.name} failed when its audit was last evaluated (run "
            f"{result.run_id}), and nothing has been computed since. Execute the check alone to evaluate it again."
            for key, result in sorted(results.items(), key=lambda item: item[0].name)
            if result.is_blocking_failure and self.holds(outcome, result)
        ]

    def audited(self, outcome: AuditOnlyOutcome) -> list[dg.AssetCheckResult]:
        """The checks of a node of which only the audits were asked for."""
        results = self.audit_checks(outcome.fqn, outcome.audits, alone=True)
        if outcome.error is None:
            results += self.audits_that_did_not_run(outcome)
        if outcome.fqn not in self._assets.specs:
            return results
        key = dg.AssetCheckKey(self._assets.key(outcome.fqn), STATUS_CHECK)
        if key in self._selected:
            name = self._assets.name(outcome.fqn)
            said = (
                f"{name}: its audits could not be evaluated: {outcome.error}"
                if outcome.error
                else f"{name} has intervals that are due and not computed: {ranges(outcome.missing)}. "
                "Only checks were selected, so it was not executed."
                if outcome.missing
                else f"{name} has nothing to do. Only checks were selected."
            )
            results.append(
                dg.AssetCheckResult(
                    asset_key=key.asset_key,
                    check_name=key.name,
                    passed=not (outcome.missing or outcome.error),
                    severity=_severity(outcome.error is not None),
                    description=said,
                )
            )
        return results

    def audits_that_did_not_run(self, outcome: NodeOutcome | AuditOnlyOutcome) -> list[dg.AssetCheckResult]:
        """Checks of an audited model whose audit the environment does not have: local files are ahead."""
        ran = self._assets.check_of(outcome.fqn, outcome.audits)
        name = self._assets.name(outcome.fqn)
        reason = (
            f"Not evaluated: what environment {self._environment} has promoted of {name} does not have this audit. "
            "Apply a plan to promote the local change."
        )
        return [
            not_evaluated(key, reason)
            for key in self._assets.audit_checks.get(outcome.fqn, ())
            if key in self._selected and key not in ran
        ]

    def not_evaluated(self, outcome: NodeOutcome, reported: Set[dg.AssetCheckKey]) -> list[dg.AssetCheckResult]:
        """Checks of a node's audits that have no result in a run that fails, where Dagster would show them as failed.

        Args:
            reported: The checks that have a result.
        """
        return [
            not_evaluated(key, f"Not evaluated: {self._why_not_evaluated(outcome)}")
            for key in self._assets.audit_checks.get(outcome.fqn, ())
            if key in self._selected and key not in reported
        ]

    def _why_not_evaluated(self, outcome: NodeOutcome) -> str:
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
                return f"{name} is not promoted in environment {self._environment}."
            case _:
                return (
                    f"{name} was not executed in this run, and no earlier result is about the data that it has now. "
                    "Execute this check alone to evaluate it."
                )

    # -- metadata ---------------------------------------------------------------------------------

    def _what_ran(self, outcome: NodeOutcome) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "sqlmesh/status": outcome.outcome.value,
            "sqlmesh/environment": self._environment,
        }
        if outcome.promoted is not None:
            metadata["sqlmesh/snapshot_version"] = outcome.promoted.version
            if outcome.promoted.table_name and self._environment != self._assets.manifest.environment:
                metadata["dagster/table_name"] = outcome.promoted.table_name
            changed = unapplied_change(self._assets, outcome.fqn, outcome.promoted)
            if changed:
                metadata["sqlmesh/unapplied_change"] = changed
        return metadata

    def _computed(self, outcome: NodeOutcome) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        if outcome.intervals:
            metadata.update(_intervals_metadata(outcome.intervals))
            metadata["sqlmesh/batches"] = outcome.finished_batches
            metadata["sqlmesh/duration_ms"] = outcome.duration_ms
        if outcome.rows is not None:
            metadata["sqlmesh/rows"] = outcome.rows
        if outcome.row_count is not None:
            metadata["dagster/row_count"] = outcome.row_count
        if outcome.bytes is not None:
            metadata["sqlmesh/bytes"] = outcome.bytes
        if outcome.attempts > 1:
            metadata["sqlmesh/attempts"] = outcome.attempts
        if outcome.reason:
            metadata["sqlmesh/reason"] = outcome.reason
        if outcome.next_due:
            metadata["sqlmesh/next_due"] = _timestamp(outcome.next_due)
        if outcome.last_interval_end:
            metadata["sqlmesh/computed_up_to"] = _timestamp(outcome.last_interval_end)
        return {**metadata, **self._causes(outcome)}

    def _causes(self, outcome: NodeOutcome) -> dict[str, Any]:
        """Why a model is not executed; on a run's page Dagster shows metadata, and no descriptions."""
        metadata: dict[str, Any] = {}
        if outcome.outcome is Outcome.WAITING or (outcome.outcome is Outcome.EXECUTED and outcome.unselected):
            metadata["sqlmesh/waiting_for"] = self._awaited(outcome)
        if outcome.culprits:
            metadata["sqlmesh/blocked_by"] = ", ".join(map(self._assets.name, outcome.culprits))
        if outcome.failed_audits:
            metadata["sqlmesh/failed_audits"] = ", ".join(outcome.failed_audits)
        if outcome.errors:
            metadata["sqlmesh/error"] = "\n".join(outcome.errors)
        return metadata

    # -- the one failure --------------------------------------------------------------------------

    def failure(
        self,
        outcomes: Sequence[NodeOutcome],
        audited: Sequence[AuditOnlyOutcome],
        problems: Sequence[str],
    ) -> dg.Failure | None:
        """The step's one Failure, which names each failed model, its error and what it blocked; None if all is well."""
        lines = [
            *self._failed_lines(outcomes),
            *self._missing_lines(outcomes),
            *self._interrupted_lines(outcomes, problems),
            *self._audit_lines(audited),
        ]
        if not lines and not problems and not any(one.outcome.is_failure for one in outcomes):
            return None
        counts = _counts(outcomes)
        head = [f"SQLMesh in environment {self._environment}: {counts}."] if counts else []
        return dg.Failure(
            description=_paragraphs([*head, *problems, *lines]),
            metadata={
                f"sqlmesh/{outcome.value}": self._names([one.fqn for one in outcomes if one.outcome is outcome])
                for outcome in Outcome
                if any(one.outcome is outcome for one in outcomes)
            },
        )

    def _failed_lines(self, outcomes: Sequence[NodeOutcome]) -> list[str]:
        """What went wrong with each model, up to a bound; beyond it, the models' names."""
        named = (Outcome.BLOCKED, Outcome.INTERRUPTED, Outcome.NOT_IN_ENVIRONMENT)
        failed = [one for one in outcomes if one.outcome.is_failure and one.outcome not in named]
        blocked = [one for one in outcomes if one.outcome is Outcome.BLOCKED]
        lines = []
        for outcome in failed[:MAX_LISTED]:
            held_up = [one.fqn for one in blocked if outcome.fqn in one.culprits]
            lines.append(self.sentence(outcome) + (f"\n\nBlocked by it: {self._names(held_up)}." if held_up else ""))
        rest = [one.fqn for one in failed[MAX_LISTED:]]
        return [*lines, f"Failed as well: {self._names(rest)}."] if rest else lines

    def _interrupted_lines(self, outcomes: Sequence[NodeOutcome], problems: Sequence[str]) -> list[str]:
        """What was interrupted: one line a cause, since one interrupts many, and one for each that got somewhere."""
        interrupted = [one for one in outcomes if one.outcome is Outcome.INTERRUPTED]
        lines = [self.sentence(one) for one in interrupted if one.intervals]
        by_cause: dict[str, list[str]] = {}
        for one in interrupted:
            if not one.intervals and not self._was_not_started(one):
                by_cause.setdefault(" ".join(one.errors), []).append(one.fqn)
        not_started = [one.fqn for one in interrupted if self._was_not_started(one)]
        if not_started:
            lines.append(f"Not started: {self._names(not_started)}. The next run executes them.")
        for cause, nodes in by_cause.items():
            reason = "" if cause in problems else f" {_as_sentence(cause)}"
            lines.append(f"Interrupted: {self._names(nodes)}.{reason}")
        return lines

    def _missing_lines(self, outcomes: Sequence[NodeOutcome]) -> list[str]:
        """What is not promoted, with the plan that promotes it, once for all of it."""
        nodes_by_reason: dict[str, list[str]] = {}
        for outcome in outcomes:
            if outcome.outcome is Outcome.NOT_IN_ENVIRONMENT:
                nodes_by_reason.setdefault(" ".join(outcome.errors), []).append(outcome.fqn)
        return [f"{self._names(nodes)}: {reason}" for reason, nodes in nodes_by_reason.items()]

    def _audit_lines(self, audited: Sequence[AuditOnlyOutcome]) -> list[str]:
        """What is wrong with nodes of which only the audits were asked for."""
        errors = [
            f"{self._assets.name(one.fqn)}: its audits could not be evaluated: {one.error}"
            for one in audited
            if one.error
        ]
        failing = [
            f"{self._assets.name(one.fqn)}: audit {audit.name} failed: {rows(audit.failing_rows)}."
            for one in audited
            for audit in one.audits
            if audit.blocking and audit.failing_rows
        ]
        broken = [
            f"{self._assets.name(one.fqn)}: audit {audit.name} could not be evaluated: {audit.error}"
            for one in audited
            for audit in one.audits
            if audit.error
        ]
        return [*errors, *broken, *failing]

    def _names(self, nodes: Sequence[str]) -> str:
        return ", ".join(map(self._assets.name, nodes))


def unapplied_change(assets: ProjectAssets, node: str, promoted: msg.PromotedNode) -> str | None:
    """How the local file of a model differs from what is promoted: `data`, `metadata` or None.

    Its own definition only: a change upstream shows on the model upstream.
    """
    model = assets.models.get(node)
    if model is None or model.data_hash == promoted.data_hash:
        same = model is None or model.metadata_hash == promoted.metadata_hash
        return None if same else "metadata"
    return "data"


def ranges(intervals: Iterable[msg.Interval]) -> str:
    """Intervals for people: `[start, end)` in UTC, those of whole days without a time."""
    return ", ".join(f"[{', '.join(_alike(interval))})" for interval in intervals)


def _alike(interval: msg.Interval) -> list[str]:
    """Both ends in one format."""
    ends = [instant(end) for end in interval]
    midnight = "T00:00:00Z"
    return [end.removesuffix(midnight) for end in ends] if all(end.endswith(midnight) for end in ends) else ends


def _paragraphs(texts: Sequence[str]) -> str:
    """Texts one below the other, behind one of several lines with a blank line between."""
    joined = ""
    for text in texts:
        joined += f"{text}\n\n" if "\n" in text else f"{text}\n"
    return joined.rstrip("\n")


def _intervals_metadata(intervals: Sequence[msg.Interval]) -> dict[str, Any]:
    shown = [ranges([interval]) for interval in intervals]
    return {
        "sqlmesh/intervals": listed(shown),
        "sqlmesh/interval_start": _timestamp(intervals[0][0]),
        "sqlmesh/interval_end": _timestamp(intervals[-1][1]),
    }


def not_evaluated(check: dg.AssetCheckKey, reason: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=reason,
        metadata={NOT_EVALUATED: True},
    )


def _plain(metadata: Mapping[str, dg.MetadataValue], name: str) -> Any:
    """A value of our own in metadata on record; None where it is not there."""
    value = metadata.get(f"sqlmesh/{name}")
    return None if value is None else value.value


def _timestamp(milliseconds: int) -> dg.TimestampMetadataValue:
    return dg.MetadataValue.timestamp(milliseconds / 1000)


def _severity(blocking: bool) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN


def rows(count: int) -> str:
    """How many rows, for people."""
    return counted(count, "row")


def _as_sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _counts(outcomes: Sequence[NodeOutcome]) -> str:
    worst_first = sorted(Outcome, key=lambda outcome: (not outcome.is_failure, outcome is Outcome.BLOCKED))
    found = [
        (sum(one.outcome is outcome for one in outcomes), outcome.value.replace("_", " ")) for outcome in worst_first
    ]
    return ", ".join(f"{count} {word}" for count, word in found if count)


def _audit_metadata(audit: AuditResult) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "sqlmesh/audit": audit.name,
        "sqlmesh/failing_rows": audit.failing_rows,
        "sqlmesh/blocking": audit.blocking,
        "sqlmesh/intervals": ranges(audit.intervals),
    }
    if audit.args:
        metadata["sqlmesh/arguments"] = dg.MetadataValue.json(audit.args)
    if audit.query:
        metadata["sqlmesh/query"] = sql_metadata(audit.query)
    return metadata
