"""A session holds a lock until it ends, names its holder, and notices its own end without a query."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from harness import wait_until
from mariadb import mariadb_server
from pgbouncer import pgbouncer
from postgres import Server, postgres_server

from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.worker import lock_sessions
from dg_sqlmesh_component.worker.lock_sessions import LockSession, MySQL, Postgres, SQLServer, are_pooled

RUNS, CHANGES = "dg_sqlmesh sqlmesh runs", "dg_sqlmesh sqlmesh changes"
FIRST = "Dagster run 0f63b2c4-4d5e-4c3a-9a52-1f7a4f0a6b11"
SECOND = "plan of run 7c1d0a36-93a3-4c5c-8ef6-6f1f6f0c9f22"


def connect_to_postgres(server: Server, database: str, user: str = "postgres") -> Any:
    import psycopg2

    return psycopg2.connect(host="127.0.0.1", port=server.port, user=user, dbname=database)


@dataclass
class Locks:
    """One kind of server, and how to see and end its sessions. `connect` may get another `user`."""

    kind: type[LockSession]
    connect: Callable[..., Any]
    query: Callable[[str], list[tuple[Any, ...]]]
    end: str
    last_statement: str
    create_user: str

    @contextmanager
    def session(self, lock: str = RUNS, holder: str = FIRST, **connection: str) -> Iterator[LockSession]:
        with closing(self.kind(partial(self.connect, **connection), lock, holder)) as session:
            yield session

    def number(self, session: LockSession) -> int:
        other = session.holder(RUNS)
        assert other is not None
        return other.session


@pytest.fixture(scope="module", params=["postgres", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Locks]:
    with ExitStack() as stack:
        if request.param == "postgres":
            postgres = stack.enter_context(postgres_server())
            postgres.query("CREATE DATABASE sessions")
            connect = partial(connect_to_postgres, postgres, "sessions")
            shown = "SELECT query FROM pg_stat_activity WHERE pid = {}"
            end = "SELECT pg_terminate_backend({}, 5000)"
            yield Locks(Postgres, connect, postgres.query, end, shown, "CREATE ROLE {} LOGIN")
        else:
            import pymysql

            maria = stack.enter_context(mariadb_server())
            connect = partial(pymysql.connect, host="127.0.0.1", port=maria.port, user="root")
            shown = "SELECT time_ms > 100 FROM information_schema.processlist WHERE id = {}"
            yield Locks(MySQL, connect, maria.query, "KILL {}", shown, "CREATE USER IF NOT EXISTS {}")


@pytest.fixture
def locks(server: Locks) -> Locks:
    """A server on which nobody holds a lock: it may still have to notice that clients of the test before have left."""
    with server.session() as session:
        wait_until(lambda: session.holder(RUNS) is None and session.holder(CHANGES) is None)
    return server


def test_only_one_session_has_a_lock_and_the_others_learn_its_name_since_when_and_how_to_end_it(locks: Locks) -> None:
    with locks.session() as first, locks.session(holder=SECOND) as second, locks.session(CHANGES, SECOND) as third:
        assert first.take()
        assert not second.take()
        assert third.take(), "another scope is another lock"
        for session in (second, third):
            holder = session.holder(RUNS)
            assert holder is not None
            assert holder.since is not None
            assert holder.name == FIRST
            assert abs(time.time() - holder.since.timestamp()) < 60
            assert holder.started.endswith("UTC") or "+" in holder.started
        assert [holder.name for holder in (first.holder(CHANGES), second.holder(CHANGES)) if holder] == [SECOND] * 2
        locks.query(locks.end.format(locks.number(second)))
        wait_until(second.take)  # MariaDB ends a session after `KILL` has returned
        wait_until(lambda: not first.is_held())


def test_a_holder_with_another_login_is_named_although_the_server_does_not_show_since_when(locks: Locks) -> None:
    for user in ("first_login", "second_login"):
        locks.query(locks.create_user.format(user))
    with locks.session(user="first_login") as first, locks.session(holder=SECOND, user="second_login") as second:
        assert first.take()
        assert not second.take()
        holder = second.holder(RUNS)
        assert holder is not None
        assert (holder.name, holder.since, holder.started) == (FIRST, None, "")
        assert holder.session == locks.number(first)


def test_a_lock_is_free_as_soon_as_its_session_is_closed_and_a_waiter_that_goes_leaves_it_alone(locks: Locks) -> None:
    with locks.session(holder=SECOND) as second:
        with locks.session() as first:
            assert first.take()
            with locks.session(holder="janitor run 3") as cancelled:
                assert not cancelled.take()
            assert first.is_held()
            assert not second.take()
        wait_until(lambda: second.holder(RUNS) is None)  # PostgreSQL ends a session after its client has left
        assert second.take()


def test_a_session_that_somebody_ends_is_noticed_and_was_not_asked_before(locks: Locks) -> None:
    with locks.session() as session:
        assert session.take()
        number = locks.number(session)
        time.sleep(0.2)
        before = locks.query(locks.last_statement.format(number))
        assert session.is_held()
        assert locks.query(locks.last_statement.format(number)) == before, "it asks nothing"

        locks.query(locks.end.format(number))

        wait_until(lambda: not session.is_held())
        assert not session.is_held(), "it does not come back"
        assert re.search("terminating connection|server closed|killed|Lost connection|gone away", str(session.error))


def test_the_lock_of_a_driver_that_shows_no_socket_is_held_and_its_end_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pg8000.dbapi

    monkeypatch.setattr(lock_sessions, "ASK_SECONDS", 0.0)
    with postgres_server() as server:
        server.query("CREATE DATABASE pure_python")
        where = {"host": "127.0.0.1", "port": server.port, "user": "postgres", "database": "pure_python"}
        connect = partial(pg8000.dbapi.connect, **where)
        with closing(Postgres(connect, RUNS, FIRST)) as first, closing(Postgres(connect, RUNS, SECOND)) as second:
            assert first.take()
            assert not second.take()
            holder = second.holder(RUNS)
            assert holder is not None
            assert holder.name == FIRST
            assert first.is_held()
            server.query(f"SELECT pg_terminate_backend({holder.session}, 5000)")
            wait_until(lambda: not first.is_held())


def test_postgres_names_no_holder_of_another_database() -> None:
    with postgres_server() as server:
        for name in ("one_team", "another_team"):
            server.query(f"CREATE DATABASE {name}")
        connect = partial(connect_to_postgres, server)
        with (
            closing(Postgres(partial(connect, "one_team"), RUNS, FIRST)) as first,
            closing(Postgres(partial(connect, "another_team"), RUNS, SECOND)) as second,
        ):
            assert first.take()
            assert second.holder(RUNS) is None
            assert second.take(), "it is another lock"
            assert first.is_held()


def test_a_message_about_changed_settings_is_not_the_end_of_a_session() -> None:
    with postgres_server() as server:
        server.query("CREATE DATABASE settings")
        with closing(Postgres(partial(connect_to_postgres, server, "settings"), RUNS, FIRST)) as session:
            assert session.take()
            server.query("ALTER SYSTEM SET DateStyle = 'German'")
            server.query("SELECT pg_reload_conf()")  # PostgreSQL tells its clients about some settings
            server.query("ALTER SYSTEM RESET DateStyle")
            time.sleep(0.2)
            assert session.is_held()
            server.query("SELECT pg_reload_conf()")


def test_mariadb_keeps_an_idle_session_longer_than_its_own_limit() -> None:
    import pymysql

    with mariadb_server() as server:
        connect = partial(pymysql.connect, host="127.0.0.1", port=server.port, user="root")
        server.query("SET GLOBAL wait_timeout = 1")
        try:
            with closing(MySQL(connect, RUNS, FIRST)) as session, closing(connect()) as other:
                assert session.take()
                time.sleep(2.5)
                assert session.is_held()
                with pytest.raises(pymysql.err.OperationalError):
                    other.cursor().execute("SELECT 1")
        finally:
            server.query("SET GLOBAL wait_timeout = 28800")


# -- poolers of sessions ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_pgbouncer_is_refused_if_it_gives_each_transaction_another_session(mode: str) -> None:
    with postgres_server() as server, pgbouncer(server, mode) as pooled:
        server.query(f"CREATE DATABASE pooled_{mode}")
        connect = partial(connect_to_postgres, pooled, f"pooled_{mode}")
        if mode == "transaction":
            with pytest.raises(ConfigurationError, match=r"such as PgBouncer[\s\S]*pool_mode=session"):
                Postgres(connect, RUNS, FIRST)
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            assert server.query(held) == [(0,)], "no lock is left in a session of the pooler"
        else:
            with closing(Postgres(connect, RUNS, FIRST)) as first, closing(Postgres(connect, RUNS, SECOND)) as second:
                assert first.take()
                assert not second.take()


@pytest.mark.parametrize(
    ("sessions", "pooled"),
    [
        ((7, 8, 7), False),
        ((7, 7, 8), True),  # the other transaction has got the session of the first
        ((7, 9, 8), True),  # a third client had it meanwhile
    ],
)
def test_connections_are_pooled_if_they_share_or_change_sessions(sessions: tuple[int, int, int], pooled: bool) -> None:
    assert are_pooled(*sessions) is pooled


# -- SQL Server -------------------------------------------------------------------------------------


@dataclass
class FakeServer:
    """A connection and its cursor. It has the answers of SQL Server's documentation, by a part of the statement."""

    answers: dict[str, Any]
    statements: list[str] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    description: Any = None

    def cursor(self) -> FakeServer:
        return self

    def execute(self, statement: str) -> None:
        self.statements.append(statement)
        answer = next((answer for part, answer in self.answers.items() if part in statement), None)
        if isinstance(answer, Exception):
            raise answer
        self.rows, self.description = answer or [], answer

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows

    def commit(self) -> None:
        self.statements.append("COMMIT")

    def rollback(self) -> None:
        self.statements.append("ROLLBACK")

    def close(self) -> None:
        self.statements.append("CLOSE")
        if isinstance(self.answers.get("CLOSE"), Exception):
            raise self.answers["CLOSE"]


def test_sql_server_takes_a_lock_of_the_session_and_releases_it_before_a_driver_pools_the_connection() -> None:
    server = FakeServer({"sp_getapplock": [(0,)]})
    session = SQLServer(lambda: server, RUNS, FIRST)
    assert session.take()
    session.close()
    name, take, release = (one for one in server.statements if one not in ("COMMIT", "CLOSE"))
    assert name == f"SET CONTEXT_INFO 0x{FIRST.encode().hex()}"
    assert take == (
        f"SET NOCOUNT ON; DECLARE @code INT; EXEC @code = sp_getapplock @Resource = N'{SQLServer.key(RUNS)}', "
        "@LockMode = 'Exclusive', @LockOwner = 'Session', @LockTimeout = 0; SELECT @code"
    )
    assert release == f"EXEC sp_releaseapplock @Resource = N'{SQLServer.key(RUNS)}', @LockOwner = 'Session'"
    assert server.statements[-1] == "CLOSE"

    server.answers = dict.fromkeys(("sp_releaseapplock", "CLOSE"), RuntimeError("The connection is broken."))
    session.close()


def test_sql_server_names_the_holder_if_the_login_may_see_it() -> None:
    shown = FIRST.encode().ljust(128, b"\0")
    server = FakeServer({"sp_getapplock": [(-1,)], "dm_tran_locks": [(shown, 90, 57)]})
    session = SQLServer(lambda: server, RUNS, SECOND)
    assert not session.take()
    holder = session.holder(RUNS)
    assert holder is not None
    assert holder.since is not None
    assert (holder.name, holder.session) == (FIRST, 57)
    assert 85 < time.time() - holder.since.timestamp() < 95

    server.answers["dm_tran_locks"] = []
    assert session.holder(RUNS) is None


def test_sql_server_logs_once_why_it_does_not_name_the_holder(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeServer({"dm_tran_locks": RuntimeError("(300, 'VIEW SERVER STATE permission was denied (#1)')")})
    for session in (SQLServer(lambda: server, RUNS, SECOND), SQLServer(lambda: server, CHANGES, SECOND)):
        for _ in range(2):
            assert session.holder(RUNS) is None
            assert server.statements[-1] == "ROLLBACK"
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "VIEW SERVER STATE permission was denied (#1)" in record.message
    assert "GRANT VIEW SERVER STATE TO" in record.message


def test_sql_server_is_asked_every_few_seconds_if_session_still_has_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer({"sp_getapplock": [(0,)], "APPLOCK_MODE": [(1,)]})
    session = SQLServer(lambda: server, RUNS, FIRST)
    assert session.take()
    asked = len(server.statements)
    assert session.is_held()
    assert len(server.statements) == asked, "it was asked just now"
    monkeypatch.setattr(lock_sessions, "ASK_SECONDS", 0.0)
    assert session.is_held()
    server.answers["APPLOCK_MODE"] = [(0,)]  # the driver has connected again
    assert not session.is_held()
