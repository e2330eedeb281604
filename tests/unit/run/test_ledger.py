"""The ledger: it takes events and returns one outcome for each requested node."""

import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from unit.builders import DAY, days, fqn, message_types
from unit.outcome_table import (
    CANCELLED,
    D1,
    D2,
    D3,
    DIVISION,
    EMPTY_PLAN,
    FAILED,
    NOT_PROMOTED,
    NOT_RUN,
    ONE_BATCH,
    ONE_GAP,
    OPENED,
    ORDERS,
    OUTCOME_TABLE,
    PROMOTED,
    STAGING,
    SUCCEEDED,
    TWO_BATCHES,
    Events,
    Row,
    audit_result,
    audited,
    batch,
    open_nodes,
    opened,
    raised,
)

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.report.outcomes import NOT_IDLE, AuditOnlyOutcome, NodeOutcome, Outcome
from dg_sqlmesh_component.run.ledger import Ledger

REVENUE = fqn("marts.revenue")
COMPUTED_BY_PLAN = msg.NodeIdle(ORDERS, "the plan has computed it")


def outcomes_of(
    events: Iterable[msg.Event],
    requested: Iterable[str] = (ORDERS,),
    *,
    audit_only: Iterable[str] = (),
    worker_death: str | None = None,
    earlier: Iterable[msg.Event] = (),
) -> list[Any]:
    """Return all `NodeOutcome` and, for `audit_only`, `AuditOnlyOutcome` in the order in which the ledger returns them.

    Args:
        worker_death: Why there is no last event.
        earlier: Events of a first attempt. It leaves every unsettled node open.
    """
    ledger = Ledger(requested, audit_only)
    outcomes = [outcome for event in earlier for outcome in ledger.feed(event)]
    outcomes += ledger.pause(open_nodes(ledger)) if earlier else []
    outcomes += [outcome for event in events for outcome in ledger.feed(event)]
    return outcomes + (ledger.close(worker_death) if worker_death else [])


def node_outcomes(outcomes: Iterable[NodeOutcome | AuditOnlyOutcome]) -> list[tuple[str, Outcome]]:
    return [(outcome.fqn, outcome.outcome) for outcome in outcomes if isinstance(outcome, NodeOutcome)]


# -- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", OUTCOME_TABLE, ids=lambda row: row.title)
def test_events_give_the_outcome_of_the_table(row: Row) -> None:
    (outcome,) = outcomes_of(row.events, worker_death=row.worker_death, earlier=row.earlier)
    assert replace(outcome, computed_until=None) == row.outcome
    batches = [event for event in row.events if isinstance(event, msg.BatchFinished)]
    assert not batches or outcome.computed_until == max(batch.at for batch in batches)


def test_outcome_table_covers_every_outcome() -> None:
    assert {row.outcome.outcome for row in OUTCOME_TABLE} == set(Outcome)


def test_outcome_table_covers_every_event_about_a_node() -> None:
    about_records = {msg.StateHeld, msg.StateLocked, msg.OtherTablesFound, msg.DataComparedWithRecords}
    logged_only = {msg.RestatementPlanned, msg.BatchesRunning, msg.QueriesNotCancelled, msg.SecretsKnown, msg.LogLine}
    not_about_nodes = {msg.ProjectLoaded, *about_records, *logged_only, msg.NodeAudited}
    about_nodes = message_types(msg.Event, of="protocol") - not_about_nodes
    assert {type(event) for row in OUTCOME_TABLE for event in row.events} == about_nodes


# -- audits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing_rows", [0, 1], ids=["passed", "failed"])
def test_ledger_keeps_few_queries_of_the_audits_of_a_long_backfill(failing_rows: int) -> None:
    ledger = Ledger([ORDERS])
    ledger.feed(ONE_BATCH)
    tracemalloc.start()
    for number in range(1_000):
        sample = msg.Sample(("id",), ((f"{number} {'y' * 4_000}",),))
        evaluation = audited("recent", D1, failing_rows, query=f"{number} {'x' * 4_000}")
        ledger.feed(replace(evaluation, sample=sample))
    current, _ = tracemalloc.get_traced_memory()
    ledger.feed(batch(0, D1))
    settled, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert current < 1_000_000
    assert settled < 100_000


def test_skipped_audit_has_no_result() -> None:
    (outcome,) = outcomes_of([ONE_BATCH, audited("not_null", D1, None), audited("recent", D1), batch(0, D1)])
    assert [audit.name for audit in outcome.audits] == ["recent"]


def test_audit_of_the_whole_table_keeps_only_the_last_batch() -> None:
    """If a model has no time column, the audits of each batch read the whole table."""
    plan = msg.EvaluationPlanned({ORDERS: (D1, D2, D3)})
    found = [(D1, 3), (D2, 1), (D3, 2)]
    whole = [replace(audited("recent", interval, rows), of_whole_table=True) for interval, rows in found]
    (outcome,) = outcomes_of([OPENED, plan, *whole, *(batch(n, found[n][0]) for n in range(3)), SUCCEEDED])
    expected = audit_result("recent", days(1, 3), failing_rows=2)
    assert outcome.audits == (replace(expected, of_whole_table=True, failed_intervals=(D3,), shown=D3),)


@pytest.mark.parametrize(("failing_rows", "audits"), [(0, []), (1, ["recent"])])
@pytest.mark.parametrize("end", [[], [raised(1, D2), DIVISION, FAILED]], ids=["killed", "failed"])
def test_audit_of_the_whole_table_that_has_passed_before_the_last_batch_has_no_result(
    end: list[msg.Event], failing_rows: int, audits: list[str]
) -> None:
    """The last batch may have written other rows. What has failed stays known."""
    whole = replace(audited("recent", D1, failing_rows), of_whole_table=True)
    events = [OPENED, TWO_BATCHES, msg.BatchStarted(ORDERS), whole, batch(0, D1), msg.BatchStarted(ORDERS), *end]
    (outcome,) = outcomes_of(events, worker_death=None if end else "killed")
    assert [audit.name for audit in outcome.audits] == audits


def test_result_of_an_audit_has_all_that_its_evaluation_reports() -> None:
    more: dict[str, Any] = {"audited_data": msg.AuditedData("3117", "4001"), "sample": msg.Sample(("id",), (("1",),))}
    evaluations = [
        replace(audited("recent", D1, 1), **more),
        replace(audited("recent", D2, None), **more, error="no t"),
    ]
    (outcome,) = outcomes_of([OPENED, TWO_BATCHES, *evaluations, batch(0, D1), batch(1, D2)])
    expected = audit_result("recent", days(1, 2), failing_rows=1)
    assert outcome.audits == (replace(expected, **more, error="no t", failed_intervals=(days(1, 2),), shown=D1),)


def test_audits_selected_alone_have_coverage_times_and_error() -> None:
    coverage = msg.IntervalCoverage(ORDERS, days(1, 2))
    (outcome,) = outcomes_of([coverage, msg.NodeAudited(ORDERS, (D1, D2), None, 7, 5)], [], audit_only=[ORDERS])
    assert outcome == AuditOnlyOutcome(ORDERS, (), (days(1, 2),), None, coverage, evaluated_at=7, altered_at=5)
    (without,) = Ledger([]).feed(msg.NodeAudited(ORDERS, (), "no such table"))
    assert without == AuditOnlyOutcome(ORDERS, (), (), "no such table", evaluated_at=0)


@pytest.mark.parametrize(
    ("events", "worker_death", "error"),
    [
        ([opened(missing=(ORDERS,)), NOT_RUN], None, NOT_PROMOTED),
        ([OPENED, SUCCEEDED], None, "SQLMesh ended the run without evaluating them."),
        ([OPENED, msg.NodeAudited(STAGING, (), None), CANCELLED], None, CANCELLED.message),
        ([OPENED, msg.NodeAudited(STAGING, (), None)], "killed", "killed"),
    ],
    ids=["not promoted", "not evaluated", "the request failed", "the worker died"],
)
def test_unevaluated_audits_have_the_reason(events: list[msg.Event], worker_death: str | None, error: str) -> None:
    outcomes = outcomes_of(events, [], audit_only=[ORDERS], worker_death=worker_death)
    assert [outcome for outcome in outcomes if outcome.fqn == ORDERS] == [AuditOnlyOutcome(ORDERS, (), (), error)]


def test_traceback_of_an_unexpected_error_is_not_repeated_for_each_interrupted_model() -> None:
    unexpected = msg.RequestFailed("WorkerError", "This is a bug.\n\nTraceback (most recent call last): ...")
    outcomes = outcomes_of([OPENED, ONE_BATCH, msg.BatchStarted(ORDERS), unexpected], [ORDERS, STAGING])
    assert {outcome.errors for outcome in outcomes} == {("The worker raised an unexpected error.",)}


@pytest.mark.parametrize(
    ("failure", "needs_correction"),
    [
        (DIVISION, True),
        (msg.NodeFailed(ORDERS, "OperationalError", "the connection was lost", (), is_transient=True), False),
        (msg.NodeFailed(ORDERS, "WorkerError", "This is a bug.", ()), False),
    ],
    ids=["error of the model", "transient error", "bug of this package"],
)
def test_model_needs_correction_only_after_an_error_of_its_own(failure: msg.NodeFailed, needs_correction: bool) -> None:
    (outcome,) = outcomes_of([OPENED, ONE_BATCH, raised(0, D1), failure, FAILED])
    assert (outcome.outcome, outcome.needs_correction) == (Outcome.FAILED, needs_correction)


def test_no_node_has_an_outcome_if_the_run_ends_before_its_first_batch() -> None:
    """As if a `before_all` statement fails."""
    statement = msg.RequestFailed("EvaluationError", "An error occurred during execution of a statement.")
    assert outcomes_of([OPENED, ONE_BATCH, statement], [ORDERS, STAGING]) == []


def test_audits_evaluated_before_the_worker_died_are_kept() -> None:
    (outcome,) = outcomes_of([audited("not_null", D1, 2)], [], audit_only=[ORDERS], worker_death="killed")
    assert outcome == AuditOnlyOutcome(ORDERS, (audit_result("not_null", D1, failing_rows=2),), (), "killed")


# -- a plan is applied during the run, and SQLMesh starts over ------------------------------------


@pytest.mark.parametrize(
    ("second_pass", "outcome"),
    [([msg.NodeIdle(ORDERS, "done")], Outcome.EXECUTED), ([], Outcome.INTERRUPTED)],
    ids=["reported up to date", "not reported"],
)
def test_batches_of_the_first_pass_mean_executed_after_a_worker_death_only_if_reported_up_to_date(
    second_pass: list[msg.Event], outcome: Outcome
) -> None:
    outcomes = outcomes_of([OPENED, TWO_BATCHES, batch(0, D1), EMPTY_PLAN, *second_pass], worker_death="killed")
    assert node_outcomes(outcomes) == [(ORDERS, outcome)]


def test_coverage_is_void_if_sqlmesh_starts_over() -> None:
    (outcome,) = outcomes_of([OPENED, ONE_BATCH, ONE_GAP, EMPTY_PLAN, ONE_BATCH, batch(0, D1)])
    assert outcome.coverage is None


def test_failed_audit_has_a_query_if_the_batch_that_failed_it_first_is_computed_again() -> None:
    plan = msg.EvaluationPlanned({ORDERS: (D1, D2, D3)})
    failing = [audited("recent", day, 1, query=query) for day, query in ((D1, "void"), (D2, "b"), (D3, "c"))]
    first: Events = [plan, *failing, raised(0, D1), batch(1, D2), batch(2, D3), DIVISION, EMPTY_PLAN]
    second: Events = [ONE_BATCH, audited("recent", D1, 1, query="a"), batch(0, D1), SUCCEEDED]
    (outcome,) = outcomes_of([OPENED, *first, *second])
    expected = audit_result("recent", days(1, 3), failing_rows=3, query="a")
    assert outcome.audits == (replace(expected, shown=D1),)


@pytest.mark.parametrize(
    ("promoted_now", "outcome"),
    [
        (PROMOTED, Outcome.EXECUTED),
        (replace(PROMOTED, metadata_hash="another"), Outcome.EXECUTED),
        (replace(PROMOTED, version="another"), Outcome.UP_TO_DATE),
        (replace(PROMOTED, data_hash="another"), Outcome.UP_TO_DATE),
    ],
    ids=["as it was", "another description", "another version", "other code in the same table"],
)
def test_batches_of_a_replaced_version_do_not_count(promoted_now: msg.PromotedVersion, outcome: Outcome) -> None:
    first: Events = [OPENED, TWO_BATCHES, audited("recent", D1, 1), batch(0, D1)]
    second: Events = [EMPTY_PLAN, replace(opened(ORDERS), promoted={ORDERS: promoted_now}), COMPUTED_BY_PLAN, SUCCEEDED]
    (node_outcome,) = outcomes_of([*first, *second])
    assert isinstance(node_outcome, NodeOutcome)
    assert (node_outcome.outcome, node_outcome.promoted) == (outcome, promoted_now)
    assert bool(node_outcome.intervals) == bool(node_outcome.audits) == (outcome is Outcome.EXECUTED)


def test_executed_model_that_fails_in_the_second_pass_is_returned_as_failed() -> None:
    events: Events = [ONE_BATCH, batch(0, D1), EMPTY_PLAN, ONE_BATCH, raised(0, D1), DIVISION, FAILED]
    assert [(outcome.outcome, outcome.is_second_outcome) for outcome in outcomes_of(events)] == [
        (Outcome.EXECUTED, False),
        (Outcome.FAILED, True),
    ]


def test_batches_that_continue_a_plan_leave_the_evidence() -> None:
    more = msg.EvaluationPlanned({STAGING: (D1,)}, continues=True)
    events: Events = [OPENED, ONE_BATCH, raised(0, D1), DIVISION, more, batch(0, D1, node=STAGING), FAILED]
    outcomes = outcomes_of(events, [ORDERS, STAGING])
    assert node_outcomes(outcomes) == [(STAGING, Outcome.EXECUTED), (ORDERS, Outcome.FAILED)]


def test_executed_model_that_a_continued_plan_plans_again_starts_over() -> None:
    first: Events = [OPENED, TWO_BATCHES, batch(0, D1), batch(1, D2)]
    more = msg.EvaluationPlanned({ORDERS: (D3,)}, continues=True)
    once, again = outcomes_of([*first, more, batch(0, D3), SUCCEEDED])
    assert (once.intervals, again.intervals, again.is_second_outcome) == ((days(1, 2),), (D3,), True)


# -- questions during the run ---------------------------------------------------------------------


def test_model_runs_from_its_first_batch_until_its_last_one_ends_or_sqlmesh_starts_over() -> None:
    ledger = Ledger([STAGING, ORDERS])
    running = []
    start = msg.BatchStarted(ORDERS)
    for event in (TWO_BATCHES, start, start, batch(0, D1), raised(1, D2), start, EMPTY_PLAN):
        ledger.feed(event)
        running.append(ledger.running)
    assert running == [(), (ORDERS,), (ORDERS,), (ORDERS,), (), (ORDERS,), ()]


def test_model_is_up_to_date_once_sqlmesh_reports_it() -> None:
    ledger = Ledger([STAGING, ORDERS])
    done = msg.NodeIdle(STAGING, "done")
    ledger.feed(done)
    assert (ledger.idle(STAGING), ledger.idle(ORDERS)) == (done, None)
    nodes_up_to_date = [fqn for fqn in (STAGING, ORDERS, REVENUE) if ledger.is_up_to_date(fqn)]
    ledger.feed(SUCCEEDED)
    assert nodes_up_to_date == [STAGING] == [fqn for fqn in (STAGING, ORDERS, REVENUE) if ledger.is_up_to_date(fqn)]


def test_restatement_adds_nodes_and_leaves_out_others() -> None:
    ledger = Ledger([REVENUE, ORDERS])
    for event in (TWO_BATCHES, batch(0, D1)):
        ledger.feed(event)
    ledger.add([ORDERS, STAGING])
    ledger.leave_out([REVENUE, "never requested"])
    outcomes = [outcome for outcome in ledger.close("killed") if isinstance(outcome, NodeOutcome)]
    assert [(outcome.fqn, outcome.finished_batches) for outcome in outcomes] == [(ORDERS, 1), (STAGING, 0)]


def test_outcomes_that_become_certain_after_a_cancel_are_those_of_a_cancelled_run() -> None:
    ledger = Ledger([STAGING, ORDERS])
    events = (msg.EvaluationPlanned({STAGING: (D1,), ORDERS: (D1,)}), batch(0, D1, node=STAGING))
    before = [outcome for event in events for outcome in ledger.feed(event)]
    ledger.cancel()
    cancelled = [
        outcome.is_cancelled for outcome in [*before, *ledger.close("killed")] if isinstance(outcome, NodeOutcome)
    ]
    assert cancelled == [False, True]


def test_refused_model_is_failed_with_its_reason_once() -> None:
    ledger = Ledger([STAGING, ORDERS])
    refused = replace(OPENED, refused={ORDERS: "Its table is gone."})
    [outcome] = ledger.feed(refused)
    assert isinstance(outcome, NodeOutcome)
    assert (outcome.fqn, outcome.outcome, outcome.errors) == (ORDERS, Outcome.FAILED, ("Its table is gone.",))
    assert ledger.feed(refused) == []


@pytest.mark.parametrize("opens", [True, False])
def test_only_a_model_that_sent_queries_has_the_correlation_id_and_the_columns(opens: bool) -> None:
    first: Events = [replace(OPENED, correlation_id="run-7")] if opens else []
    work: Events = [msg.TableComputed(ORDERS, 7, {"id": "INT"}), batch(0, D1)]
    executed, idle = outcomes_of([*first, ONE_BATCH, *work, SUCCEEDED], [ORDERS, STAGING])
    assert (executed.correlation_id, executed.columns) == ("run-7" if opens else None, {"id": "INT"})
    assert (idle.correlation_id, idle.columns) == (None, {})


def test_failed_model_names_nothing_that_its_other_intervals_wait_for() -> None:
    held_back = msg.HeldBack((msg.Cause("unselected", STAGING),))
    plan = msg.EvaluationPlanned({ORDERS: (D1,)}, {ORDERS: held_back})
    (outcome,) = outcomes_of([OPENED, plan, raised(0, D1), DIVISION, FAILED])
    assert (outcome.outcome, outcome.idle) == (Outcome.FAILED, NOT_IDLE)


# -- contradictions and the end -------------------------------------------------------------------


EXECUTED_AND_FAILED = "was executed, and then that it failed: no 0"
BOTH_PLANNED = msg.EvaluationPlanned({STAGING: (D1,), ORDERS: (D1,)})
BOTH_EXECUTED = (BOTH_PLANNED, batch(0, D1, node=STAGING), batch(0, D1))
FAILURES = [replace(DIVISION, fqn=node, message=f"no {n}") for node in (STAGING, ORDERS) for n in range(2)]
CONTRADICTIONS: dict[str, tuple[tuple[msg.Event, ...], tuple[str, ...]]] = {
    "a failed run, and all models were executed": (
        (*BOTH_EXECUTED, FAILED),
        ("SQLMesh reported a failed run but named no model that failed.",),
    ),
    "a failed run, and a model failed": ((BOTH_PLANNED, batch(0, D1, node=STAGING), DIVISION, FAILED), ()),
    "a failed run, and a model was blocked": ((BOTH_PLANNED, msg.NodesBlocked({ORDERS: (REVENUE,)}), FAILED), ()),
    "each model failed twice after its execution": (
        (*BOTH_EXECUTED, *FAILURES, FAILED),
        tuple(f"SQLMesh reported that {node} {EXECUTED_AND_FAILED}" for node in (STAGING, ORDERS)),
    ),
    "an unrequested model was executed": (
        (msg.EvaluationPlanned({ORDERS: (D1,), REVENUE: (D1,)}), batch(0, D1), batch(0, D1, node=REVENUE), SUCCEEDED),
        (f"SQLMesh executed {REVENUE}, which was not requested.",),
    ),
    "an unplanned batch": (
        (TWO_BATCHES, batch(7, D1), batch(9, D2)),
        (f"SQLMesh finished a batch of {ORDERS}, which it had not planned.",),
    ),
    "a batch before the plan": (
        (OPENED, msg.BatchStarted(ORDERS), batch(0, D1)),
        (
            f"SQLMesh started a batch of {ORDERS}, which it had not planned.",
            f"SQLMesh finished a batch of {ORDERS}, which it had not planned.",
        ),
    ),
    "a batch and a table after the outcome": (
        (ONE_BATCH, batch(0, D1), msg.BatchStarted(ORDERS), msg.TableComputed(ORDERS, 7), SUCCEEDED),
        (
            f"SQLMesh started a batch of {ORDERS}, which already had its outcome.",
            f"SQLMesh computed the table of {ORDERS}, which already had its outcome.",
        ),
    ),
    "nothing to do for a planned model": (
        (ONE_BATCH, msg.NodeIdle(ORDERS, "done")),
        (f"SQLMesh reported nothing to compute for {ORDERS}, although it had planned batches of it.",),
    ),
    "nothing to do for an executed model, because a plan has landed": (
        (ONE_BATCH, batch(0, D1), EMPTY_PLAN, COMPUTED_BY_PLAN, SUCCEEDED),
        (),
    ),
}


@pytest.mark.parametrize(("events", "contradictions"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions_are_reported_once_and_only_they(
    events: tuple[msg.Event, ...], contradictions: tuple[str, ...]
) -> None:
    ledger = Ledger([STAGING, ORDERS])
    outcomes = [outcome for event in events for outcome in ledger.feed(event)]
    assert ledger.contradictions == contradictions
    assert {outcome.fqn for outcome in outcomes} == ({STAGING, ORDERS} if events[-1] in (FAILED, SUCCEEDED) else set())


def test_ledger_returns_nothing_after_the_last_event() -> None:
    ledger = Ledger([ORDERS])
    assert len(ledger.feed(SUCCEEDED)) == 1
    assert ledger.close("the worker died") == []
    assert ledger.feed(msg.RequestFailed("WorkerError", "died")) == []


# -- random events --------------------------------------------------------------------------------

NODES = ("a", "b", "c")
nodes = st.sampled_from(NODES)
texts = st.sampled_from(["x", "y"])
names = st.lists(texts, max_size=2).map(tuple)
starts_and_lengths = st.tuples(st.integers(0, 3), st.integers(1, 3))
intervals = starts_and_lengths.map(lambda pair: (pair[0] * DAY, (pair[0] + pair[1]) * DAY))
amounts = st.none() | st.integers(0, 9)
durations = st.sampled_from([1, 2, 3, None])
plans = st.builds(msg.EvaluationPlanned, st.dictionaries(nodes, st.lists(intervals, max_size=2).map(tuple)))
causes = st.builds(msg.Cause, st.sampled_from(get_args(msg.CauseKind)), nodes, names)
evidence = st.one_of(
    st.builds(msg.BatchFinished, nodes, st.integers(0, 2), intervals, durations, amounts, amounts),
    st.builds(
        msg.AuditEvaluated, nodes, texts, st.integers(0, 1), st.just({}), st.booleans(), amounts, texts, intervals
    ),
    st.builds(msg.TableComputed, nodes, st.integers(0, 9)),
    st.builds(msg.NodeFailed, nodes, texts, texts, names, st.booleans()),
    st.builds(msg.NodesBlocked, st.dictionaries(nodes, st.lists(nodes, max_size=2).map(tuple), max_size=2)),
    st.builds(msg.NodeIdle, nodes, texts, amounts, last_interval_end=amounts),
    st.builds(msg.NodeIdle, nodes, held_back=st.builds(msg.HeldBack, st.lists(causes, max_size=2).map(tuple))),
    st.builds(msg.LogLine, st.just("info"), texts, texts),
)
finishes = st.builds(msg.EvaluationFinished, st.sampled_from(get_args(msg.Status)))
last_words = st.lists(finishes | finishes | st.builds(msg.RequestFailed, texts, texts), max_size=2)


@dataclass(frozen=True)
class Attempt:
    """The events of one attempt, and the nodes that stay open for the next attempt.

    Attributes:
        kept_open: The nodes that stay open. None stands for those that are worth retrying.
    """

    events: tuple[msg.Event, ...]
    kept_open: frozenset[str] | None
    was_interrupted: bool


@dataclass(frozen=True)
class Run:
    """The requested nodes and the attempts."""

    requested: tuple[str, ...]
    audit_only: tuple[str, ...]
    attempts: tuple[Attempt, ...]

    @property
    def events(self) -> list[msg.Event]:
        return [event for attempt in self.attempts for event in attempt.events]

    def up_to_the_end(self, ledger: Ledger) -> list[NodeOutcome | AuditOnlyOutcome]:
        """Return the outcomes before the last events of the last attempt."""
        returned: list[NodeOutcome | AuditOnlyOutcome] = []
        for number, attempt in enumerate(self.attempts, start=1):
            returned += [outcome for event in attempt.events if not is_last(event) for outcome in ledger.feed(event)]
            if number < len(self.attempts):
                worth_it = ledger.worth_retrying(attempt.was_interrupted)
                kept = worth_it if attempt.kept_open is None else attempt.kept_open & open_nodes(ledger)
                returned += ledger.pause(kept)
        return returned

    @property
    def returned(self) -> list[NodeOutcome | AuditOnlyOutcome]:
        ledger = Ledger(self.requested, self.audit_only)
        returned = self.up_to_the_end(ledger)
        returned += [outcome for event in self.attempts[-1].events if is_last(event) for outcome in ledger.feed(event)]
        return returned + ledger.close("the worker died")

    @property
    def outcomes(self) -> list[NodeOutcome]:
        return [outcome for outcome in self.returned if isinstance(outcome, NodeOutcome)]


def is_last(event: msg.Event) -> bool:
    return isinstance(event, msg.EvaluationFinished | msg.RequestFailed)


@st.composite
def any_runs(draw: st.DrawFn) -> Run:
    """Draw attempts of up to two plans each: batches in any order, mostly finished, mixed with other events."""
    requested = draw(st.lists(nodes, unique=True).map(tuple))
    missing = draw(st.sampled_from([(), (), (), ("a",)]))
    to_audit = [node for node in NODES if node not in requested]
    run = Run(requested, tuple(to_audit), ())
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        audited_nodes = [node for node in to_audit if node not in missing and draw(st.booleans())]
        to_audit = [node for node in to_audit if node not in audited_nodes]
        attempt = draw(any_attempts(missing, [msg.NodeAudited(node, (), None) for node in audited_nodes]))
        run = replace(run, attempts=(*run.attempts, attempt))
    return run


@st.composite
def any_attempts(draw: st.DrawFn, missing: tuple[str, ...], audited_nodes: list[msg.NodeAudited]) -> Attempt:
    events: list[msg.Event] = [opened(*NODES, missing=missing)]
    for plan in draw(st.lists(plans, min_size=1, max_size=2)):
        batches = [(node, n, interval) for node, planned in plan.batches.items() for n, interval in enumerate(planned)]
        work: list[msg.Event] = [
            batch(n, interval, node=node, duration_ms=draw(durations)) for node, n, interval in batches
        ]
        noise = draw(st.lists(evidence, max_size=3))
        # SQLMesh has begun: else no node has an outcome.
        events += [plan, msg.BatchStarted(draw(nodes)), *draw(st.permutations([*work, *noise]))]
    events += [*draw(st.lists(evidence, max_size=2)), *audited_nodes, *draw(last_words)]
    return Attempt(tuple(events), draw(st.none() | st.frozensets(nodes)), draw(st.booleans()))


@given(any_runs())
def test_every_requested_node_gets_exactly_one_outcome(run: Run) -> None:
    outcomes = run.outcomes
    assert sorted(outcome.fqn for outcome in outcomes if not outcome.is_second_outcome) == sorted(run.requested)
    assert {outcome.fqn for outcome in outcomes} == {*run.requested}
    audited_only = [outcome.fqn for outcome in run.returned if isinstance(outcome, AuditOnlyOutcome)]
    assert sorted(audited_only) == sorted(run.audit_only)


@given(any_runs(), nodes, st.sampled_from([msg.BatchStarted, lambda fqn: batch(0, D1, node=fqn), msg.TableComputed]))
def test_batch_or_table_of_a_node_without_planned_batches_is_a_contradiction_and_no_evidence(
    run: Run, node: str, event: Any
) -> None:
    plans = [event for event in run.events if isinstance(event, msg.EvaluationPlanned)]
    assume(node in run.requested and not any(plan.batches.get(node) for plan in plans))
    ledger, with_event = Ledger(run.requested, run.audit_only), Ledger(run.requested, run.audit_only)
    run.up_to_the_end(ledger)
    run.up_to_the_end(with_event)
    assert with_event.feed(event(node) if event is not msg.TableComputed else event(node, 7)) == []
    assert any(f" of {node}, which" in contradiction for contradiction in with_event.contradictions)
    assert with_event.close("killed") == ledger.close("killed") or ledger.never_began


@given(any_runs(), nodes)
def test_failure_named_at_the_end_is_never_lost(run: Run, node: str) -> None:
    ledger = Ledger(run.requested, run.audit_only)
    failure = msg.NodeFailed(node, "Error", "boom", ())
    outcomes = run.up_to_the_end(ledger)
    outcomes += [outcome for event in (failure, FAILED) for outcome in ledger.feed(event)]
    failed = [fqn for fqn, outcome in node_outcomes(outcomes) if outcome.is_failure]
    assert node in failed or ledger.contradictions


@given(any_runs(), nodes)
def test_persistent_failure_of_an_open_node_is_never_retried(run: Run, node: str) -> None:
    ledger = Ledger(run.requested, run.audit_only)
    run.up_to_the_end(ledger)
    ledger.feed(msg.NodeFailed(node, "Error", "boom", ()))
    assert node not in ledger.worth_retrying(True) | ledger.worth_retrying(False)


@given(any_runs())
def test_nodes_worth_retrying_are_open_and_pause_settles_all_others(run: Run) -> None:
    ledger = Ledger(run.requested, run.audit_only)
    run.up_to_the_end(ledger)
    open_before = open_nodes(ledger)
    retried = ledger.worth_retrying(False)
    assert retried <= ledger.worth_retrying(True) <= open_before <= {*run.requested}
    assert {fqn for fqn, _ in node_outcomes(ledger.pause(retried))} == open_before - retried
    assert open_nodes(ledger) == retried


@given(any_runs())
def test_executed_model_has_batches_with_a_duration(run: Run) -> None:
    nodes_with_finished_batches = {
        event.fqn for event in run.events if isinstance(event, msg.BatchFinished) and event.duration_ms is not None
    }
    for outcome in run.outcomes:
        if outcome.outcome is Outcome.EXECUTED:
            assert outcome.fqn in nodes_with_finished_batches
            assert outcome.finished_batches >= outcome.planned_batches
            assert outcome.intervals
            assert not outcome.errors


@given(any_runs())
def test_outcome_has_errors_only_if_it_failed_sorted_intervals_and_no_more_attempts_than_the_run(run: Run) -> None:
    for outcome in run.outcomes:
        assert bool(outcome.errors) == (outcome.outcome.is_failure and outcome.outcome is not Outcome.BLOCKED)
        assert all(start < end for start, end in outcome.intervals)
        assert all(earlier[1] < later[0] for earlier, later in zip(outcome.intervals, outcome.intervals[1:]))
        assert 1 <= outcome.attempts <= len(run.attempts)


@pytest.mark.parametrize("parameter", ["requested", "audit_only"])
def test_repeated_first_event_changes_nothing(parameter: str) -> None:
    first = opened(missing=(ORDERS,))
    nodes_by_parameter: dict[str, Any] = {"requested": (), parameter: (ORDERS,)}
    assert len(outcomes_of([first, first, SUCCEEDED], **nodes_by_parameter)) == 1
