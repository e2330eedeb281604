"""The messages of plans, applies and previews, with those of the core, so that their modules import one name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dg_sqlmesh_component.capabilities.janitor.messages import JanitorFinished as JanitorFinished
from dg_sqlmesh_component.capabilities.janitor.messages import JanitorRequest as JanitorRequest
from dg_sqlmesh_component.protocol.messages import *
from dg_sqlmesh_component.protocol.texts import ProjectText, Query


@dataclass(frozen=True, slots=True)
class PlanRequest(LockRequest):
    """Build the plan that the project's files make of an environment. The worker answers with a `PlanBuilt`."""

    HOLDER = "plan of run"
    SERVED_BY = "capabilities.plans.worker.serve:serve_plan"
    LOCKS: ClassVar[tuple[str, ...]] = ("changes",)
    environment: str
    tables: AwaitedTables
    # Whether to hold the lock of runs, to wait for a `PlanApproval` after the `PlanBuilt`, and to apply it.
    applies: bool = False
    sampling: Sampling | None = None  # as in `EvaluationRequest`
    select: tuple[str, ...] = ()  # the selections of models that the plan takes from the files; empty for all


@dataclass(frozen=True, slots=True)
class DiffLimits:
    """How a preview is compared with prod."""

    max_rows: int = 10_000_000  # a model with more rows on one side is compared on a sample of its keys
    ignore: tuple[str, ...] = ()  # Columns that are not compared. Patterns: `*` matches any characters.
    examples: Sampling | None = None  # which added, removed and changed rows to send; None for none
    mask: tuple[str, ...] = ()  # Columns without a total, smallest or largest value. Patterns, as above.
    decimals: int = 6  # floats that differ by less than one unit of this decimal place are equal


@dataclass(frozen=True, slots=True)
class PreviewRequest(PlanRequest):
    """Create or update the environment of a pull request from prod, and compare its models with prod.

    The worker answers with a `PlanBuilt` of that environment and waits for a `PlanApproval`. When that plan is applied,
    it sends a `PlanBuilt` of prod and a `ModelCompared` for each model that the two environments show differently.
    """

    HOLDER = "preview of run"
    applies: bool = True
    diff: DiffLimits = DiffLimits()


@dataclass(frozen=True, slots=True)
class ClosePreviewRequest(JanitorRequest):
    """Delete an environment with everything that no other environment uses; the answer is one `JanitorFinished`."""

    HOLDER = "preview of run"
    SERVED_BY = "capabilities.plans.worker.close:close_preview"
    environment: str


@dataclass(frozen=True, slots=True)
class TakeBackRequest(LockRequest):
    """Let an environment show what it showed before a plan that has not finished. The files are not loaded.

    The answer is one `EvaluationFinished`.
    """

    HOLDER = "plan of run"
    SERVED_BY = "capabilities.plans.worker.way_back:take_back"
    environment: str
    plans: frozenset[str]  # the plans that jobs of the component have begun to apply
    interrupted: tuple[Interval, ...]  # as in `PlanApproval`


@dataclass(frozen=True, slots=True)
class PlanApproval(Answer):
    """The answer to a `PlanBuilt`: the plan is to be applied. If it is refused, the worker is stopped instead."""

    allow_destructive: tuple[str, ...]  # the models, by fqn, whose tables may lose columns
    records: Records  # what Dagster knows about the data of models
    # The times in which plans and previews computed that were interrupted, epoch milliseconds.
    interrupted: tuple[Interval, ...] = ()


Change = Literal["added", "removed", "changed", "indirect", "metadata"]
"""What a plan does to a model. indirect: only models upstream of it are changed. metadata: its data stays as it is."""


@dataclass(frozen=True, slots=True)
class ColumnChange:
    """A column that a table or view gains, loses or has with another type. `column_words` has the words."""

    name: str
    # before, after: The types, as SQL. Empty: SQLMesh does not know it yet. None: there is no such column.
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class KeptRows:
    """The rows of a table that prod shows, if a plan changes the definition and does not compute them again."""

    cron: str  # when the model is computed next, as in its definition
    due: int  # when its next interval becomes due, if nothing else is computed before
    # Whether the computation of the next interval computes all rows. Else the rows stay until somebody restates them.
    are_all_computed: bool


@dataclass(frozen=True, slots=True)
class LostRows:
    """Rows that an environment shows now, and would not show after a plan, by their time.

    The first and the last instant of `protocol.intervals.ALL_TIME` stand for no bound.
    """

    intervals: tuple[Interval, ...] = ()
    # Those of them that the plan leaves out, because awaited tables are not complete for them.
    not_loaded: tuple[Interval, ...] = ()
    until_run: tuple[Interval, ...] = ()  # those of them that are pending for the next run
    until_later_runs: tuple[Interval, ...] = ()  # those of them whose intervals have not ended
    without_time: bool = False  # whether it loses rows without a time, too
    of_past: bool = False  # whether it loses rows that the source does not have any more

    def __bool__(self) -> bool:
        """Whether rows are lost."""
        return bool(self.intervals or self.without_time or self.of_past)


ROWS = "*"
"""Among the columns that are made of a column: it decides which rows there are, as in a filter, a join or a group."""

ColumnReads = dict[str, dict[str, list[str]]]
"""By upstream table and its column, the columns that a model makes of it, and `ROWS`."""


@dataclass(frozen=True, slots=True)
class PlannedRows:
    """What a plan computes of a model, leaves out, takes from the environment and keeps."""

    intervals: int = 0  # the missing intervals that the plan computes
    milliseconds: int = 0  # The length of the computed intervals. 0 if the model has none.
    follows_promotion: bool = False  # whether it computes them after the promotion
    waiting: int = 0  # those that it leaves out, because tables that the model reads lack them
    waits_for: tuple[str, ...] = ()  # the awaited tables among these, by fqn
    waits_for_models: tuple[str, ...] = ()  # the nearest upstream models among these, by name
    loses: LostRows = LostRows()
    reads_lost: LostRows = LostRows()  # lost because models upstream lose these rows
    # When it loses these, epoch milliseconds: its next computation replaces the rows of its table. 0: by the plan.
    loses_at: int = 0
    loses_with: tuple[str, ...] = ()  # these models, by name
    # The computed intervals without rows that tables which it reads gain by the plan. The plan computes them again
    # after these tables, or leaves them out until these tables are computed.
    outdated: tuple[Interval, ...] = ()
    # The same of a model that SQLMesh does not compute again in part, and of its readers. No run computes them.
    outdated_for_good: tuple[Interval, ...] = ()
    because_of: tuple[str, ...] = ()  # the nearest of these tables, by name
    # When the rows were computed last that the plan then shows again, epoch milliseconds; None without.
    shows_again: int | None = None
    # The rows that prod keeps, although they are those of another definition; None without any.
    kept: KeptRows | None = None
    # The rows that this table may have already, and that runs append once more, by their time.
    appended_again: tuple[Interval, ...] = ()
    # Upstream models whose kept rows the next interval of each replaces. This model shows or reads them.
    reads_kept: tuple[str, ...] = ()
    # The version of the table that the plan promotes, and a hash of its audits; None if it is no model.
    audited: AuditedData | None = None


@dataclass(frozen=True, slots=True)
class PlannedTable:
    """What a plan does to the table or view by which the environment shows a model."""

    exists: bool = True  # whether there is one: not of an external table, embedded model or audit
    view: str = ""  # what shows the model in the plan's environment, as SQL; empty if nothing does
    # Whether all versions share one table, with the model's name: in prod, if the mode is `dev_only`.
    is_shared: bool = False
    was_shared: bool = False  # the same of the version that the plan replaces or removes, so none stays
    # The columns that SQLMesh drops from an existing table, before and after as in the definitions. If there is one
    # after, SQLMesh adds it again, without values.
    destructive: tuple[ColumnChange, ...] = ()
    may_destroy: bool = False  # whether the model itself allows this (`on_destructive_change`)
    refused_columns: tuple[str, ...] = ()  # those that SQLMesh cannot add or widen
    # The views of others that the engine drops, or for which it refuses the plan, because they read what the plan
    # replaces or removes. None if the plan replaces nothing, or if the engine was not asked.
    dependents: tuple[str, ...] | None = None
    # Whether SQLMesh drops a table, and creates a view with its name. PostgreSQL refuses this if a view reads it.
    is_dropped: bool = False
    # Whether something that SQLMesh has not made, or cannot replace, has the name of the table or view that it creates.
    is_name_taken: bool = False


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model that a plan changes, or that it computes: its definition, its rows and its table."""

    fqn: str
    name: str  # as written in SQLMesh
    change: Change | None = None  # None if the plan only computes missing intervals of it
    category: str | None = None  # SQLMesh's category of the change, such as `breaking`; None if it has none
    rows: PlannedRows = PlannedRows()
    table: PlannedTable = PlannedTable()
    is_forward_only: bool = False  # whether the change keeps the table of the environment, and alters its columns
    # The columns that consumers gain, lose or see with another type; None if SQLMesh does not know them before it
    # computes the model.
    columns: tuple[ColumnChange, ...] | None = ()
    is_reordered: bool = False  # whether they see the columns in another order
    diff: Query = ""  # the difference of the definitions, as unified diff
    takes_back: bool = False  # whether the definition equals an older one, so that the newer one would be lost
    # The new kind of a removed model that the project still has, and for which SQLMesh computes nothing. It leaves the
    # view or the table of the model in place. Empty for others.
    becomes: str = ""
    owner: str | None = None
    other_project: str | None = None  # the name of the SQLMesh project of the model, if it is none of this component's


@dataclass(frozen=True, slots=True)
class PlanBuilt(Event):
    """A plan, before it is applied."""

    environment: str
    plan_id: str  # SQLMesh's id of the plan. It differs each time, also for an equal plan.
    previous_plan_id: str | None  # the plan that the environment shows; None without any
    parts: dict[str, str]  # a hash of each part of the plan that an approval covers
    # The models that are changed or computed, parents before children, removed ones last.
    models: tuple[PlannedModel, ...]
    uncategorized: tuple[str, ...] = ()  # changed models, by fqn, whose category a person has to choose
    # The difference of the statements before and after all models, and of the Python requirements.
    statements: Query = ""
    # For a preview: by name, the missing intervals of prod's models that the computed models read.
    pending_upstream: dict[str, int] = field(default_factory=dict)
    # Those of them that begin before the end of what the preview computes.
    holes_upstream: dict[str, int] = field(default_factory=dict)
    # The plan that has begun to change the environment and has not finished; None if it has.
    unfinished_plan_id: str | None = None
    way_back_obstacles: tuple[str, ...] = ()  # why the unfinished plan cannot be taken back, in words; empty if it can
    resumes: bool = False  # whether the environment shows this plan, or is on the way to it
    plan_command: str = ""  # the shell command that builds the same plan
    unit_tests: int = 0  # The number of unit tests that SQLMesh has executed. All have passed.
    # By fqn, what each model downstream of a changed one reads; None if that is not known.
    reads: dict[str, ColumnReads | None] = field(default_factory=dict)
    select: tuple[str, ...] = ()  # of the request
    left_out: dict[str, Change] = field(default_factory=dict)  # by name, the changes of the files that it leaves out
    # Whether runs can go on while the plan is applied. If the state's file is the lock, they cannot.
    runs_go_on: bool = False
    # Of the dependents of models, the views by which other environments of SQLMesh show models, and these environments.
    views_of_environments: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeftOut(Event):
    """Sent after a plan or a preview was applied, if it has not computed all that it was to compute."""

    # By name as written in SQLMesh, the intervals of models with signals, and of models downstream of them.
    intervals: dict[str, tuple[Interval, ...]]
    # After how many rounds the plan has stopped, although signals had released something in the last one; else 0.
    rounds: int = 0


@dataclass(frozen=True, slots=True)
class GrantsLost(Event):
    """Sent after a plan was applied or has failed, if views have lost grants because SQLMesh has replaced them."""

    statements: tuple[Query, ...]  # which give them again


@dataclass(frozen=True, slots=True)
class ConcurrentRuns(Event):
    """Sent after a plan or a preview was applied while runs could go on."""

    seconds: float  # how long they had to wait
    # By fqn, the intervals that were computed again because runs rewrote their source meanwhile.
    rewritten: dict[str, tuple[Interval, ...]]
    # By fqn, the intervals that runs had computed of old versions, and the plan then of new ones.
    newer: dict[str, tuple[Interval, ...]]
    # The names of prod's models that runs have computed while the preview was compared with them.
    while_compared: tuple[str, ...] = ()


KeyProblem = Literal["no_grain", "other_columns", "no_columns", "duplicate_keys", "null_keys", "engine"]
"""Why the rows of a model cannot be matched by a key."""


Amount = float | str
"""A number; as text if it is not finite."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a column of one table has. None: it is no number or masked, or it has no values."""

    nulls: int
    sum: Amount | None = None
    minimum: Amount | None = None
    maximum: Amount | None = None


@dataclass(frozen=True, slots=True)
class ModelCompared(Event):
    """How the data of a model differs between prod and a preview.

    Of its values, it has `amounts` and `examples`.
    """

    fqn: str
    name: str
    rows: int | None = None  # rows of the preview, in the compared ranges; None if the preview has no such model
    rows_prod: int | None = None  # rows of prod, in the compared ranges; None if prod has no such model
    # added, removed: Rows that only the preview has, and that only prod has. None if they are not known.
    added: int | None = None
    removed: int | None = None
    changed: int | None = None  # Rows of both whose values differ. None without a key.
    # By column of both, except the key: the share of matched rows with equal values.
    columns: dict[str, float] = field(default_factory=dict)
    # The columns that the table of the preview gains, loses or has with another type.
    schema: tuple[ColumnChange, ...] = ()
    keys: tuple[str, ...] = ()  # the columns of the key; empty if rows are not matched
    key_problem: KeyProblem | None = None  # why rows are not matched; None if they are
    ranges: tuple[Interval, ...] = ()  # the ranges that were compared; empty if whole tables were
    # Whether the preview has computed only a part of the model, and rows have no time to tell which.
    is_partial: bool = False
    reads_partial: tuple[str, ...] = ()  # upstream models of this one that the preview has computed only in part
    sample: float | None = None  # the share of keys that was compared; None if all were
    # By column of both: those of the preview, and those of prod.
    amounts: dict[str, tuple[Amounts, Amounts]] = field(default_factory=dict)
    # Some of the added, removed and changed rows, if the request asks for them.
    examples: dict[str, Sample] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()  # columns of both that were left out, because the request ignores them
    # Columns that have another value each time they are computed, by the clock or by chance, if rows differ in these
    # only; else empty.
    clock: tuple[str, ...] = ()
    only_its_time: bool = False  # whether only the time from the first to the last row of the preview was compared
    is_recomputed: bool = False  # whether prod will get another table than the preview's, which an apply computes
    # The class of the engine's error if the model could not be compared; None if it was. Its message is left out,
    # because it may contain values.
    error: str | None = None
    query: Query | None = None  # the query that raised it


@dataclass(frozen=True, slots=True)
class ComparedAudit:
    """An audit of a preview, evaluated on its table and on prod's."""

    name: str
    args: dict[str, ProjectText]
    blocking: bool
    failing_rows: int | None  # in the preview; None if it could not be evaluated
    # In prod; None if prod has no such table, or one without a column that the audit reads.
    failing_rows_prod: int | None
    error: str | None = None  # the class of the engine's error if it could not be evaluated in the preview


@dataclass(frozen=True, slots=True)
class AuditsCompared(Event):
    """Sent for each model with audits that a preview shows in another version than prod."""

    fqn: str
    name: str
    audits: tuple[ComparedAudit, ...]
