"""`SQLMeshProjectComponent`: YAML in, Dagster definitions out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import dagster as dg
from dagster.components.component.state_backed_component import StateBackedComponent
from dagster.components.resolved.core_models import OpSpec
from dagster.components.resolved.errors import ResolutionException
from dagster.components.scaffold.scaffold import scaffold_with
from dagster.components.utils.defs_state import DefsStateConfig
from dagster_shared.serdes.objects.models.defs_state_info import DefsStateManagementType
from pydantic import BaseModel
from typing_extensions import Self

from dg_sqlmesh_component.capabilities.dry_run.step import DRY_RUN
from dg_sqlmesh_component.capabilities.janitor.job import build_janitor
from dg_sqlmesh_component.capabilities.plans.job import build_deploy_jobs, build_preview_jobs
from dg_sqlmesh_component.capabilities.plans.names import names_of_jobs
from dg_sqlmesh_component.capabilities.polling_sensor.sensor import build_sensor
from dg_sqlmesh_component.capabilities.project_tests.job import build_test_job
from dg_sqlmesh_component.capabilities.restatements.job import build_backfill_jobs
from dg_sqlmesh_component.capabilities.restatements.step import RESTATING
from dg_sqlmesh_component.capabilities.scaffolder.scaffolder import SQLMeshProjectComponentScaffolder
from dg_sqlmesh_component.capabilities.schedule.schedules import build_schedules
from dg_sqlmesh_component.capabilities.sources.awaited import AwaitedSources
from dg_sqlmesh_component.capabilities.sources.late_check import late_data_specs
from dg_sqlmesh_component.capabilities.sources.late_loads import source_loads
from dg_sqlmesh_component.config.attribute_types import Selection, selectors
from dg_sqlmesh_component.config.component_attributes import ComponentAttributes
from dg_sqlmesh_component.config.mappings import Variables
from dg_sqlmesh_component.config.run_config import SQLMeshRunConfig
from dg_sqlmesh_component.config.scheduling import off_in_branch_deployment
from dg_sqlmesh_component.config.schema import with_named_errors
from dg_sqlmesh_component.dagster_internals.steps import was_started_for_a_step_of
from dg_sqlmesh_component.definitions.build_assets import build_assets
from dg_sqlmesh_component.definitions.code_location import CodeLocation, component_label, ticking_names
from dg_sqlmesh_component.definitions.op import ComponentOp
from dg_sqlmesh_component.definitions.ports import Ports
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets, key_of_model, selected
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.definitions.translator import Translator
from dg_sqlmesh_component.protocol.errors import ConfigurationError, SQLMeshComponentError, WorkerError
from dg_sqlmesh_component.protocol.manifest import Audit, Manifest, Model, StandaloneAudit
from dg_sqlmesh_component.protocol.messages import OptionalContent
from dg_sqlmesh_component.run.recorder import recorded
from dg_sqlmesh_component.run.step import execute_step
from dg_sqlmesh_component.state.manifest_source import ManifestSource
from dg_sqlmesh_component.worker_client.calls import EARLY_WORKERS


@scaffold_with(SQLMeshProjectComponentScaffolder)
@dataclass
class SQLMeshProjectComponent(ComponentAttributes, StateBackedComponent):
    """Expose a SQLMesh project to Dagster: each model is an asset, each audit an asset check.

    One Dagster run drives one SQLMesh run. The outcomes of the models (executed, nothing to do, waiting, blocked,
    failed, audit failed) become materializations, checks and one clear failure. A run executes the promoted models of
    the environment. It never applies a plan.

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

    Attributes by topic:

    - **Project**: `project`, `select`, `exclude`, `refresh_if_dev`
    - **Assets**: `translation`, `tag_convention`, `external_models`, `include_metadata`, `virtual_views`,
      `query_history_url`
    - **Checks**: `audits`, `execution_status_check`, `intervals_check`, `freshness`
    - **Runs**: `execution`, `restate`, `budget`, `op`
    - **Schedules and sensors**: `schedule`, `automation`, `polling_sensor`, `janitor`
    - **Tests, plans and previews**: `test`, `deploy`, `preview`, `webserver_base_url`
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._source = ManifestSource(
            self.project,
            selectors(self.select),
            selectors(self.exclude),
            tuple(content for content in get_args(OptionalContent) if content in self.include_metadata),
            root=None,
        )
        self._op = ComponentOp(self.op or OpSpec(), self.project)
        self._load_context: dg.ComponentLoadContext | None = None
        self._assets: ProjectAssets | None = None
        self._settings: Settings | None = None
        self._is_loading = False
        self._is_translating = False
        self._storage_problem: str | None = None

    # -- overrides ------------------------------------------------------------------------------------

    def get_asset_spec(self, model: Model) -> dg.AssetSpec:
        """The asset of one model: the defaults, the tag convention, then `translation`. Override it to change more.

        It is called for a model after those upstream of it, so the asset's dependencies have their final keys.

        ```python
        class LayerTags(SQLMeshProjectComponent):
            def get_asset_spec(self, model):
                return super().get_asset_spec(model).merge_attributes(tags={"layer": model.schema})
        ```

        Raises:
            ProjectLoadError: Dagster refuses a property of the model.
            ConfigurationError: `translation` cannot be applied, or Dagster refuses its result.
        """
        return self._translator.asset_spec(model)

    def get_asset_check_spec(
        self, asset_spec: dg.AssetSpec, node: Model | StandaloneAudit, audit: Audit
    ) -> dg.AssetCheckSpec | None:
        """The check of one audit on an asset, or None for no check. Override it to change how audits look in Dagster.

        SQLMesh runs the audit in any case. Without a check, a failure shows only in the step's failure.

        ```python
        class WithoutRowCounts(SQLMeshProjectComponent):
            def get_asset_check_spec(self, asset_spec, node, audit):
                return None if audit.name == "number_of_rows" else super().get_asset_check_spec(asset_spec, node, audit)
        ```

        Args:
            asset_spec: The asset of the check.
            node: The owner of the audit: the asset's model, an external model that it reads, or a standalone audit.
        """
        return self._translator.audit_check_spec(node, audit, asset_spec.key)

    def execute(self, context: dg.AssetExecutionContext) -> Iterator[Any]:
        """Run SQLMesh for the selected assets and checks, and yield the results. Override it to do more around it.

        ```python
        class Announced(SQLMeshProjectComponent):
            def execute(self, context):
                yield from super().execute(context)
                context.log.info("Tell the team: everything is computed.")  # not if a model has failed
        ```

        Raises:
            dagster.Failure: At the end, if a selected asset or check failed or could not be computed.
        """
        assert self._settings is not None, "Dagster has built the definitions"
        yield from execute_step(context, self._settings)

    @property
    def op_config_schema(self) -> type[SQLMeshRunConfig] | None:
        """The run config, as the launchpad shows it. Override it to return a subclass with more fields, or None.

        ```python
        class TicketConfig(SQLMeshRunConfig):
            ticket: str | None = None

        class WithTicket(SQLMeshProjectComponent):
            @property
            def op_config_schema(self):
                return TicketConfig
        ```
        """
        return SQLMeshRunConfig

    # -- for other components, jobs and schedules -----------------------------------------------------

    def asset_key_for_model(self, name: str) -> dg.AssetKey:
        """The asset key of a model, by its name as written in SQLMesh, with or without its catalog.

        ```yaml
        deps: ["{{ context.load_component('shop').asset_key_for_model('marts.revenue') }}"]
        ```

        Raises:
            ConfigurationError: No asset of this component is a model of that name.
        """
        return key_of_model(self._project_assets, name)

    def get_asset_selection(self, select: Selection = None, exclude: Selection = None) -> dg.AssetSelection:
        """Assets of this component for jobs, schedules and sensors, in SQLMesh's model selection language.

        SQLMesh evaluates a new selection once. The manifest stores the result, and each refresh evaluates it again.

        Raises:
            ConfigurationError: The selection is invalid, or matches no asset of this component.
        """
        selectors = _checked_selectors("select", select), _checked_selectors("exclude", exclude)
        return selected(self._with_answer(*selectors), *selectors)

    def _with_answer(
        self, select: tuple[str, ...], exclude: tuple[str, ...] = (), asked_by: str = "get_asset_selection"
    ) -> ProjectAssets:
        """The assets, whose manifest has SQLMesh's answer to a selection. `asked_by` is where it is written."""
        assets = self._project_assets
        if (select or exclude) and assets.manifest.answer_to(select, exclude) is None:
            answered = self._source.answer(assets.manifest, select, exclude, asked_by)
            assets = self._assets = replace(assets, manifest=answered)
        return assets

    # -- loading; Dagster calls these -----------------------------------------------------------------

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The pydantic model of the attributes in `defs.yaml`."""
        return with_named_errors(cls.model())

    @classmethod
    def load(cls, attributes: Any, context: dg.ComponentLoadContext) -> Self:
        """Create the component from its `defs.yaml`."""
        try:
            component: Self = super().load(attributes, context)
        except (SQLMeshComponentError, ResolutionException) as error:
            raise _without_traceback(error) from None
        component._load_context = context
        return component

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Self:
        """Create the component from the attributes in `defs.yaml`."""
        component: Self = super().resolve_from_model(context.with_scope(env=Variables()), model)
        if context.stash:  # empty in `resolve_from_yaml`
            # Dagster reads the state key, which depends on the root, before it passes the root to any other method.
            component._source.root = dg.ComponentLoadContext.from_resolution_context(context).project_root
        return component

    @property
    def defs_state_config(self) -> DefsStateConfig:
        """Where Dagster keeps the manifest."""
        storage = DefsStateManagementType.LOCAL_FILESYSTEM
        return DefsStateConfig(key=self._source.key, management_type=storage, refresh_if_dev=self.refresh_if_dev)

    def write_state_to_path(self, state_path: Path) -> None:
        """Load the project and store its manifest. In development, Dagster calls this whenever it loads definitions."""
        self._source.store(state_path, is_refresh=not self._is_loading)

    async def refresh_state(self, project_root: Path) -> str:
        """Load the project and store its manifest, for example for `dg utils refresh-defs-state`.

        Raises:
            ConfigurationError: The folder of the manifest cannot be written to or searched.
        """
        self._source.root = project_root
        problem = self._source.folder_problem(project_root)
        if problem is not None:
            raise ConfigurationError(problem)
        return await super().refresh_state(project_root)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The project's assets, from the stored manifest or, if there is none, from the project itself."""
        self._source.root = context.project_root
        self._storage_problem = self._source.folder_problem(context.project_root)
        # Distinguishes a load from a refresh: Dagster treats each `dg` command, a refresh too, as development.
        self._is_loading = True
        try:
            return self.build_defs_from_state(context, None) if self._storage_problem else super().build_defs(context)
        except WorkerError:
            raise  # with its traceback, because it may be a bug of this package
        except SQLMeshComponentError as error:
            raise _without_traceback(error) from None
        finally:
            self._is_loading = False

    def build_defs_from_state(self, context: dg.ComponentLoadContext, state_path: Path | None) -> dg.Definitions:
        """The project's assets, from the manifest in this file or, without a file, from the project itself."""
        op_name, label = self._op.name(context), component_label(context)
        if was_started_for_a_step_of(op_name) and state_path is not None:
            EARLY_WORKERS.start(self.project)
        code_location = CodeLocation.of(context)
        code_location.add_manifest(label, self.defs_state_config.key, self.project.env)
        assets = self._translate(self._source.read_or_load(state_path, self._storage_problem))

        def compute(context: dg.AssetExecutionContext) -> Iterator[Any]:
            return recorded(context, self.execute(context))

        op = self._op.build(op_name, assets, compute, self.op_config_schema)
        tags = self._op.state_tag(assets.manifest), self._op.changes_tag(assets.manifest)
        pool = self._op.pool(assets.manifest.environment)
        self._settings = settings = Settings(self, assets, op_name, pool, *tags, code_location.models, PORTS)
        code_location.add(label, op_name, assets.specs)
        definitions = [dg.Definitions(assets=[op, *code_location.external_assets(label, assets.external_specs)])]
        turned_off = []
        for attribute, build in _BUILDERS.items():
            if (configured := getattr(self, attribute)) is not None:
                deployed = off_in_branch_deployment(configured)
                definitions.append(build(deployed, settings))
                named_by = attribute if hasattr(configured, "name") else "op"
                code_location.add_definitions(label, f"{named_by}.name", definitions[-1])
                turned_off += ticking_names(definitions[-1]) if deployed is not configured else []
        code_location.log_turned_off(label, turned_off)
        for build_jobs in _BUILDERS_OF_OP:
            definitions.append(build_jobs(settings, op, compute, self._with_answer))
            code_location.add_definitions(label, "restate.jobs.name", definitions[-1])
        return dg.Definitions.merge(*definitions)

    def _translate(self, manifest: Manifest) -> ProjectAssets:
        self.audits.refuse_unmatched(manifest.audit_names)
        self.execution.refuse_unmatched({tag for model in manifest.models for tag in model.tags})
        self._translator = Translator(manifest, self, PORTS)
        self._is_translating = True
        try:
            self._assets = build_assets(self._translator, self.get_asset_spec, self.get_asset_check_spec)
        finally:
            self._is_translating = False
        if manifest.problem is not None:
            self._assets = self._assets.with_problem(manifest.problem)
        return self._assets

    @property
    def _project_assets(self) -> ProjectAssets:
        """The assets. Another component's YAML may ask for them before Dagster has built this component."""
        if self._assets is None:
            component = f"The component of the SQLMesh project {self.project.name!r}"
            if self._is_translating:
                raise ConfigurationError(
                    f"{component} asks for its own assets while they are being built, directly or through another "
                    "component. In a template of `translation`, use `model` and `spec`."
                )
            if self._load_context is None:
                return self._translate(self._source.read_or_load(None, f"{component} is created in Python."))
            self._load_context.build_defs(self._load_context.component_path)  # Dagster keeps the result
        assert self._assets is not None, "build_defs_from_state builds the assets"
        return self._assets


_BUILDERS: Mapping[str, Callable[[Any, Settings], dg.Definitions]] = {
    "schedule": build_schedules,
    "polling_sensor": build_sensor,
    "janitor": build_janitor,
    "test": build_test_job,
    "deploy": build_deploy_jobs,
    "preview": build_preview_jobs,
}


_BUILDERS_OF_OP: Sequence[Callable[..., dg.Definitions]] = (
    build_backfill_jobs,
)  # fmt: skip
"""Jobs that compute the assets as the op does."""

PORTS = Ports(
    awaited=AwaitedSources,
    source_loads=source_loads,
    check_specs=late_data_specs,
    dry_run=DRY_RUN,
    restating=RESTATING,
    deploy_jobs=names_of_jobs,
)  # fmt: skip  # a line for each capability


def _without_traceback(error: Exception) -> Exception:
    """The error without its frames, because `dg check defs` prints all frames that are not Dagster's.

    Dagster wraps an error from resolving attributes in others of its own, with a traceback in the message. This is the
    original.
    """
    while isinstance(error.__context__, (SQLMeshComponentError, ResolutionException)):
        error = error.__context__
    return error.with_traceback(None)


def _checked_selectors(argument: str, selection: Selection) -> tuple[str, ...]:
    checked = selectors(selection) if selection is None or isinstance(selection, Iterable) else ()
    is_valid = checked and all(isinstance(selector, str) and selector for selector in checked)
    if selection is not None and not is_valid:
        raise ConfigurationError(
            f"get_asset_selection was given {argument}={selection!r}. Pass a selection such as 'tag:finance', a list "
            "of selections, or None."
        )
    return checked
