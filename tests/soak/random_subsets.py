"""Random subsets of random projects, run one after the other: is any row lost for good?

python tests/soak/random_subsets.py --projects 30 --seed 1
"""

from __future__ import annotations

import datetime
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from drawn import try_many
from harness import DagsterProject, dagster_project, plan, query, write_project

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
class OfSubset:
    """A model that has one row for each hour or day, with the number of rows of that time in each that it reads."""

    name: str
    unit: str
    kind: str
    reads: list[OfSubset] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The model's file."""
        cron = random.Random(self.name).choice(CRONS[self.unit])
        said = f"MODEL (name t.{self.name}, kind {self.kind}, cron '{cron}');\n"
        within = "WHERE ts >= @start_dt::TIMESTAMP AND ts <= @end_dt::TIMESTAMP" if "INCREMENTAL" in self.kind else ""
        if not self.reads:
            steps = f"range(@start_dt::TIMESTAMP, @end_dt::TIMESTAMP, INTERVAL 1 {self.unit})"
            return f"{said}SELECT date_trunc('{self.unit}', g.ts) AS ts, 1 AS n FROM {steps} AS g(ts)"
        sources = " UNION ALL ".join(
            f"SELECT date_trunc('{self.unit}', ts) AS ts, {one.weight} * count(*) AS n FROM t.{one.name} GROUP BY 1"
            for one in self.reads
        )
        return f"{said}SELECT ts, sum(n)::BIGINT AS n FROM ({sources}) AS read_here {within} GROUP BY 1"

    @property
    def weight(self) -> int:
        """Tells the rows of this model from those of another in a sum."""
        return 100 ** int(self.name.removeprefix("m"))

    @property
    def expected(self) -> int:
        """What stands in each row."""
        hours = {("day", "hour"): 24}
        return sum(one.weight * hours.get((self.unit, one.unit), 1) for one in self.reads) or 1


def random_models(chance: random.Random) -> list[OfSubset]:
    """Models in an order in which each reads only those before it, of its unit or a smaller one."""
    models: list[OfSubset] = []
    for number in range(chance.randint(3, 7)):
        unit = chance.choice(("hour", "day"))
        possible = [one for one in models if (one.unit, unit) != ("day", "hour")]
        reads = chance.sample(possible, min(len(possible), chance.randint(1, 2)))
        kind = chance.choice(KINDS) if reads else KINDS[0]
        models.append(OfSubset(f"m{number}", unit, kind, reads))
    return models


def try_one(chance: random.Random, folder: Path) -> str:
    """Plan a random project, run random subsets of it and then all, and count; a sentence about what was tried.

    Raises:
        AssertionError: A row is missing or too many.
    """
    models = random_models(chance)
    config = """
gateways: {local: {connection: {type: duckdb, database: warehouse.duckdb}}}
model_defaults: {dialect: duckdb, start: 6 days ago}
disable_anonymized_analytics: true
"""
    project = write_project(folder / "shop", {f"models/{one.name}.sql": one.text for one in models}, config)
    plan(project)
    today = datetime.datetime.now(datetime.timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    assets = [f"t/{one.name}" for one in models if one.kind != "EMBEDDED"]
    with dagster_project(folder) as dagster:
        dagster.declare("shop", {"project": str(project)})
        dagster.refresh()
        said = [_run_some(chance, dagster, assets) for _ in range(chance.randint(2, 4))]
        last = dagster.launch()
        assert last.status == dg.DagsterRunStatus.SUCCESS, last.failures
    for one in models:
        if one.kind != "EMBEDDED":
            where = f"ts < '{today:%Y-%m-%d}'"
            found = query(project, f"SELECT count(*), min(n), max(n) FROM t.{one.name} WHERE {where}")
            assert found == [(6 * (24 if one.unit == "hour" else 1), one.expected, one.expected)], (one, said, found)
    return f"{len(models)} models, {said}"


def _run_some(chance: random.Random, dagster: DagsterProject, assets: list[str]) -> list[str]:
    chosen = sorted(chance.sample(assets, chance.randint(1, len(assets))))
    end = chance.choice((None, None, "1 day ago", "2 days ago"))
    told = dagster.launch(assets=chosen, ops={"sqlmesh_shop": {"end": end}} if end else None)
    assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
    return [f"{one.removeprefix('t/')} {told.status_of(one)}" for one in chosen]


if __name__ == "__main__":
    try_many(__doc__, try_one)
