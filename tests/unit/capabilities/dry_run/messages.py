"""One message of each type."""

from unit.protocol.messages import PROJECT, TABLES

from dg_sqlmesh_component.capabilities.dry_run.messages import DryRunRequest

MESSAGES = (DryRunRequest(PROJECT, "prod", ("a",), (), {}, 0, TABLES),)
