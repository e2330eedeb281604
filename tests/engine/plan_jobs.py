"""Jobs of plans in tests: launch them, read their reports, and change the models."""

from __future__ import annotations

from typing import Any

import dagster as dg
from harness import RunRecord, Shop

PLAN, APPLY = "sqlmesh_shop_plan", "sqlmesh_shop_apply"


def launch(shop: Shop, job: str, **config: Any) -> RunRecord:
    """Launch a job of the gate in this process, and return what Dagster recorded."""
    definition = shop.refresh().resolve_job_def(job)
    run_config = {"ops": {job: {"config": config}}}
    run = definition.execute_in_process(instance=shop.instance, run_config=run_config, raise_on_error=False)
    return shop.run_record(run.run_id)


def report_of(record: RunRecord) -> dict[str, Any]:
    """The JSON report of a job."""
    return next(
        event.event_specific_data.metadata["sqlmesh/plan_json"].value
        for event in record.events(dg.DagsterEventType.ENGINE_EVENT)
        if "sqlmesh/plan_json" in event.event_specific_data.metadata
    )


def planned(shop: Shop, **config: Any) -> dict[str, Any]:
    record = launch(shop, PLAN, **config)
    assert record.status is dg.DagsterRunStatus.SUCCESS, record.log
    return report_of(record)


def failure_of(record: RunRecord) -> str:
    [event] = record.events(dg.DagsterEventType.STEP_FAILURE)
    text: str = event.event_specific_data.error.to_string()
    return text


def change(shop: Shop, **models: str) -> None:
    for name, text in models.items():
        (shop.project / "models" / f"{name}.sql").write_text(text)
