"""Outcomes become Dagster results and one Failure."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
from unit.builders import audit, day, days, fqn, manifest, model, plain, project_assets, standalone, stored
from unit.outcome_table import (
    D1,
    D1_2,
    D2,
    ERROR,
    HELD_BACK,
    ORDERS,
    OUTCOME_TABLE,
    PROMOTED,
    SEVERITIES,
    SHOP,
    STAGING,
    WARN,
    Row,
    audit_result,
)

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.translator import STATUS_CHECK
from dg_sqlmesh_component.history import repetition
from dg_sqlmesh_component.history.earlier_results import ABOUT_NO_DATA, EarlierResult, data_in
from dg_sqlmesh_component.history.stored_record import INTERNAL
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import MAX_LISTED, listed, ranges
from dg_sqlmesh_component.report.checks import Checks
from dg_sqlmesh_component.report.failure import build_failure
from dg_sqlmesh_component.report.metadata import unapplied_change
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, AuditResult, NodeOutcome, Outcome
from dg_sqlmesh_component.report.results import materialization, observation
from dg_sqlmesh_component.report.wording import Wording, correction_advice

ASSETS = project_assets(SHOP)
KEY = dg.AssetKey(["core", "orders"])
NOT_NULL, RECENT = dg.AssetCheckKey(KEY, "not_null"), dg.AssetCheckKey(KEY, "recent")
STARTED_AT = day(3) + 4_567

EXECUTED = next(row.outcome for row in OUTCOME_TABLE if row.outcome.outcome is Outcome.EXECUTED)
FAILED = next(row.outcome for row in OUTCOME_TABLE if row.outcome.outcome is Outcome.FAILED)
AUDITED = msg.AuditedData("3117", "4001")
NOT_DUE = msg.NodeIdle(ORDERS, "its cron is not due", last_interval_end=day(2), audited_data=AUDITED, altered_at=day(1))
IDLE = NodeOutcome(ORDERS, Outcome.UP_TO_DATE, PROMOTED, idle=NOT_DUE)
DATA = ("prod", AUDITED, day(2))
EVALUATED = day(1) / 1000
BLOCKED = next(row.outcome for row in OUTCOME_TABLE if row.outcome.outcome is Outcome.BLOCKED)

METADATA_TYPES = {
    "sqlmesh/status": dg.TextMetadataValue,
    "sqlmesh/environment": dg.TextMetadataValue,
    "sqlmesh/intervals": dg.TextMetadataValue,
    "sqlmesh/computed_intervals": dg.IntMetadataValue,
    "sqlmesh/batches": dg.IntMetadataValue,
    "sqlmesh/seconds": dg.FloatMetadataValue,
    "sqlmesh/rows": dg.IntMetadataValue,
    "sqlmesh/bytes": dg.IntMetadataValue,
    "dagster/row_count": dg.IntMetadataValue,
    "sqlmesh/attempts": dg.IntMetadataValue,
    "sqlmesh/reason": dg.TextMetadataValue,
    "sqlmesh/next_due": dg.TimestampMetadataValue,
    "sqlmesh/computed_up_to": dg.TimestampMetadataValue,
    "sqlmesh/coverage": dg.TextMetadataValue,
    "sqlmesh/not_computed": dg.TableMetadataValue,
    "sqlmesh/waiting_for": dg.TextMetadataValue,
    "sqlmesh/blocked_by": dg.TextMetadataValue,
    "sqlmesh/failed_audits": dg.TextMetadataValue,
    "sqlmesh/error": dg.MarkdownMetadataValue,
}
"""Every metadata key that an outcome may have, with its type."""


def wording(assets: ProjectAssets = ASSETS, environment: str = "prod") -> Wording:
    return Wording(assets, environment)


def checks_of(
    node: NodeOutcome | AuditOnlyOutcome,
    assets: ProjectAssets = ASSETS,
    environment: str = "prod",
    earlier: Mapping[dg.AssetCheckKey, EarlierResult] | None = None,
) -> dict[str, dg.AssetCheckResult]:
    """Return the results of a node's checks, by the check's name."""
    checks = Checks(wording(assets, environment), STARTED_AT)
    results = [checks.result(check, node, (earlier or {}).get(check)) for check in assets.checks_of(node.fqn)]
    return {str(result.check_name): result for result in results if result is not None}


def audited(*audits: AuditResult) -> dict[str, dg.AssetCheckResult]:
    """Return the results of the checks of an executed model's audits."""
    results = checks_of(replace(EXECUTED, audits=audits, computed_until=day(2)))
    return {name: result for name, result in results.items() if name in {audit.name for audit in audits}}


def event_of(outcome: NodeOutcome, environment: str = "prod") -> dg.MaterializeResult[None] | dg.AssetObservation:
    if outcome.outcome is Outcome.EXECUTED:
        return materialization(wording(environment=environment), outcome, STARTED_AT)
    return observation(wording(environment=environment), outcome)


def materialized(outcome: NodeOutcome) -> dg.MaterializeResult[None]:
    return materialization(wording(), outcome, STARTED_AT)


def failure_of(*arguments: Any, **options: Any) -> dg.Failure:
    """Return the failure of a step that must fail."""
    failure = build_failure(*arguments, **options)
    assert failure is not None
    return failure


def check_summary(result: dg.AssetCheckResult) -> tuple[bool, dg.AssetCheckSeverity, str | None]:
    return (result.passed, result.severity, result.description)


def status_metadata(outcome: NodeOutcome) -> dict[str, str]:
    return {} if outcome.outcome is Outcome.EXECUTED else {"sqlmesh/status": outcome.outcome.words}


every_row = pytest.mark.parametrize("row", OUTCOME_TABLE, ids=lambda row: row.title)
COVERAGE = {"sqlmesh/coverage", "sqlmesh/not_computed"}
"""Metadata keys of the coverage."""


# -- the table ------------------------------------------------------------------------------------


@every_row
def test_status_check_has_the_outcome_as_sentence_and_as_metadata_only_the_whole_error_and_coverage(row: Row) -> None:
    """Dagster logs the description once more, in quotes."""
    result = checks_of(row.outcome)[STATUS_CHECK]
    assert (result.asset_key, result.check_name) == (KEY, STATUS_CHECK)
    assert check_summary(result) == (row.reported.passed, row.reported.severity, row.description_of_status_check)
    names = {"sqlmesh/error", *(COVERAGE if row.outcome.outcome.is_failure else ())}
    is_unknown = row.outcome.outcome is Outcome.NOT_IN_ENVIRONMENT
    assert plain(dict(result.metadata)) == {
        **{name: value for name, value in row.reported.metadata.items() if name in names},
        **(plain(ABOUT_NO_DATA) if is_unknown else {}),
    }


@every_row
def test_executed_model_gets_a_materialization_and_any_other_model_an_observation_with_the_reason(row: Row) -> None:
    event = event_of(row.outcome)
    assert event.asset_key == KEY
    assert plain(dict(event.metadata or {})) == {**status_metadata(row.outcome), **row.reported.metadata}
    if isinstance(event, dg.AssetObservation):
        is_up_to_date = row.outcome.outcome is Outcome.UP_TO_DATE
        advice = " To compute a range again, set `restate` in the run config." if is_up_to_date else ""
        assert event.description == row.reported.sentence + advice
        assert not row.outcome.errors or next(iter(event.metadata)) == "sqlmesh/error", "pages keep this order"
        with pytest.raises(AssertionError):
            materialized(row.outcome)


def test_advice_to_restate_names_the_attribute_that_allows_it_and_is_left_out_for_a_seed() -> None:
    assert str(observation(wording(), IDLE, allows_restatement=False).description).endswith(
        " To compute a range again, set `restate: true` in defs.yaml, and then `restate` in the run config."
    )
    seed = wording(project_assets(manifest(model("core.orders", kind="SEED"))))
    assert "restate" not in str(observation(seed, IDLE).description)


@every_row
def test_evaluated_audits_are_reported_for_every_outcome(row: Row) -> None:
    results = {name: check_summary(check) for name, check in checks_of(row.outcome).items() if name != STATUS_CHECK}
    assert results == row.reported.audits


@every_row
def test_metadata_values_have_the_expected_types(row: Row) -> None:
    types = {key: type(value) for key, value in stored(dict(event_of(row.outcome).metadata or {})).items()}
    error = "\n".join(row.outcome.errors)
    assert types.pop("sqlmesh/error", None) in (None, error_type(error))
    assert types == {key: METADATA_TYPES[key] for key in types}


def error_type(error: str) -> type[dg.MetadataValue]:
    """Pages show text at once, and open Markdown on a click."""
    return dg.MarkdownMetadataValue if "\n" in error else dg.TextMetadataValue


def test_outcome_table_covers_every_metadata_key() -> None:
    seen = {key for row in OUTCOME_TABLE for key in {**common_metadata_of_dev(row.outcome), **row.reported.metadata}}
    assert seen == {*METADATA_TYPES, "dagster/table_name"}


@every_row
def test_step_fails_as_the_outcome_table_states(row: Row) -> None:
    failure = build_failure(wording(), [row.outcome], [])
    assert (failure is not None) == row.outcome.outcome.is_failure


# -- a materialization ----------------------------------------------------------------------------


def test_a_model_that_is_computed_as_a_whole_has_no_other_intervals() -> None:
    whole = wording(project_assets(manifest(model("core.orders", kind="VIEW"))))
    text = whole.sentence(replace(EXECUTED, idle=HELD_BACK))
    assert text.startswith("core.orders was executed for the whole table. A later run computes it again: models upst")


@pytest.mark.parametrize(
    ("promoted", "tags", "version"),
    [(replace(PROMOTED, data_hash="9"), {"dagster/code_version": "9"}, "3117"), (None, None, "unknown")],
    ids=["promoted", "unknown"],
)
def test_code_version_is_the_promoted_one_and_each_execution_has_its_own_data_version(
    promoted: msg.PromotedVersion | None, tags: dict[str, str] | None, version: str
) -> None:
    result = materialized(replace(EXECUTED, promoted=promoted))
    assert (result.tags, result.data_version) == (tags, dg.DataVersion(f"{version}@2026-01-03T00:00:04Z"))


def test_selected_audit_missing_from_the_environment_does_not_pass() -> None:
    assert check_summary(checks_of(replace(EXECUTED, audits=(audit_result("not_null", D1),)))["recent"]) == (
        False,
        WARN,
        "Not evaluated: the version of core.orders that environment prod has promoted does not have this audit. "
        "If the local file is newer, apply a plan. If not, refresh the manifest: `dg utils refresh-defs-state`.",
    )


@pytest.mark.parametrize(
    ("data_hash", "metadata_hash", "change"),
    [("1001", "2001", None), ("9", "2001", "data"), ("1001", "9", "metadata"), ("9", "9", "data")],
    ids=["nothing changed", "the data changed", "the metadata changed", "both changed"],
)
def test_unapplied_local_change_is_in_the_metadata(data_hash: str, metadata_hash: str, change: str | None) -> None:
    promoted = msg.PromotedVersion("3117", data_hash, metadata_hash)
    assert unapplied_change(ASSETS, ORDERS, promoted) == change
    metadata = materialized(replace(EXECUTED, promoted=promoted)).metadata
    assert plain(dict(metadata or {})).get("sqlmesh/unapplied_change") == change


def test_standalone_audit_has_no_unapplied_change() -> None:
    assert unapplied_change(ASSETS, "orders_add_up", PROMOTED) is None


def test_empty_table_has_row_count_zero() -> None:
    metadata = materialized(replace(EXECUTED, row_count=0)).metadata
    assert plain(dict(metadata or {}))["dagster/row_count"] == 0


# -- another environment than the declared one ----------------------------------------------------


def in_dev(row: Row) -> NodeOutcome:
    """Return the outcome of a row if the environment `dev` has promoted the model."""
    promoted = replace(PROMOTED, table_name="db.core__dev.orders") if row.outcome.promoted else None
    return replace(row.outcome, promoted=promoted)


def common_metadata_of_dev(outcome: NodeOutcome) -> dict[str, str]:
    """Return the metadata that every result of a run in `dev` has."""
    table = {"dagster/table_name": "db.core__dev.orders"} if outcome.promoted else {}
    return {**status_metadata(outcome), "sqlmesh/environment": "dev", **table}


@every_row
def test_results_name_the_environment_and_its_table(row: Row) -> None:
    outcome = in_dev(row)
    metadata = plain(dict(event_of(outcome, "dev").metadata or {}))
    assert {key: metadata.get(key) for key in common_metadata_of_dev(outcome)} == common_metadata_of_dev(outcome)


def test_result_without_a_table_of_another_environment_has_no_table_name() -> None:
    in_dev = replace(EXECUTED, promoted=replace(PROMOTED, table_name="db.core__dev.orders"))
    for metadata in (materialized(in_dev).metadata, event_of(EXECUTED, "dev").metadata):
        assert "dagster/table_name" not in (metadata or {})


# -- audits ---------------------------------------------------------------------------------------


def test_failed_audit_reports_number_of_rows_failed_batches_and_query() -> None:
    failed = AuditResult("not_null", 0, "(id)", True, 3, "SELECT * FROM t WHERE id IS NULL", (D1_2,), (D2,))
    (result,) = audited(failed).values()
    description = "3 rows failed in 2026-01-02."
    assert check_summary(result) == (False, ERROR, description)
    assert plain(dict(result.metadata)) == {
        "sqlmesh/failing_row_count": 3,
        "sqlmesh/query": "```sql\nSELECT * FROM t WHERE id IS NULL\n```",
        INTERNAL: {"failed_in": [[[day(2), day(3)]], 3, PROMOTED.version, 0]},
    }
    types = {key: type(value) for key, value in stored(dict(result.metadata)).items()}
    assert types["sqlmesh/failing_row_count"] is dg.IntMetadataValue
    assert types["sqlmesh/query"] is dg.MarkdownMetadataValue


def test_failed_audit_says_of_which_batch_the_query_is_if_several_failed() -> None:
    failed = AuditResult("not_null", 0, "(id)", True, 3, "SELECT 1", (D1_2,), (D1_2,), shown=D1)
    (result,) = audited(failed).values()
    assert result.description == "3 rows failed in 2026-01-01 to 2026-01-02 (2 days). The query is of 2026-01-01."
    (without,) = audited(replace(failed, query=None)).values()
    assert without.description == "3 rows failed in 2026-01-01 to 2026-01-02 (2 days)."


def test_audit_without_query_omits_its_metadata() -> None:
    (result,) = audited(audit_result("recent", D1, query=None)).values()
    assert set(result.metadata) == {"sqlmesh/failing_row_count"}


def test_severity_comes_from_the_result_not_from_the_definition() -> None:
    softened = replace(audit_result("not_null", D1, failing_rows=1), blocking=False)
    (result,) = audited(softened).values()
    assert check_summary(result) == (False, WARN, "1 row failed in 2026-01-01.")


# -- carried over ---------------------------------------------------------------------------------


def test_earlier_result_is_carried_over_with_its_run_and_time() -> None:
    result = checks_of(IDLE, earlier={NOT_NULL: EarlierResult(True, ERROR, "run-7", day(1) / 1000, DATA)})["not_null"]
    assert (result.asset_key, result.check_name) == (KEY, "not_null")
    assert check_summary(result) == (
        True,
        ERROR,
        "The check passed. Evaluated 2026-01-01T00:00:00Z. Repeated, because core.orders was not executed, and its "
        "data is unchanged.",
    )
    assert plain(dict(result.metadata)) == {
        INTERNAL: {"record": f"prod {AUDITED.version} {day(2)} {AUDITED.audits}"},
        "sqlmesh/carried_over": True,
        "sqlmesh/evaluated_in_run": "run-7",
        "sqlmesh/evaluated_at": day(1) / 1000,
        "sqlmesh/evaluated_result": "The check passed.",
    }
    assert isinstance(stored(dict(result.metadata))["sqlmesh/evaluated_at"], dg.TimestampMetadataValue)


def test_repeated_failure_says_what_was_found_and_keeps_its_query() -> None:
    logged = {"sqlmesh/query": dg.MetadataValue.text("SELECT 1"), "sqlmesh/failing_row_count": dg.MetadataValue.int(3)}
    earlier = EarlierResult(False, WARN, "run-7", day(1) / 1000, DATA, logged, "3 rows failed.")
    result = checks_of(IDLE, earlier={NOT_NULL: earlier})["not_null"]
    assert str(result.description).startswith("3 rows failed. Evaluated 2026-01-01T00:00:00Z. Repeated, because")
    assert set(result.metadata) >= {"sqlmesh/query", "sqlmesh/failing_row_count", INTERNAL}
    assert (result.passed, result.severity, earlier.is_blocking_failure) == (False, WARN, False)


COVERED = replace(EXECUTED, coverage=msg.IntervalCoverage(ORDERS, computed=(D1[0], D2[1])))


def known_to_fail(name: str) -> EarlierResult:
    """The result of a run in which three rows of the first day have failed."""
    found = replace(audit_result(name, D1, failing_rows=3), audited_data=AUDITED)
    metadata = stored(dict(checks_of(replace(COVERED, audits=(found,), computed_until=day(2)))[name].metadata))
    return EarlierResult(False, SEVERITIES[name], "run-7", day(1) / 1000, data_in(metadata), metadata)


@pytest.mark.parametrize("name", ["recent", "not_null"], ids=["non-blocking", "blocking"])
def test_audit_of_new_intervals_warns_of_older_ones_that_have_failed_until_they_are_audited_again(name: str) -> None:
    key = dg.AssetCheckKey(KEY, name)
    later = replace(COVERED, audits=(audit_result(name, D2),))

    warned = checks_of(later, earlier={key: known_to_fail(name)})[name]

    assert check_summary(warned) == (
        False,
        WARN,
        "No failing rows in 2026-01-02. Other intervals: 3 rows failed in 2026-01-01 at 2026-01-01T00:00:00Z, and no "
        "run has audited them since. Execute this check alone to audit all intervals.",
    )
    again = EarlierResult(False, WARN, "run-8", day(2) / 1000, DATA, stored(dict(warned.metadata)))
    idle = checks_of(IDLE, earlier={key: again})[name]
    assert (idle.passed, idle.severity) == (False, WARN)
    corrected = replace(COVERED, audits=(audit_result(name, D1),))
    summary = check_summary(checks_of(corrected, earlier={key: again})[name])
    assert summary == (True, SEVERITIES[name], "No failing rows in 2026-01-01.")


def test_rows_that_failed_in_a_pending_interval_are_counted_and_the_advice_is_a_run() -> None:
    coverage = msg.IntervalCoverage(COVERED.fqn, computed=D2, gaps=(D1,), gap_count=1, missing_intervals=1)
    later = replace(COVERED, audits=(audit_result("not_null", D2),), coverage=coverage)
    key = dg.AssetCheckKey(KEY, "not_null")

    warned = checks_of(later, earlier={key: known_to_fail("not_null")})["not_null"]

    assert str(warned.description).endswith(
        "Other intervals: 3 rows failed in 2026-01-01 at 2026-01-01T00:00:00Z, and no run has audited them since. They "
        "are pending. Correct the data, then launch a run without `start` and `end`: it computes and audits them."
    )
    assert plain(dict(warned.metadata))["sqlmesh/failing_row_count"] == 3


def test_audit_does_not_warn_of_rows_of_another_version_of_the_table() -> None:
    audited = replace(audit_result("recent", D2), audited_data=replace(AUDITED, version="another"))
    assert checks_of(replace(COVERED, audits=(audited,)), earlier={RECENT: known_to_fail("recent")})["recent"].passed


def test_failed_intervals_of_a_development_version_are_not_read() -> None:
    metadata = {INTERNAL: dg.MetadataValue.json({"failed_in": [[[day(1), day(2)]], 3, 0]})}
    assert EarlierResult(False, ERROR, "run-7", EVALUATED, DATA, metadata).failed_in is None


def test_audit_that_reads_other_tables_does_not_warn_of_rows_of_another_version_of_its_own() -> None:
    failed = replace(COVERED, audits=(audit_result("recent", D1, failing_rows=3),))
    metadata = stored(dict(checks_of(failed)["recent"].metadata))
    earlier = {RECENT: EarlierResult(False, ERROR, "run-7", EVALUATED, data_in(metadata), metadata)}
    passed = replace(COVERED, audits=(audit_result("recent", D2),))
    assert not checks_of(passed, earlier=earlier)["recent"].passed
    assert COVERED.promoted is not None
    of_new = replace(passed, promoted=replace(COVERED.promoted, version="another"))
    assert checks_of(of_new, earlier=earlier)["recent"].passed


def test_audits_that_were_evaluated_one_after_the_other_add_up_until_the_rows_are_corrected() -> None:
    def of_round(interval: msg.Interval, failing_rows: int = 0) -> tuple[str, NodeOutcome]:
        result = audit_result("recent", interval, failing_rows=failing_rows, query=f"SELECT {failing_rows}")
        audit = replace(result, audited_data=AUDITED)
        return "run-7", replace(COVERED, audits=(audit,), computed_until=day(4))

    checks, rounds = Checks(wording(), STARTED_AT), [of_round(D1, 3), of_round(D2)]
    found = checks.added_up(rounds, {})[RECENT]
    corrected = checks.added_up([*rounds, of_round(D1)], {})[RECENT]

    assert (found.passed, found.severity, found.run_id, found.evaluated_at) == (False, WARN, "run-7", day(4) / 1000)
    assert found.text.startswith(
        "No failing rows in 2026-01-02. Other intervals: 3 rows failed in 2026-01-01 at 2026-01-04T00:00:00Z, and"
    )
    assert "SELECT 3" in found.metadata["sqlmesh/query"].value, "the query that finds the rows"
    assert (corrected.passed, corrected.text) == (True, "No failing rows in 2026-01-01.")


OF_OTHER_DATA = "its last result is not about the current data and audits"
OF_OTHER_TABLES = (
    "its audit has read other tables than the one that environment prod shows for its model, and their data may have "
    "changed since"
)
KNOWN = EarlierResult(True, ERROR, "run-7", EVALUATED, DATA)
NOT_REPEATED: dict[str, tuple[msg.NodeIdle, EarlierResult | None, str]] = {
    "unknown": (NOT_DUE, None, "no run of Dagster has evaluated its audit"),
    "nothing is computed": (replace(NOT_DUE, last_interval_end=None), KNOWN, OF_OTHER_DATA),
    "another version": (replace(NOT_DUE, audited_data=replace(AUDITED, version="another")), KNOWN, OF_OTHER_DATA),
    "another audit": (replace(NOT_DUE, audited_data=replace(AUDITED, audits="another")), KNOWN, OF_OTHER_DATA),
    "computed since": (replace(NOT_DUE, altered_at=day(2) + 1), KNOWN, OF_OTHER_DATA),
    "unknown now": (replace(NOT_DUE, audited_data=None), KNOWN, OF_OTHER_DATA),
    "failed": (replace(NOT_DUE, altered_at=day(2) + 1), replace(KNOWN, passed=False), OF_OTHER_DATA),
    "other tables": (NOT_DUE, replace(KNOWN, audited_data=None), OF_OTHER_TABLES),
    "another environment": (NOT_DUE, replace(KNOWN, audited_data=("dev", AUDITED, day(2))), OF_OTHER_DATA),
    "evaluated before": (NOT_DUE, replace(KNOWN, audited_data=("prod", AUDITED, day(1) - 1)), OF_OTHER_DATA),
    "begun since": (
        NOT_DUE,
        replace(KNOWN, is_rewritten=True),
        "a later run has begun to compute it and failed before its audit",
    ),
    "a batch was begun": (
        replace(NOT_DUE, is_unaccepted=True),
        KNOWN,
        "a run was cancelled, killed or failed after it had begun to compute the data",
    ),
}


AUDITED_UNTIL: dict[str, tuple[EarlierResult | None, int]] = {
    "unknown": (None, -1),
    "the same data": (KNOWN, day(2)),
    "another version": (replace(KNOWN, audited_data=("prod", replace(AUDITED, version="another"), day(2))), -1),
    "another environment": (replace(KNOWN, audited_data=("dev", AUDITED, day(2))), -1),
    "other tables": (replace(KNOWN, audited_data=None), round(EVALUATED * 1000)),
}


@pytest.mark.parametrize(("earlier", "until"), AUDITED_UNTIL.values(), ids=AUDITED_UNTIL)
def test_a_result_is_about_rows_that_were_computed_before_it(earlier: EarlierResult | None, until: int) -> None:
    assert repetition.audited_until(AUDITED, earlier, "prod") == until


def test_failed_result_is_repeated_although_a_batch_was_begun() -> None:
    failed = replace(KNOWN, passed=False)
    assert repetition.why_not_repeated(replace(NOT_DUE, is_unaccepted=True), failed, "prod") is None


@pytest.mark.parametrize(("idle", "earlier", "why"), NOT_REPEATED.values(), ids=NOT_REPEATED)
def test_result_of_other_or_unknown_data_is_not_carried_over_and_the_check_says_why(
    idle: msg.NodeIdle, earlier: EarlierResult | None, why: str
) -> None:
    assert repetition.why_not_repeated(idle, earlier, "prod") == why
    check = checks_of(replace(IDLE, idle=idle), earlier={RECENT: earlier} if earlier else None)["recent"]
    assert (check.passed, check.severity) == (False, WARN)
    assert f"because {why}. Execute this check alone to evaluate it." in (check.description or "")


@pytest.mark.parametrize("node_outcome", [IDLE, replace(IDLE, outcome=Outcome.WAITING)], ids=["up to date", "waiting"])
def test_blocking_audit_that_failed_alone_stays_failed_while_the_data_is_the_same(node_outcome: NodeOutcome) -> None:
    result = replace(audit_result("recent", D1, failing_rows=1), audited_data=AUDITED)
    alone = AuditOnlyOutcome(ORDERS, (result,), (), None, evaluated_at=day(2))
    evaluated = checks_of(alone)["recent"]
    for _ in range(2):  # a result that was carried over is carried over again
        metadata = stored(dict(evaluated.metadata))
        earlier = EarlierResult(False, ERROR, "run-7", EVALUATED, data_in(metadata))
        evaluated = checks_of(node_outcome, earlier={RECENT: earlier})["recent"]
        assert (evaluated.passed, evaluated.severity, earlier.is_blocking_failure) == (False, ERROR, True)
        assert wording().known_failure(ORDERS, "recent", earlier) == (
            "core.orders: the check recent failed when its audit was last evaluated (run run-7), and nothing has been "
            "computed since. Execute the check alone to evaluate it again."
        )


# -- checks selected alone ------------------------------------------------------------------------


PENDING = "2026-01-03 to 2026-01-04 (2 days). Only checks were selected, so it was not executed."


@pytest.mark.parametrize(
    ("missing", "error", "summary"),
    [
        ((), None, (True, ERROR, "core.orders has nothing to do. Only checks were selected.")),
        ((days(3, 4),), None, (False, WARN, f"core.orders has pending intervals: {PENDING}")),
        ((), "No data.", (False, ERROR, "core.orders: its audits could not be evaluated: No data.")),
    ],
    ids=["nothing is pending", "pending intervals", "not evaluated"],
)
def test_status_check_of_audits_selected_alone_reports_pending_intervals_and_errors(
    missing: tuple[msg.Interval, ...], error: str | None, summary: tuple[bool, dg.AssetCheckSeverity, str]
) -> None:
    results = checks_of(AuditOnlyOutcome(ORDERS, (audit_result("not_null", D1),), missing, error))
    assert check_summary(results["not_null"]) == (True, ERROR, "No failing rows in 2026-01-01.")
    assert check_summary(results[STATUS_CHECK]) == summary


def test_standalone_audit_has_a_check_and_no_status_check() -> None:
    orders = model("core.orders")
    assets = project_assets(manifest(orders, standalone_audits=[standalone("orders_add_up", ["core.orders"])]))
    result = AuditResult("orders_add_up", 0, "", False, 2, None, (D1,))
    (check,) = checks_of(AuditOnlyOutcome("orders_add_up", (result,), (), None), assets).values()
    assert (check.asset_key, check.check_name) == (KEY, "orders_add_up")
    assert check_summary(check) == (False, WARN, "2 rows failed.")


def test_audit_of_a_model_without_time_column_says_that_it_has_read_the_whole_table() -> None:
    covered = replace(EXECUTED, coverage=msg.IntervalCoverage(ORDERS, computed=(D1[0], D2[1])))
    found = replace(covered, audits=(replace(audit_result("recent", D1, failing_rows=3), of_whole_table=True),))
    failed = checks_of(found)["recent"]
    assert failed.description == "3 rows failed in the whole table."
    earlier = EarlierResult(False, WARN, "run-7", day(1) / 1000, DATA, stored(dict(failed.metadata)))
    later = replace(covered, audits=(replace(audit_result("recent", D2), of_whole_table=True),))
    summary = check_summary(checks_of(later, earlier={RECENT: earlier})["recent"])
    assert summary == (True, WARN, "No failing rows in the whole table.")


def test_audit_of_an_external_model_is_a_check_on_its_downstream_model() -> None:
    events = model("raw.events", kind="EXTERNAL", audits=(audit("not_null"),))
    assets = project_assets(manifest(model("core.orders", reads=["raw.events"]), events))
    result = AuditResult("not_null", 0, "", True, 2, None, (D1,))
    (check,) = checks_of(AuditOnlyOutcome(events.fqn, (result,), (D2,), None), assets).values()
    assert (check.asset_key, check.check_name) == (KEY, "raw_events__not_null")
    assert check_summary(check) == (False, ERROR, "2 rows failed in the whole table.")


def test_audit_without_a_check_has_no_result() -> None:
    assets = project_assets(SHOP, check=lambda spec, of: spec if of.name == "recent" else None)
    for outcome in (EXECUTED, replace(EXECUTED, audits=())):
        assert list(checks_of(outcome, assets)) == [STATUS_CHECK, "recent"]


# -- the failure ----------------------------------------------------------------------------------


NOT_PROMOTED = NodeOutcome(STAGING, Outcome.NOT_IN_ENVIRONMENT, errors=("Not promoted. Apply a plan.",))
NULLS, OLD = audit_result("not_null", D1, failing_rows=3), audit_result("recent", D1, failing_rows=9)
HEALTHY: dict[str, list[NodeOutcome | AuditOnlyOutcome]] = {
    "executed, and passed": [EXECUTED, AuditOnlyOutcome(ORDERS, (audit_result("not_null", D1),), (D2,), None)],
    "promoted during the run, and then executed": [
        NOT_PROMOTED,
        replace(EXECUTED, fqn=STAGING, is_second_outcome=True),
    ],
    "a non-blocking audit, selected alone, failed": [AuditOnlyOutcome(ORDERS, (OLD,), (), None)],
}


@pytest.mark.parametrize("outcomes", HEALTHY.values(), ids=HEALTHY)
def test_healthy_step_has_no_failure(outcomes: list[NodeOutcome | AuditOnlyOutcome]) -> None:
    assert build_failure(wording(), outcomes, []) is None


FAILURES: dict[str, tuple[list[NodeOutcome | AuditOnlyOutcome], list[str], str]] = {
    "executed models are counted": (
        [EXECUTED, replace(FAILED, fqn=STAGING, needs_correction=False)],
        [],
        "SQLMesh in environment prod: 1 failed, 1 executed.\n"
        "staging.orders (models/orders.sql) failed.\n\n    ConversionException: cannot cast 'x'",
    ),
    "a problem of the whole run": ([EXECUTED], ["Killed."], "SQLMesh in environment prod: 1 executed.\nKilled."),
    "a problem without outcomes": ([], ["There is no folder /shop."], "There is no folder /shop."),
    "a blocking audit, selected alone": (
        [AuditOnlyOutcome(ORDERS, (NULLS, OLD), (), None)],
        [],
        "core.orders: audit not_null failed: 3 rows.",
    ),
    "audits that could not be evaluated": (
        [AuditOnlyOutcome(ORDERS, (), (), "no such table")],
        [],
        "core.orders: its audits could not be evaluated: no such table",
    ),
}


@pytest.mark.parametrize(("outcomes", "problems", "description"), FAILURES.values(), ids=FAILURES)
def test_failure_names_its_outcomes_and_problems(
    outcomes: list[NodeOutcome | AuditOnlyOutcome], problems: list[str], description: str
) -> None:
    failure = failure_of(wording(), outcomes, problems)
    assert failure.description == description
    models = [outcome for outcome in outcomes if isinstance(outcome, NodeOutcome)]
    names = {f"sqlmesh/{outcome.outcome.value}": wording().assets.name(outcome.fqn) for outcome in models}
    assert plain(dict(failure.metadata)) == names


def test_failure_names_the_environment() -> None:
    assert failure_of(wording(environment="dev"), [BLOCKED], []).description == "SQLMesh in environment dev: 1 blocked."


NAMES = [f"core.{letter}" for letter in "abcde"]
A, B, C, D, E = map(fqn, NAMES)
OF_FIVE = wording(project_assets(manifest(*map(model, NAMES))))
CANNOT_CAST = NodeOutcome(A, Outcome.FAILED, errors=("cannot cast 'x'",))


def test_failure_names_failed_models_errors_and_blocked_models() -> None:
    audit_failed = NodeOutcome(B, Outcome.AUDIT_FAILED, errors=("Audit not_null failed: 3 rows",))
    upstream = {C: (A,), D: (B,), E: (A, B)}
    blocked = [NodeOutcome(node, Outcome.BLOCKED, failed_upstream=failed) for node, failed in upstream.items()]
    failure = failure_of(OF_FIVE, [CANNOT_CAST, audit_failed, *blocked], [])
    assert failure.description == (
        "SQLMesh in environment prod: 1 failed, 1 audit failed, 3 blocked.\n"
        "core.a (models/a.sql) failed.\n\n    cannot cast 'x'\n\nBlocked by it: core.c, core.e.\n\n"
        "core.b (models/b.sql) failed its audit.\n\n    Audit not_null failed: 3 rows\n\nBlocked by it: core.d, core.e."
    )
    assert plain(dict(failure.metadata)) == {
        "sqlmesh/blocked": "core.c, core.d, core.e",
        "sqlmesh/failed": "core.a",
        "sqlmesh/audit_failed": "core.b",
    }


def test_failure_counts_models_that_dagster_shows_as_failed_and_that_are_not() -> None:
    others = [NodeOutcome(node, Outcome.UP_TO_DATE, idle=IDLE.idle) for node in (B, C, D)]
    others.append(NodeOutcome(E, Outcome.WAITING))
    failure = failure_of(OF_FIVE, [CANNOT_CAST, *others], [], materialized=[C])
    assert str(failure.description).endswith(
        "\n\nShown as failed in Dagster's graph and catalog, but not failed: 2 up to date, 1 waiting. See their checks."
    )
    assert build_failure(OF_FIVE, others, []) is None


def test_cause_that_interrupts_many_models_is_reported_once() -> None:
    locked = NodeOutcome(A, Outcome.INTERRUPTED, errors=("The database is locked.",), was_started=True)
    outcomes = [locked, replace(locked, fqn=B), replace(locked, fqn=C, intervals=(D1,))]
    failure = failure_of(OF_FIVE, outcomes, ["The database is locked."])
    assert (failure.description or "").splitlines() == [
        "SQLMesh in environment prod: 3 interrupted.",
        "The database is locked.",
        "core.c was interrupted: The database is locked. Finished before that: 2026-01-01.",
        "Interrupted: core.a, core.b.",
    ]


NEEDS_CORRECTION = NodeOutcome(ORDERS, Outcome.FAILED, errors=("boom",), needs_correction=True)


def test_failure_ends_with_one_advice_and_the_plan_command() -> None:
    outcomes = [NEEDS_CORRECTION, replace(NEEDS_CORRECTION, fqn=STAGING)]
    failure = failure_of(wording(), outcomes, [], correction_advice("cd /shop && sqlmesh plan"))
    assert (failure.description or "").endswith(
        "\n\n    boom\n\n"
        "Correct the model or its data, then launch a run: it computes all pending intervals. No restatement is "
        "needed, unless a model upstream has computed wrong rows. If you change a file of the project, apply a plan "
        "before that run:"
        "\n\n    cd /shop && sqlmesh plan"
    )
    assert (failure.description or "").count("Correct the model") == 1
    of_job = correction_advice("dg launch --job shop_plan")
    assert of_job.endswith("shop_plan\n\nThis job applies nothing. Its report has the command that applies the plan.")


@pytest.mark.parametrize(
    "outcomes",
    [[replace(NEEDS_CORRECTION, needs_correction=False)], [NEEDS_CORRECTION, NOT_PROMOTED]],
    ids=["a retry may help", "a plan comes first"],
)
def test_failure_has_no_advice_if_another_action_comes_first(outcomes: list[NodeOutcome]) -> None:
    failure = failure_of(wording(), outcomes, [])
    assert "Correct the model" not in (failure.description or "")


def test_failure_with_many_models_describes_some_and_names_all() -> None:
    count = 3 * MAX_LISTED
    failed, blocked = ([f"{schema}.m{n:03}" for n in range(count)] for schema in ("failed", "blocked"))
    assets = project_assets(manifest(*map(model, [*failed, *blocked])))
    outcomes = [NodeOutcome(fqn(name), Outcome.FAILED, errors=("boom",)) for name in failed]
    outcomes += [NodeOutcome(fqn(name), Outcome.BLOCKED, failed_upstream=(fqn(failed[0]),)) for name in blocked]
    failure = failure_of(wording(assets), outcomes, [])
    head, *lines, last = (failure.description or "").splitlines()
    assert head == f"SQLMesh in environment prod: {count} failed, {count} blocked."
    assert lines[:3] == [f"{failed[0]} (models/m000.sql) failed.", "", "    boom"]
    assert lines[3:5] == ["", f"Blocked by it: {', '.join(blocked)}."]
    assert [line for line in lines if line.endswith("failed.")] == [
        f"{name} (models/{name.split('.')[1]}.sql) failed." for name in failed[:MAX_LISTED]
    ]
    assert last == f"Failed as well: {', '.join(failed[MAX_LISTED:])}."
    assert plain(dict(failure.metadata)) == {"sqlmesh/failed": ", ".join(failed), "sqlmesh/blocked": ", ".join(blocked)}


# -- cancelled runs -------------------------------------------------------------------------------


CANCELLED = NodeOutcome(ORDERS, Outcome.INTERRUPTED, errors=("The run was cancelled.",), is_cancelled=True)


def test_model_not_started_by_a_cancelled_run_gets_a_warning() -> None:
    check = checks_of(CANCELLED)[STATUS_CHECK]
    sentence = "core.orders was not started: the run was cancelled. The next run computes what is left."
    assert check_summary(check) == (False, WARN, sentence)


def test_failure_of_a_cancelled_run_lists_models_not_started_in_one_line() -> None:
    outcomes = [replace(CANCELLED, fqn=STAGING, was_started=True), CANCELLED]
    failure = failure_of(wording(), outcomes, ["The run was cancelled."])
    assert (failure.description or "").splitlines()[1:] == [
        "The run was cancelled.",
        "Not started: core.orders. The next run computes what is left.",
        "Interrupted: staging.orders. The next run computes what is left.",
    ]


# -- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "more"), [(0, []), (1, []), (MAX_LISTED, []), (MAX_LISTED + 1, ["and 1 more"])])
def test_long_list_is_cut_with_a_count_of_the_rest(count: int, more: list[str]) -> None:
    assert listed(["one"] * count) == ", ".join([*["one"] * min(count, MAX_LISTED), *more])


@pytest.mark.parametrize(
    ("intervals", "text"),
    [
        ((), ""),
        ((D1,), "2026-01-01"),
        (((day(1), day(1) + 3_600_000),), "2026-01-01 00:00 to 01:00 UTC"),
        (((day(1) - 3_600_000, day(2)),), "2025-12-31 23:00 to 2026-01-02 00:00 UTC"),
        (((day(1), day(1) + 1_000),), "2026-01-01 00:00:00 to 00:00:01 UTC"),
        ((days(1, 24),), "2026-01-01 to 2026-01-24 (24 days)"),
        ((D1, days(3, 3)), "2026-01-01, 2026-01-03"),
    ],
    ids=["none", "a day", "an hour", "a day and an hour", "a second", "days", "two"],
)
def test_intervals_are_shown_with_time_only_if_not_whole_days(intervals: tuple[msg.Interval, ...], text: str) -> None:
    assert ranges(intervals) == text


FAILED_AUDIT = NodeOutcome(ORDERS, Outcome.AUDIT_FAILED, errors=("Audit failed",), failed_audits=("not_null",))
ORDERS_FAILED = "core.orders (models/orders.sql) failed"
SENTENCES = {
    "the error is an indented block": (
        replace(FAILED, errors=("FROM t\n     ^",)),
        f"{ORDERS_FAILED} for 2026-01-01.\n\n    FROM t\n         ^",
    ),
    "an audit that failed for unknown rows": (FAILED_AUDIT, f"{ORDERS_FAILED} its audit.\n\n    Audit failed"),
    "blocked by an unknown model": (
        replace(BLOCKED, failed_upstream=()),
        "core.orders was not executed, because a model upstream of it failed.",
    ),
    "a node that is no model": (
        NodeOutcome("orders_add_up", Outcome.FAILED, errors=("boom",)),
        "orders_add_up failed.\n\n    boom",
    ),
    "running when the run was cancelled": (
        replace(CANCELLED, was_started=True),
        "core.orders was interrupted: The run was cancelled. The next run computes what is left.",
    ),
}


@pytest.mark.parametrize(("outcome", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_sentence_of_an_outcome_names_another_environment(outcome: NodeOutcome, sentence: str) -> None:
    assert wording().sentence(outcome) == sentence
    assert wording(environment="dev").sentence(outcome) == f"In environment dev: {sentence}"
