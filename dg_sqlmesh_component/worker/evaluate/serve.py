"""Serve an `EvaluationRequest`."""

from __future__ import annotations

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker.evaluate.evaluation import evaluate
from dg_sqlmesh_component.worker.evaluate.run import RunContext
from dg_sqlmesh_component.worker.pipe import Pipe


def serve_evaluation(request: msg.EvaluationRequest, pipe: Pipe) -> None:
    """Compute the requested nodes, and audit others."""
    evaluate(request, pipe, RunContext)
