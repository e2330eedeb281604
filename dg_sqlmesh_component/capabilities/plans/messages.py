"""The messages of plans, applies and previews."""

from __future__ import annotations

from dataclasses import dataclass

from dg_sqlmesh_component.capabilities.janitor.messages import JanitorRequest


@dataclass(frozen=True, slots=True)
class ClosePreviewRequest(JanitorRequest):
    """Delete an environment with everything that no other environment uses; the answer is one `JanitorFinished`."""

    HOLDER = "preview of run"
    SERVED_BY = "worker.plan.close:close_preview"
    environment: str
