"""Every row of the outcome table, on the real engine, under both executors.

One run has models with every outcome, and each test checks one row. The tests compare what Dagster recorded with the
SQLMesh state before and after the run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pytest
from computed_hours import HOUR, recorded_hours
from harness import EXECUTORS, RunRecord, Shop, ledger_shop, raise_flags, version_of

from dg_sqlmesh_component.protocol.formatting import ranges

DOWNSTREAM_ASSETS = """
import dagster as dg

def downstream_asset(name, *upstream):
    @dg.asset(key=["plain", name], deps=[["t", model] for model in upstream])
    def asset(): ...
    return asset

below_up_to_date = downstream_asset("below_up_to_date", "yearly")
below_waiting = downstream_asset("below_waiting", "gated")
"""


@dataclass
class LedgerRun:
    record: RunRecord
    before: dict[str, Any]
    after: dict[str, Any]
    runs: int
    shop: Shop


@pytest.fixture(scope="module", params=EXECUTORS)
def ledger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerRun]:
    with ledger_shop(tmp_path_factory.mktemp("rows")) as shop:
        raise_flags(shop.project, "failing", "audited_block", "audited_warn", "events_warn", "batched")
        (shop.project / "hold").touch()
        shop.add_module("plain", DOWNSTREAM_ASSETS)
        before, runs_before = shop.state(), _count_runs(shop)
        record = shop.launch(request.param, spawns_steps=True)
        yield LedgerRun(record, before, shop.state(), _count_runs(shop) - runs_before, shop)


def _count_runs(shop: Shop) -> int:
    return int(shop.query("SELECT count(*) FROM ctl.runs")[0][0])


def grown(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The assets of the models with more computed intervals than before."""
    more = [of for of, computed in after["intervals"].items() if computed > before["intervals"][of]]
    return {"/".join(part.strip('"') for part in of.split(".")[-2:]) for of in more if of.startswith('"')}


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


def test_each_model_has_expected_outcome(ledger: LedgerRun) -> None:
    assert {asset: ledger.record.status_of(asset) for asset in EXPECTED} == EXPECTED


def test_one_dagster_run_is_one_sqlmesh_run(ledger: LedgerRun) -> None:
    assert ledger.runs == 1
    assert [step for step in ledger.record.step_keys if step.startswith("sqlmesh")] == ["sqlmesh_shop"]


def test_only_executed_models_are_materialized_and_they_have_new_intervals(ledger: LedgerRun) -> None:
    by_outcome: dict[str, set[str]] = {}
    for asset, outcome in EXPECTED.items():
        by_outcome.setdefault(outcome, set()).add(asset)
    materialized, idle = by_outcome["executed"], by_outcome["up_to_date"]
    assert set(ledger.record.materializations) == materialized
    assert grown(ledger.before, ledger.after) == materialized | by_outcome["partly_executed"]
    assert set(ledger.record.computed_outside) == idle, "the plan computed them, and Dagster has no event of it"
    assert set(ledger.record.reported_outside) == EXPECTED.keys() - idle, "the same, but these had something to do"
    assert set(ledger.record.observations) == EXPECTED.keys() - materialized - idle


def test_materialization_has_intervals_duration_and_versions(ledger: LedgerRun) -> None:
    fqn, event = '"warehouse"."t"."events"', ledger.record.materializations["t/events"]
    start, end = ledger.after["ranges"][fqn][0][0], ledger.after["ranges"][fqn][-1][1]
    computed_before = ledger.before["ranges"][fqn][-1][1]
    assert start < computed_before < end
    assert event.metadata["sqlmesh/intervals"].value == ranges([(computed_before, end)])
    assert "sqlmesh/batches" not in event.metadata, "there was one"
    seconds = event.metadata["sqlmesh/seconds"].value
    assert isinstance(seconds, float)
    assert seconds >= 0
    assert version_of(event) == ledger.after["versions"][fqn]
    tags = event.tags or {}
    assert tags["dagster/code_version"] == ledger.after["data_hashes"][fqn]
    assert tags["dagster/data_version"].startswith(ledger.after["versions"][fqn])


def test_status_check_of_every_model_shows_its_outcome(ledger: LedgerRun) -> None:
    passed = {asset: ledger.record.checks[f"{asset}:sqlmesh_execution_status"].passed for asset in EXPECTED}
    assert passed == {asset: outcome in ("executed", "up_to_date") for asset, outcome in EXPECTED.items()}
    severities = {
        ledger.record.checks[f"{a}:sqlmesh_execution_status"].severity for a, o in EXPECTED.items() if o == "waiting"
    }
    assert severities == {dg.AssetCheckSeverity.WARN}


def test_blocked_model_names_the_failed_model(ledger: LedgerRun) -> None:
    description = ledger.record.checks["t/below_failing:sqlmesh_execution_status"].description
    assert description == "t.below_failing was not executed, because a model upstream of it failed: t.failing."


def test_no_check_of_a_blocked_model_passes(ledger: LedgerRun) -> None:
    blocked = [asset for asset, outcome in EXPECTED.items() if outcome == "blocked"]
    assert not [name for name, check in ledger.record.checks.items() if name.split(":")[0] in blocked and check.passed]


WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
AUDITS = {
    "t/events:flag_is_down_flag_name_events_warn": (False, WARN, False),
    "t/events:not_null_id": (True, ERROR, True),
    "t/events:not_null_ds": (True, ERROR, True),
    "t/events:events_are_numbered": (True, WARN, False),
    "t/audited:flag_is_down_flag_name_audited_block": (False, ERROR, True),
    "t/audited:flag_is_down_flag_name_audited_warn": (False, WARN, False),
    "t/audited:not_null_n": (True, ERROR, True),
}
"""Whether each audit passes, the severity of its check, and whether it is blocking.

The same audit twice on a model is two checks, and a standalone one is a check of the model that it reads.
"""


def test_each_audit_is_a_check_with_a_result_of_its_own(ledger: LedgerRun) -> None:
    checks = {name: ledger.record.checks[name] for name in AUDITS}
    assert {name: (check.passed, check.severity, check.blocking) for name, check in checks.items()} == AUDITS
    failed = checks["t/events:flag_is_down_flag_name_events_warn"].metadata
    assert failed["sqlmesh/failing_row_count"].value == 2, (
        "the row of the flag: once for the rows of the plan, once for those of the run"
    )
    assert str(failed["sqlmesh/query"].value).startswith("```sql\nSELECT\n"), "formatted like the model's query"


def test_waiting_model_names_the_signal(ledger: LedgerRun) -> None:
    assert "its signal landed" in str(ledger.record.observations["t/gated"].description)
    below = str(ledger.record.observations["t/below_gated"].description)
    assert "upstream model t.gated is waiting for its signal landed" in below


def test_up_to_date_model_has_reason_and_next_due_time(ledger: LedgerRun) -> None:
    yearly, seed = ledger.record.computed_outside["t/yearly"], ledger.record.computed_outside["t/colours"]
    assert yearly.metadata["sqlmesh/next_due"].value > ledger.after["ranges"]['"warehouse"."t"."events"'][-1][1] / 1000
    assert "seed has not changed" in str(seed.metadata["sqlmesh/reason"].value)


def test_partly_executed_model_has_computed_interval_and_error(ledger: LedgerRun) -> None:
    fqn = '"warehouse"."t"."batched"'
    metadata = ledger.record.observations["t/batched"].metadata
    *_, (_, end) = ledger.after["ranges"][fqn]
    hours = recorded_hours(metadata)
    assert hours is not None
    assert (max(hours) + 1) * HOUR == end
    check = ledger.record.checks["t/batched:sqlmesh_execution_status"]
    assert "boom in the last batch" in str(check.metadata["sqlmesh/error"].value)


def test_error_of_a_failed_model_is_logged_once(ledger: LedgerRun) -> None:
    """Dagster also logs the description of each check, in quotes. That of the status check has its first line."""
    messages = [
        entry.dagster_event.message if entry.dagster_event else entry.user_message for entry in ledger.record.entries
    ]
    [message, of_check] = [message for message in messages if message and "boom in the last batch" in message]
    assert of_check.startswith("Asset check 'sqlmesh_execution_status' on 't/batched' did not pass")
    assert message.startswith("t.batched (models/batched.sql) failed for 20")
    assert ". 2 of 3 batches are computed and kept: 20" in message
    assert "    BinderException" not in message
    assert not message.endswith("'")


def test_one_failure_names_failed_models_their_errors_and_blocked_models(ledger: LedgerRun) -> None:
    assert ledger.record.status == dg.DagsterRunStatus.FAILURE
    [failure] = ledger.record.failures
    for text in (
        "t.failing (models/failing.sql) failed",
        "boom",
        "Blocked by it: t.below_failing",
        "t.audited (models/audited.sql) failed its audit",
        "Blocked by it: t.below_audited",
        "t.batched (models/batched.sql) failed for 20",
        ". 2 of 3 batches are computed and kept",
        "Shown as failed in Dagster's graph and catalog, but not failed: 2 waiting. See their checks.",
    ):
        assert text in failure
    assert failure.count("Correct the model or its data, then launch a run:") == 1
    assert failure.endswith(f"apply a plan before that run:\n\n    cd {ledger.shop.project} && sqlmesh plan")


def test_output_of_a_model_is_in_the_log(ledger: LedgerRun) -> None:
    for text in ("said with print", "said on stderr", "said by a subprocess", "said by a logger"):
        assert text in ledger.record.log


def test_worker_never_imports_dagster(ledger: LedgerRun) -> None:
    [(dagster_imported,)] = ledger.shop.query("SELECT dagster_imported FROM t.talkative")
    assert dagster_imported is False


@pytest.mark.parametrize("ledger", ["multiprocess"], indirect=True)
def test_second_run_computes_the_rest_and_carries_over_check_results(ledger: LedgerRun) -> None:
    """After the causes are fixed, models that failed, waited or were blocked run. The other models are up to date."""
    raise_flags(ledger.shop.project)
    (ledger.shop.project / "hold").unlink()
    before, runs = ledger.shop.state(), _count_runs(ledger.shop)
    record = ledger.shop.launch("in_process")
    after = ledger.shop.state()
    assert record.status == dg.DagsterRunStatus.SUCCESS, record.failures
    computed = grown(before, after)
    assert set(record.materializations) - {"plain/below_up_to_date", "plain/below_waiting"} == computed
    assert computed == {a for a, o in EXPECTED.items() if o not in ("executed", "up_to_date")}
    assert _count_runs(ledger.shop) == runs + 1
    carried = record.checks["t/events:not_null_id"]
    assert carried.passed
    assert carried.metadata["sqlmesh/carried_over"].value is True
    assert carried.metadata["sqlmesh/evaluated_in_run"].value == ledger.record.run_id
    assert {"plain/below_up_to_date", "plain/below_waiting"} <= set(record.materializations)
    third_run = ledger.shop.launch("in_process")
    assert set(third_run.materializations) == {"plain/below_up_to_date", "plain/below_waiting"}
    assert third_run.checks["t/events:not_null_id"].metadata["sqlmesh/evaluated_in_run"].value == ledger.record.run_id
    reads_another_table = third_run.checks["t/events:flag_is_down_flag_name_events_warn"]
    assert "sqlmesh/carried_over" not in reads_another_table.metadata, "it is evaluated again"
    assert ledger.shop.state() == after
