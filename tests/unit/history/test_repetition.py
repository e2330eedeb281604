"""Where a run, a plan or a sensor has not evaluated a check: whether the last result is repeated.

The tables of `why_not_repeated` and `audited_until` are in `report/test_results.py`.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pytest
from unit.builders import day, project_assets
from unit.outcome_table import ORDERS, PROMOTED, SHOP

from dg_sqlmesh_component.dagster_internals.event_log import TargetMaterialization
from dg_sqlmesh_component.definitions.translator import INTERVALS_CHECK, STATUS_CHECK
from dg_sqlmesh_component.history import repetition
from dg_sqlmesh_component.history.check_results import last_evaluations, results_of_same_data, shown_evaluations
from dg_sqlmesh_component.history.earlier_results import (
    ABOUT_NO_DATA,
    EarlierResult,
    check_result,
    data_metadata,
    evaluation_of,
    not_evaluated,
)
from dg_sqlmesh_component.history.records import OutsideData
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.report.checks import Checks
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, NodeOutcome, Outcome
from dg_sqlmesh_component.report.wording import Wording

ASSETS = project_assets(SHOP)
KEY = dg.AssetKey(["core", "orders"])
RECENT, STATUS = dg.AssetCheckKey(KEY, "recent"), dg.AssetCheckKey(KEY, STATUS_CHECK)
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
RECORD = data_metadata(("prod", msg.AuditedData("3117", "4001"), day(1)))
EVALUATED = day(1) / 1000


def report(instance: dg.DagsterInstance, result: dg.AssetCheckResult, target: Any = None) -> dg.AssetCheckEvaluation:
    evaluation = evaluation_of(result, target)
    instance.report_runless_asset_event(evaluation)
    return evaluation


def decision(evaluation: dg.AssetCheckEvaluation | None, newest: dg.AssetCheckEvaluation) -> str:
    if evaluation is None:
        return "nothing"
    if "sqlmesh/carried_over" in evaluation.metadata:
        assert str(evaluation.description).startswith(str(newest.description))
        assert str(evaluation.description).endswith("Repeated, because why.")
        return "repeated"
    assert evaluation == newest
    return "as it is"


# -- a run that cannot tell whether the data is as it was --------------------------------------------

NEWEST: dict[str, tuple[dg.AssetCheckResult, str | None, str]] = {
    "passed": (check_result(RECENT, True, WARN, "0 rows.", RECORD), None, "repeated"),
    "failed": (check_result(RECENT, False, ERROR, "3 rows.", RECORD), None, "repeated"),
    "of the table": (check_result(RECENT, True, WARN, "0 rows.", RECORD), "3117", "repeated"),
    "of another table": (check_result(RECENT, True, WARN, "0 rows.", RECORD), "4228", "nothing"),
    "failed, of another table": (check_result(RECENT, False, ERROR, "3 rows.", RECORD), "4228", "nothing"),
    "has read other tables": (check_result(RECENT, True, WARN, "0 rows.", {}), "4228", "repeated"),
    "not evaluated": (not_evaluated(RECENT, "because."), None, "as it is"),
    "begun since": (not_evaluated(RECENT, "because.", "prod"), "4228", "as it is"),
    "status": (check_result(STATUS, True, WARN, "Executed.", {}), None, "repeated"),
    "status about no data": (check_result(STATUS, False, ERROR, "Not promoted.", ABOUT_NO_DATA), None, "repeated"),
}
"""The newest result, the promoted table, and what a run repeats that ended before it reached the model."""


@pytest.mark.parametrize(("newest", "table", "expected"), NEWEST.values(), ids=NEWEST)
def test_newest_result_is_recorded_again_by_a_run_that_has_not_reached_the_model(
    newest: dg.AssetCheckResult, table: str | None, expected: str
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        evaluation, check = report(instance, newest), dg.AssetCheckKey(KEY, str(newest.check_name))
        assert decision(last_evaluations(instance, [check], "why", table).get(check), evaluation) == expected
        if table is None:
            shown = shown_evaluations(instance, [check], "why", "a dry run")
            assert decision(shown.get(check), evaluation) == expected
        assert last_evaluations(instance, [dg.AssetCheckKey(KEY, "new")], "why") == {}


# -- data that is promoted once more ------------------------------------------------------------------

PROMOTED_AGAIN: dict[str, tuple[Mapping[str, Any], bool]] = {
    "passed": ({}, True),
    "failed": ({"passed": False}, True),
    "with other rows": ({"computed": ((day(1), day(2)),)}, False),
    "of an older materialization": ({"is_shown": False}, False),
    "check of intervals": ({"name": INTERVALS_CHECK}, False),
    "status": ({"name": STATUS_CHECK}, True),
    "not evaluated": ({"metadata": not_evaluated(RECENT, "because.").metadata}, False),
    "status about no data": ({"name": STATUS_CHECK, "metadata": ABOUT_NO_DATA}, False),
}


@pytest.mark.parametrize(("facts", "is_repeated"), PROMOTED_AGAIN.values(), ids=PROMOTED_AGAIN)
def test_results_that_dagster_shows_with_data_are_repeated_if_a_plan_promotes_the_same_data_again(
    facts: Mapping[str, Any], is_repeated: bool
) -> None:
    check = dg.AssetCheckKey(KEY, facts.get("name", "recent"))
    result = check_result(check, facts.get("passed", True), WARN, "Text.", facts.get("metadata", RECORD))
    data = OutsideData(ORDERS, PROMOTED, facts.get("computed", ()), day(1), None, "", {}, None)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization(KEY))
        [record] = instance.fetch_materializations(KEY, limit=1).records
        shown = record.storage_id if facts.get("is_shown", True) else record.storage_id - 1
        report(instance, result, TargetMaterialization(storage_id=shown, run_id="", timestamp=EVALUATED))
        repeated = list(results_of_same_data(instance, ASSETS, data))
    assert [("sqlmesh/carried_over" in of.metadata, of.passed) for of in repeated] == [(True, result.passed)] * (
        is_repeated
    )


# -- a status, if only checks were selected -----------------------------------------------------------

STATUSES: dict[str, tuple[bool, dg.AssetCheckSeverity, int | None, bool]] = {
    "failed": (False, ERROR, day(1), True),
    "failed, and nothing is computed": (False, ERROR, None, True),
    "failed, and computed since": (False, ERROR, day(1) + 1, False),
    "passed": (True, ERROR, day(1), False),
    "a warning": (False, WARN, day(1), False),
}
"""The last status, and when the model's data was last altered."""


@pytest.mark.parametrize(("passed", "severity", "altered_at", "is_repeated"), STATUSES.values(), ids=STATUSES)
def test_failure_of_a_model_is_repeated_by_runs_of_its_checks_until_it_is_computed(
    passed: bool, severity: dg.AssetCheckSeverity, altered_at: int | None, is_repeated: bool
) -> None:
    checks = Checks(Wording(ASSETS, "prod"), day(3))
    earlier = EarlierResult(passed, severity, "run-7", EVALUATED, text="Failed.")
    audited = AuditOnlyOutcome(ORDERS, (), (), None, evaluated_at=day(2), altered_at=altered_at)
    executed = NodeOutcome(ORDERS, Outcome.EXECUTED, PROMOTED)

    of_audited, of_executed = (checks.result(STATUS, node, earlier) for node in (audited, executed))

    assert of_audited is not None
    assert of_executed is not None
    assert ("sqlmesh/carried_over" in of_audited.metadata) is is_repeated
    assert "sqlmesh/carried_over" not in of_executed.metadata


# -- audits that a preview has evaluated --------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "version", "counts"),
    [(None, "", True), (1, "3117", True), (2, "3117", True), (3, "3117", False), (3, "4228", True)],
    ids=["no result", "older", "of the same time", "later", "later, about another table"],
)
def test_result_of_a_preview_counts_unless_there_is_a_later_one_about_the_same_table(
    at: int | None, version: str, counts: bool
) -> None:
    def result(at: int, version: str) -> EarlierResult:
        return EarlierResult(True, WARN, "run-7", at, ("prod", msg.AuditedData(version, "4001"), 0))

    known = None if at is None else result(at, version)
    assert repetition.is_newer_result(result(2, "3117"), known) is counts
