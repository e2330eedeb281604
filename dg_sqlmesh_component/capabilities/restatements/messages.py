"""The request of a restatement. Its events are those of a run, and one `RestatementPlanned`."""

from __future__ import annotations

from dataclasses import dataclass

from dg_sqlmesh_component.protocol.messages import EvaluationRequest


@dataclass(frozen=True, slots=True)
class RestateRequest(EvaluationRequest):
    """Compute a range (`restate`) again, instead of the pending intervals."""

    SERVED_BY = "capabilities.restatements.worker.restatement:serve_restatement"
