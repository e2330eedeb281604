"""The request of a dry run. Its events are those of a run."""

from __future__ import annotations

from dataclasses import dataclass

from dg_sqlmesh_component.protocol.messages import EvaluationRequest


@dataclass(frozen=True, slots=True)
class DryRunRequest(EvaluationRequest):
    """Plan as a run would, and compute nothing."""

    SERVED_BY = "capabilities.dry_run.worker.predict:serve_dry_run"
    WRITES = False
