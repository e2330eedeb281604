"""Makes the op's results cheaper for Dagster to record. The recorded facts stay the same.

For each `AssetCheckResult`, Dagster searches all checks of the op, and queries which materialization the result is
about (twice inside a `MaterializeResult`). For 500 models with two checks each, this was more than a quarter of the
recording time, and it grows with the square of the models. Here the materialization is queried once per model. The
output of a check is an additional event that only releases downstream steps, so it is left out if no step waits for it
(ADR-0024).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dagster as dg

from dg_sqlmesh_component.dagster_internals.event_log import TargetMaterialization
from dg_sqlmesh_component.dagster_internals.steps import (
    awaited_outputs,
    cache_output_keys,
    drop_missing_outputs_log,
    remember_data_version,
)
from dg_sqlmesh_component.history.earlier_results import evaluation_of
from dg_sqlmesh_component.run.request import reported_checks


@dataclass(frozen=True)
class RecordedOutside:
    """A step yields it when it has reported a materialization of an asset that is no event of its run.

    The asset's checks are about that materialization. Otherwise the UI would show them as not evaluated.
    """

    asset: dg.AssetKey


def recorded(context: dg.AssetExecutionContext, results: Iterator[Any]) -> Iterator[Any]:
    """The same results, with each check result as Dagster's own evaluation, and an output if a step waits for it."""
    cache_output_keys(context)
    drop_missing_outputs_log(context)
    recorder = _Recorder(context)
    for result in results:
        if isinstance(result, (dg.AssetMaterialization, dg.MaterializeResult)) and result.asset_key:
            yield result
            recorder.materialized(result.asset_key)
        elif isinstance(result, RecordedOutside):
            recorder.materialized(result.asset)
        elif isinstance(result, dg.AssetCheckResult):
            yield from recorder.check(result)
        else:
            yield result


class _Recorder:
    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context
        self._checks = reported_checks(context)
        specs = context.assets_def.node_check_specs_by_output_name
        self._specs = {spec.key: spec for spec in specs.values()}
        self._output_by_check = {spec.key: output for output, spec in specs.items()}
        self._awaited = awaited_outputs(context)
        self._materialized: dict[dg.AssetKey, TargetMaterialization | None] = {}

    def materialized(self, asset: dg.AssetKey) -> None:
        """Note a materialization that Dagster has stored by now. It is queried when a check needs it."""
        self._materialized[asset] = None

    def check(self, result: dg.AssetCheckResult) -> Iterator[Any]:
        """The evaluation of a check, and its output if a step waits for it.

        If a result does not name a check of this step, Dagster resolves it.
        """
        if result.asset_key is None or result.check_name is None or self._context.has_partition_key:
            yield result
            return
        key = dg.AssetCheckKey(result.asset_key, result.check_name)
        if key not in self._specs:
            yield result
            return
        is_selected = key in self._checks
        if not is_selected:  # a restatement evaluates the checks of other assets too
            self._materialized.setdefault(key.asset_key, None)
        blocking = self._specs[key].blocking
        holds_back = blocking and not result.passed and result.severity is dg.AssetCheckSeverity.ERROR
        output = self._output_by_check[key]
        if is_selected and output in self._awaited and not holds_back:
            # Dagster accepts one output. A model that is computed again after a plan has landed has two results.
            del self._awaited[output]
            yield dg.Output(None, output_name=output)
        yield evaluation_of(result, self._target(key.asset_key), blocking=blocking)

    def _target(self, asset: dg.AssetKey) -> TargetMaterialization | None:
        """The materialization that a check's result is about."""
        if asset not in self._materialized:
            return self._earlier.get(asset)
        if self._materialized[asset] is None:
            for record in self._context.instance.fetch_materializations(asset, limit=1).records:
                self._materialized[asset] = _target_of(record)
                remember_data_version(self._context, asset, record)
        return self._materialized[asset]

    @cached_property
    def _earlier(self) -> dict[dg.AssetKey, TargetMaterialization]:
        """The last materializations of assets that this step did not materialize. Read in one query."""
        records = self._context.instance.get_asset_records(list({key.asset_key for key in self._checks}))
        return {
            record.asset_entry.asset_key: _target_of(record.asset_entry.last_materialization_record)
            for record in records
            if record.asset_entry.last_materialization_record is not None
        }


def _target_of(record: dg.EventLogRecord) -> TargetMaterialization:
    return TargetMaterialization(storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp)
