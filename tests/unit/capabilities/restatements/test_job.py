"""The partitions of a job for backfills, and the run config of each."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.resolved.core_models import OpSpec
from unit.builders import DAY, HOUR, day, fqn, manifest, model, project_assets
from unit.config.attributes import EVERYTHING, loaded

from dg_sqlmesh_component import SQLMeshProject, SQLMeshProjectComponent
from dg_sqlmesh_component.capabilities.restatements.attributes import RestateJob
from dg_sqlmesh_component.capabilities.restatements.job import build_backfill_job
from dg_sqlmesh_component.config.component_attributes import ComponentAttributes
from dg_sqlmesh_component.config.run_config import SQLMeshRunConfig
from dg_sqlmesh_component.definitions.op import ComponentOp
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.state.manifest_source import write_manifest

BY_TIME: dict[str, Any] = {"kind": "INCREMENTAL_BY_TIME_RANGE"}
PROJECT = manifest(
    model("raw.orders", **BY_TIME, starts_at=day(14) + 12 * HOUR),  # a Wednesday
    model("raw.early", **BY_TIME, starts_at=day(14) - 400 * DAY),
    model("marts.inherits", **BY_TIME, reads=["raw.orders"], interval_unit="hour"),
    model("marts.total", reads=["raw.orders"], starts_at=day(1)),
    model("raw.unknown", **BY_TIME),
    model("raw.unselected", kind="EMBEDDED", reads=["raw.events"], starts_at=day(5)),
    model("core.unselected", **BY_TIME, reads=["raw.unselected"]),
    model("marts.behind", **BY_TIME, reads=["core.unselected"]),
    model("marts.later", **BY_TIME, reads=["raw.early"], starts_at=day(20)),
    model("marts.from_later", **BY_TIME, reads=["marts.later", "raw.unknown"]),
    model("raw.monthly", **BY_TIME, starts_at=day(1), interval_unit="month"),
    model("raw.late_month", **BY_TIME, starts_at=day(10), interval_unit="month"),
    model("raw.yearly", **BY_TIME, starts_at=day(1), interval_unit="year"),
)
PROJECT = replace(PROJECT, selected=tuple(fqn for fqn in PROJECT.selected if "unselected" not in fqn))


def first_partition(job: dg.JobDefinition) -> str | None:
    assert job.partitions_def is not None
    return job.partitions_def.get_first_partition_key()


class WithTicket(SQLMeshRunConfig):
    ticket: str


def built(configured: RestateJob, *models: str, config: object = SQLMeshRunConfig) -> dg.JobDefinition:
    project, assets = SQLMeshProject((Path("/shop"),)), project_assets(PROJECT)
    settings = Settings(ComponentAttributes(project), assets, "sqlmesh_shop", "pool", "x", "x", frozenset())
    op = ComponentOp(OpSpec(), project).build("sqlmesh_shop", assets, lambda _: iter(()), config)
    return build_backfill_job(configured, list(map(fqn, models)), settings, op, lambda _: iter(()))


@pytest.mark.attribute("restate.jobs.by")
@pytest.mark.parametrize(
    ("by", "first", "start", "end"),
    [
        ("hour", "2026-01-14-12:00", "2026-01-14T12:00:00Z", "2026-01-14T13:00:00Z"),
        ("day", "2026-01-14", "2026-01-14", "2026-01-14"),
        ("week", "2026-01-12", "2026-01-12", "2026-01-18"),
        ("month", "2026-01-01", "2026-01-01", "2026-01-31"),
    ],
)
def test_first_partition_contains_start_and_each_restates_its_range(by: Any, first: str, start: str, end: str) -> None:
    job = built(RestateJob(by=by), "marts.inherits", "marts.total")
    assert first_partition(job) == first
    assert job.partitioned_config is not None
    config = job.partitioned_config.get_run_config_for_partition_key(first)
    assert config == {"ops": {job.name: {"config": {"restate": {"start": start, "end": end}}}}}
    assert dg.validate_run_config(job, config)
    assert job.name == f"sqlmesh_shop_restate_{by}"


def test_page_of_the_job_says_what_its_bars_show() -> None:
    description = built(RestateJob(by="day"), "raw.orders").description
    assert description is not None
    assert "Missing means that none was launched or it was cancelled, not that data is missing" in description


@pytest.mark.attribute("restate.jobs.tags")
def test_runs_have_the_tags_of_the_job_and_may_have_another_priority() -> None:
    assert built(RestateJob(), "raw.orders").tags["dagster/priority"] == "-1"
    tags = {"team": "data", "dagster/priority": "3"}
    assert built(RestateJob(tags=tags), "raw.orders").tags.items() >= tags.items()


@pytest.mark.parametrize(
    ("config", "error"), [(None, 'unexpected config entry "restate"'), (WithTicket, 'required config entry "ticket"')]
)
def test_job_whose_run_config_dagster_would_refuse_is_refused(config: object, error: str) -> None:
    with pytest.raises(ConfigurationError, match=f"(?s)`op_config_schema` .* default for each field.*{error}"):
        built(RestateJob(), "raw.orders", config=config)


FIRST_PARTITIONS: dict[str, tuple[Any, list[str], str]] = {
    "the earliest model": ("day", ["raw.orders", "raw.early", "raw.unknown"], "2024-12-10"),
    "the start of a model upstream that is no asset of the component": ("day", ["marts.behind"], "2026-01-05"),
    "the earliest of the nearest starts upstream, as in SQLMesh": ("day", ["marts.from_later"], "2026-01-20"),
    "the first whole day": ("day", ["raw.orders"], "2026-01-15"),
    "the week of the first whole day": ("week", ["raw.orders"], "2026-01-12"),
    "the first month": ("month", ["raw.monthly"], "2026-01-01"),
    "the first whole month": ("month", ["raw.late_month"], "2026-02-01"),
}


@pytest.mark.attribute("restate.jobs.name")
@pytest.mark.parametrize(("by", "models", "first"), FIRST_PARTITIONS.values(), ids=FIRST_PARTITIONS)
def test_partitions_begin_with_the_first_interval_that_sqlmesh_restates_alone(
    by: Any, models: list[str], first: str
) -> None:
    job = built(RestateJob(by=by, name="again"), *models)
    assert (job.name, first_partition(job)) == ("again", first)


@pytest.mark.parametrize(
    ("configured", "models", "error"),
    [
        (RestateJob(), ["marts.total"], "sqlmesh_shop_restate_day of `restate.jobs` .* selects no incremental model"),
        (RestateJob(), ["raw.unknown"], r"none of its models has a start\. Set one in SQLMesh's configuration:"),
        (RestateJob(by="hour"), ["raw.orders", "raw.monthly"], r"`by: hour`.* is a day \(raw\.orders\)\. .* `by: day`"),
        (RestateJob(by="week"), ["raw.monthly"], "`by: week`, .* is a month .* `by: month`"),
        (RestateJob(by="month"), ["raw.yearly"], "`by: month`, .* is a year .* `restate` in the run config"),
        (RestateJob(tags={"dagster/partition": "x"}), ["raw.orders"], r"`restate\.jobs\.tags` .* 'dagster/partition'"),
        (RestateJob(name="a_1"), ["raw.orders"], r"`restate\.jobs\.name` in defs\.yaml is 'a_1'"),
    ],
)
def test_wrong_job_is_refused_with_the_attribute_to_correct(
    configured: RestateJob, models: list[str], error: str
) -> None:
    with pytest.raises(ConfigurationError, match=error):
        built(configured, *models)


@pytest.mark.advice("so no range of one can be restated. Choose another `select` or other `tables`.")
def test_a_job_with_another_selection_is_built() -> None:
    with pytest.raises(ConfigurationError, match="selects no incremental model"):
        built(RestateJob(), "marts.total")
    assert built(RestateJob(), "raw.orders")


@pytest.mark.parametrize(
    ("jobs", "error"),
    [
        ([{"by": "year"}], r"`restate\.jobs\.by` in defs\.yaml is 'year'"),
        ([{"bye": "day"}], r"(?s)restate\.jobs\.0\.bye.*Did you mean by\?"),
        ({"by": "day"}, r"(?s)restate\.jobs.*write a list"),
    ],
    ids=str,
)
def test_wrong_jobs_are_refused_by_their_path(jobs: Any, error: str) -> None:
    with pytest.raises(Exception, match=error):  # pydantic's or ours
        loaded({**EVERYTHING, "restate": {"jobs": jobs}})


@pytest.mark.parametrize("second", [{"by": "day"}, {"by": "month", "name": "sqlmesh_shop_restate_day"}], ids=str)
def test_two_jobs_of_one_name_are_refused_also_if_one_has_it_by_default(second: dict[str, str], tmp_path: Path) -> None:
    attributes = {"project": "/shop", "op": {"name": "sqlmesh_shop"}, "restate": {"jobs": [{}, second]}}
    component = SQLMeshProjectComponent.from_attributes_dict(attributes=attributes)
    write_manifest(replace(PROJECT, state_key=component.defs_state_config.key), tmp_path / "manifest")
    with pytest.raises(ConfigurationError, match=r"two jobs of the name sqlmesh_shop_restate_day\. Set another `name`"):
        component.build_defs_from_state(dg.ComponentTree.for_test().load_context, tmp_path / "manifest")
