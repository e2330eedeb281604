"""Columns and lineage in a catalog, in a separate environment: each process of `dg` imports the exporter."""

import json
from pathlib import Path

import pytest
import yaml
from harness import planned_shop
from package_environment import create_environment, run_in_environment

pytestmark = pytest.mark.slow

MODELS = {
    "models/days.sql": "MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column ds)); "
    "SELECT @start_ds::DATE AS ds, u.n FROM t.unit AS u",
    "models/unit.sql": "MODEL (name t.unit, kind FULL); SELECT 1 AS n",
}


def test_an_openlineage_exporter_sees_columns_and_their_lineage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with planned_shop(tmp_path, MODELS, include_metadata=["column_lineage"]) as shop:
        root = shop.root
    wrapped = {"module": "dagster._core.storage.event_log", "class": "ConsolidatedSqliteEventLogStorage"}
    exporter = {
        "module": "dagster_openlineage",
        "class": "OpenLineageEventLogStorage",
        "config": {"wrapped": {**wrapped, "config": {"base_dir": str(tmp_path / "events")}}},
    }
    home, exported = tmp_path / "home", tmp_path / "openlineage.json"
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump({"event_log_storage": exporter}))
    transport = {"type": "file", "log_file_path": str(exported), "append": True}
    (root / "openlineage.yml").write_text(yaml.safe_dump({"transport": transport}))
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    environment = create_environment(tmp_path, "dagster-openlineage>=0.2", "dagster-dg-cli")
    assert "RUN_SUCCESS" in run_in_environment(environment, root, "dg", "launch", "--assets", "*")

    events = [json.loads(line) for line in exported.read_text().splitlines()]
    facets = {output["name"]: output["facets"] for event in events for output in event["outputs"] if output["facets"]}
    days = facets["t/days"]
    assert [(field["name"], field["type"]) for field in days["schema"]["fields"]] == [("ds", "DATE"), ("n", "INT")]
    [source] = days["columnLineage"]["fields"]["n"]["inputFields"]
    assert (source["name"], source["field"]) == ("t/unit", "n")
    assert [field["name"] for field in facets["t/unit"]["schema"]["fields"]] == ["n"]
