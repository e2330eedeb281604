"""Where a run, a plan or a sensor has not evaluated a check: whether the last result is repeated.

The tables of `why_not_repeated` and `audited_until` are in `report/test_results.py`.
"""

from collections.abc import Mapping
from dataclasses import replace
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
AUDITED = msg.AuditedData("3117", "4001")
RECORD = data_metadata(("prod", AUDITED, day(1)))
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

NEWEST: dict[str, tuple[dg.AssetCheckResult, str]] = {
    "passed": (check_result(RECENT, True, WARN, "0 rows.", RECORD), "repeated"),
    "failed": (check_result(RECENT, False, ERROR, "3 rows.", RECORD), "repeated"),
    "not evaluated": (not_evaluated(RECENT, "because."), "as it is"),
    "begun since": (not_evaluated(RECENT, "because.", "prod"), "as it is"),
    "status": (check_result(STATUS, True, WARN, "Executed.", {}), "repeated"),
    "status about no data": (check_result(STATUS, False, ERROR, "Not promoted.", ABOUT_NO_DATA), "repeated"),
}


@pytest.mark.parametrize(("newest", "expected"), NEWEST.values(), ids=NEWEST)
def test_run_that_knows_nothing_of_the_data_leaves_a_check_as_dagster_has_shown_it(
    newest: dg.AssetCheckResult, expected: str
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        evaluation, check = report(instance, newest), dg.AssetCheckKey(KEY, str(newest.check_name))
        assert decision(last_evaluations(instance, [check], "why", "a run").get(check), evaluation) == expected
        assert decision(shown_evaluations(instance, [check], "why", "a dry run").get(check), evaluation) == expected
        assert last_evaluations(instance, [dg.AssetCheckKey(KEY, "new")], "why", "a run") == {}


@pytest.mark.parametrize(
    ("newest", "is_hidden", "expected"),
    [("passed", False, True), ("passed", True, False), ("failed", True, True), (None, True, True)],
    ids=["shown", "a later run has no result", "failed", "not evaluated"],
)
def test_passed_result_is_not_left_if_a_later_run_was_to_evaluate_the_check_and_has_not(
    newest: str | None, is_hidden: bool, expected: bool
) -> None:
    result = None if newest is None else EarlierResult(newest == "passed", WARN, "run-7", EVALUATED)
    assert repetition.repeats_shown(result, is_hidden=is_hidden) is expected


# -- a model that a failed run has not reached ---------------------------------------------------------

PASSED = EarlierResult(True, WARN, "run-7", EVALUATED, ("prod", AUDITED, day(1)), RECORD)
FAILED = replace(PASSED, passed=False)
OF_ALL_TABLES = replace(PASSED, audited_data=None, metadata={})
BEFORE = msg.EarlierRows(AUDITED, day(1))
ALTERED, BEGUN = replace(BEFORE, altered_at=day(1) + 1), replace(BEFORE, is_unaccepted=True)
UNREACHED: dict[str, tuple[EarlierResult, str | None, msg.EarlierRows | None, bool]] = {
    "the same rows": (PASSED, "3117", BEFORE, True),
    "ended before SQLMesh planned": (PASSED, "3117", None, True),
    "state was not read": (PASSED, None, None, True),
    "another table": (PASSED, "4228", BEFORE, False),
    "failed, of another table": (FAILED, "4228", BEFORE, False),
    "altered since": (PASSED, "3117", ALTERED, False),
    "a batch was begun since": (PASSED, "3117", BEGUN, False),
    "failed, and altered since": (FAILED, "3117", ALTERED, True),
    "failed, and begun since": (FAILED, "3117", BEGUN, True),
    "has read other tables": (OF_ALL_TABLES, "4228", BEFORE, True),
    "has read other tables, and altered since": (OF_ALL_TABLES, "3117", ALTERED, False),
    "has read other tables, and begun since": (OF_ALL_TABLES, "3117", BEGUN, False),
}
"""The newest result, the promoted version of the table, and its rows before the run."""


@pytest.mark.parametrize(("newest", "promoted", "before", "expected"), UNREACHED.values(), ids=UNREACHED)
def test_passed_result_of_a_model_that_was_not_reached_is_repeated_only_with_the_rows_that_it_is_about(
    newest: EarlierResult, promoted: str | None, before: msg.EarlierRows | None, *, expected: bool
) -> None:
    assert repetition.repeats_unreached(newest, promoted, before) is expected


@pytest.mark.parametrize(
    ("is_untouched", "shown", "expected"),
    [(True, set(), True), (True, {"b"}, True), (True, {"a", "b"}, False), (False, set(), False)],
    ids=["untouched", "shows others", "shows a table that was begun", "begun"],
)
def test_view_is_not_as_before_if_the_run_has_begun_to_compute_one_of_its_tables(
    is_untouched: bool, shown: set[str], expected: bool
) -> None:
    found = repetition.is_as_before(is_untouched=is_untouched, shown_tables=shown, started={"a"})
    assert found is expected


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
