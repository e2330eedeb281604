"""Events of a run, and of the ticks that look for pending intervals or for data of other runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dg_sqlmesh_component.protocol.messages.events import Event, LastEvent
from dg_sqlmesh_component.protocol.messages.requests import Interval
from dg_sqlmesh_component.protocol.texts import ErrorText, Query, Text

Status = Literal["success", "failure", "nothing_to_do", "not_run"]
"""The result of `Context.run`; `not_run` if there was no promoted node to run."""

MAX_GAPS = 20
"""How many gaps of a model are listed. Further gaps are counted."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some of the rows that an audit has found, as texts; None is SQL's NULL."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Text | None, ...], ...]


@dataclass(frozen=True, slots=True)
class OtherTablesFound(Event):
    """Promoted versions read tables that no model of the manifest reads. The worker waits for their `AwaitedTables`."""

    tables: tuple[str, ...]


CauseKind = Literal["failed", "signal", "source", "own", "bounds", "not_computed", "unselected"]
"""The kinds of causes. `worker/intervals/causes.py` describes and decides them, `report/causes.py` has their words."""


@dataclass(frozen=True, slots=True)
class Cause:
    """A node or table for which intervals of a node wait. Somebody can act on it."""

    kind: CauseKind
    of: str  # the node or the table, by fqn
    signals: tuple[
        str, ...
    ] = ()  # the signals of that node that are not ready or, if it is not selected, not evaluated
    # Its ranges that a run has forgotten, and not computed since: the rows that stand there are old or refused.
    refused: tuple[Interval, ...] = ()
    gap: tuple[Interval, ...] = ()  # the ranges that it lacks, although it has later ones and is read as a whole


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Why intervals of a node wait."""

    causes: tuple[Cause, ...] = ()
    reads: tuple[Interval, ...] = ()  # what the node reads of the causes for these intervals
    # Whether models upstream that are not selected wait for the sources too: a run of the node alone does not help.
    through_others: bool = False

    def __bool__(self) -> bool:
        """Whether a cause is known."""
        return bool(self.causes)


@dataclass(frozen=True, slots=True)
class ComputedData:
    """Data of a model that Dagster has not recorded."""

    fqn: str
    promoted: PromotedVersion
    # The ranges that were computed since the record, each with the instant of its computation. If there is no record of
    # this version, or if a plan has created the view again: all computed intervals, with the last instant. Empty: since
    # the record, plans have only changed models upstream, and none of these changes affects this data.
    ranges: tuple[tuple[Interval, int], ...]
    coverage: IntervalCoverage | None = None  # the coverage of an incremental model, if it was requested
    # What the janitor has merged: perhaps only a part of such a range was computed since the record.
    merged_ranges: tuple[Interval, ...] = ()
    # The data hash of the definition that has computed the newest range. It differs from the promoted one if a plan has
    # changed the definition and has kept the rows.
    computed_by: str = ""
    # As in `TableComputed`. Only if the definition is another one than that of the record.
    columns: dict[str, str] = field(default_factory=dict)
    rows: int | None = None  # as in `TableComputed`


@dataclass(frozen=True, slots=True)
class PromotedReads:
    """What the promoted version of an incremental model reads."""

    version: str  # as in `PromotedVersion`
    tables: tuple[str, ...]  # the tables that SQLMesh does not compute, also those behind views


@dataclass(frozen=True, slots=True)
class DataComparedWithRecords(Event):
    """How the state differs from Dagster's records. Sent before anything runs, and part of `ChangesFound`."""

    unrecorded: tuple[ComputedData, ...] = ()
    # After a plan, what the promoted versions read, if tables are awaited.
    reads: dict[str, PromotedReads] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StateLocked(Event):
    """Sent when no other run uses the SQLMesh state any more. The worker then waits for `Records`.

    From now on, Dagster's records of data that other runs have computed are complete: a run holds the lock until its
    results are stored.
    """

    # By incremental model; empty if no tables are awaited.
    reads: dict[str, PromotedReads] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditedData:
    """The table version and audit definitions that an audit result is about."""

    version: str  # version of the table that the environment shows: the snapshot's, or a preview's in development
    audits: str  # a hash of the definitions and arguments of the node's audits


@dataclass(frozen=True, slots=True)
class EarlierRows:
    """The rows that a node has before a run computes others."""

    audited_data: AuditedData  # what its audits would be about
    # When they were last altered; 0: never. Of a view or a standalone audit: those that it reads.
    altered_at: int
    is_unaccepted: bool = False  # as in `NodeIdle`
    stay_unaudited: bool = False  # whether the run audits only the rows that it computes


@dataclass(frozen=True, slots=True)
class PromotedVersion:
    """The promoted version of one node, which a run executes."""

    version: str  # SQLMesh's snapshot version, the suffix of the physical table
    # data_hash, metadata_hash: They differ from the manifest's if the local files or the environment have changed.
    data_hash: str
    metadata_hash: str
    table_name: str | None = None  # the table or view that consumers read in this environment; None for an audit
    # SQLMesh's identifier of the snapshot. Each change of the model or of a model upstream gives another.
    identifier: str = ""


@dataclass(frozen=True, slots=True)
class EnvironmentOpened(Event):
    """Sent after the worker has read the environment from the state, before anything runs.

    It is sent again if a plan changes the environment during the run and SQLMesh starts over.
    """

    environment: str
    promoted: dict[str, PromotedVersion]  # the promoted versions of the requested nodes
    missing: tuple[str, ...]  # requested nodes that are not promoted in the environment; the others run
    plan_command: str  # the `sqlmesh plan` that promotes them
    # Promoted models, executed by SQLMesh, that are not assets of the requesting component.
    others: tuple[str, ...] = ()
    # The comment, or on BigQuery the label, that SQLMesh adds to each query of this run; None if this version of
    # SQLMesh has none for runs.
    correlation_id: str | None = None
    # Requested models that cannot be computed, with the reason; the others run.
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RestatementPlanned(Event):
    """Sent before `EnvironmentOpened` if the request restates: the ranges that SQLMesh will compute again.

    The worker waits for a `GoAhead`.

    Source: `Plan.missing_intervals` of a plan with `restate_models`.
    """

    # By model, the range that SQLMesh will compute again, and its number of intervals.
    ranges: dict[str, tuple[Interval, int]]
    added: tuple[str, ...]  # models that were not requested, and are computed too in this step
    environments: dict[str, int]  # other environments that lose intervals of these models, with the number of models
    asked_for: str  # the range of the run config, as SQLMesh resolves it
    left_out: dict[str, str] = field(default_factory=dict)  # requested models that are not restated, with the reason
    # Models that are not restated: upstream of restated ones, with pending intervals in the range, which SQLMesh adds.
    only_pending: tuple[str, ...] = ()
    # The models of `ranges` that later steps of the run compute. Their intervals are pending until then.
    later: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EvaluationPlanned(Event):
    """Sent when SQLMesh has planned the batches of the run, before it computes the first one.

    If a plan changes the environment during the run, it is sent without batches, and again when SQLMesh starts over.

    Source: `Console.start_evaluation_progress`.
    """

    # Batches by node. An empty tuple: intervals are pending, but none of them is ready. A plan leaves out such nodes.
    batches: dict[str, tuple[Interval, ...]]
    # Of nodes with batches that do not get all pending intervals: why the others wait.
    others_wait: dict[str, HeldBack] = field(default_factory=dict)
    # Whether these batches come in addition to the planned ones. A `PlanRequest` plans in several stages.
    continues: bool = False
    # Of nodes with batches and audits: the rows that they have before.
    earlier_rows: dict[str, EarlierRows] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEvaluated(Event):
    """Sent after SQLMesh has evaluated one audit on one batch, before the batch's `BatchFinished`.

    It is also sent for each requested audit of an `audit_only` node, before the `NodeAudited` of that node, and of
    `UnauditedRows`, before the first `BatchStarted` of their node.

    Source: the results of `SnapshotEvaluator.audit`.
    """

    fqn: str
    name: str
    position: int  # index in the promoted model's list of audits; 0 for a standalone audit
    args_hash: str  # as in `Audit`
    blocking: bool  # whether a failure stops the node, as SQLMesh decided for this run
    failing_rows: int | None  # 0 if it passed; None if SQLMesh left it out (`skip true`) or it could not be evaluated
    query: Query | None  # the rendered SQL that selects the failing rows
    interval: Interval  # the batch on which it was evaluated
    # True if it looked at the whole table, as for a model without a time column; else at the batch.
    of_whole_table: bool = False
    audited_data: AuditedData | None = None
    error: ErrorText | None = None  # Why it could not be evaluated. In a run, this also fails the node.
    sample: Sample | None = None  # some of the failing rows, if the request asks for them


@dataclass(frozen=True, slots=True)
class BatchFinished(Event):
    """Sent when one batch of one node has ended, with or without an error.

    Source: `Console.update_snapshot_evaluation_progress`, which SQLMesh calls for a failing batch too.
    """

    fqn: str
    batch_index: int  # Index in the planned batches, from 0. Batches end in any order.
    interval: Interval
    duration_ms: int | None  # wall time; None if the batch raised an error
    # rows, bytes: As the engine reports them; None if it does not.
    rows: int | None
    bytes: int | None
    at: int = 0  # when it ended, after SQLMesh has written the interval to its state


@dataclass(frozen=True, slots=True)
class BatchStarted(Event):
    """Sent when a batch of a node starts. Its `BatchFinished` follows, unless the process dies.

    Source: `Console.start_snapshot_evaluation_progress`.
    """

    fqn: str


@dataclass(frozen=True, slots=True)
class QueriesNotCancelled(Event):
    """Sent when a cancelled run is cut off, if queries in flight may still run in the engine after the worker's end."""

    reasons: dict[str, ErrorText]  # why they were not cancelled, by node with a batch in flight


@dataclass(frozen=True, slots=True)
class BatchesRunning(Event):
    """Sent from time to time while batches run, if a batch has started or ended since the last one.

    Source: `Console.start_snapshot_evaluation_progress` and `Console.update_snapshot_evaluation_progress`.
    """

    # By node with a batch in flight: finished batches, planned batches, seconds since its first one started.
    running: dict[str, tuple[int, int, float]]
    # finished, planned: Nodes whose planned batches have all finished, and all nodes with planned batches.
    finished: int
    planned: int


@dataclass(frozen=True, slots=True)
class TableComputed(Event):
    """What a model's table has after its last batch. Sent before that batch's `BatchFinished`."""

    fqn: str
    rows: int | None  # None unless they were counted
    # The type of each column, in the dialect of the model. Empty if they are not known.
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeFailed(Event):
    """Sent for each error of a node, as soon as it is raised.

    Source: the error with which a batch ends, `Console.log_failed_models` for a node without a batch, or the error of a
        signal.
    """

    fqn: str
    error_type: str  # class name of the cause; `WorkerError` if the cause is a bug of this package
    message: ErrorText
    failed_audits: tuple[str, ...]  # names of the blocking audits that are the cause; empty for any other cause
    is_transient: bool = False  # whether a retry may succeed


@dataclass(frozen=True, slots=True)
class NodesBlocked(Event):
    """Sent after the run if SQLMesh left nodes out because upstream nodes failed.

    Source: `Console.log_skipped_models`; the failed upstream nodes come from the environment's graph.
    """

    failed_upstream: dict[str, tuple[str, ...]]  # the failed upstream nodes, by blocked node


@dataclass(frozen=True, slots=True)
class NodeIdle(Event):
    """Sent for each requested node without a batch to compute, after `EvaluationPlanned`. Void if SQLMesh starts over.

    If SQLMesh plans nothing at all, there is no `EvaluationPlanned` before it.
    """

    fqn: str
    reason: str | None = None  # why there was nothing to do, as a sentence fragment; None if pending intervals wait
    next_due: int | None = None  # when its cron ticks next; None if it waits, or has nothing further to compute
    held_back: HeldBack = field(default_factory=HeldBack)  # why pending intervals wait
    last_interval_end: int | None = None  # the end of its last computed interval; None if nothing was ever computed
    audited_data: AuditedData | None = None  # what its audits would be about
    # When its data was last altered; for a view or an audit, when the data that it reads was.
    altered_at: int | None = None
    # Whether that data may have rows of a batch that was begun and not recorded: cancelled, killed or refused.
    is_unaccepted: bool = False

    @property
    def waits(self) -> bool:
        """Whether pending intervals wait."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class UnacceptedRowsShown(Event):
    """Sent with the `NodeIdle` events if requested views show rows that are old or refused. A failure may add more."""

    # By view and by table, the intervals of these rows: a run has begun to compute them, and nobody has finished.
    tables: dict[str, dict[str, tuple[Interval, ...]]]


@dataclass(frozen=True, slots=True)
class NodesUpToDate(Event):
    """Sent when SQLMesh has finished, if computed nodes had nothing to do. The worker waits for `AuditsWanted`.

    An `AuditEvaluated` follows for each wanted audit.
    """

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IntervalCoverage(Event):
    """The computed intervals of an incremental model and its gaps, as in the state at that moment.

    A gap is a range of adjoining missing intervals. An interval is missing if the model's start, end and cron require
    it at the run's execution time, and if it is not computed. If a `lookback` has begun to compute it again, its cron
    need not have ticked.

    Sent for each requested incremental model: before its `NodeIdle` or `NodeAudited`, or before the
    `BatchFinished` of its last batch. If that batch does not finish, it is sent after the run. Void if SQLMesh starts
    over.
    """

    fqn: str
    # From the start of the first to the end of the last computed interval; None if there is none.
    computed: Interval | None
    gaps: tuple[Interval, ...] = ()  # the oldest gaps, in order; at most `MAX_GAPS`
    gap_count: int = 0  # the number of all gaps
    missing_intervals: int = 0  # the number of single intervals in all gaps
    # When the oldest missing interval became due: the first tick of the cron at or after its end, or its end if that
    # tick is later than now. None if there are no gaps.
    missing_since: int | None = None
    # Ranges that are not computed because an awaited table is not complete for them, or a signal not ready. They are no
    # gaps.
    waiting: tuple[Interval, ...] = ()
    late: tuple[Interval, ...] = ()  # computed ranges whose source was loaded after they were computed
    lacking: int = 0  # how many milliseconds of the range `computed` are not computed
    outdated: tuple[Interval, ...] = ()  # computed ranges that a model which it reads has got only afterwards
    # Those of `outdated` and `late` before the model's `start`: nothing computes them.
    before_start: tuple[Interval, ...] = ()
    # Of a model without a `start`, the oldest ranges between computed ones that no run computes; at most `MAX_GAPS`.
    skipped: tuple[Interval, ...] = ()
    # The models upstream that have to be restated for `outdated`, as they are outdated themselves: this one follows.
    restated_first: tuple[str, ...] = ()
    # Whether ranges of such models tell nothing, so that those which were known before may still be outdated.
    may_hide_outdated: bool = False


@dataclass(frozen=True, slots=True)
class NodeAudited(Event):
    """Sent when the audits of an `audit_only` node are finished."""

    fqn: str
    missing: tuple[Interval, ...]  # pending intervals, without which the audits are about older data
    error: ErrorText | None  # why no audits were evaluated; None if they were, each with its own `AuditEvaluated`
    at: int = 0  # when the first of them began
    altered_at: int | None = None  # when the node's table was last computed; None if it was never


@dataclass(frozen=True, slots=True)
class EvaluationFinished(LastEvent):
    """The last event of an `EvaluationRequest` that was served, even if nodes failed."""

    status: Status
