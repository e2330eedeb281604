"""Whether the last result of a check is repeated by somebody who has not evaluated it. Pure.

A repeated result that has passed is green although no SQL ran. So each place asks here, with what it knows of the data.

| what it knows | what it asks |
|---|---|
| the data of a model that waits or had nothing to do | `why_not_repeated` |
| of a model that a failed run did not reach, what the run read before it began | `is_as_before`, `repeats_unreached` |
| nothing: the run was refused, a dry run, over before it began, or could not evaluate the check | `repeats_shown` |
| when a model was last altered whose checks alone were selected | `repeats_failed_status` |
| that a plan has promoted the same data again | `repeats_with_promoted` |
| that a preview has audited the table that a plan promotes | `is_newer_result` |
| which rows a run is about to compute others of | `audited_until` |
"""

from __future__ import annotations

from collections.abc import Set

from dg_sqlmesh_component.history.earlier_results import EarlierResult
from dg_sqlmesh_component.protocol import messages as msg


def why_not_repeated(idle: msg.NodeIdle, earlier: EarlierResult | None, environment: str) -> str | None:
    """Why the last result of an audit is not repeated, as a clause after "because"; None if it is."""
    if earlier is None:
        return "no run of Dagster has evaluated its audit"
    if earlier.audited_data is None:
        return (
            f"its audit has read other tables than the one that environment {environment} shows for its model, and "
            "their data may have changed since"
        )
    if earlier.is_rewritten:
        return "a later run has begun to compute it and failed before its audit"
    # A failure is repeated: it promises nothing about rows that were written since.
    if idle.is_unaccepted and earlier.passed:
        return "a run was cancelled, killed or failed after it had begun to compute the data"
    of_environment, audited, up_to = earlier.audited_data
    is_same = (of_environment, audited) == (environment, idle.audited_data)
    # A restatement alters the data; for a view, so does a new computation of its upstream models.
    is_unaltered = idle.last_interval_end is not None and (idle.altered_at or 0) <= up_to
    if is_same and is_unaltered:
        return None
    return "its last result is not about the current data and audits"


def audited_until(data: msg.AuditedData, earlier: EarlierResult | None, environment: str) -> int:
    """The instant until which the rows were computed that the last result of an audit is about, in milliseconds.

    It is before all rows if the result is about another table, or another audit.
    """
    if earlier is None:
        return -1
    if earlier.audited_data is None:  # it has read other tables too
        return round(earlier.evaluated_at * 1000)
    of_environment, audited, up_to = earlier.audited_data
    return up_to if (of_environment, audited) == (environment, data) else -1


def is_as_before(*, is_untouched: bool, shown_tables: Set[str], started: Set[str]) -> bool:
    """Whether a run that has failed has left the rows of a model as they were. A view shows those of its tables."""
    return is_untouched and shown_tables.isdisjoint(started)


def repeats_unreached(newest: EarlierResult, promoted: str | None, before: msg.EarlierRows | None) -> bool:
    """Whether a run that has failed repeats the newest result of a model that it has left as it was.

    Args:
        promoted: The promoted version of its table. A plan may have promoted an empty one since the result.
        before: Its rows before the run. None: the run had ended before the worker has read them.
    """
    if promoted is not None and newest.table not in (None, promoted):
        return False
    # A failure is repeated, as above.
    if before is None or not newest.passed:
        return True
    up_to = newest.audited_data[2] if newest.audited_data else round(newest.evaluated_at * 1000)
    return not before.is_unaccepted and before.altered_at <= up_to


def repeats_shown(newest: EarlierResult | None, *, is_hidden: bool) -> bool:
    """Whether a run that knows nothing of the data leaves a check as Dagster has shown it.

    Args:
        newest: The newest result. None: the newest record only says why the check was not evaluated.
        is_hidden: Whether a later run was to evaluate the check and has not. If it was killed, it may have written
            rows.
    """
    return not (is_hidden and newest is not None and newest.passed)


def repeats_failed_status(status: EarlierResult, altered_at: int | None) -> bool:
    """Whether the failure of a model still stands, because nobody has computed it since (epoch milliseconds)."""
    return status.is_blocking_failure and (altered_at or 0) <= status.evaluated_at * 1000


def repeats_with_promoted(result: EarlierResult, *, is_shown: bool) -> bool:
    """Whether a result goes on with data that a plan has promoted again, without new rows.

    Args:
        is_shown: Whether Dagster shows it with the last materialization. It would not with the next one.
    """
    return result.is_about_data and is_shown


def is_newer_result(kept: EarlierResult, known: EarlierResult | None) -> bool:
    """Whether a result that a preview has kept is not older than the known one about the same table."""
    return known is None or known.table != kept.table or known.evaluated_at <= kept.evaluated_at
