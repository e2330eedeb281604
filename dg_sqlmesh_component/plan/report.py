"""What a job reports about a plan, and the same as JSON. Pure. `report_markdown` makes the Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from dg_sqlmesh_component.plan import data_tables
from dg_sqlmesh_component.plan.affected import Affected
from dg_sqlmesh_component.plan.gate import Refusal
from dg_sqlmesh_component.plan.sentences import why_runs_wait
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import utc_text


@dataclass(frozen=True)
class Origin:
    """What made a report.

    Attributes:
        url: The page of the run; None without `webserver_base_url` in defs.yaml.
        commit: Of the project's files; None outside of a repository.
        at: When the job began, epoch milliseconds.
    """

    run_id: str
    url: str | None
    commit: str | None
    at: int


@dataclass(frozen=True)
class PlanReport:
    """What a job reports about a plan.

    Attributes:
        plan: For a preview, what the apply after it would do. Until that is known, the plan of the preview. None if
            SQLMesh could not build one.
        seconds: By fqn, the estimated seconds of models with a record of an earlier computation.
        apply_command: The shell command that applies this plan, with all its losses; None if no run config does.
        result: What applying it has done; None if it was not applied.
        is_apply: Whether the job applies this plan.
        is_preview: Whether `environment` is the environment of a pull request.
        preview: The plan of the preview, when it is applied.
        diff: How the data of a preview differs from prod.
        audits: The audits of a preview's models.
        affected: By fqn, the assets downstream of each changed model that are no SQLMesh models.
        upstream: The models that each model reads, by fqn.
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
    preview: msg.PlanBuilt | None = None
    diff: Sequence[msg.ModelCompared] = ()
    audits: Sequence[msg.AuditsCompared] = ()
    affected: Mapping[str, Sequence[Affected]] = field(default_factory=dict)
    upstream: Mapping[str, Sequence[str]] = field(default_factory=dict)
    origin: Origin | None = None

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
            "why_runs_wait": why_runs_wait(self.plan) if self.plan else "",
            "unit_tests": self.unit_tests,
            "audits": data_tables.audits_json(self.audits),
            "diff": [data_tables.as_json(compared, self.planned.get(compared.fqn)) for compared in self.diff],
            "command": self.apply_command,
            "result": self.result,
            "run_id": self.origin and self.origin.run_id,
            "commit": self.origin and self.origin.commit,
        }

    @property
    def unit_tests(self) -> int:
        """How many unit tests SQLMesh has executed. All have passed: else there would be no plan."""
        return max(plan.unit_tests if plan else 0 for plan in (self.plan, self.preview))

    @property
    def planned(self) -> dict[str, msg.PlannedModel]:
        """The models of the plan, by fqn."""
        return {model.fqn: model for model in self.plan.models} if self.plan else {}

    def columns(self, model: msg.PlannedModel) -> Sequence[str] | None:
        """The columns that consumers of a model gain, lose or see with another type; None if they are not known.

        A preview has computed the model, so its table tells what SQLMesh did not know.
        """
        if model.columns is not None:
            return model.columns
        return next((c.schema for c in self.diff if c.fqn == model.fqn and c.error is None), None)

    @property
    def with_unknown_columns(self) -> list[msg.PlannedModel]:
        """The changed models that may lose columns: SQLMesh does not know their columns before it computes them."""
        if self.plan is None or (self.is_preview and self.plan.environment == self.environment):
            return []
        return [model for model in self.plan.models if self.columns(model) is None]

    def _model(self, model: msg.PlannedModel) -> dict[str, Any]:
        return {
            "name": model.name,
            "change": model.change,
            "becomes": model.becomes or None,
            "category": model.category,
            "forward_only": model.is_forward_only,
            "destructive": list(model.destructive),
            "columns": None if (columns := self.columns(model)) is None else list(columns),
            "shows_again": None if model.shows_again is None else utc_text(model.shows_again),
            "intervals": model.intervals,
            "waiting": model.waiting,
            "lost_intervals": [[utc_text(start), utc_text(end)] for start, end in model.loses],
            "seconds": self.seconds.get(model.fqn),
            "owner": model.owner,
            "dependents": None if model.dependents is None else list(model.dependents),
            "downstream": [asset.as_json() for asset in self.affected.get(model.fqn, ())],
            "kept_rows": {"cron": model.kept.cron, "all": model.kept.are_all_computed} if model.kept else None,
        }
