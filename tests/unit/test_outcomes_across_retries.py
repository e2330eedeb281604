"""Several attempts in one ledger: what stays open for the next one, and what comes of it then.

`core.orders` reads `staging.orders` and `staging.refunds`; `marts.revenue` reads `core.orders`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest
from unit.builders import days, fqn
from unit.outcome_table import (
    D1,
    D2,
    D3,
    DIVISION,
    FAILED,
    LOST,
    ONE_BATCH,
    OPENED,
    ORDERS,
    PROMOTED,
    STAGING,
    SUCCEEDED,
    TWO_BATCHES,
    audit_result,
    audited,
    batch,
    failing_batch,
    opened,
)

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.run.outcomes import AuditOnlyOutcome, Ledger, NodeOutcome, Outcome

REFUNDS, MART = fqn("staging.refunds"), fqn("marts.revenue")
PARENTS_FIRST = (STAGING, REFUNDS, ORDERS, MART)
START_OVER = msg.EvaluationPlanned({})


def planned(*nodes: str, interval: msg.Interval = D1) -> msg.EvaluationPlanned:
    """One batch each."""
    return msg.EvaluationPlanned(dict.fromkeys(nodes, (interval,)))


def lost(node: str) -> msg.NodeFailed:
    """A transient failure."""
    return msg.NodeFailed(node, "OperationalError", "the connection was lost", (), is_transient=True)


def broken(node: str) -> msg.NodeFailed:
    """A persistent failure."""
    return msg.NodeFailed(node, "BinderException", "there is no such column", ())


def unclean(node: str) -> msg.NodeFailed:
    """A failing audit."""
    return msg.NodeFailed(node, "NodeAuditsErrors", "Audit not_null failed", ("not_null",))


def up_to_date(node: str) -> msg.NodeUpToDate:
    return msg.NodeUpToDate(node, "all complete intervals are computed", None, None)


def waiting(node: str) -> msg.NodeWaiting:
    return msg.NodeWaiting(node, ("files_arrived",), ())


def feed(ledger: Ledger, events: Iterable[msg.Event]) -> list[NodeOutcome | AuditOnlyOutcome]:
    return [outcome for event in events for outcome in ledger.feed(event)]


def kinds(outcomes: Iterable[NodeOutcome | AuditOnlyOutcome]) -> dict[str, Outcome]:
    return {one.fqn: one.outcome for one in outcomes if isinstance(one, NodeOutcome)}


# -- what stays open ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Situation:
    """How an attempt ended.

    Attributes:
        says: The situation as a sentence; the id of its tests.
        events: SQLMesh's evidence, without its last event.
        kept: The nodes that another attempt may bring through.
        settled: The outcomes of those that it may not.
        done: Nodes that were handed out before the end.
        interrupted: Whether a transient error ended the whole attempt, before SQLMesh came to its own end.
    """

    says: str
    events: tuple[msg.Event, ...]
    kept: frozenset[str] = frozenset()
    settled: Mapping[str, Outcome] = field(default_factory=dict)
    done: frozenset[str] = frozenset()
    interrupted: bool = False

    @property
    def requested(self) -> list[str]:
        return [node for node in PARENTS_FIRST if node in {*self.kept, *self.settled, *self.done}]

    def ledger(self) -> Ledger:
        """At the end of that attempt."""
        ledger = Ledger(self.requested)
        assert {one.fqn for one in feed(ledger, self.events)} == self.done
        return ledger

    def paused(self) -> Ledger:
        """Before the next one."""
        ledger = self.ledger()
        ledger.pause(self.kept)
        return ledger


def nodes(*names: str) -> frozenset[str]:
    return frozenset(names)


SITUATIONS = (
    Situation("it failed for a transient cause", (ONE_BATCH, failing_batch(0, D1), lost(ORDERS)), nodes(ORDERS)),
    Situation("it failed for two transient causes", (TWO_BATCHES, LOST, lost(ORDERS)), nodes(ORDERS)),
    Situation(
        "it failed for a persistent cause",
        (ONE_BATCH, failing_batch(0, D1), broken(ORDERS)),
        settled={ORDERS: Outcome.FAILED},
    ),
    Situation(
        "it failed for a transient cause and for a persistent one",
        (TWO_BATCHES, lost(ORDERS), broken(ORDERS)),
        settled={ORDERS: Outcome.FAILED},
    ),
    Situation(
        "it failed for a persistent cause and for a transient one",
        (TWO_BATCHES, broken(ORDERS), lost(ORDERS)),
        settled={ORDERS: Outcome.FAILED},
    ),
    Situation("its audit failed", (ONE_BATCH, unclean(ORDERS)), settled={ORDERS: Outcome.AUDIT_FAILED}),
    Situation(
        "its audit failed, and another batch for a transient cause",
        (TWO_BATCHES, unclean(ORDERS), lost(ORDERS)),
        settled={ORDERS: Outcome.FAILED},
    ),
    Situation(
        "it was partly executed and failed for a transient cause",
        (TWO_BATCHES, batch(0, D1), failing_batch(1, D2), lost(ORDERS)),
        nodes(ORDERS),
    ),
    Situation(
        "it was partly executed and failed for a persistent cause",
        (TWO_BATCHES, batch(0, D1), failing_batch(1, D2), broken(ORDERS)),
        settled={ORDERS: Outcome.PARTLY_EXECUTED},
    ),
    Situation(
        "it failed for a transient cause and is listed as left out too",
        (ONE_BATCH, lost(ORDERS), msg.NodesBlocked({ORDERS: ()})),
        nodes(ORDERS),
    ),
    Situation(
        "it failed for a persistent cause and is listed as blocked by a transient failure",
        (planned(STAGING, ORDERS), lost(STAGING), broken(ORDERS), msg.NodesBlocked({ORDERS: (STAGING,)})),
        nodes(STAGING),
        {ORDERS: Outcome.FAILED},
    ),
    Situation(
        "what an earlier pass did is all there was to do",
        (TWO_BATCHES, batch(0, D1), START_OVER, planned(STAGING), lost(STAGING)),
        nodes(STAGING),
        {ORDERS: Outcome.EXECUTED},
    ),
    Situation(
        "a transient failure blocked it",
        (planned(STAGING, ORDERS), lost(STAGING), msg.NodesBlocked({ORDERS: (STAGING,)})),
        nodes(STAGING, ORDERS),
    ),
    Situation(
        "two transient failures blocked it",
        (
            planned(STAGING, REFUNDS, ORDERS),
            lost(STAGING),
            lost(REFUNDS),
            msg.NodesBlocked({ORDERS: (REFUNDS, STAGING)}),
        ),
        nodes(STAGING, REFUNDS, ORDERS),
    ),
    Situation(
        "a transient failure blocked a chain",
        (planned(STAGING, ORDERS, MART), lost(STAGING), msg.NodesBlocked({ORDERS: (STAGING,), MART: (STAGING,)})),
        nodes(STAGING, ORDERS, MART),
    ),
    Situation(
        "a persistent failure blocked it",
        (planned(STAGING, ORDERS), broken(STAGING), msg.NodesBlocked({ORDERS: (STAGING,)})),
        settled={STAGING: Outcome.FAILED, ORDERS: Outcome.BLOCKED},
    ),
    Situation(
        "a failing audit blocked it",
        (planned(STAGING, ORDERS), unclean(STAGING), msg.NodesBlocked({ORDERS: (STAGING,)})),
        settled={STAGING: Outcome.AUDIT_FAILED, ORDERS: Outcome.BLOCKED},
    ),
    Situation(
        "a transient failure and a persistent one blocked it",
        (
            planned(STAGING, REFUNDS, ORDERS),
            lost(STAGING),
            broken(REFUNDS),
            msg.NodesBlocked({ORDERS: (REFUNDS, STAGING)}),
        ),
        nodes(STAGING),
        {REFUNDS: Outcome.FAILED, ORDERS: Outcome.BLOCKED},
    ),
    Situation(
        "a transient failure blocked the beginning of a chain, and a persistent one its end",
        (
            planned(STAGING, REFUNDS, ORDERS, MART),
            lost(STAGING),
            broken(REFUNDS),
            msg.NodesBlocked({ORDERS: (STAGING,), MART: (REFUNDS, STAGING)}),
        ),
        nodes(STAGING, ORDERS),
        {REFUNDS: Outcome.FAILED, MART: Outcome.BLOCKED},
    ),
    Situation(
        "a failure of both kinds blocked it",
        (planned(STAGING, ORDERS), lost(STAGING), broken(STAGING), msg.NodesBlocked({ORDERS: (STAGING,)})),
        settled={STAGING: Outcome.FAILED, ORDERS: Outcome.BLOCKED},
    ),
    Situation(
        "a failure of what this run was not asked for blocked it",
        (ONE_BATCH, msg.NodesBlocked({ORDERS: (STAGING,)})),
        settled={ORDERS: Outcome.BLOCKED},
    ),
    Situation(
        "a transient failure beside an executed model",
        (planned(STAGING, ORDERS), batch(0, D1, node=STAGING), lost(ORDERS)),
        nodes(ORDERS),
        done=nodes(STAGING),
    ),
    Situation(
        "a transient failure beside models that had nothing to do",
        (msg.EvaluationPlanned({ORDERS: (D1,), REFUNDS: ()}), lost(ORDERS), up_to_date(STAGING), waiting(REFUNDS)),
        nodes(ORDERS),
        {STAGING: Outcome.UP_TO_DATE, REFUNDS: Outcome.WAITING},
    ),
    Situation("all went well", (ONE_BATCH, batch(0, D1)), done=nodes(ORDERS)),
    Situation("SQLMesh left it untold", (ONE_BATCH,), settled={ORDERS: Outcome.INTERRUPTED}),
    Situation(
        "SQLMesh left its failing batch unnamed",
        (ONE_BATCH, failing_batch(0, D1)),
        settled={ORDERS: Outcome.INTERRUPTED},
    ),
    Situation(
        "SQLMesh left it out for no failure that can be named",
        (ONE_BATCH, msg.NodesBlocked({ORDERS: ()})),
        settled={ORDERS: Outcome.INTERRUPTED},
    ),
    # The same where a transient error ended the whole attempt.
    Situation("interrupted: before anything was said", (), nodes(STAGING, ORDERS), interrupted=True),
    Situation("interrupted: it was planned", (OPENED, ONE_BATCH), nodes(ORDERS), interrupted=True),
    Situation("interrupted: between two batches", (TWO_BATCHES, batch(1, D2)), nodes(ORDERS), interrupted=True),
    Situation(
        "interrupted: a batch had failed, and was not yet named",
        (ONE_BATCH, failing_batch(0, D1)),
        nodes(ORDERS),
        interrupted=True,
    ),
    Situation(
        "interrupted: it was left out, and no failure was named",
        (ONE_BATCH, msg.NodesBlocked({ORDERS: ()})),
        nodes(ORDERS),
        interrupted=True,
    ),
    Situation(
        "interrupted: another one was executed",
        (planned(STAGING, ORDERS), batch(0, D1, node=STAGING)),
        nodes(ORDERS),
        done=nodes(STAGING),
        interrupted=True,
    ),
    Situation(
        "interrupted: others were told to be up to date or waiting",
        (msg.EvaluationPlanned({ORDERS: (D1,), REFUNDS: ()}), up_to_date(STAGING), waiting(REFUNDS)),
        nodes(ORDERS),
        {STAGING: Outcome.UP_TO_DATE, REFUNDS: Outcome.WAITING},
        interrupted=True,
    ),
    Situation(
        "interrupted: what an earlier pass did was told to be all there is to do",
        (TWO_BATCHES, batch(0, D1), START_OVER, up_to_date(ORDERS)),
        settled={ORDERS: Outcome.EXECUTED},
        interrupted=True,
    ),
    Situation(
        "interrupted: it had failed for a transient cause",
        (ONE_BATCH, failing_batch(0, D1), lost(ORDERS)),
        nodes(ORDERS),
        interrupted=True,
    ),
    Situation(
        "interrupted: it had failed for a persistent cause",
        (planned(STAGING, ORDERS), broken(ORDERS)),
        nodes(STAGING),
        {ORDERS: Outcome.FAILED},
        interrupted=True,
    ),
    Situation(
        "interrupted: its audit had failed",
        (ONE_BATCH, unclean(ORDERS)),
        settled={ORDERS: Outcome.AUDIT_FAILED},
        interrupted=True,
    ),
    Situation(
        "interrupted: a transient failure had blocked it",
        (planned(STAGING, ORDERS), lost(STAGING), msg.NodesBlocked({ORDERS: (STAGING,)})),
        nodes(STAGING, ORDERS),
        interrupted=True,
    ),
    Situation(
        "interrupted: a persistent failure had blocked it",
        (planned(STAGING, ORDERS), broken(STAGING), msg.NodesBlocked({ORDERS: (STAGING,)})),
        settled={STAGING: Outcome.FAILED, ORDERS: Outcome.BLOCKED},
        interrupted=True,
    ),
)
every_situation = pytest.mark.parametrize("situation", SITUATIONS, ids=lambda one: one.says)


@every_situation
def test_nodes_worth_retrying_are_those_that_a_retry_can_complete(situation: Situation) -> None:
    assert situation.ledger().worth_retrying(situation.interrupted) == situation.kept


@every_situation
def test_other_nodes_are_settled_before_the_retry_in_requested_order(
    situation: Situation,
) -> None:
    ledger = situation.ledger()
    assert ledger.open_nodes == {*situation.kept, *situation.settled}
    outcomes = ledger.pause(situation.kept)
    assert kinds(outcomes) == situation.settled
    assert [one.fqn for one in outcomes] == [node for node in PARENTS_FIRST if node in situation.settled]
    assert {one.attempts for one in outcomes if isinstance(one, NodeOutcome)} <= {1}
    assert ledger.open_nodes == situation.kept


@every_situation
def test_successful_retry_executes_only_the_open_nodes(situation: Situation) -> None:
    ledger, kept = situation.paused(), [node for node in PARENTS_FIRST if node in situation.kept]
    second = [batch(0, D3, node=node) for node in kept]
    outcomes = feed(ledger, [opened(*kept), planned(*kept, interval=D3), *second, SUCCEEDED])
    assert [(one.fqn, one.outcome) for one in outcomes if isinstance(one, NodeOutcome)] == [
        (node, Outcome.EXECUTED) for node in kept
    ]
    for one in outcomes:
        assert isinstance(one, NodeOutcome)
        assert (one.attempts, one.again, one.promoted) == (2, False, PROMOTED)
        assert (one.errors, one.failed_audits, one.culprits) == ((), (), ())
        assert one.intervals[-1][1] == D3[1]
    assert ledger.contradictions == ()
    assert ledger.open_nodes == frozenset()


@every_situation
def test_retry_with_persistent_failures_reports_only_its_own_errors(situation: Situation) -> None:
    ledger, kept = situation.paused(), sorted(situation.kept)
    events = [planned(*kept), *(failing_batch(0, D1, node=node) for node in kept), *map(broken, kept)]
    feed(ledger, events)
    assert ledger.worth_retrying(interruption_is_transient=True) == frozenset()
    outcomes = ledger.feed(FAILED) if kept else ledger.feed(SUCCEEDED)
    assert {*kinds(outcomes)} == situation.kept
    assert {*kinds(outcomes).values()} <= {Outcome.FAILED, Outcome.PARTLY_EXECUTED}
    assert {(one.errors, one.attempts) for one in outcomes if isinstance(one, NodeOutcome)} <= {
        (("there is no such column",), 2)
    }
    assert ledger.contradictions == ()


@every_situation
def test_node_that_fails_transiently_twice_stays_open_for_a_third_attempt(situation: Situation) -> None:
    ledger, kept = situation.paused(), sorted(situation.kept)
    feed(ledger, [planned(*kept), *map(lost, kept)])
    assert ledger.worth_retrying(interruption_is_transient=False) == situation.kept
    assert ledger.pause(situation.kept) == []
    outcomes = feed(ledger, [planned(*kept), *(batch(0, D1, node=node) for node in kept)])
    assert [one.attempts for one in outcomes if isinstance(one, NodeOutcome)] == [3] * len(kept)


@every_situation
def test_interrupted_attempt_leaves_no_fewer_nodes_to_retry_than_a_finished_one(situation: Situation) -> None:
    ledger = situation.ledger()
    assert ledger.worth_retrying(False) <= ledger.worth_retrying(True) <= ledger.open_nodes


@every_situation
def test_worth_retrying_does_not_change_the_ledger(situation: Situation) -> None:
    asked, never_asked = situation.ledger(), situation.ledger()
    asked.worth_retrying(True), asked.worth_retrying(False)
    assert asked.close("killed") == never_asked.close("killed")


def test_nodes_settled_before_a_retry_have_their_errors_and_culprits() -> None:
    ledger = Ledger(PARENTS_FIRST)
    blocked = msg.NodesBlocked({MART: (ORDERS, STAGING)})
    feed(ledger, [planned(*PARENTS_FIRST), lost(STAGING), broken(ORDERS), blocked])
    said = {one.fqn: (one.errors, one.culprits) for one in ledger.pause(nodes(STAGING)) if isinstance(one, NodeOutcome)}
    assert said == {
        REFUNDS: (("SQLMesh ended the run without saying what became of it.",), ()),
        ORDERS: (("there is no such column",), ()),
        MART: ((), (ORDERS, STAGING)),
    }


def test_the_cases_cover_every_outcome_that_an_attempt_can_settle() -> None:
    settled = {outcome for situation in SITUATIONS for outcome in situation.settled.values()}
    assert settled == set(Outcome) - {Outcome.NOT_IN_ENVIRONMENT}  # which is settled by the first event


# -- what comes of it -----------------------------------------------------------------------------


def after(*attempts: Iterable[msg.Event], requested: Iterable[str] = (ORDERS,)) -> list[NodeOutcome]:
    """What the last of these attempts hands out, each of which but the last left every node open that it could."""
    ledger = Ledger(requested)
    *earlier, last = attempts
    for events in earlier:
        feed(ledger, events)
        ledger.pause(ledger.open_nodes)
    return [one for one in feed(ledger, last) if isinstance(one, NodeOutcome)]


HALF = (TWO_BATCHES, batch(0, D1, duration_ms=5, rows=10, bytes=100), failing_batch(1, D2), LOST)


def test_batches_finished_in_the_first_attempt_count() -> None:
    second = [planned(ORDERS, interval=D2), batch(0, D2, duration_ms=7, rows=20, bytes=200)]
    (outcome,) = after(HALF, second)
    assert (outcome.outcome, outcome.intervals) == (Outcome.EXECUTED, (days(1, 2),))
    assert (outcome.planned_batches, outcome.finished_batches) == (2, 2)
    assert (outcome.duration_ms, outcome.rows, outcome.bytes) == (12, 30, 300)


def test_batches_of_all_attempts_are_added_up() -> None:
    plan = msg.EvaluationPlanned({ORDERS: (D2, D3)})
    second = [plan, batch(1, D3), failing_batch(0, D2), LOST]
    (outcome,) = after(HALF, second, [planned(ORDERS, interval=D2), batch(0, D2)])
    assert (outcome.outcome, outcome.intervals, outcome.attempts) == (Outcome.EXECUTED, (days(1, 3),), 3)
    assert (outcome.planned_batches, outcome.finished_batches) == (3, 3)


def test_model_is_executed_only_after_the_last_batch_of_the_second_attempt() -> None:
    ledger = Ledger([ORDERS])
    feed(ledger, HALF)
    ledger.pause(frozenset([ORDERS]))
    plan = msg.EvaluationPlanned({ORDERS: (D2, D3)})
    assert [len(ledger.feed(event)) for event in (plan, batch(1, D3), batch(0, D2), SUCCEEDED)] == [0, 0, 1, 0]


def test_intervals_of_the_first_attempt_are_reported_if_the_second_fails_persistently() -> None:
    second = [planned(ORDERS, interval=D2), failing_batch(0, D2), DIVISION, FAILED]
    (outcome,) = after(HALF, second)
    assert (outcome.outcome, outcome.intervals) == (Outcome.PARTLY_EXECUTED, (D1,))
    assert (outcome.planned_batches, outcome.finished_batches) == (2, 1)
    assert outcome.errors == (DIVISION.message,)


def test_intervals_of_the_first_attempt_are_reported_if_the_second_is_interrupted() -> None:
    (outcome,) = after(HALF, [planned(ORDERS, interval=D2), msg.RequestFailed("WorkerError", "killed")])
    assert (outcome.outcome, outcome.intervals, outcome.attempts) == (Outcome.INTERRUPTED, (D1,), 2)
    assert outcome.errors == ("killed",)


def test_audits_of_batches_that_failed_in_the_first_attempt_are_dropped() -> None:
    first = [TWO_BATCHES, audited("not_null", D1, 1), batch(0, D1), audited("not_null", D2, 3), failing_batch(1, D2)]
    second = [planned(ORDERS, interval=D2), audited("not_null", D2, 0, query="again"), batch(0, D2)]
    (outcome,) = after([*first, LOST], second)
    assert outcome.audits == (audit_result("not_null", days(1, 2), failing_rows=1),)


def test_audit_failure_in_the_second_attempt_is_the_outcome() -> None:
    second = [ONE_BATCH, audited("not_null", D1, 3), failing_batch(0, D1), unclean(ORDERS), FAILED]
    (outcome,) = after([ONE_BATCH, audited("not_null", D1), failing_batch(0, D1), LOST], second)
    assert (outcome.outcome, outcome.attempts, outcome.failed_audits) == (Outcome.AUDIT_FAILED, 2, ("not_null",))
    assert outcome.audits == (audit_result("not_null", D1, failing_rows=3),)


@pytest.mark.parametrize(("counts", "row_count"), [((), None), ((9,), 9)], ids=["not counted again", "counted again"])
def test_row_count_is_that_of_the_last_attempt(counts: tuple[int, ...], row_count: int | None) -> None:
    first = [TWO_BATCHES, msg.RowsCounted(ORDERS, 7), batch(0, D1), LOST]
    second = [planned(ORDERS, interval=D2), *(msg.RowsCounted(ORDERS, rows) for rows in counts), batch(0, D2)]
    (outcome,) = after(first, second)
    assert outcome.row_count == row_count


@pytest.mark.parametrize("attempts", [1, 2, 3, 4])
def test_outcome_has_the_number_of_attempts(attempts: int) -> None:
    earlier = [[ONE_BATCH, LOST]] * (attempts - 1)
    (outcome,) = after(*earlier, [ONE_BATCH, batch(0, D1)])
    assert outcome.attempts == attempts


def test_only_open_nodes_count_another_attempt() -> None:
    ledger = Ledger(PARENTS_FIRST)
    first = [planned(*PARENTS_FIRST), batch(0, D1, node=STAGING), lost(REFUNDS), broken(ORDERS), lost(MART)]
    handed_out = feed(ledger, first)
    handed_out += ledger.pause(ledger.worth_retrying(interruption_is_transient=False))
    handed_out += feed(ledger, [planned(REFUNDS, MART), batch(0, D1, node=REFUNDS), lost(MART)])
    handed_out += ledger.pause(ledger.worth_retrying(interruption_is_transient=False))
    handed_out += feed(ledger, [planned(MART), batch(0, D1, node=MART), SUCCEEDED])
    assert {one.fqn: one.attempts for one in handed_out if isinstance(one, NodeOutcome)} == {
        STAGING: 1,
        ORDERS: 1,
        REFUNDS: 2,
        MART: 3,
    }


@pytest.mark.parametrize("last", [SUCCEEDED, msg.EvaluationFinished("nothing_to_do")], ids=lambda one: one.status)
def test_model_computed_by_another_process_between_attempts_is_up_to_date(last: msg.EvaluationFinished) -> None:
    second = [planned(STAGING), batch(0, D1, node=STAGING), up_to_date(ORDERS), last]
    outcomes = after([planned(STAGING, ORDERS), lost(STAGING), lost(ORDERS)], second, requested=[STAGING, ORDERS])
    assert kinds(outcomes) == {STAGING: Outcome.EXECUTED, ORDERS: Outcome.UP_TO_DATE}
    assert outcomes[1].errors == ()


def test_model_partly_computed_in_the_first_attempt_is_executed_if_the_second_finds_it_up_to_date() -> None:
    second = [planned(STAGING), batch(0, D1, node=STAGING), up_to_date(ORDERS), SUCCEEDED]
    outcomes = after([*HALF, lost(STAGING)], second, requested=[STAGING, ORDERS])
    assert kinds(outcomes)[ORDERS] is Outcome.EXECUTED
    (outcome,) = (one for one in outcomes if one.fqn == ORDERS)
    assert (outcome.intervals, outcome.planned_batches, outcome.finished_batches) == ((D1,), 1, 1)


def test_model_that_failed_and_then_waits_for_a_signal_is_failed() -> None:
    """It was ready when it failed; a green run in which it waits would have lost its error."""
    (outcome,) = after([ONE_BATCH, LOST], [msg.EvaluationPlanned({ORDERS: ()}), waiting(ORDERS), SUCCEEDED])
    assert (outcome.outcome, outcome.errors) == (Outcome.FAILED, (LOST.message,))


def test_model_blocked_in_both_attempts_names_the_culprit_of_the_second() -> None:
    first = [planned(STAGING, REFUNDS, ORDERS), lost(STAGING), lost(REFUNDS)]
    second = [planned(STAGING, REFUNDS, ORDERS), batch(0, D1, node=STAGING), broken(REFUNDS)]
    outcomes = after(
        [*first, msg.NodesBlocked({ORDERS: (REFUNDS, STAGING)})],
        [*second, msg.NodesBlocked({ORDERS: (REFUNDS,)}), FAILED],
        requested=[STAGING, REFUNDS, ORDERS],
    )
    assert kinds(outcomes) == {STAGING: Outcome.EXECUTED, REFUNDS: Outcome.FAILED, ORDERS: Outcome.BLOCKED}
    assert next(one for one in outcomes if one.fqn == ORDERS).culprits == (REFUNDS,)


def test_plan_during_the_second_attempt_keeps_batches_of_the_first() -> None:
    second = [msg.EvaluationPlanned({ORDERS: (D2, D3)}), batch(0, D2), START_OVER]
    (outcome,) = after(HALF, [*second, planned(ORDERS, interval=D3), batch(0, D3)])
    assert (outcome.outcome, outcome.intervals, outcome.again) == (Outcome.EXECUTED, (days(1, 3),), False)


def test_promoted_version_is_that_of_the_last_attempt() -> None:
    replaced = msg.PromotedNode("4711", "9", "9")
    second = msg.EnvironmentOpened("prod", "plan-2", {ORDERS: replaced}, (), "cd /shop && sqlmesh plan")
    (outcome,) = after([OPENED, ONE_BATCH, LOST], [second, ONE_BATCH, batch(0, D1)])
    assert outcome.promoted == replaced


def test_promoted_version_of_the_first_attempt_is_kept_if_the_second_reports_none() -> None:
    (outcome,) = after([OPENED, ONE_BATCH, LOST], [opened(STAGING), ONE_BATCH, batch(0, D1)])
    assert outcome.promoted == PROMOTED


def test_model_removed_by_a_plan_between_attempts_is_not_in_environment() -> None:
    outcomes = after([OPENED, ONE_BATCH, LOST], [opened(missing=(ORDERS,)), msg.EvaluationFinished("not_run")])
    assert kinds(outcomes) == {ORDERS: Outcome.NOT_IN_ENVIRONMENT}
    assert (outcomes[0].attempts, len(outcomes[0].errors)) == (2, 1)


# -- what the first attempt settled ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "outcome"),
    [
        ([planned(STAGING, ORDERS), batch(0, D1, node=STAGING)], Outcome.EXECUTED),
        ([planned(STAGING, ORDERS), failing_batch(0, D1, node=STAGING), broken(STAGING)], Outcome.FAILED),
        ([planned(STAGING, ORDERS), unclean(STAGING)], Outcome.AUDIT_FAILED),
        ([planned(ORDERS), up_to_date(STAGING)], Outcome.UP_TO_DATE),
        ([msg.EvaluationPlanned({ORDERS: (D1,), STAGING: ()}), waiting(STAGING)], Outcome.WAITING),
        ([opened(ORDERS, missing=(STAGING,))], Outcome.NOT_IN_ENVIRONMENT),
    ],
    ids=lambda one: one.value if isinstance(one, Outcome) else "",
)
@pytest.mark.parametrize(
    "second",
    [
        [planned(ORDERS, interval=D2), batch(0, D2), SUCCEEDED],
        [planned(ORDERS), broken(ORDERS), FAILED],
        [planned(ORDERS), START_OVER, planned(ORDERS), batch(0, D1), SUCCEEDED],
        [msg.RequestFailed("WorkerError", "killed")],
        [],
    ],
    ids=["went well", "failed", "started over", "was interrupted", "never spoke"],
)
def test_outcome_settled_in_the_first_attempt_is_returned_once_and_never_changes(
    first: list[msg.Event], outcome: Outcome, second: list[msg.Event]
) -> None:
    ledger = Ledger([STAGING, ORDERS])
    handed_out = feed(ledger, [*first, lost(ORDERS)])
    handed_out += ledger.pause(frozenset([ORDERS]))
    assert kinds(handed_out) == {STAGING: outcome}
    later = feed(ledger, second) + ledger.close("killed")
    assert [one.fqn for one in later] == [ORDERS]
    assert ledger.contradictions == ()


def test_nothing_is_left_to_settle_if_no_node_stays_open() -> None:
    ledger = Ledger([ORDERS])
    feed(ledger, [ONE_BATCH, broken(ORDERS)])
    assert len(ledger.pause(frozenset())) == 1
    assert ledger.feed(FAILED) == []


# -- contradictions -------------------------------------------------------------------------------


def test_contradictions_of_the_first_attempt_are_kept() -> None:
    ledger = Ledger([ORDERS])
    feed(ledger, [planned(ORDERS, MART), batch(0, D1, node=MART), batch(7, D1), LOST])
    ledger.pause(frozenset([ORDERS]))
    feed(ledger, [ONE_BATCH, batch(0, D1), SUCCEEDED])
    assert ledger.contradictions == (
        f"SQLMesh executed {MART}, which was not requested.",
        f"SQLMesh finished a batch of {ORDERS} that it had not planned.",
    )


def test_node_executed_and_failed_in_the_first_attempt_stays_a_contradiction() -> None:
    ledger = Ledger([STAGING, ORDERS])
    feed(ledger, [planned(STAGING, ORDERS), batch(0, D1, node=STAGING), broken(STAGING), lost(ORDERS)])
    ledger.pause(frozenset([ORDERS]))
    feed(ledger, [ONE_BATCH, batch(0, D1), SUCCEEDED])
    assert ledger.contradictions == (
        f"SQLMesh said that {STAGING} was executed, and then that it failed: there is no such column",
    )


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ([planned(ORDERS), up_to_date(STAGING)], "up to date"),
        ([msg.EvaluationPlanned({ORDERS: (D1,), STAGING: ()}), waiting(STAGING)], "waiting"),
    ],
    ids=["up to date", "waiting"],
)
def test_idle_node_of_the_first_attempt_that_fails_in_the_second_is_a_contradiction(
    first: list[msg.Event], told: str
) -> None:
    ledger = Ledger([STAGING, ORDERS])
    feed(ledger, [*first, lost(ORDERS)])
    ledger.pause(frozenset([ORDERS]))
    feed(ledger, [ONE_BATCH, batch(0, D1), broken(STAGING), FAILED])
    assert ledger.contradictions == (
        f"SQLMesh said that {STAGING} was {told}, and then that it failed: there is no such column",
    )


def test_persistent_failures_are_remembered_across_attempts() -> None:
    ledger = Ledger([STAGING, REFUNDS, ORDERS])
    feed(ledger, [planned(STAGING, REFUNDS, ORDERS), broken(STAGING), lost(REFUNDS), lost(ORDERS), broken(ORDERS)])
    assert ledger.failed_for_good == {STAGING, ORDERS}
    ledger.pause(frozenset([REFUNDS]))
    feed(ledger, [planned(REFUNDS), lost(REFUNDS)])
    assert ledger.failed_for_good == {STAGING, ORDERS}


def test_open_node_takes_its_outcome_from_the_next_attempt_alone() -> None:
    ledger = Ledger([ORDERS])
    feed(ledger, [OPENED, ONE_BATCH, failing_batch(0, D1), lost(ORDERS)])
    ledger.pause(frozenset([ORDERS]))
    (one,) = feed(ledger, [OPENED, up_to_date(ORDERS), msg.EvaluationFinished("nothing_to_do")])
    assert isinstance(one, NodeOutcome)
    assert (one.outcome, one.errors) == (Outcome.UP_TO_DATE, ())


def test_audits_selected_alone_are_not_added_up_across_attempts() -> None:
    ledger = Ledger([], [ORDERS])
    feed(ledger, [audited("not_null", D1, 2)])  # the process dies before it tells that it is through
    ledger.pause(frozenset())
    (one,) = feed(ledger, [audited("not_null", D1, 2), msg.NodeAudited(ORDERS, (), None)])
    assert one.audits[0].failing_rows == 2


def test_failed_run_without_a_failed_node_is_a_contradiction_in_the_second_attempt() -> None:
    ledger = Ledger([ORDERS])
    feed(ledger, [ONE_BATCH, LOST])
    ledger.pause(frozenset([ORDERS]))
    feed(ledger, [ONE_BATCH, batch(0, D1), FAILED])
    assert ledger.contradictions == ("SQLMesh reported a failed run but named no model that failed.",)


def test_batch_planned_only_in_the_first_attempt_is_a_contradiction_in_the_second() -> None:
    ledger = Ledger([ORDERS])
    feed(ledger, [TWO_BATCHES, LOST])
    ledger.pause(frozenset([ORDERS]))
    assert feed(ledger, [ONE_BATCH, batch(1, D2)]) == []
    assert ledger.contradictions == (f"SQLMesh finished a batch of {ORDERS} that it had not planned.",)


# -- checks without their models ------------------------------------------------------------------


def test_audits_selected_alone_stay_open_until_they_are_reported() -> None:
    ledger = Ledger([], [STAGING, REFUNDS, ORDERS])
    assert ledger.open_audit_only == (STAGING, REFUNDS, ORDERS)
    feed(ledger, [opened(ORDERS, STAGING, missing=(REFUNDS,))])
    assert ledger.open_audit_only == (STAGING, ORDERS)
    assert ledger.pause(frozenset()) == []
    [told] = feed(ledger, [msg.NodeAudited(ORDERS, (), None)])
    assert told == AuditOnlyOutcome(ORDERS, (), (), None)
    assert ledger.open_audit_only == (STAGING,)
    assert ledger.feed(SUCCEEDED) == [
        AuditOnlyOutcome(STAGING, (), (), "SQLMesh ended the run without evaluating them.")
    ]


def test_audits_selected_alone_are_not_open_nodes() -> None:
    ledger = Ledger([STAGING], [ORDERS])
    assert ledger.open_nodes == frozenset([STAGING])
    assert ledger.worth_retrying(interruption_is_transient=True) == frozenset([STAGING])


def test_audits_selected_alone_are_reported_by_the_attempt_that_evaluates_them() -> None:
    ledger = Ledger([], [STAGING, ORDERS])
    first = feed(ledger, [audited("recent", D1, 1, node=STAGING), msg.NodeAudited(STAGING, (D2,), None)])
    assert ledger.pause(frozenset()) == []
    second = feed(ledger, [audited("not_null", D1, 2), msg.NodeAudited(ORDERS, (), None), SUCCEEDED])
    assert first == [AuditOnlyOutcome(STAGING, (audit_result("recent", D1, failing_rows=1),), (D2,), None)]
    assert second == [AuditOnlyOutcome(ORDERS, (audit_result("not_null", D1, failing_rows=2),), (), None)]


def test_audits_selected_alone_and_never_evaluated_report_the_reason() -> None:
    ledger = Ledger([STAGING], [ORDERS])
    ledger.feed(OPENED)
    ledger.feed(planned(STAGING))
    ledger.pause(frozenset([STAGING]))
    assert [one for one in ledger.close("killed") if one.fqn == ORDERS] == [AuditOnlyOutcome(ORDERS, (), (), "killed")]
