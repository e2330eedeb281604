"""Estimate against actual for ten restatements, on a project whose models compute about as long for each day.

The project has a heavy and a light model by day, a heavy and a weekly model downstream, and a FULL model. Runs through
Dagster compute 30 days, 5 days, and twice one day. Then each restatement takes other models and another range.
DuckDB reports no rows to SQLMesh. With `--connection`, the project is on another engine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

from lab import Lab, in_dagster, measure, progress, row

CONFIG = """
gateways: {{local: {{connection: {connection}}}}}
default_gateway: local
model_defaults: {{dialect: duckdb, start: '2025-12-01'}}
disable_anonymized_analytics: true
"""
BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)"
DAYS = "GENERATE_SERIES(@start_ds::DATE, @end_ds::DATE, INTERVAL '1' DAY) AS days(day)"
PERIOD = "WHERE ds BETWEEN @start_ds AND @end_ds"
MODELS = {
    "raw.events": f"{BY_DAY}, audits (not_null(columns := (bucket)))); SELECT day::DATE AS ds, i % 100 AS bucket, "
    f"SUM(SQRT(i)) AS value FROM {DAYS} CROSS JOIN GENERATE_SERIES(1, {{work}}) AS numbers(i) GROUP BY 1, 2",
    "raw.flags": f"{BY_DAY}); SELECT day::DATE AS ds, 1 AS flag FROM {DAYS}",
    "marts.daily": f"{BY_DAY}); SELECT ds, bucket, SUM(value * SQRT(i)) AS value FROM raw.events "
    f"CROSS JOIN GENERATE_SERIES(1, {{part}}) AS numbers(i) {PERIOD} GROUP BY 1, 2",
    "marts.weekly": f"{BY_DAY}, cron '@weekly'); SELECT ds, SUM(value) AS value FROM marts.daily {PERIOD} GROUP BY 1",
    "marts.total": "kind FULL); SELECT bucket, SUM(value) AS value FROM marts.daily GROUP BY 1",
}
LAST_DAY = date(2026, 2, 7)
HISTORY = ("2026-01-31", "2026-02-05", "2026-02-06", "2026-02-07")
RESTATEMENTS = (
    (1, "raw/events"),
    (30, "raw/events"),
    (7, "raw/events"),
    (14, "marts/daily"),
    (1, "marts/daily"),
    (30, "raw/flags"),
    (1, "raw/flags"),
    (3, "raw/events", "raw/flags"),
    (21, "marts/daily"),
    (2, "raw/events"),
)


class Restated(Lab):
    """The project, planned as of its second day."""

    def __init__(self, folder: Path, connection: str, work: int) -> None:
        self.folder = folder
        self.project = folder / "sqlmesh"
        (self.project / "models").mkdir(parents=True)
        (self.project / "config.yaml").write_text(CONFIG.format(connection=connection))
        for name, model in MODELS.items():
            text = f"MODEL (name {name}, {model.format(work=work, part=work // 100)}"
            (self.project / "models" / f"{name}.sql").write_text(text)
        sqlmesh = "from sqlmesh.cli.main import cli; cli()"
        plan = ["plan", "--auto-apply", "--no-prompts", "--execution-time", "2026-01-02"]
        measure([sys.executable, "-c", sqlmesh, *plan], cwd=self.project)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=int, default=5_000_000, help="rows that a heavy model reads for each day")
    parser.add_argument("--connection", default="{type: duckdb, database: warehouse.duckdb}", help="YAML of SQLMesh")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lab = Restated(Path(folder).resolve(), options.connection, options.work)
        root = lab.ours(attributes="  restate: true\n")
        for end in HISTORY:
            progress({end: in_dagster("compute", root, "end", end).printed["actual"][0]})
        print("\n| restated | days | models | estimated | actual | estimated / actual |\n|---|---|---|---|---|---|")
        ratios = []
        for days, *assets in RESTATEMENTS:
            first = LAST_DAY - timedelta(days=days - 1)
            run = in_dagster("compute", root, "restate", f"{first}..{LAST_DAY}", *assets).printed
            ratios.append(run["estimated"][0] / run["actual"][0])
            costs = (shown(*run["estimated"]), shown(*run["actual"]))
            print("|", ", ".join(assets), "|", days, "|", run["models"], "|", *costs, f"{ratios[-1]:.2f} |", flush=True)
    print(row("estimated / actual", ratios))


def shown(seconds: float, rows: int | None) -> str:
    """The cost of a restatement as a cell: seconds, and rows if the engine reports them."""
    return f"{seconds:.2f} s |" if not rows else f"{seconds:.2f} s, {rows:,} rows |"


if __name__ == "__main__":
    main()
