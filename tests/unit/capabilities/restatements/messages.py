"""One message of each type."""

from unit.protocol.messages import PROJECT, TABLES

from dg_sqlmesh_component.capabilities.restatements.messages import RestateRequest

MESSAGES = (RestateRequest(PROJECT, "prod", ("a",), (), {}, 0, TABLES),)
