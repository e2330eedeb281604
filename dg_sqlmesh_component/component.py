"""`SQLMeshProjectComponent`: YAML in, Dagster definitions out.

Dagster reads the annotations of the dataclass as objects, so they must not be postponed.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import dagster as dg
from dagster.components.component.state_backed_component import StateBackedComponent
from dagster.components.resolved.core_models import OpSpec
from dagster.components.resolved.errors import ResolutionException
from dagster.components.scaffold.scaffold import scaffold_with
from dagster.components.utils.defs_state import DefsStateConfig
from dagster_shared.check import CheckError
from dagster_shared.serdes.objects.models.defs_state_info import DefsStateManagementType
from pydantic import BaseModel, ValidationError
from typing_extensions import Self

from dg_sqlmesh_component.config.attributes import (
    Selection,
    refuse_lost,
)
from dg_sqlmesh_component.config.component_attributes import ComponentAttributes
from dg_sqlmesh_component.config.run_config import SQLMeshRunConfig
from dg_sqlmesh_component.config.schema import with_named_errors
from dg_sqlmesh_component.config.validation import take_declared_types
from dg_sqlmesh_component.dagster_internals import was_started_for_a_step_of
from dg_sqlmesh_component.definitions.conflicts import Neighbours, default_op_name, place, refuse_op_name
from dg_sqlmesh_component.definitions.garbage_collection import collecting_no_garbage
from dg_sqlmesh_component.definitions.op import build_multi_asset
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.translator import Translator, where
from dg_sqlmesh_component.protocol.errors import DeclarationError, SQLMeshComponentError, WorkerError
from dg_sqlmesh_component.protocol.formatting import short_hash
from dg_sqlmesh_component.protocol.manifest import (
    AnsweredSelection,
    Audit,
    Manifest,
    Model,
    StandaloneAudit,
)
from dg_sqlmesh_component.protocol.messages import Addition
from dg_sqlmesh_component.run.recorder import recorded
from dg_sqlmesh_component.run.request import StepSettings
from dg_sqlmesh_component.run.step import execute_step
from dg_sqlmesh_component.scaffolder import SQLMeshProjectComponentScaffolder
from dg_sqlmesh_component.state.source import ManifestSource, settings
from dg_sqlmesh_component.worker_process.requests import load_manifest
from dg_sqlmesh_component.worker_process.start import EARLY_WORKERS


@scaffold_with(SQLMeshProjectComponentScaffolder)
@dataclass
class SQLMeshProjectComponent(ComponentAttributes, StateBackedComponent):
    """Expose a SQLMesh project to Dagster: every model an asset, every audit an asset check.

    One Dagster run drives one SQLMesh run. What SQLMesh did with each model (executed, nothing to
    do, waiting, blocked, failed, audit failed) becomes materializations, checks and one clear failure.
    A run executes what is promoted in the environment; it never applies a plan.

    Scaffold it for an existing project, or with a new one on embedded DuckDB:

    ```bash
    dg scaffold defs dg_sqlmesh_component.SQLMeshProjectComponent shop --project-path path/to/shop
    dg scaffold defs dg_sqlmesh_component.SQLMeshProjectComponent shop --init
    ```

    ```yaml
    # defs.yaml
    type: dg_sqlmesh_component.SQLMeshProjectComponent
    attributes:
      project: ../../../shop
    ```
    """

    def __post_init__(self) -> None:
        take_declared_types(self, SQLMeshProjectComponent, secret=("project",))  # its `env` may hold passwords
        self._source = ManifestSource(
            self.project,
            tuple(_selections(self.select)),
            tuple(_selections(self.exclude)),
            tuple(addition for addition in get_args(Addition) if addition in self.include_metadata),
            self.metadata_limits.limits,
            _ROOT.get(),
        )
        self._is_loading = False
        self._assets: ProjectAssets | None = None
        self._unreachable: str | None = None
        self._neighbours = Neighbours()
        if self.op and self.op.name is not None:
            refuse_op_name(self.op.name)
        if self.op and self.op.backfill_policy is not None:
            raise DeclarationError(
                "`op.backfill_policy` in defs.yaml says how partitions are backfilled, and SQLMesh models have "
                "none in Dagster. Leave it out; `start` and `end` in the run config say what a run may compute."
            )

    # -- overriding ------------------------------------------------------------------------------

    def get_asset_spec(self, model: Model) -> dg.AssetSpec:
        """The asset of one model: the defaults, the tag convention, then `translation`. Override it to change more.

        ```python
        class Ours(SQLMeshProjectComponent):
            def get_asset_spec(self, model):
                spec = super().get_asset_spec(model)
                return spec.merge_attributes(tags={"layer": model.schema})
        ```

        Raises:
            ProjectLoadError: The model says something that Dagster refuses.
            DeclarationError: `translation` makes something of it that Dagster refuses.
        """
        spec = self._translator.asset_spec(model)
        if self.translation is None:
            return spec
        try:
            return self.translation(spec, model)
        except _REFUSALS as error:
            raise DeclarationError(
                f"`translation` in defs.yaml cannot be applied to {where(model)}: {error}"
            ) from error

    def get_asset_check_spec(
        self, asset_spec: dg.AssetSpec, node: Model | StandaloneAudit, audit: Audit
    ) -> dg.AssetCheckSpec | None:
        """The check of one audit on an asset, or None for no check. Override it to change how audits look in Dagster.

        SQLMesh runs the audit all the same: without a check, a failure shows in the step's failure only.

        ```python
        class Ours(SQLMeshProjectComponent):
            def get_asset_check_spec(self, asset_spec, node, audit):
                spec = super().get_asset_check_spec(asset_spec, node, audit)
                return spec._replace(description=f"Ask the data team about {audit.name}.")
        ```

        Args:
            asset_spec: The asset that the check stands on.
            node: Whose audit it is: the asset's own model, an external model that it reads, or a standalone audit.
        """
        return self._translator.audit_check_spec(node, audit, asset_spec.key)

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
        settings = StepSettings(
            self.project,
            self._built,
            self.execution,
            count_rows="row_count" in self.include_metadata,
            query_characters=self.metadata_limits.characters,
            owned=self._neighbours.models,
        )
        yield from execute_step(context, settings)

    @property
    def op_config_schema(self) -> type[SQLMeshRunConfig] | None:
        """What a run may be told in the launchpad. Override it with a subclass to add to it, or with None for nothing.

        ```python
        class OurConfig(SQLMeshRunConfig):
            ticket: str | None = None

        class Ours(SQLMeshProjectComponent):
            @property
            def op_config_schema(self):
                return OurConfig
        ```
        """
        return SQLMeshRunConfig

    # -- for neighbours -----------------------------------------------------------------------------

    def asset_key_for_model(self, name: str) -> dg.AssetKey:
        """The asset key of a model, by its name as written in SQLMesh, with or without its catalog.

        ```yaml
        deps: ["{{ context.load_component('shop').asset_key_for_model('marts.revenue') }}"]
        ```

        Raises:
            DeclarationError: No asset of this component is a model of that name.
        """
        if not isinstance(name, str):
            raise DeclarationError(f"asset_key_for_model was given {name!r}; it takes the name of a model.")
        return self._built.key_of_name(name, self.project.name)

    def get_asset_selection(self, select: Selection = None, exclude: Selection = None) -> dg.AssetSelection:
        """Assets of this component, in SQLMesh's own selection language: for jobs, schedules and sensors.

        SQLMesh reads a new selection once. The answer is kept in the manifest, and is renewed with it.

        Raises:
            DeclarationError: Not a selection, or one that matches no model, or no asset of this component.
        """
        specs = self._built.specs
        for name, said in (("select", select), ("exclude", exclude)):
            if said is not None and not (
                _selections(said) and all(isinstance(one, str) and one for one in _selections(said))
            ):
                raise DeclarationError(f"get_asset_selection was given {name}={said!r}, which selects nothing.")
        chosen = self._expand(tuple(_selections(select)), tuple(_selections(exclude))) if select or exclude else specs
        found = [specs[fqn].key for fqn in chosen if fqn in specs]
        if not found:
            raise DeclarationError(
                f"get_asset_selection(select={select!r}, exclude={exclude!r}) leaves none of the assets of the SQLMesh "
                f"project {self.project.name!r}: its models are not executed, or not selected in its declaration."
            )
        return dg.AssetSelection.assets(*found)

    def _expand(self, select: tuple[str, ...], exclude: tuple[str, ...]) -> tuple[str, ...]:
        models = self._built.manifest.answer_to(select, exclude)
        if models is None:
            models = load_manifest(self.project, select, exclude, asked_by="get_asset_selection").selected
            manifest = self._source.keep_answer(self._built.manifest, AnsweredSelection(select, exclude, models))
            self._assets = replace(self._built, manifest=manifest)
        return models

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The model of the attributes in `defs.yaml`; Dagster calls this."""
        return with_named_errors(cls.model())

    @classmethod
    def load(cls, attributes: Any, context: dg.ComponentLoadContext) -> Self:
        """Load it from YAML; Dagster calls this."""
        root = _ROOT.set(context.project_root)  # while it is loaded, Dagster asks for the key of its state
        try:
            component = super().load(attributes, context)
            component._refuse_lost_variables(attributes)  # noqa: SLF001  # of this very class
        except (SQLMeshComponentError, ResolutionException) as error:
            raise _in_brief(error) from None
        finally:
            _ROOT.reset(root)
        component._remember(context)  # noqa: SLF001
        return component

    def _refuse_lost_variables(self, written: Any) -> None:
        """A selection that is not there would be the whole project, a pool that is not there the default."""
        for name in ("select", "exclude"):
            refuse_lost(name, getattr(written, name, None), getattr(self, name))
        for name in ("name", "pool", "description"):
            refuse_lost(f"op.{name}", getattr(getattr(written, "op", None), name, None), getattr(self.op, name, None))

    def _remember(self, context: dg.ComponentLoadContext) -> None:
        self._load_context = context

    @property
    def _built(self) -> ProjectAssets:
        """The assets, also before Dagster has asked for them: a neighbour's YAML may be read first."""
        if self._assets is None:
            if self._is_loading:
                raise DeclarationError(
                    f"The declaration of the SQLMesh project {self.project.name!r} asks for its own assets while they "
                    "are being made, itself or by way of another declaration. A template of `translation` has `model` "
                    "and `spec`."
                )
            if hasattr(self, "_load_context"):
                self._load_context.build_defs(self._load_context.component_path)  # Dagster keeps them
            else:  # made in Python
                problem = f"The SQLMesh project {self.project.name!r} is declared in Python."
                self._translate(self._source.read_or_load(None, problem))
        assert self._assets is not None, "build_defs_from_state makes the assets"
        return self._assets

    # -- state ------------------------------------------------------------------------------------

    @property
    def defs_state_config(self) -> DefsStateConfig:
        """Where Dagster keeps the manifest."""
        return DefsStateConfig(
            key=self._source.key,
            management_type=DefsStateManagementType.LOCAL_FILESYSTEM,
            refresh_if_dev=True,
        )

    def write_state_to_path(self, state_path: Path) -> None:
        """Describe the project and store its manifest; Dagster calls this.

        In development Dagster does so whenever it loads: what is stored stays when the project has not changed.

        Raises:
            DeclarationError: The file cannot be written, and that was asked for.
        """
        self._source.store(state_path, is_refresh=not self._is_loading)

    async def refresh_state(self, project_root: Path) -> str:
        """Describe the project and store that; Dagster calls this, and `dg utils refresh-defs-state` does.

        Raises:
            DeclarationError: The folder of what is stored cannot be written to or searched.
        """
        self._source.root = project_root
        problem = self._source.why_unreachable(project_root)
        if problem is not None:
            raise DeclarationError(problem)
        return await super().refresh_state(project_root)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The project's assets; Dagster calls this."""
        self._source.root = context.project_root
        self._unreachable = self._source.why_unreachable(context.project_root)
        # `dg` says of each of its commands that it is in development, a refresh included.
        self._is_loading = self._unreachable is None
        try:
            if self._unreachable is not None:
                return self.build_defs_from_state(context, None)
            return super().build_defs(context)
        except WorkerError:
            raise  # it may be our fault
        except SQLMeshComponentError as error:
            raise _in_brief(error) from None
        finally:
            self._is_loading = False

    def build_defs_from_state(self, context: dg.ComponentLoadContext, state_path: Path | None) -> dg.Definitions:
        """The project's assets, from the stored manifest or, without one, from the project itself."""
        declared = context.component_path
        where_declared = os.path.relpath(declared.file_path, context.defs_module_path)
        name = (self.op or OpSpec()).name or default_op_name(where_declared, declared.instance_key)
        if was_started_for_a_step_of(name) and state_path is not None:
            EARLY_WORKERS.start(self.project)
        Neighbours.of(context).add_stored(place(context), self.defs_state_config.key, self.project.env)
        with collecting_no_garbage():
            asset = self._multi_asset(name, self._source.read_or_load(state_path, self._unreachable))
            neighbours = self._neighbours = Neighbours.of(context)
            neighbours.add(place(context), name, self._built.specs)
            return dg.Definitions(assets=[asset, *neighbours.external_assets(place(context), self._external_specs)])

    @property
    def _external_specs(self) -> list[dg.AssetSpec]:
        if not self.external_models.assets:
            return []
        return self._translator.external_specs(self._built.models[fqn] for fqn in self._built.specs)

    def _multi_asset(self, name: str, manifest: Manifest) -> dg.AssetsDefinition:
        op = self.op or OpSpec()
        self._translate(manifest)
        schema = self.op_config_schema
        if schema is not None and not (isinstance(schema, type) and issubclass(schema, SQLMeshRunConfig)):
            raise DeclarationError(
                f"op_config_schema gave {schema!r}; it must be a property that gives a subclass of SQLMeshRunConfig, "
                "or None."
            )
        default_pool = f"sqlmesh_{self.project.name}_{manifest.environment}"
        return build_multi_asset(
            self._built,
            lambda context: recorded(context, self.execute(context)),
            name=name,
            project=f"{self.project.name}_{short_hash(self._what_runs(manifest))}",
            description=op.description or f"Runs SQLMesh in environment {manifest.environment}.",
            tags=op.tags,
            pool=op.pool or re.sub(r"[^A-Za-z0-9_]", "_", default_pool),
            config_schema=schema,
        )

    def _what_runs(self, manifest: Manifest) -> list[str]:
        """What two declarations have in common that run the same, however each is written."""
        project = self.project
        place = project.working_directory or project.paths[0]
        return [
            *map(str, project.paths),
            str(place),
            manifest.gateway,
            manifest.environment,
            project.config or "",
            *settings(project.env),
        ]

    def _translate(self, manifest: Manifest) -> None:
        self._translator = Translator(
            manifest,
            self.tag_convention,
            self.external_models,
            virtual_views=self.virtual_views,
            storage_kind="storage_kind" in self.include_metadata,
        )
        self._assets = ProjectAssets.build(
            manifest,
            self._translator,
            self.get_asset_spec,
            self.get_asset_check_spec,
            status_checks=self.execution_status_check,
        )


def _in_brief(error: Exception) -> Exception:
    """An error without the frames that it came through: `dg check defs` prints all that are not Dagster's.

    An error that is raised while attributes are resolved arrives as one of Dagster's, with a traceback in its message.
    If it was one of ours, this is the original.
    """
    ours = error.__context__ if isinstance(error.__context__, SQLMeshComponentError) else error
    return ours.with_traceback(None)


_REFUSALS = (
    dg.DagsterInvalidDefinitionError,
    CheckError,
    ResolutionException,
    ValidationError,
    # What Dagster stumbles over where a template gives a value of another type.
    TypeError,
    ValueError,
    AttributeError,
)
"""What applying a translation raises."""

_LOGGER = logging.getLogger(__package__)

_ROOT: ContextVar[Path | None] = ContextVar("_ROOT", default=None)
"""The root of the Dagster project of the component that is being loaded."""


def _selections(value: Selection) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])
