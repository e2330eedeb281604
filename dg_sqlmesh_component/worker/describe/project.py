"""Project -> manifest: load the project's files, not its state or its warehouse.

One exception is SQLMesh's own: if the configuration names a `project`, it adds the models of other
projects from the state while it loads.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

from sqlglot import exp
from sqlmesh.core import constants as c
from sqlmesh.core.audit import StandaloneAudit as SQLMeshStandaloneAudit
from sqlmesh.core.context import Context
from sqlmesh.core.environment import EnvironmentNamingInfo
from sqlmesh.core.loader import LoadedProject
from sqlmesh.core.model import Model as SQLMeshModel
from sqlmesh.core.snapshot.definition import QualifiedViewName

from dg_sqlmesh_component.protocol.errors import DeclarationError, ProjectLoadError
from dg_sqlmesh_component.protocol.formatting import did_you_mean, listed
from dg_sqlmesh_component.protocol.manifest import (
    MANIFEST_VERSION,
    AnsweredSelection,
    Audit,
    Column,
    DbtNode,
    Limits,
    Manifest,
    Model,
    StandaloneAudit,
    cut,
)
from dg_sqlmesh_component.protocol.messages import Addition, DescribeRequest, ProjectDescribed
from dg_sqlmesh_component.worker.context import (
    PipeConsole,
    SteadyContext,
    describe_error,
    environment_name,
    open_context,
)
from dg_sqlmesh_component.worker.describe.check_names import check_names
from dg_sqlmesh_component.worker.describe.lineage_and_links import SourceUrls, column_lineage
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sql_text import plain_sql
from dg_sqlmesh_component.worker.sqlmesh_internals import file_of, selector_of, watch_loaders


class _LoadedContext(SteadyContext):
    """A Context that knows what its loaders have read from the project's files.

    SQLMesh adds models of other projects from the state. `Model.project` does not tell which: SQLMesh's dbt loader
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


def describe(request: DescribeRequest, pipe: Pipe) -> ProjectDescribed:
    """Load the project, or the models that are asked for and what they read, and say what is in it."""
    if request.models:
        part = _described_part(request, pipe)
        if part is not None:
            return part
        # SQLMesh forks while it loads: a fork that collects a DuckDB connection of this first load waits for threads
        # that it does not have, and crashes.
        gc.collect()
    whole = replace(request, files=frozenset(), models=frozenset())
    with closing(_open(whole, pipe)) as context:
        return _described(context, whole)


def _described_part(request: DescribeRequest, pipe: Pipe) -> ProjectDescribed | None:
    """Only the models that are asked for; None where they are no longer what they were, or SQLMesh refuses them."""
    try:
        with closing(_open(request, pipe)) as context:
            return _described(context, request) if _are_the_same(context, request) else None
    except ProjectLoadError:
        return None  # a load of the whole project says it in the words that people know


def _open(request: DescribeRequest, pipe: Pipe) -> _LoadedContext:
    return open_context(
        request.project, PipeConsole(pipe), load=True, context_type=_LoadedContext, models=request.models
    )


def _described(context: _LoadedContext, request: DescribeRequest) -> ProjectDescribed:
    environment = environment_name(request.project, context)
    describer = _Describer(context, environment, request.include, request.limits)
    own = context.own
    return ProjectDescribed(
        Manifest(
            version=MANIFEST_VERSION,
            paths=request.project.paths,
            gateway=context.selected_gateway,
            environment=environment,
            models=tuple(
                describer.model(model)
                for fqn, model in sorted(context.models.items())
                if not request.models or fqn in request.models
            ),
            selected=_select(context, request.select, request.exclude, request.asked_by),
            standalone_audits=tuple(
                describer.standalone_audit(audit)
                for name, audit in sorted(context.standalone_audits.items())
                # Switched off, SQLMesh does not evaluate it.
                if not audit.skip and name in own
            ),
            reads_state=any(config.project for config in context.configs.values()),
            selections=tuple(_answered(context, request.selections)),
        ),
        is_whole=not request.models,
    )


def _are_the_same(context: Context, request: DescribeRequest) -> bool:
    """Whether the files that have changed hold the models that they held: others may read, or be, another one now."""
    held = {fqn for fqn, model in context.models.items() if str(file_of(model)) in request.files}
    return held <= request.models <= context.models.keys()


def _path_of(definition: Any) -> str | None:
    path = file_of(definition)
    return str(path) if path else None


def _answered(context: _LoadedContext, selections: Iterable[AnsweredSelection]) -> Iterator[AnsweredSelection]:
    for selection in selections:
        try:
            models = _select(context, selection.select, selection.exclude, "")
        except DeclarationError:
            continue  # whoever asks for it again is told why
        yield replace(selection, models=models)


def _select(
    context: _LoadedContext, select: tuple[str, ...], exclude: tuple[str, ...], asked_by: str
) -> tuple[str, ...]:
    own = context.own & context.models.keys()
    chosen = own & _expand(context, f"`select` in {asked_by}", select) if select else own
    if exclude:
        chosen = chosen - _expand(context, f"`exclude` in {asked_by}", exclude)
    if all(context.models[fqn].kind.is_symbolic for fqn in chosen):
        if select or exclude:
            raise DeclarationError(
                f"`select` and `exclude` in {asked_by} leave no model of this project that SQLMesh executes "
                "(external and embedded models are not executed)."
            )
        _refuse_to_show_nothing(context, own)
    return tuple(sorted(chosen))


def _refuse_to_show_nothing(context: Context, own: set[str]) -> None:
    """Refuse a project whose models all vanish. A new project, in whose files there are none yet, may be empty."""
    if own:
        names = listed(sorted(context.models[fqn].name for fqn in own), 10)
        raise ProjectLoadError(
            f"No model of the SQLMesh project at {', '.join(map(str, context.configs))} becomes an asset. SQLMesh "
            f"executes none of them (all are external or embedded): {names}. Add a model of "
            "another kind, or remove the component from defs.yaml."
        )


def _expand(context: Context, asked: str, selections: tuple[str, ...]) -> set[str]:
    selector = selector_of(context)
    chosen: set[str] = set()
    for selection in selections:
        try:
            matched = selector.expand_model_selections([selection])
        except Exception as error:  # the parser's, git's where it is asked, and what SQLMesh stumbles over
            raise DeclarationError(
                f"{asked} is not a SQLMesh model selection: {selection!r}. "
                f"{describe_error(error)} Examples: my_schema.my_model, my_schema.*, tag:finance, +my_schema.my_model."
            ) from error
        if not matched:
            known = {model.name for model in context.models.values()}
            known |= {f"tag:{tag}" for model in context.models.values() for tag in model.tags}
            raise DeclarationError(f"{asked} matches no model: {selection!r}.{did_you_mean(selection, known)}")
        chosen |= matched
    return chosen


class _Describer:
    """Turns SQLMesh's objects into plain values, in the words of `manifest`."""

    def __init__(self, context: Context, environment: str, include: tuple[Addition, ...], limits: Limits) -> None:
        self._context = context
        self._include = include
        self._limits = limits
        self._source_urls = SourceUrls()
        self._naming = EnvironmentNamingInfo.from_environment_catalog_mapping(
            context.config.environment_catalog_mapping,
            name=environment,
            suffix_target=context.config.environment_suffix_target,
            gateway_managed=context.config.gateway_managed_virtual_layer,
        )
        self._emails = {user.username: user.email for user in context.users if user.email}
        self._engines: dict[str | None, str] = {}
        self._dbt_models = {
            model.dbt_node_info.unique_id: fqn for fqn, model in context.models.items() if model.dbt_node_info
        }

    def model(self, model: SQLMeshModel) -> Model:
        table = model.fully_qualified_table
        kind = model.kind
        dialect = model.dialect or None
        time_column = getattr(kind, "time_column", None)
        columns = self._columns(model, dialect)
        lineage, cut_off = (
            column_lineage(self._context, model, self._limits.lineage_pairs)
            if "column_lineage" in self._include
            else (None, 0)
        )
        return Model(
            fqn=model.fqn,
            name=model.name,
            catalog=table.catalog or None,
            schema=table.db or c.DEFAULT_SCHEMA,
            table=table.name,
            kind=kind.name.value,
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
            end=str(model.end) if model.end is not None else None,
            lookback=model.lookback,
            batch_size=model.batch_size,
            time_column=plain_sql(time_column.column, dialect) if time_column else None,
            unique_key=_sql(model.unique_key, dialect),
            grains=_sql(model.grains, dialect),
            references=_sql(model.references, dialect),
            partitioned_by=_sql(model.partitioned_by, dialect),
            clustered_by=_sql(model.clustered_by, dialect),
            storage_format=model.storage_format,
            signals=tuple(name for name, _ in model.signals if name),
            columns=columns[: self._limits.columns],
            columns_cut=max(0, len(columns) - self._limits.columns),
            audits=self._audits(model, dialect),
            depends_on=tuple(sorted(model.depends_on)),
            table_name=self._table_name(model),
            gateway=model.gateway,
            engine=self._engine(model.gateway),
            project=model.project,
            data_hash=model.data_hash,
            metadata_hash=model.metadata_hash,
            path=_path_of(model),
            query=self._query(model) if "sql" in self._include else None,
            column_lineage=lineage,
            column_lineage_cut=cut_off,
            dbt=self._dbt(model),
            source_url=self._source_urls.of(path) if "links" in self._include and (path := file_of(model)) else None,
        )

    def _query(self, model: SQLMeshModel) -> str | None:
        if not model.is_sql:
            return None
        rendered = model.render_query()  # None where only a database could say what a macro makes of it
        return self._cut(None if rendered is None else rendered.sql(dialect=model.dialect or None, pretty=True))

    def _cut(self, text: str | None) -> str | None:
        return None if text is None else cut(text, self._limits.characters)

    def standalone_audit(self, audit: SQLMeshStandaloneAudit) -> StandaloneAudit:
        return StandaloneAudit(
            audit=Audit(
                name=audit.name,
                position=0,
                check_name=check_names([(audit.name, {})])[0],
                blocking=False,
                args={},
                query=self._cut(_query(audit)),
                path=_path_of(audit),
                description=audit.description,
            ),
            depends_on=tuple(sorted(audit.depends_on)),
            cron=audit.cron,
            owner=audit.owner,
            dbt=self._dbt(audit),
        )

    def _dbt(self, node: SQLMeshModel | SQLMeshStandaloneAudit) -> DbtNode | None:
        """What SQLMesh keeps of dbt's own configuration. Held in place by tests/e2e/test_beside_dbt.py."""
        if not node.dbt_node_info:
            return None
        config = node.jinja_macros.global_objs.get("config") or {}
        meta = config.get("meta")
        return DbtNode(
            unique_id=node.dbt_node_info.unique_id,
            group=config.get("group"),
            meta=self._cut(json.dumps(meta, default=str, sort_keys=True) if meta else None),
            severity=str(config["severity"]).lower() if config.get("severity") else None,
            tests=self._dbt_models.get(config.get("attached_node") or ""),
        )

    def _table_name(self, model: SQLMeshModel) -> str:
        table = model.fully_qualified_table
        if model.kind.is_external:
            return ".".join(part.name for part in table.parts)
        view = QualifiedViewName(
            catalog=table.catalog or None, schema_name=table.db or None, table=table.name
        ).table_for_environment(self._naming, dialect=model.dialect)
        return ".".join(part.name for part in view.parts)

    def _engine(self, gateway: str | None) -> str:
        if gateway not in self._engines:
            config = self._context.config
            self._engines[gateway] = config.get_connection(gateway or self._context.selected_gateway).type_
        return self._engines[gateway]

    @staticmethod
    def _columns(model: SQLMeshModel, dialect: str | None) -> tuple[Column, ...]:
        descriptions = model.column_descriptions
        return tuple(
            Column(name, type_.sql(dialect=dialect, comments=False), descriptions.get(name))
            for name, type_ in (model.columns_to_types or {}).items()
        )

    def _audits(self, model: SQLMeshModel, dialect: str | None) -> tuple[Audit, ...]:
        uses = [
            (position, audit, {**args})
            for position, (audit, args) in enumerate(model.audits_with_args)
            if not audit.skip  # its author switched it off: SQLMesh does not evaluate it
        ]
        blocking = [args.pop("blocking", None) for _, _, args in uses]
        texts = [audit_arguments(args, dialect) for _, _, args in uses]
        names = check_names([(audit.name, args) for (_, audit, _), args in zip(uses, texts, strict=True)])
        return tuple(
            Audit(
                name=audit.name,
                position=position,
                check_name=name,
                blocking=audit.blocking if override is None else override == exp.true(),
                args=args,
                query=self._cut(_query(audit)),
                path=_path_of(audit),
                description=None,
            )
            for (position, audit, _), override, args, name in zip(uses, blocking, texts, names, strict=True)
        )


def audit_arguments(args: dict[str, exp.Expr], dialect: str | None) -> dict[str, str]:
    """Arguments of an audit as SQL text, in the order written."""
    return {name: value.sql(dialect=dialect, comments=False) for name, value in args.items()}


def _sql(expressions: Iterable[Any], dialect: str | None) -> tuple[str, ...]:
    return tuple(plain_sql(expression, dialect) for expression in expressions)


def _query(audit: Any) -> str | None:
    query = audit.query_
    return query.sql.strip() if getattr(query, "sql", None) else None
