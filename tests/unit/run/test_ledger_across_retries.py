"""The ledger across retries: which nodes stay open for the next attempt, and their final outcomes.

`core.orders` reads `staging.orders` and `staging.refunds`; `marts.revenue` reads `core.orders`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest
from unit.builders import fqn
from unit.outcome_table import (
    D1,
    D2,
    EMPTY_PLAN,
    LOST,
    ONE_BATCH,
    OPENED,
    ORDERS,
    PROMOTED,
    STAGING,
    SUCCEEDED,
    TWO_BATCHES,
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
PARENTS_FIRST = (STAGING, REFUNDS, ORDERS, REVENUE)
DOWNSTREAM = {STAGING: {ORDERS, REVENUE}, REFUNDS: {ORDERS, REVENUE}, ORDERS: {REVENUE}, REVENUE: set[str]()}


def planned(*nodes: str, interval: msg.Interval = D1) -> msg.EvaluationPlanned:
    return msg.EvaluationPlanned(dict.fromkeys(nodes, (interval,)))


def transient(node: str) -> msg.NodeFailed:
    return msg.NodeFailed(node, "OperationalError", "the connection was lost", (), is_transient=True)


def persistent(node: str) -> msg.NodeFailed:
    return msg.NodeFailed(node, "BinderException", "there is no such column", ())


def up_to_date(node: str) -> msg.NodeIdle:
    return msg.NodeIdle(node, "all complete intervals are computed")


def waiting(node: str) -> msg.NodeIdle:
    return msg.NodeIdle(node, held_back=msg.HeldBack((msg.Cause("signal", node, ("files_arrived",)),)))


def feed(ledger: Ledger, events: Iterable[msg.Event]) -> list[NodeOutcome | AuditOnlyOutcome]:
    return [outcome for event in events for outcome in ledger.feed(event)]


def node_outcomes(outcomes: Iterable[NodeOutcome | AuditOnlyOutcome]) -> dict[str, Outcome]:
    return {outcome.fqn: outcome.outcome for outcome in outcomes if isinstance(outcome, NodeOutcome)}


# -- open nodes after an attempt ------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Attributes:
        title: The end of the attempt as a sentence. It is the id of its test.
        events: SQLMesh's events, without the last one.
        open_after: The nodes that a retry may complete.
        settled: The outcomes of the nodes that no retry can complete.
        executed_before: The nodes whose outcomes were returned before the end.
        interrupted: True if a transient error ended the whole attempt before SQLMesh finished.
    """

    title: str
    events: tuple[msg.Event, ...]
    open_after: tuple[str, ...] = ()
    settled: Mapping[str, Outcome] = field(default_factory=dict)
    executed_before: tuple[str, ...] = ()
    interrupted: bool = False


IDLE_MODELS = (msg.EvaluationPlanned({ORDERS: (D1,), REFUNDS: ()}), up_to_date(STAGING), waiting(REFUNDS))
IDLE = {STAGING: Outcome.UP_TO_DATE, REFUNDS: Outcome.WAITING}
STAGING_EXECUTED = (planned(STAGING, ORDERS), batch(0, D1, node=STAGING))

ENDED_ATTEMPTS = (
    Ended(
        "it was partly executed and failed for a transient cause",
        (TWO_BATCHES, batch(0, D1), raised(1, D2), transient(ORDERS)),
        (ORDERS,),
    ),
    Ended(
        "it failed for a transient cause and for a persistent one",
        (TWO_BATCHES, transient(ORDERS), persistent(ORDERS)),
        settled={ORDERS: Outcome.FAILED},
    ),
    Ended(
        "batches of an earlier pass were all there was to do",
        (TWO_BATCHES, batch(0, D1), EMPTY_PLAN, planned(STAGING), transient(STAGING)),
        (STAGING, ORDERS),
    ),
    Ended(
        "a transient failure blocked a chain",
        (
            planned(STAGING, ORDERS, REVENUE),
            transient(STAGING),
            msg.NodesBlocked(dict.fromkeys((ORDERS, REVENUE), (STAGING,))),
        ),
        (STAGING, ORDERS, REVENUE),
    ),
    Ended(
        "a transient failure and a persistent one blocked it",
        (
            planned(*PARENTS_FIRST[:3]),
            transient(STAGING),
            persistent(REFUNDS),
            msg.NodesBlocked({ORDERS: (REFUNDS, STAGING)}),
        ),
        (STAGING,),
        {REFUNDS: Outcome.FAILED, ORDERS: Outcome.BLOCKED},
    ),
    Ended(
        "a failure of an unrequested model blocked it", (ONE_BATCH, ORDERS_BLOCKED), settled={ORDERS: Outcome.BLOCKED}
    ),
    Ended(
        "a transient failure and an executed model",
        (*STAGING_EXECUTED, transient(ORDERS)),
        (ORDERS,),
        executed_before=(STAGING,),
    ),
    Ended("a transient failure and idle models", (*IDLE_MODELS, transient(ORDERS)), (ORDERS,), IDLE),
    Ended("SQLMesh reported nothing about it", (ONE_BATCH,), settled={ORDERS: Outcome.INTERRUPTED}),
    Ended("interrupted: between two batches", (TWO_BATCHES, batch(1, D2)), (ORDERS,), interrupted=True),
    Ended(
        "interrupted: another model was executed",
        STAGING_EXECUTED,
        (ORDERS,),
        executed_before=(STAGING,),
        interrupted=True,
    ),
    Ended("interrupted: other models were idle", IDLE_MODELS, (ORDERS,), IDLE, interrupted=True),
    Ended(
        "interrupted: it was up to date after batches of an earlier pass",
        (TWO_BATCHES, batch(0, D1), EMPTY_PLAN, up_to_date(ORDERS)),
        settled={ORDERS: Outcome.EXECUTED},
        interrupted=True,
    ),
    Ended(
        "interrupted: a persistent failure had blocked it",
        (planned(STAGING, ORDERS), persistent(STAGING), ORDERS_BLOCKED),
        settled={STAGING: Outcome.FAILED, ORDERS: Outcome.BLOCKED},
        interrupted=True,
    ),
)


@pytest.mark.parametrize("ended", ENDED_ATTEMPTS, ids=lambda attempt: attempt.title)
def test_retry_gets_the_nodes_that_it_can_complete_and_others_are_settled_in_requested_order(ended: Ended) -> None:
    nodes = {*ended.open_after, *ended.settled, *ended.executed_before}
    ledger = Ledger([node for node in PARENTS_FIRST if node in nodes])
    assert {outcome.fqn for outcome in feed(ledger, ended.events)} == {*ended.executed_before}
    assert open_nodes(ledger) == {*ended.open_after, *ended.settled}
    below_failed = {node for failed in ledger.failed_for_good for node in DOWNSTREAM[failed]}
    retried = ledger.worth_retrying(ended.interrupted) - below_failed
    assert retried == {*ended.open_after}
    outcomes = ledger.pause(retried)
    assert node_outcomes(outcomes) == ended.settled
    assert [outcome.fqn for outcome in outcomes] == [node for node in PARENTS_FIRST if node in ended.settled]
    assert {outcome.attempts for outcome in outcomes if isinstance(outcome, NodeOutcome)} <= {1}
    assert open_nodes(ledger) == {*ended.open_after}


def test_persistent_failures_are_remembered_across_attempts() -> None:
    ledger = Ledger([STAGING, REFUNDS, ORDERS])
    failures = [persistent(STAGING), transient(REFUNDS), transient(ORDERS), persistent(ORDERS)]
    feed(ledger, [planned(STAGING, REFUNDS, ORDERS), *failures])
    assert ledger.failed_for_good == {STAGING, ORDERS}
    ledger.pause(frozenset([REFUNDS]))
    feed(ledger, [planned(REFUNDS), transient(REFUNDS)])
    assert ledger.failed_for_good == {STAGING, ORDERS}


# -- final outcomes -------------------------------------------------------------------------------


def outcome_after(*attempts: Iterable[msg.Event], interruption: str | None = None) -> NodeOutcome:
    """Return the outcome of `core.orders`. All attempts but the last one leave it open."""
    ledger = Ledger([ORDERS])
    *earlier, last = attempts
    for events in earlier:
        feed(ledger, events)
        ledger.pause(open_nodes(ledger))
    [outcome] = [*feed(ledger, last), *(ledger.close(interruption) if interruption else [])]
    assert isinstance(outcome, NodeOutcome)
    return outcome


PARTLY_FAILED = (TWO_BATCHES, batch(0, D1, duration_ms=5, rows=10, bytes=100), raised(1, D2), LOST)


def test_partly_executed_model_that_then_waits_has_the_error_of_the_first_attempt() -> None:
    """The model was ready when it failed. A successful run in which it waits would hide its error."""
    outcome = outcome_after(PARTLY_FAILED, [EMPTY_PLAN, waiting(ORDERS), SUCCEEDED])
    assert (outcome.outcome, outcome.errors) == (Outcome.PARTLY_EXECUTED, (LOST.message,))


def test_failure_of_the_first_attempt_is_void_if_the_second_dies_before_its_plan() -> None:
    outcome = outcome_after([ONE_BATCH, LOST], [OPENED], interruption="killed")
    assert (outcome.outcome, outcome.errors, outcome.attempts) == (Outcome.INTERRUPTED, ("killed",), 2)


def test_promoted_version_of_the_first_attempt_is_kept_if_the_second_reports_none() -> None:
    outcome = outcome_after([OPENED, ONE_BATCH, LOST], [opened(STAGING), ONE_BATCH, batch(0, D1)])
    assert outcome.promoted == PROMOTED


# -- checks selected alone ------------------------------------------------------------------------


def test_audits_selected_alone_are_not_added_up_across_attempts() -> None:
    ledger = Ledger([], [ORDERS])
    feed(ledger, [audited("not_null", D1, 2)])  # the process dies before it reports the end of the audits
    ledger.pause(frozenset())
    (outcome,) = feed(ledger, [audited("not_null", D1, 2), msg.NodeAudited(ORDERS, (), None)])
    assert outcome.audits[0].failing_rows == 2


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
