"""What releases of this package store in Dagster for later ones: today's code reads it, and knows what it cannot read.

`stored/` has events and a manifest in the formats of 0.1.0. A release that changes a format adds a sample.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._serdes import deserialize_value

from dg_sqlmesh_component.capabilities.polling_sensor.plans import CURSOR, LastPlan
from dg_sqlmesh_component.history.earlier_results import data_in
from dg_sqlmesh_component.history.records import record_in
from dg_sqlmesh_component.history.stored_record import INTERNAL, StoredRecord, internal, stored_record
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.manifest import MANIFEST_VERSION
from dg_sqlmesh_component.state.manifest_source import read_manifest

STORED = Path(__file__).parent / "stored"
VERSION = "481739773"
HASHES = ("2135047808", "1195686630", "721243192")
AUDITED = msg.AuditedData(VERSION, "3455383758")


def metadata_of(event: Any) -> Mapping[str, dg.MetadataValue]:
    value: Any = deserialize_value(json.dumps(event))
    metadata: Mapping[str, dg.MetadataValue] = value.metadata
    return metadata


def test_stored_records_are_read() -> None:
    stored = json.loads((STORED / "records.json").read_text())
    events = {kind: metadata_of(event) for kind, (_, event) in stored.items()}
    for kind, instant in {"computed": 1795622366952, "outside": 1795622337819, "observed": 1795622356584}.items():
        assert stored_record(events[kind]) == StoredRecord("prod", VERSION, instant, HASHES)
    assert data_in(events["checked"]) == ("prod", AUDITED, 1795622366952)


@pytest.mark.parametrize(
    "value",
    [
        {INTERNAL: "a text of somebody else"},
        internal(record="prod 7 30 data text"),
        internal(record="prod 7 soon data text now"),
        internal(another_part=2),
    ],
    ids=str,
)
def test_record_of_an_unknown_version_is_no_record(value: Any) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("days", metadata=value))
        [event] = instance.fetch_materializations(dg.AssetKey("days"), limit=1).records
    assert event.asset_materialization is not None
    assert record_in(event, "prod") is None
    assert data_in(event.asset_materialization.metadata) is None


def test_records_of_audits_and_of_data_are_told_apart() -> None:
    records = {"data": "prod 7 30 data text now", "audits": "prod 7 30 audits"}
    with dg.DagsterInstance.ephemeral() as instance:
        for asset, line in records.items():
            instance.report_runless_asset_event(dg.AssetMaterialization(asset, metadata=internal(record=line)))
        [data], [audits] = (instance.fetch_materializations(dg.AssetKey(name), limit=1).records for name in records)
    assert data.asset_materialization is not None
    assert audits.asset_materialization is not None
    assert record_in(data, "prod") == msg.RecordedData("7", 30, "data", "text", "now")
    assert data_in(audits.asset_materialization.metadata) == ("prod", msg.AuditedData("7", "audits"), 30)
    assert record_in(audits, "prod") is None
    assert data_in(data.asset_materialization.metadata) is None


def test_stored_cursor_is_read() -> None:
    cursor = '{"environment": "prod", "plan_id": "c0ffee", "unpromoted": ["\\"t\\".\\"new\\""], "models": "abc"}'
    assert CURSOR.validate_json(cursor) == LastPlan("prod", "c0ffee", ('"t"."new"',), "abc")


def test_stored_manifest_is_read() -> None:
    """If this fails because there is no file, the manifest has a new version: add a sample of it."""
    manifest = read_manifest(STORED / f"manifest_{MANIFEST_VERSION}.json")
    assert [model.name for model in manifest.models] == ["t.days", "t.total"]
    assert manifest.models[0].audits[0].check_name == "not_null_ds"
