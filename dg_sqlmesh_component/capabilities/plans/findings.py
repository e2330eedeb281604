"""What an environment loses by a plan: one list, with one wording. Pure.

The refusals, the report, its JSON, the log and the result of a job show these findings, or some of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.column_words import columns_of, described, dropped
from dg_sqlmesh_component.capabilities.plans.data_tables import is_whole, without_key
from dg_sqlmesh_component.capabilities.plans.lost_rows import lost_parts, lost_text
from dg_sqlmesh_component.protocol.formatting import counted, listed, utc_text
from dg_sqlmesh_component.protocol.graph import grouped

Compared = Mapping[str, msg.ModelCompared]
"""By fqn, how the data of a preview differs from prod."""

_OLD_VERSION = (
    "The apply deletes no data: the old version stays until SQLMesh's janitor deletes it, by default after a week."
)
_ONE_TABLE = "No old version stays: in `virtual_environment_mode: dev_only`, SQLMesh changes or drops the only table."


class Kind(Enum):
    """What is lost. `word` names it in JSON; `verb` comes before it in a sentence about the model."""

    MODEL = "model", ""
    VALUES = "values", ""  # of a column that SQLMesh drops from an existing table
    COLUMN = "column", ""  # that the new version does not have
    ROWS = "rows", "loses "
    VIEW = "view", ""  # of others, which reads the model

    def __init__(self, word: str, verb: str) -> None:
        self.word = word
        self.verb = verb


@dataclass(frozen=True)
class Finding:
    """A loss.

    Attributes:
        fqn: The model.
        subject: Its name, or the view of others that is dropped with it.
        what: What is lost, as in "t.orders (drops amount)" or "t.orders (rows before 2026-11-20)".
        means: What that means, in sentences that follow a colon. Empty if `what` says it.
        refusal: The kind of refusal that names it, unless the model itself or the run config accepts it.
    """

    kind: Kind
    fqn: str
    subject: str
    what: str
    means: str = ""
    refusal: str | None = None

    @property
    def sentence(self) -> str:
        """All of it after the subject, for a list: `drops amount: the column ...`."""
        return f"{self.kind.verb}{self.what}{f': {self.means}' if self.means else '.'}"

    def as_json(self) -> dict[str, str | None]:
        """The finding for programs."""
        return {
            "kind": self.kind.word,
            "name": self.subject,
            "what": f"{self.kind.verb}{self.what}",
            "means": self.means,
            "refusal": self.refusal,
        }


def named(findings: Iterable[Finding]) -> list[str]:
    """The subjects of findings, each with all that it loses: `t.orders (drops amount, drops id)`."""
    by_subject = grouped((of.subject, of.what) for of in findings)
    return [f"{subject} ({', '.join(dict.fromkeys(what))})" for subject, what in by_subject.items()]


def losses(plan: msg.PlanBuilt, compared: Compared = MappingProxyType({})) -> list[Finding]:
    """What the environment of a plan loses: removed models first, then model by model. `compared`: of a preview."""
    models = [model for model in plan.models if model.table.exists]
    found = [_removed(model) for model in models if model.change == "removed"]
    for model in models:
        of_preview = compared.get(model.fqn)
        found += [*lost_values(model), *_lost_columns(model, of_preview), *_lost_rows(model, of_preview)]
        found += _dropped_views(model, plan.views_of_environments)
    return found


def _removed(model: msg.PlannedModel) -> Finding:
    older = " If nobody has removed it, this branch is older than the model: merge the main branch."
    means = _after_removal(model) + ("" if model.becomes else older)
    return Finding(Kind.MODEL, model.fqn, model.name, "is removed", means)


def _after_removal(model: msg.PlannedModel) -> str:
    if model.becomes and not model.table.was_shared:
        return (
            f"its kind is {model.becomes} now, so SQLMesh computes nothing for it. Its view stays, with the rows of "
            "today, until SQLMesh's janitor deletes their table, by default after a week. Then queries that use the "
            "view fail. Drop the view after the apply."
        )
    if not model.table.was_shared:
        return f"queries that use it will fail. {_OLD_VERSION}"
    return (
        "its rows are not computed any more. In `virtual_environment_mode: dev_only`, its view stays until SQLMesh's "
        "janitor deletes it, by default after a week. A table stays until somebody drops it, because SQLMesh does not."
    )


def lost_values(model: msg.PlannedModel) -> Iterator[Finding]:
    """The columns of an existing table whose values are lost."""
    refusal = None if model.table.may_destroy else "destructive"
    for column in model.table.destructive:
        means = (
            "the column and its values are gone, and queries that use it will fail."
            if column.after is None
            else "the values of all existing rows are lost. They are NULL until somebody computes them again."
        )
        yield Finding(Kind.VALUES, model.fqn, model.name, dropped(column), means, refusal)


def _lost_columns(model: msg.PlannedModel, compared: msg.ModelCompared | None) -> Iterator[Finding]:
    if model.table.destructive:  # an existing table loses them, with their values
        return
    of_preview = compared.schema if compared and not model.rows.kept else ()
    for column in _without_new_type(columns_of(model, compared) or ()) or _without_new_type(of_preview):
        means = f"queries that use the column will fail. {_what_stays(model)}"
        yield Finding(Kind.COLUMN, model.fqn, model.name, described(column), means)


def _without_new_type(columns: Iterable[msg.ColumnChange]) -> list[msg.ColumnChange]:
    """Those that are dropped."""
    return [column for column in columns if column.after is None]


def _lost_rows(model: msg.PlannedModel, compared: msg.ModelCompared | None) -> Iterator[Finding]:
    found = [
        (part.text, part.means if part.until else f"they are not shown any more. {_what_stays(model)}", part.refusal)
        for part in lost_parts(model.rows.loses, model.rows.waits_for)
    ]
    if read := model.rows.reads_lost:
        at = f" at the first run after {utc_text(model.rows.loses_at)}" if model.rows.loses_at else ""
        found.append((f"{lost_text(read)}{at}", f"it shows or reads {listed(model.rows.loses_with)}.", None))
    if found and compared is not None and compared.removed and is_whole(compared):
        # Nobody knows which of these losses the rows belong to, so only one of them names the number.
        number = counted(compared.removed, "row") + without_key(compared, compared.removed)
        what, means, refusal = found[-1]
        found[-1] = what, f"{means} The preview has counted {number} of prod that it does not have.".strip(), refusal
    for what, means, refusal in found:
        yield Finding(Kind.ROWS, model.fqn, model.name, what, means, refusal)


def _what_stays(model: msg.PlannedModel) -> str:
    return _ONE_TABLE if model.table.was_shared else _OLD_VERSION


def _dropped_views(model: msg.PlannedModel, environments: Mapping[str, str]) -> Iterator[Finding]:
    """The views of others that read a model. `environments`: those of SQLMesh, by their views."""
    for view in model.table.dependents or ():
        if cannot_be_dropped(model):
            means = "SQLMesh cannot remove what others read, so the plan would fail partway through."
            refusal = "has_dependents"
        else:
            of = environments.get(view)
            means = "PostgreSQL drops it with the view that SQLMesh replaces" + (
                f". It is a view of SQLMesh's environment {of}." if of else ", and nothing creates it again."
            )
            refusal = "drops_dependents"
        yield Finding(Kind.VIEW, model.fqn, view, f"reads {model.name}", means, refusal)


def dropped_views(model: msg.PlannedModel) -> tuple[str, ...]:
    """The views of others that PostgreSQL drops with the model's view or column."""
    return () if cannot_be_dropped(model) else model.table.dependents or ()


def cannot_be_dropped(model: msg.PlannedModel) -> bool:
    """Whether PostgreSQL refuses the plan if views read the model. Others it drops."""
    return model.change == "removed" or model.table.is_dropped
