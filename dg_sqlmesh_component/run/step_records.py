"""The records of a step's models, and their data that was computed outside of Dagster."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import dagster as dg

from dg_sqlmesh_component.dagster_internals.steps import DataVersions, JobOfAssets, forget_data_version
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.active_runs import ActiveRun, active_runs, run_ids
from dg_sqlmesh_component.history.check_results import last_outdated, with_named_outdated
from dg_sqlmesh_component.history.origins import Origin, origins
from dg_sqlmesh_component.history.records import OutsideData, materialized_data, outside_data, record_of, recorded_data
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import listed
from dg_sqlmesh_component.protocol.graph import parents_first
from dg_sqlmesh_component.protocol.intervals import merged, subtract
from dg_sqlmesh_component.report.late_data import LoadComparison, SourceLoads
from dg_sqlmesh_component.report.metadata import outcome_metadata
from dg_sqlmesh_component.report.outcomes import NodeOutcome
from dg_sqlmesh_component.report.results import outside_materialization
from dg_sqlmesh_component.report.wording import Wording
from dg_sqlmesh_component.run.recorder import RecordedOutside


@dataclass
class StepRecords:
    """Reads and extends the records of one step's models."""

    context: dg.AssetExecutionContext
    settings: Settings
    wording: Wording
    is_up_to_date: Callable[[str], bool]  # whether a model has nothing to do, as far as SQLMesh has reported it
    source_loads: SourceLoads | None  # None if late data is ignored
    # The loads of sources that were not compared yet when this attempt took the lock; None if nothing is compared.
    compared: LoadComparison | None = None
    # Models whose outside data is materialized as an event of this run.
    materialized_outside: set[str] = field(default_factory=set)
    _recorded: dict[str, msg.RecordedData | None] = field(default_factory=dict)
    _outside: dict[str, OutsideData] = field(default_factory=dict)
    _origins: dict[str, Origin] = field(default_factory=dict)
    # Models whose outside data is recorded, and that of all models upstream of them.
    _visited: set[str] = field(default_factory=set)
    _changes: list[ActiveRun] = field(default_factory=list)
    _read_at: int = 0  # when this step read the records first, epoch milliseconds

    def read(self, models: Sequence[str]) -> dict[str, msg.RecordedData | None]:
        """Dagster's records of the models, by fqn. No other run of ours changes them until this step has ended."""
        self._read_at = self._read_at or round(time.time() * 1000)
        self._recorded |= materialized_data(self.context.instance, self.settings.assets, models)
        return {fqn: self._recorded[fqn] for fqn in models}

    def compare_loads(self, models: Collection[str], reads: Mapping[str, msg.PromotedReads]) -> msg.Loads:
        """The loads of the models' sources that were not compared yet. `reads` is what the promoted versions read."""
        self.compared = self.source_loads.compare(models, reads) if self.source_loads else None
        return self.compared.loads if self.compared else {}

    def note_outside_data(self, compared: Sequence[msg.ComputedData], computing_since: int | None) -> None:
        """Find the data that was computed outside of Dagster. Each model's is recorded before its own outcome.

        This step took the lock at `computing_since` (epoch milliseconds). Another step may have computed before.
        """
        if not compared:
            return
        assets, instance, own = self.settings.assets, self.context.instance, self.context.run.run_id
        active = [
            replace(run, computing_since=computing_since) if run.run_id == own else run
            for run in active_runs(instance, self.settings)
        ]
        recorded = recorded_data(instance, assets, [data.fqn for data in compared])
        self._recorded |= with_named_outdated(instance, assets, recorded, compared)
        # An apply records at its end, and only what nobody has recorded. A record of this step would hide it.
        self._changes = [run for run in active if run.is_change]
        outside, left_to_runs = outside_data(compared, self._recorded, [run for run in active if not run.is_change])
        self._outside |= {data.fqn: data for data in outside}
        self._origins |= origins(instance, self.settings, outside)
        self._visited.clear()
        self._recorded |= {data.fqn: data.record for data in outside}
        if left_to_runs:
            names = listed([assets.name(fqn) for fqn in left_to_runs])
            self.context.log.info(f"Will be recorded by run {run_ids(active)}, which has not finished: {names}.")

    def record_remaining_outside_data(self) -> Iterator[dg.AssetMaterialization | RecordedOutside]:
        """The outside data of models that this step does not select, or that have no outcome."""
        yield from self._outside_data_of(list(self._outside))

    def outside_data_before(self, outcome: NodeOutcome) -> Iterator[dg.AssetMaterialization | RecordedOutside]:
        """The outside data of a model, after that of the models upstream, which it has read."""
        if not self._outside:
            return
        models = self.settings.assets.models
        *upstream, _ = visited = parents_first(
            [outcome.fqn], lambda fqn: models[fqn].depends_on if fqn in models and fqn not in self._visited else ()
        )
        for fqn in filter(self._outside.__contains__, upstream):
            is_idle = self.is_selected(fqn) and self.is_up_to_date(fqn)
            yield from self._outside_data_of([fqn], in_run={} if is_idle else None)
        self._visited.update(visited)
        is_idle = outcome.outcome.rule.may_stay_silent
        data = self._outside.get(outcome.fqn)
        if data and not data.intervals and outcome.outcome.rule.materializes:
            del self._outside[outcome.fqn]  # the model's own materialization has the promoted version too
            self._recorded[outcome.fqn] = replace(data.record, unmaterialized=data.unmaterialized)
        yield from self._outside_data_of([outcome.fqn], outcome_metadata(self.wording, outcome) if is_idle else None)

    def _outside_data_of(
        self, models: Iterable[str], in_run: Mapping[str, Any] | None = None
    ) -> Iterator[dg.AssetMaterialization | RecordedOutside]:
        """Record the data of these models that was computed outside of Dagster.

        With `in_run`, further metadata, the materializations are events of this run. To Dagster, the run has then
        materialized the assets. This is right only for models that had nothing to do.
        """
        assets = self.settings.assets
        for data in [self._outside.pop(fqn) for fqn in models if fqn in self._outside]:
            changes = [run for run in self._changes if run.has_computed(data.fqn, data.computed_at)]
            origin = f"while run {run_ids(changes)} applied a plan" if changes else self._origins.get(data.fqn)
            materialization = outside_materialization(assets, data, self.data_versions, in_run or {}, origin)
            if in_run is None:
                self.context.instance.report_runless_asset_event(materialization)
                yield RecordedOutside(materialization.asset_key)
            else:
                self.materialized_outside.add(data.fqn)
                yield materialization
            forget_data_version(self.context, assets.key(data.fqn))

    def after(self, outcome: NodeOutcome) -> msg.RecordedData | None:
        """What Dagster knows of the model's data after this outcome.

        In another environment than the declared one, that is only what this run has computed. It names the run to
        components of environments that share the table.
        """
        if outcome.promoted is None:
            return None
        known = self._known(outcome)
        instants = [known.up_to] if known else []
        instants += [] if outcome.computed_until is None else [outcome.computed_until]
        if not instants:
            return None
        model, left = self.settings.assets.models.get(outcome.fqn), tuple[msg.Interval, ...]()
        if model is not None and model.is_incremental and not outcome.outcome.rule.materializes:
            left = merged([*(known.unmaterialized if known else ()), *outcome.intervals])
        outdated, compared_at = (known.outdated, known.compared_at) if known else ((), 0)
        if outcome.coverage is not None:
            outdated, compared_at = outcome.coverage.outdated, self._read_at
        recorded = record_of(
            outcome.promoted, max(instants), unmaterialized=left, outdated=outdated, compared_at=compared_at
        )
        self._recorded[outcome.fqn] = recorded
        return recorded

    def with_hidden_outdated(self, outcome: NodeOutcome) -> NodeOutcome:
        """The outcome with the outdated ranges that the last check has named, and whose evidence is merged since.

        A materialization since has them in its record.
        """
        check, coverage = self.settings.assets.intervals_check(outcome.fqn), outcome.coverage
        if check is None or coverage is None or not coverage.may_hide_outdated:
            return outcome
        known = self._known(outcome)
        named = last_outdated(self.context.instance, {check: known.up_to if known else 0}).get(check, ())
        # If data was computed outside of Dagster since that check, its record has the ranges that are still outdated.
        left = subtract([*named, *(known.outdated if known else ())], outcome.intervals)
        return replace(outcome, coverage=replace(coverage, outdated=merged([*coverage.outdated, *left])))

    def with_earlier_intervals(self, outcome: NodeOutcome) -> NodeOutcome:
        """The outcome, if it is a materialization, with what no earlier materialization says."""
        known = self._known(outcome) if outcome.outcome.rule.materializes else None
        if known is None or not known.unmaterialized:
            return outcome
        return replace(outcome, earlier_intervals=subtract(known.unmaterialized, outcome.intervals))

    def _known(self, outcome: NodeOutcome) -> msg.RecordedData | None:
        """The record of the version that the outcome is about."""
        known = self._recorded.get(outcome.fqn)
        return known if known and outcome.promoted and known.version == outcome.promoted.version else None

    def is_selected(self, fqn: str) -> bool:
        """Whether the model's asset is an output of this step. A restatement computes other models too."""
        is_output = not isinstance(self.context, JobOfAssets)
        return is_output and self.settings.assets.key(fqn) in self.context.selected_asset_keys

    @cached_property
    def data_versions(self) -> DataVersions:
        upstream = self.context.assets_def.asset_deps
        return DataVersions(self.context.instance, lambda key: upstream[key])
