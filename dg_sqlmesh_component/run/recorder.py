"""What the op yields, in the form that costs Dagster the least to record; what the events say is the same.

For each `AssetCheckResult` Dagster looks through all checks of the op and asks its storage which materialization the
result is about, twice where it stands in a `MaterializeResult`. For 500 models with two checks each that was more than
a quarter of recording them, and it grows with the square. Here it is looked up once a model. And the output of a check
is an event beside its result, which says nothing but that steps behind it may run: it is left out where there are none
(ADR-0024).
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from functools import cached_property
from typing import Any

import dagster as dg

from dg_sqlmesh_component.dagster_internals import (
    TargetMaterialization,
    awaited_outputs,
    keep_quiet_about_outputs,
    remember_output_keys,
    repeats_failed_assets,
)


def recorded(context: dg.AssetExecutionContext, results: Iterator[Any]) -> Iterator[Any]:
    """The same results; those of checks as the evaluation that Dagster would make of them, and an awaited output."""
    remember_output_keys(context)
    keep_quiet_about_outputs(context)
    recorder = _Recorder(context)
    for result in results:
        if isinstance(result, dg.AssetMaterialization):
            yield from recorder.materialization_without_output(result)
        elif isinstance(result, dg.MaterializeResult) and result.asset_key and not context.has_partition_key:
            yield from recorder.materialization(result)
        elif isinstance(result, dg.AssetCheckResult):
            yield from recorder.check(result)
        else:
            yield result


def told_checks(context: dg.AssetExecutionContext) -> Set[dg.AssetCheckKey]:
    """The checks that the step reports: those selected and, where it repeats assets of a failed run, all of theirs.

    Of the assets that Dagster repeats (`FROM_ASSET_FAILURE`) it leaves out each check that had a result in the failed
    run, passed or not, unless it blocks: it would go on saying what it said of the data before.
    """
    selected: Set[dg.AssetCheckKey] = context.selected_asset_check_keys
    if not repeats_failed_assets(context.run):
        return selected
    specs = context.assets_def.node_check_specs_by_output_name.values()
    return selected | {spec.key for spec in specs if spec.asset_key in context.selected_asset_keys}


class _Recorder:
    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context
        self._checks = told_checks(context)
        specs = context.assets_def.node_check_specs_by_output_name
        self._specs = {spec.key: spec for spec in specs.values()}
        self._output_by_check = {spec.key: output for output, spec in specs.items()}
        self._awaited = awaited_outputs(context)
        self._materialized: dict[dg.AssetKey, TargetMaterialization | None] = {}

    def materialization(self, result: dg.MaterializeResult[Any]) -> Iterator[Any]:
        """A materialization, and behind it its checks."""
        assert result.asset_key is not None
        yield result._replace(check_results=[])
        self._materialized[result.asset_key] = None  # to be looked up: Dagster has stored it by now
        for check in result.check_results or ():
            yield from self.check(check)

    def materialization_without_output(self, result: dg.AssetMaterialization) -> Iterator[Any]:
        """A materialization of what this run has not computed."""
        yield result
        self._materialized[result.asset_key] = None  # to be looked up, as above

    def check(self, result: dg.AssetCheckResult) -> Iterator[Any]:
        """A check's result; as it is where it is for Dagster to find out which check is meant."""
        if result.asset_key is None or result.check_name is None or self._context.has_partition_key:
            yield result
            return
        key = dg.AssetCheckKey(result.asset_key, result.check_name)
        if key not in self._checks:
            yield result
            return
        blocking = self._specs[key].blocking
        holds_back = blocking and not result.passed and result.severity is dg.AssetCheckSeverity.ERROR
        if self._output_by_check[key] in self._awaited and not holds_back:
            yield dg.Output(None, output_name=self._output_by_check[key])
        yield dg.AssetCheckEvaluation(
            asset_key=key.asset_key,
            check_name=key.name,
            passed=result.passed,
            metadata=result.metadata,
            target_materialization_data=self._target(key.asset_key),
            severity=result.severity,
            description=result.description,
            blocking=blocking,
        )

    def _target(self, asset: dg.AssetKey) -> TargetMaterialization | None:
        """The materialization that a check's result is about."""
        if asset not in self._materialized:
            return self._before.get(asset)
        if self._materialized[asset] is None:
            for record in self._context.instance.fetch_materializations(asset, limit=1).records:
                self._materialized[asset] = TargetMaterialization(
                    storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
                )
        return self._materialized[asset]

    @cached_property
    def _before(self) -> dict[dg.AssetKey, TargetMaterialization]:
        """The last materializations of the assets that were not materialized in this step, all in one query."""
        assets = list({key.asset_key for key in self._checks})
        found = {}
        for record in self._context.instance.get_asset_records(assets):
            last = record.asset_entry.last_materialization_record
            if last is not None:
                found[record.asset_entry.asset_key] = TargetMaterialization(
                    storage_id=last.storage_id, run_id=last.run_id, timestamp=last.timestamp
                )
        return found
