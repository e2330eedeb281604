"""Load a SQLMesh project and turn it into a manifest.

`load_project` is the entry. It does this:

1. `_load`: SQLMesh reads the project's files, not its state or its warehouse. If only some files have changed, it loads
   only their models and the models downstream of them. If that is not possible, it loads the whole project.
2. `_manifest`: `_ManifestNodes` turns each model and standalone audit into plain values; `selections` answers `select`
   and `exclude`.

SQLMesh itself makes one exception to 1: if the configuration names a `project`, it adds the models of other projects
from the state while it loads.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import Any

from sqlmesh.core import constants as c
from sqlmesh.core.audit import StandaloneAudit as SQLMeshStandaloneAudit
from sqlmesh.core.context import Context
from sqlmesh.core.environment import EnvironmentNamingInfo
from sqlmesh.core.loader import LoadedProject
from sqlmesh.core.model import Model as SQLMeshModel
from sqlmesh.core.model import ModelKind, ViewKind
from sqlmesh.core.snapshot.definition import QualifiedViewName
from sqlmesh.utils.date import to_timestamp

from dg_sqlmesh_component.protocol.errors import ProjectLoadError
from dg_sqlmesh_component.protocol.manifest import (
    MANIFEST_VERSION,
    MAX_COLUMNS,
    Audit,
    Column,
    DbtNode,
    Manifest,
    Model,
    StandaloneAudit,
)
from dg_sqlmesh_component.protocol.messages import LoadRequest, ProjectLoaded
from dg_sqlmesh_component.worker.context import (
    PipeConsole,
    connection_of,
    environment_name,
    name_with_catalog,
    open_context,
)
from dg_sqlmesh_component.worker.load.check_names import check_names
from dg_sqlmesh_component.worker.load.lineage_and_links import SourceUrls, column_lineage
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.selections import answer_again, selected_models
from dg_sqlmesh_component.worker.sql_text import arguments_hash, audit_arguments, column_types, is_blocking, plain_sql
from dg_sqlmesh_component.worker.sqlmesh_internals import file_of, watch_loaders

_REFRESHED_VIEWS = ("databricks", "starrocks")
"""Engines whose materialized views have the rows of their last refresh.

BigQuery, RisingWave and Snowflake keep them up to date, and on other engines SQLMesh creates ordinary views.
"""


def stores_rows(kind: ModelKind, engine: str) -> bool:
    """Whether a model is a view with rows of its own, which may be older than the tables that it reads."""
    return isinstance(kind, ViewKind) and kind.materialized and engine in _REFRESHED_VIEWS


def load_project(request: LoadRequest, pipe: Pipe) -> ProjectLoaded:
    """Load the project, or only the requested models and their upstream models, and return a manifest."""
    if request.models:
        part = _load_part(request, pipe)
        if part is not None:
            return part
        # SQLMesh forks while it loads: a fork that collects a DuckDB connection of this first load waits for threads
        # that it does not have, and crashes.
        gc.collect()
    whole = replace(request, files=frozenset(), models=frozenset())
    with closing(_load(whole, pipe)) as context:
        return ProjectLoaded(_manifest(context, whole))


def _load_part(request: LoadRequest, pipe: Pipe) -> ProjectLoaded | None:
    """The requested models; None if the changed files now hold other models, or SQLMesh refuses them."""
    try:
        with closing(_load(request, pipe)) as context:
            if _hold_same_models(context, request):
                return ProjectLoaded(_manifest(context, request), is_whole=False)
    except ProjectLoadError:
        pass  # a load of the whole project raises the error that users know
    return None


def _load(request: LoadRequest, pipe: Pipe) -> _LoadedContext:
    return open_context(request.project, PipeConsole(pipe), load=request.models, context_type=_LoadedContext)


def _hold_same_models(context: Context, request: LoadRequest) -> bool:
    """Whether the changed files hold the same models as before. If not, other models may read, or be, another model."""
    held = {fqn for fqn, model in context.models.items() if str(file_of(model)) in request.files}
    return held <= request.models <= context.models.keys()


class _LoadedContext(Context):
    """A Context that knows which models its loaders have read from the project's files.

    SQLMesh adds models of other projects from the state. `Model.project` does not tell them apart: SQLMesh's dbt loader
    leaves it empty, whatever the configuration names.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._loaded_projects: list[LoadedProject] = []
        watch_loaders(self, self._loaded_projects.append)

    @property
    def own(self) -> set[str]:
        """The models, by fqn, and standalone audits, by name, that the files of this project hold."""
        assert self._loaded_projects, "SQLMesh has loaded nothing with its loaders"
        return {name for loaded in self._loaded_projects for name in (*loaded.models, *loaded.standalone_audits)}


def _manifest(context: _LoadedContext, request: LoadRequest) -> Manifest:
    environment = environment_name(request.project, context)
    nodes = _ManifestNodes(context, environment, request)
    own = context.own
    return Manifest(
        version=MANIFEST_VERSION,
        paths=request.project.paths,
        gateway=context.selected_gateway,
        environment=environment,
        models=tuple(
            nodes.model(model)
            for fqn, model in sorted(context.models.items())
            if not request.models or fqn in request.models
        ),
        selected=selected_models(context, own, request.select, request.exclude, request.asked_by),
        standalone_audits=tuple(
            nodes.standalone_audit(audit)
            for name, audit in sorted(context.standalone_audits.items())
            if not audit.skip and name in own  # SQLMesh does not evaluate skipped audits
        ),
        reads_state=any(config.project for config in context.configs.values()),
        selections=tuple(answer_again(context, own, request.selections)),
    )


class _ManifestNodes:
    """Turns SQLMesh's models and audits into the plain values of `protocol/manifest.py`."""

    def __init__(self, context: Context, environment: str, request: LoadRequest) -> None:
        self._context = context
        self._include = request.include
        self._source_urls = SourceUrls()
        self._naming = EnvironmentNamingInfo.from_environment_catalog_mapping(
            context.config.environment_catalog_mapping,
            name=environment,
            suffix_target=context.config.environment_suffix_target,
            gateway_managed=context.config.gateway_managed_virtual_layer,
        )
        self._emails = {user.username: user.email for user in context.users if user.email}
        self._engine = cache(lambda gateway: connection_of(gateway, context).type_)
        self._dbt_models = {
            model.dbt_node_info.unique_id: fqn for fqn, model in context.models.items() if model.dbt_node_info
        }

    def model(self, model: SQLMeshModel) -> Model:
        table = model.fully_qualified_table
        dialect = model.dialect or None
        columns = self._columns(model)
        lineage, lineage_cut = column_lineage(self._context, model) if "column_lineage" in self._include else (None, 0)
        engine = self._engine(model.gateway or self._context.selected_gateway)
        return Model(
            fqn=model.fqn,
            name=model.name,
            catalog=table.catalog or None,
            schema=table.db or c.DEFAULT_SCHEMA,
            table=table.name,
            kind=model.kind.name.value,
            source_type=model.source_type,
            dialect=model.dialect,
            description=model.description,
            owner=model.owner,
            owner_email=self._emails.get(model.owner or ""),
            tags=tuple(model.tags),
            cron=model.cron,
            cron_tz=str(model.cron_tz) if model.cron_tz else None,
            interval_unit=model.interval_unit.value,
            start=str(model.start) if model.start is not None else None,
            starts_at=to_timestamp(model.start) if model.start is not None else None,
            end=str(model.end) if model.end is not None else None,
            lookback=model.lookback,
            batch_size=model.batch_size,
            time_column=plain_sql(model.time_column.column, dialect) if model.time_column else None,
            unique_key=_sql(model.unique_key, dialect),
            grains=_sql(model.grains, dialect),
            references=_sql(model.references, dialect),
            partitioned_by=_sql(model.partitioned_by, dialect),
            clustered_by=_sql(model.clustered_by, dialect),
            storage_format=model.storage_format,
            signals=tuple(name for name, _ in model.signals if name),
            columns=columns[:MAX_COLUMNS],
            columns_cut=max(0, len(columns) - MAX_COLUMNS),
            audits=_audits(model.audits_with_args, dialect),
            depends_on=tuple(sorted(model.depends_on)),
            table_name=self._table_name(model),
            gateway=model.gateway,
            engine=engine,
            stores_rows=stores_rows(model.kind, engine),
            project=model.project,
            data_hash=model.data_hash,
            metadata_hash=model.metadata_hash,
            path=_path_of(model),
            query=_query(model) if "sql" in self._include else None,
            column_lineage=lineage,
            column_lineage_cut=lineage_cut,
            dbt=self._dbt(model),
            name_with_catalog=name_with_catalog(model, self._context),
            source_url=self._source_urls.of(path) if "links" in self._include and (path := file_of(model)) else None,
        )

    def standalone_audit(self, audit: SQLMeshStandaloneAudit) -> StandaloneAudit:
        [check] = _audits([(audit, {})], None)
        return StandaloneAudit(check, tuple(sorted(audit.depends_on)), audit.cron, audit.owner, self._dbt(audit))

    @staticmethod
    def _columns(model: SQLMeshModel) -> tuple[Column, ...]:
        descriptions, types = model.column_descriptions, column_types(model, model.columns_to_types)
        return tuple(Column(name, type_, descriptions.get(name)) for name, type_ in types.items())

    def _table_name(self, model: SQLMeshModel) -> str:
        """The table of an external model; of other models, the view that the environment shows."""
        table = model.fully_qualified_table
        if not model.kind.is_external:
            table = QualifiedViewName(
                catalog=table.catalog or None, schema_name=table.db or None, table=table.name
            ).table_for_environment(self._naming, dialect=model.dialect)
        return ".".join(part.name for part in table.parts)

    def _dbt(self, node: SQLMeshModel | SQLMeshStandaloneAudit) -> DbtNode | None:
        """Facts from dbt's configuration that SQLMesh keeps. tests/e2e/test_alongside_dbt.py checks that it does."""
        if not node.dbt_node_info:
            return None
        config = node.jinja_macros.global_objs.get("config") or {}
        meta, severity = config.get("meta"), config.get("severity")
        return DbtNode(
            unique_id=node.dbt_node_info.unique_id,
            group=config.get("group"),
            meta=json.dumps(meta, default=str, sort_keys=True) if meta else None,
            severity=str(severity).lower() if severity else None,
            tests=self._dbt_models.get(config.get("attached_node") or ""),
        )


def _audits(used: Iterable[tuple[Any, dict[str, Any]]], dialect: str | None) -> tuple[Audit, ...]:
    """The audits of a node, with their arguments."""
    uses = [
        (position, audit, args, audit_arguments(args, dialect))
        for position, (audit, args) in enumerate(used)
        if not audit.skip  # SQLMesh does not evaluate skipped audits
    ]
    names = check_names([(audit.name, texts) for _, audit, _, texts in uses])
    return tuple(
        Audit(
            name=audit.name,
            position=position,
            check_name=check_name,
            blocking=is_blocking(audit, args),
            args=texts,
            args_hash=arguments_hash(args),
            query=_query(audit),
            path=_path_of(audit),
            description=getattr(audit, "description", None),
        )
        for (position, audit, args, texts), check_name in zip(uses, names, strict=True)
    )


def _query(definition: Any) -> str | None:
    """The query as its file has it, with macros; None for a Python model."""
    text = getattr(getattr(definition, "query_", None), "sql", None)
    return text.strip() if text else None


def _path_of(definition: Any) -> str | None:
    path = file_of(definition)
    return str(path) if path else None


def _sql(expressions: Iterable[Any], dialect: str | None) -> tuple[str, ...]:
    return tuple(plain_sql(expression, dialect) for expression in expressions)
