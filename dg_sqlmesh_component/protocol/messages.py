"""The messages between Dagster's process and the worker: one request to the worker, then events from it.

A step answers some of them: `StateLocked` with `Records`, `PlanBuilt` with a `PlanApproval`, and `EvaluationPlanned` or
`RestatementPlanned` with `GoAhead`. The worker plans, and Dagster's process decides whether that is computed. Steps and
ticks answer `OtherTablesFound` with `AwaitedTables`.

Messages are frozen dataclasses of plain values, standard library only. `wire` converts them to lines of text.
Instants are epoch milliseconds in UTC, as in SQLMesh. `fqn` is SQLMesh's quoted name of a model, or the name of a
standalone audit: both are nodes of a run. "By model" and "by node" mean by fqn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dg_sqlmesh_component.protocol.manifest import DEFAULT_LIMITS, AnsweredSelection, Limits, Manifest
from dg_sqlmesh_component.protocol.texts import ErrorText, ProjectText, Query, Text

Interval = tuple[int, int]
"""Start and end. The end is not part of the interval."""

Sources = dict[str, tuple[Interval, ...]]
"""The ranges for which external tables are not complete, by fqn. The last range of each has no end (`FOREVER`)."""

FOREVER = 253_402_300_800_000
"""The end of a range without an end: the year 10000."""

Status = Literal["success", "failure", "nothing_to_do", "not_run"]
"""The result of `Context.run`; `not_run` if there was no promoted node to run."""

Level = Literal["debug", "info", "warning", "error"]

Addition = Literal["column_lineage", "sql", "links"]
"""Contents of the manifest that are optional because they cost time or space."""

MAX_GAPS = 20
"""How many gaps of a model are listed. Further gaps are counted."""


# -- requests -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenProject:
    """How to open a SQLMesh project. None means the project's own default.

    Attributes:
        paths: Absolute project folders.
        config: Name of the config object, as `sqlmesh --config`.
        working_directory: Where SQLMesh runs, if not in the first project folder.
    """

    paths: tuple[str, ...]
    gateway: str | None
    environment: str | None
    config: str | None
    working_directory: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """The first message that a worker receives."""

    project: OpenProject


@dataclass(frozen=True, slots=True)
class LoadRequest(Request):
    """Load the project. Dagster's process sends it to load, reload or refresh; the answer is one `ProjectLoaded`.

    Attributes:
        files: SQL files of models that have changed since the previous manifest.
        models: The models in these files and their downstream models, to be loaded again. Empty: all.
        selections: Selections to answer too. Those that SQLMesh refuses or that match nothing are left out.
        asked_by: Where `select` and `exclude` are written, for error messages.
    """

    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    include: tuple[Addition, ...] = ()
    limits: Limits = DEFAULT_LIMITS
    files: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    selections: tuple[AnsweredSelection, ...] = ()
    asked_by: str = "defs.yaml"


@dataclass(frozen=True, slots=True)
class AuditUse:
    """One use of an audit by a node, in the local project or in the environment.

    Attributes:
        args: Arguments as SQL text, without `blocking`.
        position: Its index in the node's list of audits.
        is_requested: Whether to evaluate it.
    """

    name: str
    args: dict[str, str]
    position: int
    is_requested: bool = False


@dataclass(frozen=True, slots=True)
class ManifestFacts:
    """Facts of the manifest that the worker compares with the project before a run.

    Attributes:
        gateway: The gateway that was used.
        environment: The project's default target environment; None if `defs.yaml` names an environment.
        assets: The models that are assets.
        upstream_outside_assets: By node, the models that it reads and that are not assets.
    """

    gateway: str
    environment: str | None
    assets: frozenset[str]
    upstream_outside_assets: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Restatement:
    """Compute a range of the requested models again, and of the models downstream of them.

    Attributes:
        start, end: The range, as the arguments of `sqlmesh plan --restate-model`.
    """

    start: str
    end: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which rows of a failed audit to send. Columns are patterns: `*` matches any characters.

    Attributes:
        rows: At most so many.
        columns: Only these; empty for all.
        mask: Columns whose values are replaced.
    """

    rows: int
    columns: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """Some of the rows that an audit has found, as texts; None is SQL's NULL."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Text | None, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LockRequest(Request):
    """A request that takes the lock of runs if it writes.

    Attributes:
        HOLDER: What holds the lock. Runs that wait for it log this text, with the id of the run.
        LOCKS: The scopes of the locks that it holds all the time, in the order in which they are taken.
        run_id: The id of the Dagster run.
        overlap_timeout: Seconds to wait for another run on the same state, or for a locked database file.
        concurrent_tasks: What SQLMesh computes or deletes at once; None for the project's own setting.
    """

    HOLDER: ClassVar[str]  # short: a name of PostgreSQL's sessions has 63 characters
    LOCKS: ClassVar[tuple[str, ...]] = ("runs",)
    # Defaults for tests: a step always sets these two.
    run_id: str = "of a test"
    overlap_timeout: float = 0.0
    concurrent_tasks: int | None = None

    @property
    def holder(self) -> str:
        """What holds the lock, in words."""
        return f"{self.HOLDER} {self.run_id}"

    @property
    def locks(self) -> tuple[str, ...]:
        """The scopes of its locks."""
        return self.LOCKS


@dataclass(frozen=True, slots=True)
class TablesRead:
    """The tables that a model reads and that SQLMesh does not compute, if its version has this data hash.

    SQLMesh renders the query of a model to find out, which takes 7 ms.
    """

    data_hash: str
    tables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AwaitedTables:
    """The external tables that models wait for. Each request that reads intervals has them.

    Attributes:
        incomplete: The ranges for which each of them is not complete, by fqn.
        read: Which tables models read, as the manifest has it: of all models if they wait for tables, else of views.
        are_all: Whether no others are awaited. Else the worker asks for those that only promoted versions read.
    """

    incomplete: Sources = field(default_factory=dict)
    read: dict[str, TablesRead] = field(default_factory=dict)
    are_all: bool = True


@dataclass(frozen=True, slots=True)
class EvaluationRequest(LockRequest):
    """Run the requested nodes once, then audit others. A step sends it once, and again for each retry inside the step.

    Attributes:
        models: Models to run: exactly these, no upstream models are added.
        standalone_audits: Standalone audits to run with the models, if due.
        audit_only: Nodes to audit without running them, with their audits in the local project.
        execution_time: The instant that counts as now: the Dagster run's start.
        external_models: The nodes that SQLMesh audits and does not compute.
        start, end, ignore_cron, skip_janitor: The arguments of `Context.run`.
        environment_timeout: Seconds to wait for a plan that is updating the environment.
        manifest_facts: Facts of the manifest that must still hold; None to compare nothing.
        restate: Compute a range again instead of the pending intervals.
        dry_run: Plan as a run would, and compute nothing.
        sampling: Which rows of failed audits to send; None for none.
        deploy_jobs: The jobs that show and apply a plan of this environment; None if there are none.
    """

    HOLDER = "Dagster run"
    environment: str
    models: tuple[str, ...]
    standalone_audits: tuple[str, ...]
    audit_only: dict[str, tuple[AuditUse, ...]]
    execution_time: int
    external_models: frozenset[str] = frozenset()
    start: str | None = None
    end: str | None = None
    ignore_cron: bool = False
    skip_janitor: bool = True
    count_rows: bool = False
    environment_timeout: int = 1  # for tests: a step always sets it
    manifest_facts: ManifestFacts | None = None
    restate: Restatement | None = None
    dry_run: bool = False
    sampling: Sampling | None = None
    deploy_jobs: tuple[str, str] | None = None
    tables: AwaitedTables = field(default_factory=AwaitedTables)

    @property
    def locks(self) -> tuple[str, ...]:
        """A plan may compute the very versions that another environment than prod shows."""
        return ("runs",) if self.environment == "prod" else ("changes", "runs")


@dataclass(frozen=True, slots=True)
class PendingRequest(Request):
    """Find the models that `sqlmesh run` would compute now. A schedule sends it at each tick.

    The worker reads the state, and evaluates signals of pending models. It does not load the project, and it does not
    take the lock of runs.

    Attributes:
        made_between: Those of the awaited tables that a run may make between two of its models.
    """

    environment: str
    models: frozenset[str]
    now: int
    tables: AwaitedTables = field(default_factory=AwaitedTables)
    made_between: frozenset[str] = frozenset()
    loads: Loads = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RecordedData:
    """The data of a model that Dagster's last record of it describes.

    Attributes:
        version, data_hash, metadata_hash, identifier: As in `PromotedVersion`. The hashes and the identifier are empty
            if the worker itself takes all data of a version for recorded.
        up_to: Everything that was computed until this instant is recorded.
    """

    version: str
    up_to: int
    data_hash: str = ""
    metadata_hash: str = ""
    identifier: str = ""


@dataclass(frozen=True, slots=True)
class UnfinishedRestatement:
    """Ranges that a restatement was to compute again, and that it did not.

    SQLMesh counts these ranges as computed. Rows of them may be missing.

    Attributes:
        run_id: The Dagster run that has restated.
        version: SQLMesh's snapshot version of the table.
        since: When the restatement began.
    """

    run_id: str
    fqn: str
    version: str
    ranges: tuple[Interval, ...]
    since: int


@dataclass(frozen=True, slots=True)
class SourceLoad:
    """A range of a table that an asset has loaded again, perhaps after a model has read it.

    Attributes:
        at: When it was loaded. A computation that ended before has not read it.
        is_late: Whether it is known that it was loaded after the model had read it.
    """

    interval: Interval
    at: int
    is_late: bool = False


Loads = dict[str, tuple[SourceLoad, ...]]
"""By model, the ranges of the tables that it reads that were loaded since a run or tick has compared them last."""


@dataclass(frozen=True, slots=True)
class Records:
    """What Dagster knows about the data of models. Part of a `ChangesRequest`, and the answer to `StateLocked`.

    Attributes:
        data: By model to look at, the data that Dagster has recorded; None if there is no record.
        unfinished: Restatements that may not have computed all of their ranges.
    """

    data: dict[str, RecordedData | None] = field(default_factory=dict)
    unfinished: tuple[UnfinishedRestatement, ...] = ()
    loads: Loads = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChangesRequest(Request):
    """Find data that Dagster has not recorded, and the promoted models. A sensor sends it at each tick.

    The worker reads the state. It does not load the project, and it does not take the lock of runs.

    Attributes:
        now: The instant for the interval coverage.
    """

    environment: str
    records: Records
    tables: AwaitedTables
    now: int


@dataclass(frozen=True, slots=True)
class JanitorRequest(LockRequest):
    """Run SQLMesh's janitor once; the answer is one `JanitorFinished`.

    Attributes:
        environment: The only environment to clean up, if it has expired. None: everything that has expired.
    """

    HOLDER = "janitor run"
    LOCKS: ClassVar[tuple[str, ...]] = ("changes", "runs")
    environment: str | None = None


@dataclass(frozen=True, slots=True)
class TestRequest(Request):
    """Run SQLMesh's unit tests and linter on the project's files; the answer is one `TestsFinished`."""


@dataclass(frozen=True, slots=True)
class PlanRequest(LockRequest):
    """Build the plan that the project's files make of an environment. The worker answers with a `PlanBuilt`.

    Attributes:
        applies: Whether to hold the lock of runs, to wait for a `PlanApproval` after the `PlanBuilt`, and to apply it.
        sampling: As in `EvaluationRequest`.
    """

    HOLDER = "plan of run"
    LOCKS: ClassVar[tuple[str, ...]] = ("changes",)
    environment: str
    applies: bool = False
    sampling: Sampling | None = None
    tables: AwaitedTables = field(default_factory=AwaitedTables)


@dataclass(frozen=True, slots=True)
class PreviewRequest(PlanRequest):
    """Create or update the environment of a pull request from prod, and compare its models with prod.

    The worker answers with a `PlanBuilt` of that environment and waits for a `PlanApproval`. When that plan is applied,
    it sends a `PlanBuilt` of prod and a `ModelCompared` for each model that the two environments show differently.

    Attributes:
        max_rows: A model with more rows on one side is compared on a sample of its keys.
        decimals: Numbers that differ by less than one unit of this decimal place are equal.
        examples: Which added, removed and changed rows to send; None for none.
    """

    HOLDER = "preview of run"
    applies: bool = True
    max_rows: int = 10_000_000
    decimals: int = 6
    examples: Sampling | None = None


@dataclass(frozen=True, slots=True)
class ClosePreviewRequest(JanitorRequest):
    """Delete an environment with everything that no other environment uses; the answer is one `JanitorFinished`."""

    HOLDER = "preview of run"


@dataclass(frozen=True, slots=True)
class GoAhead:
    """The answer to a `RestatementPlanned`, or else to each `EvaluationPlanned` that has batches: they may be computed.

    If they are over a limit, the worker is stopped instead.
    """


@dataclass(frozen=True, slots=True)
class PlanApproval:
    """The answer to a `PlanBuilt`: the plan is to be applied. If it is refused, the worker is stopped instead.

    Attributes:
        allow_destructive: The models, by fqn, whose tables may lose columns.
        records: What Dagster knows about the data of models.
        interrupted: The times in which plans and previews computed that were interrupted, epoch milliseconds.
    """

    allow_destructive: tuple[str, ...]
    records: Records
    interrupted: tuple[Interval, ...] = ()


Answer = Records | GoAhead | PlanApproval | AwaitedTables
"""What Dagster's process sends if an event asks for it."""


# -- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """A message from the worker. Fields that may contain a secret have a type of `protocol/texts.py`."""


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
    """

    fqn: str
    promoted: PromotedVersion
    ranges: tuple[tuple[Interval, int], ...]
    coverage: IntervalCoverage | None = None
    computed_by: str = ""


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
class StateHeld(Event):
    """Sent with each line that logs the wait for the lock on the SQLMesh state.

    Attributes:
        run_id: The Dagster run that holds the lock.
    """

    run_id: str


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
class ProjectLoaded(Event):
    """The answer to a `LoadRequest`.

    Attributes:
        is_whole: True if the manifest has every model, False if it has only the requested models.
    """

    manifest: Manifest
    is_whole: bool = True


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

    Source: `Plan.missing_intervals` of a plan with `restate_models`.
    """

    ranges: dict[str, tuple[Interval, int]]
    added: tuple[str, ...]
    environments: dict[str, int]
    asked_for: str
    planned_at: int = 0
    not_loaded: tuple[tuple[str, Interval], ...] = ()


@dataclass(frozen=True, slots=True)
class EvaluationPlanned(Event):
    """Sent when SQLMesh has planned the batches of the run, before it computes the first one.

    If a plan changes the environment during the run, it is sent without batches, and again when SQLMesh starts over.

    Attributes:
        batches: Batches by node. An empty tuple: intervals are pending, but none of them is ready.
        unselected: For nodes with batches that do not get all pending intervals: the nearest upstream models that lack
            the other intervals and were not requested.
        continues: Whether these batches come in addition to the planned ones. A `PlanRequest` plans in two stages.

    Source: `Console.start_evaluation_progress`.
    """

    batches: dict[str, tuple[Interval, ...]]
    unselected: dict[str, tuple[str, ...]] = field(default_factory=dict)
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
class RowsCounted(Event):
    """The rows of a model's table after its last batch. Sent before that batch's `BatchFinished`."""

    fqn: str
    rows: int


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
        unselected: Nearest unrequested pending upstream models that have no signals.
        last_interval_end: The end of its last computed interval; None if nothing was ever computed.
        audited_data: What its audits would be about.
        altered_at: When its data was last altered; for a view or an audit, when the data that it reads was.
    """

    fqn: str
    reason: str | None = None
    next_due: int | None = None
    signals: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    unselected: tuple[str, ...] = ()
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


Change = Literal["added", "removed", "changed", "indirect", "metadata"]
"""What a plan does to a model. indirect: only models upstream of it are changed. metadata: its data stays as it is."""


ADDED_AGAIN = " and adds it again as "
"""Part of an effect in `PlannedModel.destructive`, if the table still has the column afterwards."""


@dataclass(frozen=True, slots=True)
class KeptRows:
    """The rows of a table that prod shows, if a plan changes the definition and does not compute them again.

    Attributes:
        cron: When the model is computed next, as in its definition.
        due: When its next interval becomes due, if nothing else is computed before.
        are_all_computed: Whether the computation of the next interval computes all rows. Else the rows stay until
            somebody restates them.
    """

    cron: str
    due: int
    are_all_computed: bool


ROWS = "*"
"""Among the columns that are made of a column: it decides which rows there are, as in a filter, a join or a group."""

ColumnReads = dict[str, dict[str, list[str]]]
"""By upstream table and its column, the columns that a model makes of it, and `ROWS`."""


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model that a plan changes, or that it computes.

    Attributes:
        name: As written in SQLMesh.
        change: None if the plan only computes missing intervals of it.
        category: SQLMesh's category of the change, such as `breaking`; None if it has none.
        is_forward_only: Whether the change keeps the table of the environment, and alters its columns.
        destructive: What SQLMesh does to an existing table, for each column that it drops.
        may_destroy: Whether the model itself allows this (`on_destructive_change`).
        columns: The columns that consumers gain, lose or see with another type, one sentence fragment each; None if
            SQLMesh does not know them before it computes the model.
        other_columns: The names of those that they lose or see with another type; None if the columns are not known.
        diff: The difference of the definitions, as unified diff.
        intervals: The missing intervals that the plan computes.
        follows_promotion: Whether it computes them after the promotion.
        waiting: Those that it leaves out, because awaited tables are not complete for them.
        waits_for: These tables, by fqn.
        loses: The intervals that the environment shows now, and would not show after the plan.
        loses_not_loaded: Those of them that the plan leaves out, because awaited tables are not complete for them.
        loses_until_run: Those of them that are pending for the next run.
        milliseconds: Their length. 0 if the model has no intervals.
        takes_back: Whether the definition equals an older one, so that the newer one would be lost.
        shows_again: When the rows were computed last that the plan then shows again, epoch milliseconds; None without.
        becomes: The new kind of a removed model that the project still has, and for which SQLMesh computes nothing. It
            leaves the view or the table of the model in place. Empty for others.
        other_project: The name of the SQLMesh project of the model, if it is none of this component's.
        has_one_table: Whether all versions share one table, with the model's name: in prod, if the mode is `dev_only`.
        kept: The rows that prod keeps, although they are those of another definition; None without any.
        reads_kept: Upstream models whose kept rows the next interval of each replaces. This model shows or reads them.
        audited: The version of the table that the plan promotes, and a hash of its audits; None if it is no model.
        view: What shows the model in the plan's environment, as SQL; empty if nothing does.
        dependents: The views of others that the engine drops, or for which it refuses the plan, because they read what
            the plan replaces or removes. None if the plan replaces nothing, or if the engine was not asked.
    """

    fqn: str
    name: str
    change: Change | None = None
    category: str | None = None
    is_forward_only: bool = False
    destructive: tuple[str, ...] = ()
    may_destroy: bool = False
    columns: tuple[str, ...] | None = ()
    other_columns: tuple[str, ...] | None = None
    diff: Query = ""
    intervals: int = 0
    follows_promotion: bool = False
    waiting: int = 0
    waits_for: tuple[str, ...] = ()
    loses: tuple[Interval, ...] = ()
    loses_not_loaded: tuple[Interval, ...] = ()
    loses_until_run: tuple[Interval, ...] = ()
    milliseconds: int = 0
    takes_back: bool = False
    shows_again: int | None = None
    becomes: str = ""
    owner: str | None = None
    other_project: str | None = None
    has_one_table: bool = False
    kept: KeptRows | None = None
    reads_kept: tuple[str, ...] = ()
    audited: AuditedData | None = None
    view: str = ""
    dependents: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class PlanBuilt(Event):
    """A plan, before it is applied.

    Attributes:
        plan_id: SQLMesh's id of the plan. It differs each time, also for an equal plan.
        previous_plan_id: The plan that the environment shows; None without any.
        parts: A hash of each part of the plan that an approval covers.
        models: The models that are changed or computed, parents before children, removed ones last.
        uncategorized: Changed models, by fqn, whose category a person has to choose.
        statements: The difference of the statements before and after all models, and of the Python requirements.
        pending_upstream: For a preview: by name, the missing intervals of prod's models that the computed models read.
        holes_upstream: Those of them that begin before the end of what the preview computes.
        unfinished_plan_id: The plan that has begun to change the environment and has not finished; None if it has.
        resumes: Whether the environment shows this plan, or is on the way to it.
        plan_command: The shell command that builds the same plan.
        unit_tests: The number of unit tests that SQLMesh has executed. All have passed.
        reads: By fqn, what each model downstream of a changed one reads; None if that is not known.
        runs_go_on: Whether runs can go on while the plan is applied. If the state's file is the lock, they cannot.
    """

    environment: str
    plan_id: str
    previous_plan_id: str | None
    parts: dict[str, str]
    models: tuple[PlannedModel, ...]
    has_changes: bool
    uncategorized: tuple[str, ...] = ()
    statements: Query = ""
    pending_upstream: dict[str, int] = field(default_factory=dict)
    holes_upstream: dict[str, int] = field(default_factory=dict)
    unfinished_plan_id: str | None = None
    resumes: bool = False
    plan_command: str = ""
    unit_tests: int = 0
    reads: dict[str, ColumnReads | None] = field(default_factory=dict)
    runs_go_on: bool = False

    @property
    def losses(self) -> tuple[str, ...]:
        """The models whose existing tables lose columns, each with what SQLMesh does to them."""
        return tuple(f"{model.name} ({', '.join(model.destructive)})" for model in self.models if model.destructive)


KeyProblem = Literal["no_grain", "other_columns", "no_columns", "duplicate_keys", "null_keys"]
"""Why the rows of a model cannot be matched by a key."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a column of one table has. None: it is no number, it has no values, or the result is not finite."""

    nulls: int
    sum: float | None = None
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True, slots=True)
class ModelCompared(Event):
    """How the data of a model differs between prod and a preview. Of its values, it has `amounts` and `examples`.

    Attributes:
        rows: Rows of the preview, in the compared ranges; None if the preview has no such model.
        rows_prod: Rows of prod, in the compared ranges; None if prod has no such model.
        added, removed: Rows that only the preview has, and that only prod has. None if they are not known.
        changed: Rows of both whose values differ. None without a key.
        columns: By column of both, except the key: the share of matched rows with equal values.
        schema: The columns that the table of the preview gains, loses or has with another type, as sentence fragments.
        lost: The columns that the table loses.
        retyped: Those that it has with another type.
        keys: The columns of the key; empty if rows are not matched.
        key_problem: Why rows are not matched; None if they are.
        ranges: The ranges that were compared; empty if whole tables were.
        is_partial: Whether the preview has computed only a part of the model, and rows have no time to tell which.
        reads_partial: Upstream models of this one that the preview has computed only in part.
        sample: The share of keys that was compared; None if all were.
        amounts: By column of both: those of the preview, and those of prod.
        examples: Some of the added, removed and changed rows, if the request asks for them.
        only_its_time: Whether only the time from the first to the last row of the preview was compared.
        is_recomputed: Whether prod will get another table than the preview's, which an apply computes.
        error: The class of the engine's error if the model could not be compared; None if it was. Its message is left
            out, because it may contain values.
        query: The query that raised it.
    """

    fqn: str
    name: str
    rows: int | None = None
    rows_prod: int | None = None
    added: int | None = None
    removed: int | None = None
    changed: int | None = None
    columns: dict[str, float] = field(default_factory=dict)
    schema: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    retyped: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    key_problem: KeyProblem | None = None
    ranges: tuple[Interval, ...] = ()
    is_partial: bool = False
    reads_partial: tuple[str, ...] = ()
    sample: float | None = None
    amounts: dict[str, tuple[Amounts, Amounts]] = field(default_factory=dict)
    examples: dict[str, Sample] = field(default_factory=dict)
    only_its_time: bool = False
    is_recomputed: bool = False
    error: str | None = None
    query: Query | None = None


@dataclass(frozen=True, slots=True)
class ComparedAudit:
    """An audit of a preview, evaluated on its table and on prod's.

    Attributes:
        failing_rows: In the preview; None if it could not be evaluated.
        failing_rows_prod: In prod; None if prod has no such table, or one without a column that the audit reads.
        error: The class of the engine's error if it could not be evaluated in the preview.
    """

    name: str
    args: dict[str, ProjectText]
    blocking: bool
    failing_rows: int | None
    failing_rows_prod: int | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AuditsCompared(Event):
    """Sent for each model with audits that a preview shows in another version than prod."""

    fqn: str
    name: str
    audits: tuple[ComparedAudit, ...]


@dataclass(frozen=True, slots=True)
class RunsWentOn(Event):
    """Sent after a plan or a preview was applied while runs could go on.

    Attributes:
        seconds: How long they had to wait.
        rewritten: By fqn, the intervals that were computed again because runs rewrote their source meanwhile.
        newer: By fqn, the intervals that runs had computed of old versions, and the plan then of new ones.
        while_compared: The names of prod's models that runs have computed while the preview was compared with them.
    """

    seconds: float
    rewritten: dict[str, tuple[Interval, ...]]
    newer: dict[str, tuple[Interval, ...]]
    while_compared: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectDropped(Event):
    """Sent after the janitor has dropped one view, schema, table or catalog, if that existed.

    Source: `Console.update_cleanup_progress`.
    """

    name: str


@dataclass(frozen=True, slots=True)
class StateSize:
    """The size of the SQLMesh state.

    Attributes:
        snapshots: Versions of models.
        interval_rows: Rows of the `_intervals` table. Each run adds rows.
    """

    snapshots: int
    interval_rows: int


@dataclass(frozen=True, slots=True)
class JanitorFinished(Event):
    """The last event of a `JanitorRequest` that was served. An `ObjectDropped` for each object precedes it.

    Attributes:
        environments: The expired environments that were deleted.
        before, after: The size of the state before and after the deletion.
    """

    environments: tuple[str, ...]
    before: StateSize
    after: StateSize


@dataclass(frozen=True, slots=True)
class TestsFinished(Event):
    """The last event of a `TestRequest` that was served, also if a test failed.

    Attributes:
        tests: How many unit tests were executed.
        failed_tests: How many of them failed.
        failures: Each with the differences. A test may have several: for its query and its CTEs.
        linted_models: How many models the linter checked; 0 if it is off.
        lint_errors: Each with the model and the rule.
        lint_warnings: How many. The log has them.
    """

    tests: int
    failed_tests: int
    failures: tuple[ErrorText, ...]
    linted_models: int
    lint_errors: tuple[ErrorText, ...]
    lint_warnings: int


@dataclass(frozen=True, slots=True)
class SecretsKnown(Event):
    """Values of variables and connections that Dagster's process hides in all texts of the worker.

    Sent twice while the worker opens the project: before and after it loads the configuration.
    """

    values: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class LogLine(Event):
    """Text for the run's log: a warning of SQLMesh or a driver, or the output of a `print` in a Python model.

    The worker sends log messages at any time. Dagster's process creates it for lines of stdout and stderr.

    Attributes:
        source: The logger's name, or `output` for lines of stdout and stderr.
    """

    level: Level
    text: Text
    source: str


@dataclass(frozen=True, slots=True)
class EvaluationFinished(Event):
    """The last event of an `EvaluationRequest` that was served, even if nodes failed."""

    status: Status


@dataclass(frozen=True, slots=True)
class RequestFailed(Event):
    """The last event of a request that could not be served.

    Attributes:
        error: Name of a class in `errors`.
        message: Complete sentences for the user.
        is_transient: Whether a retry may succeed.
    """

    error: str
    message: ErrorText
    is_transient: bool = False


LastEvent = (
    ProjectLoaded | PendingFound | ChangesFound | EvaluationFinished | JanitorFinished | TestsFinished | RequestFailed
)
"""The last event of every request is one of these."""
