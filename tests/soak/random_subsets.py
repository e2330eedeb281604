"""Run random subsets of random projects one after the other, and check that no row is lost permanently.

python tests/soak/random_subsets.py --projects 30 --seed 1
"""

from __future__ import annotations

import datetime
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from drawn import try_many
from harness import Shop, planned_shop

KINDS = (
    "INCREMENTAL_BY_TIME_RANGE (time_column ts)",
    "INCREMENTAL_BY_TIME_RANGE (time_column ts)",
    "INCREMENTAL_BY_TIME_RANGE (time_column ts, batch_size 2)",
    "INCREMENTAL_BY_TIME_RANGE (time_column ts, lookback 1)",
    "FULL",
    "VIEW",
    "EMBEDDED",
)
CRONS = {"hour": ("@hourly", "0 */6 * * *"), "day": ("@daily",)}


@dataclass(frozen=True)
class RandomModel:
    """A model with one row per hour or day. A row contains the number of upstream rows of that hour or day."""

    name: str
    unit: str
    kind: str
    upstream: list[RandomModel] = field(default_factory=list)
    begins_late: bool = False

    @property
    def text(self) -> str:
        """The text of the model's file."""
        cron = random.Random(self.name).choice(CRONS[self.unit])
        start = ", start '1 day ago'" if self.begins_late else ""
        header = f"MODEL (name t.{self.name}, kind {self.kind}, cron '{cron}'{start});\n"
        within = "WHERE ts >= @start_dt::TIMESTAMP AND ts <= @end_dt::TIMESTAMP" if "INCREMENTAL" in self.kind else ""
        if not self.upstream:
            steps = f"range(@start_dt::TIMESTAMP, @end_dt::TIMESTAMP, INTERVAL 1 {self.unit})"
            return f"{header}SELECT date_trunc('{self.unit}', g.ts) AS ts, 1 AS n FROM {steps} AS g(ts)"
        sources = " UNION ALL ".join(
            f"SELECT date_trunc('{self.unit}', ts) AS ts, {model.weight} * count(*) AS n FROM t.{model.name} GROUP BY 1"
            for model in self.upstream
        )
        return f"{header}SELECT ts, sum(n)::BIGINT AS n FROM ({sources}) AS read_here {within} GROUP BY 1"

    @property
    def weight(self) -> int:
        """A factor that identifies the rows of this model in a sum."""
        return int(100 ** int(self.name.removeprefix("m")))

    @property
    def expected(self) -> int:
        """The expected value of each row."""
        hours = {("day", "hour"): 24}
        return sum(model.weight * hours.get((self.unit, model.unit), 1) for model in self.upstream) or 1


def random_models(rng: random.Random, *, is_empty: bool) -> list[RandomModel]:
    """Return random models. Each reads only models before it in the list, with its unit or a smaller unit.

    Args:
        is_empty: Whether no table has rows yet. Then a `FULL` model begins later than the models that read it.
    """
    models: list[RandomModel] = []
    for number in range(rng.randint(3, 7)):
        unit = rng.choice(("hour", "day"))
        possible = [model for model in models if (model.unit, unit) != ("day", "hour")]
        upstream = rng.sample(possible, min(len(possible), rng.randint(1, 2)))
        kind = rng.choice(KINDS) if upstream else KINDS[0]
        models.append(RandomModel(f"m{number}", unit, kind, upstream, begins_late=is_empty and kind == "FULL"))
    return models


def try_random_subsets(rng: random.Random, folder: Path) -> str:
    """Plan a random project, run random subsets, then run all models and count the rows.

    Returns:
        A short description of the project and its runs.

    Raises:
        AssertionError: There are too few or too many rows.
    """
    is_empty = rng.random() < 0.5
    models = random_models(rng, is_empty=is_empty)
    today = datetime.datetime.now(datetime.timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    assets = [f"t/{model.name}" for model in models if model.kind != "EMBEDDED"]
    files = {f"models/{model.name}.sql": model.text for model in models}
    with planned_shop(folder, files, planned_at=None if is_empty else "3 days ago") as shop:
        if is_empty:
            shop.plan("--skip-backfill", at=None)
            shop.launch(assets=[f"t/{model.name}" for model in models if not model.upstream]).succeeded()
        runs = [_run_random_subset(rng, shop, assets) for _ in range(rng.randint(2, 4))]
        shop.launch().succeeded()
    for model in models:
        if model.kind != "EMBEDDED":
            where = f"ts < '{today:%Y-%m-%d}'"
            rows = shop.query(f"SELECT count(*), min(n), max(n) FROM t.{model.name} WHERE {where}")
            expected = [(6 * (24 if model.unit == "hour" else 1), model.expected, model.expected)]
            assert rows == expected, (model, runs, rows)
    return f"{len(models)} models, {runs}"


def _run_random_subset(rng: random.Random, shop: Shop, assets: list[str]) -> list[str]:
    selected = sorted(rng.sample(assets, rng.randint(1, len(assets))))
    end = rng.choice((None, None, "1 day ago", "2 days ago"))
    record = shop.launch(assets=selected, ops={"sqlmesh_shop": {"end": end}} if end else None).succeeded()
    return [f"{asset.removeprefix('t/')} {record.status_of(asset)}" for asset in selected]


if __name__ == "__main__":
    try_many(__doc__, try_random_subsets)
