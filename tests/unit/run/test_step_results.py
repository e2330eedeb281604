"""The results that a step yields when the ledger has settled its nodes, and what Dagster then shows."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
from harness import RunRecord, version_of
from unit.builders import attributes, days, fqn, manifest, model, project_assets, standalone
from unit.outcome_table import (
    AUDITS,
    DIVISION,
    EMPTY_PLAN,
    FAILED,
    ONE_BATCH,
    ORDERS,
    PROMOTED,
    SHOP,
    SUCCEEDED,
    audited,
    batch,
    opened,
    raised,
)

from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.check_results import shown_evaluations
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.manifest import DbtNode, Manifest
from dg_sqlmesh_component.report.checks import Checks
from dg_sqlmesh_component.report.wording import Wording
from dg_sqlmesh_component.run.ledger import Ledger
from dg_sqlmesh_component.run.recorder import recorded
from dg_sqlmesh_component.run.run_log import RunLog
from dg_sqlmesh_component.run.step_records import StepRecords
from dg_sqlmesh_component.run.step_results import StepResults

NOW = days(5, 5)[1]
D1 = days(1, 1)
STAGING = fqn("staging.orders")
ENDED = "SQLMesh's process ended before it was done."

Story = Callable[[Ledger, StepRecords, StepResults], Iterator[Any]]
"""What a step does, with the objects that it has."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run_of(
    instance: dg.DagsterInstance, project: Manifest, story: Story, audit_only: Collection[str] = ()
) -> RunRecord:
    """Run all assets and checks of a project in one step, or only checks. Return what Dagster recorded."""
    assets = project_assets(project)
    settings = Settings(attributes(), assets, "sqlmesh_shop", "pool", "shop_1", "shop", frozenset())
    wording, checks = Wording(assets, "prod"), set(assets.checks)

    @dg.multi_asset(specs=[*assets.specs.values()], check_specs=[*assets.checks.values()], can_subset=True)
    # Dagster looks at the annotation of `context`, and annotations are postponed here.
    def step(context):  # type: ignore[no-untyped-def]
        ledger = Ledger({*assets.specs, *assets.standalone_audits} - {*audit_only}, audit_only)
        records = StepRecords(context, settings, wording, ledger.is_up_to_date, None)
        log = RunLog(context, wording, checks, frozenset())
        of_checks = Checks(wording, NOW)
        results = StepResults(context, settings.attributes, of_checks, records, log, checks)
        yield from recorded(context, story(ledger, records, results))

    job = dg.Definitions([step]).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    return RunRecord(instance, result.run_id)


def reports(ledger: Ledger, results: StepResults, events: Iterable[msg.Event]) -> Iterator[Any]:
    for event in events:
        yield from results.report(ledger.feed(event))


def reporting(*events: msg.Event, death: str | None = None) -> Story:
    """Return the story of a step that reports these events. `death` is why the worker has died after them."""

    def story(ledger: Ledger, records: StepRecords, results: StepResults) -> Iterator[Any]:
        yield from reports(ledger, results, events)
        if death:
            yield from results.report(ledger.close(death))
        yield from results.fill_in()

    return story


# -- data computed outside of Dagster --------------------------------------------------------------

HOURLY, DAILY = fqn("core.hourly"), fqn("core.daily")
TWO_MODELS = manifest(model("core.hourly", ["raw.events"]), model("core.daily", ["core.hourly"]))
OPENED = opened(HOURLY, DAILY)
COMPUTED_OUTSIDE = [msg.ComputedData(node, PROMOTED, ((D1, D1[1]),)) for node in (HOURLY, DAILY)]
LOST = msg.NodeFailed(HOURLY, "ConnectionError", "the connection was lost", (), is_transient=True)


def test_outside_data_of_a_model_that_fails_after_a_retry_is_no_event_of_the_run(instance: dg.DagsterInstance) -> None:
    """Else Dagster would show the model in green, and leave it out when it retries the run from its failure."""
    fails = [msg.EvaluationPlanned({HOURLY: (D1,)}), msg.NodeIdle(DAILY, "not due"), raised(0, D1, node=HOURLY), LOST]

    def story(ledger: Ledger, records: StepRecords, results: StepResults) -> Iterator[Any]:
        records.note_outside_data(COMPUTED_OUTSIDE, None)
        yield from reports(ledger, results, [OPENED, *fails])
        yield from results.report(ledger.settle_except(frozenset({HOURLY})))
        ledger.pause(frozenset({HOURLY}))
        yield from reports(ledger, results, [OPENED, *fails, msg.EvaluationFinished("failure")])

    run = run_of(instance, TWO_MODELS, story)
    assert set(run.reported_outside) == {"core/hourly"}
    assert set(run.computed_outside) == {"core/daily"}
    assert run.status_of("core/hourly") == "failed"


def test_outside_data_of_an_idle_model_is_an_event_of_the_run_before_its_downstream_model_is_executed(
    instance: dg.DagsterInstance,
) -> None:
    events = [OPENED, msg.EvaluationPlanned({DAILY: (D1,)}), msg.NodeIdle(HOURLY, "not due"), batch(0, D1, node=DAILY)]

    def story(ledger: Ledger, records: StepRecords, results: StepResults) -> Iterator[Any]:
        records.note_outside_data(COMPUTED_OUTSIDE[:1], None)
        yield from reports(ledger, results, [*events, msg.EvaluationFinished("success")])

    run = run_of(instance, TWO_MODELS, story)
    events_of_run = run.events(dg.DagsterEventType.ASSET_MATERIALIZATION)
    assert [event.asset_key.to_user_string() for event in events_of_run] == ["core/hourly", "core/daily"]
    assert not run.reported_outside


# -- a plan lands during the run -------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_model_that_is_computed_again_after_a_plan_is_reported_again(instance: dg.DagsterInstance, fails: bool) -> None:
    changed = replace(opened(ORDERS), promoted={ORDERS: replace(PROMOTED, version="4228")})
    ends = [raised(0, D1), DIVISION, FAILED] if fails else [replace(batch(0, D1), at=NOW), SUCCEEDED]
    first = [opened(ORDERS), ONE_BATCH, audited("recent", D1), replace(batch(0, D1), at=NOW - 1)]
    second = [EMPTY_PLAN, changed, ONE_BATCH, audited("recent", D1, 2), *ends]

    run = run_of(instance, manifest(*SHOP.models, selected=["core.orders"]), reporting(*first, *second))
    versions = [
        version_of(event.event_specific_data.materialization)
        for event in run.events(dg.DagsterEventType.ASSET_MATERIALIZATION)
    ]
    assert versions == (["3117"] if fails else ["3117", "4228"])
    evaluations = run.events(dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    last = {event.event_specific_data.check_name: event.event_specific_data for event in evaluations}
    assert last["recent"].description == "2 rows failed in 2026-01-01."
    assert last["sqlmesh_execution_status"].passed is not fails
    assert ("core/orders" in run.observations) is fails


# -- checks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_killed", [False, True], ids=["a blocking audit fails", "the worker is killed"])
def test_audit_of_a_failed_run_still_warns_of_older_rows_that_have_failed(
    instance: dg.DagsterInstance, is_killed: bool
) -> None:
    def compute(day: int, failing_rows: int = 0, *, fails: bool = False) -> dg.AssetCheckEvaluation:
        interval = days(day, day)
        begin = [
            opened(ORDERS),
            msg.EvaluationPlanned({ORDERS: (interval,)}),
            audited("recent", interval, failing_rows),
        ]
        coverage = msg.IntervalCoverage(ORDERS, days(1, day))
        failure = [audited("not_null", interval, 3), raised(0, interval), AUDITS, coverage, FAILED]
        if fails and is_killed:
            story = reporting(*begin, death=ENDED)
        else:
            story = reporting(*begin, *(failure if fails else [coverage, batch(0, interval), SUCCEEDED]))
        return run_of(instance, SHOP, story).checks["core/orders:recent"]

    compute(1, failing_rows=2)
    for result in (compute(2), compute(3, fails=True), compute(3)):
        assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert "Other intervals: 2 rows failed in 2026-01-01" in str(result.description)


def test_known_failure_of_a_dbt_test_of_several_models_fails_no_run(instance: dg.DagsterInstance) -> None:
    """SQLMesh makes it a standalone audit, which blocks nothing: the run that evaluates it does not fail either."""
    dbt_test = replace(standalone("relations", ["core.orders"]), dbt=DbtNode("test.shop.relations", severity="error"))
    data = msg.AuditedData("3117", "4001")
    finds_rows = msg.AuditEvaluated("relations", "relations", 0, "", False, 2, "SELECT 2", D1, audited_data=data)
    idle = msg.NodeIdle("relations", "not due", last_interval_end=D1[1], audited_data=data)

    def run(*events: msg.Event) -> dg.AssetCheckEvaluation:
        def story(ledger: Ledger, records: StepRecords, results: StepResults) -> Iterator[Any]:
            yield from reports(ledger, results, events)
            assert not results.known_failures

        record = run_of(instance, manifest(model(), standalone_audits=[dbt_test]), story).succeeded()
        return record.checks["core/orders:relations"]

    begin, idle_model = opened(ORDERS, "relations"), msg.NodeIdle(ORDERS, "not due")
    ends = replace(batch(0, D1, node="relations"), at=D1[1])
    first = run(begin, msg.EvaluationPlanned({"relations": (D1,)}), idle_model, finds_rows, ends, SUCCEEDED)
    second = run(begin, EMPTY_PLAN, idle_model, idle, SUCCEEDED)
    assert (first.passed, second.passed) == (False, False)
    assert second.metadata["sqlmesh/carried_over"].value is True


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (opened(missing=(ORDERS,)), "Not promoted in environment prod"),
        (msg.NodeAudited(ORDERS, (), "Nothing has been computed yet."), "Nothing has been computed yet."),
        (audited("not_null", D1), ENDED),
    ],
    ids=["not promoted", "not computed", "killed"],
)
def test_check_executed_alone_that_is_not_evaluated_has_the_reason_or_its_last_result(
    instance: dg.DagsterInstance, failure: msg.Event, reason: str
) -> None:
    """Dagster would show it as failed, without a text."""
    evaluated = [audited("recent", D1, 2), msg.NodeAudited(ORDERS, (), None, at=NOW)]

    def run(*events: msg.Event) -> dict[str, dg.AssetCheckEvaluation]:
        return run_of(instance, SHOP, reporting(*events, death=ENDED), audit_only=[ORDERS]).checks

    not_evaluated = run(failure)["core/orders:recent"]
    run(*evaluated)
    known = run(failure)["core/orders:recent"]
    assert (not_evaluated.passed, not_evaluated.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert str(not_evaluated.description).startswith(f"Not evaluated: {reason}")
    assert str(known.description).startswith("2 rows failed in ")
    assert str(known.description).endswith("Repeated, because this run could not evaluate it.")


@pytest.mark.parametrize(
    ("version", "result"),
    [
        ("3117", "No failing rows in 2026-01-01. Evaluated "),
        ("4228", "Not evaluated: core.orders was not started: SQLMesh's process was killed."),
    ],
    ids=["same table", "a plan has promoted another table"],
)
def test_result_is_repeated_for_a_model_that_was_not_reached_unless_it_is_about_another_table(
    instance: dg.DagsterInstance, version: str, result: str
) -> None:
    """The new table may be empty, and a green check would say that its rows are right."""
    passed = replace(audited("recent", D1), audited_data=msg.AuditedData("3117", "4001"))
    executes = reporting(opened(ORDERS), ONE_BATCH, passed, msg.IntervalCoverage(ORDERS, D1), batch(0, D1), SUCCEEDED)
    begin = replace(opened(STAGING), promoted={STAGING: PROMOTED, ORDERS: replace(PROMOTED, version=version)})
    plan = msg.EvaluationPlanned({STAGING: (D1,), ORDERS: (D1,)})
    is_killed = reporting(begin, plan, batch(0, D1, node=STAGING), death="SQLMesh's process was killed.")
    assert run_of(instance, SHOP, executes).checks["core/orders:recent"].passed
    check = run_of(instance, SHOP, is_killed).checks["core/orders:recent"]
    assert str(check.description).startswith(result)
    assert check.passed is (version == "3117")


@pytest.mark.parametrize(
    ("events", "is_of_checks"),
    [
        ([opened(missing=(ORDERS,)), SUCCEEDED], False),
        ([opened(missing=(ORDERS,)), SUCCEEDED], True),
        ([msg.NodeAudited(ORDERS, (), "Nothing has been computed yet."), SUCCEEDED], True),
    ],
    ids=["model not promoted", "check of a model not promoted", "not computed"],
)
@pytest.mark.parametrize("has_failed_before", [False, True])
def test_status_that_is_not_about_the_data_is_not_repeated_although_nothing_was_computed_since(
    instance: dg.DagsterInstance, events: list[msg.Event], is_of_checks: bool, has_failed_before: bool
) -> None:
    def run(events: list[msg.Event], audit_only: Collection[str]) -> dg.AssetCheckEvaluation:
        checks = run_of(instance, SHOP, reporting(*events), audit_only).checks
        return checks["core/orders:sqlmesh_execution_status"]

    if has_failed_before:
        run([opened(ORDERS), ONE_BATCH, raised(0, D1), DIVISION, FAILED], [])
    assert not run(events, [ORDERS] if is_of_checks else []).passed
    promoted_now = run([opened(ORDERS), msg.NodeAudited(ORDERS, (), None, NOW, altered_at=D1[1]), SUCCEEDED], [ORDERS])
    assert promoted_now.passed is not has_failed_before
    assert ("cannot cast" in str(promoted_now.description)) is has_failed_before


def test_dry_run_repeats_the_status_of_a_model_that_is_not_promoted_as_what_an_earlier_run_has_found(
    instance: dg.DagsterInstance,
) -> None:
    """A plan may have promoted it since. The first result is an ordinary one: nobody has been alerted yet."""
    story = reporting(opened(missing=(ORDERS,)), SUCCEEDED)
    first = run_of(instance, SHOP, story).checks["core/orders:sqlmesh_execution_status"]
    check = dg.AssetCheckKey(first.asset_key, first.check_name)
    again = shown_evaluations(instance, [check], "this was a dry run", "the dry run")[check]
    assert not first.metadata.keys() & {"sqlmesh/carried_over", "sqlmesh/not_evaluated"}
    assert str(again.description).startswith(str(first.description))
    assert str(again.description).endswith("Repeated, because this was a dry run.")
    assert "sqlmesh/carried_over" in again.metadata
