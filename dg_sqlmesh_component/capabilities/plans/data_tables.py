"""How the data of a preview differs from prod: its audits, rows and columns. As JSON, and as cells of tables. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from math import isclose
from typing import Any

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.column_words import described
from dg_sqlmesh_component.protocol.formatting import counted, listed, ranges

HEAD = ("Model", "Rows", "In prod", "Added", "Removed", "Changed", "Note")
COLUMNS_HEAD = ("Model", "Column", "Changed rows", "Total", "Smallest to largest", "NULLs")
AUDITS_HEAD = ("Model", "Audit", "Failing rows", "Failing rows in prod", "A failure")

_RECOMPUTED = "Prod will not get this table: it has its own, which an apply computes."

_NO_MATCH = {
    "no_grain": "the model has no `grain`",
    "other_columns": "prod and the preview do not both have all columns of the key ({keys})",
    "no_columns": "prod and the preview have no column in common",
    "duplicate_keys": "several rows share a key ({keys})",
    "null_keys": "some rows have no key ({keys})",
    "engine": "no test has done that on this engine",
}


def as_json(compared: msg.ModelCompared, planned: msg.PlannedModel | None = None) -> dict[str, Any]:
    """The result for programs. `planned` is the model in the plan for prod."""
    plain = ("rows", "rows_prod", "added", "removed", "changed", "columns", "sample")
    return {
        "model": compared.name,
        **{name: getattr(compared, name) for name in plain},
        "amounts": {
            name: {"preview": asdict(preview), "prod": asdict(prod)}
            for name, (preview, prod) in compared.amounts.items()
        },
        "note": note(compared, planned),
        "schema": list(map(described, compared.schema)),
        "ignored": list(compared.ignored),
        "clock": list(compared.clock),
        "examples": {kind: _rows(sample) for kind, sample in compared.examples.items()},
    }


def _rows(sample: msg.Sample) -> list[dict[str, str | None]]:
    return [dict(zip(sample.columns, values, strict=True)) for values in sample.rows]


def row(compared: msg.ModelCompared, planned: msg.PlannedModel | None = None) -> list[str]:
    """The cells of `HEAD`."""
    return [
        compared.name,
        *map(_count, (compared.rows, compared.rows_prod)),
        *(_count(count) + without_key(compared, count) for count in (compared.added, compared.removed)),
        _count(compared.changed),
        note(compared, planned),
    ]


def _count(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def without_key(compared: msg.ModelCompared, count: int | None) -> str:
    """What to write after a number of added or removed rows that may be changed rows."""
    return " (no key)" if count and compared.key_problem else ""


def lacks_rows(compared: msg.ModelCompared) -> bool:
    """Whether prod has rows that the preview does not have, although it has computed the same part of the model."""
    if compared.rows is None or compared.is_partial or compared.reads_partial or compared.clock:
        return False
    fewer = (compared.rows_prod or 0) - compared.rows
    return (fewer if compared.key_problem else compared.removed or 0) > 0  # without a key, a changed row is removed too


def is_whole(compared: msg.ModelCompared) -> bool:
    """Whether all rows of both were compared, as prod will have them."""
    is_counted = compared.added is not None and compared.removed is not None and compared.error is None
    is_part = compared.ranges or compared.is_partial or compared.only_its_time or compared.reads_partial
    return is_counted and compared.sample is None and not is_part


def differs(compared: msg.ModelCompared) -> bool:
    """Whether rows or columns of a model are others than prod's, as far as they were compared."""
    is_new = compared.rows is None or compared.rows_prod is None
    rows = compared.added, compared.removed, compared.changed, *compared.schema
    return compared.error is None and (is_new or any(rows) or any(column_rows(compared)))


# -- columns --------------------------------------------------------------------------------------


def column_rows(compared: msg.ModelCompared) -> Iterator[list[str]]:
    """The cells of `COLUMNS_HEAD` for each column that differs."""
    matched = None if compared.changed is None else (compared.rows or 0) - (compared.added or 0)
    for name, (new, old) in compared.amounts.items():
        equal = compared.columns.get(name)
        if name in compared.keys or equal == 1 or (equal is None and _are_equal(new, old)):
            continue
        differing = ""
        if equal is not None and matched is not None:
            differing = f"{round((1 - equal) * matched):,} of {matched:,}"
            differing = _share(1 - equal) if compared.sample is not None else differing
        elif equal is not None:
            differing = _share(1 - equal)
        is_amount = new.minimum is not None or old.minimum is not None
        yield [
            compared.name,
            name,
            differing,
            _total(new, old),
            was(_range(new), _range(old)) if is_amount else "",
            was(f"{new.nulls:,}", f"{old.nulls:,}"),
        ]


_EXACT = 2**53
"""A float below this has all digits of an integer."""


def _are_equal(new: msg.Amounts, old: msg.Amounts) -> bool:
    """Whether the amounts are equal, but for the order in which an engine has added up floats."""
    return _has_equal_sum(new, old) and replace(new, sum=None) == replace(old, sum=None)


def _has_equal_sum(new: msg.Amounts, old: msg.Amounts) -> bool:
    if not (isinstance(new.sum, float) and isinstance(old.sum, float)):
        return new.sum == old.sum
    ends = [abs(end) for end in (new.minimum, new.maximum) if isinstance(end, float)]
    if all(number.is_integer() for number in (new.sum, old.sum, *ends)) and abs(new.sum) < _EXACT:
        return new.sum == old.sum  # engines add up integers exactly
    largest = max(ends, default=0.0)
    return isclose(new.sum, old.sum, rel_tol=1e-11, abs_tol=1e-11 * largest)


def _total(of_new: msg.Amounts, of_old: msg.Amounts) -> str:
    new, old = of_new.sum, of_old.sum
    if new is None and old is None:
        return ""
    text = was(number(new), number(old))
    if not (isinstance(new, float) and isinstance(old, float)) or _has_equal_sum(of_new, of_old) or not old:
        return text
    percent = (new - old) / abs(old) * 100
    return f"{text}, {'+' if percent > 0 else '−'}{_percent(abs(percent))}"


def _range(amounts: msg.Amounts) -> str:
    ends = dict.fromkeys(map(number, (amounts.minimum, amounts.maximum)))
    return " to ".join(ends)


def was(new: str, old: str) -> str:
    return new if new == old else f"{new}, was {old}"


def number(value: msg.Amount | None) -> str:
    """A number with three digits, for people."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}" if abs(value) < 1e15 else f"{value:.3g}"
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"


def _share(share: float) -> str:
    """A share as percentage. A small one is not shown as none, and a large one not as all."""
    percent = share * 100
    return "> 99.9 %" if 99.9 < percent < 100 else _percent(percent)


def _percent(percent: float) -> str:
    return "< 0.1 %" if percent < 0.1 else f"{percent:.3g} %" if percent < 1000 else f"{percent:,.0f} %"


# -- audits ---------------------------------------------------------------------------------------


def is_finding(audit: msg.ComparedAudit) -> bool:
    """Whether a reviewer has to look at an audit: it fails, or it could not be evaluated."""
    return audit.failing_rows != 0


def audit_rows(compared: Iterable[msg.AuditsCompared]) -> list[list[str]]:
    """The cells of `AUDITS_HEAD` for each audit that a reviewer has to look at."""
    return [
        [
            of_model.name,
            audit_name(audit),
            f"not evaluated: {audit.error}" if audit.failing_rows is None else f"{audit.failing_rows:,}",
            "" if audit.failing_rows_prod is None else f"{audit.failing_rows_prod:,}",
            "stops the model" if audit.blocking else "only warns",
        ]
        for of_model in compared
        for audit in of_model.audits
        if is_finding(audit)
    ]


def audit_name(audit: msg.ComparedAudit) -> str:
    """The name of an audit, with its arguments."""
    return audit.name + (f" ({', '.join(f'{k}: {v}' for k, v in audit.args.items())})" if audit.args else "")


def audits_json(compared: Iterable[msg.AuditsCompared]) -> list[dict[str, Any]]:
    """All audits, for programs."""
    return [{"model": of_model.name, **asdict(audit)} for of_model in compared for audit in of_model.audits]


# -- notes ----------------------------------------------------------------------------------------


def note(compared: msg.ModelCompared, planned: msg.PlannedModel | None = None) -> str:
    """What a reader has to know about the numbers, in sentences."""
    return " ".join([*_sentences(compared), *(_after_apply(compared, planned) if planned else ())])


def _after_apply(compared: msg.ModelCompared, planned: msg.PlannedModel) -> Iterator[str]:
    """What prod will have, if it is not the preview's table."""
    rows = planned.rows
    if rows.kept and rows.kept.are_all_computed:
        yield f"Prod keeps its rows until a run after the next tick of its cron (`{rows.kept.cron}`) computes them."
    elif rows.kept:
        yield "Prod keeps its rows: runs compute later intervals by the new definition."
    elif planned.table.is_shared and rows.intervals and not compared.is_recomputed:
        yield _RECOMPUTED
    if rows.reads_kept:
        kept = listed(rows.reads_kept)
        yield f"Prod will have other rows at first: this model reads {kept}, which keeps its rows."


def _sentences(compared: msg.ModelCompared) -> Iterator[str]:
    if compared.error is not None:
        yield f"Not compared: the engine raised {compared.error}. The failure of the step has the query."
        return
    if compared.is_partial and compared.rows is None:
        yield "The preview has computed nothing of it, so there is nothing to compare."
        return
    if compared.rows_prod is None:
        yield "New in the preview."
    elif compared.rows is None:
        yield "Removed in the preview."
    if compared.schema:
        yield f"The new table {', '.join(map(described, compared.schema))}."
    if compared.ignored:
        yield f"Not compared, because `preview.diff.ignore` names them: {listed(compared.ignored)}."
    if compared.clock:
        yield f"Rows differ only in columns that have another value each time: {listed(compared.clock)}."
    if compared.ranges:
        yield f"Only {ranges(compared.ranges)} was compared, which both have computed."
    if compared.only_its_time and compared.rows == 0:
        yield "The preview has no rows, and it is not known which time it has computed, so all of prod was compared."
    elif compared.only_its_time:
        yield "Only the time from the first to the last row of the preview was compared."
    if compared.is_recomputed:
        yield _RECOMPUTED
    if compared.is_partial:
        yield "The preview has computed only a part, so the other rows of prod count as removed."
    if compared.reads_partial:
        yield (
            f"These are not the rows that prod will have: the preview has computed only a part of "
            f"{listed(compared.reads_partial)}, which this model reads."
        )
    if compared.sample is not None:
        yield f"A sample of {_share(compared.sample)} of the keys: it has these added, removed and changed rows."
    if compared.key_problem is not None:
        yield f"Rows were not matched, because {_NO_MATCH[compared.key_problem].format(keys=', '.join(compared.keys))}."
        if compared.key_problem == "no_columns":
            return
        if compared.key_problem == "engine":
            yield "They were only counted."
        elif compared.added is None:
            yield "There are too many rows to compare them without a key, so they were only counted."
        else:
            yield "A changed row counts as removed and as added."


def passing_audits(compared: Sequence[msg.AuditsCompared]) -> str:
    """How many audits pass in the preview, and those that fail in prod, in sentences; empty if none passes."""
    passing = [(m.name, audit) for m in compared for audit in m.audits if not is_finding(audit)]
    corrected = [
        f"{name}: {audit_name(a)} ({counted(a.failing_rows_prod, 'row')})" for name, a in passing if a.failing_rows_prod
    ]
    if not passing:
        return ""
    number = sum(len(of_model.audits) for of_model in compared)
    start = f"Audits that pass in the preview: {len(passing)} of {number}."
    return start + (f" In prod, these fail: {listed(corrected)}." if corrected else "")
