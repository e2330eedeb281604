"""Start a PostgreSQL server for tests, on a free local port and with a temporary data folder."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers import SharedServer, as_user, folder_of, free_port, running


def _binary(name: str) -> str | None:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


CONFIG = """
gateways:
  local:
    connection:
      type: postgres
      host: 127.0.0.1
      port: {port}
      user: postgres
      password: {password}
      database: {database}
      concurrent_tasks: 2
default_gateway: local
model_defaults:
  dialect: postgres
  start: {start}
disable_anonymized_analytics: true
"""


@dataclass
class Server:
    """A running PostgreSQL server.

    Attributes:
        log: Its log, with each statement that changes something.
    """

    port: int
    log: Path

    def config(self, database: str, password: str = "x", start: str = "6 days ago") -> str:
        """Return the config of a SQLMesh project with its tables and state in a database. Any password works."""
        return CONFIG.format(port=self.port, database=database, password=password, start=start)

    @property
    def databases(self) -> set[str]:
        return {name for (name,) in self.query("SELECT datname FROM pg_database")}

    def query(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with self.session(database) as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def answers(self) -> bool:
        import psycopg2

        try:
            return bool(self.query("SELECT 1"))
        except psycopg2.OperationalError:
            return False

    @contextmanager
    def advisory_lock(self, number: int, database: str) -> Iterator[None]:
        """Hold an advisory lock. A query with `pg_advisory_xact_lock(number)` waits until the block ends."""
        with self.session(database) as cursor:
            cursor.execute(f"SELECT pg_advisory_lock({number})")
            yield

    @contextmanager
    def session(self, database: str) -> Iterator[Any]:
        import psycopg2

        connection = psycopg2.connect(host="127.0.0.1", port=self.port, user="postgres", dbname=database)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()


@contextmanager
def new_postgres_server() -> Iterator[Server]:
    """Start a server. If PostgreSQL is not installed, skip the test with a message."""
    initdb, postgres = _binary("initdb"), _binary("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL IS NOT INSTALLED, so nothing was tested on it: `make services` installs it on Debian")
    user, port = as_user("postgres", "postgres"), free_port()
    with folder_of("postgres", user) as folder:
        data = folder / "data"
        create = [initdb, "-D", str(data), "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(create, check=True, capture_output=True, cwd=folder, **user)
        options = ["-p", str(port), "-h", "127.0.0.1", "-k", str(folder), "-c", "fsync=off"]
        options += ["-c", "log_statement=mod", "-c", "logging_collector=on", "-c", "log_filename=statements.log"]
        server = Server(port, data / "log" / "statements.log")
        # SIGINT ends open sessions; SIGTERM would wait for them.
        with running([postgres, "-D", data, *options], folder, server.answers, signal.SIGINT, **user):
            yield server


shared = SharedServer(new_postgres_server)


@contextmanager
def postgres_server() -> Iterator[Server]:
    """The server that the tests of this process share. The databases that the block creates are dropped at its end."""
    server = shared.get()
    before = server.databases
    try:
        yield server
    finally:
        for database in server.databases - before:
            server.query(f'DROP DATABASE "{database}" WITH (FORCE)')
