"""Start a MariaDB server for tests, on a free local port and with a temporary data folder."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from servers import SharedServer, as_user, folder_of, free_port, running

from dg_sqlmesh_component.worker.lock_sessions import MySQL

CONFIG = """
gateways:
  local:
    connection:
      type: mysql
      host: 127.0.0.1
      port: {port}
      user: root
      password: ''
      concurrent_tasks: 2
    state_connection:
      {state}
default_gateway: local
model_defaults:
  dialect: mysql
  start: {start}
disable_anonymized_analytics: true
"""

STATE_IN_DUCKDB = "{type: duckdb, database: state.duckdb}"

SYSTEM = ("information_schema", "mysql", "performance_schema", "sys")


@dataclass
class Server:
    """A running MariaDB server."""

    port: int

    def config(self, start: str = "6 days ago", state: str = STATE_IN_DUCKDB) -> str:
        """Return the config of a SQLMesh project with its tables on the server, and its state in `state.duckdb`."""
        return CONFIG.format(port=self.port, start=start, state=state)

    @property
    def connection(self) -> str:
        """A connection to the server in a SQLMesh project's config."""
        return f"{{type: mysql, host: 127.0.0.1, port: {self.port}, user: root, password: ''}}"

    def with_state(self, config: str) -> str:
        """The config of a project on another server, with its state on this one."""
        return config.replace("default_gateway", f"    state_connection: {self.connection}\ndefault_gateway", 1)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with self.session() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def answers(self) -> bool:
        import pymysql

        try:
            return bool(self.query("SELECT 1"))
        except pymysql.OperationalError:
            return False

    def held_locks(self) -> int:
        """How many of the two locks on a state in schema `sqlmesh` are held."""
        names = [MySQL.key(f"dg_sqlmesh sqlmesh {scope}") for scope in ("runs", "changes")]
        return sum(self.query(f"SELECT IS_USED_LOCK('{name}') IS NOT NULL")[0][0] for name in names)

    def copy(self, schema: str, target: str) -> None:
        """Replace a schema by a copy of another one."""
        self.query(f"DROP DATABASE IF EXISTS `{target}`")
        self.query(f"CREATE DATABASE `{target}`")
        for (table,) in self.query(f"SHOW TABLES FROM `{schema}`"):
            self.query(f"CREATE TABLE `{target}`.`{table}` LIKE `{schema}`.`{table}`")
            self.query(f"INSERT INTO `{target}`.`{table}` SELECT * FROM `{schema}`.`{table}`")

    @contextmanager
    def session(self) -> Iterator[Any]:
        import pymysql

        connection = pymysql.connect(host="127.0.0.1", port=self.port, user="root", autocommit=True)
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def clear(self) -> None:
        """Drop all schemas: MariaDB has no databases that contain schemas, so all projects share them.

        A query that still runs would keep its schema.
        """
        import pymysql

        others = "SELECT id FROM information_schema.processlist WHERE user <> 'system user' AND id <> CONNECTION_ID()"
        with self.session() as cursor:
            cursor.execute(others)
            for (session,) in cursor.fetchall():
                with suppress(pymysql.OperationalError):  # it has ended
                    cursor.execute(f"KILL {session}")
        for (schema,) in self.query("SHOW DATABASES"):
            if schema not in SYSTEM:
                self.query(f"DROP DATABASE `{schema}`")


@contextmanager
def new_mariadb_server() -> Iterator[Server]:
    """Start a server. If MariaDB is not installed, skip the test with a message."""
    install = shutil.which("mariadb-install-db")
    mariadbd = shutil.which("mariadbd") or shutil.which("/usr/sbin/mariadbd")
    if install is None or mariadbd is None:
        pytest.skip("MariaDB IS NOT INSTALLED, so nothing was tested on it: `make services` installs it on Debian")
    user, port = as_user("nobody", "nogroup"), free_port()
    with folder_of("mariadb", user) as folder:
        user["env"] = {**os.environ, "TMPDIR": str(folder)}  # the folder of the tests belongs to somebody else
        data = ["--no-defaults", f"--datadir={folder / 'data'}"]
        create = [install, *data, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(create, check=True, capture_output=True, cwd=folder, **user)
        options = [*data, f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve"]
        options += [f"--socket={folder / 'socket'}", f"--pid-file={folder / 'pid'}", "--character-set-server=utf8mb4"]
        options += ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M"]
        server = Server(port)
        with running([mariadbd, *options], folder, server.answers, signal.SIGTERM, **user):
            yield server


shared = SharedServer(new_mariadb_server)


@contextmanager
def mariadb_server() -> Iterator[Server]:
    """The server that the tests of this process share. All schemas are dropped at the end of the block."""
    server = shared.get()
    try:
        yield server
    finally:
        server.clear()
