"""The cost of a tick of `schedule` with and without `external_models.wait`, and of a tick of the sensor on sources.

Daily models over external tables. An asset with daily partitions loads each table. A round starts a process that loads
the definitions of both Dagster projects, as a code server does, and evaluates two ticks of each in turns: the process
then knows nothing at its first tick.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
from lab import HERE, Lab, heading, measure, progress, ratio_row, row

NOT_LOADED = (3, 2, 1)
"""The days, before today, that the plan has not computed, and that every tenth source has not loaded at first."""

LOADERS = """
import dagster as dg

DAYS = dg.DailyPartitionsDefinition(start_date="{start}")


def loader(table):
    @dg.asset(key=["raw", f"source_{{table:03d}}"], partitions_def=DAYS)
    def load():
        ...

    return load


loaders = [loader(table) for table in range({sources})]
"""
WAITS = "  schedule: {on_sources: true}\n  external_models: {wait: true}\n"
NEVER_WAITS = "  schedule: true\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1_000)
    parser.add_argument("--sources", type=int, default=300)
    parser.add_argument("--partitions", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder).resolve(), options.models, sources=options.sources, days=options.partitions)
        roots = [lab.ours("waits", WAITS), lab.ours("never_waits", NEVER_WAITS)]
        for root in roots:
            loaders = LOADERS.format(start=_day(options.partitions), sources=options.sources)
            (root / root.name / "defs" / "loaders.py").write_text(loaders)
        home = roots[0] / "home"
        keys = [dg.AssetKey(["raw", f"source_{table:03d}"]) for table in range(options.sources)]
        _materialize(home, keys, options.partitions)
        _report(home, [key for key in keys if key not in keys[::10]], NOT_LOADED)
        sizes = f"{options.models} models, {options.sources} sources with {options.partitions} partitions"
        _print(f"{sizes}, pending, every tenth source not loaded", _rounds(options.rounds, roots, home))
        _report(home, keys[::10], NOT_LOADED)
        sqlmesh = "from sqlmesh.cli.main import cli; cli()"
        measure([sys.executable, "-c", sqlmesh, "-p", lab.project, "run"], cwd=lab.project)
        _print(f"{sizes}, nothing pending", _rounds(options.rounds, roots, home))


def _day(ago: int) -> str:
    return (datetime.now(timezone.utc).date() - timedelta(days=ago)).isoformat()


def _materialize(home: Path, keys: Sequence[dg.AssetKey], partitions: int) -> None:
    """Materialize all partitions of the assets but the last three.

    Dagster writes 100 events a second to SQLite. So it writes the first and the last of each asset, and SQLite copies
    the first one to the partitions between them.
    """
    first, last = partitions, max(NOT_LOADED) + 1
    _report(home, keys, [first])
    with sqlite3.connect(home / "history" / "runs" / "index.db") as events:
        events.execute("CREATE TEMP TABLE days (day TEXT)")
        events.executemany("INSERT INTO days VALUES (?)", [(_day(ago),) for ago in range(first - 1, last, -1)])
        events.execute(
            "INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition) "
            "SELECT run_id, replace(event, partition, day), dagster_event_type, timestamp, step_key, asset_key, day "
            "FROM event_logs, days WHERE asset_key IS NOT NULL"
        )
    _report(home, keys, [last])


def _report(home: Path, keys: Sequence[dg.AssetKey], days_ago: Sequence[int]) -> None:
    """Materialize partitions of these assets, in Dagster."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for key in keys:
            for ago in days_ago:
                instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=_day(ago)))


def _rounds(rounds: int, roots: Sequence[Path], home: Path) -> list[dict[str, Any]]:
    """What `in_dagster.ticks` has measured in each round. The projects take turns in being the first."""
    measured = []
    for number in range(rounds):
        order = roots if number % 2 == 0 else roots[::-1]
        command: list[str | Path] = [sys.executable, HERE / "in_dagster.py", "ticks", *order]
        measured.append(measure(command, cwd=order[0], DAGSTER_HOME=str(home)).printed)
        progress(
            {f"{name} {tick}": values["schedule"][tick][0] for name, values in measured[-1].items() for tick in (0, 1)}
        )
    return measured


def _print(title: str, rounds: Sequence[dict[str, Any]]) -> None:
    print(heading(f"{title}, {len(rounds)} rounds"))
    for tick, name in enumerate(("first tick", "later tick")):
        for unit, seconds in {"seconds": _wall, "CPU seconds": _cpu, "CPU seconds in Dagster": _own}.items():
            waits, never = (
                [seconds(measured[root]["schedule"][tick]) for measured in rounds] for root in ("waits", "never_waits")
            )
            print(row(f"{name} with `wait`, {unit}", waits))
            print(row(f"{name} without, {unit}", never))
            if seconds is not _own:
                print(ratio_row(f"**{name}, with / without, {unit}**", waits, never))
    sensor = [measured["waits"]["sensor"] for measured in rounds]
    print(row("sensor on sources, no news, seconds", list(map(_wall, sensor))))
    print(row("sensor on sources, no news, CPU seconds", list(map(_cpu, sensor))))
    for name, values in rounds[-1].items():
        print(f"\n`{name}`: {values['requested']} requested. {(values['why'] or '')[:200]}")


def _wall(cost: Sequence[float]) -> float:
    return cost[0]


def _own(cost: Sequence[float]) -> float:
    return cost[1]


def _cpu(cost: Sequence[float]) -> float:
    return cost[1] + cost[2]


if __name__ == "__main__":
    main()
