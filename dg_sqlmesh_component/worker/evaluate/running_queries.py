"""Cancelling the queries in flight, so that the warehouse stops working for a run that was cancelled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlmesh.core.engine_adapter import EngineAdapter

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker.context import describe_error
from dg_sqlmesh_component.worker.pipe import Pipe


def cut_off_queries(adapters: Iterable[EngineAdapter], pipe: Pipe) -> None:
    """Cancel what these adapters are executing, where the driver can; tried on DuckDB and PostgreSQL."""
    for connection in _connections(adapters):
        cancel = getattr(connection, "interrupt", None) or getattr(connection, "cancel", None)
        if cancel is None:
            continue
        try:
            cancel()
        except Exception as error:  # any driver's: the process is killed soon, whatever they say
            pipe.send(msg.LogLine("warning", f"A query could not be cancelled: {describe_error(error)}", "dg_sqlmesh"))


def _connections(adapters: Iterable[EngineAdapter]) -> list[Any]:
    """Every cursor and connection of every thread. SQLMesh has no public way to them; held by tests/upstream."""
    found: dict[int, Any] = {}
    for adapter in adapters:
        pool = vars(adapter._connection_pool)
        single = [pool.get("_cursor"), pool.get("_connection")]
        of_threads = [*pool.get("_thread_cursors", {}).values(), *pool.get("_thread_connections", {}).values()]
        found |= {id(one): one for one in [*single, *of_threads] if one is not None}
    return list(found.values())
