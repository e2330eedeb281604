"""Jobs of plans in tests: launch them, read their reports, and change the models."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import dagster as dg
from harness import NewShop, RunRecord, Shop, python_model, reconstructable_job

PLAN, APPLY = "sqlmesh_shop_plan", "sqlmesh_shop_apply"

BASE = "MODEL (name t.base, kind VIEW, owner ann); SELECT 1 AS id, 2.5::{type} AS amount"

DAILY = """
MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true));
SELECT @start_ds::DATE AS day, id, amount FROM t.base
"""

TOTAL = """
MODEL (name t.total, kind FULL, audits (not_null(columns := (amount))));
SELECT sum(amount){added} AS amount FROM t.daily
"""

MODELS = {
    "models/base.sql": BASE.format(type="DOUBLE"),
    "models/daily.sql": DAILY,
    "models/total.sql": TOTAL.format(added=""),
    "models/other.sql": "MODEL (name t.other, kind FULL, owner eve); SELECT 1 AS x",
}


KILLED = python_model("t.total", "if Path('kill').exists(): os.kill(os.getpid(), signal.SIGKILL)", ["t.daily"])


def killed_shop(new_shop: NewShop) -> Shop:
    """Return a shop whose t.total kills SQLMesh's process while the project has a file `kill`."""
    shop = new_shop({**MODELS, "models/total.sql": "", "models/total.py": KILLED}, deploy=True)
    (shop.project / "kill").touch()
    return shop


def launch(shop: Shop, job: str, **config: Any) -> RunRecord:
    """Launch a job of the gate in this process, and return what Dagster recorded."""
    shop.refresh()
    return shop.run_record(executed(shop, shop.instance, job, config))


def executed(
    shop: Shop, instance: dg.DagsterInstance, job: str, config: dict[str, Any], tags: dict[str, str] | None = None
) -> str:
    """Execute a job of the component on an instance, and return the id of the run."""
    definition = reconstructable_job(shop.root, {"launch": [uuid4().hex]}, job)
    ops = {job: {"config": config}} if config else {}
    run_config = {"execution": {"config": {"in_process": {}}}, "ops": ops}
    with dg.execute_job(definition, instance=instance, run_config=run_config, tags=tags) as result:
        return result.run_id


def reports_of(record: RunRecord) -> list[dict[str, Any]]:
    """The JSON reports that a job has published."""
    events = [event.event_specific_data.metadata for event in record.events(dg.DagsterEventType.ENGINE_EVENT)]
    return [metadata["sqlmesh/plan_json"].value for metadata in events if "sqlmesh/plan_json" in metadata]


def report_of(record: RunRecord) -> dict[str, Any]:
    """The JSON report that a job has published first."""
    return reports_of(record)[0]


def text_of(record: RunRecord) -> str:
    return "\n".join(
        str(event.event_specific_data.metadata["sqlmesh/report"].value)
        for event in record.events(dg.DagsterEventType.ENGINE_EVENT)
        if "sqlmesh/report" in event.event_specific_data.metadata
    )


def planned(shop: Shop, **config: Any) -> dict[str, Any]:
    record = launch(shop, PLAN, **config).succeeded()
    return report_of(record)


def applied(shop: Shop) -> RunRecord:
    """Apply the plan of the project's files as it is now."""
    return launch(shop, APPLY, digest=planned(shop)["digest"]).succeeded()


def failure_of(record: RunRecord) -> str:
    [event] = record.events(dg.DagsterEventType.STEP_FAILURE)
    text: str = event.event_specific_data.error.to_string()
    return text


def change(shop: Shop, **models: str) -> None:
    for name, text in models.items():
        (shop.project / "models" / f"{name}.sql").write_text(text)


def kinds(report: dict[str, Any]) -> list[str]:
    return [refusal["kind"] for refusal in report["refusals"]]


def message_of(kind: str, report: dict[str, Any]) -> str:
    """The message of the only refusal of a kind."""
    [message] = [refusal["message"] for refusal in report["refusals"] if refusal["kind"] == kind]
    text: str = message
    return text


def edit_config(text: str) -> Callable[[Shop], None]:
    """An edit of the project's `config.yaml`: add a text."""

    def edit(shop: Shop) -> None:
        config = shop.project / "config.yaml"
        config.write_text(config.read_text() + text)

    return edit
