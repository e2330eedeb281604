"""Write a SQLMesh project of any size on embedded DuckDB. The same arguments always write the same project."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import duckdb

CONFIG = """\
gateways:
  local:
    connection:
      type: duckdb
      database: warehouse.duckdb
default_gateway: local
model_defaults:
  dialect: duckdb
  start: {days} days ago
disable_anonymized_analytics: true
"""
KINDS = ("FULL", "VIEW", "INCREMENTAL_BY_TIME_RANGE (time_column ds)")
CRONS = ("@daily", "@weekly")
AUDITS = (
    "not_null(columns := (id))",
    "unique_values(columns := (id), blocking := false)",
    "number_of_rows(threshold := 1, blocking := false)",
)


def write(
    folder: Path,
    models: int,
    *,
    depth: int = 10,
    columns: int = 10,
    audits: int = 0,
    mixed: bool = False,
    sources: int = 0,
    days: int = 4,
    seed: int = 1,
    python: bool = False,
) -> Path:
    """A project of `models` models in `depth` layers, each reading one to three of the layer below.

    Args:
        columns: Columns of each model, in addition to `ds` and `id`.
        audits: Audits of each model.
        mixed: Whether kinds and crons differ from model to model; else all are FULL and daily.
        sources: External tables that the lowest layer reads, all of them. If there are any, eight of ten models are
            incremental, one is FULL and one is a view, and all are daily.
        days: The models start so many days ago.
        python: All models are FULL Python models. They name their tables by `context.resolve_table`.
    """
    dice = random.Random(seed)
    (folder / "models").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.format(days=days))
    tables = _write_sources(folder, sources, columns) if sources else []
    layers: list[list[str]] = [[] for _ in range(depth)]
    for number in range(models):
        layer = number * depth // models
        name = f"layer_{layer}.model_{number:04d}"
        kind, cron = (dice.choice(KINDS), dice.choice(CRONS)) if mixed else (KINDS[0], CRONS[0])
        below = layers[layer - 1] if layer else []
        parents = sorted(dice.sample(below, min(len(below), dice.randint(1, 3))))
        layers[layer].append(name)
        if python:
            (folder / "models" / f"model_{number:04d}.py").write_text(_python_model(name, parents, columns))
            continue
        where = ""
        if sources:
            kind = KINDS[min(number % 10, 2)]
            parents = parents or tables[number % len(tables) :: -(-models // depth)]
            where = "WHERE p0.ds BETWEEN @start_date AND @end_date\n" if "INCREMENTAL" in kind else ""
        (folder / "models" / f"model_{number:04d}.sql").write_text(
            _header(name, kind, cron, audits) + _query(parents, columns) + where
        )
    return folder


def _write_sources(folder: Path, number: int, columns: int) -> list[str]:
    """Empty external tables, and their entries in `external_models.yaml`."""
    tables = [f"raw.source_{table:03d}" for table in range(number)]
    names = [f"c{column}" for column in range(columns)]
    with duckdb.connect(str(folder / "warehouse.duckdb")) as warehouse:
        warehouse.execute("CREATE SCHEMA IF NOT EXISTS raw")
        for table in tables:
            warehouse.execute(f"CREATE TABLE {table} (ds DATE, id INT, {', '.join(f'{name} INT' for name in names)})")
    types = "".join(f"    {name}: int\n" for name in ("id", *names))
    entries = (f"- name: {table}\n  columns:\n    ds: date\n{types}" for table in tables)
    (folder / "external_models.yaml").write_text("".join(entries))
    return tables


def _header(name: str, kind: str, cron: str, audits: int) -> str:
    clause = f", audits ({', '.join(AUDITS[:audits])})" if audits else ""
    return f"MODEL (name {name}, kind {kind}, cron '{cron}', description 'Generated.'{clause});\n"


def _python_model(name: str, parents: list[str], columns: int) -> str:
    types = {"ds": "date", "id": "int", **{f"c{number}": "int" for number in range(columns)}}
    tables = ", ".join(f"context.resolve_table({parent!r})" for parent in parents)
    return (
        "import pandas as pd\nfrom sqlmesh import ExecutionContext, model\n\n\n"
        f"@model({name!r}, kind='FULL', cron='@daily', description='Generated.', columns={types})\n"
        "def execute(context: ExecutionContext, start, end, execution_time, **arguments) -> pd.DataFrame:\n"
        f"    tables = [{tables}]\n"
        f"    rows = pd.DataFrame(1, index=range(5), columns={list(types)}).assign(ds=start.date())\n"
        "    return rows.head(len(context.fetchdf(f'SELECT 1 FROM {tables[0]}'))) if tables else rows\n"
    )


def _query(parents: list[str], columns: int) -> str:
    if not parents:
        values = ", ".join(f"id + {number} AS c{number}" for number in range(columns))
        return (
            f"SELECT ds::DATE AS ds, id::INT AS id, {values}\n"
            "FROM (SELECT DATE '2026-01-01' AS ds, UNNEST(GENERATE_SERIES(1, 5)) AS id)\n"
        )
    values = ", ".join(
        f"{' + '.join(f'p{p}.c{(number + p) % columns}' for p in range(len(parents)))} AS c{number}"
        for number in range(columns)
    )
    joins = "".join(f"\nLEFT JOIN {parent} AS p{p + 1} ON p0.id = p{p + 1}.id" for p, parent in enumerate(parents[1:]))
    return f"SELECT p0.ds AS ds, p0.id AS id, {values}\nFROM {parents[0]} AS p0{joins}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=int, default=1_000)
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--audits", type=int, default=0)
    parser.add_argument("--mixed", action="store_true", help="several kinds and crons")
    parser.add_argument("--sources", type=int, default=0, help="external tables")
    parser.add_argument("--python", action="store_true", help="Python models")
    parser.add_argument("--seed", type=int, default=1)
    arguments = vars(parser.parse_args())
    write(arguments.pop("folder"), arguments.pop("models"), **arguments)


if __name__ == "__main__":
    main()
