"""The databases of stories: the source tables, the rows of the models, SQLMesh's state, and copies of all of them."""

import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
from computed_hours import State
from harness import CONFIG, processes_in, query, wait_until
from mariadb import Server as MariaDB
from mariadb import new_mariadb_server
from postgres import Server as PostgreSQL
from postgres import new_postgres_server
from story_projects import Rows, sorted_rows

ENGINES = ("duckdb", "postgres", "mariadb")
"""On `mariadb`, the tables are in PostgreSQL and the state is in MariaDB."""
HOUR = 3600
HELD_LOCKS = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
AND database = (SELECT oid FROM pg_database WHERE datname = '{database}')
"""

Query = Callable[[str], list[tuple[Any, ...]]]


def day_of(hour: int) -> str:
    """The day of an hour since 1970."""
    return str(datetime.fromtimestamp(hour * HOUR, timezone.utc).date())


@dataclass
class Database:
    """Where a story has its tables and its state.

    Attributes:
        config: SQLMesh's config.
        query: Runs SQL in the database of the tables.
        query_state: Runs SQL in the database of the state.
        save: Keeps a copy of both under a name, to which `restore` goes back.
        held_locks: How many locks on the state are held. None: on DuckDB, whose file is the lock.
    """

    config: str
    query: Query
    query_state: Query
    save: Callable[[str], object]
    restore: Callable[[str], object]
    held_locks: Callable[[], int] | None = None

    def create_tables(self, sources: dict[str, Rows]) -> None:
        """Create the tables of causes (`ctl.causes`), of statements (`ctl.log`) and of the sources."""
        self.query("CREATE SCHEMA ctl")
        self.query("CREATE TABLE ctl.causes (name TEXT, day DATE, extra INT)")
        self.query("CREATE TABLE ctl.log (what TEXT, name TEXT, days TEXT, extra INT)")
        self.query("CREATE SCHEMA src")
        for root, rows in sources.items():
            self.query(f"CREATE TABLE src.{root} (day DATE, ts TIMESTAMP, k INT, v INT)")
            for day in rows:
                self.write_source(root, day, rows[day])

    def write_source(self, root: str, day: str, rows: list[tuple[int, int]]) -> None:
        """Replace the rows of a day."""
        self.query(f"DELETE FROM src.{root} WHERE day = CAST('{day}' AS DATE)")
        if rows:
            when = f"CAST('{day}' AS DATE), CAST('{day} {{:02}}:30:00' AS TIMESTAMP)"
            self.query(f"INSERT INTO src.{root} VALUES {', '.join(f'({when.format(k)}, {k}, {v})' for k, v in rows)}")

    def add_cause(self, name: str, day: str) -> None:
        """Let the query or statement of a name fail. Two rows are an error where one is expected."""
        value = f"('{name}', CAST('{day}' AS DATE), 0)"
        self.query(f"INSERT INTO ctl.causes VALUES {value}, {value}")

    def end_causes(self) -> None:
        self.query("DELETE FROM ctl.causes")

    def rows(self, table: str, where: str = "") -> Rows:
        """Read the rows of each day that a table has."""
        rows: Rows = defaultdict(list)
        for day, k, v in self.query(f"SELECT day, k, v FROM {table} {where}"):
            rows[str(day)[:10]].append((int(k), int(v)))
        return sorted_rows(rows)

    def state(self) -> State:
        """Read what the state has as computed."""
        return State.read(self.query_state)

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
    def database(self, engine: str, project: Path, start: str = "6 days ago", tasks: int = 2) -> Iterator[Database]:
        """Create an empty database for one story.

        Args:
            project: The folder of the SQLMesh project, whose processes end before a copy is made.
            start: The first day of models.
            tasks: The `concurrent_tasks`. DuckDB has one.
        """
        project.mkdir(parents=True, exist_ok=True)
        if engine == "duckdb":
            yield _duckdb_database(project, start)
            return
        server, state, database = self.postgres, self.mariadb, f"story_{uuid.uuid4().hex[:8]}"
        assert server is not None
        server.query(f"CREATE DATABASE {database}")
        config = server.config(database, start=f"'{start}'")
        config = config.replace("concurrent_tasks: 2", f"concurrent_tasks: {tasks}")
        ask = partial(server.query, database=database)
        copies: set[str] = set()

        def copy(source: str, target: str) -> None:
            wait_until(lambda: not processes_in(project))
            copies.update({source, target})
            server.query(f"DROP DATABASE IF EXISTS {target} WITH (FORCE)")
            server.query(f"CREATE DATABASE {target} TEMPLATE {source}")
            if engine == "mariadb":
                assert state is not None
                state.copy(*("sqlmesh" if name == database else name for name in (source, target)))

        def save(name: str) -> None:
            copy(database, f"{database}_{name}")

        def restore(name: str) -> None:
            copy(f"{database}_{name}", database)

        try:
            if engine == "postgres":
                held = HELD_LOCKS.format(database=database)
                yield Database(config, ask, ask, save, restore, lambda: int(ask(held)[0][0]))
            else:
                assert state is not None
                state.clear()
                yield Database(state.with_state(config), ask, state.query, save, restore, state.held_locks)
        finally:
            for name in {database, *copies}:
                server.query(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _duckdb_database(project: Path, start: str) -> Database:
    warehouse = project / "warehouse.duckdb"

    def copy(source: Path, target: Path) -> None:
        wait_until(lambda: not processes_in(project))
        target.with_suffix(".duckdb.wal").unlink(missing_ok=True)
        shutil.copy(source, target)

    def ask(sql: str) -> list[tuple[Any, ...]]:
        """Run SQL as soon as no process has the file."""
        deadline = time.monotonic() + 300
        while True:
            try:
                return query(project, sql)
            except duckdb.IOException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    return Database(
        CONFIG.replace("6 days ago", f"'{start}'"),
        ask,
        ask,
        lambda name: copy(warehouse, project.parent / f"{name}.duckdb"),
        lambda name: copy(project.parent / f"{name}.duckdb", warehouse),
    )


@contextmanager
def started(engines: Collection[str]) -> Iterator[Servers]:
    """Start the servers that some engines need."""
    with ExitStack() as stack:
        servers = Servers()
        if {"postgres", "mariadb"} & {*engines}:
            servers.postgres = stack.enter_context(new_postgres_server())
        if "mariadb" in engines:
            servers.mariadb = stack.enter_context(new_mariadb_server())
        yield servers
