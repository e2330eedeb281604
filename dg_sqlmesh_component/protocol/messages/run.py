"""Events of a run, and of the ticks that look for pending intervals or for data of other runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dg_sqlmesh_component.protocol.messages.events import Event
from dg_sqlmesh_component.protocol.messages.requests import Interval
from dg_sqlmesh_component.protocol.texts import ErrorText, ProjectText, Query, Text

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


@dataclass(frozen=True, slots=True)
class PendingFound(Event):
    """The answer to a `PendingRequest`.

    Attributes:
        pending: The models with pending intervals that are ready, and when the cron of each has ticked last.
        next_due: The next tick of the requested models' crons, and its model; None if no model is promoted.
        waiting: The models of which no pending interval is ready, and the names of their own signals that are not
            ready, or the awaited tables. None of either: a model upstream of it waits.
        signal_error: Why SQLMesh could not evaluate the signals. Then no model waits: a run reports the error.
        needed: The tables in `made_between` without which a ready model would wait.
        intervals: The pending intervals of each model that are ready; adjoining ones are merged.
        late: By model, the computed ranges whose source was loaded after they were computed.
    """

    pending: dict[str, int]
    next_due: tuple[int, str] | None
    waiting: dict[str, tuple[str, ...]] = field(default_factory=dict)
    needed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    signal_error: ErrorText | None = None
    intervals: dict[str, tuple[Interval, ...]] = field(default_factory=dict)
    late: dict[str, tuple[Interval, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComputedData:
    """Data of a model that Dagster has not recorded.

    Attributes:
        ranges: The ranges that were computed since the record, each with the instant of its computation. If there is no
            record of this version, or if a plan has created the view again: all computed intervals, with the last
            instant. Empty: since the record, plans have only changed models upstream, and none of these changes affects
            this data.
        coverage: The coverage of an incremental model, if it was requested.
        computed_by: The data hash of the definition that has computed the newest range. It differs from the promoted
            one if a plan has changed the definition and has kept the rows.
        columns: As in `TableComputed`. Only if the definition is another one than that of the record.
    """

    fqn: str
    promoted: PromotedVersion
    ranges: tuple[tuple[Interval, int], ...]
    coverage: IntervalCoverage | None = None
    computed_by: str = ""
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromotedReads:
    """What the promoted version of an incremental model reads.

    Attributes:
        version: As in `PromotedVersion`.
        tables: The tables that SQLMesh does not compute, also those behind views.
    """

    version: str
    tables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DataComparedWithRecords(Event):
    """How the state differs from Dagster's records. Sent before anything runs, and part of `ChangesFound`.

    Attributes:
        finished_runs: The Dagster runs whose unfinished restatements were finished since, by any run or plan.
        reads: After a plan, what the promoted versions read, if tables are awaited.
    """

    unrecorded: tuple[ComputedData, ...] = ()
    finished_runs: tuple[str, ...] = ()
    reads: dict[str, PromotedReads] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChangesFound(Event):
    """The answer to a `ChangesRequest`.

    Attributes:
        plan_id: The last plan of the environment.
        is_finalized: False if that plan is still updating the environment. Then nothing else is found.
        promoted: The promoted models, without external and embedded ones.
    """

    plan_id: str
    is_finalized: bool
    promoted: dict[str, PromotedVersion] = field(default_factory=dict)
    compared: DataComparedWithRecords = field(default_factory=DataComparedWithRecords)


@dataclass(frozen=True, slots=True)
class StateLocked(Event):
    """Sent when no other run uses the SQLMesh state any more. The worker then waits for `Records`.

    From now on, Dagster's records of data that other runs have computed are complete: a run holds the lock until its
    results are stored.

    Attributes:
        reads: By incremental model; empty if no tables are awaited.
    """

    reads: dict[str, PromotedReads] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditedData:
    """The table version and audit definitions that an audit result is about.

    Attributes:
        version: Version of the table that the environment shows: the snapshot's, or a preview's in development.
        audits: A hash of the definitions and arguments of the node's audits.
    """

    version: str
    audits: str


@dataclass(frozen=True, slots=True)
class PromotedVersion:
    """The promoted version of one node, which a run executes.

    Attributes:
        version: SQLMesh's snapshot version, the suffix of the physical table.
        data_hash, metadata_hash: They differ from the manifest's if the local files or the environment have changed.
        table_name: The table or view that consumers read in this environment; None for an audit.
        identifier: SQLMesh's identifier of the snapshot. Each change of the model or of a model upstream gives another.
    """

    version: str
    data_hash: str
    metadata_hash: str
    table_name: str | None = None
    identifier: str = ""


@dataclass(frozen=True, slots=True)
class EnvironmentOpened(Event):
    """Sent after the worker has read the environment from the state, before anything runs.

    It is sent again if a plan changes the environment during the run and SQLMesh starts over.

    Attributes:
        promoted: The promoted versions of the requested nodes.
        missing: Requested nodes that are not promoted in the environment; the others run.
        plan_command: The `sqlmesh plan` that promotes them.
        others: Promoted models, executed by SQLMesh, that are not assets of the requesting component.
        correlation_id: The comment, or on BigQuery the label, that SQLMesh adds to each query of this run; None if
            this version of SQLMesh has none for runs.
        refused: Requested models that cannot be computed, with the reason; the others run.
    """

    environment: str
    promoted: dict[str, PromotedVersion]
    missing: tuple[str, ...]
    plan_command: str
    others: tuple[str, ...] = ()
    correlation_id: str | None = None
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RestatementPlanned(Event):
    """Sent before `EnvironmentOpened` if the request restates: the ranges that SQLMesh will compute again.

    The worker waits for a `GoAhead`.

    Attributes:
        ranges: By model, the range that SQLMesh will compute again, and its number of intervals.
        added: Models that were not requested, and have to be computed again because they are downstream.
        environments: Other environments that lose intervals of these models, with the number of models.
        asked_for: The range of the run config, as SQLMesh resolves it.
        not_loaded: Awaited tables that are not complete for a range in which an incremental model reads them, each with
            that range.
        left_out: Requested models that are not restated, with the reason.

    Source: `Plan.missing_intervals` of a plan with `restate_models`.
    """

    ranges: dict[str, tuple[Interval, int]]
    added: tuple[str, ...]
    environments: dict[str, int]
    asked_for: str
    planned_at: int = 0
    not_loaded: tuple[tuple[str, Interval], ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HeldBackBy:
    """What lacks the intervals for which a node waits.

    Attributes:
        models: The nearest upstream models that have them pending and do not run. If it depends on its past, the node
            itself may be one of them.
        tables: The awaited tables that are not complete.
    """

    models: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything lacks them."""
        return bool(self.models or self.tables)


@dataclass(frozen=True, slots=True)
class EvaluationPlanned(Event):
    """Sent when SQLMesh has planned the batches of the run, before it computes the first one.

    If a plan changes the environment during the run, it is sent without batches, and again when SQLMesh starts over.

    Attributes:
        batches: Batches by node. An empty tuple: intervals are pending, but none of them is ready.
        held_back_by: Of nodes with batches that do not get all pending intervals: what lacks the others.
        continues: Whether these batches come in addition to the planned ones. A `PlanRequest` plans in two stages.

    Source: `Console.start_evaluation_progress`.
    """

    batches: dict[str, tuple[Interval, ...]]
    held_back_by: dict[str, HeldBackBy] = field(default_factory=dict)
    continues: bool = False


@dataclass(frozen=True, slots=True)
class AuditEvaluated(Event):
    """Sent after SQLMesh has evaluated one audit on one batch, before the batch's `BatchFinished`.

    It is also sent for each requested audit of an `audit_only` node, before the `NodeAudited` of that node.

    Attributes:
        position: Index in the promoted model's list of audits; 0 for a standalone audit.
        blocking: Whether a failure stops the node, as SQLMesh decided for this run.
        failing_rows: 0 if it passed; None if SQLMesh left it out (`skip true`) or it could not be evaluated.
        query: The rendered SQL that selects the failing rows.
        interval: The batch on which it was evaluated.
        of_whole_table: True if it looked at the whole table, as for a model without a time column; else at the batch.
        error: Why it could not be evaluated. In a run, this also fails the node.
        sample: Some of the failing rows, if the request asks for them.

    Source: the results of `SnapshotEvaluator.audit`.
    """

    fqn: str
    name: str
    position: int
    args: dict[str, ProjectText]
    blocking: bool
    failing_rows: int | None
    query: Query | None
    interval: Interval
    of_whole_table: bool = False
    audited_data: AuditedData | None = None
    error: ErrorText | None = None
    sample: Sample | None = None


@dataclass(frozen=True, slots=True)
class BatchFinished(Event):
    """Sent when one batch of one node has ended, with or without an error.

    Attributes:
        batch_index: Index in the planned batches, from 0. Batches end in any order.
        duration_ms: Wall time; None if the batch raised an error.
        rows, bytes: As the engine reports them; None if it does not.
        at: When it ended, after SQLMesh has written the interval to its state.

    Source: `Console.update_snapshot_evaluation_progress`, which SQLMesh calls for a failing batch too.
    """

    fqn: str
    batch_index: int
    interval: Interval
    duration_ms: int | None
    rows: int | None
    bytes: int | None
    at: int = 0


@dataclass(frozen=True, slots=True)
class BatchStarted(Event):
    """Sent when a batch of a node starts. Its `BatchFinished` follows, unless the process dies.

    Source: `Console.start_snapshot_evaluation_progress`.
    """

    fqn: str


@dataclass(frozen=True, slots=True)
class QueriesNotCancelled(Event):
    """Sent when a cancelled run is cut off, if queries in flight may still run in the engine after the worker's end.

    Attributes:
        reasons: Why they were not cancelled, by node with a batch in flight.
    """

    reasons: dict[str, ErrorText]


@dataclass(frozen=True, slots=True)
class BatchesRunning(Event):
    """Sent from time to time while batches run, if a batch has started or ended since the last one.

    Attributes:
        running: By node with a batch in flight: finished batches, planned batches, seconds since its first one started.
        finished, planned: Nodes whose planned batches have all finished, and all nodes with planned batches.

    Source: `Console.start_snapshot_evaluation_progress` and `Console.update_snapshot_evaluation_progress`.
    """

    running: dict[str, tuple[int, int, float]]
    finished: int
    planned: int


@dataclass(frozen=True, slots=True)
class TableComputed(Event):
    """What a model's table has after its last batch. Sent before that batch's `BatchFinished`.

    Attributes:
        rows: None unless they were counted.
        columns: The type of each column, in the dialect of the model. Empty if they are not known.
    """

    fqn: str
    rows: int | None
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeFailed(Event):
    """Sent for each error of a node, as soon as it is raised.

    Attributes:
        error_type: Class name of the cause; `WorkerError` if the cause is a bug of this package.
        failed_audits: Names of the blocking audits that are the cause; empty for any other cause.
        is_transient: Whether a retry may succeed.

    Source: the error with which a batch ends, `Console.log_failed_models` for a node without a batch, or the error of a
        signal.
    """

    fqn: str
    error_type: str
    message: ErrorText
    failed_audits: tuple[str, ...]
    is_transient: bool = False


@dataclass(frozen=True, slots=True)
class NodesBlocked(Event):
    """Sent after the run if SQLMesh left nodes out because upstream nodes failed.

    Attributes:
        failed_upstream: The failed upstream nodes, by blocked node.

    Source: `Console.log_skipped_models`; the failed upstream nodes come from the environment's graph.
    """

    failed_upstream: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class NodeIdle(Event):
    """Sent for each requested node without a batch to compute, after `EvaluationPlanned`. Void if SQLMesh starts over.

    If SQLMesh plans nothing at all, there is no `EvaluationPlanned` before it.

    Attributes:
        reason: Why there was nothing to do, as a sentence fragment; None if pending intervals wait.
        next_due: When its cron ticks next; None if it waits, or has nothing further to compute.
        signals: Its own signals that were not ready.
        upstream: Upstream nodes whose signals were not ready.
        held_back_by: What lacks the intervals, without models that have signals.
        last_interval_end: The end of its last computed interval; None if nothing was ever computed.
        audited_data: What its audits would be about.
        altered_at: When its data was last altered; for a view or an audit, when the data that it reads was.
    """

    fqn: str
    reason: str | None = None
    next_due: int | None = None
    signals: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    held_back_by: HeldBackBy = field(default_factory=HeldBackBy)
    last_interval_end: int | None = None
    audited_data: AuditedData | None = None
    altered_at: int | None = None

    @property
    def waits(self) -> bool:
        """Whether pending intervals wait."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class IntervalCoverage(Event):
    """The computed intervals of an incremental model and its gaps, as in the state at that moment.

    A gap is a range of adjoining missing intervals. An interval is missing if the model's start, end and cron require
    it at the run's execution time, and if it is not computed. If a `lookback` has begun to compute it again, its cron
    need not have ticked.

    Sent for each requested incremental model: before its `NodeIdle` or `NodeAudited`, or before the
    `BatchFinished` of its last batch. If that batch does not finish, it is sent after the run. Void if SQLMesh starts
    over.

    Attributes:
        computed: From the start of the first to the end of the last computed interval; None if there is none.
        gaps: The oldest gaps, in order; at most `MAX_GAPS`.
        gap_count: The number of all gaps.
        missing_intervals: The number of single intervals in all gaps.
        missing_since: When the oldest missing interval became due: the first tick of the cron at or after its end, or
            its end if that tick is later than now. None if there are no gaps.
        unrestated: Computed ranges whose restatement has not finished. Rows of them may be missing.
        waiting: Ranges that are not computed because an awaited table is not complete for them. They are no gaps.
        late: Computed ranges whose source was loaded after they were computed.
    """

    fqn: str
    computed: Interval | None
    gaps: tuple[Interval, ...] = ()
    gap_count: int = 0
    missing_intervals: int = 0
    missing_since: int | None = None
    unrestated: tuple[Interval, ...] = ()
    waiting: tuple[Interval, ...] = ()
    late: tuple[Interval, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeAudited(Event):
    """Sent when the audits of an `audit_only` node are finished.

    Attributes:
        missing: Pending intervals, without which the audits are about older data.
        error: Why no audits were evaluated; None if they were, each with its own `AuditEvaluated`.
        at: When the first of them began.
        altered_at: When the node's table was last computed; None if it was never.
    """

    fqn: str
    missing: tuple[Interval, ...]
    error: ErrorText | None
    at: int = 0
    altered_at: int | None = None


@dataclass(frozen=True, slots=True)
class EvaluationFinished(Event):
    """The last event of an `EvaluationRequest` that was served, even if nodes failed."""

    status: Status
