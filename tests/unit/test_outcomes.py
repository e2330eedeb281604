"""The fold: events in, one outcome per requested node out."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import permutations
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.outcome_table import (
    AUDITS,
    D1,
    D2,
    D3,
    DIVISION,
    FAILED,
    NOT_PROMOTED,
    ONE_BATCH,
    OPENED,
    ORDERS,
    OUTCOME_TABLE,
    PROMOTED,
    STAGING,
    SUCCEEDED,
    TWO_BATCHES,
    Row,
    audit_result,
    audited,
    batch,
    failing_batch,
    open_nodes,
    opened,
)
from unit.scenario import DAY, HOUR, day, days, fqn

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.run.outcomes import AuditOnlyOutcome, Ledger, NodeOutcome, Outcome

MART = fqn("marts.revenue")
START_OVER = msg.EvaluationPlanned({})


def fold(
    events: Iterable[msg.Event],
    requested: Iterable[str] = (ORDERS,),
    audit_only: Iterable[str] = (),
    death: str | None = None,
    earlier: Iterable[msg.Event] = (),
) -> list[NodeOutcome | AuditOnlyOutcome]:
    """All outcomes, in the order in which they are handed out.

    Args:
        death: Why no last event came.
        earlier: What came in a first attempt, which left every node open that it did not settle.
    """
    ledger = Ledger(requested, audit_only)
    outcomes = [outcome for event in earlier for outcome in ledger.feed(event)]
    outcomes += ledger.pause(open_nodes(ledger)) if earlier else []
    outcomes += [outcome for event in events for outcome in ledger.feed(event)]
    return outcomes + (ledger.close(death) if death else [])


def kinds(outcomes: Iterable[NodeOutcome | AuditOnlyOutcome]) -> list[tuple[str, Outcome]]:
    return [(one.fqn, one.outcome) for one in outcomes if isinstance(one, NodeOutcome)]


# -- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", OUTCOME_TABLE, ids=lambda row: row.says)
def test_evidence_makes_the_outcome(row: Row) -> None:
    outcomes = fold(row.events, requested=(ORDERS, *row.beside), death=row.death, earlier=row.earlier)
    assert [one for one in outcomes if one.fqn == ORDERS] == [row.outcome]
    assert {one.fqn for one in outcomes} == {ORDERS, *row.beside}


def test_the_table_has_every_outcome() -> None:
    assert {row.outcome.outcome for row in OUTCOME_TABLE} == set(Outcome)


def test_the_table_has_every_kind_of_evidence() -> None:
    about_other_things = {msg.ProjectDescribed, msg.NodeAudited, msg.SecretsKnown, msg.LogLine}
    assert {type(event) for row in OUTCOME_TABLE for event in row.events} == {*get_args(msg.Event)} - about_other_things


def test_the_step_fails_unless_the_model_was_executed_or_healthily_was_not() -> None:
    healthy = {outcome for outcome in Outcome if not outcome.is_failure}
    assert healthy == {Outcome.EXECUTED, Outcome.UP_TO_DATE, Outcome.WAITING}


def test_only_a_non_blocking_audit_that_failed_is_a_warning() -> None:
    failed = {
        row.says: [(audit.name, audit.blocking) for audit in row.outcome.audits if not audit.passed]
        for row in OUTCOME_TABLE
        if row.outcome.outcome is Outcome.EXECUTED
    }
    assert {says: audits for says, audits in failed.items() if audits} == {
        "executed with a warning: the same, and a non-blocking audit failed": [("recent", False)]
    }


# -- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_batches_may_finish_in_any_order(order: tuple[int, ...]) -> None:
    intervals = (D1, D2, D3)
    events = [OPENED, msg.EvaluationPlanned({ORDERS: intervals}), *(batch(n, intervals[n]) for n in order), SUCCEEDED]
    (outcome,) = fold(events)
    assert (outcome.outcome, outcome.intervals, outcome.rows) == (Outcome.EXECUTED, (days(1, 3),), 30)


def test_executed_is_handed_out_with_the_last_batch_and_not_again_at_the_end() -> None:
    ledger = Ledger([ORDERS])
    handed_out = [len(ledger.feed(event)) for event in (OPENED, TWO_BATCHES, batch(1, D2), batch(0, D1), SUCCEEDED)]
    assert handed_out == [0, 0, 0, 1, 0]


def test_one_batch_reported_twice_is_one_batch() -> None:
    assert fold([OPENED, TWO_BATCHES, batch(0, D1), batch(0, D1)]) == []


def test_parents_are_handed_out_before_children_as_sqlmesh_executes_them() -> None:
    plan = msg.EvaluationPlanned({MART: (D1,), ORDERS: (D1, D2), STAGING: (D1,)})
    batches = [batch(0, D1, node=STAGING), batch(0, D1), batch(1, D2), batch(0, D1, node=MART)]
    outcomes = fold([opened(STAGING, ORDERS, MART), plan, *batches, SUCCEEDED], requested=[MART, ORDERS, STAGING])
    assert [one.fqn for one in outcomes] == [STAGING, ORDERS, MART]


def test_what_is_settled_at_the_end_comes_in_the_order_requested() -> None:
    assert [one.fqn for one in fold([SUCCEEDED], requested=[STAGING, MART, ORDERS])] == [STAGING, MART, ORDERS]


@pytest.mark.parametrize(
    "last", [SUCCEEDED, FAILED, msg.EvaluationFinished("nothing_to_do")], ids=lambda one: one.status
)
@pytest.mark.parametrize("evidence", [(), (DIVISION,), (AUDITS,)], ids=["nobody named", "error", "audit"])
def test_a_failing_batch_is_never_a_materialization(
    last: msg.EvaluationFinished, evidence: tuple[msg.Event, ...]
) -> None:
    (outcome,) = fold([OPENED, TWO_BATCHES, batch(0, D1), failing_batch(1, D2), *evidence, last])
    assert outcome.outcome is not Outcome.EXECUTED
    assert outcome.outcome.is_failure


def test_adjoining_and_overlapping_intervals_are_merged_and_others_are_not() -> None:
    half_day = (day(2), day(2) + DAY // 2)
    intervals = (days(5, 5), half_day, D1, days(2, 3), (day(9), day(9) + HOUR))
    plan = msg.EvaluationPlanned({ORDERS: intervals})
    (outcome,) = fold([plan, *(batch(n, interval) for n, interval in enumerate(intervals))])
    assert outcome.intervals == (days(1, 3), days(5, 5), (day(9), day(9) + HOUR))


@pytest.mark.parametrize(
    ("rows", "total"),
    [((10, 20), 30), ((0, 0), 0), ((None, 20), None), ((None, None), None)],
    ids=["reported by every batch", "zero is a number", "one batch did not report", "never reported"],
)
def test_rows_and_bytes_are_known_only_when_every_batch_reported_them(
    rows: tuple[int | None, ...], total: int | None
) -> None:
    batches = [batch(n, interval, rows=rows[n], bytes=rows[n]) for n, interval in enumerate((D1, D2))]
    (outcome,) = fold([TWO_BATCHES, *batches])
    assert (outcome.rows, outcome.bytes) == (total, total)


@pytest.mark.parametrize(
    ("counts", "row_count"), [((), None), ((0,), 0), ((7,), 7), ((7, 9), 9)], ids=["never", "none", "once", "twice"]
)
def test_the_rows_of_the_table_are_those_of_the_last_count(counts: tuple[int, ...], row_count: int | None) -> None:
    (outcome,) = fold([ONE_BATCH, *(msg.RowsCounted(ORDERS, rows) for rows in counts), batch(0, D1)])
    assert (outcome.outcome, outcome.row_count, outcome.rows) == (Outcome.EXECUTED, row_count, 10)


def test_the_rows_of_each_table_are_its_own() -> None:
    plan = msg.EvaluationPlanned({STAGING: (D1,), ORDERS: (D1,), MART: (D1,)})
    work = [
        one
        for node, rows in ((STAGING, 1), (ORDERS, 2))
        for one in (msg.RowsCounted(node, rows), batch(0, D1, node=node))
    ]
    outcomes = fold([plan, *work, batch(0, D1, node=MART), SUCCEEDED], requested=[STAGING, ORDERS, MART])
    assert [one.row_count for one in outcomes if isinstance(one, NodeOutcome)] == [1, 2, None]


def test_a_count_is_no_evidence_of_an_execution() -> None:
    (outcome,) = fold([OPENED, ONE_BATCH, msg.RowsCounted(ORDERS, 7), failing_batch(0, D1), DIVISION, FAILED])
    assert outcome.outcome is Outcome.FAILED


# -- audits ---------------------------------------------------------------------------------------


def test_an_audit_is_summed_over_the_batches_and_shows_the_query_of_a_failing_one() -> None:
    audits = [
        audited("recent", D1, 0, query="first"),
        audited("recent", D2, 2, query="second"),
        audited("recent", D3, 3, query="third"),
    ]
    (outcome,) = fold([ONE_BATCH, *audits, batch(0, D1)])
    assert outcome.audits == (audit_result("recent", days(1, 3), failing_rows=5, query="second"),)


def test_an_audit_that_passed_shows_the_query_of_the_last_batch() -> None:
    (outcome,) = fold([ONE_BATCH, audited("recent", D1, query="a"), audited("recent", D2, query="b"), batch(0, D1)])
    assert outcome.audits == (audit_result("recent", days(1, 2), query="b"),)


def test_audits_come_in_the_models_order() -> None:
    (outcome,) = fold([ONE_BATCH, audited("recent", D1), audited("not_null", D1), batch(0, D1)])
    assert [audit.name for audit in outcome.audits] == ["not_null", "recent"]


def test_the_same_audit_twice_on_a_model_is_two_audits() -> None:
    evaluations = [
        msg.AuditEvaluated(ORDERS, "not_null", position, {"columns": column}, True, rows, None, D1)
        for position, (column, rows) in enumerate([("a", 0), ("b", 4)])
    ]
    (outcome,) = fold([ONE_BATCH, *evaluations, batch(0, D1)])
    assert [(audit.args, audit.failing_rows) for audit in outcome.audits] == [
        ({"columns": "a"}, 0),
        ({"columns": "b"}, 4),
    ]


def test_an_audit_that_its_author_switched_off_leaves_nothing() -> None:
    (outcome,) = fold([ONE_BATCH, audited("not_null", D1, None), audited("recent", D1), batch(0, D1)])
    assert [audit.name for audit in outcome.audits] == ["recent"]


@pytest.mark.parametrize(("last", "rows"), [(0, 0), (2, 2)])
def test_of_audits_of_a_whole_table_the_last_batch_counts(last: int, rows: int) -> None:
    """Every batch of a model without a time column has its audits look at all of the table."""
    whole = [replace(audited("recent", day, found), of_whole_table=True) for day, found in ((D1, 3), (D2, last))]
    (outcome,) = fold([OPENED, TWO_BATCHES, whole[0], batch(0, D1), whole[1], batch(1, D2), SUCCEEDED])
    assert isinstance(outcome, NodeOutcome)
    assert outcome.audits == (audit_result("recent", days(1, 2), failing_rows=rows),)


@pytest.mark.parametrize(("failing_rows", "passed"), [(0, True), (1, False)])
def test_an_audit_passed_when_no_batch_had_a_failing_row(failing_rows: int, passed: bool) -> None:
    assert audit_result("recent", D1, failing_rows=failing_rows).passed is passed


def test_audits_without_their_model_are_handed_out_as_soon_as_it_is_through() -> None:
    ledger = Ledger([], [ORDERS])
    assert ledger.feed(audited("not_null", days(1, 3), 2)) == []
    assert ledger.feed(msg.NodeAudited(ORDERS, (D3,), None)) == [
        AuditOnlyOutcome(ORDERS, (audit_result("not_null", days(1, 3), failing_rows=2),), (D3,), None)
    ]
    assert ledger.contradictions == ()


def test_adjoining_intervals_that_are_due_are_merged() -> None:
    (audited_only,) = fold([msg.NodeAudited(ORDERS, (D1, D2, days(4, 4)), None)], requested=[])
    assert audited_only == AuditOnlyOutcome(ORDERS, (), (days(1, 2), days(4, 4)), None)


def test_audits_that_could_not_be_evaluated_say_why() -> None:
    assert fold([msg.NodeAudited(ORDERS, (), "no such table")], requested=[]) == [
        AuditOnlyOutcome(ORDERS, (), (), "no such table")
    ]


@pytest.mark.parametrize(
    ("events", "death", "error"),
    [
        (
            [opened(missing=(ORDERS,)), msg.EvaluationFinished("not_run")],
            None,
            NOT_PROMOTED,
        ),
        ([OPENED, SUCCEEDED], None, "SQLMesh ended the run without evaluating them."),
        (
            [OPENED, msg.NodeAudited(STAGING, (), None), msg.RequestFailed("EvaluationError", "cancelled")],
            None,
            "cancelled",
        ),
        ([OPENED, msg.NodeAudited(STAGING, (), None)], "killed", "killed"),
    ],
    ids=["not promoted", "not evaluated", "the request failed", "the worker died"],
)
def test_a_node_of_which_the_audits_were_not_evaluated_is_not_passed_over_in_silence(
    events: list[msg.Event], death: str | None, error: str
) -> None:
    outcomes = fold(events, requested=[], audit_only=[ORDERS], death=death)
    assert [one for one in outcomes if one.fqn == ORDERS] == [AuditOnlyOutcome(ORDERS, (), (), error)]


@pytest.mark.parametrize(
    ("events", "death"),
    [([OPENED, msg.RequestFailed("DeclarationError", "a wrong date")], None), ([], "killed"), ([OPENED], "killed")],
    ids=["refused", "died before it said anything", "died before the plan"],
)
def test_a_run_that_ends_before_sqlmesh_has_planned_cuts_nothing_off(
    events: list[msg.Event], death: str | None
) -> None:
    assert fold(events, requested=[ORDERS], audit_only=[STAGING], death=death) == []


def test_a_signal_that_fails_before_the_plan_cuts_off_the_other_models() -> None:
    failed = [OPENED, DIVISION, msg.RequestFailed("EvaluationError", "A signal raised an error.")]
    outcomes = fold(failed, requested=[ORDERS, STAGING])
    assert sorted(kinds(outcomes)) == sorted([(ORDERS, Outcome.FAILED), (STAGING, Outcome.INTERRUPTED)])


def test_audits_evaluated_before_the_worker_died_are_not_lost() -> None:
    (outcome,) = fold([audited("not_null", D1, 2)], requested=[], audit_only=[ORDERS], death="killed")
    assert outcome == AuditOnlyOutcome(ORDERS, (audit_result("not_null", D1, failing_rows=2),), (), "killed")


# -- a plan lands in mid-run, and SQLMesh starts over ---------------------------------------------


def test_work_of_the_first_pass_counts_when_the_second_has_nothing_left_to_do() -> None:
    again = msg.NodeUpToDate(ORDERS, "all complete intervals are computed", day(4), day(2))
    (outcome,) = fold([OPENED, TWO_BATCHES, batch(0, D1), START_OVER, again, SUCCEEDED])
    assert (outcome.outcome, outcome.intervals) == (Outcome.EXECUTED, (D1,))
    assert (outcome.planned_batches, outcome.finished_batches, outcome.again) == (1, 1, False)


@pytest.mark.parametrize(
    ("told", "outcome"),
    [([msg.NodeUpToDate(ORDERS, "done", None, None)], Outcome.EXECUTED), ([], Outcome.INTERRUPTED)],
    ids=["told that nothing is left to do", "untold"],
)
def test_work_of_the_first_pass_is_all_there_is_when_the_worker_dies_only_if_sqlmesh_has_said_so(
    told: list[msg.Event], outcome: Outcome
) -> None:
    outcomes = fold([OPENED, TWO_BATCHES, batch(0, D1), START_OVER, *told], death="killed")
    assert kinds(outcomes) == [(ORDERS, outcome)]


@pytest.mark.parametrize("again", [ONE_BATCH, msg.EvaluationPlanned({ORDERS: ()})], ids=["planned", "nothing is ready"])
@pytest.mark.parametrize(
    "idle",
    [msg.NodeUpToDate(ORDERS, "done", None, day(3)), msg.NodeWaiting(ORDERS, ("landed",), ())],
    ids=["up to date", "waiting"],
)
def test_what_left_a_model_out_of_the_first_pass_explains_nothing_about_the_second(
    idle: msg.Event, again: msg.Event
) -> None:
    (outcome,) = fold([OPENED, msg.EvaluationPlanned({}), idle, START_OVER, again], death="killed")
    assert isinstance(outcome, NodeOutcome)
    assert (outcome.outcome, outcome.errors) == (Outcome.INTERRUPTED, ("killed",))
    assert (outcome.reason, outcome.signals, outcome.last_interval_end) == (None, (), None)


def test_a_model_that_waited_in_the_first_pass_and_runs_in_the_second_is_executed() -> None:
    first = [msg.EvaluationPlanned({ORDERS: ()}), msg.NodeWaiting(ORDERS, ("landed",), ())]
    (outcome,) = fold([OPENED, *first, START_OVER, ONE_BATCH, batch(0, D1), SUCCEEDED])
    assert isinstance(outcome, NodeOutcome)
    assert (outcome.outcome, outcome.signals) == (Outcome.EXECUTED, ())


def test_work_of_both_passes_is_added_up() -> None:
    second = msg.EvaluationPlanned({ORDERS: (D2,)})
    (outcome,) = fold([OPENED, TWO_BATCHES, batch(0, D1), START_OVER, second, batch(0, D2), SUCCEEDED])
    assert (outcome.outcome, outcome.intervals) == (Outcome.EXECUTED, (days(1, 2),))
    assert (outcome.planned_batches, outcome.finished_batches) == (2, 2)
    assert (outcome.rows, outcome.duration_ms) == (20, 10)


def test_work_of_the_first_pass_is_named_when_the_second_fails() -> None:
    second = msg.EvaluationPlanned({ORDERS: (D2,)})
    events = [OPENED, TWO_BATCHES, batch(0, D1), START_OVER, second, failing_batch(0, D2), DIVISION, FAILED]
    (outcome,) = fold(events)
    assert (outcome.outcome, outcome.intervals) == (Outcome.PARTLY_EXECUTED, (D1,))


def test_failures_of_the_first_pass_are_void() -> None:
    plan = msg.EvaluationPlanned({STAGING: (D1,), ORDERS: (D1,)})
    first = [failing_batch(0, D1), DIVISION, msg.NodesBlocked({STAGING: (ORDERS,)})]
    second = [batch(0, D1, node=STAGING), batch(0, D1)]
    outcomes = fold([plan, *first, START_OVER, plan, *second, SUCCEEDED], requested=[STAGING, ORDERS])
    assert kinds(outcomes) == [(STAGING, Outcome.EXECUTED), (ORDERS, Outcome.EXECUTED)]
    assert all(outcome.errors == outcome.failed_audits == outcome.culprits == () for outcome in outcomes)


def test_failures_of_the_first_pass_explain_nothing_about_a_second_that_was_interrupted() -> None:
    events = [ONE_BATCH, failing_batch(0, D1), DIVISION, START_OVER, ONE_BATCH]
    (outcome,) = fold(events, death="killed")
    assert (outcome.outcome, outcome.errors) == (Outcome.INTERRUPTED, ("killed",))


def test_audits_of_batches_that_failed_in_the_first_pass_are_void() -> None:
    first = [audited("not_null", D1, 3), failing_batch(0, D1), AUDITS]
    second = [audited("not_null", D1, 0), batch(0, D1)]
    (outcome,) = fold([OPENED, ONE_BATCH, *first, START_OVER, ONE_BATCH, *second, SUCCEEDED])
    assert outcome.outcome is Outcome.EXECUTED
    assert outcome.audits == (audit_result("not_null", D1),)


def test_audits_of_batches_that_finished_in_the_first_pass_count() -> None:
    first = [audited("recent", D1, 1), batch(0, D1)]
    second = [msg.EvaluationPlanned({ORDERS: (D2,)}), audited("recent", D2, 2), batch(0, D2)]
    (outcome,) = fold([OPENED, TWO_BATCHES, *first, START_OVER, *second, SUCCEEDED])
    assert outcome.audits == (audit_result("recent", days(1, 2), failing_rows=3),)


def test_an_executed_model_that_is_not_planned_again_stays_as_it_was_handed_out() -> None:
    events = [OPENED, ONE_BATCH, batch(0, D1), START_OVER, msg.NodeUpToDate(ORDERS, "done", None, None), SUCCEEDED]
    assert kinds(fold(events)) == [(ORDERS, Outcome.EXECUTED)]


@pytest.mark.parametrize(
    ("now", "outcome"),
    [
        (PROMOTED, Outcome.EXECUTED),
        (replace(PROMOTED, metadata_hash="another"), Outcome.EXECUTED),
        (replace(PROMOTED, version="another"), Outcome.UP_TO_DATE),
        (replace(PROMOTED, data_hash="another"), Outcome.UP_TO_DATE),
    ],
    ids=["as it was", "another description", "another version", "other code in the same table"],
)
def test_batches_of_code_that_is_promoted_no_more_do_not_count_for_what_is(
    now: msg.PromotedNode, outcome: Outcome
) -> None:
    first = [OPENED, TWO_BATCHES, audited("recent", D1, 1), batch(0, D1)]
    second = [START_OVER, replace(opened(ORDERS), promoted={ORDERS: now}), up_to_date_again(), SUCCEEDED]
    (told,) = fold([*first, *second])
    assert isinstance(told, NodeOutcome)
    assert (told.outcome, told.promoted) == (outcome, now)
    assert bool(told.intervals) == bool(told.audits) == (outcome is Outcome.EXECUTED)


def up_to_date_again() -> msg.NodeUpToDate:
    return msg.NodeUpToDate(ORDERS, "the plan has computed it", None, None)


def test_an_executed_model_that_is_planned_again_is_handed_out_again() -> None:
    work = [audited("recent", D1), msg.RowsCounted(ORDERS, 7), batch(0, D1)]
    more = [audited("recent", D2), msg.RowsCounted(ORDERS, 9), batch(0, D2, rows=20)]
    second = msg.EvaluationPlanned({ORDERS: (D2,)})
    first, again = fold([OPENED, ONE_BATCH, *work, START_OVER, second, *more, SUCCEEDED])
    assert (first.again, first.intervals, first.rows, first.row_count) == (False, (D1,), 10, 7)
    assert (again.again, again.intervals, again.rows, again.row_count) == (True, (D2,), 20, 9)
    assert again.audits == (audit_result("recent", D2),)


def test_the_rows_counted_in_the_first_pass_are_not_those_of_the_second() -> None:
    first = [ONE_BATCH, msg.RowsCounted(ORDERS, 7), batch(0, D1)]
    second = [START_OVER, msg.EvaluationPlanned({ORDERS: (D2,)}), batch(0, D2)]
    once, again = fold([OPENED, *first, *second, SUCCEEDED])
    assert isinstance(once, NodeOutcome)
    assert isinstance(again, NodeOutcome)
    assert (once.row_count, again.again, again.row_count) == (7, True, None)


def test_an_executed_model_that_fails_in_the_second_pass_is_handed_out_as_failed() -> None:
    events = [ONE_BATCH, batch(0, D1), START_OVER, ONE_BATCH, failing_batch(0, D1), DIVISION, FAILED]
    assert [(one.outcome, one.again) for one in fold(events)] == [(Outcome.EXECUTED, False), (Outcome.FAILED, True)]


def test_a_model_executed_in_the_first_pass_and_failed_in_the_second_without_a_plan_is_a_contradiction() -> None:
    ledger = Ledger([ORDERS])
    for event in (ONE_BATCH, batch(0, D1), START_OVER, DIVISION, FAILED):
        ledger.feed(event)
    assert ledger.contradictions


# -- contradictions and the end -------------------------------------------------------------------


def test_a_model_that_was_executed_without_being_requested_is_a_contradiction() -> None:
    ledger = Ledger([ORDERS])
    plan = msg.EvaluationPlanned({ORDERS: (D1,), MART: (D1,)})
    for event in (opened(ORDERS), plan, batch(0, D1), batch(0, D1, node=MART), SUCCEEDED):
        assert all(outcome.fqn == ORDERS for outcome in ledger.feed(event))
    assert ledger.contradictions == (f"SQLMesh executed {MART}, which was not requested.",)


def test_a_table_that_was_counted_without_being_requested_is_a_contradiction() -> None:
    ledger = Ledger([ORDERS])
    assert ledger.feed(msg.RowsCounted(MART, 7)) == []
    assert ledger.contradictions == (f"SQLMesh executed {MART}, which was not requested.",)


def test_a_failed_run_in_which_nobody_failed_is_a_contradiction() -> None:
    ledger = Ledger([ORDERS])
    for event in (ONE_BATCH, batch(0, D1), FAILED):
        ledger.feed(event)
    assert ledger.contradictions == ("SQLMesh reported a failed run but named no model that failed.",)


@pytest.mark.parametrize("evidence", [DIVISION, msg.NodesBlocked({ORDERS: (STAGING,)})], ids=["failed", "blocked"])
def test_a_failed_run_in_which_somebody_failed_is_none(evidence: msg.Event) -> None:
    ledger = Ledger([ORDERS])
    for event in (ONE_BATCH, evidence, FAILED):
        ledger.feed(event)
    assert ledger.contradictions == ()


def test_a_model_that_is_executed_and_failed_is_a_contradiction() -> None:
    ledger = Ledger([ORDERS])
    for event in (ONE_BATCH, batch(0, D1), DIVISION, FAILED):
        ledger.feed(event)
    assert ledger.contradictions == (
        f"SQLMesh reported that {ORDERS} was executed, and then that it failed: {DIVISION.message}",
    )


def test_the_ledger_is_closed_by_the_last_event_and_closing_it_again_adds_nothing() -> None:
    ledger = Ledger([ORDERS])
    assert len(ledger.feed(SUCCEEDED)) == 1
    assert ledger.close("the worker died") == []
    assert ledger.feed(msg.RequestFailed("WorkerError", "died")) == []


@pytest.mark.parametrize(
    "event",
    [msg.LogLine("error", "a driver's chatter", "output"), msg.SecretsKnown(("hunter2",))],
    ids=lambda one: one.type,
)
def test_what_is_not_about_a_node_changes_nothing(event: msg.Event) -> None:
    assert fold([event]) == []
    assert fold([OPENED, ONE_BATCH, event, batch(0, D1), event, SUCCEEDED]) == fold([OPENED, ONE_BATCH, batch(0, D1)])


# -- whatever happens -----------------------------------------------------------------------------

NODES = ("a", "b", "c")
nodes = st.sampled_from(NODES)
texts = st.sampled_from(["x", "y"])
names = st.lists(texts, max_size=2).map(tuple)
starts_and_lengths = st.tuples(st.integers(0, 3), st.integers(1, 3))
intervals = starts_and_lengths.map(lambda pair: (pair[0] * DAY, (pair[0] + pair[1]) * DAY))
amounts = st.none() | st.integers(0, 9)
durations = st.sampled_from([1, 2, 3, None])
plans = st.builds(msg.EvaluationPlanned, st.dictionaries(nodes, st.lists(intervals, max_size=2).map(tuple)))
evidence = st.one_of(
    st.builds(msg.BatchFinished, nodes, st.integers(0, 2), intervals, durations, amounts, amounts),
    st.builds(
        msg.AuditEvaluated, nodes, texts, st.integers(0, 1), st.just({}), st.booleans(), amounts, texts, intervals
    ),
    st.builds(msg.RowsCounted, nodes, st.integers(0, 9)),
    st.builds(msg.NodeFailed, nodes, texts, texts, names, st.booleans()),
    st.builds(msg.NodesBlocked, st.dictionaries(nodes, st.lists(nodes, max_size=2).map(tuple), max_size=2)),
    st.builds(msg.NodeUpToDate, nodes, texts, amounts, amounts),
    st.builds(msg.NodeWaiting, nodes, names, names, names),
    st.builds(msg.LogLine, st.just("info"), texts, texts),
)
finishes = st.builds(msg.EvaluationFinished, st.sampled_from(get_args(msg.Status)))
last_words = st.lists(finishes | finishes | st.builds(msg.RequestFailed, texts, texts), max_size=2)


@dataclass(frozen=True)
class Attempt:
    """What happened until the worker died or had said its last word, and what then stays open for another attempt.

    Attributes:
        kept: Which of the open nodes stay open; None for those that are worth it.
    """

    events: tuple[msg.Event, ...]
    kept: frozenset[str] | None
    was_interrupted: bool


@dataclass(frozen=True)
class Run:
    """What was asked for, and the attempts at it."""

    requested: tuple[str, ...]
    audit_only: tuple[str, ...]
    attempts: tuple[Attempt, ...]

    @property
    def events(self) -> list[msg.Event]:
        return [event for attempt in self.attempts for event in attempt.events]

    def up_to_the_end(self, ledger: Ledger) -> list[NodeOutcome | AuditOnlyOutcome]:
        """What is handed out without the last words of the last attempt."""
        handed_out: list[NodeOutcome | AuditOnlyOutcome] = []
        for number, attempt in enumerate(self.attempts, start=1):
            handed_out += [one for event in attempt.events if not is_last(event) for one in ledger.feed(event)]
            if number < len(self.attempts):
                worth_it = ledger.worth_retrying(attempt.was_interrupted)
                handed_out += ledger.pause(worth_it if attempt.kept is None else attempt.kept & open_nodes(ledger))
        return handed_out

    @property
    def handed_out(self) -> list[NodeOutcome | AuditOnlyOutcome]:
        ledger = Ledger(self.requested, self.audit_only)
        handed_out = self.up_to_the_end(ledger)
        handed_out += [one for event in self.attempts[-1].events if is_last(event) for one in ledger.feed(event)]
        return handed_out + ledger.close("the worker died")

    @property
    def outcomes(self) -> list[NodeOutcome]:
        return [one for one in self.handed_out if isinstance(one, NodeOutcome)]


def is_last(event: msg.Event) -> bool:
    return isinstance(event, msg.EvaluationFinished | msg.RequestFailed)


@st.composite
def any_runs(draw: st.DrawFn) -> Run:
    """Batches of up to two plans an attempt in any order, most of them finished, among evidence of any kind."""
    requested = draw(st.lists(nodes, unique=True).map(tuple))
    missing = draw(st.sampled_from([(), (), (), ("a",)]))
    to_audit = [node for node in NODES if node not in requested]
    run = Run(requested, tuple(to_audit), ())
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        through = [node for node in to_audit if node not in missing and draw(st.booleans())]
        to_audit = [node for node in to_audit if node not in through]
        attempt = draw(any_attempts(missing, [msg.NodeAudited(node, (), None) for node in through]))
        run = replace(run, attempts=(*run.attempts, attempt))
    return run


@st.composite
def any_attempts(draw: st.DrawFn, missing: tuple[str, ...], through: list[msg.NodeAudited]) -> Attempt:
    events: list[msg.Event] = [opened(*NODES, missing=missing)]
    for plan in draw(st.lists(plans, min_size=1, max_size=2)):
        batches = [(node, n, one) for node, planned in plan.batches.items() for n, one in enumerate(planned)]
        work: list[msg.Event] = [batch(n, one, node=node, duration_ms=draw(durations)) for node, n, one in batches]
        noise = draw(st.lists(evidence, max_size=3))
        events += [plan, *draw(st.permutations([*work, *noise]))]
    events += [*draw(st.lists(evidence, max_size=2)), *through, *draw(last_words)]
    return Attempt(tuple(events), draw(st.none() | st.frozensets(nodes)), draw(st.booleans()))


whatever = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@whatever
@given(any_runs())
def test_the_ledger_balances_whatever_happens(run: Run) -> None:
    outcomes = run.outcomes
    assert sorted(outcome.fqn for outcome in outcomes if not outcome.again) == sorted(run.requested)
    assert {outcome.fqn for outcome in outcomes} == {*run.requested}
    audited_only = [one.fqn for one in run.handed_out if isinstance(one, AuditOnlyOutcome)]
    assert sorted(audited_only) == sorted(run.audit_only)


@whatever
@given(any_runs(), nodes)
def test_a_failure_that_sqlmesh_names_at_the_end_is_never_swallowed(run: Run, node: str) -> None:
    ledger = Ledger(run.requested, run.audit_only)
    named = msg.NodeFailed(node, "Error", "boom", ())
    outcomes = run.up_to_the_end(ledger)
    outcomes += [one for event in (named, FAILED) for one in ledger.feed(event)]
    failed = [fqn for fqn, outcome in kinds(outcomes) if outcome.is_failure]
    assert node in failed or ledger.contradictions


@whatever
@given(any_runs(), nodes)
def test_a_persistent_failure_of_an_open_node_is_never_worth_another_attempt(run: Run, node: str) -> None:
    ledger = Ledger(run.requested, run.audit_only)
    run.up_to_the_end(ledger)
    ledger.feed(msg.NodeFailed(node, "Error", "boom", ()))
    assert node not in ledger.worth_retrying(True) | ledger.worth_retrying(False)


@whatever
@given(any_runs())
def test_what_is_worth_another_attempt_is_open_and_pausing_settles_the_rest(run: Run) -> None:
    ledger = Ledger(run.requested, run.audit_only)
    run.up_to_the_end(ledger)
    before = open_nodes(ledger)
    kept = ledger.worth_retrying(False)
    assert kept <= ledger.worth_retrying(True) <= before <= {*run.requested}
    assert {fqn for fqn, _ in kinds(ledger.pause(kept))} == before - kept
    assert open_nodes(ledger) == kept


@whatever
@given(any_runs())
def test_every_attempt_that_a_node_stayed_open_for_is_counted(run: Run) -> None:
    assert all(1 <= outcome.attempts <= len(run.attempts) for outcome in run.outcomes)


@whatever
@given(any_runs())
def test_executed_means_that_batches_finished_with_a_duration(run: Run) -> None:
    worked = {one.fqn for one in run.events if isinstance(one, msg.BatchFinished) and one.duration_ms is not None}
    for outcome in run.outcomes:
        if outcome.outcome is Outcome.EXECUTED:
            assert outcome.fqn in worked
            assert outcome.finished_batches >= outcome.planned_batches
            assert outcome.intervals
            assert not outcome.errors


@whatever
@given(any_runs())
def test_every_failure_says_what_went_wrong(run: Run) -> None:
    for outcome in run.outcomes:
        assert bool(outcome.errors) == (outcome.outcome.is_failure and outcome.outcome is not Outcome.BLOCKED)


@whatever
@given(any_runs())
def test_intervals_come_in_order_with_gaps_between_them(run: Run) -> None:
    for outcome in run.outcomes:
        assert all(start < end for start, end in outcome.intervals)
        assert all(one[1] < other[0] for one, other in zip(outcome.intervals, outcome.intervals[1:]))


@pytest.mark.parametrize("asked", ["requested", "audit_only"])
def test_a_repeated_first_event_changes_nothing(asked: str) -> None:
    first = opened(missing=(ORDERS,))
    assert len(fold([first, first, SUCCEEDED], **{"requested": (), asked: (ORDERS,)})) == 1


# -- evidence that SQLMesh should never give, and evidence that arrives before an end -------------


def test_a_batch_that_was_never_planned_counts_for_nothing_and_is_a_contradiction() -> None:
    ledger = Ledger([ORDERS])
    for event in (opened(ORDERS), TWO_BATCHES, batch(7, D1), batch(9, D2)):
        assert not ledger.feed(event)
    assert ledger.contradictions == (f"SQLMesh finished a batch of {ORDERS} that it had not planned.",)


def test_work_of_the_first_pass_is_not_hidden_by_a_signal_in_the_second() -> None:
    second = [START_OVER, msg.EvaluationPlanned({ORDERS: ()}), msg.NodeWaiting(ORDERS, ("landed",), ())]
    (outcome,) = fold([OPENED, TWO_BATCHES, batch(0, D1), *second, SUCCEEDED])
    assert (outcome.outcome, outcome.intervals) == (Outcome.EXECUTED, (D1,))


def test_what_is_known_of_a_model_outlives_the_death_of_the_worker() -> None:
    ledger = Ledger([ORDERS])
    for event in (opened(ORDERS), msg.NodeUpToDate(ORDERS, "done", None, None)):
        ledger.feed(event)
    assert [outcome.outcome for outcome in ledger.close("killed while auditing")] == [Outcome.UP_TO_DATE]
