"""What stands directly under `attributes` in `defs.yaml`, each with its type, default and description.

The keys inside of `execution` and other mappings are in the class of the mapping, most in `attribute_types.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import dagster as dg
from dagster.components.resolved.core_models import OpSpec
from dagster.components.utils.translation import TranslationFn

from dg_sqlmesh_component.capabilities.janitor.attributes import JanitorAttribute
from dg_sqlmesh_component.capabilities.plans.attributes import DeployAttribute, PreviewAttribute
from dg_sqlmesh_component.capabilities.polling_sensor.attributes import PollingSensorAttribute
from dg_sqlmesh_component.capabilities.project_tests.attributes import ProjectTestsAttribute
from dg_sqlmesh_component.capabilities.restatements.attributes import RestateAttribute
from dg_sqlmesh_component.capabilities.schedule.attributes import ScheduleAttribute, refuse_with_automation
from dg_sqlmesh_component.capabilities.sources.attributes import refuse_late
from dg_sqlmesh_component.config.attribute_types import (
    TRANSLATION,
    Audits,
    Budget,
    Execution,
    Freshness,
    IntervalsCheck,
    MetadataAddition,
    Selection,
    SQLMeshProjectArgs,
    TagConvention,
    resolve_project,
)
from dg_sqlmesh_component.config.external_models import ExternalModels
from dg_sqlmesh_component.config.mappings import Attributes, described, described_text, mapping
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.manifest import Model

EXAMPLE = {
    "project": "../../../shop",
    "select": "tag:finance",
    "translation": {"group_name": "{{ model.schema }}"},
    "external_models": {"key": "landing/{{ external.name }}", "wait": True},
    "audits": {"checks": "blocking"},
    "freshness": {"slack": "2h"},
    "execution": {"concurrent_tasks": 4, "retries": 3},
    "schedule": {"default_status": "RUNNING"},
}
"""The example `defs.yaml` in Dagster's UI. Without it, Dagster makes one with an example of every attribute."""


@dataclass
class ComponentAttributes(Attributes, path="", secret={"project"}):  # its `env` may hold passwords
    """The attributes of a `SQLMeshProjectComponent`, whose docstring has them by topic in the same order."""

    project: Annotated[
        SQLMeshProject,
        dg.Resolver(
            resolve_project,
            model_field_type=str | SQLMeshProjectArgs.model(),
            description="Folder of the SQLMesh project, relative to this file, or a mapping with options for "
            "opening it.",
            examples=["../../../shop", {"path": "../../../shop", "gateway": "warehouse", "environment": "prod"}],
        ),
    ]
    select: Annotated[
        Selection,
        described_text(
            "Models to expose, in SQLMesh's model selection language; a list is a union. Default: all.",
            "tag:finance",
            ["marts.*", "+staging.orders"],
        ),
    ] = None
    exclude: Annotated[
        Selection,
        described_text("Models to leave out of `select`, in the same language.", "tag:experimental", ["scratch.*"]),
    ] = None
    refresh_if_dev: Annotated[
        bool, described("Whether `dg dev` and other `dg` commands reload a changed project. Default: true.", False)
    ] = True
    translation: Annotated[TranslationFn[Model] | None, TRANSLATION] = None
    tag_convention: Annotated[
        TagConvention | None, mapping(TagConvention, False, {"prefix": "dagster", "separator": ":"}, is_on=True)
    ] = field(default_factory=TagConvention)
    external_models: Annotated[
        ExternalModels,
        mapping(ExternalModels, {"key": "landing/{{ external.name }}", "keys": {"raw.orders": "dlt/shop/orders"}}),
    ] = field(default_factory=ExternalModels)
    include_metadata: Annotated[
        list[MetadataAddition],
        described(
            "Optional metadata, which costs time or space. column_lineage: the columns that each column is made of, "
            "computed when the project is loaded; sql: the query as its file has it; links: the model's file on the "
            "web page of its git repository; storage_kind: the engine that holds the table; row_count: the rows of "
            "each executed model's table, by one query per model.",
            ["column_lineage", "sql"],
        ),
    ] = field(default_factory=list)
    virtual_views: Annotated[
        bool,
        described(
            "Whether views are virtual assets (Dagster 1.13 and later). A virtual asset is never stale by itself; "
            "staleness and automation look through it. If you launch models before and after another asset, select the "
            "views between them too: without them Dagster raises CircularDependencyError (its issue 33764). "
            "Default: true.",
            False,
        ),
    ] = True
    query_history_url: Annotated[
        str | None,
        described(
            "Web page with the engine's queries of one run, as a URL with `{run_id}`. SQLMesh (from "
            "0.236) adds the id of the Dagster run to its queries. Then each executed model links to it. Default: no "
            "link.",
            "https://warehouse.example.com/queries?text={run_id}",
        ),
    ] = None
    audits: Annotated[Audits, mapping(Audits, {"checks": "blocking"})] = field(default_factory=Audits)
    execution_status_check: Annotated[
        bool,
        described(
            "Whether every model has the check `sqlmesh_execution_status`, which shows its outcome. false: only audits "
            "are checks, which saves one event per model in every run. Default: true.",
            False,
        ),
    ] = True
    intervals_check: Annotated[IntervalsCheck | None, mapping(IntervalsCheck, True, {"slack": "6h"})] = None
    freshness: Annotated[Freshness | None, mapping(Freshness, {"slack": "2h"}, is_optional=True)] = None
    execution: Annotated[Execution, mapping(Execution, {"concurrent_tasks": 4, "environments": ["dev", "pr_*"]})] = (
        field(default_factory=Execution)
    )
    restate: RestateAttribute = None
    budget: Annotated[Budget, mapping(Budget, {"seconds": 1800})] = field(default_factory=Budget)
    op: Annotated[
        OpSpec | None,
        mapping(
            OpSpec,
            {"name": "shop", "pool": "warehouse", "tags": {"team": "data"}},
            is_optional=True,
            path="op",
            description="The op that runs SQLMesh. name: the key of its run config, by default `sqlmesh_<folder of "
            "this file>`; tags: for example for the Kubernetes executor; description; pool: its "
            "concurrency pool, for which the deployment sets a limit, by default `sqlmesh_<project "
            "folder>_<environment>`.",
        ),
    ] = None
    schedule: ScheduleAttribute = None
    automation: Annotated[
        Literal["cron"] | None,
        described(
            "Automation condition of each asset. cron: Dagster requests a model after each tick of its own cron, in "
            "its own time zone. Turn on the automation sensor in Dagster. Default: none.",
            "cron",
        ),
    ] = None
    polling_sensor: PollingSensorAttribute = None
    janitor: JanitorAttribute = None
    test: ProjectTestsAttribute = None
    deploy: DeployAttribute = None
    preview: PreviewAttribute = None
    webserver_base_url: Annotated[
        str | None,
        described(
            "Address of Dagster's web pages. Reports of plans and previews link to their run. Default: they have its "
            "id.",
            "https://dagster.example.com",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse attributes that have no effect, or a wrong one, together with others."""
        super().__post_init__()
        for refuse in _REFUSALS:
            refuse(self)
        if self.query_history_url is not None and "{run_id}" not in self.query_history_url:
            raise ConfigurationError(
                f"`query_history_url` in defs.yaml is {self.query_history_url!r}. It must contain {{run_id}}, in whose "
                "place each run puts its id."
            )

    @property
    def allows_restatements(self) -> bool:
        """Whether a run config may have `restate`."""
        return getattr(self, "restate", None) is not None


_REFUSALS: tuple[Callable[[ComponentAttributes], None], ...] = (
    refuse_with_automation,
    refuse_late,
)  # fmt: skip
"""Checks of attributes that depend on others."""
