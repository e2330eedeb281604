"""What a job reports about a plan: as JSON, and as metadata of a step. Pure. `report_markdown` makes the Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dg_sqlmesh_component.plan import compared_data, sentences
from dg_sqlmesh_component.plan.gate import Refusal
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.report.markdown import paragraphs


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
            "diff": [compared_data.as_json(compared, self.planned.get(compared.fqn)) for compared in self.diff],
            "command": self.apply_command,
            "result": self.result,
        }

    @property
    def planned(self) -> dict[str, msg.PlannedModel]:
        """The models of the plan, by fqn."""
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
            planned = self.planned
            rows = [dg.TableRecord(compared_data.row(compared, planned.get(compared.fqn))) for compared in self.diff]
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
                "change": sentences.change(model),
                "effect": sentences.effect(model),
                "computes": sentences.computes(model, seconds),
                "owner": model.owner or "",
            }
        )
