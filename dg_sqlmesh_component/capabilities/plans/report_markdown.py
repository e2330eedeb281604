"""The report of a plan for a comment on a pull request, as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dg_sqlmesh_component.capabilities.plans import data_tables, sentences
from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.affected import by_asset
from dg_sqlmesh_component.capabilities.plans.gate import headline, shown_again
from dg_sqlmesh_component.capabilities.plans.picture import mermaid
from dg_sqlmesh_component.capabilities.plans.report import PlanReport
from dg_sqlmesh_component.config.yaml_text import yaml_block
from dg_sqlmesh_component.protocol.formatting import counted, fenced, listed, utc_text
from dg_sqlmesh_component.report.markdown import (
    LIMIT,
    PAGE_LIMIT,
    code,
    fitting,
    literal,
    paragraphs,
    table_row,
    table_start,
)

CAUTION = "> [!CAUTION]\n"
"""The first line of a block that GitHub and GitLab show in red. Dagster would show the line itself."""

_REMARK = 100
"""The characters that a note about left-out parts may have."""


@dataclass(frozen=True)
class _Table:
    """A section with a table."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]  # cells that are Markdown already
    numbers: Sequence[str] = ()  # the columns that are aligned to the right
    remark: str = ""


def _left_out(number: int, noun: str, where: str) -> list[str]:
    return [f"\n{counted(number, noun)} left out: see {where}."] if number else []


def markdown(report: PlanReport, *, in_dagster: bool = False) -> str:
    """The report for a comment on a pull request: what needs a decision, then tables, then differences.

    Args:
        in_dagster: For Dagster's page. It draws no picture, and its launchpad takes a run config.
    """
    is_whole = in_dagster or is_reviewable(report)
    text = "\n\n".join(_decision(report, in_dagster)) if is_whole else _undecidable(report)
    text = text.replace(CAUTION, "") if in_dagster else text
    limit = (PAGE_LIMIT if in_dagster else LIMIT) - _REMARK
    rows_are_in, differences_are_in = (
        ("`sqlmesh/plan_json`", "`sqlmesh plan`") if in_dagster else ("the page of the run", "the page of the run")
    )
    if report.shown is None:
        return text + "\n"
    plan = report.shown.plan
    for table in _tables(report, plan):
        if not table.rows and not table.remark:
            continue
        start = "\n\n".join(["", f"### {table.title}", *([table.remark] if table.remark else [])])
        if table.rows:
            start += f"\n\n{table_start(table.head, table.numbers)}"
        rows = [table_row(cells) for cells in table.rows]
        shown = fitting(rows, limit - len(text) - len(start))
        text += "\n".join([start, *shown, *_left_out(len(rows) - len(shown), "row", rows_are_in)])
    if not in_dagster:
        text = "\n\n".join([text, *fitting(_picture(report, plan), limit - len(text))])
    differences = [*_notes(report, plan), *_examples(report), *_differences(plan)]
    shown = fitting(differences, limit - len(text))
    left_out = _left_out(len(differences) - len(shown), "difference", differences_are_in)
    return "\n\n".join([text, *shown, *left_out]) + "\n"


# -- what needs a decision ------------------------------------------------------------------------


def is_reviewable(report: PlanReport) -> bool:
    """Whether a comment can show all that needs a decision."""
    return len("\n\n".join(_decision(report))) <= LIMIT - _REMARK


def _decision(report: PlanReport, in_dagster: bool = False) -> list[str]:
    """What must not be cut."""
    start = [f"## {literal(_title(report))}", paragraphs(report.result or "")]
    if (shown := report.shown) is None:
        return list(filter(None, [*start, *_refusals(report)]))
    parts = [
        *start,
        _to_decide(report),
        literal(headline(shown.plan)) if report.is_preview else "",
        literal(sentences.between_two_plans(shown.plan)),
        literal(sentences.not_selected(shown.plan)),
        *_refusals(report),
        _losses(report),
        _unknown_columns(report),
        _shown_again(report),
        *map(literal, sentences.outdated(report.prod.plan.models if report.prod else ())),
        *map(literal, sentences.appended_again(report.with_rows_twice, advises=True)),
        literal(sentences.why_runs_wait(shown.plan)),
        f"Digest of this plan: `{shown.digest}`" if shown.digest else "",
    ]
    is_open = report.result is None or report.is_preview
    if is_open and shown.apply_config and (shown.plan.models or shown.plan.statements):
        when = "after the merge, CI" if report.is_preview else "CI"
        how = "exactly this plan anyway" if report.refusals else "exactly this plan"
        who = f"{when} or a person who may deploy to {literal(shown.plan.environment)} applies {how}"
        if in_dagster:
            [job] = shown.apply_config["ops"]
            config = fenced(yaml_block(shown.apply_config), "yaml")
            parts.append(f"**What to do:** {who}. In the launchpad of {literal(job)}, paste:\n\n{config}")
        else:
            parts.append(f"**What to do:** {who}:\n\n{fenced(shown.apply_command or '', 'bash')}")
    return list(filter(None, parts))


def _title(report: PlanReport) -> str:
    if report.is_preview:
        return f"Preview {report.environment}".strip()
    return headline(report.shown.plan) if report.shown else f"No plan for environment {report.environment}"


def _to_decide(report: PlanReport) -> str:
    """The numbers of what a reviewer has to look at, in one line."""
    failing = sum(map(data_tables.is_finding, (audit for of_model in report.audits for audit in of_model.audits)))
    failures = sum(refusal.kind == "error" for refusal in report.refusals)
    affected = len(by_asset(report.affected))
    found = [
        counted(number, noun, plural)
        for number, noun, plural in (
            (failures, "failure", None),
            (len(report.losses), "loss", "losses"),
            (len(report.refusals) - failures, "refusal", None),
            (sum(map(data_tables.lacks_rows, report.diff)), "model with removed rows", "models with removed rows"),
            (len(report.with_unknown_columns), "model with unknown columns", "models with unknown columns"),
            (len(report.left_outdated), "model that will lack rows", "models that will lack rows"),
            (len(report.with_rows_twice), "model with rows twice", "models with rows twice"),
            (len(report.added_again), "model with rows of an earlier time", "models with rows of an earlier time"),
            (failing, "failing audit", None),
            (affected, "asset outside of SQLMesh affected", "assets outside of SQLMesh affected"),
        )
        if number
    ]
    return f"**To decide:** {', '.join(found) or 'nothing is lost, refused or failing, according to this report'}."


def _undecidable(report: PlanReport) -> str:
    """In place of a decision whose reasons are too long: no digest and no command, as nobody can review them here.

    A comment is not cut, so that no loss or refusal is hidden.
    """
    kinds = ", ".join(refusal.kind for refusal in report.refusals) or "none"
    return (
        f"## {literal(_title(report))}\n\n> [!CAUTION]\n> **Too long for a comment.** Refusals: {kinds}. "
        f"Losses: {len(report.losses)}. "
        "Review all of them, and the digest, on the page of the run."
    )


def _refusals(report: PlanReport) -> list[str]:
    has_ended = report.is_apply or report.prod is None
    refused = "Refused: nothing was changed" if has_ended else "Applying this plan would be refused"
    return [
        _caution(
            f"**{'Failed' if refusal.kind == 'error' else refused} ({refusal.kind}).** {paragraphs(refusal.message)}"
        )
        for refusal in report.refusals
        if refusal.kind != "error" or not report.result  # else the result has the error
    ]


def _losses(report: PlanReport) -> str:
    """What the environment loses, first: that is what a reviewer must not miss."""
    lines = [f"- {code(finding.subject)} {literal(finding.sentence)}" for finding in report.losses]
    if report.prod is None or not lines:
        return ""
    return _caution(f"**{literal(report.prod.plan.environment)} loses:**\n\n" + "\n".join(lines))


def _unknown_columns(report: PlanReport) -> str:
    """Name the models that may lose columns: SQLMesh does not know their columns before it computes them."""
    names = ", ".join(code(model.name) for model in report.with_unknown_columns)
    return names and (
        f"Whether {names} would lose columns is not known before it is computed. SQLMesh knows them if a query names "
        "its columns in place of `*`, or if `sqlmesh create_external_models` has stored those of the tables."
    )


def _shown_again(report: PlanReport) -> str:
    again = shown_again({model.name: model for model in report.added_again})
    return literal(f"Environment {report.prod.plan.environment} then {again}") if report.prod and again else ""


def _caution(text: str) -> str:
    """A block that GitHub and GitLab show in red."""
    return CAUTION + "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


# -- tables ---------------------------------------------------------------------------------------


def _tables(report: PlanReport, plan: msg.PlanBuilt) -> Iterator[_Table]:
    unit_tests = f"{counted(report.unit_tests, 'unit test')} passed." if report.unit_tests else ""
    audits = [[code(model), *map(literal, cells)] for model, *cells in data_tables.audit_rows(report.audits)]
    passing = literal(data_tables.passing_audits(report.audits))
    numbers = ("Failing rows", "Failing rows in prod")
    remark = " ".join(filter(None, (passing, unit_tests)))
    yield _Table("Audits and unit tests", data_tables.AUDITS_HEAD, audits, numbers, remark)
    planned = report.planned
    rows = [data_tables.row(compared, planned.get(compared.fqn)) for compared in report.diff]
    cells = [[code(model), *map(literal, others)] for model, *others in rows]
    yield _Table("Data compared with prod", data_tables.HEAD, cells, data_tables.HEAD[1:6])
    columns = [row for compared in report.diff for row in data_tables.column_rows(compared)]
    cells = [[code(model), code(column), *map(literal, others)] for model, column, *others in columns]
    yield _Table("Columns that differ", data_tables.COLUMNS_HEAD, cells, data_tables.COLUMNS_HEAD[2:])
    yield _affected(report, planned)
    head = ("Model", "Change", "What readers see", "Computes", "Owner")
    unchanged = [model for model in plan.models if not model.change and (model.rows.intervals or model.rows.waiting)]
    yield _Table("Models", head, [_model(report, model) for model in plan.models if model not in unchanged])
    missing = [_model(report, model) for model in unchanged]
    yield _Table("Unchanged models with missing intervals", head, missing)


def _affected(report: PlanReport, planned: dict[str, msg.PlannedModel]) -> _Table:
    rows = []
    for name, models in by_asset(report.affected).items():
        asset = next(iter(models.values()))
        read = [
            f"{code(planned[fqn].name)} ({', '.join(map(code, of_model.columns or ())) or 'columns not known'})"
            for fqn, of_model in models.items()
        ]
        rows.append([code(name), literal(asset.group), literal(asset.owner or ""), ", ".join(read)])
    head = ("Asset", "Group", "Owner", "Reads, directly or not (lost and changed columns)")
    others = len({asset.asset for of_model in report.affected.values() for asset in of_model}) - len(rows)
    remark = f"Downstream, but reads no lost or changed column: {counted(others, 'asset')}." if others else ""
    return _Table("Affected outside of SQLMesh", head, rows, remark=remark)


def _model(report: PlanReport, model: msg.PlannedModel) -> list[str]:
    return [
        code(model.name),
        literal(sentences.change(model)),
        literal(sentences.effect(model, report.columns(model))),
        literal(sentences.computes(model, report.seconds(model))),
        literal(model.owner or ""),
    ]


def _picture(report: PlanReport, plan: msg.PlanBuilt) -> list[str]:
    drawn = mermaid(plan, report.upstream, report.diff, report.affected)
    return [f"### What reads what\n\n{fenced(drawn, 'mermaid')}"] if drawn else []


# -- where to look, and what the words mean -------------------------------------------------------


def _notes(report: PlanReport, plan: msg.PlanBuilt) -> list[str]:
    look = [*_views(report), *_made(report)]
    legend = [f"- {line}" for line in _legend(report, plan)]
    return [
        *(["### Where to look\n\n" + "\n".join(f"- {line}" for line in look)] if look else []),
        *(["### What the words mean\n\n" + "\n".join(legend)] if legend else []),
    ]


def _views(report: PlanReport) -> Iterator[str]:
    """How to query what a preview shows."""
    shown = report.preview.plan.models if report.preview and report.prod else ()  # prod is planned after the promotion
    views = [code(f"SELECT * FROM {m.table.view}") for m in shown if m.table.view]
    if views:
        yield f"The preview: {listed(views, 5)}"


def _made(report: PlanReport) -> Iterator[str]:
    origin = report.origin
    if origin is None:
        return
    run = f"[{origin.run_id}]({origin.url})" if origin.url else f"`{origin.run_id}`"
    yield f"The run: {run}, begun {utc_text(origin.at)}"
    if origin.commit:
        yield f"The commit: `{origin.commit}`"


def _legend(report: PlanReport, plan: msg.PlanBuilt) -> Iterator[str]:
    changed = [model for model in plan.models if model.change]
    environment = literal(plan.environment)
    if any(model.category and "breaking" in model.category for model in changed):
        yield "**breaking**: all models downstream are computed again. **non breaking**: none of them is."
    if any(model.change == "indirect" for model in changed):
        yield "**changed upstream**: the file of this model is unchanged, and a model that it reads has changed."
    if any(model.is_forward_only for model in changed):
        yield (
            f"**forward-only**: the table that {environment} shows is changed in place, and the plan does not compute "
            "existing rows again."
        )
    if any(compared.changed is not None for compared in report.diff):
        yield "**Added**, **Removed**: rows whose key only the preview, or only prod, has. **Changed**: rows of both."
    if report.audits:
        yield "**Failing rows**: rows that the audit finds, in the range that the preview has computed."
    if report.affected:
        yield "**Affected**: assets that read a changed model, directly or not. Other code locations may have more."


def _examples(report: PlanReport) -> Iterator[str]:
    """Example rows of each model, if `preview` asks for them."""
    for compared in report.diff:
        model = f"<code>{literal(compared.name)}</code>"
        for kind, sample in compared.examples.items():
            yield f"<details><summary>Some {kind} rows of {model}</summary>\n\n{_sample(sample)}\n\n</details>"


def _sample(sample: msg.Sample) -> str:
    rows = [table_row(["NULL" if value is None else literal(value) for value in row]) for row in sample.rows]
    return "\n".join([table_start([code(name) for name in sample.columns]), *rows])


def _differences(plan: msg.PlanBuilt) -> list[str]:
    found = [(f"<code>{literal(model.name)}</code>", model.diff) for model in plan.models if model.diff]
    if plan.statements:
        found.append(("Statements and requirements", plan.statements))
    return [f"<details><summary>{title}</summary>\n\n{fenced(diff, 'diff')}\n\n</details>" for title, diff in found]
