"""The last word about a check, for steps and for the sensor. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import dagster as dg

from dg_sqlmesh_component.definitions.translator import INTERVALS_CHECK, LATE_DATA_CHECK, STATUS_CHECK
from dg_sqlmesh_component.history import repetition
from dg_sqlmesh_component.history.earlier_results import (
    ABOUT_NO_DATA,
    EarlierResult,
    FailedIntervals,
    check_result,
    data_in,
    data_metadata,
    evaluation_of,
    not_evaluated,
    repeated,
)
from dg_sqlmesh_component.history.records import OutsideData
from dg_sqlmesh_component.history.stored_record import internal
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import ranges
from dg_sqlmesh_component.protocol.intervals import common, subtract
from dg_sqlmesh_component.report.intervals_check import (
    coverage_metadata,
    coverage_sentences,
    is_complete,
    outdated_sentence,
    skipped_sentence,
)
from dg_sqlmesh_component.report.metadata import audit_metadata, status_metadata
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, AuditResult, NodeOutcome, Outcome, Verdict
from dg_sqlmesh_component.report.wording import Wording, uncorrected_sentence

Reported: TypeAlias = NodeOutcome | AuditOnlyOutcome | OutsideData
"""What a step or a tick reports about one node."""

Earlier: TypeAlias = Mapping[dg.AssetCheckKey, EarlierResult]
"""The last known results, by check."""

_OF_ROWS = ("sqlmesh/query", "sqlmesh/failing_rows")


@dataclass(frozen=True)
class Checks:
    """Decides the results of checks."""

    wording: Wording
    now: int  # the instant of the run or tick, epoch milliseconds

    def result(
        self, check: dg.AssetCheckKey, node: Reported, earlier: EarlierResult | None = None
    ) -> dg.AssetCheckResult | None:
        """The result of a check after what was reported about its node; None if there is none.

        The last result (`earlier`) is repeated if the node's data is unchanged.
        """
        if check.name == INTERVALS_CHECK:
            return self._intervals(check, node)
        # Nobody has audited data from outside. What compares loads makes the results about late data (`late_data.py`).
        if isinstance(node, OutsideData) or check.name == LATE_DATA_CHECK:
            return None
        if check.name == STATUS_CHECK:
            return self._earlier_failure(check, node, earlier) or self._status(check, node)
        audit = self.wording.assets.checks_of_results(node.fqn, node.audits).get(check)
        if audit is not None:
            if audit.error:
                return self.not_evaluated(check, node, audit.error)
            return self._audited(check, node, audit, earlier)
        # SQLMesh has evaluated all audits of the promoted version, and this one is not among them.
        if _has_evaluated_all(node):
            return not_evaluated(check, self.wording.promoted_version(node.fqn, "does not have this audit"))
        if not isinstance(node, NodeOutcome) or not node.outcome.rule.repeats or not self.wording.is_declared:
            return None
        if why_not := repetition.why_not_repeated(node.idle, earlier, self.wording.environment):
            return not_evaluated(check, self.wording.why_not_evaluated(node, f"is repeated, because {why_not}"))
        assert earlier is not None, "it is the reason"
        why = f"{self.wording.assets.name(node.fqn)} was not executed, and its data is unchanged"
        # A failure is repeated with its rows and query. They are left out of the many results that have passed.
        of_failure = {} if earlier.passed else earlier.metadata
        return repeated(check, earlier, why, {**data_metadata(earlier.audited_data), **of_failure})

    def not_evaluated(self, check: dg.AssetCheckKey, node: Reported, why: str) -> dg.AssetCheckResult:
        """A warning instead of a result. If the model was begun, its earlier results are about other rows."""
        is_begun = isinstance(node, NodeOutcome) and node.was_started
        return not_evaluated(check, why, self.wording.environment if is_begun else None)

    def evaluations(
        self, checks: Iterable[dg.AssetCheckKey], node: Reported, earlier: Earlier = MappingProxyType({})
    ) -> Iterator[dg.AssetCheckEvaluation]:
        """The results of these checks, as events. The events of a job without assets have to be these."""
        for result in [self.result(check, node, earlier.get(check)) for check in checks]:
            if result is not None:
                yield evaluation_of(result)

    def added_up(
        self, outcomes: Iterable[tuple[str, NodeOutcome | AuditOnlyOutcome]], known: Earlier
    ) -> dict[dg.AssetCheckKey, EarlierResult]:
        """The last result of each audit of these outcomes, which are in the order of time, each with its run.

        Each adds to the one before, and the first one to the `known` result.
        """
        found: dict[dg.AssetCheckKey, EarlierResult] = {}
        for run_id, outcome in outcomes:
            at = _evaluated_at(outcome)
            assert at is not None, "its audits were evaluated"
            for check, audit in self.wording.assets.checks_of_results(outcome.fqn, outcome.audits).items():
                result = self._audited(check, outcome, audit, found.get(check, known.get(check)))
                data, text = data_in(result.metadata), result.description or ""
                found[check] = EarlierResult(
                    result.passed, result.severity, run_id, at / 1000, data, result.metadata, text
                )
        return found

    def _status(self, check: dg.AssetCheckKey, node: NodeOutcome | AuditOnlyOutcome) -> dg.AssetCheckResult:
        metadata: dict[str, Any]
        if isinstance(node, AuditOnlyOutcome):
            sentence, metadata, is_unknown = self.wording.audit_only_sentence(node), {}, node.error is not None
            warns = node.missing or node.unaccepted
            verdict = Verdict.FAILED if node.error else Verdict.WARNING if warns else Verdict.PASSED
        else:
            # The metadata contains the error, and the step logs it. Dagster logs this text again, in quotes.
            sentence, metadata = self.wording.summary_with_error(node), status_metadata(node)
            verdict, is_unknown = node.verdict, node.outcome is Outcome.NOT_IN_ENVIRONMENT
        if is_unknown:  # the status before it still applies as soon as the model is promoted and can be audited
            metadata |= ABOUT_NO_DATA
        return _result(check, verdict, sentence, metadata)

    @staticmethod
    def _earlier_failure(
        check: dg.AssetCheckKey, node: NodeOutcome | AuditOnlyOutcome, earlier: EarlierResult | None
    ) -> dg.AssetCheckResult | None:
        """The failure of a model that nobody has computed since, if a run has only evaluated its audits."""
        if not isinstance(node, AuditOnlyOutcome) or earlier is None:
            return None
        if not repetition.repeats_failed_status(earlier, node.altered_at):
            return None
        return repeated(check, earlier, "only checks were selected", earlier.metadata)

    def _intervals(self, check: dg.AssetCheckKey, node: Reported) -> dg.AssetCheckResult | None:
        wording, coverage = self.wording, node.coverage
        if coverage is None:
            has_result = not isinstance(node, OutsideData) and not _has_failed(node)
            why = wording.promoted_version(node.fqn, "is not incremental")
            return not_evaluated(check, why) if has_result else None
        slack = wording.assets.intervals_slack
        assert slack is not None, "there are no such checks without it"
        # A model that waits, failed or is blocked has its reason in place of the advice to run it.
        not_run = isinstance(node, NodeOutcome) and (node.outcome.rule.waits or node.outcome.is_failure)
        sentences = [
            coverage_sentences(wording.assets.name(node.fqn), coverage, slack, self.now, advises=not not_run),
            *([wording.summary_with_error(node)] if isinstance(node, NodeOutcome) and not_run else []),
        ]
        verdict = Verdict.PASSED if is_complete(coverage, slack, self.now) else Verdict.FAILED
        # Always the number, so that Dagster plots when something was missing.
        metadata = {**coverage_metadata(coverage), "sqlmesh/missing_intervals": coverage.missing_intervals}
        if coverage.skipped:
            verdict = Verdict.WARNING if verdict is Verdict.PASSED else verdict
            sentences.append(skipped_sentence(wording.assets.name(node.fqn), coverage.skipped))
        if outdated := coverage.outdated:
            verdict = Verdict.WARNING if verdict is Verdict.PASSED else verdict
            first = [wording.assets.name(of) for of in coverage.restated_first]
            text = outdated_sentence(wording.assets.name(node.fqn), outdated, coverage.before_start, first)
            result = outdated_result(check, outdated, text)
            sentences.append(str(result.description))
            metadata |= result.metadata or {}
        return _result(check, verdict, " ".join(sentences), metadata)

    def _audited(
        self,
        check: dg.AssetCheckKey,
        node: NodeOutcome | AuditOnlyOutcome,
        audit: AuditResult,
        earlier: EarlierResult | None,
    ) -> dg.AssetCheckResult:
        # The result is about everything that was computed until then.
        up_to = _evaluated_at(node)
        data = None
        if audit.audited_data is not None and up_to is not None:
            data = (self.wording.environment, audit.audited_data, up_to)
        table = _table(node, audit)
        before = _uncorrected(audit, earlier, table)
        reads_intervals = not audit.of_whole_table and node.fqn not in self.wording.assets.standalone_audits
        is_known = reads_intervals and not audit.passed
        failed = FailedIntervals(audit.failed_intervals, audit.failing_rows, table) if is_known else None
        kept = failed.with_earlier(before) if failed else before
        # An older failure is a warning. It stops no downstream model: nothing that this run computed has failed. Its
        # query and sample stay: an apply may have found it in an earlier round, which has no check of its own.
        severity = self.wording.assets.severity(node.fqn, audit.blocking)
        was_executed = isinstance(node, NodeOutcome) and node.outcome is not Outcome.UP_TO_DATE
        of_audit = audit_metadata(audit, of_all_intervals=reads_intervals and not was_executed)
        text = self.wording.audit_result(node.fqn, audit)
        if before:
            text += uncorrected_sentence(before, is_pending=_is_pending(before, node))
        if earlier and before and audit.passed:
            severity = dg.AssetCheckSeverity.WARN
            of_audit = _of_earlier_rows(before, earlier, of_audit)
        metadata = {**of_audit, **data_metadata(data, kept)}
        return check_result(check, audit.passed and not before, severity, text, metadata)


def _uncorrected(audit: AuditResult, earlier: EarlierResult | None, table: str | None) -> FailedIntervals | None:
    """Where rows failed in an earlier run, in intervals of the same table that this one has not audited."""
    before = earlier.failed_in if earlier is not None else None
    if before is None or audit.of_whole_table or (before.table and table and before.table != table):
        return None
    left = tuple(subtract(before.intervals, audit.intervals))
    return replace(before, intervals=left, rows=before.rows if left == before.intervals else 0) if left else None


def _is_pending(failed: FailedIntervals, node: NodeOutcome | AuditOnlyOutcome) -> bool:
    """Whether some of the intervals are not computed, so that a run computes and audits them."""
    return node.coverage is not None and bool(common(failed.intervals, [*node.coverage.gaps, *node.coverage.waiting]))


def _of_earlier_rows(failed: FailedIntervals, earlier: EarlierResult, of_audit: Mapping[str, Any]) -> dict[str, Any]:
    """The rows that failed in other intervals, in place of the 0 rows of an audit that has passed."""
    rows = {name: value for name, value in earlier.metadata.items() if name in _OF_ROWS}
    others = {name: failed.rows for name in of_audit if name not in _OF_ROWS and failed.rows}
    return {**{name: of_audit[name] for name in _OF_ROWS if name in of_audit}, **others, **rows}


def _table(node: NodeOutcome | AuditOnlyOutcome, audit: AuditResult) -> str | None:
    """The version of the audited table. The data of an audit that reads other tables is not known."""
    if audit.audited_data is not None:
        return audit.audited_data.version
    return node.promoted.version if isinstance(node, NodeOutcome) and node.promoted else None


def _evaluated_at(node: NodeOutcome | AuditOnlyOutcome) -> int | None:
    if isinstance(node, AuditOnlyOutcome):
        return node.evaluated_at
    # An audit of a model that was up to date was evaluated on the rows that it has since they were altered last.
    return node.idle.altered_at or 0 if node.outcome is Outcome.UP_TO_DATE else node.computed_until


def _result(
    check: dg.AssetCheckKey, verdict: Verdict, description: str, metadata: Mapping[str, Any]
) -> dg.AssetCheckResult:
    severity = dg.AssetCheckSeverity.WARN if verdict is Verdict.WARNING else dg.AssetCheckSeverity.ERROR
    return check_result(check, verdict is Verdict.PASSED, severity, description, metadata)


def _has_evaluated_all(node: NodeOutcome | AuditOnlyOutcome) -> bool:
    """Whether SQLMesh has evaluated all audits of the promoted version."""
    if isinstance(node, AuditOnlyOutcome):
        return node.error is None
    return node.outcome.rule.materializes


def _has_failed(node: NodeOutcome | AuditOnlyOutcome) -> bool:
    return node.outcome.is_failure if isinstance(node, NodeOutcome) else node.error is not None


def outdated_result(check: dg.AssetCheckKey, outdated: Sequence[msg.Interval], text: str) -> dg.AssetCheckResult:
    """That a model lacks rows of models that it reads, which were computed for these ranges after it.

    A later run reads the ranges again if the state does not tell them any more.
    """
    metadata = {"sqlmesh/outdated": ranges(outdated), **internal(outdated=[list(of) for of in outdated])}
    return check_result(check, False, dg.AssetCheckSeverity.WARN, text, metadata)
