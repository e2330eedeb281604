"""Small projects whose rows say where they come from: sources, models, and the files of both.

`l` of a row has the loads of the source rows that it was computed from, and `b` the batches that computed it, the last
one in its own table.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone

import dagster as dg

DAY = timedelta(days=1)
KINDS = {
    "time": "INCREMENTAL_BY_TIME_RANGE (time_column ts{batch})",
    "hourly": "INCREMENTAL_BY_TIME_RANGE (time_column ts{batch})",
    "key": "INCREMENTAL_BY_UNIQUE_KEY (unique_key (ts, k){batch})",
    "full": "FULL",
    "scd": "SCD_TYPE_2_BY_COLUMN (unique_key (ts, k), columns [v, l, bad])",
    "view": "VIEW",
    "embedded": "EMBEDDED",
}
INCREMENTAL = ("time", "hourly", "key")
WHOLE = ("full", "scd")
SHOWN = ("view", "embedded")
"""Kinds without rows of their own."""

FIRST = date(2026, 3, 2)
LAST = date(2026, 3, 8)
"""The first and the last day of the sources: a Monday and a Sunday."""
MACROS = """
import os
import signal
import time
import uuid
from pathlib import Path

from sqlglot import exp
from sqlmesh import macro


def disturb(name, where):
    flag = Path("disturb")
    if not flag.exists():
        return
    model, place, number, pid, batches = flag.read_text().split()
    if (model, place) != (name, where):
        return
    if int(batches) > 0:
        flag.write_text(f"{model} {place} {number} {pid} {int(batches) - 1}")
        return
    flag.unlink()
    if not int(number):
        raise RuntimeError("disturbed")
    os.kill(int(pid) or os.getpid(), int(number))
    time.sleep(1)  # the worker of a killed run learns it meanwhile


@macro()
def batch(evaluator, name):
    if evaluator.runtime_stage != "evaluating":
        return exp.Literal.string("")
    disturb(name.this, "query")
    return exp.Literal.string(f"{name.this}.{uuid.uuid4().hex[:8]}")


@macro()
def audited(evaluator, name):
    if evaluator.runtime_stage == "auditing":
        disturb(name.this, "audit")
    return exp.true()
"""
SIGNALS = """
from pathlib import Path

from sqlmesh import signal


@signal()
def ready(batch, of: str):
    file = Path(f"closed_{of}")
    closed = file.read_text().split() if file.exists() else []
    return [interval for interval in batch if f"{interval[0]:%Y-%m-%d}" not in closed]
"""
LOADER = """
import dagster as dg


@dg.asset(key=["load", "{name}"]{arguments})
def {name}() -> None: ...
"""


def at(day: date) -> datetime:
    return datetime(day.year, day.month, day.day)


def hour_of(instant: datetime) -> int:
    return int(instant.replace(tzinfo=timezone.utc).timestamp()) // 3600


def hours(start: datetime, end: datetime) -> frozenset[int]:
    return frozenset(range(hour_of(start), hour_of(end)))


def days_of(found: Iterable[int]) -> set[date]:
    return {datetime.fromtimestamp(hour * 3600, timezone.utc).date() for hour in found}


@dataclass(frozen=True)
class RowModel:
    """A model whose query copies the rows of one or two tables, and adds values of the same key."""

    name: str
    kind: str
    reads: tuple[str, ...]
    cron: str = "@daily"
    start: date | None = None
    end: date | None = None
    batch_size: int = 0
    audit: str = ""
    has_signal: bool = False

    @property
    def asset(self) -> str:
        return f"t/{self.name}"

    @property
    def text(self) -> str:
        batch = f", batch_size {self.batch_size}" if self.batch_size else ""
        properties = {
            f"cron '{self.cron}'": self.kind != "embedded",
            f"start '{self.start}'": self.start,
            f"end '{self.end}'": self.end,
            f"audits ({self.audit}_{self.name})": self.audit,
            f"signals (ready(of := '{self.name}'))": self.has_signal,
        }
        options = "".join(f", {text}" for text, is_set in properties.items() if is_set)
        tables = " UNION ALL ".join(f"SELECT ts, k, v, l, bad, b FROM {table}" for table in self.reads)
        within = "ts BETWEEN @start_dt::TIMESTAMP AND @end_dt::TIMESTAMP" if self.kind in INCREMENTAL else "TRUE"
        batches = "string_agg(b, ' ' ORDER BY b)"
        batches += f" || ' ' || @batch('{self.name}')" if self.kind not in SHOWN else ""
        return (
            f"MODEL (name t.{self.name}, kind {KINDS[self.kind].format(batch=batch)}{options});\n"
            "SELECT ts::TIMESTAMP AS ts, k::INT AS k, sum(v)::BIGINT AS v, "
            "string_agg(l, ' ' ORDER BY l)::TEXT AS l, max(bad)::INT AS bad, "
            f"({batches})::TEXT AS b\nFROM ({tables}) AS read_here WHERE {within} GROUP BY 1, 2\n"
        )

    @property
    def audit_text(self) -> str:
        blocking = "" if self.audit == "no_bad" else ", blocking false"
        return (
            f"AUDIT (name {self.audit}_{self.name}{blocking}); "
            f"SELECT * FROM @this_model WHERE bad = 1 AND @audited('{self.name}')"
        )

    @property
    def is_blocking(self) -> bool:
        return self.audit == "no_bad"

    def due_until(self, now: datetime) -> datetime:
        """The end of the last interval that its cron and its `end` require."""
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        ticked = {
            "@hourly": now.replace(minute=0, second=0, microsecond=0),
            "@daily": midnight,
            "0 6 * * *": midnight if now.hour >= 6 else midnight - DAY,
            "@weekly": midnight - (midnight.weekday() + 1) % 7 * DAY,
        }[self.cron]
        return min(ticked, at(self.end) + DAY) if self.end else ticked


@dataclass
class Source:
    """A table that an asset loads by day, or as a whole.

    Attributes:
        loads: How many loads there were, which makes each load different.
        loaded: The days whose rows are there.
        bad: The days with bad rows.
        last: The instant of the last load.
    """

    name: str
    by_day: bool
    loads: int = 0
    loaded: set[date] = field(default_factory=set)
    bad: set[date] = field(default_factory=set)
    last: datetime | None = None

    @property
    def table(self) -> str:
        return f"raw.{self.name}"

    @property
    def key(self) -> dg.AssetKey:
        return dg.AssetKey(["load", self.name])

    @property
    def code(self) -> str:
        days = f', partitions_def=dg.DailyPartitionsDefinition("{FIRST}")' if self.by_day else ""
        return LOADER.format(name=self.name, arguments=days)

    def lacking(self, wanted: Collection[int]) -> set[date]:
        """The days among these hours for which it is not complete, by docs/wait.md."""
        days = {day for day in days_of(wanted) if day >= FIRST}
        if self.by_day:
            return days - self.loaded
        until = hour_of(self.last) if self.last else 0
        return days & days_of(hour for hour in wanted if hour >= until)


def draw_models(rng: random.Random, sources: list[Source]) -> list[RowModel]:
    """Draw models that read sources or earlier models.

    An hourly model reads no daily one: as in SQLMesh, it would not wait for it (docs/wait.md).
    """
    models: list[RowModel] = []
    for number in range(rng.randint(3, 6)):
        first = ("time", "time", "hourly", "full", "view", "key", "embedded")
        kind = rng.choice(first if number else first[:3])
        if number > 1 and rng.random() < 0.1:
            kind = "scd"
        is_hourly = {f"t.{model.name}" for model in models if model.cron == "@hourly"}
        tables = {f"t.{model.name}" for model in models if model.kind != "scd"}
        possible = sorted(tables & is_hourly if kind == "hourly" else tables)
        reads = rng.sample(possible, min(len(possible), rng.choice((1, 1, 1, 2))))
        if not reads or (len(reads) == 1 and rng.random() < 0.25):
            reads.append(rng.choice(sources).table)
        cron = "@hourly" if kind == "hourly" or ({*reads} <= is_hourly and kind in SHOWN) else "@daily"
        size = {"time": (0, 1, 1, 2), "hourly": (0, 24, 12), "key": (0, 1)}.get(kind, (0,))
        audit = "" if kind == "embedded" else rng.choice(("", "", "no_bad", "warn_bad"))
        audit = "" if kind == "scd" else audit  # its history keeps bad rows for good
        has_signal = kind in ("time", "full") and rng.random() < 0.15
        models.append(RowModel(f"m{number}", kind, tuple(reads), cron, None, None, rng.choice(size), audit, has_signal))
    return models
