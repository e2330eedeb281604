"""Which values of a project's configuration are secret."""

from __future__ import annotations

from sqlmesh.core.config import Config, GatewayConfig, PostgresConnectionConfig

from dg_sqlmesh_component.worker.secrets import secrets_of


def postgres(password: str) -> PostgresConnectionConfig:
    return PostgresConnectionConfig(
        host="db.example.com", user="ada", password=password, port=5432, database="shop", check_import=False
    )


def test_passwords_of_every_connection_and_variables_that_are_called_so_are_secret() -> None:
    gateway = GatewayConfig(
        connection=postgres("of the warehouse"),
        state_connection=postgres("of the state"),
        variables={"api_key": "of a gateway", "region": "eu"},
    )
    config = Config(gateways={"main": gateway}, variables={"db_pass": "of the project", "year": "2026"})
    assert set(secrets_of(config)) == {"of the warehouse", "of the state", "of a gateway", "of the project"}
