"""What the last results of checks say."""

import time

import dagster as dg

from dg_sqlmesh_component.history.check_results import last_outdated
from dg_sqlmesh_component.report.checks import outdated_result

CHECK = dg.AssetCheckKey(dg.AssetKey("orders"), "sqlmesh_intervals_complete")
DAY = (1_700_000_000_000, 1_700_086_400_000)


def test_a_result_counts_if_its_check_was_evaluated_after_the_rows_were_computed() -> None:
    """Also in the same second: SQLite dates the record without the fraction, and at the start of the run."""
    instance = dg.DagsterInstance.ephemeral()
    result = outdated_result(CHECK, [DAY], "Outdated.")
    evaluation = dg.AssetCheckEvaluation(CHECK.asset_key, CHECK.name, result.passed, metadata=result.metadata or {})
    computed_at = time.time_ns() // 1_000_000

    instance.report_runless_asset_event(evaluation)

    assert last_outdated(instance, {CHECK: computed_at}) == {CHECK: [DAY]}
    assert last_outdated(instance, {CHECK: time.time_ns() // 1_000_000 + 1}) == {}
