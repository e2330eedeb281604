"""Lock the SQLMesh state (ADR-0021). Only one run, or the janitor, uses it at a time, across processes and hosts.

SQLMesh has no such lock: two overlapping runs would both compute the same missing intervals. With the lock, a run waits
for the run before it, and then finds those intervals computed.

- State in PostgreSQL, MySQL, MariaDB or SQL Server: a lock of a session (`lock_sessions.py`).
- State in DuckDB: DuckDB itself locks the file for the process that has it open.
- State elsewhere: no lock. The run's log contains a warning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeVar

from sqlmesh.core.context import Context

from dg_sqlmesh_component.protocol.errors import ConfigurationError, DatabaseInUseError, SQLMeshComponentError
from dg_sqlmesh_component.protocol.formatting import block, counted
from dg_sqlmesh_component.protocol.messages import LockRequest, StateHeld
from dg_sqlmesh_component.worker.context import state_connection
from dg_sqlmesh_component.worker.explain import describe_error, explain
from dg_sqlmesh_component.worker.lock_sessions import SESSIONS, LockSession
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import new_connection

_DUCKDB = "duckdb"

RUNS, CHANGES = "runs", "changes"
"""The scopes of locks. A plan holds that of changes all the time, and that of runs while it promotes."""

POLL_SECONDS = 1.0
REMIND_SECONDS = 60.0

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

        If the run is cancelled meanwhile, the pipe ends the process, unless its work has begun.

        Raises:
            DatabaseInUseError: The last one, when the time is up.
            EvaluationError: The run is cancelled.
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
        self.pipe.refuse_if_cancelled()
        if not self._reminded or now - self._reminded >= REMIND_SECONDS:
            self._reminded = now
            text = (
                f"Waiting up to {counted(round(self._seconds - waited), 'second')}. {error} "
                "This run continues by itself as soon as it can."
            )
            self.pipe.log("warning", text)
            if error.holder is not None:
                self.pipe.send(StateHeld(error.holder))
        time.sleep(min(POLL_SECONDS, max(self._seconds - waited, 0.0)))


def is_lockable(context: Context) -> bool:
    """Whether the SQLMesh state can be locked, which depends on its database."""
    return state_connection(context).type_ in (*SESSIONS, _DUCKDB)


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
    request: LockRequest, open_project: Callable[[], _Context], pipe: Pipe, *, writes: bool = True
) -> Iterator[_Context]:
    """Open a project, wait for the locks on its state and hold them. At the end, the project is closed.

    Args:
        open_project: Opens the project and its state. If it raises `DatabaseInUseError`, it is called again.
        writes: False for a request that writes nothing, such as a dry run. It takes no lock.
    """
    lock_wait = LockWait(pipe, request.job.overlap_timeout)
    with ExitStack() as held:
        try:
            context = lock_wait.until(open_project)
            held.callback(context.close)
            for scope in request.locks if writes else ():
                held.enter_context(StateLock(context, request, lock_wait, scope))
            yield context
        except SQLMeshComponentError:
            raise
        except Exception as error:  # any driver's
            raise explain(error, request.project) from error


class StateLock:
    """A lock on a SQLMesh state, of one scope: `runs`, or `changes`. Whoever takes both takes that of changes first."""

    def __init__(self, context: Context, request: LockRequest, lock_wait: LockWait, scope: str) -> None:
        self._context = context
        self._request = request
        self._wait = lock_wait
        self._scope = scope
        self._session: LockSession | None = None
        self._since = 0.0
        self._held_before = 0.0

    @property
    def seconds_held(self) -> float:
        """For how long it was held until now. 0 on an engine without this lock."""
        return self._held_before + (time.monotonic() - self._since if self._session is not None else 0.0)

    @property
    def _schema(self) -> str:
        return self._context.config.get_state_schema(self._context.selected_gateway) or "sqlmesh"

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Wait for the lock. DuckDB locks its file itself, for both scopes.

        Raises:
            ConfigurationError: The database cannot hold a lock for a session.
            DatabaseInUseError: Another run holds it, and the time is up.
        """
        connection = state_connection(self._context)
        # A plan takes the lock of runs several times while runs go on.
        if self._session is not None:
            return
        if (session_type := SESSIONS.get(connection.type_)) is not None:
            connect = partial(new_connection, connection.create_engine_adapter())
            session = session_type(connect, self._name(self._scope), self._request.holder)
            try:
                self._wait.until(partial(self._take, session))
                if self._scope == RUNS:
                    self._name_change(session)
            # Also if the wait is interrupted: a session that stays open may hold the lock.
            except BaseException:
                session.close()
                raise
            self._session = session
            # Asked before each batch: the database may end the session at any time.
            self._wait.pipe.locks.append(self._why_lost)
        # Once, although a plan takes two locks.
        elif connection.type_ != _DUCKDB and self._scope == self._request.locks[0]:
            text = (
                f"SQLMesh's state in {connection.type_} cannot be locked, so a second run at the same time would "
                "compute the same intervals. Let Dagster start one at a time, unless you have done so:"
                f"{block(f'dagster instance concurrency set {self._request.job.pool} 1')}"
            )
            self._wait.pipe.log("warning", text)
        self._since = time.monotonic()

    def _name(self, scope: str) -> str:
        return f"dg_sqlmesh {self._schema} {scope}"

    def _take(self, session: LockSession) -> None:
        """Take the lock. Raises a DatabaseInUseError if another session holds it."""
        if session.take():
            return
        other = session.holder(self._name(self._scope))
        who = f"{other.name}{other.started}, in session {other.session}" if other else "another run or janitor"
        raise DatabaseInUseError(
            f"SQLMesh's state in schema {self._schema!r} is held by {who}. "
            "Only one run, or the janitor, may use it at a time.",
            holder=other.name.split()[-1] if other and other.name else None,
        )

    def _name_change(self, session: LockSession) -> None:
        """Log which plan is running. A run does not wait for it."""
        other = session.holder(self._name(CHANGES))
        if other and other.name != self._request.holder:
            runs = f"has been running{other.started}" if other.since else "is running"
            self._wait.pipe.log("info", f"The {other.name} {runs}; this run does not wait for it.")

    def _why_lost(self) -> str | None:
        if self._session is None or self._session.is_held():
            return None
        error = self._session.error
        cause = f" The driver's error: {describe_error(error).rstrip('.')}." if error is not None else ""
        return (
            f"The lock of {self._scope} on SQLMesh's state in schema {self._schema!r} is lost: the session that held "
            "it has ended, for example because somebody ended it in the database, or because of the time-out of a "
            f"proxy.{cause} Another run or plan may have begun to compute the same tables, so no further work was "
            "started. Finished intervals are kept. Launch it again."
        )

    def release(self) -> None:
        """End the session, and the session's lock with it."""
        session, self._session = self._session, None
        if session is not None:
            self._wait.pipe.locks.remove(self._why_lost)
            self._held_before += time.monotonic() - self._since
            session.close()
