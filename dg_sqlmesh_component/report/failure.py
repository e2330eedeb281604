"""The Failure that ends a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import dagster as dg

from dg_sqlmesh_component.protocol.formatting import MAX_LISTED, as_sentence
from dg_sqlmesh_component.protocol.graph import grouped
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, NodeOutcome, Outcome, last_outcomes
from dg_sqlmesh_component.report.summary import summary_line
from dg_sqlmesh_component.report.wording import NEXT_STEP, Wording


def build_failure(
    wording: Wording,
    reported: Sequence[NodeOutcome | AuditOnlyOutcome],
    problems: Sequence[str],
    advice: str | None = None,
    materialized: Collection[str] = (),
) -> dg.Failure | None:
    """One Failure with the first failed models, their errors and the models that they blocked; None if nothing failed.

    `problems` are about the whole step. `advice` says what to do if a model or its data needs a correction. The run has
    `materialized` models although it has not executed them.
    """
    outcomes = last_outcomes(outcome for outcome in reported if isinstance(outcome, NodeOutcome))
    audited = [outcome for outcome in reported if isinstance(outcome, AuditOnlyOutcome)]
    # Models that are not promoted have an advice of their own, which comes first.
    is_promoted = all(outcome.outcome is not Outcome.NOT_IN_ENVIRONMENT for outcome in outcomes)
    needs_correction = is_promoted and any(outcome.needs_correction for outcome in outcomes)
    lines = [
        *_failed_lines(wording, outcomes),
        *_not_promoted_lines(wording, outcomes),
        *_interrupted_lines(wording, outcomes, problems),
        *_audit_lines(wording, [*audited, *(of for of in outcomes if not of.outcome.is_failure)]),
    ]
    if not lines and not problems and not any(outcome.outcome.is_failure for outcome in outcomes):
        return None
    lines += [*_not_failed_lines(wording, outcomes, materialized), *([advice] if advice and needs_correction else [])]
    nodes_by_kind = {kind: [outcome.fqn for outcome in outcomes if outcome.outcome is kind] for kind in Outcome}
    head = [summary_line(wording, outcomes)] if outcomes else []
    return dg.Failure(
        description=_paragraphs([*head, *problems, *lines]),
        metadata={f"sqlmesh/{kind.value}": wording.names(nodes) for kind, nodes in nodes_by_kind.items() if nodes},
    )


def _failed_lines(wording: Wording, outcomes: Sequence[NodeOutcome]) -> list[str]:
    """The error of each failed model, up to a limit; beyond it, the models' names."""
    failed = [outcome for outcome in outcomes if outcome.outcome.rule.is_cause]
    lines = []
    for failure in failed[:MAX_LISTED]:
        blocked_by_it = [outcome.fqn for outcome in outcomes if failure.fqn in outcome.failed_upstream]
        lines.append(
            wording.sentence(failure) + (f"\n\nBlocked by it: {wording.names(blocked_by_it)}." if blocked_by_it else "")
        )
    rest = [failure.fqn for failure in failed[MAX_LISTED:]]
    return [*lines, f"Failed as well: {wording.names(rest)}."] if rest else lines


def _interrupted_lines(wording: Wording, outcomes: Sequence[NodeOutcome], problems: Sequence[str]) -> list[str]:
    """One line for each model with finished batches; for the others, one line for each cause."""
    interrupted = [outcome for outcome in outcomes if outcome.outcome is Outcome.INTERRUPTED]
    lines = [wording.sentence(outcome) for outcome in interrupted if outcome.intervals]
    cancelled = [outcome.fqn for outcome in interrupted if outcome.was_not_started and outcome.is_cancelled]
    if cancelled:
        lines.append(f"Not started: {wording.names(cancelled)}. {NEXT_STEP}")
    others = [outcome for outcome in interrupted if not outcome.intervals and outcome.fqn not in cancelled]
    for head, outcomes in (
        ("Interrupted", [outcome for outcome in others if not outcome.was_not_started]),
        ("Not started", [outcome for outcome in others if outcome.was_not_started]),
    ):
        for cause, nodes in _by_error(outcomes).items():
            reason = "" if cause in problems else f" {as_sentence(cause)}"
            next_step = f" {NEXT_STEP}" if any(outcome.is_cancelled for outcome in outcomes) else ""
            lines.append(f"{head}: {wording.names(nodes)}.{reason}{next_step}")
    return lines


def _not_promoted_lines(wording: Wording, outcomes: Sequence[NodeOutcome]) -> list[str]:
    """The models that are not promoted, with the plan that promotes them."""
    missing = [outcome for outcome in outcomes if outcome.outcome is Outcome.NOT_IN_ENVIRONMENT]
    return [f"{wording.names(nodes)}: {reason}" for reason, nodes in _by_error(missing).items()]


def _not_failed_lines(wording: Wording, outcomes: Sequence[NodeOutcome], materialized: Collection[str]) -> list[str]:
    """How many models look failed and are not: if a step fails, each planned asset without a materialization does."""
    healthy = [
        outcome.outcome.words
        for outcome in outcomes
        if outcome.outcome.rule.repeats and outcome.fqn in wording.assets.specs and outcome.fqn not in materialized
    ]
    if not healthy or not wording.is_declared:
        return []
    counts = ", ".join(f"{number} {words}" for words, number in Counter(healthy).items())
    return [f"Shown as failed in Dagster's graph and catalog, but not failed: {counts}. See their checks."]


def _by_error(outcomes: Sequence[NodeOutcome]) -> dict[str, list[str]]:
    return grouped((" ".join(outcome.errors), outcome.fqn) for outcome in outcomes)


def _audit_lines(wording: Wording, audited: Sequence[NodeOutcome | AuditOnlyOutcome]) -> list[str]:
    """Errors and blocking failures of audits of rows that the run has not computed."""
    audits = [(outcome.fqn, audit) for outcome in audited for audit in outcome.audits]
    return [
        *(wording.audit_only_sentence(of) for of in audited if isinstance(of, AuditOnlyOutcome) and of.error),
        *(wording.audit_sentence(fqn, audit) for fqn, audit in audits if audit.error),
        *(wording.audit_sentence(fqn, audit) for fqn, audit in audits if audit.blocking and audit.failing_rows),
    ]


def _paragraphs(texts: Sequence[str]) -> str:
    """One text per line. A blank line follows a text of several lines."""
    return "".join(f"{text}\n\n" if "\n" in text else f"{text}\n" for text in texts).rstrip("\n")
