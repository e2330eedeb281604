"""One message of each type."""

from unit.protocol.messages import PROJECT

from dg_sqlmesh_component.capabilities.query.messages import QueryFinished, QueryRequest

MESSAGES = (QueryRequest(PROJECT, "SELECT 1", "/tmp/rows"), QueryFinished())
