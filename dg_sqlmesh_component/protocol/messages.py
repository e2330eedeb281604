"""What crosses the pipe: one request into the worker, then events out of it.

Frozen dataclasses of plain values, standard library only; `wire` turns them into lines of JSON.
Instants are epoch milliseconds in UTC, as SQLMesh itself counts them; an interval is half open.
`fqn` is SQLMesh's quoted name of a model, or the bare name of a standalone audit: both are nodes of a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dg_sqlmesh_component.protocol.manifest import DEFAULT_LIMITS, AnsweredSelection, Limits, Manifest

Interval = tuple[int, int]
"""[start, end) in epoch milliseconds, UTC."""

Status = Literal["success", "failure", "nothing_to_do", "not_run"]
"""What `Context.run` returned; `not_run` when no run was asked for or it was refused."""

Level = Literal["debug", "info", "warning", "error"]


# -- requests -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenProject:
    """How to open a SQLMesh project. None means the project's own default.

    Attributes:
        paths: Absolute project folders.
        gateway, environment: Names, as on SQLMesh's command line.
        config: Name of the config object, as `sqlmesh --config`.
        working_directory: Where SQLMesh runs, if not in the first of the folders.
    """

    paths: tuple[str, ...]
    gateway: str | None
    environment: str | None
    config: str | None
    working_directory: str | None = None


Addition = Literal["column_lineage", "sql", "links"]
"""What a manifest holds only on request, because it costs time or space."""


@dataclass(frozen=True, slots=True)
class DescribeRequest:
    """Load the project and answer with one `ProjectDescribed`.

    Attributes:
        files: SQL files that have changed since a description, of which `models` are to be loaded again.
        models: The `fqn`s of the models in them and of all that read those; empty for every model.
        selections: Selections to answer as well; one that SQLMesh refuses or that matches nothing is left out.
        asked_by: Where `select` and `exclude` are written, for error messages.
    """

    project: OpenProject
    select: tuple[str, ...]
    exclude: tuple[str, ...]
    include: tuple[Addition, ...] = ()
    limits: Limits = DEFAULT_LIMITS
    files: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    selections: tuple[AnsweredSelection, ...] = ()
    asked_by: str = "defs.yaml"
    type: Literal["describe"] = "describe"


@dataclass(frozen=True, slots=True)
class AuditUse:
    """One use of an audit, as the local project or the environment has it.

    Attributes:
        args: Arguments as SQL text, without `blocking`.
        position: Its place among the audits of its node.
        is_requested: Whether it is to be evaluated.
    """

    name: str
    args: dict[str, str]
    position: int
    is_requested: bool = False


@dataclass(frozen=True, slots=True)
class DescribedAs:
    """What the stored manifest says of the project: its own defaults, and what its models read.

    Attributes:
        gateway: The gateway that was used.
        environment: The default target environment; None where the declaration names one.
        assets: The models that are assets, by fqn.
        read_beyond: What they read that is no asset, by fqn of the reader.
    """

    gateway: str
    environment: str | None
    assets: frozenset[str]
    read_beyond: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """Run the requested nodes once, then audit some without running them.

    Attributes:
        environment: The environment whose promoted models are run.
        models: Models to run: exactly these, nothing upstream is added.
        standalone_audits: Standalone audits to run beside them, if due.
        audit_only: Models and standalone audits that are not run, with the audits that the local project has of each.
        execution_time: The instant that counts as now: the Dagster run's start.
        external_models: Those of the nodes that SQLMesh audits and does not compute.
        start, end, ignore_cron, skip_janitor: As `Context.run` has them.
        concurrent_tasks: How many batches at once; None for the project's own setting.
        count_rows: Whether to count the rows of each executed model's table.
        query_characters: How much to send of the query of an audit that was evaluated.
        holder: Who asks, for others who have to wait for it.
        overlap_timeout: Seconds to wait for another run on the same state, or for a locked database file.
        environment_timeout: Seconds to wait for a plan that is updating the environment.
        described_as: What the project's own defaults must still be; None where nobody has described it.
    """

    project: OpenProject
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
    concurrent_tasks: int | None = None
    count_rows: bool = False
    query_characters: int = DEFAULT_LIMITS.characters
    holder: str = "somebody"
    overlap_timeout: float = 0.0
    environment_timeout: int = 1
    described_as: DescribedAs | None = None
    type: Literal["evaluate"] = "evaluate"


Request = DescribeRequest | EvaluationRequest


# -- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProjectDescribed:
    """The answer to a `DescribeRequest`.

    Attributes:
        is_whole: Whether every model is in it, and not only those that were asked for.
    """

    manifest: Manifest
    is_whole: bool = True
    type: Literal["project_described"] = "project_described"


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit looks at: its result says nothing of anything else.

    Attributes:
        version: Of the table that is read in the environment: the snapshot's, or that of a preview in development.
        audits: A hash of the definitions and arguments of the node's audits.
    """

    version: str
    audits: str


@dataclass(frozen=True, slots=True)
class PromotedNode:
    """What the environment has promoted for one node: the code that a run executes.

    Attributes:
        version: SQLMesh's snapshot version, the suffix of the physical table.
        data_hash, metadata_hash: To compare with the manifest's, which describes the local files.
        table_name: The table or view that consumers read in this environment; None for an audit.
    """

    version: str
    data_hash: str
    metadata_hash: str
    table_name: str | None = None


@dataclass(frozen=True, slots=True)
class EnvironmentOpened:
    """State was read before anything ran.

    Attributes:
        promoted: Every requested node that the environment has, by fqn.
        missing: Requested nodes that are not promoted in the environment; the others run.
        plan_command: The `sqlmesh plan` that promotes them.
        others: Promoted models, executed by SQLMesh, that are not assets of the component that asks.
    """

    environment: str
    promoted: dict[str, PromotedNode]
    missing: tuple[str, ...]
    plan_command: str
    others: tuple[str, ...] = ()
    type: Literal["environment_opened"] = "environment_opened"


@dataclass(frozen=True, slots=True)
class EvaluationPlanned:
    """What SQLMesh is about to compute. Comes again when a plan lands in mid-run and SQLMesh starts over.

    Attributes:
        batches: Batches by node; an empty tuple: intervals are missing but none of them is ready.
        unselected: For nodes with batches that are denied other intervals: the nearest models upstream that lack these
            and were not asked to run.

    Source: `Console.start_evaluation_progress`.
    """

    batches: dict[str, tuple[Interval, ...]]
    unselected: dict[str, tuple[str, ...]] = field(default_factory=dict)
    type: Literal["evaluation_planned"] = "evaluation_planned"


@dataclass(frozen=True, slots=True)
class AuditEvaluated:
    """One audit query came back, for one batch, good or bad. Sent before the batch's `BatchFinished`.

    Attributes:
        position: Place in the promoted model's list of audits; 0 for a standalone audit.
        blocking: Whether a failure stops the node, as SQLMesh decided for this run.
        failing_rows: 0 when it passed; None when SQLMesh left it out (`skip true`) or it could not be evaluated.
        query: The rendered SQL that selects the failing rows.
        interval: The batch it was evaluated on.
        of_whole_table: Whether it looked at all of the table, as in a model without a time column; else at the batch.
        of: What it looked at.
        error: Why it could not be evaluated, alone; in a run, that fails the node.

    Source: the results of `SnapshotEvaluator.audit`.
    """

    fqn: str
    name: str
    position: int
    args: dict[str, str]
    blocking: bool
    failing_rows: int | None
    query: str | None
    interval: Interval
    of_whole_table: bool = False
    of: Audited | None = None
    error: str | None = None
    type: Literal["audit_evaluated"] = "audit_evaluated"


@dataclass(frozen=True, slots=True)
class BatchFinished:
    """One batch of one node came to an end, well or badly.

    Attributes:
        batch_index: Position among the planned batches, from 0; they arrive in any order.
        duration_ms: Wall time; None when the batch raised.
        rows, bytes: As the engine reports them; None where it does not.

    Source: `Console.update_snapshot_evaluation_progress`, which a failing batch calls too.
    """

    fqn: str
    batch_index: int
    interval: Interval
    duration_ms: int | None
    rows: int | None
    bytes: int | None
    type: Literal["batch_finished"] = "batch_finished"


@dataclass(frozen=True, slots=True)
class BatchesInFlight:
    """The nodes still running when the queries in flight are cancelled. Sent again each time one of them ends.

    Attributes:
        nodes: Each once, in order; empty when the last one has ended.
    """

    nodes: tuple[str, ...]
    type: Literal["batches_in_flight"] = "batches_in_flight"


@dataclass(frozen=True, slots=True)
class RowsCounted:
    """The rows of a model's table behind its last batch. Sent before that batch's `BatchFinished`."""

    fqn: str
    rows: int
    type: Literal["rows_counted"] = "rows_counted"


@dataclass(frozen=True, slots=True)
class NodeFailed:
    """SQLMesh names a node that raised.

    Attributes:
        error_type: Class name of the cause.
        message: The cause's text.
        failed_audits: Names of the blocking audits that are the cause; empty for any other cause.
        is_transient: Whether the error may be gone when the node is tried again.

    Source: `Console.log_failed_models`.
    """

    fqn: str
    error_type: str
    message: str
    failed_audits: tuple[str, ...]
    is_transient: bool = False
    type: Literal["node_failed"] = "node_failed"


@dataclass(frozen=True, slots=True)
class NodesBlocked:
    """SQLMesh left nodes out because something upstream of them failed.

    Attributes:
        culprits: The failed nodes upstream, by blocked node.

    Source: `Console.log_skipped_models`; the culprits from the environment's own graph.
    """

    culprits: dict[str, tuple[str, ...]]
    type: Literal["nodes_blocked"] = "nodes_blocked"


@dataclass(frozen=True, slots=True)
class NodeUpToDate:
    """A requested node that SQLMesh did not plan. Sent after the plan; void if SQLMesh starts over.

    Attributes:
        reason: Why there was nothing to do, as a sentence fragment.
        next_due: When its cron next comes round; None when it has nothing further to compute.
        last_interval_end: How far its data reaches; None when nothing was ever computed.
        of: What its audits would look at.
        altered_at: When its data was last altered, for a view or an audit that of what it reads.
        intervals: All that is computed of it, adjoining intervals merged; empty for an audit.
        computed_at: When SQLMesh last computed any of it, in whatever process; None when it never did.
    """

    fqn: str
    reason: str
    next_due: int | None
    last_interval_end: int | None
    of: Audited | None = None
    altered_at: int | None = None
    intervals: tuple[Interval, ...] = ()
    computed_at: int | None = None
    type: Literal["node_up_to_date"] = "node_up_to_date"


@dataclass(frozen=True, slots=True)
class NodeWaiting:
    """A planned node without a single ready interval. Sent after the plan; void if SQLMesh starts over.

    Attributes:
        signals: Its own signals that were not ready.
        upstream: Nodes upstream whose signals were not ready.
        unselected: The nearest models upstream, without signals, that have due intervals and were not asked to run.
        last_interval_end, of, altered_at: As in `NodeUpToDate`.
    """

    fqn: str
    signals: tuple[str, ...]
    upstream: tuple[str, ...]
    unselected: tuple[str, ...] = ()
    last_interval_end: int | None = None
    of: Audited | None = None
    altered_at: int | None = None
    type: Literal["node_waiting"] = "node_waiting"


@dataclass(frozen=True, slots=True)
class NodeAudited:
    """An `audit_only` node is done.

    Attributes:
        missing: Intervals that are due and not computed, so that the audits speak of older data.
        error: Why no audits were evaluated; None when they were, each with its own result.
    """

    fqn: str
    missing: tuple[Interval, ...]
    error: str | None
    type: Literal["node_audited"] = "node_audited"


@dataclass(frozen=True, slots=True)
class SecretsKnown:
    """Values of connections and variables that must not be shown: the reader of the pipe keeps them to itself."""

    values: tuple[str, ...] = field(repr=False)
    type: Literal["secrets_known"] = "secrets_known"


@dataclass(frozen=True, slots=True)
class LogLine:
    """Something said on the way: SQLMesh's warnings, a `print` in a Python model, a driver's chatter.

    Attributes:
        source: The logger's name, or `output` for what was written to stdout or stderr.
    """

    level: Level
    text: str
    source: str
    type: Literal["log_line"] = "log_line"


@dataclass(frozen=True, slots=True)
class EvaluationFinished:
    """The last event of an evaluation that came to its own end."""

    status: Status
    type: Literal["evaluation_finished"] = "evaluation_finished"


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """The last event of a request that could not be served.

    Attributes:
        error: Class name from `errors`.
        message: Complete sentences for the user.
        is_transient: Whether the error may be gone when the request is made again.
    """

    error: str
    message: str
    is_transient: bool = False
    type: Literal["request_failed"] = "request_failed"


Event = (
    ProjectDescribed
    | EnvironmentOpened
    | EvaluationPlanned
    | AuditEvaluated
    | BatchFinished
    | BatchesInFlight
    | RowsCounted
    | NodeFailed
    | NodesBlocked
    | NodeUpToDate
    | NodeWaiting
    | NodeAudited
    | SecretsKnown
    | LogLine
    | EvaluationFinished
    | RequestFailed
)

LAST_EVENTS = (ProjectDescribed, EvaluationFinished, RequestFailed)
"""One of these ends every request."""
