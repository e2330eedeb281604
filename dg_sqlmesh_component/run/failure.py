"""The step's one Failure."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from dg_sqlmesh_component.protocol.formatting import MAX_LISTED
from dg_sqlmesh_component.run.outcomes import AuditOnlyOutcome, NodeOutcome, Outcome
from dg_sqlmesh_component.run.wording import Wording, as_sentence, rows


def failure_of(
    wording: Wording,
    outcomes: Sequence[NodeOutcome],
    audited: Sequence[AuditOnlyOutcome],
    problems: Sequence[str],
) -> dg.Failure | None:
    """The step's one Failure, which names each failed model, its error and what it blocked; None if all is well."""
    lines = [
        *_failed_lines(wording, outcomes),
        *_missing_lines(wording, outcomes),
        *_interrupted_lines(wording, outcomes, problems),
        *_audit_lines(wording, audited),
    ]
    if not lines and not problems and not any(one.outcome.is_failure for one in outcomes):
        return None
    counts = _counts(outcomes)
    head = [f"SQLMesh in environment {wording.environment}: {counts}."] if counts else []
    return dg.Failure(
        description=_paragraphs([*head, *problems, *lines]),
        metadata={
            f"sqlmesh/{outcome.value}": wording.names([one.fqn for one in outcomes if one.outcome is outcome])
            for outcome in Outcome
            if any(one.outcome is outcome for one in outcomes)
        },
    )


def _failed_lines(wording: Wording, outcomes: Sequence[NodeOutcome]) -> list[str]:
    """What went wrong with each model, up to a bound; beyond it, the models' names."""
    named = (Outcome.BLOCKED, Outcome.INTERRUPTED, Outcome.NOT_IN_ENVIRONMENT)
    failed = [one for one in outcomes if one.outcome.is_failure and one.outcome not in named]
    blocked = [one for one in outcomes if one.outcome is Outcome.BLOCKED]
    lines = []
    for outcome in failed[:MAX_LISTED]:
        held_up = [one.fqn for one in blocked if outcome.fqn in one.culprits]
        lines.append(wording.sentence(outcome) + (f"\n\nBlocked by it: {wording.names(held_up)}." if held_up else ""))
    rest = [one.fqn for one in failed[MAX_LISTED:]]
    return [*lines, f"Failed as well: {wording.names(rest)}."] if rest else lines


def _interrupted_lines(wording: Wording, outcomes: Sequence[NodeOutcome], problems: Sequence[str]) -> list[str]:
    """What was interrupted: one line a cause, since one interrupts many, and one for each that got somewhere."""
    interrupted = [one for one in outcomes if one.outcome is Outcome.INTERRUPTED]
    lines = [wording.sentence(one) for one in interrupted if one.intervals]
    by_cause: dict[str, list[str]] = {}
    for one in interrupted:
        if not one.intervals and not wording.was_not_started(one):
            by_cause.setdefault(" ".join(one.errors), []).append(one.fqn)
    not_started = [one.fqn for one in interrupted if wording.was_not_started(one)]
    if not_started:
        lines.append(f"Not started: {wording.names(not_started)}. The next run executes them.")
    for cause, nodes in by_cause.items():
        reason = "" if cause in problems else f" {as_sentence(cause)}"
        lines.append(f"Interrupted: {wording.names(nodes)}.{reason}")
    return lines


def _missing_lines(wording: Wording, outcomes: Sequence[NodeOutcome]) -> list[str]:
    """What is not promoted, with the plan that promotes it, once for all of it."""
    nodes_by_reason: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.outcome is Outcome.NOT_IN_ENVIRONMENT:
            nodes_by_reason.setdefault(" ".join(outcome.errors), []).append(outcome.fqn)
    return [f"{wording.names(nodes)}: {reason}" for reason, nodes in nodes_by_reason.items()]


def _audit_lines(wording: Wording, audited: Sequence[AuditOnlyOutcome]) -> list[str]:
    """What is wrong with nodes of which only the audits were asked for."""
    errors = [
        f"{wording.names([one.fqn])}: its audits could not be evaluated: {one.error}" for one in audited if one.error
    ]
    failing = [
        f"{wording.names([one.fqn])}: audit {audit.name} failed: {rows(audit.failing_rows)}."
        for one in audited
        for audit in one.audits
        if audit.blocking and audit.failing_rows
    ]
    broken = [
        f"{wording.names([one.fqn])}: audit {audit.name} could not be evaluated: {audit.error}"
        for one in audited
        for audit in one.audits
        if audit.error
    ]
    return [*errors, *broken, *failing]


def _paragraphs(texts: Sequence[str]) -> str:
    """Texts one below the other, behind one of several lines with a blank line between."""
    joined = ""
    for text in texts:
        joined += f"{text}\n\n" if "\n" in text else f"{text}\n"
    return joined.rstrip("\n")


def _counts(outcomes: Sequence[NodeOutcome]) -> str:
    worst_first = sorted(Outcome, key=lambda outcome: (not outcome.is_failure, outcome is Outcome.BLOCKED))
    found = [
        (sum(one.outcome is outcome for one in outcomes), outcome.value.replace("_", " ")) for outcome in worst_first
    ]
    return ", ".join(f"{count} {word}" for count, word in found if count)
