"""The fold: events in, one outcome per requested node out, as soon as it is certain. Pure.

Theory of operation. The ledger has one entry for each requested node. Each event of the worker adds evidence to
entries; an entry is *open* until it is *settled* with one `Outcome`, which is handed out once.

Evidence, in the order in which SQLMesh gives it:

1. `EnvironmentOpened`: what is promoted. Requested nodes that are not are settled: `not_in_environment`.
2. `EvaluationPlanned`: the batches of each node that has something to do. `NodeUpToDate` and `NodeWaiting` follow for
   those that are left out.
3. `AuditEvaluated`, `BatchFinished`: a batch without a duration has failed. When the last planned batch of a node has
   finished, the node is settled: `executed`. This is the only outcome that is certain before the end.
4. `NodeFailed`, `NodesBlocked`: what failed, and what was left out because of it, once SQLMesh is through.
5. `EvaluationFinished`, `RequestFailed`, or the end of the process (`close`): every open entry is judged by the
   strongest evidence there is (`_Entry.judge`): failures, culprits, finished batches, waiting, up to date, interrupted.

Two things start over. A second `EvaluationPlanned` means that a plan has landed and SQLMesh runs again: what finished
stays done, the rest of the evidence is void, and a node that was settled may be computed `again`. `pause` ends an
attempt that another one follows: some entries stay open, with their finished batches.

Invariants: each requested node gets exactly one outcome (two if SQLMesh computes it again after a plan has landed,
the second marked `again`); `executed` never rests on a callback alone, but on every planned batch; what SQLMesh
reports and cannot be true of the request is a contradiction, which fails the step. A run that ends before SQLMesh has
planned anything was refused: no node has an outcome.

The outcome table of the documentation, these rules and the parametrisation of their tests are one table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import block


class Outcome(str, Enum):
    """What SQLMesh did with one requested node."""

    EXECUTED = "executed"
    UP_TO_DATE = "up_to_date"
    WAITING = "waiting"
    BLOCKED = "blocked"
    FAILED = "failed"
    AUDIT_FAILED = "audit_failed"
    PARTLY_EXECUTED = "partly_executed"
    INTERRUPTED = "interrupted"
    NOT_IN_ENVIRONMENT = "not_in_environment"

    @property
    def is_failure(self) -> bool:
        """Whether the step must fail because of it."""
        return self not in (Outcome.EXECUTED, Outcome.UP_TO_DATE, Outcome.WAITING)


@dataclass(frozen=True, slots=True)
class AuditResult:
    """One audit of one node over all batches on which it was evaluated in this run.

    Attributes:
        failing_rows: Summed over batches; 0 when it passed on each.
        query: The rendered SQL of a failing batch if there is one, else of the last batch.
        intervals: What it was evaluated on, adjoining batches merged.
        of: What it looked at.
        error: Why it could not be evaluated; None when it was.
    """

    name: str
    position: int
    args: dict[str, str]
    blocking: bool
    failing_rows: int
    query: str | None
    intervals: tuple[msg.Interval, ...]
    of: msg.Audited | None = None
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it was evaluated and no batch had a failing row."""
        return self.failing_rows == 0 and self.error is None


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """The one line of the ledger for one requested node.

    Attributes:
        outcome: Which row of the outcome table.
        promoted: What the environment has promoted for it; None when state was never read.
        intervals: What was computed in this run, adjoining batches merged.
        planned_batches, finished_batches: Counts; they differ only when something went wrong.
        duration_ms: Summed over finished batches.
        rows, bytes: Summed; None unless the engine reported them for every finished batch.
        row_count: Rows of the whole table after the last batch; None unless they were counted.
        audits: Results of this run, in the model's order.
        errors: What went wrong, in SQLMesh's words, one entry per distinct failure.
        failed_audits: Names of the blocking audits that are the cause.
        culprits: For `blocked`: the failed nodes upstream.
        signals, upstream: For `waiting`: its own signals, or the nodes upstream whose signals, were not ready.
        unselected: For `waiting`, or for `executed` where more is due: models upstream that have due intervals and
            were not asked to run.
        reason, next_due: For `up_to_date`.
        last_interval_end, of, altered_at: For `up_to_date` and `waiting`: how far its data reaches, what its audits
            would look at, and when that was last altered.
        computed, computed_at: For `up_to_date`: all intervals that it has, and when SQLMesh last computed any of it.
        attempts: How many attempts it took, with retries inside the step.
        again: True when an earlier outcome of this node was already handed out in this run: a plan
            landed, SQLMesh started over and computed it once more.
    """

    fqn: str
    outcome: Outcome
    promoted: msg.PromotedNode | None = None
    intervals: tuple[msg.Interval, ...] = ()
    planned_batches: int = 0
    finished_batches: int = 0
    duration_ms: int = 0
    rows: int | None = None
    bytes: int | None = None
    row_count: int | None = None
    audits: tuple[AuditResult, ...] = ()
    errors: tuple[str, ...] = ()
    failed_audits: tuple[str, ...] = ()
    culprits: tuple[str, ...] = ()
    signals: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    unselected: tuple[str, ...] = ()
    reason: str | None = None
    next_due: int | None = None
    last_interval_end: int | None = None
    of: msg.Audited | None = None
    altered_at: int | None = None
    computed: tuple[msg.Interval, ...] = ()
    computed_at: int | None = None
    attempts: int = 1
    again: bool = False

    @property
    def warnings(self) -> tuple[AuditResult, ...]:
        """Non-blocking audits that failed."""
        return tuple(audit for audit in self.audits if not audit.passed and not audit.blocking)


@dataclass(frozen=True, slots=True)
class AuditOnlyOutcome:
    """What came of a node of which only the audits were asked for.

    Attributes:
        missing: Intervals that are due and not computed.
        error: Why no audits were evaluated; None when they were, each with its own result.
    """

    fqn: str
    audits: tuple[AuditResult, ...]
    missing: tuple[msg.Interval, ...]
    error: str | None


@dataclass(slots=True)
class _Entry:
    """Evidence about one node so far. `planned` is None until SQLMesh plans it in the current pass."""

    planned: tuple[msg.Interval, ...] | None = None
    unselected: tuple[str, ...] = ()
    finished: dict[int, msg.BatchFinished] = field(default_factory=dict)
    earlier: list[msg.BatchFinished] = field(default_factory=list)
    audits: dict[int, list[msg.AuditEvaluated]] = field(default_factory=dict)
    failures: list[msg.NodeFailed] = field(default_factory=list)
    culprits: tuple[str, ...] = ()
    up_to_date: msg.NodeUpToDate | None = None
    waiting: msg.NodeWaiting | None = None
    verdict: Outcome | None = None
    again: bool = False
    row_count: int | None = None
    attempts: int = 1
    earlier_errors: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        return self.verdict is not None

    @property
    def done(self) -> list[msg.BatchFinished]:
        return [*self.earlier, *self.finished.values()]

    @property
    def is_explained(self) -> bool:
        """Whether SQLMesh has said why it left the node out of what it planned last."""
        return self.up_to_date is not None or self.waiting is not None

    def start_over(self) -> None:
        """What finished stays done, the rest is void."""
        self.earlier.extend(self.finished.values())
        self.keep_audits_of_finished_batches()
        self.finished.clear()
        self.planned, self.unselected, self.culprits, self.row_count = None, (), (), None
        self.up_to_date, self.waiting = None, None
        self.failures.clear()

    def forget(self) -> None:
        """Nothing that was computed counts."""
        self.earlier.clear()
        self.finished.clear()
        self.audits.clear()

    def keep_audits_of_finished_batches(self) -> None:
        """A failed batch will be computed once more, so what its audits said is void."""
        finished = {batch.interval for batch in self.done}
        for position, evaluations in self.audits.items():
            self.audits[position] = [one for one in evaluations if one.interval in finished]

    @property
    def is_complete(self) -> bool:
        return bool(self.planned) and len(self.finished) == len(self.planned or ())

    def judge(self, interruption: str | None) -> tuple[Outcome, tuple[str, ...]]:
        """The outcome of a node whose last planned batch never finished, from the strongest evidence down."""
        if self.failures:
            errors = _messages(self.failures)
            if self.done:
                return Outcome.PARTLY_EXECUTED, errors
            if all(failure.failed_audits for failure in self.failures):
                return Outcome.AUDIT_FAILED, errors
            return Outcome.FAILED, errors
        if self.culprits:
            return Outcome.BLOCKED, ()
        if self.done and not self.planned and (interruption is None or self.is_explained):
            return Outcome.EXECUTED, ()  # in an earlier pass; the last one had nothing to add
        if self.waiting is not None:
            if self.earlier_errors:  # it was ready when it failed: what keeps it from running now is no excuse
                return Outcome.PARTLY_EXECUTED if self.done else Outcome.FAILED, self.earlier_errors
            return Outcome.WAITING, ()
        if self.planned is None and self.up_to_date is not None:
            return Outcome.UP_TO_DATE, ()
        if interruption is not None:
            return Outcome.INTERRUPTED, (interruption,)
        return Outcome.INTERRUPTED, ("SQLMesh ended the run without saying what became of it.",)

    def outcome(
        self, fqn: str, outcome: Outcome, errors: tuple[str, ...], promoted: msg.PromotedNode | None
    ) -> NodeOutcome:
        """The line of the ledger that this evidence makes of a verdict."""
        done = self.done
        up_to_date, waiting = self.up_to_date, self.waiting
        idle = up_to_date or waiting
        denied = self.unselected if outcome is Outcome.EXECUTED else ()
        return NodeOutcome(
            fqn=fqn,
            outcome=outcome,
            promoted=promoted,
            intervals=_merge(batch.interval for batch in done),
            planned_batches=len(self.planned or ()) + len(self.earlier),
            finished_batches=len(done),
            duration_ms=sum(batch.duration_ms or 0 for batch in done),
            rows=_total([batch.rows for batch in done]),
            bytes=_total([batch.bytes for batch in done]),
            row_count=self.row_count,
            audits=_audit_results(self.audits),
            errors=errors,
            failed_audits=tuple(dict.fromkeys(name for failure in self.failures for name in failure.failed_audits)),
            culprits=self.culprits,
            signals=waiting.signals if waiting else (),
            upstream=waiting.upstream if waiting else (),
            unselected=waiting.unselected if waiting else denied,
            reason=up_to_date.reason if up_to_date else None,
            next_due=up_to_date.next_due if up_to_date else None,
            last_interval_end=idle.last_interval_end if idle else None,
            of=idle.of if idle else None,
            altered_at=idle.altered_at if idle else None,
            computed=up_to_date.intervals if up_to_date else (),
            computed_at=up_to_date.computed_at if up_to_date else None,
            attempts=self.attempts,
            again=self.again,
        )


class Ledger:
    """Balances a run: every requested node ends in exactly one outcome, whatever happens.

    Args:
        requested: Models and standalone audits that the run was asked for.
        audit_only: Nodes of which only the audits were asked for.
    """

    def __init__(self, requested: Iterable[str], audit_only: Iterable[str] = ()) -> None:
        self._entries = {fqn: _Entry() for fqn in requested}
        self._promoted: dict[str, msg.PromotedNode] = {}
        self._audit_only = dict.fromkeys(audit_only)
        self._audited: dict[str, dict[int, list[msg.AuditEvaluated]]] = {}
        self._unrequested: set[str] = set()
        self._unplanned: set[str] = set()
        self._taken_back: dict[str, str] = {}
        self._failed_earlier: frozenset[str] = frozenset()
        self._status: str | None = None
        self._closed = False
        self._has_begun = False

    @property
    def was_refused(self) -> bool:
        """Whether the run ended before SQLMesh planned, failed or audited anything: no node has an outcome then."""
        return self._closed and not self._has_begun and self._status is None

    @property
    def contradictions(self) -> tuple[str, ...]:
        """What SQLMesh said that cannot be true of the request; not empty: the step must fail."""
        found = [f"SQLMesh executed {fqn}, which was not requested." for fqn in sorted(self._unrequested)]
        if self._status == "failure" and not any(entry.failures or entry.culprits for entry in self._entries.values()):
            found.append("SQLMesh reported a failed run but named no model that failed.")
        found += [
            f"SQLMesh finished a batch of {fqn} that it had not planned."
            for fqn in sorted(self._unplanned - self._unrequested)
        ]
        found += self._taken_back.values()
        return tuple(found)

    def feed(self, event: msg.Event) -> list[NodeOutcome | AuditOnlyOutcome]:
        """Take one event; return the outcomes that it made certain, parents before children."""
        self._has_begun = self._has_begun or isinstance(event, _BEGUN)
        match event:
            case msg.EnvironmentOpened():
                return self._open(event)
            case msg.EvaluationPlanned():
                self._plan(event)
            case msg.AuditEvaluated():
                audits = (
                    self._entries[event.fqn].audits
                    if event.fqn in self._entries
                    else self._audited.setdefault(event.fqn, {})
                )
                audits.setdefault(event.position, []).append(event)
            case msg.BatchFinished():
                return self._finish_batch(event)
            case msg.RowsCounted():
                self._entry(event.fqn).row_count = event.rows
            case msg.NodeFailed():
                self._fail(event)
            case msg.NodesBlocked():
                for fqn, culprits in event.culprits.items():
                    self._entry(fqn).culprits = culprits
            case msg.NodeUpToDate():
                self._entry(event.fqn).up_to_date = event
            case msg.NodeWaiting():
                self._entry(event.fqn).waiting = event
            case msg.NodeAudited():
                self._audit_only.pop(event.fqn, None)
                audits = self._audited.pop(event.fqn, {})
                return [
                    AuditOnlyOutcome(
                        event.fqn,
                        _audit_results(audits),
                        _merge(event.missing),
                        event.error,
                    )
                ]
            case msg.EvaluationFinished():
                self._status = event.status
                return self.close(None)
            case msg.RequestFailed():
                return self.close(event.message)
            case msg.LogLine() | msg.ProjectDescribed() | msg.SecretsKnown() | msg.BatchesInFlight():
                pass
        return []

    def close(self, interruption: str | None) -> list[NodeOutcome | AuditOnlyOutcome]:
        """Settle every node that is still open; none of a run that was refused, which cut nothing off.

        Args:
            interruption: Why no more events will come; None when SQLMesh came to its own end.
        """
        if self._closed:
            return []
        self._closed = True
        if self.was_refused:
            return []
        unheard = interruption or "SQLMesh ended the run without evaluating them."
        return [
            *(
                self._settle(fqn, *entry.judge(interruption))
                for fqn, entry in self._entries.items()
                if not entry.settled
            ),
            *(
                AuditOnlyOutcome(fqn, _audit_results(self._audited.get(fqn, {})), (), unheard)
                for fqn in self._audit_only
            ),
        ]

    # -- attempts ---------------------------------------------------------------------------------

    @property
    def open_nodes(self) -> frozenset[str]:
        """Requested nodes without an outcome yet."""
        return frozenset(fqn for fqn, entry in self._entries.items() if not entry.settled)

    @property
    def open_audit_only(self) -> tuple[str, ...]:
        """Nodes whose audits are still to be evaluated without running them."""
        return tuple(self._audit_only)

    def worth_retrying(self, interruption_is_transient: bool) -> frozenset[str]:
        """The open nodes that another attempt may bring through, when this one has come to its end.

        Those that failed for transient causes only, those that only such failures blocked, and, when the whole
        attempt ended for a transient cause, those that it left untold. What reads a node that `failed_for_good`
        is for the caller to leave out, who knows the graph.
        """
        unsettled = {fqn: entry for fqn, entry in self._entries.items() if not entry.settled}
        failed = {
            fqn
            for fqn, entry in unsettled.items()
            if entry.failures and all(failure.is_transient for failure in entry.failures)
        }
        blocked = {
            fqn
            for fqn, entry in unsettled.items()
            if not entry.failures and entry.culprits and set(entry.culprits) <= failed
        }
        untold = {
            fqn
            for fqn, entry in unsettled.items()
            if interruption_is_transient and not (entry.failures or entry.culprits or entry.is_explained)
        }
        return frozenset(failed | blocked | untold)

    @property
    def failed_for_good(self) -> frozenset[str]:
        """Requested nodes that failed, in this attempt or an earlier one, for a cause that no attempt removes."""
        now = {
            fqn for fqn, entry in self._entries.items() if not all(failure.is_transient for failure in entry.failures)
        }
        return self._failed_earlier | now

    def pause(self, kept: frozenset[str]) -> list[NodeOutcome | AuditOnlyOutcome]:
        """End an attempt that another one follows: `kept` stay open, the other open nodes are settled."""
        self._failed_earlier = self.failed_for_good
        settled: list[NodeOutcome | AuditOnlyOutcome] = [
            self._settle(fqn, *entry.judge(None))
            for fqn, entry in self._entries.items()
            if not entry.settled and fqn not in kept
        ]
        for fqn in kept:
            entry = self._entries[fqn]
            entry.attempts += 1
            entry.earlier_errors = _messages(entry.failures) or entry.earlier_errors
            entry.start_over()
        self._audited.clear()
        return settled

    # -- evidence ---------------------------------------------------------------------------------

    def _entry(self, fqn: str) -> _Entry:
        if fqn not in self._entries:
            self._unrequested.add(fqn)
            return _Entry()
        return self._entries[fqn]

    def _open(self, event: msg.EnvironmentOpened) -> list[NodeOutcome | AuditOnlyOutcome]:
        for fqn, entry in self._entries.items():
            if not entry.settled and _is_other_code(self._promoted.get(fqn), event.promoted.get(fqn)):
                entry.forget()  # a plan landed: what was computed of it is in a table that nobody reads any more
        self._promoted |= event.promoted
        refusal = (
            f"Not promoted in environment {event.environment}, so not run. To promote the project's files:"
            f"{block(event.plan_command)}"
        )
        refused: list[NodeOutcome | AuditOnlyOutcome] = []
        for fqn in event.missing:
            if fqn in self._audit_only:
                del self._audit_only[fqn]
                refused.append(AuditOnlyOutcome(fqn, (), (), refusal))
            elif fqn in self._entries and not self._entries[fqn].settled:
                refused.append(self._settle(fqn, Outcome.NOT_IN_ENVIRONMENT, (refusal,)))
        return refused

    def _plan(self, event: msg.EvaluationPlanned) -> None:
        """A second plan means that SQLMesh starts over: what finished stays done, the rest is judged anew."""
        for entry in self._entries.values():
            entry.start_over()
        for fqn, batches in event.batches.items():
            entry = self._entry(fqn)
            entry.planned, entry.unselected = batches, event.unselected.get(fqn, ())
            if entry.settled:
                entry.verdict, entry.again = None, True
                entry.earlier.clear()
                entry.audits.clear()

    def _finish_batch(self, event: msg.BatchFinished) -> list[NodeOutcome | AuditOnlyOutcome]:
        entry = self._entry(event.fqn)
        if event.duration_ms is None:
            return []
        if event.batch_index not in range(len(entry.planned or ())):
            self._unplanned.add(event.fqn)
            return []
        entry.finished[event.batch_index] = event
        if not entry.is_complete or entry.settled:
            return []
        return [self._settle(event.fqn, Outcome.EXECUTED)]

    def _fail(self, event: msg.NodeFailed) -> None:
        entry = self._entry(event.fqn)
        entry.failures.append(event)
        if entry.verdict is not None and not entry.verdict.is_failure:
            told = entry.verdict.value.replace("_", " ")
            self._taken_back.setdefault(
                event.fqn, f"SQLMesh said that {event.fqn} was {told}, and then that it failed: {event.message}"
            )

    def _settle(self, fqn: str, outcome: Outcome, errors: tuple[str, ...] = ()) -> NodeOutcome:
        entry = self._entries[fqn]
        entry.verdict = outcome
        return entry.outcome(fqn, outcome, errors, self._promoted.get(fqn))


_BEGUN = (
    msg.EvaluationPlanned,
    msg.AuditEvaluated,
    msg.BatchFinished,
    msg.NodeFailed,
    msg.NodesBlocked,
    msg.NodeUpToDate,
    msg.NodeWaiting,
    msg.NodeAudited,
)
"""Events by which SQLMesh says that it has begun with the requested nodes."""


def _is_other_code(before: msg.PromotedNode | None, now: msg.PromotedNode | None) -> bool:
    return bool(before and now and (before.version, before.data_hash) != (now.version, now.data_hash))


def _messages(failures: Iterable[msg.NodeFailed]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(failure.message for failure in failures))


def _merge(intervals: Iterable[msg.Interval]) -> tuple[msg.Interval, ...]:
    merged: list[msg.Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def _total(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _audit_results(audits: dict[int, list[msg.AuditEvaluated]]) -> tuple[AuditResult, ...]:
    results = []
    for position, evaluations in sorted(audits.items()):
        counted = [one for one in evaluations if one.failing_rows is not None or one.error]
        if not counted:
            continue  # `skip true`: its author switched it off, so there is nothing to tell
        intervals = _merge(one.interval for one in counted)
        if counted[-1].of_whole_table:  # what a batch before the last one left behind is no more
            counted = counted[-1:]
        shown = next((one for one in counted if one.failing_rows), counted[-1])
        results.append(
            AuditResult(
                name=shown.name,
                position=position,
                args=shown.args,
                blocking=shown.blocking,
                failing_rows=sum(one.failing_rows or 0 for one in counted),
                query=shown.query,
                intervals=intervals,
                of=counted[-1].of,
                error=next((one.error for one in counted if one.error), None),
            )
        )
    return tuple(results)
