"""Load random sources in any order between runs, and check that no interval is computed before its source is loaded.

Sources have partitions of days, of hours, of days in another time zone, or none. A load may be announced too early: its
rows are there in part, and it has no materialization yet.

python tests/soak/random_sources.py --projects 30 --seed 1
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from drawn import try_many
from harness import Shop, planned_shop

DAYS = 6
PARTITIONS = {
    "days": "dg.DailyPartitionsDefinition(start_date='{start:%Y-%m-%d}')",
    "hours": "dg.HourlyPartitionsDefinition(start_date='{start:%Y-%m-%d-00:00}')",
    "zone": "dg.DailyPartitionsDefinition(start_date='{before:%Y-%m-%d}', timezone='America/New_York')",
    "none": "None",
}
KINDS = (
    "INCREMENTAL_BY_TIME_RANGE (time_column ts)",
    "INCREMENTAL_BY_TIME_RANGE (time_column ts, batch_size 2)",
    "INCREMENTAL_BY_TIME_RANGE (time_column ts, lookback 1)",
    "FULL",
    "VIEW",
    "EMBEDDED",
)
CRONS = {"hour": ("@hourly", "0 */6 * * *"), "day": ("@daily",)}


@dataclass
class RandomSource:
    """A table with one row an hour, and the asset that loads it in chunks."""

    name: str
    kind: str
    start: datetime

    @property
    def chunks(self) -> list[tuple[datetime, datetime, list[str | None]]]:
        """The start and the end of each load, and the partitions that it materializes."""
        if self.kind == "hours":
            starts = [self.start + timedelta(hours=6 * n) for n in range(4 * DAYS)]
            hours = {at: [at + timedelta(hours=n) for n in range(6)] for at in starts}
            return [(at, at + timedelta(hours=6), [f"{hour:%Y-%m-%d-%H:00}" for hour in hours[at]]) for at in starts]
        if self.kind == "zone":  # a day of New York, without the change of its clocks, begins at 05:00 or 04:00 UTC
            before = f"{self.start - timedelta(days=1):%Y-%m-%d}"
            definition = dg.DailyPartitionsDefinition(before, timezone="America/New_York")
            keys = [f"{self.start + timedelta(days=n - 1):%Y-%m-%d}" for n in range(DAYS + 1)]
            windows = [definition.time_window_for_partition_key(key) for key in keys]
            return [(w.start, w.end, [key]) for w, key in zip(windows, keys, strict=True)]
        days = [self.start + timedelta(days=n) for n in range(DAYS)]
        return [(day, day + timedelta(days=1), [f"{day:%Y-%m-%d}" if self.kind == "days" else None]) for day in days]

    @property
    def definition(self) -> str:
        partitions = PARTITIONS[self.kind].format(start=self.start, before=self.start - timedelta(days=1))
        return f'\n@dg.asset(key=["raw", "{self.name}"], partitions_def={partitions})\ndef {self.name}(context): ...\n'


@dataclass(frozen=True)
class RandomModel:
    """A model with one row per hour or day. A row has the number of rows that it has read of that hour or day."""

    name: str
    unit: str
    kind: str
    source: RandomSource | None = None
    upstream: list[RandomModel] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of the model's file."""
        cron = random.Random(self.name).choice(CRONS[self.unit])
        header = f"MODEL (name t.{self.name}, kind {self.kind}, cron '{cron}');\n"
        within = "WHERE ts >= @start_dt::TIMESTAMP AND ts <= @end_dt::TIMESTAMP" if "INCREMENTAL" in self.kind else ""
        tables = [f"t.{model.name}" for model in self.upstream] + ([f"raw.{self.source.name}"] if self.source else [])
        read = " UNION ALL ".join(f"SELECT date_trunc('{self.unit}', ts) AS ts FROM {table}" for table in tables)
        return f"{header}SELECT ts, count(*)::BIGINT AS n FROM ({read}) AS read_here {within} GROUP BY 1"

    @property
    def expected(self) -> int:
        """The expected value of each row."""
        day = self.unit == "day"
        return sum(24 if day and model.unit == "hour" else 1 for model in self.upstream) + (
            (24 if day else 1) if self.source else 0
        )


def random_models(rng: random.Random, sources: list[RandomSource]) -> list[RandomModel]:
    """Return random models. Each reads a source, or models before it in the list with its unit or a smaller one."""
    models: list[RandomModel] = []
    for number in range(rng.randint(3, 7)):
        unit = rng.choice(("hour", "day"))
        possible = [model for model in models if (model.unit, unit) != ("day", "hour")]
        upstream = rng.sample(possible, min(len(possible), rng.randint(0, 2)))
        source = rng.choice(sources) if not upstream or rng.random() < 0.3 else None
        models.append(RandomModel(f"m{number}", unit, rng.choice(KINDS), source, upstream))
    return models


def try_random_loads(rng: random.Random, folder: Path) -> str:
    """Load and run in a random order, then load the rest, run everything, and count the rows.

    Returns:
        A short description of the project and its runs.

    Raises:
        AssertionError: There are too few or too many rows. Hours of today still wait.
    """
    today = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    start = today - timedelta(days=DAYS)
    sources = [RandomSource(f"s{n}", rng.choice(list(PARTITIONS)), start) for n in range(rng.randint(1, 3))]
    models = random_models(rng, sources)
    todo = [(source, chunk) for source in sources for chunk in source.chunks]
    rng.shuffle(todo)
    # Without partitions, a load adds to the one before.
    order = {source.name: iter(source.chunks) for source in sources if source.kind == "none"}
    todo = [(source, next(order[source.name]) if source.name in order else chunk) for source, chunk in todo]
    assets = [f"t/{model.name}" for model in models if model.kind != "EMBEDDED"]
    files = {f"models/{model.name}.sql": model.text for model in models}
    tables = {f"raw.{source.name}": "SELECT now()::TIMESTAMP AS ts LIMIT 0" for source in sources}
    runs = []
    wait = {"wait": True}
    with planned_shop(folder, files, tables=tables, planned_at=f"{DAYS} days ago", external_models=wait) as shop:
        shop.add_module("loaders", "import dagster as dg\n" + "".join(source.definition for source in sources))
        while todo:
            for _ in range(rng.randint(1, max(1, len(todo) // 2))):
                if todo:
                    _load(shop, *todo.pop(0), rng, assets)
            selected = sorted(rng.sample(assets, rng.randint(1, len(assets)))) if rng.random() < 0.5 else assets
            runs.append(_run(shop, selected))
        runs.append(_run(shop, assets))
    for model in models:
        if model.kind != "EMBEDDED":
            where = f"ts >= '{start:%Y-%m-%d}' AND ts < '{today:%Y-%m-%d}'"
            rows = shop.query(f"SELECT count(*), min(n), max(n) FROM t.{model.name} WHERE {where}")
            expected = [(DAYS * (24 if model.unit == "hour" else 1), model.expected, model.expected)]
            assert rows == expected, (model, sources, runs, rows, expected)
    kinds = ", ".join(source.kind for source in sources)
    return f"{len(models)} models over {kinds}: {len(runs)} runs, {sum(run.count('waiting') for run in runs)} waited"


def _load(
    shop: Shop,
    source: RandomSource,
    chunk: tuple[datetime, datetime, list[str | None]],
    rng: random.Random,
    assets: list[str],
) -> None:
    """Load a chunk. Sometimes its first rows are there, and a run sees them, before the load is announced."""
    start, end, partitions = chunk
    first, last = (f"TIMESTAMP '{at.astimezone(timezone.utc):%Y-%m-%d %H:%M}'" for at in (start, end))
    table = f"raw.{source.name}"
    rows = f"INSERT INTO {table} SELECT ts FROM range({first}, {last}, INTERVAL 1 HOUR) AS r(ts)"
    if rng.random() < 0.3:
        shop.query(f"{rows} WHERE hour(ts) % 3 = 0")
        _run(shop, assets)
    shop.query(f"DELETE FROM {table} WHERE ts >= {first} AND ts < {last}")
    shop.query(rows)
    metadata = {} if partitions[0] else {"sqlmesh/complete_until": dg.MetadataValue.timestamp(end.timestamp())}
    for partition in partitions:
        event = dg.AssetMaterialization(["raw", source.name], partition=partition, metadata=metadata)
        shop.instance.report_runless_asset_event(event)


def _run(shop: Shop, assets: list[str]) -> tuple[str | None, ...]:
    """Run models, and never the assets that load."""
    record = shop.launch(assets=assets)
    assert record.status == dg.DagsterRunStatus.SUCCESS, record.failures
    return tuple(record.status_of(asset) for asset in assets)


if __name__ == "__main__":
    try_many(__doc__, try_random_loads)
