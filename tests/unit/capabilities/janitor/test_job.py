"""`janitor` in `defs.yaml`, and the job and schedule that it makes."""

from pathlib import Path

import dagster as dg
import pytest
from unit.builders import manifest, project_assets

from dg_sqlmesh_component import Janitor, SQLMeshProject, SQLMeshProjectComponent
from dg_sqlmesh_component.capabilities.janitor.job import (
    MAX_NAMED_OBJECTS,
    build_janitor,
    deleted_metadata,
    dropped_metadata,
)
from dg_sqlmesh_component.capabilities.janitor.messages import JanitorFinished, StateSize
from dg_sqlmesh_component.config.component_attributes import ComponentAttributes
from dg_sqlmesh_component.definitions.settings import Settings


def built(janitor: Janitor, component_op: str = "sqlmesh_shop") -> tuple[dg.JobDefinition, dg.ScheduleDefinition]:
    attributes = ComponentAttributes(SQLMeshProject((Path("/shop"),)))
    settings = Settings(attributes, project_assets(manifest()), component_op, "sqlmesh_shop_prod", "", "", frozenset())
    definitions = build_janitor(janitor, settings)
    dg.Definitions.validate_loadable(definitions)
    (schedule,) = definitions.schedules or ()
    assert isinstance(schedule, dg.ScheduleDefinition)
    return definitions.resolve_job_def(schedule.job_name), schedule


def test_schedule_is_off_and_daily_by_default_and_the_job_uses_the_pool_of_the_component() -> None:
    job, schedule = built(Janitor())
    assert (job.name, schedule.name) == ("sqlmesh_shop_janitor", "sqlmesh_shop_janitor_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 4 * * *", None)
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    [op] = job.all_node_defs
    assert isinstance(op, dg.OpDefinition)
    assert ([node.name for node in job.nodes], op.pool) == (["sqlmesh_shop_janitor"], "sqlmesh_shop_prod")


@pytest.mark.attribute("janitor.cron", "janitor.timezone", "janitor.default_status", "janitor.name", "janitor.tags")
def test_schedule_and_job_are_as_configured() -> None:
    attributes = {
        "cron": "30 2 * * 0",
        "timezone": "Europe/Berlin",
        "default_status": "RUNNING",
        "name": "clean",
        "tags": {"team": "data"},
    }
    component = SQLMeshProjectComponent.from_attributes_dict(attributes={"project": "x", "janitor": attributes})
    assert component.janitor is not None
    job, schedule = built(component.janitor)
    assert (job.name, schedule.name, schedule.job_name) == ("clean", "clean_schedule", "clean")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 2 * * 0", "Europe/Berlin")
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    assert job.tags["team"] == "data"


def test_component_op_that_ends_in_a_number_gives_a_valid_name() -> None:
    job, _ = built(Janitor(), "sqlmesh_shop_2_")
    assert job.name == "sqlmesh_shop_2_janitor"


def test_metadata_names_a_limited_number_of_objects_and_counts_all() -> None:
    metadata = dropped_metadata([f"t{number}" for number in range(MAX_NAMED_OBJECTS + 1)])
    assert metadata["sqlmesh/dropped_objects"] == MAX_NAMED_OBJECTS + 1
    assert len(metadata["sqlmesh/dropped_object_names"].value) == MAX_NAMED_OBJECTS


def test_snapshots_that_a_plan_added_meanwhile_are_not_deleted_ones() -> None:
    end = JanitorFinished((), before=StateSize(3, 9), after=StateSize(4, 3))
    assert deleted_metadata(end)["sqlmesh/deleted_snapshots"] == 0
