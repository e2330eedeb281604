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
    """What a column of one table has. None: it is no number, or it has no values."""

    nulls: int
    sum: Amount | None = None
    minimum: Amount | None = None
    maximum: Amount | None = None


@dataclass(frozen=True, slots=True)
class ModelCompared(Event):
    """How the data of a model differs between prod and a preview. Of its values, it has `amounts` and `examples`.

    Attributes:
        rows: Rows of the preview, in the compared ranges; None if the preview has no such model.
        rows_prod: Rows of prod, in the compared ranges; None if prod has no such model.
        added, removed: Rows that only the preview has, and that only prod has. None if they are not known.
        changed: Rows of both whose values differ. None without a key.
        columns: By column of both, except the key: the share of matched rows with equal values.
        schema: The columns that the table of the preview gains, loses or has with another type.
        keys: The columns of the key; empty if rows are not matched.
        key_problem: Why rows are not matched; None if they are.
        ranges: The ranges that were compared; empty if whole tables were.
        is_partial: Whether the preview has computed only a part of the model, and rows have no time to tell which.
        reads_partial: Upstream models of this one that the preview has computed only in part.
        sample: The share of keys that was compared; None if all were.
        amounts: By column of both: those of the preview, and those of prod.
        examples: Some of the added, removed and changed rows, if the request asks for them.
        ignored: Columns of both that were left out, because the request ignores them.
        clock: Columns that have another value each time they are computed, by the clock or by chance, if rows differ in
            these only; else empty.
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
    schema: tuple[ColumnChange, ...] = ()
    keys: tuple[str, ...] = ()
    key_problem: KeyProblem | None = None
    ranges: tuple[Interval, ...] = ()
    is_partial: bool = False
    reads_partial: tuple[str, ...] = ()
    sample: float | None = None
    amounts: dict[str, tuple[Amounts, Amounts]] = field(default_factory=dict)
    examples: dict[str, Sample] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    clock: tuple[str, ...] = ()
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
