"""Serve an `EvaluationRequest`: run, restate, or predict one of both."""

from __future__ import annotations

from dg_sqlmesh_component.protocol.messages import EvaluationRequest
from dg_sqlmesh_component.worker.evaluate.evaluation import evaluate
from dg_sqlmesh_component.worker.evaluate.restatement import RestatementContext
from dg_sqlmesh_component.worker.evaluate.run import RunContext
from dg_sqlmesh_component.worker.evaluate.serve_dry_run import DryRestatementContext, DryRunContext
from dg_sqlmesh_component.worker.pipe import Pipe


def serve_evaluation(request: EvaluationRequest, pipe: Pipe) -> None:
    """Compute the requested nodes, or predict what would be computed, and audit others."""
    if request.restate is None:
        evaluate(request, pipe, DryRunContext if request.dry_run else RunContext)
    else:
        evaluate(request, pipe, DryRestatementContext if request.dry_run else RestatementContext)
