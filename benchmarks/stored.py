"""The storage (SQLite) and CPU seconds of a run without pending intervals, for each option that records less."""

from __future__ import annotations

import argparse
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from growth import UNRECORDED
from lab import Lab, heading, in_dagster, row

OPTIONS = {
    "default": "",
    "`execution_status_check: false`": "  execution_status_check: false\n",
    "`execution.record_unchanged: false`": UNRECORDED,
    "both": f"  execution_status_check: false\n{UNRECORDED}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[10, 300])
    parser.add_argument("--audits", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for models in options.models:
        print(heading(f"{models} models, nothing pending, {options.rounds} runs"))
        with tempfile.TemporaryDirectory() as folder:
            lab = Lab(Path(folder).resolve(), models, audits=options.audits)
            for number, (title, attributes) in enumerate(OPTIONS.items()):
                measure_runs(title, lab.ours(f"ours_{number}", attributes=attributes), models, options.rounds)


def measure_runs(title: str, root: Path, models: int, rounds: int) -> None:
    """Print what a run stores for each model, and the CPU seconds of Dagster's process from its start to its end."""
    in_dagster("step", root)  # so that nothing is pending, and nothing unrecorded
    before, seconds = stored(root), []
    for _ in range(rounds):
        printed = in_dagster("step", root).printed
        assert printed["ok"]
        seconds.append(printed["cpu"])
    kilobytes, events = ((after - then) / rounds / models for after, then in zip(stored(root), before, strict=True))
    print(row(f"kilobytes of a model, {title}", [kilobytes]))
    print(row(f"rows of event logs of a model, {title}", [events]))
    print(row(f"CPU seconds of the run, {title}", seconds))


def stored(root: Path) -> tuple[float, int]:
    """Kilobytes of all databases, and the rows of their event logs. Dagster keeps most events in two of them."""
    events = 0
    databases = list((root / "home").rglob("*.db"))
    for path in databases:
        with closing(sqlite3.connect(path)) as database:
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'event_logs'").fetchone():
                events += database.execute("SELECT count(*) FROM event_logs").fetchone()[0]
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(path.stat().st_size for path in databases) / 1_000, events


if __name__ == "__main__":
    main()
