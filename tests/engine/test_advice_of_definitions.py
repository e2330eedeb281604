"""Advice about whole code locations: an error while definitions load, and what loads after its advice was followed."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from harness import dagster_project, load
from stored_manifest import store_manifest
from unit.builders import day, manifest, model

from dg_sqlmesh_component.protocol.manifest import Manifest

BY_TIME: dict[str, Any] = {"kind": "INCREMENTAL_BY_TIME_RANGE"}
ONE = manifest(model("a.orders"))
TWO_SCHEMAS = manifest(model("x.a.orders"), model("y.a.orders"))
PREFIXED = manifest(model("x.a.orders"), model("y.a.orders", tags=("dagster:key_prefix:y",)))
TWO_TABLES = manifest(model("a.orders", reads=["x.raw.events", "y.raw.events"]))
TABLE_OF_KEY = manifest(model("a.orders", reads=["x.a.orders"]))
TABLE_OF_KEY_PREFIXED = manifest(model("a.orders", reads=["x.a.orders"], tags=("dagster:key_prefix:x",)))
OF_Y = model("y.a.orders", table_name="y.a.orders")
UNSELECTED = manifest(model("x.a.orders", reads=["y.a.orders"]), OF_Y, selected=["x.a.orders"])
UNSELECTED_PREFIXED = manifest(
    model("x.a.orders", reads=["y.a.orders"], tags=("dagster:key_prefix:x",)), OF_Y, selected=["x.a.orders"]
)
IN_DEV = replace(ONE, environment="dev")
ODD_CRON = manifest(model("a.orders", cron="0 0 31 2 *"))
EVERY_DAY = manifest(model("a.orders", cron="@daily"))
INCREMENTAL = manifest(model("a.total"), model("a.orders", **BY_TIME, starts_at=day(1)))
WITHOUT_START = manifest(model("a.orders", **BY_TIME))
MONTHLY = manifest(model("a.orders", **BY_TIME, starts_at=day(1), interval_unit="month"))
YEARLY = manifest(model("a.orders", **BY_TIME, starts_at=day(1), interval_unit="year"))
READS_RAW = manifest(model("b.report", reads=["a.orders"]))

Component = tuple[Mapping[str, Any], Manifest]


def jobs(**attributes: Any) -> dict[str, Any]:
    return {"restate": {"jobs": [{"by": "day", **attributes}]}}


def advised(part: str, wrong: list[Component], *corrected: list[Component]) -> Any:
    """Return a row: a part of the advice, components that it is about, and components after each correction."""
    return pytest.param(part, wrong, corrected, id=part)


def definitions_of(folder: Path, components: list[Component]) -> dg.Definitions:
    """Load a code location with these components, from stored manifests."""
    folder.mkdir()
    with dagster_project(folder) as dagster:
        for number, (attributes, _) in enumerate(components):
            dagster.add_component(f"c{number}", {"project": f"../../../c{number}", **attributes})
        for number, (_, project) in enumerate(components):
            store_manifest(dagster, f"c{number}", project)
        definitions = load(dagster.root)
        dg.Definitions.validate_loadable(definitions)
        return definitions


@pytest.mark.parametrize(
    ("part", "wrong", "corrected"),
    [
        advised(
            "Two models become the asset",
            [({}, TWO_SCHEMAS)],
            [({}, PREFIXED)],
            [({"translation": {"key": "{{ model.catalog }}/{{ model.name }}"}}, TWO_SCHEMAS)],
        ),
        advised("Give one of them another key,", [({}, UNSELECTED)], [({}, UNSELECTED_PREFIXED)]),
        advised(
            "Give the table another key with `external_models.keys` in defs.yaml, or the model,",
            [({}, TABLE_OF_KEY)],
            [({"external_models": {"keys": {"x.a.orders": "raw/orders"}}}, TABLE_OF_KEY)],
            [({}, TABLE_OF_KEY_PREFIXED)],
        ),
        advised(
            "Give all but one of them another key in defs.yaml, for example:",
            [({}, TWO_TABLES)],
            [({"external_models": {"keys": {"y.raw.events": "y/raw/events"}}}, TWO_TABLES)],
        ),
        advised(
            "`external_models.keys` in defs.yaml names {}, which is more than one table: {}. Write out the catalog.",
            [({"external_models": {"keys": {"raw.events": "dlt/events"}}}, TWO_TABLES)],
            [({"external_models": {"keys": {"x.raw.events": "dlt/events"}}}, TWO_TABLES)],
        ),
        advised(
            "Write five fields (minute, hour, day of month, month, day of week) or an alias such as @daily.",
            [({"automation": "cron"}, ODD_CRON)],
            [({"automation": "cron"}, EVERY_DAY)],
        ),
        advised(
            "would both give the name {} to a {}. Set another `{}` in defs.yaml.",
            [({"op": {"name": "x"}}, ONE), ({"op": {"name": "x"}}, manifest(model("b.orders")))],
            [({"op": {"name": "x"}}, ONE), ({"op": {"name": "y"}}, manifest(model("b.orders")))],
        ),
        advised(
            "give the assets of one of them a prefix, in its defs.yaml:",
            [({"op": {"name": "x"}}, ONE), ({"op": {"name": "y"}}, ONE)],
            [({"op": {"name": "x"}}, ONE), ({"op": {"name": "y"}, "translation": {"key_prefix": "dev"}}, ONE)],
        ),
        advised(
            "a tag that {} sets itself. Choose another name.",
            [({"schedule": {"tags": {"sqlmesh/restate": "x"}}}, ONE)],
            [({"schedule": {"tags": {"team": "x"}}}, ONE)],
        ),
        advised(
            "which a preview would replace. Write another name, for example",
            [({"project": {"path": "../../../c0", "environment": "dev"}, "preview": {"environment": "dev"}}, IN_DEV)],
            [({"project": {"path": "../../../c0", "environment": "dev"}, "preview": {"environment": "pr_12"}}, IN_DEV)],
        ),
        advised(
            "`external_models.assets` in {} makes an asset of the table {}, which {} produces. Add it to",
            [({"external_models": {"assets": True, "key": "raw/{{ external.name }}"}}, READS_RAW), ({}, ONE)],
            [
                ({"external_models": {"assets": True, "keys": {"db.a.orders": "a/orders"}}}, READS_RAW),
                ({"op": {"name": "y"}}, ONE),
            ],
        ),
        advised(
            "none of its models has a start. Set one in SQLMesh's configuration:",
            [(jobs(), WITHOUT_START)],
            [(jobs(), INCREMENTAL)],
        ),
        advised(
            "`schedule.on_sources` in defs.yaml needs the sources that the models wait for. Set it as well:",
            [({"schedule": {"on_sources": True}}, ONE)],
            [({"schedule": {"on_sources": True}, "external_models": {"wait": True}}, ONE)],
        ),
        advised(
            "it has no value; write it as {}",
            [({}, manifest(model("a.orders", tags=("dagster:group_name",))))],
            [({}, manifest(model("a.orders", tags=("dagster:group_name:sales",))))],
        ),
        advised("Set `by: {}`.", [(jobs(), MONTHLY)], [(jobs(by="month"), MONTHLY)]),
        advised(
            "Remove the job, and use `restate` in the run config.", [(jobs(), YEARLY)], [({"restate": True}, YEARLY)]
        ),
        advised(
            "has two jobs of the name {}. Set another `name` for one of them.",
            [({"restate": {"jobs": [{"by": "day"}, {"by": "day"}]}}, INCREMENTAL)],
            [({"restate": {"jobs": [{"by": "day"}, {"by": "day", "name": "other"}]}}, INCREMENTAL)],
        ),
    ],
)
def test_after_the_advice_the_code_location_loads(
    part: str, wrong: list[Component], corrected: tuple[list[Component], ...], tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="Error while") as refusal:
        definitions_of(tmp_path / "wrong", wrong)
    for of in part.split("{}"):
        assert of in str(refusal.value.__cause__)
    for number, components in enumerate(corrected):
        assert definitions_of(tmp_path / f"corrected_{number}", components)


@pytest.mark.advice(
    "Set their asset keys in `external_models.keys`. If both tables belong to one asset, add {{}: {}} and {{}: {}}. "
    "Otherwise, give one of them another key."
)
def test_two_components_read_two_tables_of_one_asset_or_of_two(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reads_x = manifest(model("a.orders", reads=["x.raw.events"]))
    reads_y = manifest(model("b.orders", reads=["y.raw.events"]))

    def loaded(name: str, x: str = "", y: str = "") -> list[str]:
        """Return the keys that the models read."""
        keys = {"x.raw.events": x, "y.raw.events": y}
        of_each = [{"external_models": {"keys": {table: key}}} if key else {} for table, key in keys.items()]
        definitions = definitions_of(tmp_path / name, [(of_each[0], reads_x), (of_each[1], reads_y)])
        # Sorted: Dagster returns the specs of an asset graph in the order of a set.
        specs = definitions.resolve_all_asset_specs()
        return sorted(dep.asset_key.to_user_string() for spec in specs for dep in spec.deps)

    with pytest.raises(dg.DagsterInvalidDefinitionError, match="Conflicting metadata found on AssetDeps"):
        loaded("wrong")
    [warning] = caplog.messages
    [x, y] = re.findall(r"\{([\w.]+: [\w/]+)\}", warning)
    assert (x, y) == ("x.raw.events: raw/events", "y.raw.events: raw/events")
    caplog.clear()
    assert loaded("one", "raw/events", "raw/events") == ["raw/events", "raw/events"]
    assert loaded("two", y="y/events") == ["raw/events", "y/events"]
    assert caplog.messages == []
