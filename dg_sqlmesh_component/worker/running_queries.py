"""Cancel the queries in flight, so that the warehouse stops working for a cancelled run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sqlmesh.core.engine_adapter import EngineAdapter

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import counted
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import new_connection, open_connections, query_jobs

CANCEL_SECONDS = 2.0
"""How long to wait for the engines' answers. A run that is cut off is killed soon after it."""


def _backend_pid(connection: Any) -> int:
    return int.from_bytes(connection._backend_key_data[:4], "big")  # noqa: SLF001  # these drivers have no public name


STATEMENTS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "pymysql": ("thread_id", lambda connection: f"KILL QUERY {connection.thread_id()}"),
    # Not `cursor.abort_query`: a cursor knows the id of its query only after the query has ended.
    "snowflake": ("session_id", lambda connection: f"SELECT SYSTEM$CANCEL_ALL_QUERIES({connection.session_id})"),
    "redshift_connector": ("_backend_key_data", lambda connection: f"CANCEL {_backend_pid(connection)}"),
    "pg8000": ("_backend_key_data", lambda connection: f"SELECT pg_cancel_backend({_backend_pid(connection)})"),
}
"""By driver: an attribute that only its connections have, and what a second connection executes to cancel the query of
the first."""


def watch_queries(
    pipe: Pipe, adapters: Mapping[str, EngineAdapter], running: Callable[[], Mapping[str, str]] = dict
) -> None:
    """Let the pipe cancel the queries of the adapters when the run is cut off, and report what was not cancelled.

    Args:
        adapters: By gateway.
        running: The gateway of each node with a batch in flight.
    """

    def cut_off() -> None:
        problems = cut_off_queries(adapters)
        nodes = {fqn: problems[gateway] for fqn, gateway in running().items() if gateway in problems}
        if nodes:
            pipe.send(msg.QueriesNotCancelled(nodes))
        for gateway, problem in problems.items() if not nodes else ():
            pipe.log("warning", f"Queries of gateway {gateway} were not cancelled, and may still run: {problem}")

    pipe.cut_off_queries = cut_off


def cut_off_queries(adapters: Mapping[str, EngineAdapter]) -> dict[str, str]:
    """Cancel the queries of the adapters, by gateway, where the driver or the engine supports it.

    docs/engines.md says which ways were tested. Safe from any thread.

    Returns:
        By gateway whose queries may still run: the reason.
    """
    deadline = time.monotonic() + CANCEL_SECONDS
    calls = {gateway: [_Call(cancel) for cancel in _ways(adapter)] for gateway, adapter in adapters.items()}
    problems = {}
    for gateway, adapter in adapters.items():
        if found := [problem for call in calls[gateway] if (problem := call.problem(deadline))]:
            problems[gateway] = found[0]
        elif not calls[gateway] and (connections := open_connections(adapter)):
            driver = type(connections[0]).__module__.partition(".")[0]
            problems[gateway] = f"there is no way to cancel a query of the driver {driver}"
    return problems


def _ways(adapter: EngineAdapter) -> list[Callable[[], object]]:
    handles = [*query_jobs(adapter), *open_connections(adapter)]
    return [cancel for handle in handles if (cancel := _way(handle, adapter)) is not None]


def _way(handle: Any, adapter: EngineAdapter) -> Callable[[], object] | None:
    """What cancels the query of a job, cursor or connection; None if nothing does."""
    attribute, statement = STATEMENTS.get(type(handle).__module__.partition(".")[0], (None, None))
    if attribute is not None and statement is not None:
        return partial(_execute, adapter, statement(handle)) if hasattr(handle, attribute) else None
    if (spark := getattr(handle, "spark", None)) is not None:
        is_remote = "connect" in type(spark).__module__
        return lambda: spark.interruptAll() if is_remote else spark.sparkContext.cancelAllJobs()
    way: Callable[[], object] | None = getattr(handle, "interrupt", None) or getattr(handle, "cancel", None)
    return way


def _execute(adapter: EngineAdapter, statement: str) -> None:
    connection = new_connection(adapter)
    try:
        connection.cursor().execute(statement)
    finally:
        connection.close()


class _Call:
    """A call in a thread of its own, because a driver may wait for its network."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="dg-sqlmesh-cut-off", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except Exception as error:  # noqa: BLE001  # any driver's: `problem` returns it
            self._error = error

    def problem(self, deadline: float) -> str | None:
        """Wait until the deadline (monotonic time). Return why the call has not succeeded; None if it has."""
        self._thread.join(max(deadline - time.monotonic(), 0))
        if self._thread.is_alive():
            return f"the engine has not answered within {counted(int(CANCEL_SECONDS), 'second')}"
        return describe_error(self._error) if self._error is not None else None
