"""What the core asks capabilities for. Each port answers for a core without them, until `component.py` fills it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dg_sqlmesh_component.definitions.awaited import Awaited
from dg_sqlmesh_component.protocol import messages as msg

if TYPE_CHECKING:
    import dagster as dg

    from dg_sqlmesh_component.config.component_attributes import ComponentAttributes
    from dg_sqlmesh_component.dagster_internals.assets import HasAssets
    from dg_sqlmesh_component.definitions.settings import Settings
    from dg_sqlmesh_component.definitions.upstream import Upstream
    from dg_sqlmesh_component.protocol.manifest import Model


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
        refuse: Takes the settings, the limits, the planned ranges and the log of a step. Logs what is planned, and
            returns why it is not computed; None if it is.
    """

    request: type[msg.EvaluationRequest]
    refuse: Callable[..., str | None]


@dataclass(frozen=True)
class Ports:
    """Functions of capabilities, by what the core needs."""

    # Which tables are not loaded, for the instance, the assets of the code location and the settings of a step or tick.
    awaited: Callable[..., Awaited] = Awaited
    # Compares loads of these tables with what models have read, for the same arguments; None if nothing is compared.
    source_loads: Callable[[dg.DagsterInstance, HasAssets | None, Settings], Any] = lambda *_: None
    # Further checks of a model, for the attributes of the component, what its models read, the model and its key.
    check_specs: Callable[[ComponentAttributes, Upstream, Model, dg.AssetKey], Iterable[dg.AssetCheckSpec]] = (
        lambda *_: ()
    )

    dry_run: DryRun | None = None
    restating: Restating | None = None
    # The names of the jobs that show and apply a plan of the component's environment; None if there are none.
    deploy_jobs: Callable[[Settings], tuple[str, str] | None] = lambda _: None


CORE_ALONE = Ports()
