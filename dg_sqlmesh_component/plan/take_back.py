"""One step that applies a plan, or that takes back one which has not finished."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import dagster as dg

from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.active_runs import APPLIES_TAG, interrupted_changes
from dg_sqlmesh_component.plan.step import PLAN_TAG, execute_plan_step
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker_client.session import WorkerSession

_MAX_RUNS = 400


def execute_apply_step(context: dg.OpExecutionContext, settings: Settings) -> Iterator[Any]:
    """As `execute_plan_step`. With `take_back`, show what the environment showed before a plan that has not finished.

    Raises:
        dagster.Failure: As there; or the run config is wrong, or the plan cannot be taken back.
        dagster.DagsterExecutionInterruptedError: At the end, if the step was cancelled (SIGINT, SIGTERM).
    """
    config: dict[str, Any] = context.op_config
    if config["take_back"] == ("digest" in config):
        raise dg.Failure(
            f"Nothing was done. Write `digest` in the run config, from {settings.plan_job}; or, to take back a plan "
            "that has not finished, `take_back: true` without a digest.",
            allow_retries=False,
        )
    if not config["take_back"]:
        yield from execute_plan_step(context, settings)
        return
    session = WorkerSession(context, settings.project)
    yield from session.drive(_take_back(context, settings, session))


def _take_back(context: dg.OpExecutionContext, settings: Settings, session: WorkerSession) -> Iterator[Any]:
    instance = context.instance
    applies = dg.RunsFilter(tags={APPLIES_TAG: settings.state_tag})
    tags = [record.dagster_run.tags for record in instance.get_run_records(applies, limit=_MAX_RUNS)]
    request = msg.TakeBackRequest(
        settings.project.open_request,
        settings.environment,
        plans=frozenset(of_run[PLAN_TAG] for of_run in tags if PLAN_TAG in of_run),
        interrupted=interrupted_changes(instance, settings.changes_tag, int(time.time() * 1000)),
        job=settings.job(context.run.run_id),
    )
    for _ in session.events(request):
        pass
    if session.is_cancelled:
        raise dg.DagsterExecutionInterruptedError("The run was cancelled.")
    if session.error is not None:
        raise dg.Failure(str(session.error), allow_retries=False)
    yield dg.Output(None)
