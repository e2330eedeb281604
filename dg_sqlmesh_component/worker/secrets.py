"""Which values of a project's configuration nobody may read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlmesh.core.config import Config

from dg_sqlmesh_component.redaction import SECRET_NAME


def secrets_of(config: Config) -> tuple[str, ...]:
    """Passwords, tokens and the like of every connection, and variables that are called so."""
    gateways = [*config.gateways.values()] if isinstance(config.gateways, dict) else [config.gateways]
    connections = [
        connection
        for gateway in gateways
        for connection in (gateway.connection, gateway.state_connection, gateway.test_connection)
    ]
    said = [one.model_dump() for one in [*connections, config.default_connection] if one is not None]
    said += [config.variables, *(gateway.variables for gateway in gateways)]
    return tuple(sorted(set(_secrets("", said))))


def _secrets(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _secrets(f"{name} {key}", one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _secrets(name, one)
    elif isinstance(value, str) and SECRET_NAME.search(name):
        yield value
