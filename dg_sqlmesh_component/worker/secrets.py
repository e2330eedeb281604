"""Which values of a project's configuration nobody may read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlmesh.core.config import Config

from dg_sqlmesh_component.protocol.redaction import SECRET_NAME


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


_OF_OTHER_NAMES = {"secrets", "keyfile_json"}
"""Settings of connections (DuckDB's, BigQuery's) of which only what is called so itself is secret, not each region."""


def _secrets(name: str, value: Any, is_among_others: bool = False) -> Iterator[str]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _secrets(
                key if is_among_others else f"{name} {key}", one, is_among_others or key in _OF_OTHER_NAMES
            )
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _secrets(name, one, is_among_others)
    elif isinstance(value, (str, int)) and not isinstance(value, bool) and SECRET_NAME.search(name):
        yield str(value)
