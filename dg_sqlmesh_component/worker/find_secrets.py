"""Find the secret values in a project's configuration, so that logs and errors can hide them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlmesh.core.config import Config

from dg_sqlmesh_component.protocol.redaction import SECRET_NAME


def secret_values(config: Config) -> tuple[str, ...]:
    """Passwords, tokens and the like of all connections, and variables whose names say that they are secret."""
    gateways = [*config.gateways.values()] if isinstance(config.gateways, dict) else [config.gateways]
    connections = [config.default_connection]
    for gateway in gateways:
        connections += [gateway.connection, gateway.state_connection, gateway.test_connection]
    settings = [connection.model_dump() for connection in connections if connection is not None]
    settings += [config.variables, *(gateway.variables for gateway in gateways)]
    return tuple(sorted(set(_secrets("", settings))))


_MIXED = {"secrets", "keyfile_json"}
"""Settings of connections (DuckDB's, BigQuery's) that mix secrets with other values, such as a region.

Inside them, a value is secret only if its own name says so.
"""


def _secrets(name: str, value: Any, is_mixed: bool = False) -> Iterator[str]:
    """Texts and numbers that are secret by their names. `name` joins all names from the outermost to the innermost."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _secrets(key if is_mixed else f"{name} {key}", item, is_mixed or key in _MIXED)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _secrets(name, item, is_mixed)
    elif isinstance(value, (str, int)) and not isinstance(value, bool) and SECRET_NAME.search(name):
        yield str(value)
