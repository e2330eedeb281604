"""Plan only a selection of models, as `sqlmesh plan --select-model`.

With that option, SQLMesh computes the selected models alone: prod would show changed models downstream of them without
rows, and a preview would not show these. So the plan here is built as if only the files of the selected models had
changed. All other models are as the environment shows them. Standalone audits, statements and requirements are always
those of the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from sqlmesh.core import constants as c
from sqlmesh.core.context_diff import ContextDiff
from sqlmesh.core.environment import Environment
from sqlmesh.core.model import Model
from sqlmesh.utils.errors import SQLMeshError

from dg_sqlmesh_component.capabilities.plans.worker.context import PlanContext
from dg_sqlmesh_component.capabilities.plans.worker.facts import change_of
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import listed
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.selections import expanded
from dg_sqlmesh_component.worker.sqlmesh_internals import plan_models, selector_of

_ORIGIN = "`select` in the run config"


def take_only_selected(context: PlanContext, environment: str) -> None:
    """Let the plans of a context have the selected models of the files, and all others as the environment shows them.

    Raises:
        ConfigurationError: The selection is wrong, matches no model, leaves out a new model that a selected one reads,
            or lets models read each other.
    """
    select = context.request.select
    if not select:
        return
    diff = ContextDiff.create(Environment.sanitize_name(environment), context.snapshots, c.PROD, context.state_reader)
    removed = context.state_reader.get_snapshots(diff.removed_snapshots.values()).values()
    selected = expanded(context, _ORIGIN, select, {old.name: old.model for old in removed if old.is_model})
    try:
        models, _ = selector_of(context, context.state_reader).select_models(
            select, environment, c.PROD, context.config.plan.use_finalized_state
        )
    except SQLMeshError as error:
        raise ConfigurationError(f"{_ORIGIN} leaves no valid project: {describe_error(error)}") from error
    changes = {snapshot: change_of(diff, snapshot) for snapshot in diff.snapshots.values()}
    changes |= dict.fromkeys(removed, "removed")
    left_out = {
        snapshot.name: (display_name(snapshot.node, context), change)
        for snapshot, change in changes.items()
        # An indirect change is none of the model's file, so nothing of the file is left out.
        if change not in (None, "indirect") and snapshot.is_model and snapshot.name not in selected
    }
    added = {fqn: name for fqn, (name, change) in left_out.items() if change == "added"}
    for node in (*models.values(), *context.standalone_audits.values()):  # SQLMesh takes all audits from the files
        if new := sorted(added[read] for read in node.depends_on & added.keys()):
            example = f"+{node.name}" if node.is_model else new[0]
            raise ConfigurationError(
                f"{_ORIGIN} leaves out {listed(new)}, which {display_name(node, context)} reads, and environment "
                f"{environment} does not have. Select it too, for example with {example}."
            )
    _refuse_cycle({model.fqn: model for model in models.values()}, context)
    plan_models(context, models)
    context.left_out = dict(sorted(left_out.values()))


def _refuse_cycle(models: Mapping[str, Model], context: PlanContext) -> None:
    try:
        TopologicalSorter({fqn: model.depends_on for fqn, model in models.items()}).prepare()
    except CycleError as error:
        names = [display_name(models[fqn], context) for fqn in error.args[1][1:]]
        raise ConfigurationError(
            f"{_ORIGIN} takes only some of these models from the files, and then they read each other: "
            f"{listed(sorted(names))}. Select all of them."
        ) from error
