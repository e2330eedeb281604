"""Events of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dg_sqlmesh_component.protocol.messages.events import Event
from dg_sqlmesh_component.protocol.messages.requests import Interval
from dg_sqlmesh_component.protocol.messages.run import AuditedData
from dg_sqlmesh_component.protocol.texts import Query

Change = Literal["added", "removed", "changed", "indirect", "metadata"]
"""What a plan does to a model. indirect: only models upstream of it are changed. metadata: its data stays as it is."""


@dataclass(frozen=True, slots=True)
class ColumnChange:
    """A column that a table or view gains, loses or has with another type. `column_changes` has the words.

    Attributes:
        before, after: The types, as SQL. Empty: SQLMesh does not know it yet. None: there is no such column.
    """

    name: str
    before: str | None
    after: str | None


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
        destructive: The columns that SQLMesh drops from an existing table, before and after as in the definitions. If
            there is one after, SQLMesh adds it again, without values.
        may_destroy: Whether the model itself allows this (`on_destructive_change`).
        columns: The columns that consumers gain, lose or see with another type; None if SQLMesh does not know them
            before it computes the model.
        is_reordered: Whether they see the columns in another order.
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
    destructive: tuple[ColumnChange, ...] = ()
    may_destroy: bool = False
    columns: tuple[ColumnChange, ...] | None = ()
    is_reordered: bool = False
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


@dataclass(frozen=True, slots=True)
class ConcurrentRuns(Event):
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
