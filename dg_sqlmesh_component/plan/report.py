"""A plan as JSON, as Markdown and as metadata of a step. Pure, except for `write`, which writes one file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from dg_sqlmesh_component.plan import compared_data as comparison
from dg_sqlmesh_component.plan.gate import Refusal, headline
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import counted, fenced, listed, utc_text
from dg_sqlmesh_component.report.markdown import LIMIT, code, fitting, literal, paragraphs, table_row, table_start

REPORT_VARIABLE = "DG_SQLMESH_REPORT"
"""Environment variable: the file to which a job writes its report, in the format of its suffix. Without one: two."""


@dataclass(frozen=True)
class PlanReport:
    """What a job reports about a plan.

    Attributes:
        plan: None if SQLMesh could not build one.
        seconds: By fqn, the estimated seconds of models with a record of an earlier computation.
        apply_command: The shell command that applies this plan, with all its losses; None if no run config does.
        result: What applying it has done; None if it was not applied.
        is_apply: Whether the job applies this plan.
        is_preview: Whether `environment` is the environment of a pull request.
        diff: How the data of a preview differs from prod.
    """

    environment: str
    digest: str
    plan: msg.PlanBuilt | None
    seconds: Mapping[str, float]
    refusals: Sequence[Refusal]
    apply_command: str | None
    result: str | None = None
    is_apply: bool = False
    is_preview: bool = False
    diff: Sequence[msg.ModelCompared] = ()

    @property
    def computed(self) -> Set[str]:
        """The models with intervals that the plan computes, by fqn."""
        return {model.fqn for model in self.plan.models if model.intervals} if self.plan else set()

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        models = self.plan.models if self.plan else ()
        return {
            "digest": self.digest,
            "environment": self.environment,
            "models": [self._model(model) for model in models if model.change is not None],
            "catch_up": [
                {"name": model.name, "intervals": model.intervals, "seconds": self.seconds.get(model.fqn)}
                for model in models
                if model.change is None
            ],
            "statements": self.plan.statements if self.plan else "",
            "refusals": [
                {"kind": refusal.kind, "models": list(refusal.models), "message": refusal.message}
                for refusal in self.refusals
            ],
            "diff": [comparison.as_json(compared, self._planned.get(compared.fqn)) for compared in self.diff],
            "command": self.apply_command,
            "result": self.result,
        }

    @property
    def _planned(self) -> dict[str, msg.PlannedModel]:
        return {model.fqn: model for model in self.plan.models} if self.plan else {}

    def _model(self, model: msg.PlannedModel) -> dict[str, Any]:
        return {
            "name": model.name,
            "change": model.change,
            "category": model.category,
            "forward_only": model.is_forward_only,
            "destructive": list(model.destructive),
            "columns": list(model.columns),
            "intervals": model.intervals,
            "seconds": self.seconds.get(model.fqn),
            "owner": model.owner,
            "dependents": None if model.dependents is None else list(model.dependents),
            "kept_rows": {"cron": model.kept.cron, "all": model.kept.are_all_computed} if model.kept else None,
        }

    def metadata(self) -> dict[str, dg.MetadataValue]:
        """The report on the step's page."""
        metadata: dict[str, dg.MetadataValue] = {
            "sqlmesh/plan_digest": dg.MetadataValue.text(self.digest),
            "sqlmesh/plan_json": dg.MetadataValue.json(self.as_json()),
        }
        if self.plan and self.plan.models:
            records = [self._record(model) for model in self.plan.models]
            metadata["sqlmesh/plan"] = dg.MetadataValue.table(records)
        if self.diff:
            planned = self._planned
            rows = [dg.TableRecord(comparison.row(compared, planned.get(compared.fqn))) for compared in self.diff]
            metadata["sqlmesh/diff"] = dg.MetadataValue.table(rows)
        if self.refusals:
            text = "\n\n".join(paragraphs(refusal.message) for refusal in self.refusals)
            metadata["sqlmesh/refusals"] = dg.MetadataValue.md(text)
        return metadata

    def _record(self, model: msg.PlannedModel) -> dg.TableRecord:
        seconds = self.seconds.get(model.fqn)
        return dg.TableRecord(
            {
                "model": model.name,
                "change": _change(model),
                "effect": _effect(model),
                "computes": _computes(model, seconds),
                "owner": model.owner or "",
            }
        )

    # -- Markdown -----------------------------------------------------------------------------------

    def markdown(self) -> str:
        """The report for a comment on a pull request: what needs a decision, then tables, then differences."""
        text = "\n\n".join(self._decision())
        if len(text) > LIMIT - _REMARK:
            text = self._undecidable()
        tables = [self._diff(), self._models()] if self.plan else []
        for title, head, rows in tables:
            if rows:
                start = "\n\n".join(["", *title, table_start(head)])
                shown = fitting(rows, LIMIT - len(text) - len(start) - _REMARK)
                text += "\n".join([start, *shown, *_left_out(len(rows) - len(shown), "row")])
        differences = self._legend() + self._differences() if self.plan else []
        shown = fitting(differences, LIMIT - len(text) - _REMARK)
        return "\n\n".join([text, *shown, *_left_out(len(differences) - len(shown), "difference")]) + "\n"

    def _decision(self) -> list[str]:
        """What must not be cut."""
        result = [paragraphs(self.result)] if self.result else []
        if self.plan is None:
            title = f"Preview {self.environment}" if self.is_preview else f"No plan for environment {self.environment}"
            return [f"## {literal(title.strip())}", *result, *self._refusal_lines()]
        parts = [
            *([f"## Preview {literal(self.environment)}", *result] if self.is_preview else []),
            f"## {literal(headline(self.plan))}",
            *([] if self.is_preview else result),
            *self._refusal_lines(),
            *self._losses(),
            *([f"Digest: `{self.digest}`"] if self.digest else []),
        ]
        is_open = self.result is None or self.is_preview
        if is_open and self.apply_command and (self.plan.models or self.plan.statements):
            how = "To apply exactly this plan" if not self.refusals else "To apply exactly this plan all the same"
            parts.append(f"{how}, and no other:\n\n{fenced(self.apply_command, 'bash')}")
        return parts

    def _undecidable(self) -> str:
        """In place of a decision whose reasons are too long: no digest and no command, as nobody can review them here.

        A comment is not cut, so that no loss or refusal is hidden.
        """
        kinds = ", ".join(refusal.kind for refusal in self.refusals) or "none"
        losses = sum(part.count("\n- ") for part in self._losses()) if self.plan else 0
        title = headline(self.plan) if self.plan else f"No plan for environment {self.environment}"
        return (
            f"## {literal(title)}\n\n> **Too long for a comment.** Refusals: {kinds}. Losses: {losses}. Review all of "
            "them, and the digest, on the page of the run."
        )

    def _diff(self) -> _Table:
        planned = self._planned
        rows = [comparison.row(compared, planned.get(compared.fqn)) for compared in self.diff]
        cells = [table_row(list(map(literal, row.values()))) for row in rows]
        return ["### Data compared with prod"], comparison.HEAD, cells

    def _refusal_lines(self) -> list[str]:
        has_ended = self.is_apply or self.plan is None
        refused = "Refused: nothing was changed" if has_ended else "Applying this plan would be refused"
        return [
            f"> **{'Failed' if refusal.kind == 'error' else refused} ({refusal.kind}).** "
            + _quoted(paragraphs(refusal.message))
            for refusal in self.refusals
        ]

    def _losses(self) -> list[str]:
        """What the environment loses, first: that is what a reviewer must not miss."""
        assert self.plan is not None
        environment = literal(self.plan.environment)
        if self.is_preview and self.plan.environment == self.environment:
            return []
        lines = [
            f"- {code(model.name)} is removed: {_after_removal(model)} If nobody has removed it, this branch is older "
            "than the model: merge the main branch."
            for model in self.plan.models
            if model.change == "removed"
        ]
        for model in self.plan.models:
            if model.destructive:
                lines += [
                    f"- {code(model.name)}: SQLMesh {literal(effect)}, in the table that {environment} shows. "
                    f"{_fate(effect)}"
                    for effect in model.destructive
                ]
            else:
                lines += [
                    f"- {code(model.name)}: queries that use the column {literal(column.removeprefix('drops '))} will "
                    "fail. "
                    f"{_ONE_TABLE if model.has_one_table else _KEPT}"
                    for column in model.columns
                    if column.startswith("drops ")
                ]
            lines += [
                f"- {code(view)} reads {code(model.name)}. {_of_dependent(model)}" for view in model.dependents or ()
            ]
        return [f"### {environment} loses\n\n" + "\n".join(lines)] if lines else []

    def _models(self) -> _Table:
        assert self.plan is not None
        rows = [
            table_row(
                [
                    code(model.name),
                    literal(_change(model)),
                    literal(_effect(model)),
                    literal(_computes(model, self.seconds.get(model.fqn))),
                    literal(model.owner or ""),
                ]
            )
            for model in self.plan.models
        ]
        return [], ("Model", "Change", "What readers see", "Computes", "Owner"), rows

    def _legend(self) -> list[str]:
        assert self.plan is not None
        changed = [model for model in self.plan.models if model.change]
        upstream = "Changed upstream: the file of this model is unchanged, and a model that it reads has changed."
        forward_only = (
            f"Forward-only: the table that {literal(self.plan.environment)} shows is changed in place, and the plan "
            "does not compute existing rows again."
        )
        return [
            *([upstream] if any(model.change == "indirect" for model in changed) else []),
            *([forward_only] if any(model.is_forward_only for model in changed) else []),
        ]

    def _differences(self) -> list[str]:
        assert self.plan is not None
        found = [(f"<code>{literal(model.name)}</code>", model.diff) for model in self.plan.models if model.diff]
        if self.plan.statements:
            found.append(("Statements and requirements", self.plan.statements))
        return [f"<details><summary>{title}</summary>\n\n{fenced(diff, 'diff')}\n\n</details>" for title, diff in found]

    def write(self, path: str) -> None:
        """Write the report.

        Raises:
            ConfigurationError: The file has another suffix, or cannot be written.
        """
        file = Path(path)
        if file.suffix not in (".md", ".json", ""):
            raise ConfigurationError(
                f"The environment variable {REPORT_VARIABLE} names {path}. The name must end in .md or .json, or have "
                "no suffix: then both files are written."
            )
        try:
            if file.suffix != ".json":
                file.with_suffix(".md").write_text(self.markdown(), encoding="utf-8")
            if file.suffix != ".md":
                file.with_suffix(".json").write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"The report cannot be written to {path}, which the environment variable {REPORT_VARIABLE} names: "
                f"{error.strerror}."
            ) from error


_Table = tuple[list[str], Sequence[str], list[str]]
"""The title, if there is one, the head and the rows, as Markdown."""

_REMARK = 100
"""The characters that a note about left-out parts may have."""


def _left_out(number: int, noun: str) -> list[str]:
    return [f"\n{counted(number, noun)} left out: see the page of the run."] if number else []


_KEPT = "No data is deleted yet: the old version stays until SQLMesh's janitor deletes it, by default after a week."

_ONE_TABLE = "No old version stays: in `virtual_environment_mode: dev_only`, SQLMesh changes the model's only table."


def _after_removal(model: msg.PlannedModel) -> str:
    if not model.has_one_table:
        return f"queries that use it will fail. {_KEPT}"
    return (
        "its rows are not computed any more. In `virtual_environment_mode: dev_only`, its view stays until SQLMesh's "
        "janitor deletes it, by default after a week. A table stays until somebody drops it, because SQLMesh does not."
    )


def _of_dependent(model: msg.PlannedModel) -> str:
    if model.change == "removed":
        return "SQLMesh cannot remove a view that others read, so the plan would fail half-way."
    return "PostgreSQL drops it with the view that SQLMesh replaces, and nothing creates it again."


_CHANGES = {
    "added": "added",
    "removed": "removed",
    "changed": "changed",
    "indirect": "changed upstream",
    "metadata": "metadata only",
    None: "not changed",
}


def _change(model: msg.PlannedModel) -> str:
    """The change and SQLMesh's category, `changed (breaking, forward-only)`."""
    details = [model.category.replace("_", " ")] if model.category and model.change in ("changed", "indirect") else []
    details += ["forward-only"] if model.is_forward_only and model.change in ("changed", "indirect") else []
    details += [f"project {model.other_project}"] if model.other_project else []
    return _CHANGES[model.change] + (f" ({', '.join(details)})" if details else "")


def _effect(model: msg.PlannedModel) -> str:
    if model.destructive:
        return "; ".join(f"{effect}: values are lost" for effect in model.destructive)
    return "; ".join(model.columns)


def _fate(effect: str) -> str:
    """What becomes of the values of a column that SQLMesh drops."""
    if msg.ADDED_AGAIN in effect:
        return "The values of all existing rows are lost: they are NULL until somebody computes them again."
    return "The column and its values are gone, and queries that use it will fail."


def _computes(model: msg.PlannedModel, seconds: float | None) -> str:
    estimate = f", about {seconds:.0f} s" if seconds is not None else ""
    computed = f"{counted(model.intervals, 'interval')}{estimate}" if model.intervals else "nothing"
    if model.kept is None:
        return computed
    if model.kept.are_all_computed:
        return f"{computed}; all rows after the next tick of {model.kept.cron}"
    return f"{computed}; existing rows stay"


def _quoted(text: str) -> str:
    return text.replace("\n", "\n> ")


def kept_rows(models: Iterable[msg.PlannedModel], environment: str) -> Iterator[str]:
    """The models whose rows are those of another definition after the apply, and until when."""
    names: dict[int | None, list[str]] = {}
    for model in models:
        if model.kept:
            names.setdefault(model.kept.due if model.kept.are_all_computed else None, []).append(model.name)
    for due, named in names.items():
        start = f"{environment.capitalize()} keeps the existing rows of {listed(named)}"
        if due is None:
            yield f"{start}: runs compute only later intervals by the new definition. To compute others, restate them."
        else:
            yield f"{start} until the first run after {utc_text(due)} computes them."
