"""What the core asks capabilities for. Each port answers for a core without them, until `component.py` fills it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dg_sqlmesh_component.protocol import messages as msg

if TYPE_CHECKING:
    from dg_sqlmesh_component.definitions.settings import Settings


@dataclass(frozen=True)
class DryRun:
    """How a step shows what a run would do.

    Attributes:
        request: The request in place of that of a run.
        predict: Shows it, for the context of a step, its settings, request, sources and session with the worker.
    """

    request: type[msg.EvaluationRequest]
    predict: Callable[..., None]


@dataclass(frozen=True)
class Restating:
    """How a step computes a range again.

    Attributes:
        request: The request in place of that of a run.
        refuse: Logs what is planned, for the settings, the limits, the planned ranges and the log of a step. Returns
            why it is not computed; None if it is.
    """

    request: type[msg.EvaluationRequest]
    refuse: Callable[..., str | None]


@dataclass(frozen=True)
class Ports:
    """Functions of capabilities, by what the core needs."""

    dry_run: DryRun | None = None
    restating: Restating | None = None
    # The names of the jobs that show and apply a plan of the component's environment; None if there are none.
    deploy_jobs: Callable[[Settings], tuple[str, str] | None] = lambda _: None


CORE_ALONE = Ports()
