"""Names of ops, jobs, schedules and sensors, and keys of tags: each loads, or is refused with its attribute."""

from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import dagster as dg
import pytest
from harness import dagster_project, load
from stored_manifest import store_manifest
from unit.builders import manifest, model

from dg_sqlmesh_component.capabilities.schedule.schedules import _name

TIME_ZONES = [
    model("t.west", cron_tz="Etc/GMT+1"),
    model("t.east", cron_tz="Etc/GMT-1"),
    model("t.none", cron_tz="Etc/GMT0"),
    model("t.utc"),
]
BOTH = {"schedule": True, "janitor": True, "polling_sensor": True}


def definitions_of(folder: Path, *components: dict[str, Any]) -> dg.Definitions:
    """Load a code location with these components, from stored manifests."""
    with dagster_project(folder) as dagster:
        for number, attributes in enumerate(components):
            dagster.add_component(f"c{number}", {"project": f"../../../c{number}", **attributes})
        for number in range(len(components)):
            models = TIME_ZONES if number == 0 else [model(f"c{number}.orders")]
            store_manifest(dagster, f"c{number}", manifest(*models))
        return load(dagster.root)


@pytest.mark.parametrize(
    "components",
    [
        [BOTH, BOTH],
        [BOTH, {**BOTH, "op": {"name": "shop"}, "schedule": {"name": "shop"}, "janitor": {"name": "clean"}}],
        [{"schedule": {"name": "sqlmesh_c0"}, "polling_sensor": True}],
        [{"schedule": {"tags": {"dagster/priority": "3"}}, "janitor": {"tags": {"dagster/max_runtime": "60"}}}],
        [{"schedule": {"name": "shop_2"}, "op": {"name": "shop"}}],
    ],
    ids=str,
)
def test_distinct_names_load(tmp_path: Path, components: list[dict[str, Any]]) -> None:
    definitions = definitions_of(tmp_path, *components)
    dg.Definitions.validate_loadable(definitions)


def test_schedules_of_time_zones_with_plus_and_minus_have_distinct_names(tmp_path: Path) -> None:
    definitions = definitions_of(tmp_path, {"schedule": {"name": "shop"}})
    names = {schedule.name for schedule in definitions.get_repository_def().schedule_defs}
    assert names == {"shop", "shop_etc_gmt_plus_1", "shop_etc_gmt_1", "shop_etc_gmt0"}
    assert len({_name("shop", time_zone) for time_zone in available_timezones()}) == len(available_timezones())


OWN_JOB = {"op": {"name": "shop"}, "schedule": True}


@pytest.mark.parametrize(
    ("components", "attribute", "name"),
    [
        ([{**OWN_JOB, "janitor": {"name": "shop"}}], "janitor.name", "shop"),
        ([{**OWN_JOB, "janitor": {"name": "shop_job"}}], "janitor.name", "shop_job"),
        ([{"op": {"name": "clean_op"}, "janitor": {"name": "clean"}}], "janitor.name", "clean_op"),
        ([{"op": {"name": "x_job"}, "schedule": {"name": "x"}}], "schedule.name", "x_job"),
        ([{"schedule": {"name": "x_schedule"}, "janitor": {"name": "x"}}], "janitor.name", "x_schedule"),
        ([{"op": {"name": "x"}, "schedule": {"name": "x_sensor"}, "polling_sensor": True}], "op.name", "x_sensor"),
        ([{"op": {"name": "x"}}, {"op": {"name": "x"}}], "op.name", "x"),
        ([{"op": {"name": "x_job"}}, {"op": {"name": "x"}, "schedule": True}], "schedule.name", "x_job"),
        ([{"schedule": {"name": "x"}}, {"schedule": {"name": "x"}}], "schedule.name", "x_job"),
        ([{"schedule": {"name": "x"}}, {"schedule": {"name": "x_etc_gmt_1"}}], "schedule.name", "x_etc_gmt_1"),
        ([{"janitor": {"name": "x"}}, {"janitor": {"name": "x"}}], "janitor.name", "x"),
        ([{"op": {"name": "__ASSET_JOB"}}], "op.name", "__ASSET_JOB"),
        ([{"schedule": {"name": "default_automation_condition_sensor"}}], "schedule.name", "default_automation_"),
        ([{"schedule": {"name": "daily.shop"}}], "schedule.name", "daily.shop"),
        ([{"schedule": {"name": "daily-shop"}}], "schedule.name", "daily-shop"),
        ([{"schedule": {"name": "input"}}], "schedule.name", "input"),
        ([{"schedule": {"name": ""}}], "schedule.name", ""),
        ([{"janitor": {"name": "clean-up"}}], "janitor.name", "clean-up"),
        ([{"schedule": {"tags": {"dagster/schedule_name": "x"}}}], "schedule.tags", "dagster/schedule_name"),
        ([{"schedule": {"tags": {"sqlmesh/restate": "x"}}}], "schedule.tags", "sqlmesh/restate"),
        ([{"janitor": {"tags": {".dagster/grpc_info": "x"}}}], "janitor.tags", ".dagster/grpc_info"),
    ],
    ids=str,
)
def test_name_that_breaks_the_code_location_is_refused_with_its_attribute(
    tmp_path: Path, components: list[dict[str, Any]], attribute: str, name: str
) -> None:
    with pytest.raises(Exception, match="Error while") as caught:
        definitions_of(tmp_path, *components)
    error = str(caught.value.__cause__)
    assert f"`{attribute}`" in error
    assert f"'{name}" in error
    assert type(caught.value.__cause__).__name__ == "ConfigurationError"
