"""Lock the SQLMesh state (ADR-0021). Only one run, or the janitor, uses it at a time, across processes and hosts.

SQLMesh has no such lock: two overlapping runs would both compute the same missing intervals. With the lock, a run waits
for the run before it, and then finds those intervals computed.

- State in PostgreSQL: an advisory lock of a session. It ends with the connection, however its owner ends.
- State in DuckDB: DuckDB itself locks the file for the process that has it open.
- State elsewhere: no lock. The run's log contains a warning.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from sqlmesh.core.context import Context

from dg_sqlmesh_component.protocol.errors import ConfigurationError, DatabaseInUseError
from dg_sqlmesh_component.protocol.formatting import counted
from dg_sqlmesh_component.protocol.messages import LockRequest, StateHeld
from dg_sqlmesh_component.worker.context import state_connection
from dg_sqlmesh_component.worker.pipe import Pipe

_POSTGRES = ("postgres", "gcp_postgres")
_DUCKDB = "duckdb"

RUNS, CHANGES = "runs", "changes"
"""The scopes of locks. A plan holds that of changes all the time, and that of runs while it promotes."""

POLL_SECONDS = 1.0
REMIND_SECONDS = 60.0

ASK_SECONDS = 5.0
"""How often a session is asked whose driver does not show its socket, such as that of Cloud SQL."""

_SESSION = {
    "idle_session_timeout": 0,  # the server must not end the session that holds the lock
    # PostgreSQL notices the end of a process at once. With these, it notices within a minute that a host is gone.
    "tcp_keepalives_idle": 30,
    "tcp_keepalives_interval": 10,
    "tcp_keepalives_count": 3,
}
_NAME = "dg_sqlmesh: "
# PostgreSQL shows a 64-bit advisory key as two halves of 32 bits, marked by objsubid 1.
_HOLDER = """
SELECT a.application_name, a.backend_start FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
AND ((l.classid::bigint << 32) | l.objid::bigint) = {key}
"""

_T = TypeVar("_T")
_Context = TypeVar("_Context", bound=Context)


class LockWait:
    """Waits for locks that other processes hold. All waits of a run share one limit of seconds."""

    def __init__(self, pipe: Pipe, seconds: float) -> None:
        self.pipe = pipe
        self._seconds = seconds
        self._waited_before = 0.0
        self._reminded = 0.0

    def until(self, attempt: Callable[[], _T]) -> _T:
        """Call `attempt` until it no longer raises `DatabaseInUseError`.

        If the run is cancelled meanwhile, the pipe ends the process.

        Raises:
            DatabaseInUseError: The last one, when the time is up.
        """
        since: float | None = None
        while True:
            try:
                result = attempt()
            except DatabaseInUseError as error:
                since = since or time.monotonic()
                self._wait(error, self._waited_before + time.monotonic() - since)
            else:
                self._waited_before += time.monotonic() - since if since is not None else 0.0
                return result

    def _wait(self, error: DatabaseInUseError, waited: float) -> None:
        now = time.monotonic()
        if waited >= self._seconds:
            seconds = counted(round(waited), "second")
            text = f"{error} This run has waited for {seconds} (`execution.overlap_timeout` in defs.yaml)."
            raise DatabaseInUseError(text) from error
        if not self._reminded or now - self._reminded >= REMIND_SECONDS:
            self._reminded = now
            text = (
                f"Waiting, for {counted(round(self._seconds - waited), 'second')} at most. {error} "
                "This run continues by itself as soon as it can."
            )
            self.pipe.log("warning", text)
            if error.holder is not None:
                self.pipe.send(StateHeld(error.holder))
        time.sleep(min(POLL_SECONDS, max(self._seconds - waited, 0.0)))


def is_lockable(context: Context) -> bool:
    """Whether the SQLMesh state can be locked, which depends on its database."""
    return state_connection(context).type_ in (*_POSTGRES, _DUCKDB)


def is_file_locked(context: Context) -> bool:
    """Whether the state's file is the lock, so that nobody else uses the state while it is open."""
    return state_connection(context).type_ == _DUCKDB


def refuse_unlockable(context: Context, what: str, advice: str) -> None:
    """Refuse what must never work during a run, if the state cannot be locked.

    Args:
        what: It, as the beginning of a sentence.
        advice: What to do instead, in sentences.
    """
    if not is_lockable(context):
        raise ConfigurationError(
            f"{what} needs a lock, so that it never works during a run, and SQLMesh's state in "
            f"{state_connection(context).type_} cannot be locked. {advice}"
        )


@contextmanager
def locked_context(
    request: LockRequest,
    open_project: Callable[[], _Context],
    pipe: Pipe,
    *,
    writes: bool = True,
) -> Iterator[_Context]:
    """Open a project, wait for the locks on its state and hold them. At the end, the project is closed.

    Args:
        open_project: Opens the project and its state. If it raises `DatabaseInUseError`, it is called again.
        writes: False for a request that writes nothing, such as a dry run. It takes no lock.
    """
    lock_wait = LockWait(pipe, request.job.overlap_timeout)
    context = lock_wait.until(open_project)
    try:
        with ExitStack() as held:
            for scope in request.locks if writes else ():
                held.enter_context(StateLock(context, request, lock_wait, scope).held())
            yield context
    finally:
        context.close()


class StateLock:
    """A lock on a SQLMesh state, of one scope: `runs`, or `changes`. Whoever takes both takes that of changes first."""

    def __init__(self, context: Context, request: LockRequest, lock_wait: LockWait, scope: str) -> None:
        self._context = context
        self._holder = request.holder
        self._wait = lock_wait
        self._scope = scope
        self._warns = scope == request.locks[0]
        self._adapter: Any = None
        self._session: Session | None = None
        self._since = 0.0
        self._held_before = 0.0

    @property
    def is_file(self) -> bool:
        return is_file_locked(self._context)

    @property
    def seconds_held(self) -> float:
        """For how long it was held until now. 0 on an engine without this lock."""
        return self._held_before + (time.monotonic() - self._since if self._adapter is not None else 0.0)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock, unless it is held already."""
        if self._adapter is not None:
            yield
            return
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def acquire(self) -> None:
        """Wait for the lock. It can only be taken on PostgreSQL. DuckDB locks its file itself, for both scopes."""
        connection = state_connection(self._context)
        if self._adapter is not None:
            return
        if connection.type_ in _POSTGRES:
            schema = self._context.config.get_state_schema(self._context.selected_gateway) or "sqlmesh"
            self._adapter = connection.create_engine_adapter()
            try:
                self._wait.until(lambda: _lock(self._adapter, schema, self._scope, self._holder))
                self._session = Session(self._adapter.connection)
                self._wait.pipe.locks.append(self._why_lost)
                if self._scope == RUNS:
                    self._name_change(schema)
            except BaseException:
                self.release()
                raise
        elif connection.type_ != _DUCKDB and self._warns:
            text = (
                f"SQLMesh's state in {connection.type_} cannot be locked, so a second run at the same time would "
                "compute the same intervals. Give the op's pool a limit of 1 in your deployment."
            )
            self._wait.pipe.log("warning", text)
        self._since = time.monotonic()

    def _name_change(self, schema: str) -> None:
        """Log that a plan goes on, for which a run does not wait."""
        other = self._adapter.fetchone(_HOLDER.format(key=_key(schema, CHANGES)))
        if other and other[0].removeprefix(_NAME) != self._holder:
            text = (
                f"The {other[0].removeprefix(_NAME)} goes on since {other[1]:%Y-%m-%d %H:%M:%S %Z}. This run does not"
            )
            self._wait.pipe.log("info", f"{text} wait for it.")

    def _why_lost(self) -> str | None:
        if self._session is None or self._session.is_open():
            return None
        schema = self._context.config.get_state_schema(self._context.selected_gateway) or "sqlmesh"
        return (
            f"The lock of {self._scope} on SQLMesh's state in schema {schema!r} is lost: the session that held it has "
            "ended, for example because somebody ended it in PostgreSQL, or because of the time-out of a proxy. "
            "Another run or plan may have begun to compute the same tables, so nothing more was begun. Finished "
            "intervals are kept. Launch it again."
        )

    def release(self) -> None:
        """End the session, and the session's lock with it."""
        adapter, self._adapter = self._adapter, None
        if self._session is not None:
            self._wait.pipe.locks.remove(self._why_lost)
            self._session = None
        if adapter is not None:
            self._held_before += time.monotonic() - self._since
            adapter.close()


class Session:
    """The session of a database that holds a lock. Safe to use from any thread.

    The server, or a proxy before it, closes the connection when it ends the session. Then there is something to read
    from it, which the operating system knows without a query. If the network is gone, nothing arrives. So the
    operating system asks the other end, and gives up after half a minute. That is before PostgreSQL does, and frees
    the lock (`_SESSION`).
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._guard = threading.Lock()
        self._is_open = True
        self._asked = time.monotonic()
        if hasattr(connection, "fileno"):
            _keep_alive(connection.fileno())

    def is_open(self) -> bool:
        with self._guard:
            self._is_open = self._is_open and (self._is_quiet() or self._answers())
            return self._is_open

    def _is_quiet(self) -> bool:
        """Whether nothing has arrived. Of a driver that does not show its socket: whether it was asked just now."""
        if not hasattr(self._connection, "fileno"):
            return time.monotonic() - self._asked < ASK_SECONDS
        if self._connection.closed:
            return False
        arrived = select.poll()
        arrived.register(self._connection.fileno(), select.POLLIN)
        return not arrived.poll(0)

    def _answers(self) -> bool:
        """PostgreSQL also sends notices, for example of changed settings."""
        self._asked = time.monotonic()
        try:
            self._connection.cursor().execute("SELECT 1")
            self._connection.rollback()
        except Exception:  # noqa: BLE001  # any driver's
            return False
        return True


def _keep_alive(descriptor: int) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_KEEPIDLE"):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _key(schema: str, scope: str) -> int:
    """The number of a lock. That of runs is the one of earlier versions, which knew no other."""
    name = f"dg_sqlmesh {schema}" + ("" if scope == RUNS else f" {scope}")
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _lock(adapter: Any, schema: str, scope: str, holder: str) -> None:
    """Take the lock.

    Raises:
        DatabaseInUseError: Another session holds it.
    """
    key = _key(schema, scope)
    name = f"{_NAME}{holder}"[:63].replace("'", "")
    settings = "".join(f"SET {setting} = {value}; " for setting, value in _SESSION.items())
    with adapter.transaction():  # committed at once: an open transaction would keep PostgreSQL from cleaning up
        adapter.execute(f"{settings}SET application_name = '{name}'")
        (is_locked,) = adapter.fetchone(f"SELECT pg_try_advisory_lock({key})")
        other = None if is_locked else adapter.fetchone(_HOLDER.format(key=key))
    if is_locked:
        return
    who = f"{other[0].removeprefix(_NAME)} since {other[1]:%Y-%m-%d %H:%M:%S %Z}" if other else "another run or janitor"
    raise DatabaseInUseError(
        f"SQLMesh's state in schema {schema!r} is held by {who}. Only one run, or the janitor, may use it at a time.",
        holder=other[0].split()[-1] if other else None,
    )
