"""The databases of tests/soak/random_restatements.py: the source tables, the rows of the models and SQLMesh's state."""

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness import CONFIG, query
from mariadb import Server as MariaDB
from postgres import Server as PostgreSQL
from restated_projects import Rows, sorted_rows

HOUR = 3600
COLUMNS = "ts TIMESTAMP, k INT, v INT"


def day_of(hour: int) -> str:
    """The day of an hour since 1970."""
    return str(datetime.fromtimestamp(hour * HOUR, timezone.utc).date())


@dataclass
class Engine:
    """Where a story has its tables and its state.

    Attributes:
        config: SQLMesh's config.
        query: Runs SQL in the database of the tables.
        query_state: Runs SQL in the database of the state.
    """

    config: str
    query: Callable[[str], list[tuple[Any, ...]]]
    query_state: Callable[[str], list[tuple[Any, ...]]]

    def create_tables(self, sources: dict[str, Rows]) -> None:
        for table in ("ctl.causes (name TEXT, day DATE, extra INT)", *(f"src.{root} ({COLUMNS})" for root in sources)):
            self.query(f"CREATE SCHEMA IF NOT EXISTS {table.split('.')[0]}")
            self.query(f"CREATE TABLE {table}")
        for root, rows in sources.items():
            for day in rows:
                self.write_source(root, day, rows[day])

    def write_source(self, root: str, day: str, rows: list[tuple[int, int]]) -> None:
        """Replace the rows of a day."""
        self.query(f"DELETE FROM src.{root} WHERE CAST(ts AS DATE) = CAST('{day}' AS DATE)")
        if rows:
            values = ", ".join(f"(CAST('{day} {k:02}:30:00' AS TIMESTAMP), {k}, {v})" for k, v in rows)
            self.query(f"INSERT INTO src.{root} VALUES {values}")

    def add_cause(self, name: str, day: str) -> None:
        """Let the batch of a day fail. Two rows are an error in a query that expects one."""
        value = f"('{name}', CAST('{day}' AS DATE), 0)"
        self.query(f"INSERT INTO ctl.causes VALUES {value}, {value}")

    def end_causes(self) -> None:
        self.query("DELETE FROM ctl.causes")

    def rows(self, model: str) -> Rows:
        """Read the rows of each day that a model has."""
        rows: Rows = defaultdict(list)
        for day, k, v in self.query(f"SELECT day, k, v FROM s.{model}"):
            rows[str(day)[:10]].append((int(k), int(v)))
        return sorted_rows(rows)

    def computed(self) -> dict[str, set[int]]:
        """Read which hours since 1970 the state has as computed, by model."""
        hours: dict[str, set[int]] = defaultdict(set)
        events = "SELECT name, start_ts, end_ts, is_removed FROM sqlmesh._intervals WHERE NOT is_pending_restatement"
        for name, start, end, is_removed in self.query_state(f"{events} ORDER BY created_ts, is_removed"):
            model, interval = name.split('"')[-2], set(range(start // 1000 // HOUR, end // 1000 // HOUR))
            hours[model] = hours[model] - interval if is_removed else hours[model] | interval
        return hours

    def let_cron_tick(self, model: str) -> None:
        """Let the model's `auto_restatement_cron` be due. Without this, it ticks at midnight."""
        snapshots = self.query_state("SELECT DISTINCT name, version FROM sqlmesh._snapshots")
        [(name, version)] = [snapshot for snapshot in snapshots if snapshot[0].endswith(f'"{model}"')]
        self.query_state(f"DELETE FROM sqlmesh._auto_restatements WHERE snapshot_name = '{name}'")
        self.query_state(f"INSERT INTO sqlmesh._auto_restatements VALUES ('{name}', '{version}', 1000)")


@dataclass
class Servers:
    """The servers that stories share."""

    postgres: PostgreSQL | None = None
    mariadb: MariaDB | None = None

    @contextmanager
    def engine(self, name: str, project: Path, start: str) -> Iterator[Engine]:
        """Create empty databases for one story."""
        if name == "duckdb":
            yield Engine(CONFIG.replace("6 days ago", f"'{start}'"), *[lambda sql: query(project, sql)] * 2)
            return
        server, state, database = self.postgres, self.mariadb, f"story_{uuid.uuid4().hex[:8]}"
        assert server is not None
        server.query(f"CREATE DATABASE {database}")
        config = server.config(database, start=f"'{start}'")
        try:
            if name == "postgres":
                yield Engine(config, *[lambda sql: server.query(sql, database)] * 2)
            else:
                assert state is not None
                state.clear()
                yield Engine(state.with_state(config), lambda sql: server.query(sql, database), state.query)
        finally:
            server.query(f"DROP DATABASE {database} WITH (FORCE)")
