"""Decides whether a retry inside the step can help, and for which nodes. Pure. `step` checks the number of retries.

After a transient error, another attempt computes the nodes without an outcome. A node that failed for good is settled.
Nodes downstream of it are left out: the next SQLMesh run would not know of that failure, and would compute them from
old data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Set
from dataclasses import replace
from typing import TypeAlias

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import SQLMeshComponentError, StatementError
from dg_sqlmesh_component.protocol.formatting import as_sentence, listed
from dg_sqlmesh_component.run.ledger import Ledger

End: TypeAlias = msg.EvaluationFinished | msg.RequestFailed | SQLMeshComponentError
"""The event or error that ended an attempt."""


def next_attempt(
    request: msg.EvaluationRequest,
    ledger: Ledger,
    end: End,
    is_transient: Callable[[str, bool], bool],
    downstream_of: Callable[[Collection[str]], Set[str]],
) -> msg.EvaluationRequest | None:
    """The request of the next attempt, made from the step's first one; None if no retry helps.

    `is_transient` decides about an error by its class and message and by the worker's own decision.
    """
    if isinstance(end, msg.EvaluationFinished) and end.status == "not_run":
        return None  # no requested node is promoted, and a retry does not change that
    # A failed statement of `after_all` is executed again after the models of the next attempt.
    if isinstance(end, msg.EvaluationFinished) or failed_statement(end):
        retried = ledger.worth_retrying(interruption_is_transient=False)
    elif is_transient(message(end), end.is_transient):
        retried = ledger.worth_retrying(interruption_is_transient=True)
    else:
        return None
    retried -= downstream_of(ledger.failed_for_good)
    models = tuple(fqn for fqn in request.models if fqn in retried)
    audits = tuple(name for name in request.standalone_audits if name in retried)
    audit_only = ledger.open_audit_only
    if not models and not audits and not audit_only:
        return None
    return replace(
        request,
        models=models,
        standalone_audits=audits,
        audit_only={node: request.audit_only[node] for node in audit_only},
        elsewhere=request.elsewhere.union(request.models).difference(models),
        restate=request.restate if models else None,  # SQLMesh refuses a restatement of no model
    )


def announcement(end: End, following: msg.EvaluationRequest, name: Callable[[str], str]) -> str:
    """The reason for another attempt, as a clause after "because". A sentence about what it computes follows."""
    if isinstance(end, msg.EvaluationFinished) or (failed_statement(end) and following.models):
        cause = "of transient errors"
    else:
        cause = f"of this error: {message(end)}"
    nodes = [*following.models, *following.standalone_audits, *following.audit_only]
    return f"{as_sentence(cause)} It computes the pending intervals of {listed(list(map(name, nodes)))}."


def failed_statement(end: End) -> str | None:
    """The message about a failed statement of `after_all`; None if none failed."""
    return end.message if isinstance(end, msg.RequestFailed) and end.error == StatementError.__name__ else None


def ran_statements(end: End) -> bool:
    """Whether SQLMesh reached the statements of `after_all` in this attempt."""
    if isinstance(end, msg.EvaluationFinished):
        return end.status in ("success", "failure")
    return failed_statement(end) is not None


def message(end: msg.RequestFailed | SQLMeshComponentError) -> str:
    """The error that ended an attempt, with its class."""
    return f"{end.error}: {end.message}" if isinstance(end, msg.RequestFailed) else f"{type(end).__name__}: {end}"
