"""What the columns of a materialization cost when Dagster stores it in SQLite: CPU milliseconds and bytes."""

from __future__ import annotations

import argparse
import time

import dagster as dg
from dagster._serdes import serialize_value
from lab import heading, row

EVENTS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, nargs="+", default=[0, 7, 20])
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    milliseconds: dict[int, list[float]] = {columns: [] for columns in options.columns}
    with dg.instance_for_test() as instance:
        instance.report_runless_asset_event(materialization(0))  # creates the tables
        for _ in range(options.rounds):
            for columns, measured in milliseconds.items():
                since = time.process_time()
                for _ in range(EVENTS):
                    instance.report_runless_asset_event(materialization(columns))
                measured.append(1_000 * (time.process_time() - since) / EVENTS)
    print(heading(f"Columns of a materialization, {options.rounds} rounds"))
    for columns, measured in milliseconds.items():
        print(row(f"{columns} columns", measured, " ms"))
        print(row(f"{columns} columns", [len(serialize_value(materialization(columns)))], " bytes"))


def materialization(columns: int) -> dg.AssetMaterialization:
    described = [dg.TableColumn(f"c{number}", "INT", "From t.up.c1.") for number in range(columns)]
    schema = {"dagster/column_schema": dg.TableSchema(described)} if columns else {}
    return dg.AssetMaterialization("t", metadata={"sqlmesh/intervals": "2026-01-01", **schema})


if __name__ == "__main__":
    main()
