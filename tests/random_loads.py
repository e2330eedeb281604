"""Random sources: tables with rows of each half hour and country, the assets that load them, and the loads.

A load is one of `OUTCOMES`. For which half hours a source is complete follows from the loads alone, by the oracle of
`source_histories`.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import source_histories as page
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from dg_sqlmesh_component.capabilities.sources.complete_sources import CheckResult, CheckStatus, Target
from dg_sqlmesh_component.capabilities.sources.complete_sources import Load as DagsterLoad

SLOT = 1800
"""The seconds between two rows of a source. Days of India begin at half past six in the evening of UTC."""
Slots = frozenset[int]
"""Half hours since 1970."""
COUNTRIES = ("de", "us")
KINDS = ("days", "days", "weeks", "hours", "days and countries", "countries", "stated", "none")
NO_WINDOWS = ("countries", "stated", "none")
CHANGES = {"days": ("weeks", "none"), "weeks": ("days", "none"), "none": ("days", "weeks")}
"""The kinds that the asset of a kind may become."""
ZONES = ("UTC", "UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata")
CHECK = "is_complete"
OUTCOMES = {
    "loaded": 14,
    "loaded and checked": 3,
    "refused by its check": 3,
    "failed": 3,
    "loaded and checked in a run": 2,
    "refused in a run": 2,
    "checked while others run": 2,
    "refused while others run": 2,
}
"""How a load may end, and how often. After "refused" and "failed", rows are missing. A failed one has no event.

A load "in a run" is a run of Dagster with its partitions. The others are reported. The check of a load "while others
run" has its result after the next run of the models.
"""
IN_RUN = ("loaded and checked in a run", "refused in a run", "checked while others run", "refused while others run")


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
        is_early: Whether the asset does not have a partition of it yet, so that no run can load it.
    """

    countries: tuple[str, ...]
    slots: Slots
    partitions: tuple[str | None, ...]
    is_early: bool = False

    @property
    def text(self) -> str:
        first, last = self.partitions[0] or "all", self.partitions[-1] or "all"
        return first if first == last else f"{first} to {last}"

    def rows(self, slots: Slots) -> Iterator[tuple[int, str]]:
        """The half hours and countries of some rows."""
        return ((slot, country) for slot in sorted(slots) for country in self.countries)


@dataclass
class RandomSource:
    """A table, and the asset that loads it. Its partitions are those of its kind.

    Attributes:
        folder: Where its check looks for its result.
        changes: Whether a load that is repeated writes other values.
        end_offset: How many windows have a partition before they end, if its partitions are days.
        there: By country, the half hours whose rows are all in the table.
        values: The value of each row.
        events: The loads that Dagster has, in their order.
        results: What Dagster has of its check, in the order.
        was_without_windows: Whether late data of it may not have been found.
        last: The load of the newest event.
    """

    name: str
    kind: str
    zone: str
    start: datetime
    end: datetime
    folder: str = ""
    changes: bool = False
    end_offset: int = 0
    values: dict[tuple[int, str], int] = field(default_factory=lambda: defaultdict(lambda: 1))
    there: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    events: list[DagsterLoad] = field(default_factory=list)
    results: list[CheckResult] = field(default_factory=list)
    was_without_windows: bool = False
    last: Load | None = None

    def __post_init__(self) -> None:
        self.was_without_windows = self.kind in NO_WINDOWS

    @property
    def key(self) -> dg.AssetKey:
        return dg.AssetKey(["raw", self.name])

    def complete(self, now: datetime, countries: Sequence[str] = COUNTRIES) -> Slots:
        """The half hours since the start for which the page says that it is complete."""
        definition, instant = self._definition(countries), int(now.timestamp() * 1000)
        history = page.History(definition, tuple(self.events), tuple(self.results), 0, True, instant)
        slots = range(slot_of(self.start), slot_of(now) + 1)
        return frozenset(slot for slot in slots if page.is_complete(history, (slot + 1) * SLOT * 1000 - 1))

    def _definition(self, countries: Sequence[str] = COUNTRIES) -> page.Definition:
        of: dict[str, page.Dimension] = {"day": self._windows, "country": page.Keys(tuple(countries), False)}
        names = {"days and countries": ("day", "country"), "countries": ("country",), "stated": (), "none": ()}
        return page.Definition(tuple((name, of[name]) for name in names.get(self.kind, ("day",))))

    @property
    def _windows(self) -> page.Windows:
        """Its windows. Days in a zone to the west of UTC begin later, so there is one more before them."""
        first = datetime(self.start.year, self.start.month, self.start.day)
        first -= timedelta(days=self.zone.startswith("America"))
        if self.kind == "hours":
            return page.Windows("hourly", page.Schedule((0,), None), self.zone, first, None, 0, (), "%Y-%m-%d-%H:%M")
        if self.kind == "weeks":  # one week ends after the second day
            begin = page.Schedule(weekdays=((first.isoweekday() + 2) % 7,))
            return page.Windows("weekly", begin, self.zone, first - timedelta(days=7), None, 1, (), "%Y-%m-%d")
        return page.Windows("daily", page.Schedule(), self.zone, first, None, self.end_offset, (), "%Y-%m-%d")

    @property
    def code(self) -> str:
        """The code of a module that defines the asset and its check."""
        start = f"random_loads.day({self.start:%Y, %-m, %-d})"
        what = f"{self.name!r}, {self.kind!r}, {self.zone!r}, {start}, {start}, {self.folder!r}"
        source = f"random_loads.RandomSource({what}, end_offset={self.end_offset})"
        return f"{self.name}, {self.name}_check = random_loads.asset_with_check({source})\n"

    @property
    def definition(self) -> dg.PartitionsDefinition[Any] | None:
        return page.dagster_definition(self._definition())

    def loads(self, now: datetime) -> list[Load]:
        """The loads that are possible now."""
        if self.kind in ("stated", "none"):
            return [Load(COUNTRIES, self._until(now), (None,))]
        if self.kind == "countries":
            return [Load((country,), self._until(now), (country,)) for country in COUNTRIES]
        built = page.dagster_definition(page.Definition((("day", self._windows),)))
        assert isinstance(built, dg.TimeWindowPartitionsDefinition)
        today = set(built.get_partition_keys(now))
        slots = {}
        for key in built.get_partition_keys(now + timedelta(days=self.kind == "days")):
            window = built.time_window_for_partition_key(key)
            slots[key] = frozenset(range(slot_of(window.start), min(slot_of(window.end), slot_of(now))))
        slots = {key: found for key, found in slots.items() if found and min(found) < slot_of(self.end)}
        if self.kind == "days and countries":
            return [
                Load((country,), found, (dg.MultiPartitionKey({"day": key, "country": country}),))
                for key, found in slots.items()
                for country in COUNTRIES
            ]
        keys, sizes = list(slots), {"hours": (6,), "days": (1, 2)}.get(self.kind, (1,))
        some = [keys[at : at + size] for size in sizes for at in range(0, len(keys), size)]
        return [
            Load(COUNTRIES, frozenset().union(*(slots[key] for key in of)), tuple(of), not today.issuperset(of))
            for of in some
        ]

    @property
    def rows_there(self) -> list[set[int]]:
        return [self.there[country] for country in COUNTRIES]

    def is_there(self, load: Load) -> bool:
        return all(load.slots <= self.there[country] for country in load.countries)

    def is_done(self, load: Load, now: datetime) -> bool:
        return self.is_there(load) and load.slots <= self.complete(now, load.countries) | self._before

    @property
    def _before(self) -> Slots:
        return frozenset(range(slot_of(self.start) - 10 * 86400 // SLOT, slot_of(self.start)))

    def write(self, load: Load, outcome: str, query: Callable[[str], object]) -> None:
        """Write the rows of a load, or a part of them."""
        if outcome == "failed":  # a loader that fails does not delete what is there
            new = load.slots.difference(*(self.there[country] for country in load.countries))
            self._write(query, load, new, frozenset(slot for slot in new if slot % 3))
            return
        is_refused = outcome.startswith("refused")
        if self.changes and self.is_there(load):
            for row in load.rows(load.slots):
                self.values[row] += 1
        self._write(query, load, load.slots, frozenset(slot for slot in load.slots if slot % 3 or not is_refused))
        for country in load.countries:
            self.there[country] = self.there[country] - load.slots if is_refused else self.there[country] | load.slots

    def report(self, load: Load, outcome: str, instance: dg.DagsterInstance) -> None:
        """Report the events of a load that is no run of Dagster."""
        for partition in load.partitions:
            self._report(instance, load, partition)
            if outcome != "loaded":
                passed = outcome == "loaded and checked"
                self._report_check(instance, passed=passed)
                self.add_result("", passed=passed)

    def add_load(self, load: Load, partition: str | None, instant: float, run_id: str) -> None:
        """Note a load that Dagster has. Its instant is in seconds."""
        stated = self.until_of(load) if self.kind == "stated" else None
        self.last = load
        self.events.append(DagsterLoad(self._next(), partition, int(instant * 1000), run_id, stated))

    def repair(self, query: Callable[[str], object], instance: dg.DagsterInstance) -> bool:
        """Write the rows that the newest load lacks, and let the check pass. Return False if it was not refused."""
        if not self.last or not self.results or self.results[-1].status is CheckStatus.PASSED:
            return False
        self._write(query, self.last, self.last.slots, self.last.slots)
        for country in self.last.countries:
            self.there[country] |= self.last.slots
        self._report_check(instance, passed=True)
        self.add_result("", passed=True)
        return True

    def add_planned_check(self, run_id: str) -> None:
        self.results.append(CheckResult(CHECK, run_id, self._next(), None, None, CheckStatus.PLANNED))

    def add_result(self, run_id: str, *, passed: bool) -> None:
        """Note a result of the check for the last load."""
        target = Target(self.events[-1].storage_id, self.events[-1].run_id)
        status = CheckStatus.PASSED if passed else CheckStatus.FAILED
        self.results.append(CheckResult(CHECK, run_id, self._next(), target, None, status))

    def _next(self) -> int:
        return len(self.events) + len(self.results) + 1

    def until_of(self, load: Load) -> dg.TimestampMetadataValue:
        return dg.MetadataValue.timestamp(float((max(load.slots, default=slot_of(self.start)) + 1) * SLOT))

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
        metadata = {"sqlmesh/complete_until": self.until_of(load)} if self.kind == "stated" else {}
        instance.report_runless_asset_event(dg.AssetMaterialization(self.key, partition=partition, metadata=metadata))
        [record] = instance.fetch_materializations(self.key, limit=1).records
        self.add_load(load, partition, record.timestamp, "")

    def _report_check(self, instance: dg.DagsterInstance, *, passed: bool) -> None:
        [record] = instance.fetch_materializations(self.key, limit=1).records
        target = AssetCheckEvaluationTargetMaterializationData(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
        event = dg.AssetCheckEvaluation(self.key, CHECK, passed, target_materialization_data=target, blocking=True)
        instance.report_runless_asset_event(event)


def asset_with_check(source: RandomSource) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    """Return the asset that loads a source, and its blocking check, which waits for the file with its result."""
    definition = source.definition
    policy = dg.BackfillPolicy.single_run() if definition else None

    @dg.asset(key=source.key, partitions_def=definition, backfill_policy=policy)
    def loader() -> dg.MaterializeResult[Any]:
        stated = (Path(source.folder) / f"{source.name}_until") if source.kind == "stated" else None
        until = dg.MetadataValue.timestamp(float(stated.read_text())) if stated else None
        return dg.MaterializeResult(metadata={"sqlmesh/complete_until": until} if until else {})

    @dg.asset_check(asset=loader, name=CHECK, blocking=True)
    def is_complete() -> dg.AssetCheckResult:
        result, checking = result_file(source), Path(source.folder) / f"{source.name}_checking"
        while not result.exists():
            checking.touch()
            time.sleep(0.02)
        passed = result.read_text() == "passed"
        result.unlink()
        checking.unlink(missing_ok=True)
        return dg.AssetCheckResult(passed=passed)

    return loader, is_complete


def result_file(source: RandomSource) -> Path:
    return Path(source.folder) / f"{source.name}_result"
