"""Random sources: tables with rows of each half hour and country, the assets that load them, and the loads.

A load is one of `OUTCOMES`. What a source has is known by half hour and country, from the loads alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

SLOT = 1800
"""The seconds between two rows of a source. Days of India begin at half past six in the evening of UTC."""
Slots = frozenset[int]
"""Half hours since 1970."""
COUNTRIES = ("de", "us")
KINDS = ("days", "hours", "days and countries", "countries", "stated", "none")
NO_WINDOWS = ("countries", "stated", "none")
ZONES = ("UTC", "UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata")
CHECK = "is_complete"
OUTCOMES = {
    "loaded": 14,
    "loaded and checked": 3,
    "refused by its check": 3,
    "failed": 3,
}
"""How a load may end, and how often. After the last two, rows are missing. A failed one has no materialization."""


def day(year: int, month: int, number: int) -> datetime:
    return datetime(year, month, number, tzinfo=timezone.utc)


def slot_of(instant: datetime) -> int:
    return int(instant.timestamp()) // SLOT


def slots_of(hours: Iterable[int]) -> Slots:
    """The half hours of some hours since 1970."""
    return frozenset(slot for hour in hours for slot in (2 * hour, 2 * hour + 1))


@dataclass(frozen=True)
class Load:
    """The rows that one load of a source writes, and what it materializes.

    Attributes:
        partitions: Their keys. None is the asset without partitions.
    """

    countries: tuple[str, ...]
    slots: Slots
    partitions: tuple[str | None, ...]

    @property
    def text(self) -> str:
        first, last = self.partitions[0] or "all", self.partitions[-1] or "all"
        return first if first == last else f"{first} to {last}"

    def rows(self, slots: Slots) -> Iterator[tuple[int, str]]:
        """The half hours and countries of some rows."""
        return ((slot, country) for slot in sorted(slots) for country in self.countries)


@dataclass
class RandomSource:
    """A table, and the asset that loads it.

    Attributes:
        changes: Whether a load that is repeated writes other values.
        loaded: By country, the half hours whose rows are all there and announced.
        values: The value of each row.
    """

    name: str
    kind: str
    zone: str
    start: datetime
    end: datetime
    changes: bool = False
    values: dict[tuple[int, str], int] = field(default_factory=lambda: defaultdict(lambda: 1))
    loaded: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    @property
    def key(self) -> dg.AssetKey:
        return dg.AssetKey(["raw", self.name])

    @property
    def complete(self) -> Slots:
        return frozenset.intersection(*(frozenset(self.loaded[country]) for country in COUNTRIES))

    @cached_property
    def _time(self) -> dg.TimeWindowPartitionsDefinition:
        """Its windows. Days in a zone to the west of UTC begin later, so there is one more before them."""
        first = f"{self.start - timedelta(days=self.zone.startswith('America')):%Y-%m-%d}"
        if self.kind == "hours":
            return dg.HourlyPartitionsDefinition(f"{first}-00:00", timezone=self.zone)
        return dg.DailyPartitionsDefinition(first, timezone=self.zone)

    @property
    def code(self) -> str:
        """The code of a module that defines the asset and its check."""
        start = f"random_loads.day({self.start:%Y, %-m, %-d})"
        source = f"random_loads.RandomSource({self.name!r}, {self.kind!r}, {self.zone!r}, {start}, {start})"
        return f"{self.name}, {self.name}_check = random_loads.asset_with_check({source})\n"

    @cached_property
    def definition(self) -> dg.PartitionsDefinition[Any] | None:
        countries = dg.StaticPartitionsDefinition(list(COUNTRIES))
        definitions: dict[str, Callable[[], dg.PartitionsDefinition[Any]]] = {
            "days": lambda: self._time,
            "hours": lambda: self._time,
            "days and countries": lambda: dg.MultiPartitionsDefinition({"day": self._time, "country": countries}),
            "countries": lambda: countries,
        }
        return definitions[self.kind]() if self.kind in definitions else None

    def loads(self, now: datetime) -> list[Load]:
        """The loads that are possible now."""
        if self.kind in ("stated", "none"):
            return [Load(COUNTRIES, self._until(now), (None,))]
        if self.kind == "countries":
            return [Load((country,), self._until(now), (country,)) for country in COUNTRIES]
        windows = {key: self._time.time_window_for_partition_key(key) for key in self._time.get_partition_keys(now)}
        slots = {key: frozenset(range(slot_of(w.start), slot_of(w.end))) for key, w in windows.items()}
        slots = {key: found for key, found in slots.items() if min(found) < slot_of(self.end)}
        if self.kind == "days":
            return [Load(COUNTRIES, found, (key,)) for key, found in slots.items()]
        if self.kind == "hours":  # six at a time
            keys = list(slots)
            some = [keys[at : at + 6] for at in range(0, len(keys), 6)]
            return [Load(COUNTRIES, frozenset().union(*(slots[key] for key in of)), tuple(of)) for of in some]
        return [
            Load((country,), found, (dg.MultiPartitionKey({"day": key, "country": country}),))
            for key, found in slots.items()
            for country in COUNTRIES
        ]

    def is_done(self, load: Load) -> bool:
        return all(load.slots <= self.loaded[country] for country in load.countries)

    def load(self, load: Load, outcome: str, query: Callable[[str], object], instance: dg.DagsterInstance) -> None:
        """Write the rows of a load, or a part of them, and report its events."""
        if outcome == "failed":  # a loader that fails does not delete what is there
            new = load.slots.difference(*(self.loaded[country] for country in load.countries))
            self._write(query, load, new, frozenset(slot for slot in new if slot % 3))
            return
        is_refused = outcome == "refused by its check"
        if self.changes and self.is_done(load):
            for row in load.rows(load.slots):
                self.values[row] += 1
        self._write(query, load, load.slots, frozenset(slot for slot in load.slots if slot % 3 or not is_refused))
        for country in load.countries:
            self.loaded[country] = (
                self.loaded[country] - load.slots if is_refused else self.loaded[country] | load.slots
            )
        for partition in load.partitions:
            self._report(instance, load, partition)
            if outcome != "loaded":
                self._report_check(instance, passed=not is_refused)

    def _until(self, now: datetime) -> Slots:
        return frozenset(range(slot_of(self.start), slot_of(now)))

    def _write(self, query: Callable[[str], object], load: Load, slots: Slots, written: Slots) -> None:
        if slots:
            countries = ", ".join(f"'{country}'" for country in load.countries)
            of_load = f"epoch(ts) // {SLOT} IN ({', '.join(map(str, slots))}) AND country IN ({countries})"
            query(f"DELETE FROM raw.{self.name} WHERE {of_load}")
        if written:
            values = ", ".join(
                f"({slot}, '{country}', {self.values[slot, country]})" for slot, country in load.rows(written)
            )
            time = f"make_timestamp(slot::BIGINT * {SLOT} * 1000000)"
            rows = f"SELECT {time}, country, n FROM (VALUES {values}) AS v(slot, country, n)"
            query(f"INSERT INTO raw.{self.name} {rows}")

    def _report(self, instance: dg.DagsterInstance, load: Load, partition: str | None) -> None:
        until = dg.MetadataValue.timestamp(float((max(load.slots, default=slot_of(self.start)) + 1) * SLOT))
        metadata = {"sqlmesh/complete_until": until} if self.kind == "stated" else {}
        instance.report_runless_asset_event(dg.AssetMaterialization(self.key, partition=partition, metadata=metadata))

    def _report_check(self, instance: dg.DagsterInstance, *, passed: bool) -> None:
        [record] = instance.fetch_materializations(self.key, limit=1).records
        target = AssetCheckEvaluationTargetMaterializationData(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
        event = dg.AssetCheckEvaluation(self.key, CHECK, passed, target_materialization_data=target, blocking=True)
        instance.report_runless_asset_event(event)


def asset_with_check(source: RandomSource) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    """Return the asset that loads a source, and its blocking check. The tests report their events."""

    @dg.asset(key=source.key, partitions_def=source.definition)
    def loader() -> None: ...

    @dg.asset_check(asset=loader, name=CHECK, blocking=True)
    def is_complete() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    return loader, is_complete
