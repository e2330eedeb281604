"""Every row of the outcome table, on the real engine, under both executors.

One run in which something of everything happens; each test then looks at one row of it. What
Dagster was told is compared with what SQLMesh's own state says before and after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from harness import (
    EXECUTORS,
    DagsterProject,
    Told,
    copy_project,
    dagster_project,
    plan,
    query,
    raise_flags,
    state,
)

DOWNSTREAM = """
import dagster as dg

def reader(name, *upstream):
    @dg.asset(key=["plain", name], deps=[["t", one] for one in upstream])
    def read(): ...
    return read

below_up_to_date = reader("below_up_to_date", "yearly")
below_waiting = reader("below_waiting", "gated")
"""


@dataclass
class Scene:
    told: Told
    before: dict[str, Any]
    after: dict[str, Any]
    runs: int
    project: Path
    dagster: DagsterProject


@pytest.fixture(scope="module", params=EXECUTORS)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("rows")
    project = copy_project("ledger", folder)
    plan(project)
    raise_flags(project, "failing", "audited_block", "audited_warn", "events_warn", "batched")
    (project / "hold").touch()
    with dagster_project(folder) as dagster:
        dagster.declare("ledger", {"project": str(project)})
        dagster.add_module("plain", DOWNSTREAM)
        dagster.refresh()
        before, runs_before = state(project), _runs(project)
        told = dagster.launch(request.param)
        yield Scene(told, before, state(project), _runs(project) - runs_before, project, dagster)


def _runs(project: Path) -> int:
    return query(project, "SELECT count(*) FROM ctl.runs")[0][0]


def _asset(fqn: str) -> str:
    return "/".join(part.strip('"') for part in fqn.split(".")[-2:])


EXPECTED = {
    "t/events": "executed",
    "t/events_view": "executed",
    "t/through_embedded": "executed",
    "t/odd name-x": "executed",
    "t/talkative": "executed",
    "t/colours": "up_to_date",
    "t/yearly": "up_to_date",
    "t/gated": "waiting",
    "t/below_gated": "waiting",
    "t/failing": "failed",
    "t/below_failing": "blocked",
    "t/audited": "audit_failed",
    "t/below_audited": "blocked",
    "t/batched": "partly_executed",
}


@pytest.mark.parametrize(("asset", "outcome"), EXPECTED.items(), ids=EXPECTED.keys())
def test_each_model_is_reported_as_what_became_of_it(scene: Scene, asset: str, outcome: str) -> None:
    assert scene.told.status_of(asset) == outcome


def test_the_materialized_models_are_those_whose_intervals_grew(scene: Scene) -> None:
    grew = {
        _asset(fqn)
        for fqn, computed in scene.after["intervals"].items()
        if computed > scene.before["intervals"][fqn] and fqn.startswith('"')
    }
    partly = {asset for asset, outcome in EXPECTED.items() if outcome == "partly_executed"}
    assert set(scene.told.materializations) == grew - partly
    assert partly <= grew


def test_one_dagster_run_is_one_sqlmesh_run(scene: Scene) -> None:
    assert scene.runs == 1
    assert [step for step in scene.told.step_keys if step.startswith("sqlmesh")] == ["sqlmesh_ledger"]


def test_only_executed_models_are_materialized(scene: Scene) -> None:
    assert set(scene.told.materializations) == {a for a, outcome in EXPECTED.items() if outcome == "executed"}
    idle = {asset for asset, outcome in EXPECTED.items() if outcome == "up_to_date"}
    assert set(scene.told.computed_outside) == idle, "the plan computed them, which Dagster has not seen"
    assert set(scene.told.observations) == EXPECTED.keys() - scene.told.materializations.keys() - idle


def test_a_materialization_says_what_was_computed(scene: Scene) -> None:
    metadata = scene.told.materializations["t/events"].metadata
    start, end = (
        scene.after["ranges"]['"warehouse"."t"."events"'][0][0],
        scene.after["ranges"]['"warehouse"."t"."events"'][-1][1],
    )
    computed_before = scene.before["ranges"]['"warehouse"."t"."events"'][-1][1]
    assert start < computed_before < end
    assert metadata["sqlmesh/interval_start"].value == computed_before / 1000
    assert metadata["sqlmesh/interval_end"].value == end / 1000
    assert metadata["sqlmesh/batches"].value == 1
    assert metadata["sqlmesh/duration_ms"].value >= 0
    assert metadata["sqlmesh/snapshot_version"].value == scene.after["versions"]['"warehouse"."t"."events"']


def test_a_materialization_carries_the_versions_of_the_data_and_of_the_code_that_ran(scene: Scene) -> None:
    tags = scene.told.materializations["t/events"].tags or {}
    fqn = '"warehouse"."t"."events"'
    assert tags["dagster/code_version"] == scene.after["data_hashes"][fqn]
    assert tags["dagster/data_version"].startswith(scene.after["versions"][fqn])


def test_every_model_has_a_status_check_that_tells_its_outcome(scene: Scene) -> None:
    passed = {asset: scene.told.checks[f"{asset}:sqlmesh_execution_status"].passed for asset in EXPECTED}
    assert passed == {asset: outcome in ("executed", "up_to_date") for asset, outcome in EXPECTED.items()}
    severities = {
        scene.told.checks[f"{a}:sqlmesh_execution_status"].severity for a, o in EXPECTED.items() if o == "waiting"
    }
    assert severities == {dg.AssetCheckSeverity.WARN}


def test_a_blocked_model_names_the_culprit(scene: Scene) -> None:
    description = scene.told.checks["t/below_failing:sqlmesh_execution_status"].description
    assert description == "t.below_failing was not executed, because a model upstream of it failed: t.failing."


def test_no_check_of_a_blocked_model_is_reported_as_passed(scene: Scene) -> None:
    blocked = [asset for asset, outcome in EXPECTED.items() if outcome == "blocked"]
    assert not [name for name, check in scene.told.checks.items() if name.split(":")[0] in blocked and check.passed]


def test_a_non_blocking_audit_that_fails_is_a_warning_on_an_executed_model(scene: Scene) -> None:
    check = scene.told.checks["t/events:flag_is_down_flag_name_events_warn"]
    assert (check.passed, check.severity, check.blocking) == (False, dg.AssetCheckSeverity.WARN, False)
    assert check.metadata["sqlmesh/failing_rows"].value == 1
    assert "events_warn" in str(check.metadata["sqlmesh/arguments"].value)
    query = str(check.metadata["sqlmesh/query"].value)
    assert query.startswith("```sql\nSELECT\n"), "written in lines, as the model's own query is"


def test_a_blocking_audit_that_fails_is_an_error_beside_the_true_results_of_the_others(scene: Scene) -> None:
    block = scene.told.checks["t/audited:flag_is_down_flag_name_audited_block"]
    warn = scene.told.checks["t/audited:flag_is_down_flag_name_audited_warn"]
    assert (block.passed, block.severity, block.blocking) == (False, dg.AssetCheckSeverity.ERROR, True)
    assert (warn.passed, warn.severity, warn.blocking) == (False, dg.AssetCheckSeverity.WARN, False)
    assert scene.told.checks["t/audited:not_null_n"].passed


def test_the_same_audit_twice_on_one_model_is_two_checks(scene: Scene) -> None:
    assert scene.told.checks["t/events:not_null_id"].passed
    assert scene.told.checks["t/events:not_null_ds"].passed


def test_a_standalone_audit_is_a_check_of_the_model_it_reads(scene: Scene) -> None:
    check = scene.told.checks["t/events:events_are_numbered"]
    assert (check.passed, check.severity) == (True, dg.AssetCheckSeverity.WARN)


def test_a_waiting_model_names_the_signal(scene: Scene) -> None:
    assert "its signal landed" in str(scene.told.observations["t/gated"].metadata["sqlmesh/waiting_for"].value)
    assert "t.gated waits for a signal" in str(
        scene.told.observations["t/below_gated"].metadata["sqlmesh/waiting_for"].value
    )


def test_an_up_to_date_model_says_why_and_when_it_is_due(scene: Scene) -> None:
    yearly, seed = scene.told.computed_outside["t/yearly"], scene.told.computed_outside["t/colours"]
    assert yearly.metadata["sqlmesh/next_due"].value > scene.after["ranges"]['"warehouse"."t"."events"'][-1][1] / 1000
    assert "seed has not changed" in str(seed.metadata["sqlmesh/reason"].value)


def test_a_partly_executed_model_names_what_is_finished(scene: Scene) -> None:
    fqn = '"warehouse"."t"."batched"'
    metadata = scene.told.observations["t/batched"].metadata
    assert metadata["sqlmesh/interval_end"].value == scene.after["ranges"][fqn][-1][1] / 1000
    assert "boom in the last batch" in scene.told.checks["t/batched:sqlmesh_execution_status"].description


def test_the_step_raises_one_failure_that_names_each_failed_model_its_error_and_what_it_blocked(scene: Scene) -> None:
    assert scene.told.status == dg.DagsterRunStatus.FAILURE
    [failure] = scene.told.failures
    for words in (
        "t.failing (models/failing.sql) failed",
        "boom",
        "Blocked by it: t.below_failing",
        "t.audited (models/audited.sql) failed its audit",
        "Blocked by it: t.below_audited",
        "t.batched (models/batched.sql) failed after 2 of 3 batches",
    ):
        assert words in failure


def test_what_a_model_prints_is_in_the_log_and_breaks_nothing(scene: Scene) -> None:
    for words in ("said with print", "said on stderr", "said by a subprocess", "said by a logger"):
        assert words in scene.told.log


def test_the_worker_never_imports_dagster(scene: Scene) -> None:
    [(dagster_imported,)] = query(scene.project, "SELECT dagster_imported FROM t.talkative")
    assert dagster_imported is False


@pytest.mark.parametrize("scene", ["multiprocess"], indirect=True)
def test_a_second_run_takes_up_what_is_left_and_carries_over_what_audits_last_said(scene: Scene) -> None:
    """With the causes gone: what failed, waited or was blocked runs, the rest is up to date, and downstream runs."""
    raise_flags(scene.project)
    (scene.project / "hold").unlink()
    before, runs = state(scene.project), _runs(scene.project)
    told = scene.dagster.launch("in_process")
    after = state(scene.project)
    assert told.status == dg.DagsterRunStatus.SUCCESS, told.failures
    grew = {_asset(f) for f, n in after["intervals"].items() if n > before["intervals"][f] and f.startswith('"')}
    assert set(told.materializations) - {"plain/below_up_to_date", "plain/below_waiting"} == grew
    assert grew == {a for a, o in EXPECTED.items() if o not in ("executed", "up_to_date")}
    assert _runs(scene.project) == runs + 1
    carried = told.checks["t/events:not_null_id"]
    assert carried.passed
    assert carried.metadata["sqlmesh/carried_over"].value is True
    assert carried.metadata["sqlmesh/evaluated_in_run"].value == scene.told.run_id
    assert {"plain/below_up_to_date", "plain/below_waiting"} <= set(told.materializations)
    again = scene.dagster.launch("in_process")
    assert set(again.materializations) == {"plain/below_up_to_date", "plain/below_waiting"}
    assert again.checks["t/events:not_null_id"].metadata["sqlmesh/evaluated_in_run"].value == scene.told.run_id
    assert "t/events:flag_is_down_flag_name_events_warn" not in again.checks, "it looks at a table from outside, too"
    assert state(scene.project) == after
