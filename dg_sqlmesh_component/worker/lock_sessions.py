"""The sessions of databases that hold the locks of a state (ADR-0064): one class for each kind of server.

A lock belongs to its session, and ends with it, however its owner ends.
"""

from __future__ import annotations

import hashlib
import logging
import os
import select
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any, ClassVar, NamedTuple

from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import block, plain

_LOG = logging.getLogger(__name__)

ASK_SECONDS = 5.0
"""How often a session is asked whose driver does not show its socket, such as those of Cloud SQL and SQL Server."""

NAME_BYTES = 63
"""The longest name of a session in PostgreSQL. All servers get the same."""


class Holder(NamedTuple):
    """Who holds a lock: a name that ends with the id of a Dagster run, since when, and the server's number for it."""

    name: str
    since: datetime | None  # None if the server does not show it to another login
    session: int

    @property
    def started(self) -> str:
        """The text after its name: since when; empty if that is not known."""
        return f" since {self.since:%Y-%m-%d %H:%M:%S %Z}" if self.since else ""


class LockSession(ABC):
    """A session for one lock.

    The server, or a proxy before it, closes the connection when it ends the session. Then there is something to read
    from it, which the operating system knows without a query. If the network is gone, nothing arrives. So the
    operating system asks the other end, and gives up after half a minute.
    """

    def __init__(self, connect: Callable[[], Any], lock: str, holder: str) -> None:
        """Open the session.

        Args:
            connect: Opens a connection of the state's driver.
            lock: The text that stands for the lock. It ends with the state's schema, and the scope.
            holder: The name of whoever wants it.

        Raises:
            ConfigurationError: This server cannot hold a lock for a session.
        """
        self._lock = lock
        self._guard = threading.Lock()
        self._is_held = True
        self.error: Exception | None = None
        """What the driver raised when the session was asked for its lock, if the lock is lost."""
        self._asked = time.monotonic()
        self._connection = connect()
        try:
            self._descriptor = _descriptor(self._connection)
            if self._descriptor is not None:
                _keep_alive(self._descriptor)
            self._prepare(connect, holder.encode("ascii", "replace")[:NAME_BYTES])
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _prepare(self, connect: Callable[[], Any], name: bytes) -> None:
        """Name the session, and let the server keep it for as long as its owner lives."""

    @abstractmethod
    def take(self) -> bool:
        """Take the lock if it is free. Return whether it was."""

    @abstractmethod
    def holder(self, lock: str) -> Holder | None:
        """The holder of a lock; None if nobody holds it, or SQL Server does not tell: then the log says why."""

    HAS: ClassVar[str]
    """A query for whether the session has the lock `{key}`: a true value or a false one."""

    @staticmethod
    def key(lock: str) -> str:
        """The server's name for a lock: at most 64 characters in MySQL, and 32 that SQL Server shows."""
        return f"dg_sqlmesh {_digest(lock.lower()).hex()}"

    def is_held(self) -> bool:
        """Whether the session still has the lock that it has taken. Safe to use from any thread."""
        with self._guard:
            self._is_held = self._is_held and (self._is_quiet() or self._answers())
            return self._is_held

    def close(self) -> None:
        """End the session, and its lock with it."""
        with suppress(Exception):  # any driver's: the session may have ended
            self._connection.close()

    def _ask(self, statement: str) -> list[Any]:
        """Execute a statement and return its rows. An open transaction would keep the server from cleaning up."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(statement)
            rows = cursor.fetchall() if cursor.description else []
        self._connection.commit()
        return list(rows)

    def _is_quiet(self) -> bool:
        """Whether nothing has arrived. Of a driver that does not show its socket: whether it was asked just now."""
        if self._descriptor is None:
            return time.monotonic() - self._asked < ASK_SECONDS
        arrived = select.poll()
        arrived.register(self._descriptor, select.POLLIN)
        return not arrived.poll(0)

    def _answers(self) -> bool:
        """Servers also send notices, for example PostgreSQL of changed settings. A driver may connect again."""
        self._asked = time.monotonic()
        try:
            [(has,)] = self._ask(self.HAS.format(key=self.key(self._lock)))
        except Exception as error:  # noqa: BLE001  # any driver's
            self.error = error
            return False
        return bool(has)


class Postgres(LockSession):
    """An advisory lock of a session in PostgreSQL. It is one of the database."""

    PREFIX = "dg_sqlmesh: "
    SETTINGS: ClassVar[Mapping[str, int]] = {
        "idle_session_timeout": 0,
        # PostgreSQL notices the end of a process at once. With these, it notices within a minute that a host is gone.
        "tcp_keepalives_idle": 30,
        "tcp_keepalives_interval": 10,
        "tcp_keepalives_count": 3,
    }
    # PostgreSQL shows a 64-bit advisory key as two halves of 32 bits, marked by objsubid 1.
    GRANTED = """
    FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted
    AND l.objsubid = 1 AND ((l.classid::bigint << 32) | l.objid::bigint) = {key} AND a.datname = current_database()
    """
    HAS = f"SELECT count(*) {GRANTED} AND l.pid = pg_backend_pid()"

    @staticmethod
    def key(lock: str) -> str:
        return str(int.from_bytes(_digest(lock), "big", signed=True))

    def _prepare(self, connect: Callable[[], Any], name: bytes) -> None:
        self._refuse_pooled_sessions(connect)
        shown = f"{self.PREFIX}{name.decode()}"[:NAME_BYTES].replace("'", "")
        wanted = {**self.SETTINGS, "application_name": shown}
        names = ", ".join(f"('{setting}', '{value}')" for setting, value in wanted.items())
        # PostgreSQL 13 has no idle_session_timeout, and ends no idle session either.
        known = f"(VALUES {names}) AS wanted (name, value) JOIN pg_settings USING (name)"
        self._ask(f"SELECT set_config(name, value, false) FROM {known}")

    def take(self) -> bool:
        [(is_taken,)] = self._ask(f"SELECT pg_try_advisory_lock({self.key(self._lock)})")
        return bool(is_taken)

    def holder(self, lock: str) -> Holder | None:
        granted = self.GRANTED.format(key=self.key(lock))
        for name, since, session in self._ask(f"SELECT a.application_name, a.backend_start, a.pid {granted}"):
            return Holder(name.removeprefix(self.PREFIX), since, session)
        return None

    def _refuse_pooled_sessions(self, connect: Callable[[], Any]) -> None:
        """Refuse a pooler that gives each transaction some session, because a lock would stay with a session of it.

        It must be known before a lock is taken: the pooler keeps that session, and nobody could free the lock.
        """
        if self._descriptor is not None and _port(self._descriptor) == self._ask("SELECT inet_client_port()")[0][0]:
            return  # nothing is in between
        for _ in range(3):  # others may use the pooler at the same moment
            before = self._ask("SELECT pg_backend_pid()")
            with closing(connect()) as other, closing(other.cursor()) as cursor:
                cursor.execute("SELECT pg_backend_pid()")  # begins a transaction, which keeps its session
                [within] = cursor.fetchall()
                after = self._ask("SELECT pg_backend_pid()")
            if are_pooled(before[0][0], within[0], after[0][0]):
                raise ConfigurationError(POOLED)


POOLED = (
    "SQLMesh's state in PostgreSQL is behind a pooler that gives each transaction another session, such as PgBouncer "
    "with `pool_mode = transaction`. A lock belongs to a session, so two runs would compute the same intervals. In "
    "`state_connection` of SQLMesh's config.yaml, name the host and port of PostgreSQL itself. Or set the mode for "
    "that database in pgbouncer.ini:\n\n    [databases]\n    my_state = host=... dbname=my_state pool_mode=session"
)


def are_pooled(before: int, within: int, after: int) -> bool:
    """Whether connections share the sessions of a pooler.

    Args:
        before: The session of a connection's transaction.
        within: The session of another connection's transaction, which is still open.
        after: The session of the first connection's next transaction.
    """
    return before == within or before != after


class MySQL(LockSession):
    """A lock of `GET_LOCK` in MariaDB or MySQL. It is one of the server, and a schema of a state too.

    The server shows no name of a session to others. So a session takes one more lock for each bit of its name that is
    1, and whoever waits asks for them.
    """

    HAS = "SELECT IS_USED_LOCK('{key}') <=> CONNECTION_ID()"
    LONGEST_TIMEOUT = 31_536_000  # a year, in seconds

    def _prepare(self, connect: Callable[[], Any], name: bytes) -> None:
        self._ask(f"SET SESSION wait_timeout = {self.LONGEST_TIMEOUT}")
        [(session,)] = self._ask("SELECT CONNECTION_ID()")
        bits = "".join(f"{byte:08b}" for byte in name)
        taken = (f"GET_LOCK('{lock}', 0)" for bit, lock in zip(bits, self._bits(session), strict=False) if bit == "1")
        self._ask(f"SELECT {', '.join(taken)}")

    def take(self) -> bool:
        [(is_taken,)] = self._ask(f"SELECT GET_LOCK('{self.key(self._lock)}', 0)")
        return bool(is_taken)

    def holder(self, lock: str) -> Holder | None:
        [(session,)] = self._ask(f"SELECT IS_USED_LOCK('{self.key(lock)}')")
        if session is None:
            return None
        idle = [row[5] for row in self._ask("SHOW PROCESSLIST") if row[0] == session]  # none of another login
        [(free,)] = self._ask(f"SELECT CONCAT({', '.join(f'IS_FREE_LOCK({bit!r})' for bit in self._bits(session))})")
        name = int(free.translate({ord("0"): "1", ord("1"): "0"}), 2).to_bytes(NAME_BYTES, "big")
        return Holder(_text(name), _ago(idle[0]) if idle else None, session)

    @staticmethod
    def _bits(session: int) -> list[str]:
        return [f"dg_sqlmesh {session} {number}" for number in range(8 * NAME_BYTES)]


class SQLServer(LockSession):
    """A lock of `sp_getapplock` in SQL Server. It is one of the database."""

    HAS = "SELECT CASE APPLOCK_MODE('public', N'{key}', 'Session') WHEN 'Exclusive' THEN 1 ELSE 0 END"
    HOLDER = """
    SELECT s.context_info, DATEDIFF(SECOND, s.login_time, GETDATE()), s.session_id
    FROM sys.dm_tran_locks AS l JOIN sys.dm_exec_sessions AS s ON s.session_id = l.request_session_id
    WHERE l.resource_type = 'APPLICATION' AND l.request_status = 'GRANT' AND l.resource_database_id = DB_ID()
    AND CHARINDEX(N'[{key}]', l.resource_description) > 0
    """

    def _prepare(self, connect: Callable[[], Any], name: bytes) -> None:
        self._ask(f"SET CONTEXT_INFO 0x{name.hex()}")

    def take(self) -> bool:
        [(code,)] = self._ask(
            f"SET NOCOUNT ON; DECLARE @code INT; EXEC @code = sp_getapplock @Resource = N'{self.key(self._lock)}', "
            "@LockMode = 'Exclusive', @LockOwner = 'Session', @LockTimeout = 0; SELECT @code"
        )
        return int(code) >= 0

    def holder(self, lock: str) -> Holder | None:
        try:
            rows = self._ask(self.HOLDER.format(key=self.key(lock)))
        except Exception as error:  # noqa: BLE001  # a driver's: the login may not see the sessions of others
            self._connection.rollback()
            _log_hidden_holder(plain(error).rstrip("."))
            return None
        for name, seconds, session in rows:
            return Holder(_text(name), _ago(seconds), session)
        return None

    def close(self) -> None:
        """End the session. A driver may keep its connection in a pool, and its lock with it."""
        with suppress(Exception):  # the session may have ended, or never have taken it
            self._ask(f"EXEC sp_releaseapplock @Resource = N'{self.key(self._lock)}', @LockOwner = 'Session'")
        super().close()


SESSIONS: Mapping[str, type[LockSession]] = {
    "postgres": Postgres,
    "gcp_postgres": Postgres,
    "mysql": MySQL,
    "mssql": SQLServer,
    "azuresql": SQLServer,
}
"""By SQLMesh's type of the state's connection."""


@cache  # a run that waits asks every second
def _log_hidden_holder(error: str) -> None:
    _LOG.warning(
        "The run that holds SQLMesh's state cannot be named: %s. If the login of the state lacks the permission, run "
        "this in SQL Server, or with VIEW DATABASE STATE in Azure SQL Database:%s",
        error,
        block("GRANT VIEW SERVER STATE TO [login]"),
    )


def _digest(lock: str) -> bytes:
    return hashlib.sha256(lock.encode()).digest()[:8]


def _text(name: bytes) -> str:
    return name.rstrip(b"\0").decode("ascii", "replace")


def _ago(seconds: float) -> datetime:
    return datetime.now(timezone.utc) - timedelta(seconds=float(seconds))


def _descriptor(connection: Any) -> int | None:
    """The connection's socket; None if the driver does not show it."""
    if hasattr(connection, "fileno"):
        return int(connection.fileno())
    shown = getattr(connection, "_sock", None)  # PyMySQL's; that of pg8000 is no socket, and has no number
    return shown.fileno() if isinstance(shown, socket.socket) else None


def _port(descriptor: int) -> int:
    """The local port of a socket; -1 without one."""
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        return connection.getsockname()[1] if connection.family in (socket.AF_INET, socket.AF_INET6) else -1


def _keep_alive(descriptor: int) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_KEEPIDLE"):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
