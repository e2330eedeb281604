"""The part of the benchmarks that runs in Dagster's process: `in_dagster.py <task> <Dagster project>`. Prints JSON."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
from dagster._core.remote_representation.external_data import RepositorySnap  # noqa: TID251 # what Dagster+ stores
from dagster._serdes import serialize_value

_T = TypeVar("_T")
RESULTS = (
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_OBSERVATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
)


def definitions(root: Path) -> dg.Definitions:
    sys.path.insert(0, str(root))
    module = importlib.import_module(f"{root.name}.definitions")
    loaded: dg.Definitions = module.defs()
    return loaded


def load(root: Path) -> dict[str, Any]:
    """Build the repository, as every process of Dagster does."""
    repository = definitions(root).get_repository_def()
    keys = repository.asset_graph.materializable_asset_keys
    return {"assets": len(keys), "sqlmesh": "sqlmesh" in sys.modules}


def step(root: Path) -> dict[str, Any]:
    """Run everything with the in-process executor; seconds from the (last) step's start to its end, and of the run.

    The worker's CPU seconds are those of all processes that this one has waited for.
    """
    job = definitions(root).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        entries = instance.all_logs(result.run_id)
    counts: Counter[str] = Counter()
    times = {}
    for entry in entries:
        kind = entry.dagster_event.event_type if entry.dagster_event else None
        counts[kind.value if kind else "log line"] += 1
        times[kind] = entry.timestamp
    end = times.get(dg.DagsterEventType.STEP_SUCCESS) or times[dg.DagsterEventType.STEP_FAILURE]
    return {
        "seconds": end - times[dg.DagsterEventType.STEP_START],
        "run_seconds": max(times.values()) - times[dg.DagsterEventType.RUN_START],
        "ok": result.success,
        "events": counts,
        "cpu": _cpu(resource.RUSAGE_SELF),
        "worker_cpu": _cpu(resource.RUSAGE_CHILDREN),
    }


def _cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def results(_root: Path, file: str) -> dict[str, Any]:
    """Write what the last run has recorded to a file, so that `by_hand.py` can record it again.

    The file has the events of the run, and the materializations that it has recorded as no events of its own.
    """
    with dg.DagsterInstance.get() as instance:
        [record] = instance.get_run_records(limit=1)
        events = [
            entry.dagster_event.event_specific_data
            for entry in instance.all_logs(record.dagster_run.run_id)
            if entry.dagster_event and entry.dagster_event.event_type in RESULTS
        ]
        during = dg.EventRecordsFilter(
            dg.DagsterEventType.ASSET_MATERIALIZATION, after_timestamp=record.create_timestamp.timestamp()
        )
        runless = [
            event.asset_materialization
            for event in instance.get_event_records(during, ascending=True)
            if not event.run_id
        ]
    Path(file).write_text(serialize_value([events, runless]))
    return {"results": len(events), "runless": len(runless)}


def instants(_root: Path) -> dict[str, Any]:
    """When the last run was created, began and ended, and its (only) step, in seconds since 1970."""
    with dg.DagsterInstance.get() as instance:
        [record] = instance.get_run_records(limit=1)
        entries = instance.all_logs(record.dagster_run.run_id)
    times = {entry.dagster_event.event_type: entry.timestamp for entry in entries if entry.dagster_event}
    return {
        "created": record.create_timestamp.timestamp(),
        "begun": times[dg.DagsterEventType.RUN_START],
        "step_begun": times[dg.DagsterEventType.STEP_START],
        "step_ended": times[dg.DagsterEventType.STEP_SUCCESS],
    }


def compute(root: Path, what: str, until: str, *assets: str) -> dict[str, Any]:
    """Compute pending intervals up to a day (`end`), or a range again (`restate`, `<start>..<end>`).

    Returns the number of computed models, and `[seconds, rows]` over all of them, as estimated and as recorded.
    """
    config = {"end": until} if what == "end" else {"restate": dict(zip(("start", "end"), until.split("..")))}
    job = definitions(root).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(
            instance=instance,
            run_config={"ops": {"sqlmesh_shop": {"config": config}}},
            asset_selection=[dg.AssetKey.from_user_string(asset) for asset in assets] or None,
        )
        events = [entry.dagster_event for entry in instance.all_logs(result.run_id) if entry.dagster_event]
    costs = [
        event.materialization.metadata
        for event in events
        if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION
    ]
    planned = [event.engine_event_data.metadata for event in events if "Planned restatement" in (event.message or "")]
    return {
        "models": len(costs),
        "estimated": [_value(planned[0], f"estimated_{name}") for name in ("seconds", "rows")] if planned else [],
        "actual": [
            sum(_value(metadata, "seconds") for metadata in costs),
            sum(_value(metadata, "rows") or 0 for metadata in costs),
        ],
    }


def configured(root: Path, config: str, *assets: str) -> dict[str, Any]:
    """Run the assets, or all, with this config of the op (JSON)."""
    job = definitions(root).resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey.from_user_string(asset) for asset in assets] or None
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(
            instance=instance,
            run_config={"ops": {"sqlmesh_shop": {"config": json.loads(config)}}},
            asset_selection=keys,
        )
    return {"ok": result.success}


def snapshot(root: Path) -> dict[str, Any]:
    """The bytes of what a code server tells the web server about its definitions."""
    repository = RepositorySnap.from_def(definitions(root).get_repository_def())
    return {"bytes": len(serialize_value(repository))}


def ticks(root: Path, *others: str) -> dict[str, Any]:
    """Evaluate two ticks of the schedule of each Dagster project in turns, and two of its sensor on sources.

    Definitions are loaded once and each tick has an instance of its own, as in a code server. Returns, by project, what
    each tick of the schedule has cost (`_cost`), what the sensor's second tick has cost, and their last answers.
    """
    repositories = {path.name: definitions(path).get_repository_def() for path in (root, *map(Path, others))}
    measured: dict[str, Any] = {name: {"schedule": [], "sensor": []} for name in repositories}
    for name, repository in [*repositories.items()] * 2:
        [schedule] = repository.schedule_defs
        with dg.DagsterInstance.get() as instance:
            at = datetime.now(timezone.utc)
            context = dg.build_schedule_context(instance, at, repository_def=repository)
            result, cost = _cost(partial(schedule.evaluate_tick, context))
        requested = [len(request.asset_selection or ()) for request in result.run_requests or ()]
        measured[name]["schedule"].append(cost)
        measured[name] |= {"requested": sum(requested), "why": result.skip_message}
    for name, repository in repositories.items():
        for sensor in repository.sensor_defs:
            cursor = None
            for _ in range(2):
                with dg.DagsterInstance.get() as instance:
                    looks = dg.build_sensor_context(instance, cursor, repository_def=repository)
                    answer, cost = _cost(partial(sensor.evaluate_tick, looks))
                cursor = answer.cursor
                measured[name] |= {"sensor": cost, "sensor_why": answer.skip_message}
    return measured


def _cost(action: Callable[[], _T]) -> tuple[_T, tuple[float, float, float]]:
    """Return the result of the action, wall seconds, CPU seconds of this process, and those of its child processes."""
    before, since = os.times(), time.perf_counter()
    result = action()
    wall, after = time.perf_counter() - since, os.times()
    own = after.user + after.system - before.user - before.system
    started = after.children_user + after.children_system - before.children_user - before.children_system
    return result, (wall, own, started)


def _value(metadata: Mapping[str, Any], name: str) -> Any:
    value = metadata.get(f"sqlmesh/{name}")
    return None if value is None else value.value


if __name__ == "__main__":
    measurements: dict[str, Callable[..., dict[str, Any]]] = {
        "load": load,
        "step": step,
        "results": results,
        "instants": instants,
        "compute": compute,
        "ticks": ticks,
        "configured": configured,
        "snapshot": snapshot,
    }
    print(json.dumps(measurements[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])))
