"""What a job reports about a plan, and the same as JSON. Pure. `report_markdown` makes the Markdown."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from typing import Any

from dg_sqlmesh_component.capabilities.plans import data_tables
from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.affected import Affected
from dg_sqlmesh_component.capabilities.plans.column_words import columns_of, dropped
from dg_sqlmesh_component.capabilities.plans.findings import Finding, losses
from dg_sqlmesh_component.capabilities.plans.gate import Refusal
from dg_sqlmesh_component.capabilities.plans.lost_rows import all_lost, lost_text
from dg_sqlmesh_component.capabilities.plans.sentences import columns_seen, why_runs_wait
from dg_sqlmesh_component.protocol.formatting import utc_text
from dg_sqlmesh_component.protocol.intervals import ALL_TIME


@dataclass(frozen=True)
class Origin:
    """What made a report."""

    run_id: str
    url: str | None  # the page of the run; None without `webserver_base_url` in defs.yaml
    commit: str | None  # of the project's files; None outside of a repository
    at: int  # when the job began, epoch milliseconds


@dataclass(frozen=True)
class Planned:
    """A plan, before it is applied."""

    plan: msg.PlanBuilt
    # By fqn, the estimated seconds of models with a record of an earlier computation.
    seconds: Mapping[str, float] = field(default_factory=dict)
    refusals: Sequence[Refusal] = ()  # why it may not be applied
    digest: str = ""  # empty for the plan of a preview, which nobody approves
    # The run config of the job that applies this plan, with all its losses; None if no run config does.
    apply_config: Mapping[str, Any] | None = None

    @property
    def apply_command(self) -> str | None:
        """The shell command that launches that job."""
        if self.apply_config is None:
            return None
        [job] = self.apply_config["ops"]
        # On its line, `dg launch` takes run config as JSON only. YAML needs a file.
        return f"dg launch --job {job} --config-json {shlex.quote(json.dumps(self.apply_config))}"

    @property
    def computed(self) -> Set[str]:
        """The models with intervals that the plan computes, by fqn."""
        return {model.fqn for model in self.plan.models if model.rows.intervals}


@dataclass
class PlanReport:
    """What a job reports about a plan. The job fills it while it works."""

    environment: str  # the environment of the job: for a preview, that of the pull request
    is_apply: bool = False  # whether the job applies `prod`
    is_preview: bool = False  # whether the job makes or deletes a preview
    # The plan that the job shows or applies; for a preview, what the apply after it would do. None if SQLMesh could not
    # build one, or has not yet.
    prod: Planned | None = None
    # The plan of a preview, which the job applies; None for other jobs, or if there is nothing to preview.
    preview: Planned | None = None
    # Why the job failed or was refused, apart from the refusals of its plans.
    problems: list[Refusal] = field(default_factory=list)
    result: str | None = None  # what the job has done
    diff: list[msg.ModelCompared] = field(default_factory=list)  # how the data of a preview differs from prod
    _diff_by_fqn: dict[str, msg.ModelCompared] = field(default_factory=dict)
    audits: list[msg.AuditsCompared] = field(default_factory=list)  # the audits of a preview's models
    # By fqn, the assets downstream of each changed model that are not SQLMesh models.
    affected: Mapping[str, Sequence[Affected]] = field(default_factory=dict)
    upstream: Mapping[str, Sequence[str]] = field(default_factory=dict)  # the models that each model reads, by fqn
    origin: Origin | None = None

    @property
    def shown(self) -> Planned | None:
        """The plan that the report is about: of a preview, as long as that of prod is not known."""
        return self.prod or self.preview

    @property
    def refusals(self) -> list[Refusal]:
        """Those of the shown plan, and the problems."""
        return [*(self.shown.refusals if self.shown else ()), *self.problems]

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        shown, planned = self.shown, self.planned
        models = shown.plan.models if shown else ()
        return {
            "digest": shown.digest if shown else "",
            "environment": self.environment,
            "models": [self._model(m) for m in models if m.change is not None or m.table.dependents],
            "catch_up": [
                {
                    "name": model.name,
                    "intervals": model.rows.intervals,
                    "seconds": self.seconds(model),
                    **_outdated(model),
                }
                for model in models
                if model.change is None
            ],
            "select": list(shown.plan.select) if shown else [],
            "left_out": [{"name": name, "change": kind} for name, kind in shown.plan.left_out.items()] if shown else [],
            "statements": shown.plan.statements if shown else "",
            "losses": [finding.as_json() for finding in self.losses],
            "refusals": [
                {"kind": refusal.kind, "models": list(refusal.models), "message": refusal.message}
                for refusal in self.refusals
            ],
            "why_runs_wait": why_runs_wait(shown.plan) if shown else "",
            "unit_tests": self.unit_tests,
            "audits": data_tables.audits_json(self.audits),
            "diff": [data_tables.as_json(compared, planned.get(compared.fqn)) for compared in self.diff],
            "command": shown.apply_command if shown else None,
            "result": self.result,
            "run_id": self.origin and self.origin.run_id,
            "commit": self.origin and self.origin.commit,
        }

    @property
    def unit_tests(self) -> int:
        """How many unit tests SQLMesh has executed. All have passed: else there would be no plan."""
        return max(planned.plan.unit_tests if planned else 0 for planned in (self.prod, self.preview))

    @property
    def planned(self) -> dict[str, msg.PlannedModel]:
        """The models of the shown plan, by fqn."""
        return {model.fqn: model for model in self.shown.plan.models} if self.shown else {}

    def seconds(self, model: msg.PlannedModel) -> float | None:
        """The estimated seconds of a model of the shown plan."""
        return self.shown.seconds.get(model.fqn) if self.shown else None

    def columns(self, model: msg.PlannedModel) -> Sequence[msg.ColumnChange] | None:
        """As `columns_of` with the data of the preview."""
        if len(self._diff_by_fqn) < len(self.diff):
            self._diff_by_fqn.update({compared.fqn: compared for compared in self.diff})
        return columns_of(model, self._diff_by_fqn.get(model.fqn))

    @property
    def losses(self) -> list[Finding]:
        """What prod loses by its plan, as far as the plan and the data of a preview tell."""
        return losses(self.prod.plan, {of.fqn: of for of in self.diff}) if self.prod else []

    @property
    def with_unknown_columns(self) -> list[msg.PlannedModel]:
        """The changed models that may lose columns: SQLMesh does not know their columns before it computes them."""
        models = self.prod.plan.models if self.prod else ()
        return [model for model in models if model.table.exists and self.columns(model) is None]

    @property
    def added_again(self) -> list[msg.PlannedModel]:
        """The added models whose rows were computed before prod was planned last. For others, there is a refusal."""
        models = self.prod.plan.models if self.prod else ()
        return [model for model in models if model.change == "added" and model.rows.shows_again is not None]

    @property
    def with_rows_twice(self) -> list[msg.PlannedModel]:
        """The models whose runs append rows that their tables may have already."""
        return [model for model in (self.prod.plan.models if self.prod else ()) if model.rows.appended_again]

    @property
    def left_outdated(self) -> list[msg.PlannedModel]:
        """The models without rows that a model upstream gains, which the plan does not compute again."""
        models = self.prod.plan.models if self.prod else ()
        return [model for model in models if model.rows.outdated_for_good]

    def _model(self, model: msg.PlannedModel) -> dict[str, Any]:
        lost = all_lost(model.rows)
        return {
            "name": model.name,
            "change": model.change,
            "becomes": model.becomes or None,
            "category": model.category,
            "forward_only": model.is_forward_only,
            "destructive": list(map(dropped, model.table.destructive)),
            "dropped_columns": list(map(asdict, model.table.destructive)),
            "columns": columns_seen(model, self.columns(model)),
            "shows_again": None if model.rows.shows_again is None else utc_text(model.rows.shows_again),
            "intervals": model.rows.intervals,
            "waiting": model.rows.waiting,
            "lost_intervals": list(map(_bounds, lost.intervals)),
            "lost_without_time": lost.without_time,
            "lost_of_past": lost.of_past,
            "lost_rows": lost_text(lost, model.rows.waits_for),
            "loses_with": list(model.rows.loses_with),
            **_outdated(model),
            "seconds": self.seconds(model),
            "owner": model.owner,
            "dependents": None if model.table.dependents is None else list(model.table.dependents),
            "downstream": [asset.as_json() for asset in self.affected.get(model.fqn, ())],
            "appended_again": list(map(_bounds, model.rows.appended_again)),
            "kept_rows": {"cron": model.rows.kept.cron, "all": model.rows.kept.are_all_computed}
            if model.rows.kept
            else None,
        }


def _outdated(model: msg.PlannedModel) -> dict[str, Any]:
    """The ranges without rows that a model upstream gains: computed again, and not."""
    rows = model.rows
    return {"outdated": list(map(_bounds, rows.outdated)), "left_outdated": list(map(_bounds, rows.outdated_for_good))}


def _bounds(interval: msg.Interval) -> list[str | None]:
    """The start and the end of rows; None for no bound."""
    return [None if bound in ALL_TIME else utc_text(bound) for bound in interval]
