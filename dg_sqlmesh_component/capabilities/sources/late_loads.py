"""The partitions that were loaded again after models had read them, as far as Dagster knows.

A load is the last materialization of a partition. A model has not read it if the model's interval was computed before.
SQLMesh keeps when an interval was computed, and the worker compares these times with the loads (`Comparison` in
`worker/intervals/records.py`). But SQLMesh's janitor merges these times. So the last result of each model's check
`sqlmesh_no_late_data` remembers which loads were compared, and which intervals are late until somebody computes them
again. It remembers this for one version of the model and the tables that this version reads: if a version was never
compared, or reads other tables, a run compares all partitions once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice

import dagster as dg

from dg_sqlmesh_component.capabilities.sources.awaited import awaited_loaders
from dg_sqlmesh_component.capabilities.sources.late_check import Compared, late_data_result
from dg_sqlmesh_component.capabilities.sources.partition_windows import windows_of
from dg_sqlmesh_component.capabilities.sources.source_events import last_loads, last_materializations
from dg_sqlmesh_component.dagster_internals.assets import HasAssets, Loader, time_dimension
from dg_sqlmesh_component.dagster_internals.event_log import check_records, last_check_records
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.graph import grouped
from dg_sqlmesh_component.protocol.intervals import common, merged, subtract
from dg_sqlmesh_component.report.wording import Wording

_MAX_RECORDS = 50
"""How many results of a check are searched for the last one that remembers something."""


@dataclass(frozen=True)
class _Load:
    """A materialization of a partition, and its window."""

    storage_id: int
    window: msg.Interval
    at: int


def source_loads(instance: dg.DagsterInstance, location: HasAssets | None, settings: Settings) -> SourceLoads | None:
    """Compares loads, unless `external_models.late` ignores them."""
    if settings.attributes.external_models.late == "ignore":
        return None

    def loaders_of(tables: Iterable[str]) -> Mapping[str, Loader]:
        return awaited_loaders(location, settings, tables)

    return SourceLoads(instance, settings.assets, cache(loaders_of))


@dataclass(frozen=True)
class SourceLoads:
    """The loads of the tables that models read, as Dagster has them at the moment of each question."""

    instance: dg.DagsterInstance
    assets: ProjectAssets
    # The asset that loads each of these tables, by fqn, if the table is awaited.
    loaders_of: Callable[[frozenset[str]], Mapping[str, Loader]]

    def loaders(self, tables: Iterable[str]) -> tuple[list[Loader], list[Loader]]:
        """The assets that load these tables: with time windows, and without."""
        found = {loader.key: loader for loader in self.loaders_of(frozenset(tables)).values()}
        with_windows = [loader for loader in found.values() if loader.partitions and time_dimension(loader.partitions)]
        return with_windows, [loader for loader in found.values() if loader not in with_windows]

    def names(self, tables: Iterable[str]) -> tuple[list[str], list[str]]:
        """The names of these assets."""
        with_windows, others = self.loaders(tables)
        return _names(with_windows), _names(others)

    def newest(self, loaders: Iterable[Loader]) -> dict[dg.AssetKey, int]:
        """The storage id of the newest load of each asset."""
        keys = list(dict.fromkeys(loader.key for loader in loaders))
        return {key: last.storage_id for key, last in last_materializations(self.instance, keys).items()}

    def newest_awaited(self) -> dict[dg.AssetKey, int]:
        """The storage id of the newest load of each awaited table."""
        return self.newest(self.loaders_of(frozenset(self.assets.upstream.awaited)).values())

    def since(self, before: Mapping[dg.AssetKey, int], loaders: Iterable[Loader]) -> list[_Load]:
        """The loads that are newer than these storage ids, the last one of each partition."""
        loaders = list(loaders)
        # One query finds the assets with newer loads. The loads of each take a query of their own.
        newest = self.newest(loaders)
        return [
            load
            for loader in loaders
            if newest.get(loader.key, 0) > before.get(loader.key, 0)
            for load in self.of_loader(loader, before.get(loader.key, 0))
        ]

    def of_loader(self, loader: Loader, since: int) -> list[_Load]:
        """The last materialization of each partition, if it is newer than one with this storage id."""
        loads = last_loads(self.instance, loader.key, since)
        assert loader.partitions is not None, "only sources with time windows are compared"
        keys = [load.partition_key for load in loads if load.partition_key is not None]
        windows = windows_of(loader.partitions, keys)
        return [
            _Load(load.storage_id, windows[load.partition_key], round(load.timestamp * 1000))
            for load in loads
            if load.partition_key in windows
        ]

    def compare(self, models: Collection[str], reads: Mapping[str, msg.PromotedReads] | None = None) -> LoadComparison:
        """Compare the loads of the models' sources with those that the last results of their checks have compared.

        `reads` is what the promoted versions read. Versions that were never compared are compared with all partitions,
        which takes long. If it is None, only the versions that were compared last are compared.
        """
        checks = {check: fqn for fqn in models if (check := self.assets.late_data_check(fqn)) is not None}
        at = round(time.time() * 1000)
        of_versions = (
            None if reads is None else {check: reads[fqn].version for check, fqn in checks.items() if fqn in reads}
        )
        before = {checks[check]: last for check, last in _last_compared(self.instance, checks, of_versions).items()}
        if reads is None:
            reads = {fqn: last.reads for fqn, last in before.items()}
        before = {fqn: before.get(fqn, Compared()).reading(reads[fqn]) for fqn in checks.values() if fqn in reads}
        loaders = {fqn: self.loaders(last.reads.tables)[0] for fqn, last in before.items()}
        # Before the loads are read: one that comes between is compared twice, and none is missed.
        newest = self.newest(chain.from_iterable(loaders.values()))
        return LoadComparison(self, at, before, newest, self._new(before, loaders, newest))

    def _new(
        self, before: Mapping[str, Compared], loaders: Mapping[str, Sequence[Loader]], newest: Mapping[dg.AssetKey, int]
    ) -> dict[str, list[_Load]]:
        """The loads of each model's sources that were not compared yet. Each source is read once."""
        by_key = {loader.key: loader for of_model in loaders.values() for loader in of_model}
        compared = grouped((loader.key, before[fqn].newest) for fqn, of_model in loaders.items() for loader in of_model)
        loads = {
            key: self.of_loader(by_key[key], min(ids)) for key, ids in compared.items() if newest.get(key, 0) > min(ids)
        }
        return {
            fqn: [
                load
                for loader in of_model
                for load in loads.get(loader.key, ())
                if load.storage_id > before[fqn].newest
            ]
            for fqn, of_model in loaders.items()
        }

    def computed_by_plan(
        self, reads: msg.PromotedReads, computed: Sequence[msg.Interval], newest: Mapping[dg.AssetKey, int]
    ) -> Compared | None:
        """What was loaded while a plan computed a model; None if nothing was. `newest` was read before the plan.

        The next run compares all partitions: a preview may have computed a part of the version.
        """
        loads = self.since(newest, self.loaders(reads.tables)[0])
        late = common([load.window for load in loads], computed)
        return Compared(0, late, round(time.time() * 1000), reads) if late else None

    def result_of_plan(
        self,
        wording: Wording,
        check: dg.AssetCheckKey,
        reads: msg.PromotedReads,
        computed: Sequence[msg.Interval],
        newest: Mapping[dg.AssetKey, int],
    ) -> dg.AssetCheckResult | None:
        """The result of the check, with the arguments of `computed_by_plan`; None if nothing was loaded."""
        compared = self.computed_by_plan(reads, computed, newest)
        return None if compared is None else late_data_result(wording, check, compared, self.names(reads.tables))


@dataclass(frozen=True)
class LoadComparison:
    """The loads of models' sources that were not compared yet, as Dagster had them at one instant."""

    source_loads: SourceLoads
    at: int
    before: Mapping[str, Compared]  # by fqn, the last result; of a version without one, an empty one
    newest: Mapping[dg.AssetKey, int]
    new: Mapping[str, Sequence[_Load]]  # by fqn

    @property
    def loads(self) -> msg.Loads:
        """The new loads of each model's sources, and the ranges that are known as late."""
        return {
            fqn: (
                *(msg.SourceLoad(interval, before.at, is_late=True) for interval in before.late),
                *(source_load for load in self.new[fqn] for source_load in _since(load, before.computed)),
            )
            for fqn, before in self.before.items()
            if before.late or self.new[fqn]
        }

    def tables_of(self, fqn: str) -> Collection[str]:
        """The tables that are compared with a model: those that its promoted version reads, also through views."""
        before = self.before.get(fqn)
        return self.source_loads.assets.tables_behind_views(fqn) if before is None else before.reads.tables

    def names_of(self, fqn: str) -> tuple[list[str], list[str]]:
        """The names of the assets that load these tables: with time windows, and without."""
        return self.source_loads.names(self.tables_of(fqn))

    def compared(
        self,
        fqn: str,
        late: Sequence[msg.Interval],
        computed: Sequence[msg.Interval] | None = None,
        *,
        is_new: bool = False,
    ) -> Compared:
        """The result of the comparison.

        Args:
            late: The ranges that are late, of the loads above.
            computed: The computed intervals of the model; None for those that it had at the last comparison.
            is_new: Whether the run has computed some of them. They may lack rows that were loaded during the run.
        """
        before, loaders = self.before.get(fqn, Compared()), self.source_loads.loaders(self.tables_of(fqn))[0]
        newest = max([before.newest, *(self.newest.get(loader.key, 0) for loader in loaders)])
        of = tuple(computed) if computed is not None else before.computed
        meanwhile = self.source_loads.since(self.newest, loaders) if is_new else []
        again = common([load.window for load in meanwhile], of)
        if not again:
            return Compared(newest, tuple(late), self.at, before.reads, of)
        return Compared(newest, merged([*late, *again]), round(time.time() * 1000), before.reads, of)

    def result(
        self,
        wording: Wording,
        check: dg.AssetCheckKey,
        late: Sequence[msg.Interval],
        computed: Sequence[msg.Interval] | None = None,
        *,
        is_new: bool = False,
        before_start: Sequence[msg.Interval] = (),
    ) -> dg.AssetCheckResult:
        """The result of a model's check, with the arguments of `compared` and of `late_data_result`."""
        fqn = wording.assets.node_by_check[check]
        compared = self.compared(fqn, late, computed, is_new=is_new)
        return late_data_result(wording, check, compared, self.names_of(fqn), before_start)

    def newest_loads(
        self, models_by_range: Mapping[msg.Interval, Collection[str]]
    ) -> dict[msg.Interval, tuple[int, int] | None]:
        """By range, the newest load of the models' sources whose window overlaps it; None without one.

        It is a storage id and an instant, because SQLite may give an id again. The loads of each source are read once.
        """
        models = {fqn for of_range in models_by_range.values() for fqn in of_range}
        loaders = {fqn: self.source_loads.loaders(self.tables_of(fqn))[0] for fqn in models}
        by_key = {loader.key: loader for of_model in loaders.values() for loader in of_model}
        last = {key: self.source_loads.of_loader(loader, 0) for key, loader in by_key.items()}
        return {
            (start, end): max(
                (
                    (load.storage_id, load.at)
                    for fqn in of_range
                    for loader in loaders[fqn]
                    for load in last[loader.key]
                    if load.window[0] < end and start < load.window[1]
                ),
                default=None,
            )
            for (start, end), of_range in models_by_range.items()
        }

    def is_reported(self, fqn: str, late: Sequence[msg.Interval]) -> bool:
        """Whether the last result of a model's check names these ranges, and nothing was loaded since."""
        return self.before.get(fqn, Compared()).late == tuple(late) and not self.new.get(fqn)

    def was_late(self, fqn: str) -> bool:
        """Whether the last result of a model's check names late ranges."""
        return bool(self.before.get(fqn, Compared()).late)


def _since(load: _Load, computed: Sequence[msg.Interval]) -> Iterator[msg.SourceLoad]:
    """A load that is newer than the last comparison, when these ranges were computed.

    The janitor may merge the times of intervals since. It hides no load of a range that was computed before.
    """
    for interval in common([load.window], computed):
        yield msg.SourceLoad(interval, load.at, is_late=True)
    for interval in subtract([load.window], computed):
        yield msg.SourceLoad(interval, load.at)


def _names(loaders: Sequence[Loader]) -> list[str]:
    return sorted(loader.key.to_user_string() for loader in loaders)


def _last_compared(
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey], versions: Mapping[dg.AssetCheckKey, str] | None
) -> dict[dg.AssetCheckKey, Compared]:
    """The last comparison of each check, of these versions of the models. None: of any version."""
    found = {}
    for check, last in last_check_records(instance, checks).items():
        # The last record is read already, so most checks need no further query.
        for record in chain([last], islice(check_records(instance, check), 1, _MAX_RECORDS)):
            evaluation = record.event.asset_check_evaluation if record.event else None
            compared = Compared.stored_in(evaluation.metadata) if evaluation else None
            if compared and (versions is None or compared.reads.version == versions.get(check)):
                found[check] = compared
                break
    return found
