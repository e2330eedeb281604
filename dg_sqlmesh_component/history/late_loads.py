"""The partitions that were loaded again after models had read them, as far as Dagster knows.

A load is the last materialization of a partition. A model has not read it if the model's interval was computed before.
SQLMesh keeps when an interval was computed, and the worker compares these times with the loads (`Comparison` in
`worker/intervals/records.py`). But SQLMesh's janitor merges these times. So the last result of each model's check
`sqlmesh_no_late_data` remembers which loads were compared, and which intervals are late until somebody computes them
again. It remembers this for one version of the model and the tables that this version reads: a run of another one
compares all partitions once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from typing import Any

import dagster as dg

from dg_sqlmesh_component.dagster_internals import HasAssets, Loader, check_records, last_check_records, time_dimension
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets, grouped
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.partition_windows import windows_of
from dg_sqlmesh_component.history.source_events import last_loads, last_materializations
from dg_sqlmesh_component.history.sources import awaited_loaders
from dg_sqlmesh_component.history.stored_record import internal, internal_part
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.intervals import common, merged, subtract

_MAX_RECORDS = 50
"""How many results of a check are searched for the last one that remembers something."""


_NOTHING_READ = msg.PromotedReads("", ())


@dataclass(frozen=True)
class Compared:
    """The result of a comparison of a model with the loads of its sources. Later runs and ticks read its metadata."""

    newest: int = 0  # the storage id of the newest load that was compared
    late: tuple[msg.Interval, ...] = ()  # computed ranges whose source was loaded after they were computed
    at: int = 0  # nobody had computed these ranges again until then, epoch milliseconds
    reads: msg.PromotedReads = _NOTHING_READ  # the version of the model that was compared, and the tables that it reads
    # What the model had computed then. Loads of these ranges that are newer than `newest` came later.
    computed: tuple[msg.Interval, ...] = ()

    @property
    def metadata(self) -> dict[str, Any]:
        late, computed = ([list(interval) for interval in of] for of in (self.late, self.computed))
        stored = [self.newest, late, self.at, self.reads.version, list(self.reads.tables), computed]
        return internal(compared_loads=stored)

    @classmethod
    def stored_in(cls, metadata: Mapping[str, dg.MetadataValue]) -> Compared | None:
        value = internal_part(metadata, "compared_loads")
        if not isinstance(value, list) or len(value) != 6:  # another version of this package may have stored it
            return None
        newest, late, at, version, tables, computed = value
        reads = msg.PromotedReads(version, tuple(tables))
        return cls(newest, _intervals(late), at, reads, _intervals(computed))


@dataclass(frozen=True)
class _Load:
    """A materialization of a partition, and its window."""

    storage_id: int
    window: msg.Interval
    at: int


def late_loads(instance: dg.DagsterInstance, location: HasAssets | None, settings: Settings) -> LateLoads | None:
    """Compares loads, unless `external_models.late` ignores them."""
    if settings.attributes.external_models.late == "ignore":
        return None

    def loaders_of(tables: Iterable[str]) -> Mapping[str, Loader]:
        return awaited_loaders(location, settings, tables)

    return LateLoads(instance, settings.assets, cache(loaders_of))


@dataclass
class LateLoads:
    """Compares the loads of sources with the intervals of models, for one step or tick."""

    instance: dg.DagsterInstance
    assets: ProjectAssets
    # The asset that loads each of these tables, by fqn, if the table is awaited.
    loaders_of: Callable[[frozenset[str]], Mapping[str, Loader]]
    _reads: dict[str, msg.PromotedReads] = field(default_factory=dict)
    _before: dict[str, Compared] = field(default_factory=dict)
    _loads: dict[str, list[_Load]] = field(default_factory=dict)
    _newest: dict[dg.AssetKey, int] = field(default_factory=dict)
    _last_loads: dict[dg.AssetKey, Sequence[tuple[int, msg.Interval]]] = field(default_factory=dict)
    _at: int = 0

    def tables_of(self, fqn: str) -> frozenset[str]:
        """The tables that are compared with a model: those that its promoted version reads, also through views."""
        reads = self._reads.get(fqn)
        return frozenset(self.assets.tables_behind_views(fqn) if reads is None else reads.tables)

    def sources_of(self, fqn: str) -> tuple[list[Loader], list[Loader]]:
        """The assets that load what a model reads, also through views: with time windows, and without."""
        found = {loader.key: loader for loader in self.loaders_of(self.tables_of(fqn)).values()}
        with_windows = [loader for loader in found.values() if loader.partitions and time_dimension(loader.partitions)]
        return with_windows, [loader for loader in found.values() if loader not in with_windows]

    def names_of(self, fqn: str) -> tuple[list[str], list[str]]:
        """The names of these assets."""
        with_windows, others = self.sources_of(fqn)
        return _names(with_windows), _names(others)

    def since_last_compared(
        self, models: Collection[str], reads: Mapping[str, msg.PromotedReads] | None = None
    ) -> msg.Loads:
        """The loads of the models' sources that were not compared yet, and the ranges that are known as late.

        `reads` is what the promoted versions read. Versions that were never compared are compared with all partitions,
        which takes long. If it is None, only the versions that were compared last are compared.
        """
        checks = {check: fqn for fqn in models if (check := self.assets.late_data_check(fqn)) is not None}
        self._at = round(time.time() * 1000)
        self._before = {checks[check]: found for check, found in _last_compared(self.instance, checks).items()}
        if reads is not None:
            self._before = {fqn: before for fqn, before in self._before.items() if before.reads == reads.get(fqn)}
        self._reads = {fqn: before.reads for fqn, before in self._before.items()} if reads is None else {**reads}
        compared = {fqn: self._before.get(fqn, Compared()) for fqn in checks.values() if fqn in self._reads}
        loaders = {fqn: self.sources_of(fqn)[0] for fqn in compared}
        keys = {loader.key: loader for of_model in loaders.values() for loader in of_model}
        self._newest = {key: last.storage_id for key, last in last_materializations(self.instance, keys).items()}
        compared_by_source = grouped((loader.key, compared[fqn].newest) for fqn in loaders for loader in loaders[fqn])
        since = {key: min(newest) for key, newest in compared_by_source.items()}
        new = {
            key: self._new(loader, since[key]) for key, loader in keys.items() if self._newest.get(key, 0) > since[key]
        }
        for fqn, of_model in loaders.items():
            loads = [load for loader in of_model for load in new.get(loader.key, ())]
            self._loads[fqn] = [load for load in loads if load.storage_id > compared[fqn].newest]
        return {
            fqn: (
                *(msg.SourceLoad(interval, before.at, is_late=True) for interval in before.late),
                *(source_load for load in self._loads[fqn] for source_load in _since(load, before.computed)),
            )
            for fqn, before in compared.items()
            if before.late or self._loads[fqn]
        }

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
        before, loaders = self._before.get(fqn, Compared()), self.sources_of(fqn)[0]
        newest = max([before.newest, *(self._newest.get(loader.key, 0) for loader in loaders)])
        of = tuple(computed) if computed is not None else before.computed
        meanwhile = self._meanwhile(loaders) if is_new else []
        again = common([load.window for load in meanwhile], of)
        reads = self._reads.get(fqn, before.reads)
        if not again:
            return Compared(newest, tuple(late), self._at, reads, of)
        return Compared(newest, merged([*late, *again]), round(time.time() * 1000), reads, of)

    def before_plan(self) -> None:
        """Note the newest loads, before a plan computes anything."""
        keys = [loader.key for loader in self.loaders_of(frozenset(self.assets.upstream.awaited)).values()]
        self._newest = {key: last.storage_id for key, last in last_materializations(self.instance, keys).items()}

    def computed_by_plan(self, fqn: str, reads: msg.PromotedReads, computed: Sequence[msg.Interval]) -> Compared | None:
        """What was loaded while a plan computed a model; None if nothing was.

        The next run compares all partitions: a preview may have computed a part of the version.
        """
        self._reads[fqn] = reads
        loads = self._meanwhile(self.sources_of(fqn)[0])
        late = common([load.window for load in loads], computed)
        return Compared(0, late, round(time.time() * 1000), reads) if late else None

    def newest_load(self, fqn: str, interval: msg.Interval) -> int:
        """The storage id of the newest load of a model's sources whose window overlaps a range; 0 without one."""
        start, end = interval
        loads = (load for loader in self.sources_of(fqn)[0] for load in self._last(loader))
        return max((load_id for load_id, (first, last) in loads if first < end and start < last), default=0)

    def _last(self, loader: Loader) -> Sequence[tuple[int, msg.Interval]]:
        """The storage id and the window of each partition's last load, read once: a tick may ask for many ranges."""
        if loader.key not in self._last_loads:
            assert loader.partitions is not None, "only sources with time windows are compared"
            kind = dg.DagsterEventType.ASSET_MATERIALIZATION
            ids = self.instance.get_latest_storage_id_by_partition(loader.key, kind)
            windows = windows_of(loader.partitions, ids)
            self._last_loads[loader.key] = [(ids[key], window) for key, window in windows.items()]
        return self._last_loads[loader.key]

    def is_reported(self, fqn: str, late: Sequence[msg.Interval]) -> bool:
        """Whether the last result of a model's check names these ranges, and nothing was loaded since."""
        before = self._before.get(fqn, Compared())
        return before.late == tuple(late) and not self._loads.get(fqn)

    def was_late(self, fqn: str) -> bool:
        """Whether the last result of a model's check names late ranges."""
        return bool(self._before.get(fqn, Compared()).late)

    def _meanwhile(self, loaders: Sequence[Loader]) -> list[_Load]:
        last = last_materializations(self.instance, [loader.key for loader in loaders])
        return [
            load
            for loader in loaders
            if loader.key in last and last[loader.key].storage_id > self._newest.get(loader.key, 0)
            for load in self._new(loader, self._newest.get(loader.key, 0))
        ]

    def _new(self, loader: Loader, since: int) -> list[_Load]:
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


def _intervals(stored: Iterable[Sequence[int]]) -> tuple[msg.Interval, ...]:
    return tuple((start, end) for start, end in stored)


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
    instance: dg.DagsterInstance, checks: Collection[dg.AssetCheckKey]
) -> dict[dg.AssetCheckKey, Compared]:
    found = {}
    for check, last in last_check_records(instance, checks).items():
        for record in chain([last], islice(check_records(instance, check), 1, _MAX_RECORDS)):
            evaluation = record.event.asset_check_evaluation if record.event else None
            if evaluation and (compared := Compared.stored_in(evaluation.metadata)):
                found[check] = compared
                break
    return found
