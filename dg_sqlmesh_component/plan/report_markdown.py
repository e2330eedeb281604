"""The report of a plan for a comment on a pull request, as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dg_sqlmesh_component.plan import compared_data, sentences
from dg_sqlmesh_component.plan.gate import headline
from dg_sqlmesh_component.plan.report import PlanReport
from dg_sqlmesh_component.protocol.formatting import counted, fenced
from dg_sqlmesh_component.report.markdown import LIMIT, code, fitting, literal, paragraphs, table_row, table_start

_Table = tuple[list[str], Sequence[str], list[str]]
"""The title, if there is one, the head and the rows, as Markdown."""

_REMARK = 100
"""The characters that a note about left-out parts may have."""


def _left_out(number: int, noun: str) -> list[str]:
    return [f"\n{counted(number, noun)} left out: see the page of the run."] if number else []


def markdown(report: PlanReport) -> str:
    """The report for a comment on a pull request: what needs a decision, then tables, then differences."""
    text = "\n\n".join(_decision(report))
    if len(text) > LIMIT - _REMARK:
        text = _undecidable(report)
    tables = [_diff(report), _models(report)] if report.plan else []
    for title, head, rows in tables:
        if rows:
            start = "\n\n".join(["", *title, table_start(head)])
            shown = fitting(rows, LIMIT - len(text) - len(start) - _REMARK)
            text += "\n".join([start, *shown, *_left_out(len(rows) - len(shown), "row")])
    differences = _legend(report) + _differences(report) if report.plan else []
    shown = fitting(differences, LIMIT - len(text) - _REMARK)
    return "\n\n".join([text, *shown, *_left_out(len(differences) - len(shown), "difference")]) + "\n"


def _decision(report: PlanReport) -> list[str]:
    """What must not be cut."""
    result = [paragraphs(report.result)] if report.result else []
    if report.plan is None:
        title = (
            f"Preview {report.environment}" if report.is_preview else f"No plan for environment {report.environment}"
        )
        return [f"## {literal(title.strip())}", *result, *_refusal_lines(report)]
    parts = [
        *([f"## Preview {literal(report.environment)}", *result] if report.is_preview else []),
        f"## {literal(headline(report.plan))}",
        *([] if report.is_preview else result),
        *_refusal_lines(report),
        *_losses(report),
        *([f"Digest: `{report.digest}`"] if report.digest else []),
    ]
    is_open = report.result is None or report.is_preview
    if is_open and report.apply_command and (report.plan.models or report.plan.statements):
        how = "To apply exactly this plan" if not report.refusals else "To apply exactly this plan all the same"
        parts.append(f"{how}, and no other:\n\n{fenced(report.apply_command, 'bash')}")
    return parts


def _undecidable(report: PlanReport) -> str:
    """In place of a decision whose reasons are too long: no digest and no command, as nobody can review them here.

    A comment is not cut, so that no loss or refusal is hidden.
    """
    kinds = ", ".join(refusal.kind for refusal in report.refusals) or "none"
    losses = sum(part.count("\n- ") for part in _losses(report)) if report.plan else 0
    title = headline(report.plan) if report.plan else f"No plan for environment {report.environment}"
    return (
        f"## {literal(title)}\n\n> **Too long for a comment.** Refusals: {kinds}. Losses: {losses}. Review all of "
        "them, and the digest, on the page of the run."
    )


def _diff(report: PlanReport) -> _Table:
    planned = report.planned
    rows = [compared_data.row(compared, planned.get(compared.fqn)) for compared in report.diff]
    cells = [table_row(list(map(literal, row.values()))) for row in rows]
    return ["### Data compared with prod"], compared_data.HEAD, cells


def _refusal_lines(report: PlanReport) -> list[str]:
    has_ended = report.is_apply or report.plan is None
    refused = "Refused: nothing was changed" if has_ended else "Applying this plan would be refused"
    return [
        f"> **{'Failed' if refusal.kind == 'error' else refused} ({refusal.kind}).** "
        + _quoted(paragraphs(refusal.message))
        for refusal in report.refusals
    ]


def _losses(report: PlanReport) -> list[str]:
    """What the environment loses, first: that is what a reviewer must not miss."""
    assert report.plan is not None
    environment = literal(report.plan.environment)
    if report.is_preview and report.plan.environment == report.environment:
        return []
    lines = [
        f"- {code(model.name)} is removed: {sentences.after_removal(model)} If nobody has removed it, this branch is "
        "older than the model: merge the main branch."
        for model in report.plan.models
        if model.change == "removed"
    ]
    for model in report.plan.models:
        if model.destructive:
            lines += [
                f"- {code(model.name)}: SQLMesh {literal(effect)}, in the table that {environment} shows. "
                f"{sentences.fate(effect)}"
                for effect in model.destructive
            ]
        else:
            lines += [
                f"- {code(model.name)}: queries that use the column {literal(column.removeprefix('drops '))} will "
                "fail. "
                f"{sentences.ONE_TABLE if model.has_one_table else sentences.KEPT}"
                for column in model.columns
                if column.startswith("drops ")
            ]
        lines += [
            f"- {code(view)} reads {code(model.name)}. {sentences.of_dependent(model)}"
            for view in model.dependents or ()
        ]
    return [f"### {environment} loses\n\n" + "\n".join(lines)] if lines else []


def _models(report: PlanReport) -> _Table:
    assert report.plan is not None
    rows = [
        table_row(
            [
                code(model.name),
                literal(sentences.change(model)),
                literal(sentences.effect(model)),
                literal(sentences.computes(model, report.seconds.get(model.fqn))),
                literal(model.owner or ""),
            ]
        )
        for model in report.plan.models
    ]
    return [], ("Model", "Change", "What readers see", "Computes", "Owner"), rows


def _legend(report: PlanReport) -> list[str]:
    assert report.plan is not None
    changed = [model for model in report.plan.models if model.change]
    upstream = "Changed upstream: the file of this model is unchanged, and a model that it reads has changed."
    forward_only = (
        f"Forward-only: the table that {literal(report.plan.environment)} shows is changed in place, and the plan "
        "does not compute existing rows again."
    )
    return [
        *([upstream] if any(model.change == "indirect" for model in changed) else []),
        *([forward_only] if any(model.is_forward_only for model in changed) else []),
    ]


def _differences(report: PlanReport) -> list[str]:
    assert report.plan is not None
    found = [(f"<code>{literal(model.name)}</code>", model.diff) for model in report.plan.models if model.diff]
    if report.plan.statements:
        found.append(("Statements and requirements", report.plan.statements))
    return [f"<details><summary>{title}</summary>\n\n{fenced(diff, 'diff')}\n\n</details>" for title, diff in found]


def _quoted(text: str) -> str:
    return text.replace("\n", "\n> ")
