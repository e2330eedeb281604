"""Serve a `QueryRequest`: run a query of somebody's own asset, as `sqlmesh fetchdf` does."""

from __future__ import annotations

from contextlib import closing

from sqlmesh.core.context import Context

from dg_sqlmesh_component.capabilities.query.messages import QueryFinished, QueryRequest
from dg_sqlmesh_component.worker.context import PipeConsole, open_context
from dg_sqlmesh_component.worker.explain import explain
from dg_sqlmesh_component.worker.pipe import Pipe


def run_query(request: QueryRequest, pipe: Pipe) -> QueryFinished:
    """Run the query through the project's gateway, and write its rows.

    Raises:
        SQLMeshComponentError: The query failed; the class says who must act.
    """
    with closing(open_context(request.project, PipeConsole(pipe), context_type=Context)) as context:
        try:
            context.fetchdf(request.query).to_pickle(request.file)
        except Exception as error:  # any driver's
            raise explain(error, request.project) from error
    return QueryFinished()
