"""What SQLMesh did with the nodes of one run, and what each outcome means.

`RULES` decides how a run reports each kind of outcome. `run/ledger.py` decides which kind a node has. `wording.py` has
the sentence of each kind, and `failure.py` groups some of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from dg_sqlmesh_component.protocol import messages as msg


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
    def rule(self) -> Rule:
        """What this outcome means."""
        return RULES[self]

    @property
    def words(self) -> str:
        """The outcome for a person: `up to date`."""
        return self.value.replace("_", " ")

    @property
    def is_failure(self) -> bool:
        """Whether this outcome fails the step."""
        return self.rule.verdict is Verdict.FAILED


class Verdict(Enum):
    """The result of a status check. Any that has failed fails the step."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"


class Event(Enum):
    """The event by which Dagster knows of an outcome."""

    MATERIALIZATION = "materialization"
    OBSERVATION = "observation"
    OPTIONAL_OBSERVATION = "observation, unless `record_unchanged` is false"


class Released(Enum):
    """The downstream steps that may run after an outcome, without a materialization of this run."""

    ALL = "all"
    OWN_PROJECT = "steps of the same SQLMesh project only"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Rule:
    """What one outcome means."""

    verdict: Verdict
    verdict_if_cancelled: Verdict = Verdict.FAILED  # the verdict if the run was cancelled
    verdict_if_untouched: Verdict = Verdict.FAILED  # the verdict if the run has not begun with the node
    event: Event = Event.OBSERVATION
    releases: Released = Released.NONE
    repeats: bool = False  # whether the data is unchanged, so that the last results of the model's audits are repeated
    waits: bool = False  # whether pending intervals wait for something, which the metadata names
    # For a failure: whether the step's Failure describes it with its error. Otherwise, the Failure lists it below what
    # caused it.
    is_cause: bool = False

    @property
    def materializes(self) -> bool:
        """Whether Dagster gets a materialization."""
        return self.event is Event.MATERIALIZATION

    @property
    def may_stay_silent(self) -> bool:
        """Whether Dagster gets no event if `record_unchanged` is false."""
        return self.event is Event.OPTIONAL_OBSERVATION


RULES: Mapping[Outcome, Rule] = {
    Outcome.EXECUTED: Rule(Verdict.PASSED, event=Event.MATERIALIZATION, releases=Released.ALL),
    Outcome.UP_TO_DATE: Rule(Verdict.PASSED, event=Event.OPTIONAL_OBSERVATION, releases=Released.ALL, repeats=True),
    Outcome.WAITING: Rule(Verdict.WARNING, releases=Released.OWN_PROJECT, repeats=True, waits=True),
    Outcome.BLOCKED: Rule(Verdict.FAILED, verdict_if_untouched=Verdict.WARNING),
    Outcome.FAILED: Rule(Verdict.FAILED, is_cause=True),
    Outcome.AUDIT_FAILED: Rule(Verdict.FAILED, is_cause=True),
    Outcome.PARTLY_EXECUTED: Rule(Verdict.FAILED, is_cause=True),
    Outcome.INTERRUPTED: Rule(
        Verdict.FAILED, verdict_if_cancelled=Verdict.WARNING, verdict_if_untouched=Verdict.WARNING
    ),
    Outcome.NOT_IN_ENVIRONMENT: Rule(Verdict.FAILED),
}


@dataclass(frozen=True, slots=True)
class AuditResult:
    """The result of one audit of one node, over all batches on which it was evaluated in this run."""

    name: str
    position: int
    args_hash: str  # as in `Audit`
    blocking: bool
    failing_rows: int  # the sum over all batches; 0 if the audit passed
    query: str | None  # the rendered SQL of a failing batch if there is one, else of the last batch
    intervals: tuple[msg.Interval, ...]  # the intervals on which it was evaluated; adjoining ones are merged
    failed_intervals: tuple[msg.Interval, ...] = ()  # those of batches in which it did not pass; as above
    of_whole_table: bool = False  # whether each evaluation looked at the whole table, whatever the intervals
    audited_data: msg.AuditedData | None = None  # the version of the data and of the audits
    error: str | None = None  # why it could not be evaluated; None if it was evaluated
    sample: msg.Sample | None = None  # some of the failing rows of the batch whose query is shown
    shown: msg.Interval | None = None  # that batch, if rows failed in it

    @property
    def passed(self) -> bool:
        """Whether it was evaluated and found no failing row."""
        return self.failing_rows == 0 and self.error is None


NOT_IDLE = msg.NodeIdle("")


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """What SQLMesh did with one requested node in this run."""

    fqn: str
    outcome: Outcome
    # The version that the environment has promoted; None if state was never read.
    promoted: msg.PromotedVersion | None = None
    intervals: tuple[msg.Interval, ...] = ()  # the intervals computed in this run; adjoining ones are merged
    # Of a materialization: other intervals that failed or cancelled runs have computed since the last one.
    earlier_intervals: tuple[msg.Interval, ...] = ()
    # Of a failed node: the planned intervals that were not computed; adjoining ones are merged.
    not_computed: tuple[msg.Interval, ...] = ()
    planned_batches: int = 0  # differs from `finished_batches` only if something went wrong
    finished_batches: int = 0
    duration_ms: int = 0  # the sum over finished batches
    # Rows and bytes: the sum over finished batches; None unless the engine reported each of them.
    rows: int | None = None
    bytes: int | None = None
    row_count: int | None = None  # rows of the whole table after the last batch; None unless they were counted
    # The type of each column of that table; empty if they are not known.
    columns: Mapping[str, str] = field(default_factory=dict)
    audits: tuple[AuditResult, ...] = ()  # the audit results of this run, in the model's order
    errors: tuple[str, ...] = ()  # SQLMesh's error messages, each distinct one once
    failed_audits: tuple[str, ...] = ()  # names of the blocking audits that caused the failure
    # Whether it failed for a cause in the project or its data that a retry alone does not remove.
    needs_correction: bool = False
    failed_upstream: tuple[str, ...] = ()  # for `blocked`: the failed nodes upstream
    # The reason of an idle or waiting node. `executed` and `audit_failed` have only `held_back`: why some of its
    # intervals wait.
    idle: msg.NodeIdle = NOT_IDLE
    is_cancelled: bool = False  # whether the run was being cancelled when the outcome became certain
    was_started: bool = False  # whether a batch of it was started in this run
    # The rows that it had before this run; None if SQLMesh planned none of it, or if it has no audits.
    rows_before: msg.EarlierRows | None = None
    # When the last batch of this run ended, epoch milliseconds; None if no batch was started.
    computed_until: int | None = None
    correlation_id: str | None = None  # what SQLMesh adds to each query of this run; None if no batch was started
    # The coverage of an incremental model after this run; None if it was not reported.
    coverage: msg.IntervalCoverage | None = None
    attempts: int = 1  # the number of attempts, with retries inside the step
    # Whether this is the node's second outcome in this run, because a plan landed and SQLMesh computed the node again.
    is_second_outcome: bool = False
    # Of a view: the intervals of each table, by fqn, of which it shows rows that are old or refused.
    unaccepted: Mapping[str, Sequence[msg.Interval]] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The result of the node's status check."""
        rule = self.outcome.rule
        if self.is_untouched:
            return rule.verdict_if_untouched
        if self.unaccepted and rule.verdict is Verdict.PASSED:
            return Verdict.WARNING
        return rule.verdict_if_cancelled if self.is_cancelled and self.outcome.is_failure else rule.verdict

    @property
    def was_not_started(self) -> bool:
        """Whether the run ended before it reached the node."""
        return not self.was_started and not self.intervals

    @property
    def is_untouched(self) -> bool:
        """Whether the run failed without having begun with this node, and not because of it."""
        return self.was_not_started and self.outcome.rule.verdict_if_untouched is Verdict.WARNING


def last_outcomes(outcomes: Iterable[NodeOutcome]) -> list[NodeOutcome]:
    """The last outcome of each node. It has a second one if SQLMesh has started over, because a plan has landed."""
    return list({outcome.fqn: outcome for outcome in outcomes}.values())


@dataclass(frozen=True, slots=True)
class AuditOnlyOutcome:
    """The result of a node whose audits were requested without running it."""

    fqn: str
    audits: tuple[AuditResult, ...]
    missing: tuple[msg.Interval, ...]  # the node's pending intervals
    error: str | None  # why no audit was evaluated; None if they were evaluated
    coverage: msg.IntervalCoverage | None = None  # the coverage of an incremental model; None if it was not reported
    evaluated_at: int | None = None  # when the first audit began, epoch milliseconds
    # When the model was last computed, epoch milliseconds; None if it was never, or if it is not known.
    altered_at: int | None = None
    unaccepted: Mapping[str, Sequence[msg.Interval]] = field(default_factory=dict)  # as in `NodeOutcome`
