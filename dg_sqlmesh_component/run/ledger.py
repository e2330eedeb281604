"""Turns the worker's events into one outcome for each requested node. Pure: no I/O.

Theory of operation. The ledger has one entry for each requested node. Each event adds evidence to entries. An entry is
*open* until the ledger *settles* it: it assigns one `Outcome` and returns it once, as soon as it is certain.

Evidence, in the order in which SQLMesh sends it:

1. `EnvironmentOpened`: the promoted nodes. Requested nodes that are not promoted are settled: `not_in_environment`.
   Those that cannot be computed: `failed`.
2. `EvaluationPlanned`: the batches of each node that has something to compute. `NodeIdle` follows for
   the other nodes.
3. `BatchStarted`, `AuditEvaluated`, `BatchFinished`: a batch without a duration has failed, and `NodeFailed` has its
   error. When the last planned batch of a node has finished, the node is settled: `executed`. No other outcome of a
   planned node is certain before the end.
4. `NodesBlocked`: after SQLMesh has executed the last node, the nodes that it left out because of a failure.
5. `EvaluationFinished`, `RequestFailed`, or the end of the process (`close`): the ledger settles each open entry by
   its strongest evidence (`_Entry.judge`).

`IntervalCoverage` comes before the event that settles an incremental model. It is no evidence; the outcome includes it.

Evidence is discarded in two cases:

- A second `EvaluationPlanned` that does not continue the first one: a plan has landed and SQLMesh starts over.
  Finished batches count, all other evidence is void. A settled node that SQLMesh plans again gets a second outcome.
- `pause`: an attempt ends and another one follows. Some entries stay open and keep their finished batches.

Invariants:

- Each requested node gets exactly one outcome. If SQLMesh computes it again after a plan has landed, it gets a second
  one, marked `is_second_outcome`.
- `executed` requires that every planned batch has finished. One event of SQLMesh is never enough.
- If SQLMesh reports something that the request or an earlier event rules out, that is a contradiction, and the step
  fails. `_LEGAL` has when an event about a node is legal. An illegal one is no evidence.
- If the run ends before SQLMesh has started a batch, and no node has failed, no node has an outcome.

The outcome table in the documentation, these rules and the parameters of their tests must agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import WorkerError
from dg_sqlmesh_component.protocol.formatting import block, plan_block
from dg_sqlmesh_component.protocol.intervals import merged, subtract
from dg_sqlmesh_component.report.outcomes import NOT_IDLE, AuditOnlyOutcome, AuditResult, NodeOutcome, Outcome


class _Stage(Enum):
    """How far SQLMesh has come with a node. The words end a sentence such as "SQLMesh started a batch of t.a"."""

    UNPLANNED = ", which it had not planned."
    PLANNED = ", although it had planned batches of it."
    SETTLED = ", which already had its outcome."


_LEGAL: dict[type[msg.Event], tuple[frozenset[_Stage], str]] = {
    msg.BatchStarted: (frozenset({_Stage.PLANNED}), "started a batch of {}"),
    msg.BatchFinished: (frozenset({_Stage.PLANNED}), "finished a batch of {}"),
    msg.TableComputed: (frozenset({_Stage.PLANNED}), "computed the table of {}"),
    # Settled: a plan has landed, and has computed what the run had computed before.
    msg.NodeIdle: (frozenset({_Stage.UNPLANNED, _Stage.SETTLED}), "reported nothing to compute for {}"),
    # The failure of an executed node is kept, as a contradiction of its own.
    msg.NodeFailed: (frozenset(_Stage), "reported that {} failed"),
}
"""The stages of a node in which SQLMesh may send an event about it, and what the event says in words.

Those about audits, coverage and blocked nodes are legal in each: in a plan, a node is computed in one round, and one
upstream of it fails in the next.
"""


@dataclass(slots=True)
class _Entry:
    """The evidence about one node so far."""

    # The batches that SQLMesh plans now; None until it plans the node, and again when it starts over.
    planned: tuple[msg.Interval, ...] | None = None
    others_wait: msg.HeldBack = NOT_IDLE.held_back  # why the intervals wait that are pending and not planned
    rows_before: msg.EarlierRows | None = None  # the rows that it had before the last plan
    # Finished batches of the current plan, by index.
    finished: dict[int, msg.BatchFinished] = field(default_factory=dict)
    # Batches that finished before SQLMesh started over, or in an earlier attempt.
    earlier: list[msg.BatchFinished] = field(default_factory=list)
    audits: dict[int, list[msg.AuditEvaluated]] = field(default_factory=dict)
    failures: list[msg.NodeFailed] = field(default_factory=list)
    failed_upstream: tuple[str, ...] = ()
    idle: msg.NodeIdle | None = None
    coverage: msg.IntervalCoverage | None = None
    settled: Outcome | None = None  # the outcome; None while the entry is open
    is_second_outcome: bool = False
    table: msg.TableComputed | None = None
    attempts: int = 1
    earlier_errors: tuple[str, ...] = ()  # the errors of earlier attempts
    computed_until: int | None = None  # when its last batch ended, with or without an error
    running: int = 0  # the number of batches that run
    begun: int = (
        0  # the number of batches that were begun in this attempt, and of those that earlier ones have finished
    )
    was_started: bool = False  # whether a batch has started in this run

    @property
    def is_open(self) -> bool:
        return self.settled is None

    @property
    def stage(self) -> _Stage:
        if self.settled is not None:
            return _Stage.SETTLED
        return _Stage.PLANNED if self.planned else _Stage.UNPLANNED

    @property
    def done(self) -> list[msg.BatchFinished]:
        return [*self.earlier, *self.finished.values()]

    def start_over(self) -> None:
        """Keep finished batches and their audits; discard all other evidence."""
        self.earlier.extend(self.finished.values())
        self.finished.clear()
        # SQLMesh computes a failed batch again and evaluates its audits again.
        finished = {batch.interval for batch in self.earlier}
        for position, evaluations in self.audits.items():
            self.audits[position] = [evaluation for evaluation in evaluations if evaluation.interval in finished]
        self.planned, self.failed_upstream, self.table = None, (), None
        self.running, self.begun = 0, len(self.earlier)
        self.idle, self.coverage, self.others_wait = None, None, NOT_IDLE.held_back
        self.failures.clear()

    def _others_idle(self, fqn: str, outcome: Outcome) -> msg.NodeIdle:
        """Why pending intervals wait that are not planned. A model that has failed does not name it."""
        names_it = self.others_wait and outcome in (Outcome.EXECUTED, Outcome.AUDIT_FAILED)
        return msg.NodeIdle(fqn, held_back=self.others_wait) if names_it else NOT_IDLE

    def forget(self) -> None:
        """Discard finished batches and audits."""
        self.earlier.clear()
        self.finished.clear()
        self.audits.clear()

    def judge(self, interruption: str | None) -> tuple[Outcome, tuple[str, ...]]:
        """The outcome and errors of an open node at the end of the run. The strongest evidence comes first.

        `interruption` says why the run was cut off; None if SQLMesh ended it.
        """
        if self.failures:
            errors = _messages(self.failures)
            if self.done:
                return Outcome.PARTLY_EXECUTED, errors
            if all(failure.failed_audits for failure in self.failures):
                return Outcome.AUDIT_FAILED, errors
            return Outcome.FAILED, errors
        if self.failed_upstream:
            return Outcome.BLOCKED, ()
        waits = self.idle is not None and self.idle.waits
        if waits and self.earlier_errors:  # it was ready when it failed: a retry that has to wait does not excuse it
            return Outcome.PARTLY_EXECUTED if self.done else Outcome.FAILED, self.earlier_errors
        if self.done and not self.planned and (interruption is None or self.idle):
            return Outcome.EXECUTED, ()  # all before SQLMesh started over, and it then planned no more
        if waits:
            return Outcome.WAITING, ()
        if self.planned is None and self.idle:
            return Outcome.UP_TO_DATE, ()
        return Outcome.INTERRUPTED, (interruption or "SQLMesh ended the run without reporting an outcome for it.",)

    def outcome(self, fqn: str, outcome: Outcome, errors: tuple[str, ...]) -> NodeOutcome:
        done = self.done
        intervals = merged(batch.interval for batch in done)
        return NodeOutcome(
            fqn=fqn,
            outcome=outcome,
            intervals=intervals,
            not_computed=subtract(merged(self.planned or ()), intervals) if outcome.rule.is_cause else (),
            planned_batches=len(self.planned or ()) + len(self.earlier),
            finished_batches=len(done),
            duration_ms=sum(batch.duration_ms or 0 for batch in done),
            rows=_total([batch.rows for batch in done]),
            bytes=_total([batch.bytes for batch in done]),
            row_count=self.table.rows if self.table else None,
            columns=self.table.columns if self.table else {},
            audits=_audit_results(self.audits, self.begun),
            errors=errors,
            failed_audits=tuple(dict.fromkeys(name for failure in self.failures for name in failure.failed_audits)),
            needs_correction=any(
                not failure.is_transient and failure.error_type != WorkerError.__name__ for failure in self.failures
            ),
            failed_upstream=self.failed_upstream,
            idle=self.idle or self._others_idle(fqn, outcome),
            was_started=self.was_started,
            rows_before=self.rows_before,
            computed_until=self.computed_until,
            coverage=self.coverage,
            attempts=self.attempts,
            is_second_outcome=self.is_second_outcome,
        )


class Ledger:
    """Collects the evidence of a run and settles every requested node.

    Args:
        requested: The models and standalone audits to run.
        audit_only: Nodes whose audits are requested without running them.
    """

    def __init__(self, requested: Iterable[str], audit_only: Iterable[str] = ()) -> None:
        self._entries = {fqn: _Entry() for fqn in requested}
        self._promoted: dict[str, msg.PromotedVersion] = {}
        self._audit_only = dict.fromkeys(audit_only)
        self._audited: dict[str, dict[int, list[msg.AuditEvaluated]]] = {}
        self._audit_only_coverage: dict[str, msg.IntervalCoverage] = {}
        self._unaccepted: dict[str, dict[str, tuple[msg.Interval, ...]]] = {}  # as in `UnacceptedRowsShown`
        self._unrequested: set[str] = set()
        self._illegal: dict[str, None] = {}
        self._failed_after_success: dict[str, str] = {}
        self._failed_earlier: frozenset[str] = frozenset()
        self._status: str | None = None
        self._correlation_id: str | None = None
        self._closed = False
        self._has_begun = False
        self._is_cancelled = False

    @property
    def never_began(self) -> bool:
        """Whether the run ended before SQLMesh began with any node, as if a `before_all` statement fails.

        No node has an outcome then.
        """
        return self._closed and not self._has_begun and self._status is None

    @property
    def contradictions(self) -> tuple[str, ...]:
        """Reports of SQLMesh that the request rules out, each as a sentence. Any of them fails the step."""
        contradictions = [f"SQLMesh executed {fqn}, which was not requested." for fqn in sorted(self._unrequested)]
        if self._status == "failure" and not any(
            entry.failures or entry.failed_upstream for entry in self._entries.values()
        ):
            contradictions.append("SQLMesh reported a failed run but named no model that failed.")
        return (*contradictions, *self._illegal, *self._failed_after_success.values())

    def cancel(self) -> None:
        """Mark the outcomes that become certain from now on as those of a cancelled run."""
        self._is_cancelled = True

    def add(self, nodes: Iterable[str]) -> None:
        """Expect outcomes of more nodes: those that SQLMesh adds to a restatement."""
        for fqn in nodes:
            self._entries.setdefault(fqn, _Entry())

    def leave_out(self, nodes: Iterable[str]) -> None:
        """Expect no outcomes of these nodes: a restatement leaves them out."""
        for fqn in nodes:
            self._entries.pop(fqn, None)

    def feed(self, event: msg.Event) -> list[NodeOutcome | AuditOnlyOutcome]:
        """Add one event; return the nodes that it settles, parents before children. An illegal one is discarded."""
        self._has_begun = self._has_begun or isinstance(event, _BEGUN)
        if type(event) in _LEGAL and not self._is_legal(event):
            return []
        match event:
            case msg.EnvironmentOpened():
                return self._note_promoted(event)
            case msg.EvaluationPlanned():
                self._plan(event)
            case msg.AuditEvaluated():
                entry = self._entries.get(event.fqn)
                audits = entry.audits if entry else self._audited.setdefault(event.fqn, {})
                _add(event, audits.setdefault(event.position, []))
            case msg.BatchFinished():
                return self._finish_batch(event)
            case msg.TableComputed():
                self._entry(event.fqn).table = event
            case msg.NodeFailed():
                self._fail(event)
            case msg.BatchStarted():
                entry = self._entry(event.fqn)
                entry.running, entry.begun, entry.was_started = entry.running + 1, entry.begun + 1, True
            case msg.NodesBlocked():
                for fqn, failed_upstream in event.failed_upstream.items():
                    self._entry(fqn).failed_upstream = failed_upstream
            case msg.NodeIdle():
                self._entry(event.fqn).idle = event
            case msg.IntervalCoverage() if event.fqn in self._audit_only:
                self._audit_only_coverage[event.fqn] = event
            case msg.IntervalCoverage() if event.fqn in self._entries:  # others may be restated, and computed later
                self._entries[event.fqn].coverage = event
            case msg.UnacceptedRowsShown():
                self._unaccepted |= event.tables
            case msg.NodeAudited():
                return [self._settle_audited(event)]
            case msg.EvaluationFinished():
                self._status = event.status
                return self.close(None)
            case msg.RequestFailed():
                # The step's failure has the message of such an error, with its traceback, once.
                is_unexpected = event.error == WorkerError.__name__
                return self.close("The worker raised an unexpected error." if is_unexpected else event.message)
        return []

    def close(self, interruption: str | None) -> list[NodeOutcome | AuditOnlyOutcome]:
        """Settle every open node, unless the run never began.

        `interruption` says why no more events will come; None if SQLMesh ended the run.
        """
        if self._closed:
            return []
        self._closed = True
        if self.never_began:
            return []
        error = interruption or "SQLMesh ended the run without evaluating them."
        return [
            *(self._settle(fqn, *entry.judge(interruption)) for fqn, entry in self._open_entries.items()),
            *(AuditOnlyOutcome(fqn, _audit_results(self._audited.get(fqn, {})), (), error) for fqn in self._audit_only),
        ]

    def is_up_to_date(self, fqn: str) -> bool:
        """Whether the outcome of a node is `up_to_date`, or will be unless SQLMesh plans the node again."""
        entry = self._entries.get(fqn)
        return entry is not None and (entry.settled or entry.judge(None)[0]) is Outcome.UP_TO_DATE

    def idle(self, fqn: str) -> msg.NodeIdle | None:
        """The event with which the worker reported that a node had nothing to do; None if there was none."""
        return self._entry(fqn).idle

    def computed(self, fqn: str) -> tuple[msg.Interval, ...]:
        """The intervals of a node that this run has computed so far."""
        return merged(batch.interval for batch in self._entry(fqn).done)

    @property
    def running(self) -> tuple[str, ...]:
        """The nodes with a batch that runs, or that ran when the worker died."""
        return tuple(fqn for fqn, entry in self._entries.items() if entry.running > 0)

    @property
    def _open_entries(self) -> dict[str, _Entry]:
        return {fqn: entry for fqn, entry in self._entries.items() if entry.is_open}

    # -- attempts ---------------------------------------------------------------------------------

    @property
    def open_audit_only(self) -> tuple[str, ...]:
        """Nodes whose audits are requested without running them, and not evaluated yet."""
        return tuple(self._audit_only)

    def worth_retrying(self, interruption_is_transient: bool) -> frozenset[str]:
        """The open nodes that may succeed in another attempt. None may, unless a failure was transient.

        The ledger does not know the graph, so the caller removes the nodes downstream of `failed_for_good`.
        """
        unexplained = {fqn for fqn, entry in self._open_entries.items() if entry.failures or not entry.idle}
        retried = unexplained - self.failed_for_good
        has_transient_failure = any(self._entries[fqn].failures for fqn in retried)
        return frozenset(retried if interruption_is_transient or has_transient_failure else ())

    @property
    def failed_for_good(self) -> frozenset[str]:
        """Requested nodes that failed in this or an earlier attempt for a cause that is not transient."""
        failed_now = {
            fqn for fqn, entry in self._entries.items() if any(not failure.is_transient for failure in entry.failures)
        }
        return self._failed_earlier | failed_now

    def settle_except(self, kept: frozenset[str]) -> list[NodeOutcome | AuditOnlyOutcome]:
        """Settle all open nodes that another attempt does not compute. The evidence about those in `kept` stays.

        If the run is cancelled before that attempt, the last one decides their outcomes.
        """
        return [self._settle(fqn, *entry.judge(None)) for fqn, entry in self._open_entries.items() if fqn not in kept]

    def pause(self, kept: frozenset[str]) -> list[NodeOutcome | AuditOnlyOutcome]:
        """End an attempt before another one starts. The open nodes in `kept` stay open, all others are settled."""
        self._failed_earlier = self.failed_for_good
        settled = self.settle_except(kept)
        for entry in self._open_entries.values():
            entry.attempts += 1
            entry.earlier_errors = _messages(entry.failures) or entry.earlier_errors
            entry.start_over()
        self._audited.clear()
        return settled

    # -- evidence ---------------------------------------------------------------------------------

    def _is_legal(self, event: Any) -> bool:
        """Whether an event of `_LEGAL` may come now. If not, that is a contradiction."""
        stages, words = _LEGAL[type(event)]
        stage = self._entry(event.fqn).stage
        if event.fqn in self._entries and stage not in stages:
            self._illegal[f"SQLMesh {words.format(event.fqn)}{stage.value}"] = None
        return event.fqn in self._entries and stage in stages

    def _entry(self, fqn: str) -> _Entry:
        """The node's entry. A node that was not requested is a contradiction, and its entry is discarded."""
        if fqn not in self._entries:
            self._unrequested.add(fqn)
            return _Entry()
        return self._entries[fqn]

    def _note_promoted(self, event: msg.EnvironmentOpened) -> list[NodeOutcome | AuditOnlyOutcome]:
        for fqn, entry in self._open_entries.items():
            if _is_other_code(self._promoted.get(fqn), event.promoted.get(fqn)):
                entry.forget()  # a plan has landed: the environment no longer shows the table with these batches
        self._promoted |= event.promoted
        self._correlation_id = event.correlation_id
        refusal = (
            f"Not promoted in environment {event.environment}, so not run. To promote the project's files:"
            f"{plan_block(event.plan_command)}\n\nIf its file was deleted, refresh the manifest, and then reload the "
            f"definitions:{block('dg utils refresh-defs-state')}"
        )
        settled: list[NodeOutcome | AuditOnlyOutcome] = []
        for fqn in event.missing:
            if fqn in self._audit_only:
                del self._audit_only[fqn]
                settled.append(AuditOnlyOutcome(fqn, (), (), refusal))
            elif fqn in self._entries and self._entries[fqn].is_open:
                settled.append(self._settle(fqn, Outcome.NOT_IN_ENVIRONMENT, (refusal,)))
        refused = {fqn: reason for fqn, reason in event.refused.items() if self._entry(fqn).is_open}
        return [*settled, *(self._settle(fqn, Outcome.FAILED, (reason,)) for fqn, reason in refused.items())]

    def _plan(self, event: msg.EvaluationPlanned) -> None:
        """Start over and note the batches. The first plan also starts over, which changes no entry without evidence."""
        self._unaccepted.clear()
        for entry in () if event.continues else self._entries.values():
            entry.start_over()
        for fqn, batches in event.batches.items():
            entry = self._entry(fqn)
            entry.planned, entry.others_wait = batches, event.others_wait.get(fqn, NOT_IDLE.held_back)
            entry.rows_before = event.earlier_rows.get(fqn)
            if not entry.is_open:
                entry.settled, entry.is_second_outcome = None, True
                entry.forget()

    def _finish_batch(self, event: msg.BatchFinished) -> list[NodeOutcome | AuditOnlyOutcome]:
        entry = self._entry(event.fqn)
        entry.computed_until, entry.running = event.at, entry.running - 1
        if event.duration_ms is None:
            return []
        planned = entry.planned or ()
        if event.batch_index not in range(len(planned)):
            self._illegal[f"SQLMesh finished a batch of {event.fqn}, which it had not planned."] = None
            return []
        entry.finished[event.batch_index] = event
        if not entry.is_open or len(entry.finished) < len(planned):
            return []
        return [self._settle(event.fqn, Outcome.EXECUTED)]

    def _fail(self, event: msg.NodeFailed) -> None:
        entry = self._entry(event.fqn)
        entry.failures.append(event)
        if entry.settled is not None and not entry.settled.is_failure:
            outcome = entry.settled.words
            self._failed_after_success.setdefault(
                event.fqn, f"SQLMesh reported that {event.fqn} was {outcome}, and then that it failed: {event.message}"
            )

    def _settle_audited(self, event: msg.NodeAudited) -> AuditOnlyOutcome:
        self._audit_only.pop(event.fqn, None)
        return AuditOnlyOutcome(
            event.fqn,
            audits=_audit_results(self._audited.pop(event.fqn, {})),
            missing=merged(event.missing),
            error=event.error,
            coverage=self._audit_only_coverage.pop(event.fqn, None),
            evaluated_at=event.at,
            altered_at=event.altered_at,
            unaccepted=self._unaccepted.get(event.fqn, {}),
        )

    def _settle(self, fqn: str, outcome: Outcome, errors: tuple[str, ...] = ()) -> NodeOutcome:
        entry = self._entries[fqn]
        entry.settled = outcome
        settled = replace(
            entry.outcome(fqn, outcome, errors),
            promoted=self._promoted.get(fqn),
            is_cancelled=self._is_cancelled,
            correlation_id=self._correlation_id if entry.computed_until is not None else None,
            unaccepted=self._unaccepted.get(fqn, {}),
        )
        entry.audits.clear()  # if SQLMesh plans it again, they are forgotten anyway
        return settled


_BEGUN = (
    msg.BatchStarted,
    msg.AuditEvaluated,
    msg.BatchFinished,
    msg.NodeFailed,
    msg.NodesBlocked,
    msg.NodeIdle,
    msg.NodeAudited,
)
"""Events that the worker sends only after SQLMesh has begun with the requested nodes, not when it has planned them."""


def _is_other_code(before: msg.PromotedVersion | None, now: msg.PromotedVersion | None) -> bool:
    return bool(before and now and (before.version, before.data_hash) != (now.version, now.data_hash))


def _messages(failures: Iterable[msg.NodeFailed]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(failure.message for failure in failures))


def _total(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _add(event: msg.AuditEvaluated, evaluations: list[msg.AuditEvaluated]) -> None:
    """Add the evaluation of an audit, and drop the query and the rows of the one before if the result shows another's.

    The result shows those of the first evaluation with failing rows, else of the last. A backfill has 100,000 of them.
    """
    if evaluations and (not evaluations[-1].failing_rows or (len(evaluations) > 1 and evaluations[-2].failing_rows)):
        evaluations[-1] = replace(evaluations[-1], query=None, sample=None)
    evaluations.append(event)


def _audit_results(audits: dict[int, list[msg.AuditEvaluated]], begun: int = 0) -> tuple[AuditResult, ...]:
    """The results, without those that have passed before a later batch that was begun has altered the whole table."""
    results = []
    for position, evaluations in sorted(audits.items()):
        evaluated = [
            evaluation for evaluation in evaluations if evaluation.failing_rows is not None or evaluation.error
        ]
        if not evaluated:
            continue  # the audit has `skip true`
        intervals = merged(evaluation.interval for evaluation in evaluated)
        if evaluated[-1].of_whole_table:  # a later batch replaces the rows that an earlier evaluation has seen
            evaluated = evaluated[-1:]
            if len(evaluations) < begun and not (evaluated[0].failing_rows or evaluated[0].error):
                continue
        # The first one that has a query: those of others were dropped, perhaps because of a batch that was void later.
        shown = max(evaluated, key=lambda evaluation: (bool(evaluation.failing_rows), evaluation.query is not None))
        results.append(
            AuditResult(
                name=shown.name,
                position=position,
                args_hash=shown.args_hash,
                blocking=shown.blocking,
                failing_rows=sum(evaluation.failing_rows or 0 for evaluation in evaluated),
                query=shown.query,
                intervals=intervals,
                failed_intervals=merged(found.interval for found in evaluated if found.failing_rows or found.error),
                of_whole_table=evaluated[-1].of_whole_table,
                audited_data=evaluated[-1].audited_data,
                error=next((evaluation.error for evaluation in evaluated if evaluation.error), None),
                sample=shown.sample,
                shown=shown.interval if shown.failing_rows else None,
            )
        )
    return tuple(results)
