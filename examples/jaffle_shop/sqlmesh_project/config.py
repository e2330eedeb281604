"""SQLMesh's configuration in Python; a `config.yaml` would say the same."""

from pathlib import Path

from sqlmesh.core.config import Config, DuckDBConnectionConfig, GatewayConfig, ModelDefaultsConfig

config = Config(
    gateways={
        # The full path: the same file, wherever the command is typed.
        "local": GatewayConfig(
            connection=DuckDBConnectionConfig(database=str(Path(__file__).parent / "warehouse.duckdb"))
        )
    },
    default_gateway="local",
    model_defaults=ModelDefaultsConfig(dialect="duckdb", start="2026-01-01", cron="@daily"),
    disable_anonymized_analytics=True,
)
