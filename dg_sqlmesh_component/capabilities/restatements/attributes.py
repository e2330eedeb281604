"""The attribute `restate`."""

from dataclasses import dataclass, field
from types import GenericAlias
from typing import Annotated, Any, Literal, TypeAlias

import dagster as dg
from pydantic import PositiveInt

from dg_sqlmesh_component.config.attribute_types import Selection
from dg_sqlmesh_component.config.mappings import Attributes, described, described_text, mapping, not_a_mapping
from dg_sqlmesh_component.config.scheduling import RunTags


@dataclass
class RestateJob(Attributes, path="restate.jobs"):
    """A job whose partitions are ranges of time. Each run restates its range of the selected incremental models."""

    by: Annotated[
        Literal["hour", "day", "week", "month"],
        described("The range of one run, in UTC. A week begins on Monday. Default: day.", "day", "month"),
    ] = "day"
    select: Annotated[
        Selection,
        described_text(
            "Models to restate, in SQLMesh's model selection language; a list is a union. Default: all.", "tag:finance"
        ),
    ] = None
    tables: Annotated[
        list[str] | None,
        described_text(
            "Restate only those of these models that read one of these external tables themselves: names or patterns. "
            "Default: all of them.",
            ["raw.orders"],
        ),
    ] = None
    name: Annotated[
        str | None,
        described_text(
            "Name of the job. Default: `<op>_restate_<by>`, for example `sqlmesh_shop_restate_day`.", "restate_shop"
        ),
    ] = None
    tags: RunTags = field(default_factory=dict)


_EXAMPLE_JOB = {"by": "day"}
_JOB = mapping(RestateJob, _EXAMPLE_JOB, is_item=True)
_JOBS: Any = GenericAlias(list, (RestateJob.model(),))


def _resolve_jobs(context: dg.ResolutionContext, written: Any) -> list[RestateJob]:
    jobs: Any = context.resolve_value(written) if isinstance(written, str) else written
    if not isinstance(jobs, (list, tuple)):
        raise not_a_mapping("restate.jobs", jobs, [_EXAMPLE_JOB], "a list of mappings")
    return [_JOB.fn.callable(context.at_path(number), job) for number, job in enumerate(jobs)]


@dataclass
class Restate(Attributes, path="restate"):
    """Whether `restate` in the run config may compute a range again.

    Write true, or a mapping with options. Default: it may not.
    """

    max_intervals: Annotated[
        PositiveInt | None,
        described("Refuse a restatement of more intervals, counted over all its models. Default: no limit.", 500),
    ] = None
    jobs: Annotated[
        list[RestateJob],
        dg.Resolver(
            _resolve_jobs,
            model_field_type=_JOBS,
            inject_before_resolve=False,
            description="Jobs for backfills in Dagster's UI. by: hour, day (default), week or month in UTC, which each "
            "run restates; select: models in SQLMesh's model selection language, by default all; tables: only the "
            "models that read one of these external tables; name, by default "
            "`<op>_restate_<by>`; tags: of the runs. Default: none.",
            examples=[[{"by": "day", "select": "tag:finance"}]],
        ),
    ] = field(default_factory=list)


RestateAttribute: TypeAlias = Annotated[Restate | None, mapping(Restate, True, {"max_intervals": 500})]
