"""Start a PostgreSQL server for tests, on a free local port and with a temporary data folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest


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


_shared = ExitStack()


@contextmanager
def postgres_server() -> Iterator[Server]:
    """The server that the tests of this process share. The databases that the block creates are dropped at its end."""
    server = _shared_server()
    before = server.databases
    try:
        yield server
    finally:
        for database in server.databases - before:
            server.query(f'DROP DATABASE "{database}" WITH (FORCE)')


@cache
def _shared_server() -> Server:
    return _shared.enter_context(new_postgres_server())


def stop_shared_server() -> None:
    """End the server that `postgres_server` has started, if any."""
    _shared.close()
    _shared_server.cache_clear()


@contextmanager
def new_postgres_server() -> Iterator[Server]:
    """Start a server. If PostgreSQL is not installed, skip the test with a message."""
    initdb, postgres = _binary("initdb"), _binary("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL IS NOT INSTALLED, so nothing was tested on it: `make services` installs it on Debian")
    # The server refuses to run as root, and its user must be able to reach the folder.
    user = "postgres" if os.geteuid() == 0 else None
    as_user: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
    folder = Path(tempfile.mkdtemp(prefix="dg_sqlmesh_postgres_"))
    if user:
        shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"
    subprocess.run(
        [initdb, "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync"],
        check=True,
        capture_output=True,
        cwd=folder,
        **as_user,
    )
    options = ["-p", str(port), "-h", "127.0.0.1", "-k", str(folder), "-c", "fsync=off"]
    options += ["-c", "log_statement=mod", "-c", "logging_collector=on", "-c", "log_filename=statements.log"]
    running = Server(port, data / "log" / "statements.log")
    server = subprocess.Popen(
        [postgres, "-D", data, *options], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user
    )
    try:
        _wait_until_ready(running, server)
        yield running
    finally:
        server.send_signal(signal.SIGINT)  # ends open sessions; SIGTERM would wait for them
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    import psycopg2

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "PostgreSQL did not start"
        try:
            server.query("SELECT 1")
            return
        except psycopg2.OperationalError:
            time.sleep(0.2)
    raise AssertionError("PostgreSQL did not answer within two minutes")
