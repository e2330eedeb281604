"""Whether a SQLMesh run is worth another attempt inside the step, and of which nodes. Pure.

Another attempt is made of what failed for transient causes only, of what only such failures blocked and, if the whole
attempt ended for a transient cause, of what it left without a result. What is downstream of a node that failed for
good is left out: SQLMesh would not know of the failure, and compute it without its source.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Set
from dataclasses import replace
from typing import TypeAlias

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import SQLMeshComponentError, StatementError
from dg_sqlmesh_component.run.outcomes import Ledger

End: TypeAlias = msg.EvaluationFinished | msg.RequestFailed | SQLMeshComponentError
"""How an attempt ended."""


def next_attempt(
    request: msg.EvaluationRequest,
    ledger: Ledger,
    end: End,
    is_transient: Callable[[str, bool], bool],
    downstream_of: Callable[[Collection[str]], Set[str]],
) -> msg.EvaluationRequest | None:
    """The request of the next attempt; None if nothing is worth one.

    Args:
        request: The step's whole request.
        ledger: What became of it so far.
        is_transient: Whether an error is transient, by its class and message and by what the worker thinks of it.
        downstream_of: All nodes downstream of some.
    """
    if isinstance(end, msg.EvaluationFinished):
        if end.status == "not_run":
            return None
        kept = ledger.worth_retrying(interruption_is_transient=False)
    elif failed_statement(end):  # repeated after the models that the next attempt computes
        kept = ledger.worth_retrying(interruption_is_transient=False)
    elif is_transient(message(end), end.is_transient):
        kept = ledger.worth_retrying(interruption_is_transient=True)
    else:
        return None
    kept -= downstream_of(ledger.failed_for_good)
    audit_only = ledger.open_audit_only
    if not kept and not audit_only:
        return None
    return replace(
        request,
        models=tuple(fqn for fqn in request.models if fqn in kept),
        standalone_audits=tuple(name for name in request.standalone_audits if name in kept),
        audit_only={node: request.audit_only[node] for node in audit_only},
    )


def cause(end: End, following: msg.EvaluationRequest) -> str:
    """Why another attempt follows, for people."""
    if isinstance(end, msg.EvaluationFinished) or (failed_statement(end) and following.models):
        return "of transient errors."
    return f"of this: {message(end)}"


def failed_statement(end: End) -> str | None:
    """The message about a statement of `after_all` that failed; None if none did."""
    return end.message if isinstance(end, msg.RequestFailed) and end.error == StatementError.__name__ else None


def ran_statements(end: End) -> bool:
    """Whether SQLMesh came to the statements of `after_all` in this attempt."""
    if isinstance(end, msg.EvaluationFinished):
        return end.status in ("success", "failure")
    return failed_statement(end) is not None


def message(end: msg.RequestFailed | SQLMeshComponentError) -> str:
    """The error that ended an attempt, with its class."""
    return f"{end.error}: {end.message}" if isinstance(end, msg.RequestFailed) else f"{type(end).__name__}: {end}"
