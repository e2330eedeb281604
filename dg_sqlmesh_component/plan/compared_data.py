"""How the data of a preview differs from prod, as JSON and as one row of a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import counted, listed
from dg_sqlmesh_component.report.wording import ranges

HEAD = ("model", "rows", "rows in prod", "added", "removed", "changed", "columns that differ", "note")

_RECOMPUTED = "Prod will not get this table: it has its own, which an apply computes."

_NO_MATCH = {
    "no_grain": "the model has no `grain`",
    "other_columns": "prod and the preview do not both have all columns of the key ({keys})",
    "no_columns": "prod and the preview have no column in common",
    "duplicate_keys": "several rows share a key ({keys})",
    "null_keys": "some rows have no key ({keys})",
}


def as_json(compared: msg.ModelCompared, planned: msg.PlannedModel | None = None) -> dict[str, Any]:
    """The result for programs.

    Args:
        planned: The model in the plan for prod.
    """
    return {
        "model": compared.name,
        "rows": compared.rows,
        "rows_prod": compared.rows_prod,
        "added": compared.added,
        "removed": compared.removed,
        "changed": compared.changed,
        "columns": compared.columns,
        "note": note(compared, planned),
        "schema": list(compared.schema),
        "sample": compared.sample,
        "filled": {name: list(counts) for name, counts in compared.filled.items()},
    }


def row(compared: msg.ModelCompared, planned: msg.PlannedModel | None = None) -> dict[str, str]:
    """One row of the table, by `HEAD`."""
    counts = (compared.rows, compared.rows_prod, compared.added, compared.removed, compared.changed)
    texts = ["" if count is None else f"{count:,}" for count in counts]
    differing = [f"{name} ({_share(1 - equal)})" for name, equal in compared.columns.items() if equal < 1]
    return dict(zip(HEAD, [compared.name, *texts, ", ".join(differing), note(compared, planned)], strict=True))


def _share(share: float) -> str:
    """A share as percentage. A small one is not shown as none, and a large one not as all."""
    percent = share * 100
    return "< 0.1 %" if percent < 0.1 else "> 99.9 %" if 99.9 < percent < 100 else f"{percent:.3g} %"


def note(compared: msg.ModelCompared, planned: msg.PlannedModel | None = None) -> str:
    """What a reader has to know about the numbers, in sentences."""
    return " ".join([*_sentences(compared), *(_after_apply(compared, planned) if planned else ())])


def _after_apply(compared: msg.ModelCompared, planned: msg.PlannedModel) -> Iterator[str]:
    """What prod will have, if it is not the preview's table."""
    if planned.kept and planned.kept.are_all_computed:
        yield f"Prod keeps its rows until a run after the next tick of its cron (`{planned.kept.cron}`) computes them."
    elif planned.kept:
        yield "Prod keeps its rows: runs compute only later intervals by the new definition."
    elif planned.has_one_table and planned.intervals and not compared.is_recomputed:
        yield _RECOMPUTED
    if planned.reads_kept:
        kept = listed(planned.reads_kept)
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
        yield f"The table {', '.join(compared.schema)}."
    if compared.ranges:
        yield f"Only {ranges(compared.ranges)} was compared, which both have computed."
    if compared.only_its_time:
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
        if compared.added is None:
            yield "There are too many rows to compare them without a key, so they were only counted."
        else:
            yield "A changed row counts as removed and as added."
    fewer = [name for name, (preview, prod) in compared.filled.items() if preview != prod]
    for name in fewer[:_MAX_NAMED]:
        preview, prod = compared.filled[name]
        yield f"{name} has a value in {preview:,} rows, in prod in {prod:,}."
    if len(fewer) > _MAX_NAMED:
        yield f"{counted(len(fewer) - _MAX_NAMED, 'further column')} with other numbers of values: see the JSON."


_MAX_NAMED = 5
