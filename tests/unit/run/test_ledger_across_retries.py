"""The ledger across retries: which nodes stay open for the next attempt, and their final outcomes.

`core.orders` reads `staging.orders` and `staging.refunds`; `marts.revenue` reads `core.orders`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import pytest
from unit.builders import days, fqn
from unit.outcome_table import (
    D1,
    D2,
    D3,
    DIVISION,
    EMPTY_PLAN,
    FAILED,
    LOST,
    NOT_RUN,
    ONE_BATCH,
    OPENED,
    ORDERS,
    PROMOTED,
    STAGING,
    SUCCEEDED,
    TWO_BATCHES,
    Events,
    audit_result,
    audited,
    batch,
    open_nodes,
    opened,
    raised,
)

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, NodeOutcome, Outcome
from dg_sqlmesh_component.run.ledger import Ledger

REFUNDS, REVENUE = fqn("staging.refunds"), fqn("marts.revenue")
ORDERS_BLOCKED = msg.NodesBlocked({ORDERS: (STAGING,)})
CHAIN_BLOCKED = msg.NodesBlocked({ORDERS: (STAGING,), REVENUE: (STAGING,)})
PARENTS_FIRST = (STAGING, REFUNDS, ORDERS, REVENUE)
DOWNSTREAM = {STAGING: {ORDERS, REVENUE}, REFUNDS: {ORDERS, REVENUE}, ORDERS: {REVENUE}, REVENUE: set[str]()}


def planned(*nodes: str, interval: msg.Interval = D1) -> msg.EvaluationPlanned:
    """Return a plan with one batch for each node."""
    return msg.EvaluationPlanned(dict.fromkeys(nodes, (interval,)))


def transient(node: str) -> msg.NodeFailed:
    """Return a transient failure."""
    return msg.NodeFailed(node, "OperationalError", "the connection was lost", (), is_transient=True)


def persistent(node: str) -> msg.NodeFailed:
    """Return a persistent failure."""
    return msg.NodeFailed(node, "BinderException", "there is no such column", ())


def audit_failed(node: str) -> msg.NodeFailed:
    """Return the failure of a blocking audit."""
    return msg.NodeFailed(node, "NodeAuditsErrors", "Audit not_null failed", ("not_null",))


def up_to_date(node: str) -> msg.NodeIdle:
    return msg.NodeIdle(node, "all complete intervals are computed")


def waiting(node: str) -> msg.NodeIdle:
    return msg.NodeIdle(node, signals=("files_arrived",))


def feed(ledger: Ledger, events: Iterable[msg.Event]) -> list[NodeOutcome | AuditOnlyOutcome]:
    return [outcome for event in events for outcome in ledger.feed(event)]


def node_outcomes(outcomes: Iterable[NodeOutcome | AuditOnlyOutcome]) -> dict[str, Outcome]:
    return {outcome.fqn: outcome.outcome for outcome in outcomes if isinstance(outcome, NodeOutcome)}


# -- open nodes after an attempt ------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Attributes:
        title: The end of the attempt as a sentence. It is the id of its tests.
        events: SQLMesh's events, without the last one.
        open_after: The nodes that a retry may complete.
        settled: The outcomes of the nodes that no retry can complete.
        executed_before: The nodes whose outcomes were returned before the end.
        interrupted: True if a transient error ended the whole attempt before SQLMesh finished.
    """

    title: str
    events: tuple[msg.Event, ...]
    open_after: frozenset[str] = frozenset()
    settled: Mapping[str, Outcome] = field(default_factory=dict)
    executed_before: frozenset[str] = frozenset()
    interrupted: bool = False

    @property
    def requested(self) -> list[str]:
        return [node for node in PARENTS_FIRST if node in {*self.open_after, *self.settled, *self.executed_before}]

    def ledger(self) -> Ledger:
        """Return the ledger at the end of the attempt."""
        ledger = Ledger(self.requested)
        assert {outcome.fqn for outcome in feed(ledger, self.events)} == self.executed_before
        return ledger

    def paused(self) -> Ledger:
        """Return the ledger before the next attempt."""
        ledger = self.ledger()
        ledger.pause(self.open_after)
        return ledger


def nodes(*names: str) -> frozenset[str]:
    return frozenset(names)


ENDED_ATTEMPTS = (
    Ended("it failed for a transient cause", (ONE_BATCH, raised(0, D1), transient(ORDERS)), nodes(ORDERS)),
    Ended(
        "it failed for a persistent cause",
        (ONE_BATCH, raised(0, D1), persistent(ORDERS)),
        settled={ORDERS: Outcome.FAILED},
    ),
    Ended(
        "it failed for a transient cause and for a persistent one",
        (TWO_BATCHES, transient(ORDERS), persistent(ORDERS)),
        settled={ORDERS: Outcome.FAILED},
    ),
    Ended("its audit failed", (ONE_BATCH, audit_failed(ORDERS)), settled={ORDERS: Outcome.AUDIT_FAILED}),
    Ended(
        "it was partly executed and failed for a transient cause",
        (TWO_BATCHES, batch(0, D1), raised(1, D2), transient(ORDERS)),
        nodes(ORDERS),
    ),
    Ended(
        "it was partly executed and failed for a persistent cause",
        (TWO_BATCHES, batch(0, D1), raised(1, D2), persistent(ORDERS)),
        settled={ORDERS: Outcome.PARTLY_EXECUTED},
    ),
    Ended(
        "it failed for a persistent cause and is listed as blocked by a transient failure",
        (planned(STAGING, ORDERS), transient(STAGING), persistent(ORDERS), ORDERS_BLOCKED),
        nodes(STAGING),
        {ORDERS: Outcome.FAILED},
    ),
    Ended(
        "what an earlier pass did is all there was to do",
        (TWO_BATCHES, batch(0, D1), EMPTY_PLAN, planned(STAGING), transient(STAGING)),
        nodes(STAGING, ORDERS),
    ),
    Ended(
        "a transient failure blocked it",
        (planned(STAGING, ORDERS), transient(STAGING), ORDERS_BLOCKED),
        nodes(STAGING, ORDERS),
    ),
    Ended(
        "a transient failure blocked a chain",
        (planned(STAGING, ORDERS, REVENUE), transient(STAGING), CHAIN_BLOCKED),
        nodes(STAGING, ORDERS, REVENUE),
    ),
    Ended(
        "a persistent failure blocked it",
        (planned(STAGING, ORDERS), persistent(STAGING), ORDERS_BLOCKED),
        settled={STAGING: Outcome.FAILED, ORDERS: Outcome.BLOCKED},
    ),
    Ended(
        "a transient failure and a persistent one blocked it",
        (
            planned(STAGING, REFUNDS, ORDERS),
            transient(STAGING),
            persistent(REFUNDS),
            msg.NodesBlocked({ORDERS: (REFUNDS, STAGING)}),
        ),
        nodes(STAGING),
        {REFUNDS: Outcome.FAILED, ORDERS: Outcome.BLOCKED},
    ),
    Ended(
        "a failure of an unrequested model blocked it", (ONE_BATCH, ORDERS_BLOCKED), settled={ORDERS: Outcome.BLOCKED}
    ),
    Ended(
        "a transient failure and an executed model",
        (planned(STAGING, ORDERS), batch(0, D1, node=STAGING), transient(ORDERS)),
        nodes(ORDERS),
        executed_before=nodes(STAGING),
    ),
    Ended(
        "a transient failure and models that had nothing to do",
        (msg.EvaluationPlanned({ORDERS: (D1,), REFUNDS: ()}), transient(ORDERS), up_to_date(STAGING), waiting(REFUNDS)),
        nodes(ORDERS),
        {STAGING: Outcome.UP_TO_DATE, REFUNDS: Outcome.WAITING},
    ),
    Ended("every batch finished", (ONE_BATCH, batch(0, D1)), executed_before=nodes(ORDERS)),
    Ended("SQLMesh reported nothing about it", (ONE_BATCH,), settled={ORDERS: Outcome.INTERRUPTED}),
    Ended(
        "SQLMesh blocked it without naming a failure",
        (ONE_BATCH, msg.NodesBlocked({ORDERS: ()})),
        settled={ORDERS: Outcome.INTERRUPTED},
    ),
    # A transient error ended the whole attempt.
    Ended("interrupted: before any event", (), nodes(STAGING, ORDERS), interrupted=True),
    Ended("interrupted: between two batches", (TWO_BATCHES, batch(1, D2)), nodes(ORDERS), interrupted=True),
    Ended(
        "interrupted: it was blocked and SQLMesh had not named a failure",
        (ONE_BATCH, msg.NodesBlocked({ORDERS: ()})),
        nodes(ORDERS),
        interrupted=True,
    ),
    Ended(
        "interrupted: another model was executed",
        (planned(STAGING, ORDERS), batch(0, D1, node=STAGING)),
        nodes(ORDERS),
        executed_before=nodes(STAGING),
        interrupted=True,
    ),
    Ended(
        "interrupted: other models were reported up to date or waiting",
        (msg.EvaluationPlanned({ORDERS: (D1,), REFUNDS: ()}), up_to_date(STAGING), waiting(REFUNDS)),
        nodes(ORDERS),
        {STAGING: Outcome.UP_TO_DATE, REFUNDS: Outcome.WAITING},
        interrupted=True,
    ),
    Ended(
        "interrupted: it was reported up to date after batches of an earlier pass",
        (TWO_BATCHES, batch(0, D1), EMPTY_PLAN, up_to_date(ORDERS)),
        settled={ORDERS: Outcome.EXECUTED},
        interrupted=True,
    ),
    Ended(
        "interrupted: it had failed for a persistent cause",
        (planned(STAGING, ORDERS), persistent(ORDERS)),
        nodes(STAGING),
        {ORDERS: Outcome.FAILED},
        interrupted=True,
    ),
    Ended(
        "interrupted: a persistent failure had blocked it",
        (planned(STAGING, ORDERS), persistent(STAGING), ORDERS_BLOCKED),
        settled={STAGING: Outcome.FAILED, ORDERS: Outcome.BLOCKED},
        interrupted=True,
    ),
)
every_ended_attempt = pytest.mark.parametrize("ended_attempt", ENDED_ATTEMPTS, ids=lambda attempt: attempt.title)


def retried_after(ledger: Ledger, *, interrupted: bool = False) -> frozenset[str]:
    """Return the nodes that the step retries."""
    below_failed = {node for failed in ledger.failed_for_good for node in DOWNSTREAM[failed]}
    return ledger.worth_retrying(interrupted) - below_failed


@every_ended_attempt
def test_retry_computes_the_nodes_that_it_can_complete(ended_attempt: Ended) -> None:
    ledger = ended_attempt.ledger()
    assert retried_after(ledger, interrupted=ended_attempt.interrupted) == ended_attempt.open_after


@every_ended_attempt
def test_other_nodes_are_settled_before_the_retry_in_requested_order(ended_attempt: Ended) -> None:
    ledger = ended_attempt.ledger()
    assert open_nodes(ledger) == {*ended_attempt.open_after, *ended_attempt.settled}
    outcomes = ledger.pause(ended_attempt.open_after)
    assert node_outcomes(outcomes) == ended_attempt.settled
    assert [outcome.fqn for outcome in outcomes] == [node for node in PARENTS_FIRST if node in ended_attempt.settled]
    assert {outcome.attempts for outcome in outcomes if isinstance(outcome, NodeOutcome)} <= {1}
    assert open_nodes(ledger) == ended_attempt.open_after


@every_ended_attempt
def test_successful_retry_executes_only_the_open_nodes(ended_attempt: Ended) -> None:
    ledger, retried = ended_attempt.paused(), [node for node in PARENTS_FIRST if node in ended_attempt.open_after]
    batches = [batch(0, D3, node=node) for node in retried]
    outcomes = feed(ledger, [opened(*retried), planned(*retried, interval=D3), *batches, SUCCEEDED])
    assert [(outcome.fqn, outcome.outcome) for outcome in outcomes if isinstance(outcome, NodeOutcome)] == [
        (node, Outcome.EXECUTED) for node in retried
    ]
    for outcome in outcomes:
        assert isinstance(outcome, NodeOutcome)
        assert (outcome.attempts, outcome.is_second_outcome, outcome.promoted) == (2, False, PROMOTED)
        assert (outcome.errors, outcome.failed_audits, outcome.failed_upstream) == ((), (), ())
        assert outcome.intervals[-1][1] == D3[1]
    assert ledger.contradictions == ()
    assert open_nodes(ledger) == frozenset()


def test_nodes_settled_before_a_retry_have_their_errors_and_culprits() -> None:
    ledger = Ledger(PARENTS_FIRST)
    blocked = msg.NodesBlocked({REVENUE: (ORDERS, STAGING)})
    feed(ledger, [planned(*PARENTS_FIRST), transient(STAGING), persistent(ORDERS), blocked])
    settled = [outcome for outcome in ledger.pause(nodes(STAGING)) if isinstance(outcome, NodeOutcome)]
    assert {outcome.fqn: (outcome.errors, outcome.failed_upstream) for outcome in settled} == {
        REFUNDS: (("SQLMesh ended the run without reporting an outcome for it.",), ()),
        ORDERS: (("there is no such column",), ()),
        REVENUE: ((), (ORDERS, STAGING)),
    }


# -- final outcomes -------------------------------------------------------------------------------


def outcomes_of_last(*attempts: Iterable[msg.Event], requested: Iterable[str] = (ORDERS,)) -> list[NodeOutcome]:
    """Return the outcomes of the last attempt. All earlier attempts leave their open nodes open."""
    ledger = Ledger(requested)
    *earlier, last = attempts
    for events in earlier:
        feed(ledger, events)
        ledger.pause(open_nodes(ledger))
    return [outcome for outcome in feed(ledger, last) if isinstance(outcome, NodeOutcome)]


PARTLY_FAILED = (TWO_BATCHES, batch(0, D1, duration_ms=5, rows=10, bytes=100), raised(1, D2), LOST)


def test_batches_finished_in_the_first_attempt_count() -> None:
    second: Events = [planned(ORDERS, interval=D2), batch(0, D2, duration_ms=7, rows=20, bytes=200)]
    (outcome,) = outcomes_of_last(PARTLY_FAILED, second)
    assert (outcome.outcome, outcome.intervals) == (Outcome.EXECUTED, (days(1, 2),))
    assert (outcome.planned_batches, outcome.finished_batches) == (2, 2)
    assert (outcome.duration_ms, outcome.rows, outcome.bytes) == (12, 30, 300)


def test_batches_of_all_attempts_are_added_up() -> None:
    plan = msg.EvaluationPlanned({ORDERS: (D2, D3)})
    second: Events = [plan, batch(1, D3), raised(0, D2), LOST]
    (outcome,) = outcomes_of_last(PARTLY_FAILED, second, [planned(ORDERS, interval=D2), batch(0, D2)])
    assert (outcome.outcome, outcome.intervals, outcome.attempts) == (Outcome.EXECUTED, (days(1, 3),), 3)
    assert (outcome.planned_batches, outcome.finished_batches) == (3, 3)


def test_intervals_of_the_first_attempt_are_reported_if_the_second_fails_persistently() -> None:
    second: Events = [planned(ORDERS, interval=D2), raised(0, D2), DIVISION, FAILED]
    (outcome,) = outcomes_of_last(PARTLY_FAILED, second)
    assert (outcome.outcome, outcome.intervals) == (Outcome.PARTLY_EXECUTED, (D1,))
    assert (outcome.planned_batches, outcome.finished_batches) == (2, 1)
    assert outcome.errors == (DIVISION.message,)


def test_intervals_of_the_first_attempt_are_reported_if_the_second_is_interrupted() -> None:
    (outcome,) = outcomes_of_last(
        PARTLY_FAILED, [planned(ORDERS, interval=D2), msg.RequestFailed("EvaluationError", "killed")]
    )
    assert (outcome.outcome, outcome.intervals, outcome.attempts) == (Outcome.INTERRUPTED, (D1,), 2)
    assert outcome.errors == ("killed",)


def test_audits_of_batches_that_failed_in_the_first_attempt_are_dropped() -> None:
    first: Events = [TWO_BATCHES, audited("not_null", D1, 1), batch(0, D1), audited("not_null", D2, 3), raised(1, D2)]
    second: Events = [planned(ORDERS, interval=D2), audited("not_null", D2, 0, query="again"), batch(0, D2)]
    (outcome,) = outcomes_of_last([*first, LOST], second)
    expected = audit_result("not_null", days(1, 2), failing_rows=1)
    assert outcome.audits == (replace(expected, failed_intervals=(D1,)),)


def test_audit_failure_in_the_second_attempt_is_the_outcome() -> None:
    second: Events = [ONE_BATCH, audited("not_null", D1, 3), raised(0, D1), audit_failed(ORDERS), FAILED]
    (outcome,) = outcomes_of_last([ONE_BATCH, audited("not_null", D1), raised(0, D1), LOST], second)
    assert (outcome.outcome, outcome.attempts, outcome.failed_audits) == (Outcome.AUDIT_FAILED, 2, ("not_null",))
    assert outcome.audits == (audit_result("not_null", D1, failing_rows=3),)


@pytest.mark.parametrize(("counts", "row_count"), [((), None), ((9,), 9)], ids=["not counted again", "counted again"])
def test_row_count_is_that_of_the_last_attempt(counts: tuple[int, ...], row_count: int | None) -> None:
    first: Events = [TWO_BATCHES, msg.TableComputed(ORDERS, 7), batch(0, D1), LOST]
    second: Events = [planned(ORDERS, interval=D2), *(msg.TableComputed(ORDERS, rows) for rows in counts), batch(0, D2)]
    (outcome,) = outcomes_of_last(first, second)
    assert outcome.row_count == row_count


@pytest.mark.parametrize("attempts", [1, 2, 3, 4])
def test_outcome_has_the_number_of_attempts(attempts: int) -> None:
    earlier: list[Events] = [[ONE_BATCH, LOST]] * (attempts - 1)
    (outcome,) = outcomes_of_last(*earlier, [ONE_BATCH, batch(0, D1)])
    assert outcome.attempts == attempts


def test_only_open_nodes_count_another_attempt() -> None:
    ledger = Ledger(PARENTS_FIRST)
    blocked = msg.NodesBlocked({REVENUE: (ORDERS,)})
    handed_out = feed(ledger, [planned(*PARENTS_FIRST), batch(0, D1, node=STAGING), transient(REFUNDS)])
    handed_out += feed(ledger, [transient(ORDERS), blocked])
    handed_out += ledger.pause(retried_after(ledger))
    handed_out += feed(ledger, [planned(REFUNDS, ORDERS, REVENUE), batch(0, D1, node=REFUNDS), transient(ORDERS)])
    handed_out += ledger.pause(retried_after(ledger))
    handed_out += feed(ledger, [planned(ORDERS, REVENUE), batch(0, D1), batch(0, D1, node=REVENUE), SUCCEEDED])
    assert {outcome.fqn: outcome.attempts for outcome in handed_out if isinstance(outcome, NodeOutcome)} == {
        STAGING: 1,
        REFUNDS: 2,
        ORDERS: 3,
        REVENUE: 3,
    }


@pytest.mark.parametrize("last", [SUCCEEDED, msg.EvaluationFinished("nothing_to_do")], ids=lambda event: event.status)
def test_model_computed_by_another_process_between_attempts_is_up_to_date(last: msg.EvaluationFinished) -> None:
    second: Events = [planned(STAGING), batch(0, D1, node=STAGING), up_to_date(ORDERS), last]
    outcomes = outcomes_of_last(
        [planned(STAGING, ORDERS), transient(STAGING), transient(ORDERS)], second, requested=[STAGING, ORDERS]
    )
    assert node_outcomes(outcomes) == {STAGING: Outcome.EXECUTED, ORDERS: Outcome.UP_TO_DATE}
    assert outcomes[1].errors == ()


def test_model_partly_computed_in_the_first_attempt_is_executed_if_the_second_finds_it_up_to_date() -> None:
    second: Events = [planned(STAGING), batch(0, D1, node=STAGING), up_to_date(ORDERS), SUCCEEDED]
    outcomes = outcomes_of_last([*PARTLY_FAILED, transient(STAGING)], second, requested=[STAGING, ORDERS])
    assert node_outcomes(outcomes)[ORDERS] is Outcome.EXECUTED
    (outcome,) = (candidate for candidate in outcomes if candidate.fqn == ORDERS)
    assert (outcome.intervals, outcome.planned_batches, outcome.finished_batches) == ((D1,), 1, 1)


def test_model_that_failed_and_then_waits_for_a_signal_is_failed() -> None:
    """The model was ready when it failed. A successful run in which it waits would hide its error."""
    (outcome,) = outcomes_of_last([ONE_BATCH, LOST], [msg.EvaluationPlanned({ORDERS: ()}), waiting(ORDERS), SUCCEEDED])
    assert (outcome.outcome, outcome.errors) == (Outcome.FAILED, (LOST.message,))


def test_model_blocked_in_both_attempts_names_the_culprit_of_the_second() -> None:
    first: Events = [planned(STAGING, REFUNDS, ORDERS), transient(STAGING), transient(REFUNDS)]
    second: Events = [planned(STAGING, REFUNDS, ORDERS), batch(0, D1, node=STAGING), persistent(REFUNDS)]
    outcomes = outcomes_of_last(
        [*first, msg.NodesBlocked({ORDERS: (REFUNDS, STAGING)})],
        [*second, msg.NodesBlocked({ORDERS: (REFUNDS,)}), FAILED],
        requested=[STAGING, REFUNDS, ORDERS],
    )
    assert node_outcomes(outcomes) == {STAGING: Outcome.EXECUTED, REFUNDS: Outcome.FAILED, ORDERS: Outcome.BLOCKED}
    assert next(outcome for outcome in outcomes if outcome.fqn == ORDERS).failed_upstream == (REFUNDS,)


def test_plan_during_the_second_attempt_keeps_batches_of_the_first() -> None:
    second: Events = [msg.EvaluationPlanned({ORDERS: (D2, D3)}), batch(0, D2), EMPTY_PLAN]
    (outcome,) = outcomes_of_last(PARTLY_FAILED, [*second, planned(ORDERS, interval=D3), batch(0, D3)])
    assert (outcome.outcome, outcome.intervals, outcome.is_second_outcome) == (Outcome.EXECUTED, (days(1, 3),), False)


def test_promoted_version_is_that_of_the_last_attempt() -> None:
    replaced = msg.PromotedVersion("4711", "9", "9")
    second = msg.EnvironmentOpened("prod", {ORDERS: replaced}, (), "cd /shop && sqlmesh plan")
    (outcome,) = outcomes_of_last([OPENED, ONE_BATCH, LOST], [second, ONE_BATCH, batch(0, D1)])
    assert outcome.promoted == replaced


def test_promoted_version_of_the_first_attempt_is_kept_if_the_second_reports_none() -> None:
    (outcome,) = outcomes_of_last([OPENED, ONE_BATCH, LOST], [opened(STAGING), ONE_BATCH, batch(0, D1)])
    assert outcome.promoted == PROMOTED


def test_model_removed_by_a_plan_between_attempts_is_not_in_environment() -> None:
    outcomes = outcomes_of_last([OPENED, ONE_BATCH, LOST], [opened(missing=(ORDERS,)), NOT_RUN])
    assert node_outcomes(outcomes) == {ORDERS: Outcome.NOT_IN_ENVIRONMENT}
    assert (outcomes[0].attempts, len(outcomes[0].errors)) == (2, 1)


def test_model_that_is_not_promoted_names_the_job_that_shows_the_plan_and_what_it_does_not_do() -> None:
    shown_by_job = replace(opened(missing=(ORDERS,)), plan_command="dg launch --job shop_plan")
    [outcome] = outcomes_of_last([shown_by_job, NOT_RUN])
    [error] = outcome.errors
    assert "To promote the project's files:\n\n    dg launch --job shop_plan\n\nThis job applies nothing." in error


# -- outcomes of the first attempt ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "outcome"),
    [
        ([planned(STAGING, ORDERS), batch(0, D1, node=STAGING)], Outcome.EXECUTED),
        ([planned(STAGING, ORDERS), raised(0, D1, node=STAGING), persistent(STAGING)], Outcome.FAILED),
        ([planned(STAGING, ORDERS), audit_failed(STAGING)], Outcome.AUDIT_FAILED),
        ([planned(ORDERS), up_to_date(STAGING)], Outcome.UP_TO_DATE),
        ([msg.EvaluationPlanned({ORDERS: (D1,), STAGING: ()}), waiting(STAGING)], Outcome.WAITING),
        ([opened(ORDERS, missing=(STAGING,))], Outcome.NOT_IN_ENVIRONMENT),
    ],
    ids=lambda parameter: parameter.value if isinstance(parameter, Outcome) else "",
)
@pytest.mark.parametrize(
    "second",
    [
        [planned(ORDERS, interval=D2), batch(0, D2), SUCCEEDED],
        [planned(ORDERS), persistent(ORDERS), FAILED],
        [planned(ORDERS), EMPTY_PLAN, planned(ORDERS), batch(0, D1), SUCCEEDED],
        [msg.RequestFailed("WorkerError", "killed")],
        [],
    ],
    ids=["succeeded", "failed", "started over", "was interrupted", "sent no event"],
)
def test_outcome_settled_in_the_first_attempt_is_returned_once_and_never_changes(
    first: list[msg.Event], outcome: Outcome, second: list[msg.Event]
) -> None:
    ledger = Ledger([STAGING, ORDERS])
    handed_out = feed(ledger, [*first, transient(ORDERS)])
    handed_out += ledger.pause(frozenset([ORDERS]))
    assert node_outcomes(handed_out) == {STAGING: outcome}
    later_outcomes = feed(ledger, second) + ledger.close("killed")
    assert [parameter.fqn for parameter in later_outcomes] == [ORDERS]
    assert ledger.contradictions == ()


# -- contradictions -------------------------------------------------------------------------------


def test_contradictions_of_the_first_attempt_are_kept() -> None:
    ledger = Ledger([ORDERS])
    feed(ledger, [planned(ORDERS, REVENUE), batch(0, D1, node=REVENUE), batch(7, D1), LOST])
    ledger.pause(frozenset([ORDERS]))
    feed(ledger, [ONE_BATCH, batch(0, D1), SUCCEEDED])
    assert ledger.contradictions == (
        f"SQLMesh executed {REVENUE}, which was not requested.",
        f"SQLMesh finished a batch of {ORDERS} that it had not planned.",
    )


def test_node_executed_and_failed_in_the_first_attempt_stays_a_contradiction() -> None:
    ledger = Ledger([STAGING, ORDERS])
    feed(ledger, [planned(STAGING, ORDERS), batch(0, D1, node=STAGING), persistent(STAGING), transient(ORDERS)])
    ledger.pause(frozenset([ORDERS]))
    feed(ledger, [ONE_BATCH, batch(0, D1), SUCCEEDED])
    assert ledger.contradictions == (
        f"SQLMesh reported that {STAGING} was executed, and then that it failed: there is no such column",
    )


@pytest.mark.parametrize(
    ("first", "state"),
    [
        ([planned(ORDERS), up_to_date(STAGING)], "up to date"),
        ([msg.EvaluationPlanned({ORDERS: (D1,), STAGING: ()}), waiting(STAGING)], "waiting"),
    ],
    ids=["up to date", "waiting"],
)
def test_idle_node_of_first_attempt_that_fails_in_second_is_a_contradiction(first: list[msg.Event], state: str) -> None:
    ledger = Ledger([STAGING, ORDERS])
    feed(ledger, [*first, transient(ORDERS)])
    ledger.pause(frozenset([ORDERS]))
    feed(ledger, [ONE_BATCH, batch(0, D1), persistent(STAGING), FAILED])
    assert ledger.contradictions == (
        f"SQLMesh reported that {STAGING} was {state}, and then that it failed: there is no such column",
    )


def test_persistent_failures_are_remembered_across_attempts() -> None:
    ledger = Ledger([STAGING, REFUNDS, ORDERS])
    failures = [persistent(STAGING), transient(REFUNDS), transient(ORDERS), persistent(ORDERS)]
    feed(ledger, [planned(STAGING, REFUNDS, ORDERS), *failures])
    assert ledger.failed_for_good == {STAGING, ORDERS}
    ledger.pause(frozenset([REFUNDS]))
    feed(ledger, [planned(REFUNDS), transient(REFUNDS)])
    assert ledger.failed_for_good == {STAGING, ORDERS}


def test_audits_selected_alone_are_not_added_up_across_attempts() -> None:
    ledger = Ledger([], [ORDERS])
    feed(ledger, [audited("not_null", D1, 2)])  # the process dies before it reports the end of the audits
    ledger.pause(frozenset())
    (outcome,) = feed(ledger, [audited("not_null", D1, 2), msg.NodeAudited(ORDERS, (), None)])
    assert outcome.audits[0].failing_rows == 2


def test_batch_planned_only_in_the_first_attempt_is_a_contradiction_in_the_second() -> None:
    ledger = Ledger([ORDERS])
    feed(ledger, [TWO_BATCHES, LOST])
    ledger.pause(frozenset([ORDERS]))
    assert feed(ledger, [ONE_BATCH, batch(1, D2)]) == []
    assert ledger.contradictions == (f"SQLMesh finished a batch of {ORDERS} that it had not planned.",)


# -- checks selected alone ------------------------------------------------------------------------


def test_audits_selected_alone_stay_open_until_they_are_reported() -> None:
    ledger = Ledger([], [STAGING, REFUNDS, ORDERS])
    assert [*ledger.open_audit_only] == [STAGING, REFUNDS, ORDERS]
    feed(ledger, [opened(ORDERS, STAGING, missing=(REFUNDS,))])
    assert [*ledger.open_audit_only] == [STAGING, ORDERS]
    assert ledger.pause(frozenset()) == []
    [outcome] = feed(ledger, [msg.NodeAudited(ORDERS, (), None)])
    assert outcome == AuditOnlyOutcome(ORDERS, (), (), None, evaluated_at=0)
    assert [*ledger.open_audit_only] == [STAGING]
    assert ledger.feed(SUCCEEDED) == [
        AuditOnlyOutcome(STAGING, (), (), "SQLMesh ended the run without evaluating them.")
    ]


def test_audits_selected_alone_are_reported_by_the_attempt_that_evaluates_them() -> None:
    ledger = Ledger([], [STAGING, ORDERS])
    first = feed(ledger, [audited("recent", D1, 1, node=STAGING), msg.NodeAudited(STAGING, (D2,), None)])
    assert ledger.pause(frozenset()) == []
    second = feed(ledger, [audited("not_null", D1, 2), msg.NodeAudited(ORDERS, (), None), SUCCEEDED])
    recent, not_null = audit_result("recent", D1, failing_rows=1), audit_result("not_null", D1, failing_rows=2)
    assert first == [AuditOnlyOutcome(STAGING, (recent,), (D2,), None, evaluated_at=0)]
    assert second == [AuditOnlyOutcome(ORDERS, (not_null,), (), None, evaluated_at=0)]


def test_audits_selected_alone_and_never_evaluated_report_the_reason() -> None:
    ledger = Ledger([STAGING], [ORDERS])
    ledger.feed(OPENED)
    ledger.feed(planned(STAGING))
    ledger.feed(msg.BatchStarted(STAGING))
    ledger.pause(frozenset([STAGING]))
    assert [outcome for outcome in ledger.close("killed") if outcome.fqn == ORDERS] == [
        AuditOnlyOutcome(ORDERS, (), (), "killed")
    ]
