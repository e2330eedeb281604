"""Events of a preview: how the data of its models differs from prod."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dg_sqlmesh_component.protocol.messages.events import Event
from dg_sqlmesh_component.protocol.messages.plan import ColumnChange
from dg_sqlmesh_component.protocol.messages.requests import Interval
from dg_sqlmesh_component.protocol.messages.run import Sample
from dg_sqlmesh_component.protocol.texts import ProjectText, Query

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
