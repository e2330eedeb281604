"""Build the plain data of unit tests: models, audits, manifests, times."""

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg

import dg_sqlmesh_component
from dg_sqlmesh_component.component import PORTS
from dg_sqlmesh_component.config.component_attributes import ComponentAttributes
from dg_sqlmesh_component.config.external_models import ExternalModels
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.config.retries import Retries
from dg_sqlmesh_component.definitions.build_assets import build_assets
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.translator import Translator
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.manifest import MANIFEST_VERSION, Audit, Column, Manifest, Model, StandaloneAudit

HOUR = 3_600_000
DAY = 24 * HOUR


def day(number: int) -> int:
    """Return midnight of the n-th of January 2026 in UTC, in epoch milliseconds."""
    return 1_767_225_600_000 + (number - 1) * DAY


def days(first: int, last: int) -> msg.Interval:
    """Return the interval from the start of the first day to the end of the last day."""
    return (day(first), day(last + 1))


def message_modules() -> list[ModuleType]:
    """Return the modules with messages, also those of capabilities."""
    folder = Path(dg_sqlmesh_component.__file__).parent
    files = [*folder.glob("protocol/messages/*.py"), *folder.glob("capabilities/*/messages.py")]
    return [import_module(".".join(file.relative_to(folder.parent).with_suffix("").parts)) for file in files]


def message_types(base: type, of: str = "") -> set[type]:
    """Return the classes of all requests or all events, also those of capabilities, or only those of a folder."""
    classes = {cls for module in message_modules() for cls in vars(module).values() if isinstance(cls, type)}
    bases = {msg.Request, msg.Question, msg.StateQuestion, msg.LockRequest, msg.Event, msg.LastEvent, msg.Answer}
    start = f"{dg_sqlmesh_component.__name__}.{of}"
    return {cls for cls in classes - bases if issubclass(cls, base) and cls.__module__.startswith(start)}


def fqn(name: str) -> str:
    """Return SQLMesh's quoted name. A name of two parts gets the catalog `db`."""
    parts = name.split(".")
    if len(parts) == 2:
        parts = ["db", *parts]
    return ".".join(f'"{part}"' for part in parts)


def audit(name: str = "not_null", **overrides: Any) -> Audit:
    """Return a blocking audit as a model uses it. Instead of a hash of its arguments, it has their values."""
    defaults: dict[str, Any] = {
        "name": name,
        "position": 0,
        "check_name": name,
        "blocking": True,
        "args": {},
        "args_hash": " ".join(overrides.get("args", {}).values()),
        "query": f"SELECT * FROM @this_model WHERE {name}",
        "path": f"/shop/audits/{name}.sql",
        "description": None,
    }
    return Audit(**{**defaults, **overrides})


def model(name: str = "core.orders", reads: Iterable[str] = (), **overrides: Any) -> Model:
    """Return a SQL model with few properties. `name` and `reads` are dotted names in the catalog `db`."""
    *catalog, schema, table = fqn(name)[1:-1].split('"."')
    defaults: dict[str, Any] = {
        "fqn": fqn(name),
        "name": name,
        "catalog": catalog[0] if catalog else None,
        "schema": schema,
        "table": table,
        "kind": "FULL",
        "source_type": "sql",
        "dialect": "duckdb",
        "description": None,
        "owner": None,
        "owner_email": None,
        "tags": (),
        "cron": "@daily",
        "cron_tz": None,
        "interval_unit": "day",
        "start": None,
        "end": None,
        "lookback": 0,
        "batch_size": None,
        "time_column": None,
        "unique_key": (),
        "grains": (),
        "references": (),
        "partitioned_by": (),
        "clustered_by": (),
        "storage_format": None,
        "signals": (),
        "columns": (),
        "audits": (),
        "depends_on": tuple(sorted(fqn(parent) for parent in reads)),
        "table_name": f"db.{schema}.{table}",
        "gateway": None,
        "engine": "duckdb",
        "project": "",
        "data_hash": "1001",
        "metadata_hash": "2001",
        "path": f"/shop/models/{table}.sql",
    }
    return Model(**{**defaults, **overrides})


def standalone(name: str, reads: Iterable[str], check_name: str | None = None) -> StandaloneAudit:
    """Return a standalone audit that reads these models."""
    return StandaloneAudit(
        audit=audit(name, check_name=check_name or name, blocking=False),
        depends_on=tuple(sorted(fqn(parent) for parent in reads)),
        cron="@daily",
        owner=None,
    )


def manifest(
    *models: Model, selected: Iterable[str] | None = None, standalone_audits: Iterable[StandaloneAudit] = ()
) -> Manifest:
    """Return a project of these models. All of them are selected unless `selected` is given."""
    return Manifest(
        version=MANIFEST_VERSION,
        paths=("/shop",),
        gateway="local",
        environment="prod",
        models=tuple(sorted(models, key=lambda model: model.fqn)),
        selected=tuple(sorted([model.fqn for model in models] if selected is None else map(fqn, selected))),
        standalone_audits=tuple(standalone_audits),
    )


def external_models(**attributes: Any) -> ExternalModels:
    """Resolve these attributes of `external_models` in defs.yaml."""
    context = dg.ResolutionContext.default()
    resolved: ExternalModels = ExternalModels.resolve_from_model(context, ExternalModels.model()(**attributes))
    return resolved


def retries(**attributes: Any) -> Retries:
    """Resolve these attributes of `execution.retries` in defs.yaml."""
    context = dg.ResolutionContext.default()
    resolved: Retries = Retries.resolve_from_model(context, Retries.model()(**{"max_retries": 3, **attributes}))
    return resolved


def attributes(**options: Any) -> ComponentAttributes:
    """Return the attributes of a component, with defaults for those that `options` leaves out."""
    return ComponentAttributes(project=SQLMeshProject((Path("/shop"),)), **options)


def translator(*models: Model, **options: Any) -> Translator:
    """Return the default translator of these models. `options` are attributes of the component."""
    return Translator(manifest(*models), attributes(**options), PORTS)


def project_assets(
    project: Manifest,
    *,
    outside: ExternalModels | None = None,
    asset: Callable[[dg.AssetSpec, Model], dg.AssetSpec] = lambda spec, _: spec,
    check: Callable[[dg.AssetCheckSpec, Audit], dg.AssetCheckSpec | None] = lambda spec, _: spec,
    **others: Any,
) -> ProjectAssets:
    """Return the assets and checks of a project as the component builds them.

    Args:
        outside: The asset keys of external tables.
        asset: An overridden `get_asset_spec`; it gets the default spec.
        check: An overridden `get_asset_check_spec`; it gets the default spec.
        others: Other attributes of `defs.yaml`.
    """
    default_translator = Translator(project, attributes(external_models=outside or ExternalModels(), **others), PORTS)
    return build_assets(
        default_translator,
        lambda model: asset(default_translator.asset_spec(model), model),
        lambda spec, node, audit: check(default_translator.audit_check_spec(node, audit, spec.key), audit),
    )


def with_key_prefix(prefix: str) -> Callable[[dg.AssetSpec, Model], dg.AssetSpec]:
    """Return an overridden `get_asset_spec` that adds a prefix to every key."""
    return lambda spec, _: spec.replace_attributes(key=spec.key.with_prefix(prefix))


def plain(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the plain values of metadata as Dagster stores them."""
    return {key: value.value for key, value in stored(metadata).items()}


def stored(metadata: dict[str, Any]) -> dict[str, dg.MetadataValue]:
    """Return metadata as Dagster stores it."""
    return dict(dg.AssetMaterialization("any", metadata=metadata).metadata)


# A model with every property set, for tests of whole documents.
EVERYTHING = model(
    "core.orders",
    reads=["staging.orders", "raw.events"],
    kind="INCREMENTAL_BY_TIME_RANGE",
    description='Orders, "as they came".\nOne row an order. Größe: é, 注文',
    owner="bob",
    owner_email="bob@example.com",
    tags=("dagster:group_name:finance", "pii:eu"),
    cron_tz="Europe/Berlin",
    start="2026-01-01",
    end="2026-12-31",
    lookback=2,
    batch_size=30,
    time_column="ordered_at",
    unique_key=("order_id",),
    grains=("order_id",),
    references=("customer_id",),
    partitioned_by=("ordered_at",),
    clustered_by=("customer_id",),
    storage_format="parquet",
    signals=("files_arrived",),
    columns=(Column("order_id", "INT", "Number of the order"), Column("payload", "STRUCT<a INT>", None)),
    audits=(audit("not_null", args={"columns": "(order_id)"}), audit("forall", position=1, blocking=False, path=None)),
    gateway="warehouse",
    project="shop",
    query='SELECT "id" AS "order_id" FROM "staging"."orders"',
    column_lineage={"order_id": ((fqn("raw.events"), "order"), (fqn("staging.orders"), "id"))},
    column_lineage_cut=2,
    source_url="https://example.com/acme/shop/blob/c0ffee/models/orders.sql",
)
