"""Which values of a project's configuration are secrets."""

from sqlmesh.core.config import Config, DuckDBConnectionConfig, GatewayConfig, PostgresConnectionConfig

from dg_sqlmesh_component.worker.context import secret_values


def postgres(password: str) -> PostgresConnectionConfig:
    return PostgresConnectionConfig(
        host="db.example.com", user="ada", password=password, port=5432, database="shop", check_import=False
    )


def test_connection_passwords_and_variables_with_secret_names_are_secrets() -> None:
    gateway = GatewayConfig(
        connection=postgres("of the warehouse"),
        state_connection=postgres("of the state"),
        variables={"api_key": "of a gateway", "region": "eu"},
    )
    config = Config(gateways={"main": gateway}, variables={"db_pass": "of the project", "year": "2026"})
    assert set(secret_values(config)) == {"of the warehouse", "of the state", "of a gateway", "of the project"}


def test_only_secret_named_fields_of_duckdb_secrets_are_secrets() -> None:
    """If a region counted as a secret, its text would be redacted everywhere."""
    s3 = {"type": "s3", "region": "eu-central-1", "key_id": "AKIA", "secret": "of the bucket"}
    gateway = GatewayConfig(connection=DuckDBConnectionConfig(secrets={"our_secret": s3}))
    assert secret_values(Config(gateways={"main": gateway})) == ("of the bucket",)


def test_number_can_be_a_secret() -> None:
    assert secret_values(Config(variables={"api_token": 8812345678, "keep_tokens": True})) == ("8812345678",)
