"""Cancel the queries in flight, so that the warehouse stops working for a cancelled run."""

from __future__ import annotations

from collections.abc import Iterable

from sqlmesh.core.engine_adapter import EngineAdapter

from dg_sqlmesh_component.worker.context import describe_error
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import open_connections


def cut_off_queries(adapters: Iterable[EngineAdapter], pipe: Pipe) -> None:
    """Cancel the queries of these adapters if the driver can. Tested on DuckDB and PostgreSQL."""
    for connection in open_connections(adapters):
        cancel = getattr(connection, "interrupt", None) or getattr(connection, "cancel", None)
        if cancel is None:
            continue
        try:
            cancel()
        except Exception as error:  # noqa: BLE001  # any driver's: the process is killed soon, whatever it raises
            pipe.log("warning", f"A query could not be cancelled: {describe_error(error)}")
