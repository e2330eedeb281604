"""`SQLMeshProjectComponent`: YAML in, Dagster definitions out.

Dagster reads the annotations of the two dataclasses as objects, so they must not be postponed.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import dagster as dg
from dagster.components.component.state_backed_component import StateBackedComponent
from dagster.components.resolved.core_models import OpSpec
from dagster.components.scaffold.scaffold import scaffold_with
from dagster.components.utils.defs_state import DefsStateConfig
from dagster_shared.serdes.objects.models.defs_state_info import DefsStateManagementType

from .execution import execute_step
from .manifest import Manifest, Model
from .multi_asset import build_multi_asset
from .project import SQLMeshProject
from .scaffolder import SQLMeshProjectComponentScaffolder
from .store import read_manifest, write_manifest
from .tag_convention import TagConvention
from .translator import ProjectAssets, Translator


@dataclass
class SQLMeshProjectArgs(dg.Resolvable):
    """A SQLMesh project and how to open it; what stands under `project` when it is a mapping."""

    path: Annotated[
        str | list[str],
        dg.Resolver.default(
            description="Folder of the SQLMesh project, relative to this file, or a list of folders for a "
            "multi-repository project.",
            examples=["../../../shop", ["../../../core", "../../../marketing"]],
        ),
    ]
    gateway: Annotated[
        str | None,
        dg.Resolver.default(
            description="Gateway to use, as `sqlmesh --gateway`. Default: the project's own default gateway.",
            examples=["warehouse"],
        ),
    ] = None
    environment: Annotated[
        str | None,
        dg.Resolver.default(
            description="Environment whose promoted models a run executes. Default: the project's own default "
            "target environment, which is `prod` unless its configuration says otherwise.",
            examples=["prod", "{{ env.SQLMESH_ENVIRONMENT }}"],
        ),
    ] = None
    config: Annotated[
        str | None,
        dg.Resolver.default(
            description="Name of the configuration object in `config.py`, as `sqlmesh --config`.",
            examples=["local_config"],
        ),
    ] = None
    working_directory: Annotated[
        str | None,
        dg.Resolver.default(
            description="Folder in which SQLMesh runs, relative to this file; relative paths in its configuration "
            "start there. Default: the (first) project folder, as if you had typed `sqlmesh` in it.",
            examples=["../../.."],
        ),
    ] = None
    python: Annotated[
        str | None,
        dg.Resolver.default(
            description="Python interpreter that has SQLMesh, a command or a path relative to this file. It needs "
            "nothing of Dagster's. Default: the interpreter that runs Dagster.",
            examples=["../../../.venv-sqlmesh/bin/python"],
        ),
    ] = None
    env: Annotated[
        dict[str, str],
        dg.Resolver.default(
            description="Environment variables for SQLMesh's process only, beside those of Dagster's own. "
            "Their values are never stored.",
            examples=[{"WAREHOUSE_PASSWORD": "{{ env.WAREHOUSE_PASSWORD }}"}],
        ),
    ] = field(default_factory=dict)


def _resolve_project(context: dg.ResolutionContext, model: Any) -> SQLMeshProject:
    args = (
        SQLMeshProjectArgs(path=context.resolve_value(model, as_type=str))
        if isinstance(model, str)
        else SQLMeshProjectArgs.resolve_from_model(context, model)
    )
    here = context.resolve_source_relative_path(".")

    def absolute(path: str) -> Path:
        return Path(os.path.normpath(here / Path(path).expanduser()))

    paths = [args.path] if isinstance(args.path, str) else args.path
    # Not resolved: the interpreter of a virtual environment is a link, and what it points to is not it.
    is_path = args.python is not None and Path(args.python).name != args.python
    return SQLMeshProject(
        paths=tuple(absolute(path).resolve() for path in paths),
        gateway=args.gateway,
        environment=args.environment,
        config=args.config,
        working_directory=absolute(args.working_directory) if args.working_directory else None,
        python=str(absolute(args.python)) if args.python and is_path else args.python,
        env=args.env,
    )


Selection: TypeAlias = str | list[str] | None


@scaffold_with(SQLMeshProjectComponentScaffolder)
@dataclass
class SQLMeshProjectComponent(StateBackedComponent, dg.Resolvable):
    """Expose a SQLMesh project to Dagster: every model an asset, every audit an asset check.

    One Dagster run drives one SQLMesh run. What SQLMesh did with each model (executed, nothing to
    do, waiting, blocked, failed, audit failed) becomes materializations, checks and one clear failure.
    A run executes what is promoted in the environment; it never applies a plan.

    Scaffold it for an existing project, or with a new one on embedded DuckDB:

    ```bash
    dg scaffold defs dg_sqlmesh_component.SQLMeshProjectComponent shop --project-path path/to/shop
    dg scaffold defs dg_sqlmesh_component.SQLMeshProjectComponent shop --json-params '{"init": true}'
    ```

    ```yaml
    # defs.yaml
    type: dg_sqlmesh_component.SQLMeshProjectComponent
    attributes:
      project: ../../../shop
    ```
    """

    project: Annotated[
        SQLMeshProject,
        dg.Resolver(
            _resolve_project,
            model_field_type=str | SQLMeshProjectArgs.model(),
            description="Folder of the SQLMesh project, relative to this file, or a mapping that also says how "
            "to open it.",
            examples=[
                "../../../shop",
                {"path": "../../../shop", "gateway": "warehouse", "environment": "prod"},
            ],
        ),
    ]
    select: Annotated[
        Selection,
        dg.Resolver.default(
            description="Models to expose, in SQLMesh's model selection language; a list is a union. Default: all.",
            examples=["tag:finance", ["marts.*", "+staging.orders"]],
        ),
    ] = None
    exclude: Annotated[
        Selection,
        dg.Resolver.default(
            description="Models to leave out of `select`, in the same language.",
            examples=["tag:experimental", ["scratch.*"]],
        ),
    ] = None
    tag_convention: Annotated[
        TagConvention,
        dg.Resolver.default(
            description="How tags of a SQLMesh model set properties of its asset: "
            "`<prefix><separator><property><separator><value>`. Properties: group_name, owner, kind, tag, key_prefix.",
            examples=[{"prefix": "dagster", "separator": ":"}],
        ),
    ] = field(default_factory=TagConvention)
    op: Annotated[
        OpSpec | None,
        dg.Resolver.default(
            description="The op that runs SQLMesh: name, tags, description, pool, backfill_policy. "
            "Default pool: `sqlmesh_<project folder>_<environment>`.",
            examples=[{"name": "shop", "pool": "warehouse", "tags": {"team": "data"}}],
        ),
    ] = None

    # -- overriding ------------------------------------------------------------------------------

    def get_asset_spec(self, model: Model) -> dg.AssetSpec:
        """The asset of one model. Override it to change how models look in Dagster.

        ```python
        class Ours(SQLMeshProjectComponent):
            def get_asset_spec(self, model):
                spec = super().get_asset_spec(model)
                return spec.merge_attributes(tags={"layer": model.schema})
        ```

        Raises:
            ProjectLoadError: The model says something that Dagster refuses.
        """
        return self._translator.asset_spec(model)

    def execute(self, context: dg.AssetExecutionContext) -> Iterator[Any]:
        """Run SQLMesh for what the step selected and yield what came of it. Override it to do more around it.

        ```python
        class Ours(SQLMeshProjectComponent):
            def execute(self, context):
                context.log.info("before")
                yield from super().execute(context)
        ```

        Raises:
            dagster.Failure: At the end, when anything selected did not come out right.
        """
        yield from execute_step(context, self.project, self._assets)

    # -- state ------------------------------------------------------------------------------------

    @property
    def defs_state_config(self) -> DefsStateConfig:
        """Where Dagster keeps the manifest; the key tells apart what leads to different manifests."""
        project = self.project
        parts = [project.name, project.gateway, project.environment, project.config]
        selection = [*_selections(self.select), "-", *_selections(self.exclude)]
        distinct = _short_hash([*map(str, project.paths), *selection])
        label = "_".join(part for part in parts if part)
        return DefsStateConfig(
            key=f"SQLMeshProjectComponent[{label}_{distinct}]",
            management_type=DefsStateManagementType.LOCAL_FILESYSTEM,
            refresh_if_dev=True,
        )

    def write_state_to_path(self, state_path: Path) -> None:
        """Describe the project and store its manifest; Dagster calls this."""
        write_manifest(self._describe(), state_path)

    def build_defs_from_state(self, context: dg.ComponentLoadContext, state_path: Path | None) -> dg.Definitions:
        """The project's assets, from the stored manifest or, without one, from the project itself."""
        manifest = read_manifest(state_path) if state_path else self._describe()
        self._translator = Translator(manifest, self.tag_convention)
        self._assets = ProjectAssets.build(
            manifest, self._translator, self.get_asset_spec, self._translator.check_specs
        )
        op = self.op or OpSpec()
        default_pool = f"sqlmesh_{self.project.name}_{manifest.environment}"
        multi_asset = build_multi_asset(
            self._assets,
            self.execute,
            name=op.name or _op_name(context),
            description=op.description or f"Runs SQLMesh in environment {manifest.environment}.",
            tags=op.tags,
            pool=op.pool or re.sub(r"[^A-Za-z0-9_]", "_", default_pool),
            backfill_policy=op.backfill_policy,
        )
        return dg.Definitions(assets=[multi_asset])

    def _describe(self) -> Manifest:
        return self.project.describe(_selections(self.select), _selections(self.exclude))


def _selections(value: Selection) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _short_hash(parts: list[str]) -> str:
    import hashlib

    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _op_name(context: dg.ComponentLoadContext) -> str:
    """A name that differs between two instances in one code location: where the declaration stands."""
    path = context.component_path
    where = os.path.relpath(path.file_path, context.defs_module_path)
    number = f"_{path.instance_key}" if path.instance_key else ""
    return "sqlmesh_" + re.sub(r"[^A-Za-z0-9_]+", "_", f"{where}{number}").strip("_")
