"""Coverage of incremental models, from the state after the run, and the check `sqlmesh_intervals_complete`."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from harness import NewShop

from dg_sqlmesh_component.config.run_config import SQLMeshRunConfig

CHECK = "sqlmesh_intervals_complete"
DAILY = "MODEL (name t.{}, kind INCREMENTAL_BY_TIME_RANGE (time_column ds){}); SELECT {} AS id, @start_ds::DATE AS ds"
FILES = {
    "models/days.sql": DAILY.format("days", "", 1),
    "models/broken.sql": DAILY.format("broken", ", audits (fine())", 1),
    "models/asks.sql": DAILY.format("asks", ", signals (never_ready())", 1),
    "models/below.sql": DAILY.format("below", "", "(SELECT max(id) FROM t.asks)"),
    "models/full.sql": "MODEL (name t.full, kind FULL); SELECT 1 AS id",
    "audits/fine.sql": "AUDIT (name fine); SELECT * FROM @this_model WHERE (SELECT is_fine FROM ctl.flags) = 0",
    "signals/__init__.py": "",
    "signals/ready.py": "from pathlib import Path\nfrom sqlmesh import signal\n\n\n@signal()\ndef never_ready(batch):\n"
    "    return Path(FLAG).exists()\n",
}


def gaps(metadata: Mapping[str, Any]) -> list[str]:
    """The ranges of the gaps, without their dates: for example `5 days`."""
    table = metadata.get("sqlmesh/not_computed")
    found = [row.data for row in table.records] if table else []
    return [row["range"].partition(" (")[2].rstrip(")") for row in found if row["why"].startswith("missing")]


@pytest.mark.attribute("intervals_check", "intervals_check.slack")
def test_coverage_and_check_show_what_the_state_lacks_after_each_outcome(tmp_path: Path, new_shop: NewShop) -> None:
    flag = tmp_path / "ready"
    flag.touch()
    files = {**FILES, "signals/ready.py": FILES["signals/ready.py"].replace("FLAG", repr(str(flag)))}
    restate_allowed = {"restate": True}
    tables = {"ctl.flags": "SELECT 1 AS is_fine"}
    shop = new_shop(files, tables=tables, planned_at="5 days ago", intervals_check=True, **restate_allowed)
    flag.unlink()
    shop.query("UPDATE ctl.flags SET is_fine = 0")
    record = shop.launch()
    executed = record.materializations["t/days"]
    assert "sqlmesh/coverage" in executed.metadata
    assert "sqlmesh/not_computed" not in executed.metadata
    assert record.checks[f"t/days:{CHECK}"].metadata["sqlmesh/missing_intervals"].value == 0
    assert record.checks[f"t/days:{CHECK}"].passed
    assert "sqlmesh/coverage" not in record.materializations["t/full"].metadata
    assert f"t/full:{CHECK}" not in record.checks

    assert record.status_of("t/asks") == "waiting"
    assert gaps(record.observations["t/asks"].metadata) == []
    asks = record.checks[f"t/asks:{CHECK}"]
    assert asks.passed
    assert "(5 days). t.asks is waiting: its signal never_ready" in str(asks.description).partition("Waiting: ")[2]
    assert gaps(record.observations["t/below"].metadata) == [], "it reads t.asks"
    assert record.checks[f"t/below:{CHECK}"].passed
    assert record.status_of("t/broken") == "audit_failed"
    failed = record.checks["t/broken:sqlmesh_execution_status"]
    assert gaps(failed.metadata) == ["5 days"]
    check = record.checks[f"t/broken:{CHECK}"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)

    # A gap before newer data, and a run config that leaves it out: the model is materialized and incomplete.
    shop.query("DELETE FROM sqlmesh._intervals WHERE name LIKE '%days%'")
    bounded = shop.launch(assets=["t/days"], ops={"sqlmesh_shop": {"start": "2 days ago"}})
    assert bounded.status_of("t/days") == "executed"
    assert gaps(bounded.materializations["t/days"].metadata) == ["4 days"]
    assert not bounded.checks[f"t/days:{CHECK}"].passed
    assert "Launch a run of the model" in str(bounded.checks[f"t/days:{CHECK}"].description)

    again = shop.launch(assets=["t/days"], ops={"sqlmesh_shop": {"start": "2 days ago"}})
    assert again.status_of("t/days") == "up_to_date"
    assert gaps(again.observations["t/days"].metadata) == ["4 days"]
    assert not again.checks[f"t/days:{CHECK}"].passed

    only_check = shop.launch(checks=[f"t/days:{CHECK}"]).succeeded()
    assert not only_check.checks[f"t/days:{CHECK}"].passed
    shop.configure(intervals_check={"slack": "30 days"}, **restate_allowed)
    patient = shop.launch(checks=[f"t/days:{CHECK}", f"t/asks:{CHECK}"])
    assert {name: check.passed for name, check in patient.checks.items()} == {
        f"t/days:{CHECK}": True,
        f"t/asks:{CHECK}": True,
    }
    assert "within the slack of 30 days." in str(patient.checks[f"t/days:{CHECK}"].description)

    repaired = shop.launch(assets=["t/days"])
    assert gaps(repaired.materializations["t/days"].metadata) == []
    assert str(repaired.checks[f"t/days:{CHECK}"].description).startswith("t.days has no gaps in 20")
    shop.query("DELETE FROM sqlmesh._intervals WHERE name LIKE '%days%'")
    shop.launch(assets=["t/days"], ops={"sqlmesh_shop": {"end": "3 days ago"}})
    restated_day = str(datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=5))
    restated_range = {"start": restated_day, "end": restated_day}
    restated = shop.launch(assets=["t/days"], ops={"sqlmesh_shop": {"restate": restated_range}})
    assert restated.status_of("t/days") == "executed"
    assert gaps(restated.materializations["t/days"].metadata) == ["3 days"]
    computed_day = str(datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=6))
    restated_range = {"start": computed_day, "end": computed_day}
    failed_again = shop.launch(assets=["t/broken"], ops={"sqlmesh_shop": {"restate": restated_range}})
    assert failed_again.status_of("t/broken") == "audit_failed"
    assert gaps(failed_again.observations["t/broken"].metadata) == ["6 days"], "the restated day is pending"


def test_a_run_computes_the_whole_intervals_that_contain_its_start_and_end(new_shop: NewShop) -> None:
    shop = new_shop({"models/days.sql": DAILY.format("days", "", 1)}, planned_at="5 days ago")
    first, last = (datetime.datetime.now(datetime.timezone.utc).date() - datetime.timedelta(days=n) for n in (4, 2))

    record = shop.launch(ops={"sqlmesh_shop": {"start": f"{first} 12:30:00", "end": f"{last} 12:30:00"}})

    computed = record.materializations["t/days"].metadata["sqlmesh/intervals"].value
    assert computed == f"{first} to {last} (3 days)"
    for name in ("start", "end"):
        assert "interval to compute is the one that contains this" in str(
            SQLMeshRunConfig.model_fields[name].description
        )
