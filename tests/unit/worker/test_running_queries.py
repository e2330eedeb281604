"""The ways to cancel a query of each driver. The classes have the module and the attributes of the driver's own."""

import threading
import time
from typing import Any, cast

import pytest
from sqlmesh.core.engine_adapter import EngineAdapter

from dg_sqlmesh_component.worker import running_queries
from dg_sqlmesh_component.worker.running_queries import STATEMENTS, cut_off_queries


def handle(module: str, **attributes: Any) -> Any:
    return type("Connection", (), {"__module__": module, **attributes})()


@pytest.mark.parametrize(
    ("connection", "statement"),
    [
        (handle("pymysql.connections", thread_id=lambda _: 17), "KILL QUERY 17"),
        (handle("snowflake.connector.connection", session_id=1065), "SELECT SYSTEM$CANCEL_ALL_QUERIES(1065)"),
        (handle("redshift_connector.core", _backend_key_data=b"\0\0\1\1key"), "CANCEL 257"),
        (handle("pg8000.dbapi", _backend_key_data=b"\0\0\0\7key"), "SELECT pg_cancel_backend(7)"),
    ],
)
def test_second_connection_cancels_the_query_of_the_first(connection: Any, statement: str) -> None:
    attribute, text = STATEMENTS[type(connection).__module__.partition(".")[0]]
    assert hasattr(connection, attribute)
    assert text(connection) == statement


def cut_off(monkeypatch: pytest.MonkeyPatch, *handles: Any) -> dict[str, str]:
    """Cancel the queries of an adapter with these handles."""
    monkeypatch.setattr(running_queries, "query_jobs", lambda _: [])
    monkeypatch.setattr(running_queries, "open_connections", lambda _: list(handles))
    monkeypatch.setattr(running_queries, "CANCEL_SECONDS", 0.2)
    return cut_off_queries({"shop": cast(EngineAdapter, None)})


@pytest.mark.parametrize("method", ["cancel", "interrupt"])
def test_query_is_cancelled_by_the_drivers_own_method(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    cancelled = threading.Event()
    assert cut_off(monkeypatch, handle("any", **{method: lambda _: cancelled.set()})) == {}
    assert cancelled.is_set()


def test_jobs_of_a_spark_session_are_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    classic, remote = threading.Event(), threading.Event()
    context = handle("pyspark.core.context", cancelAllJobs=lambda _: classic.set())
    assert cut_off(monkeypatch, handle("x", spark=handle("pyspark.sql.session", sparkContext=context))) == {}
    session = handle("pyspark.sql.connect.session", interruptAll=lambda _: remote.set())
    assert cut_off(monkeypatch, handle("x", spark=session)) == {}
    assert (classic.is_set(), remote.is_set()) == (True, True)


def fails(_: object) -> None:
    raise ValueError("no network")


@pytest.mark.parametrize(
    ("handles", "reason"),
    [
        ([handle("pymssql._pymssql")], "there is no way to cancel a query of the driver pymssql"),
        ([handle("any", cancel=lambda _: None), handle("any", cancel=fails)], "ValueError: no network"),
    ],
)
def test_reason_names_the_driver_or_its_error(monkeypatch: pytest.MonkeyPatch, handles: list[Any], reason: str) -> None:
    assert cut_off(monkeypatch, *handles) == {"shop": reason}


def test_engine_that_does_not_answer_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    since = time.monotonic()
    reasons = cut_off(monkeypatch, handle("any", cancel=lambda _: answers.wait(60)))
    answers.set()
    assert reasons["shop"].startswith("the engine has not answered within ")
    assert time.monotonic() - since < 30


def test_adapter_without_a_connection_has_no_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cut_off(monkeypatch) == {}
