"""Everything under `attributes` in `defs.yaml`: each attribute with its type, default and description."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import dagster as dg
from dagster.components.resolved.core_models import OpSpec
from dagster.components.utils.translation import TranslationFn

from dg_sqlmesh_component.config.attributes import (
    TRANSLATION,
    Audits,
    Execution,
    IntervalsCheck,
    MetadataAddition,
    MetadataLimits,
    Restate,
    Selection,
    SQLMeshProjectArgs,
    resolve_project,
)
from dg_sqlmesh_component.config.durations import WrittenDuration
from dg_sqlmesh_component.config.external_models import ExternalModels
from dg_sqlmesh_component.config.freshness import Freshness
from dg_sqlmesh_component.config.janitor import Janitor
from dg_sqlmesh_component.config.mappings import described, mapping
from dg_sqlmesh_component.config.polling_sensor import PollingSensor
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.config.schedule import Schedule
from dg_sqlmesh_component.config.tag_convention import TagConvention
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.manifest import Model


@dataclass
class ComponentAttributes(dg.Resolvable):
    """The attributes of a `SQLMeshProjectComponent`."""

    project: Annotated[
        SQLMeshProject,
        dg.Resolver(
            resolve_project,
            model_field_type=str | SQLMeshProjectArgs.model(),
            description="Folder of the SQLMesh project, relative to this file, or a mapping with options for "
            "opening it.",
            examples=[
                "../../../shop",
                {"path": "../../../shop", "gateway": "warehouse", "environment": "prod"},
            ],
        ),
    ]
    select: Annotated[
        Selection,
        described(
            "Models to expose, in SQLMesh's model selection language; a list is a union. Default: all.",
            "tag:finance",
            ["marts.*", "+staging.orders"],
        ),
    ] = None
    exclude: Annotated[
        Selection,
        described("Models to leave out of `select`, in the same language.", "tag:experimental", ["scratch.*"]),
    ] = None
    tag_convention: Annotated[
        TagConvention,
        mapping(
            "tag_convention",
            TagConvention,
            description="How tags of a SQLMesh model set properties of its asset: "
            "`<prefix><separator><property><separator><value>`. Properties: group_name, owner, kind, tag, key_prefix.",
            examples=[{"prefix": "dagster", "separator": ":"}],
        ),
    ] = field(default_factory=TagConvention)
    translation: Annotated[TranslationFn[Model] | None, TRANSLATION] = None
    external_models: Annotated[
        ExternalModels,
        mapping(
            "external_models",
            ExternalModels,
            description="How tables that SQLMesh reads, but does not produce, become upstream assets. By default "
            "Dagster links a dependency to the asset with that `dagster/table_name`.",
            examples=[{"key": "landing/{{ external.name }}", "keys": {"raw.orders": "dlt/shop/orders"}}],
        ),
    ] = field(default_factory=ExternalModels)
    include_metadata: Annotated[
        list[MetadataAddition],
        described(
            "Optional metadata, which costs time or space. column_lineage: the columns that each column is "
            "made of, computed when the project is loaded; sql: the rendered query; links: the model's file on the web "
            "page of its git repository; storage_kind: the engine that holds the table; row_count: the rows of each "
            "executed model, by one query per model if the engine does not report them.",
            ["column_lineage", "sql"],
        ),
    ] = field(default_factory=list)
    metadata_limits: Annotated[
        MetadataLimits,
        mapping(
            "metadata_limits",
            MetadataLimits,
            description="Limits for large metadata.",
            examples=[{"characters": 20_000, "lineage_pairs": 10_000}],
        ),
    ] = field(default_factory=MetadataLimits)
    query_history_url: Annotated[
        str | None,
        described(
            "Web page with the engine's queries of one run, as a URL with `{run_id}`. Each executed model links to "
            "it. SQLMesh (from 0.236) adds the id of the Dagster run to its queries. Default: no link.",
            "https://warehouse.example.com/queries?text={run_id}",
        ),
    ] = None
    virtual_views: Annotated[
        bool,
        described(
            "Whether views are virtual assets (Dagster 1.13 and later). A virtual asset is never stale by "
            "itself; staleness and automation look through it. Default: true.",
            False,
        ),
    ] = True
    execution_status_check: Annotated[
        bool,
        described(
            "Whether every model has the check `sqlmesh_execution_status`, which shows its outcome. false: "
            "only audits are checks, which saves one event per model in every run. Default: true.",
            False,
        ),
    ] = True
    intervals_check: Annotated[
        IntervalsCheck | None,
        mapping(
            "intervals_check",
            IntervalsCheck,
            is_switch=True,
            description="Whether every incremental model has the check `sqlmesh_intervals_complete`, which fails if an "
            "expected interval is not computed: true, or a mapping with a slack. Default: no such checks.",
            examples=[True, {"slack": "6h"}],
        ),
    ] = None
    audits: Annotated[
        Audits,
        mapping(
            "audits",
            Audits,
            description="Which audits are asset checks. SQLMesh evaluates all audits.",
            examples=[{"checks": "blocking"}],
        ),
    ] = field(default_factory=Audits)
    automation: Annotated[
        Literal["cron"] | None,
        described(
            "Automation condition of each asset. cron: Dagster requests a model after each tick of its own "
            "cron, in its own time zone. Turn on the automation sensor in Dagster. Default: none.",
            "cron",
        ),
    ] = None
    freshness: Annotated[
        Freshness | None,
        mapping(
            "freshness",
            Freshness,
            is_optional=True,
            description="Freshness policy of each asset. An asset is stale if it was not materialized for longer than "
            "the longest time between two ticks of its cron, plus `slack`. Seeds, and models with an `end`, have none. "
            "Default: none.",
            examples=[{"slack": "2h"}, {"slack": "2h", "warn_slack": "1h"}],
        ),
    ] = None
    op: Annotated[
        OpSpec | None,
        mapping(
            "op",
            OpSpec,
            is_optional=True,
            description="The op that runs SQLMesh: name, tags, description and pool. "
            "Default pool: `sqlmesh_<project folder>_<environment>`.",
            examples=[{"name": "shop", "pool": "warehouse", "tags": {"team": "data"}}],
        ),
    ] = None
    execution: Annotated[
        Execution,
        mapping(
            "execution",
            Execution,
            description="How SQLMesh runs.",
            examples=[{"concurrent_tasks": 4, "environments": ["dev", "pr_*"]}],
        ),
    ] = field(default_factory=Execution)
    restate: Annotated[
        Restate,
        mapping(
            "restate",
            Restate,
            description="Limits of restatements, which `execution.allow_restate` allows.",
            examples=[{"max_intervals": 500, "max_seconds": 3600}],
        ),
    ] = field(default_factory=Restate)
    schedule: Annotated[
        Schedule | None,
        mapping(
            "schedule",
            Schedule,
            is_switch=True,
            description="Schedules that launch a run of the models with pending intervals, when the cron of a model "
            "ticks: true, or a mapping with options. Default: none.",
            examples=[True, {"default_status": "RUNNING", "tags": {"team": "data"}}],
        ),
    ] = None
    polling_sensor: Annotated[
        PollingSensor | None,
        mapping(
            "polling_sensor",
            PollingSensor,
            is_switch=True,
            shorthand=("interval", WrittenDuration),
            description="A sensor that records what the `sqlmesh` command, CI or another deployment has computed and "
            "promoted: true, the time between two ticks, or a mapping with options. Default: none.",
            examples=[True, "10m", {"interval": "10m", "default_status": "RUNNING"}],
        ),
    ] = None
    janitor: Annotated[
        Janitor | None,
        mapping(
            "janitor",
            Janitor,
            is_switch=True,
            description="A job and a schedule for SQLMesh's janitor, which deletes expired environments and tables, "
            "and compacts intervals. true: with all defaults. Default: no janitor.",
            examples=[True, {"cron": "30 2 * * 0", "timezone": "Europe/Berlin", "default_status": "RUNNING"}],
        ),
    ] = None

    def refuse_contradictions(self) -> None:
        """Refuse attributes that have no effect, or a wrong one, together with others."""
        if self.schedule is not None and self.automation is not None:
            raise ConfigurationError(
                "defs.yaml has both `schedule` and `automation`, so Dagster would request each model twice. Remove one "
                "of them."
            )
        if self.query_history_url is not None and "{run_id}" not in self.query_history_url:
            raise ConfigurationError(
                f"`query_history_url` in defs.yaml is {self.query_history_url!r}. It must contain {{run_id}}, in whose "
                "place each run puts its id."
            )
        if self.restate != Restate() and not self.execution.allow_restate:
            raise ConfigurationError(
                "`restate` in defs.yaml limits restatements, which are not allowed. Set `execution.allow_restate: "
                "true`, or remove `restate`."
            )
