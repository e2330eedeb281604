"""Samples of the rows that an audit has found. Values of masked columns are replaced here, before anything is sent."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from sqlglot import exp
from sqlmesh.core.engine_adapter import EngineAdapter
from sqlmesh.core.model import Model

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.redaction import HIDDEN, SECRET_NAME

if TYPE_CHECKING:
    import pandas as pd  # its import takes a fifth of the CPU of a tick

MAX_COLUMNS = 50
MAX_CHARACTERS = 100
"""Of one value. Longer ones are cut."""

_ANY = ""
"""In a set of names: it stands for all of them."""
_PRINTED = "fM"
"""The kinds of NumPy's types for floats and timestamps, also of those of pandas."""


def key_columns(model: Model) -> tuple[str, ...]:
    """The columns of the model's first grain, or of its unique key, which tell its rows apart."""
    for grain in (*model.grains, exp.Tuple(expressions=list(model.unique_key))):
        if names := tuple(column.name for column in grain.find_all(exp.Column)):
            return names
    return ()


def sample_of(
    adapter: EngineAdapter, query: exp.Query, sampling: msg.Sampling, keys: Sequence[str] = ()
) -> msg.Sample | None:
    """Some rows of an audit's query; None if it has none of the wanted columns.

    Args:
        keys: Columns that come first. Otherwise, `MAX_COLUMNS` might leave them out.

    Raises:
        Exception: The engine's driver may raise any.
    """
    failing = query.subquery("failing")
    shape = adapter.fetchdf(exp.select("*").from_(failing).limit(0), quote_identifiers=True)
    first_rows = exp.select(*_as_printed(shape)).from_(failing).limit(sampling.rows)
    rows = adapter.fetchdf(first_rows, quote_identifiers=True)  # in a transaction of its own
    position_of = {str(name): position for position, name in enumerate(rows.columns)}  # a join may repeat a name
    first = {key.casefold() for key in keys}
    wanted = (name for name in position_of if matches(name, sampling.columns or ["*"]))
    names = sorted(wanted, key=lambda name: name.casefold() not in first)[:MAX_COLUMNS]
    if rows.empty or not names:
        return None
    rows = rows.iloc[:, [position_of[name] for name in names]]
    hidden = masked_names(query, sampling.mask)
    is_hidden = [_ANY in hidden or name.casefold() in hidden or is_masked(name, sampling.mask) for name in names]
    # The driver's frame has integers as floats where a column has nulls.
    whole = rows.convert_dtypes().astype(object)
    whole = whole.where(whole.notna(), None)
    return msg.Sample(
        columns=tuple(names),
        rows=tuple(
            tuple(_text(value, is_hidden=hide) for value, hide in zip(row, is_hidden, strict=True))
            for row in whole.itertuples(index=False, name=None)
        ),
    )


def _as_printed(shape: pd.DataFrame) -> list[exp.Expression]:
    """The columns of a result. The engine prints dates and decimals: the driver has timestamps and floats for them.

    `shape` is the result without rows.
    """
    names = list(map(str, shape.columns))
    if len(set(names)) < len(names):  # a join repeats a name
        return [exp.Star()]
    columns = {name: exp.column(name, quoted=True) for name in names}
    printed = [dtype.kind in _PRINTED for dtype in shape.dtypes]
    return [
        exp.alias_(exp.cast(column, "text"), name, quoted=True) if is_printed else column
        for (name, column), is_printed in zip(columns.items(), printed, strict=True)
    ]


def masked_names(query: exp.Query, mask: Collection[str]) -> Set[str]:
    """Names in a query that stand for masked columns or for expressions of them, in lower case.

    Empty text among them means that any column may: a name is given by position, or by the engine.
    """
    hidden = {column.name.casefold() for column in query.find_all(exp.Column) if is_masked(column.name, mask)}
    renames = (
        query.find(exp.SetOperation)
        or any(alias.columns for alias in query.find_all(exp.TableAlias))
        or any(star.args.get("rename") or star.args.get("replace") for star in query.find_all(exp.Star))
    )
    if hidden and renames:
        return {_ANY}
    while (
        derived := {
            projection.alias_or_name.casefold()
            for select in query.find_all(exp.Select)
            for projection in select.expressions
            if any(column.name.casefold() in hidden for column in projection.find_all(exp.Column))
        }
        - hidden
    ):
        hidden |= derived
    return hidden


def is_masked(name: str, mask: Collection[str]) -> bool:
    return matches(name, mask) or SECRET_NAME.search(name) is not None


def matches(name: str, patterns: Collection[str]) -> bool:
    """Whether one of the patterns stands for the name, in any case. `*` matches any characters."""
    return any(fnmatchcase(name.casefold(), pattern.casefold()) for pattern in patterns)


def _text(value: Any, *, is_hidden: bool) -> str | None:
    if value is None:
        return None
    text = str(value)
    return HIDDEN if is_hidden else text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"
