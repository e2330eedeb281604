"""What Dagster's process sends: one request, and answers to events that wait for one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dg_sqlmesh_component.protocol.manifest import AnsweredSelection

Interval = tuple[int, int]
"""Start and end. The end is not part of the interval."""

Sources = dict[str, tuple[Interval, ...]]
"""The ranges for which external tables are not complete, by fqn. The last range of each has no end (`FOREVER`)."""

FOREVER = 253_402_300_800_000
"""The end of a range without an end: the year 10000."""

OptionalContent = Literal["column_lineage", "sql", "links"]
"""Contents of the manifest that are optional because they cost time or space."""


@dataclass(frozen=True, slots=True)
class OpenProject:
    """How to open a SQLMesh project. None means the project's own default."""

    paths: tuple[str, ...]  # absolute project folders
    gateway: str | None
    environment: str | None
    config: str | None  # name of the config object, as `sqlmesh --config`
    working_directory: str | None = None  # where SQLMesh runs, if not in the first project folder


@dataclass(frozen=True, slots=True)
class Request:
    """The first message that a worker receives."""

    # The worker's function that serves it, as `module:function`. The worker imports the module when the request comes.
    SERVED_BY: ClassVar[str]
    project: OpenProject


@dataclass(frozen=True, slots=True)
class Question(Request):
    """A request that has one event as its answer, which the function returns."""


@dataclass(frozen=True, slots=True)
class StateQuestion(Question):
    """A question about an environment, which the state answers. The project is not loaded, and no lock is taken."""

    environment: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What Dagster's process sends if an event asks for it."""


@dataclass(frozen=True, slots=True)
class LoadRequest(Question):
    """Load the project. Dagster's process sends it to load, reload or refresh; the answer is one `ProjectLoaded`."""

    SERVED_BY = "worker.load.project:load_project"

    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    include: tuple[OptionalContent, ...] = ()
    files: frozenset[str] = frozenset()  # SQL files of models that have changed since the previous manifest
    # The models in these files and their downstream models, to be loaded again. Empty: all.
    models: frozenset[str] = frozenset()
    # Selections to answer too. Those that SQLMesh refuses or that match nothing are left out.
    selections: tuple[AnsweredSelection, ...] = ()
    asked_by: str = "defs.yaml"  # where `select` and `exclude` are written, for error messages


@dataclass(frozen=True, slots=True)
class AuditUse:
    """One use of an audit by a node, in the local project or in the environment."""

    name: str
    args_hash: str  # as in `Audit`
    position: int  # its index in the node's list of audits
    is_requested: bool = False  # whether to evaluate it


@dataclass(frozen=True, slots=True)
class ManifestFacts:
    """Facts of the manifest that the worker compares with the project before a run."""

    gateway: str  # the gateway that was used
    environment: str | None  # the project's default target environment; None if `defs.yaml` names an environment
    assets: frozenset[str]  # the models that are assets
    upstream_outside_assets: dict[str, tuple[str, ...]]  # by node, the models that it reads and that are not assets


@dataclass(frozen=True, slots=True)
class Restatement:
    """Compute a range of the requested models again, and of the models downstream of them."""

    # start, end: The range, as the arguments of `sqlmesh plan --restate-model`.
    start: str
    end: str
    # Whether models that are not promoted are left out. If not, the restatement is refused.
    only_promoted: bool = False
    # If any, which needs `only_promoted`: only the models that read one of these tables themselves, by fqn.
    tables: tuple[str, ...] = ()
    # The models of the other steps of the run, if it is split. All steps plan one restatement; each computes its part.
    earlier: tuple[str, ...] = ()
    later: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which rows of a failed audit to send. Columns are patterns: `*` matches any characters."""

    rows: int  # at most so many
    columns: tuple[str, ...] = ()  # only these; empty for all
    mask: tuple[str, ...] = ()  # columns whose values are replaced


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What every job sets. The defaults are for tests."""

    run_id: str = "of a test"  # the id of the Dagster run
    overlap_timeout: float = 0.0  # seconds to wait for another run on the same state, or for a locked database file
    concurrent_tasks: int | None = None  # what SQLMesh computes or deletes at once; None for the project's own setting
    pool: str = "of_a_test"  # the concurrency pool whose limit stands in for a lock, if the state cannot be locked
    tag_limits: dict[str, int] = field(default_factory=dict)  # by tag, how many batches of its models run at once
    count_rows: bool = False  # whether to count the rows of computed tables


@dataclass(frozen=True, slots=True, kw_only=True)
class LockRequest(Request):
    """A request that takes the lock of runs if it writes."""

    # What holds the lock. Runs that wait for it log this text, with the id of the run.
    HOLDER: ClassVar[str]  # short: a name of PostgreSQL's sessions has 63 characters
    # The scopes of the locks that it holds all the time, in the order in which they are taken.
    LOCKS: ClassVar[tuple[str, ...]] = ("changes", "runs")
    job: JobSettings = JobSettings()

    @property
    def holder(self) -> str:
        """What holds the lock, in words."""
        return f"{self.HOLDER} {self.job.run_id}"

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
class AwaitedTables(Answer):
    """The external tables that models wait for. Each request that reads intervals has them."""

    incomplete: Sources = field(default_factory=dict)  # the ranges for which each of them is not complete, by fqn
    # Which tables models read, as the manifest has it: of all models if they wait for tables, else of views.
    read: dict[str, TablesRead] = field(default_factory=dict)
    # Whether no others are awaited. Else the worker asks for those that only promoted versions read.
    are_all: bool = True


@dataclass(frozen=True, slots=True)
class EvaluationRequest(LockRequest):
    """Run the requested nodes once, then audit others. A step sends it once, and again for each of its retries."""

    HOLDER = "Dagster run"
    WRITES: ClassVar[bool] = True  # whether it computes. If not, it needs no lock.
    SERVED_BY = "worker.evaluate.serve:serve_evaluation"
    environment: str
    models: tuple[str, ...]  # models to run: exactly these, no upstream models are added
    standalone_audits: tuple[str, ...]  # standalone audits to run with the models, if due
    # Nodes to audit without running them, with their audits in the local project.
    audit_only: dict[str, tuple[AuditUse, ...]]
    execution_time: int  # the instant that counts as now: the Dagster run's start
    tables: AwaitedTables
    external_models: frozenset[str] = frozenset()  # the nodes that SQLMesh audits and does not compute
    # start, end, ignore_cron, skip_janitor: The arguments of `Context.run`.
    start: str | None = None
    end: str | None = None
    ignore_cron: bool = False
    skip_janitor: bool = True
    # Seconds to wait for a plan that is updating the environment.
    environment_timeout: int = 1  # for tests: a step always sets it
    manifest_facts: ManifestFacts | None = None  # facts of the manifest that must still hold; None to compare nothing
    restate: Restatement | None = None  # compute a range again instead of the pending intervals
    sampling: Sampling | None = None  # which rows of failed audits to send; None for none
    # Other models that the Dagster run selects: those of its other steps, and those that earlier attempts have settled.
    elsewhere: frozenset[str] = frozenset()
    # The jobs that show and apply a plan of this environment; None if there are none.
    deploy_jobs: tuple[str, str] | None = None

    @property
    def locks(self) -> tuple[str, ...]:
        """A plan may compute the very versions that another environment than prod shows."""
        return ("runs",) if self.environment == "prod" else self.LOCKS


@dataclass(frozen=True, slots=True)
class RecordedData:
    """The data of a model that Dagster's last record of it describes."""

    # version, data_hash, metadata_hash, identifier: As in `PromotedVersion`. The hashes and the identifier are empty if
    # the worker itself takes all data of a version for recorded.
    version: str
    up_to: int  # everything that was computed until this instant is recorded
    data_hash: str = ""
    metadata_hash: str = ""
    identifier: str = ""
    # What failed or cancelled runs have computed since the last materialization, which no materialization says.
    unmaterialized: tuple[Interval, ...] = ()
    # The computed intervals that a model upstream has got only afterwards, as far as they are known.
    outdated: tuple[Interval, ...] = ()
    compared_at: int = 0  # until when the models upstream were compared for this, epoch milliseconds; 0 if never


@dataclass(frozen=True, slots=True)
class SourceLoad:
    """A range of a table that an asset has loaded again, perhaps after a model has read it."""

    interval: Interval
    at: int  # When it was loaded. A computation that ended before has not read it.
    is_late: bool = False  # whether it is known that it was loaded after the model had read it


Loads = dict[str, tuple[SourceLoad, ...]]
"""By model, the ranges of the tables that it reads that were loaded since a run or tick has compared them last."""


@dataclass(frozen=True, slots=True)
class Records(Answer):
    """What Dagster knows about the data of models. Part of a `ChangesRequest`, and the answer to `StateLocked`."""

    # By model to look at, the data that Dagster has recorded; None if there is no record.
    data: dict[str, RecordedData | None] = field(default_factory=dict)
    loads: Loads = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditsWanted(Answer):
    """The answer to `NodesUpToDate`."""

    # By node, its audits in the local project. Those are requested about whose current data there is no result.
    audits: dict[str, tuple[AuditUse, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UnauditedRows:
    """Rows of a model that a run does not compute, and about which Dagster has no result of some audits."""

    audits: tuple[AuditUse, ...]  # in the local project; those without a result are requested
    since: int  # the rows were computed after this instant, epoch milliseconds
    audited: tuple[Interval, ...] = ()  # intervals that the run itself has computed and audited before


@dataclass(frozen=True, slots=True)
class GoAhead(Answer):
    """The answer to a `RestatementPlanned`, and to each `EvaluationPlanned` that has batches: they may be computed.

    If they are over a limit, the worker is stopped instead.
    """

    # Of an `EvaluationPlanned`, by node. Their audits are evaluated before the first batch of the node.
    unaudited: dict[str, UnauditedRows] = field(default_factory=dict)
