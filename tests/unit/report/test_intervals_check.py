"""The interval coverage of a model as metadata and as a check."""

from dataclasses import replace
from datetime import timedelta

import dagster as dg
import pytest
from unit.builders import DAY, HOUR, attributes, day, days, manifest, model, plain
from unit.outcome_table import COMPLETE, MANY_GAPS, ONE_GAP, ORDERS
from unit.outcome_table import outcome as of_orders

from dg_sqlmesh_component.config.attribute_types import IntervalsCheck
from dg_sqlmesh_component.definitions.build_assets import build_assets
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.translator import INTERVALS_CHECK, Translator
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.manifest import INCREMENTAL_KINDS, Manifest
from dg_sqlmesh_component.report.checks import Checks
from dg_sqlmesh_component.report.intervals_check import coverage_metadata, coverage_sentences, is_complete
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, NodeOutcome, Outcome
from dg_sqlmesh_component.report.wording import Wording

KEY = dg.AssetCheckKey(dg.AssetKey(["core", "orders"]), INTERVALS_CHECK)


def assets(project: Manifest, slack: timedelta | None = timedelta(0)) -> ProjectAssets:
    translator = Translator(project, attributes(intervals_check=None if slack is None else IntervalsCheck(slack)))
    return build_assets(
        translator, translator.asset_spec, lambda spec, node, audit: translator.audit_check_spec(node, audit, spec.key)
    )


SHOP = manifest(model("core.orders", kind="INCREMENTAL_BY_TIME_RANGE"))


def check(
    outcome: NodeOutcome | AuditOnlyOutcome, slack: timedelta = timedelta(0), now: int = day(3) + HOUR
) -> list[tuple[bool, dg.AssetCheckSeverity, str | None]]:
    """Return the results of the intervals check in a run at this instant."""
    project_assets = assets(SHOP, slack)
    result = Checks(Wording(project_assets, "prod"), now).result(KEY, outcome)
    results = [] if result is None else [result]
    assert {(result.asset_key, result.check_name) for result in results} <= {(KEY.asset_key, KEY.name)}
    return [(result.passed, result.severity, result.description) for result in results]


def test_outdated_ranges_are_a_warning_with_the_restatement_to_launch() -> None:
    outdated = replace(COMPLETE, outdated=(days(1, 1), days(3, 3)))
    [(passed, severity, text)] = check(of_orders(Outcome.EXECUTED, coverage=outdated))
    assert (passed, severity) == (False, dg.AssetCheckSeverity.WARN)
    assert str(text).endswith(
        "Outdated: 2026-01-01, 2026-01-03. core.orders was computed for these ranges before a model that it reads, so "
        "it lacks rows. To read them, launch a run of core.orders with "
        "`restate: {start: '2026-01-01', end: '2026-01-03'}` in the run config."
    )
    of_others = replace(outdated, before_start=(days(1, 1),), restated_first=(ORDERS,))
    [(*_, text)] = check(of_orders(Outcome.EXECUTED, coverage=of_others))
    assert str(text).endswith(
        "with `restate: {start: '2026-01-03', end: '2026-01-03'}` in the run config. It also computes core.orders. "
        "Before the `start` of core.orders, so computed by no run: 2026-01-01. To have these rows, set an earlier "
        "`start` and apply a plan first."
    )
    [(passed, severity, text)] = check(of_orders(Outcome.EXECUTED, coverage=replace(COMPLETE, skipped=(days(1, 2),))))
    assert (passed, severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "No run computes 2026-01-01 to 2026-01-02 (2 days): core.orders has no `start`" in str(text)
    assert coverage_metadata(outdated)["sqlmesh/outdated"] == "2026-01-01, 2026-01-03"
    [(passed, severity, text)] = check(of_orders(Outcome.EXECUTED, coverage=replace(ONE_GAP, outdated=(days(1, 1),))))
    assert (passed, severity, "lacks 1 interval" in str(text)) == (False, dg.AssetCheckSeverity.ERROR, True)


@pytest.mark.parametrize("kind", ["INCREMENTAL_BY_TIME_RANGE", "FULL", "VIEW", "SEED", "SCD_TYPE_2_BY_TIME", "CUSTOM"])
def test_only_incremental_models_have_the_check_which_is_off_by_default(kind: str) -> None:
    project = manifest(model("core.orders", kind=kind))
    assert (KEY in assets(project).checks) == (kind in INCREMENTAL_KINDS)
    assert KEY not in assets(project, None).checks


@pytest.mark.parametrize(
    ("slack", "now", "complete"),
    [
        (timedelta(0), day(3), True),
        (timedelta(0), day(3) + 1, False),
        (timedelta(hours=2), day(3) + 2 * HOUR, True),
        (timedelta(hours=2), day(3) + 2 * HOUR + 1, False),
    ],
)
def test_gap_may_be_as_old_as_the_slack(slack: timedelta, now: int, complete: bool) -> None:
    assert is_complete(ONE_GAP, slack, now) is complete


def test_model_without_gaps_is_complete() -> None:
    assert is_complete(COMPLETE, timedelta(0), day(1000))
    assert check(of_orders(Outcome.EXECUTED, coverage=COMPLETE)) == [
        (True, dg.AssetCheckSeverity.ERROR, "core.orders has no gaps in 2026-01-01 to 2026-01-02 (2 days).")
    ]


@pytest.mark.parametrize(
    ("end", "lacking", "text"),
    [
        (day(3), DAY, "2026-01-01 to 2026-01-02 (1 of 2 days)"),
        (day(3), HOUR, "2026-01-01 to 2026-01-02 (47 of 48 hours)"),
        (day(2) + HOUR, DAY, "2026-01-01 00:00 to 2026-01-02 01:00 UTC (1 of 25 hours)"),
        (day(2), HOUR // 12, "2026-01-01 (1435 of 1440 minutes)"),
    ],
)
def test_coverage_with_a_hole_says_how_much_is_computed(end: int, lacking: int, text: str) -> None:
    coverage = replace(ONE_GAP, computed=(day(1), end), lacking=lacking)
    assert plain(coverage_metadata(coverage))["sqlmesh/coverage"] == text
    complete = replace(COMPLETE, computed=coverage.computed, lacking=lacking, waiting=(days(2, 2),))
    sentence = f"t.a has no gaps in {text}. Waiting: 2026-01-02."
    assert coverage_sentences("t.a", complete, timedelta(0), day(9)) == sentence


@pytest.mark.parametrize(
    "outcome",
    [of_orders(Outcome.EXECUTED, coverage=ONE_GAP), AuditOnlyOutcome(ORDERS, (), (), None, ONE_GAP)],
    ids=["executed", "checks only"],
)
def test_failed_check_names_gaps_and_what_to_do(outcome: NodeOutcome | AuditOnlyOutcome) -> None:
    sentence = (
        "core.orders lacks 1 interval: 2026-01-02. The oldest one became due at 2026-01-03T00:00:00Z."
        " Launch a run of the model, without `start` and `end` in the run config. It computes the intervals even "
        "if newer ones are computed. No restatement is needed."
    )
    assert check(outcome) == [(False, dg.AssetCheckSeverity.ERROR, sentence)]


def test_gap_within_the_slack_passes_and_is_named() -> None:
    [(passed, _, description)] = check(of_orders(Outcome.UP_TO_DATE, coverage=ONE_GAP), timedelta(hours=2))
    assert passed
    assert description == (
        "core.orders lacks 1 interval: 2026-01-02. The oldest one became due at 2026-01-03T00:00:00Z, "
        "which is within the slack of 2:00:00."
    )


NO_FILES = msg.HeldBack((msg.Cause("signal", ORDERS, ("files_arrived",)),))


def test_check_of_a_waiting_model_says_what_it_waits_for() -> None:
    [(passed, _, description)] = check(
        of_orders(Outcome.WAITING, idle=msg.NodeIdle(ORDERS, held_back=NO_FILES), coverage=ONE_GAP)
    )
    assert not passed
    assert str(description).endswith("core.orders is waiting: its signal files_arrived has no interval ready.")


def test_version_that_is_not_incremental_gives_a_warning() -> None:
    sentence = (
        "Not evaluated: the version of core.orders that environment prod has promoted is not incremental. If the "
        "local file is newer, apply a plan. If not, refresh the manifest: `dg utils refresh-defs-state`."
    )
    for outcome in (of_orders(Outcome.EXECUTED), AuditOnlyOutcome(ORDERS, (), (), None)):
        assert check(outcome) == [(False, dg.AssetCheckSeverity.WARN, sentence)]


@pytest.mark.parametrize("error", ["", "the run was cancelled"])
def test_model_that_failed_without_coverage_gets_the_reason_once(error: str) -> None:
    outcome = of_orders(Outcome.INTERRUPTED, was_started=True, errors=(error,))
    assert check(outcome) == []
    assert Wording(assets(SHOP), "prod").why_not_evaluated(outcome).startswith("core.orders was interrupted")


def test_description_names_five_gaps_and_counts_the_others() -> None:
    gaps = tuple(days(number, number) for number in range(1, 14, 2))
    many = replace(MANY_GAPS, gaps=gaps, gap_count=30, missing_intervals=40)
    text = coverage_sentences("core.orders", many, timedelta(0), day(30))
    assert text.startswith("core.orders lacks 40 intervals: 2026-01-01, ")
    assert "2026-01-09, and 25 more gaps." in text
    assert "[2026-01-11" not in text
    *_, last = coverage_metadata(many)["sqlmesh/not_computed"].records
    assert last.data == {"range": "and 23 newer gaps", "why": "missing"}


def test_table_has_gaps_and_waiting_ranges_in_order() -> None:
    coverage = replace(ONE_GAP, computed=days(1, 6), waiting=(days(4, 5), days(1, 1)))
    rows = [row.data for row in coverage_metadata(coverage)["sqlmesh/not_computed"].records]
    waits = "waits for a source or a signal"
    assert rows == [
        {"range": "2026-01-01", "why": waits},
        {"range": "2026-01-02", "why": "missing: a run computes it"},
        {"range": "2026-01-04 to 2026-01-05 (2 days)", "why": waits},
    ]
