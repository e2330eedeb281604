"""The messages of a query."""

from __future__ import annotations

from dataclasses import dataclass

from dg_sqlmesh_component.protocol.messages import LastEvent, Question


@dataclass(frozen=True, slots=True)
class QueryRequest(Question):
    """Run a query through the project's gateway; the answer is one `QueryFinished`. The files are not loaded."""

    SERVED_BY = "capabilities.query.worker.query:run_query"
    query: str
    file: str  # for the rows, as a pickled DataFrame of pandas


@dataclass(frozen=True, slots=True)
class QueryFinished(LastEvent):
    """The last event of a `QueryRequest` that was served. The file has the rows."""
