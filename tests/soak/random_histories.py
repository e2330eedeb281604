"""Tell random histories of the small world of `model.world` on real SQLMesh and Dagster, and compare all rows.

    python tests/soak/random_histories.py --stories 100 --seed 1

After each action, each table, view, interval and outcome must be as in the model. If they differ, the model is wrong,
or a rule. An hour of the model is a day here. Runs are also cancelled and killed between two batches, or between a
batch's rows and its record. No model is daily, has a slower cron or keeps its history.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from random import Random
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from harness import CONFIG, RunRecord, Shop, planned_shop
from model import outcomes
from model.histories import PROJECTS, actions_of
from model.world import HOURS, SOURCE, Action, Load, Model, Project, Run, Signal, Stop, Story, World, planned
from stories import Told, tell
from waiting import DAILY, LOADER, OP, day

from dg_sqlmesh_component.report.outcomes import NodeOutcome

LENGTH, DAY = 6, 86_400_000
CANCELLED, BEFORE_ROWS, AFTER_ROWS = get_args(Stop)
KINDS = {
    "incremental": "INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1{lookback})",
    "by_key": "INCREMENTAL_BY_UNIQUE_KEY (unique_key day, batch_size 1)",
    "whole": "FULL",
    "view": "VIEW",
}
AUDIT = "AUDIT (name no_bad_rows); SELECT * FROM @this_model WHERE bad"
SIGNAL = """
from pathlib import Path

from sqlmesh import signal
from sqlmesh.utils.date import to_ds


@signal()
def is_open(batch):
    closed = Path("closed").read_text().split()
    return [interval for interval in batch if to_ds(interval[0]) not in closed]
"""
STOP = f"""
import os
import signal
from pathlib import Path

from sqlglot import exp
from sqlmesh import macro

HOW = {{"evaluating": ["{BEFORE_ROWS}"], "auditing": ["{CANCELLED}", "{AFTER_ROWS}"]}}


@macro()
def stop(evaluator, model=None, date=None):
    stage, begun = evaluator.runtime_stage, Path("begun")
    if stage == "evaluating":
        begun.write_text(f"{{model.name}} {{date.name}}")
    order = Path("stop").read_text() if Path("stop").exists() else ""
    if order in [f"{{how}} {{begun.read_text()}}" for how in HOW.get(stage, ())]:
        os.kill(os.getpid(), signal.SIGTERM if order.startswith("cancelled") else signal.SIGKILL)
    return exp.false() if stage == "auditing" else None
"""
"""A macro that stops SQLMesh's process at the batch that the file `stop` names."""
STOP_AUDIT = "AUDIT (name stop, blocking false); SELECT * FROM @this_model WHERE @stop()"
"""An audit that never fails. It is evaluated after a batch's rows are committed."""


def is_possible(model: Model) -> bool:
    return model.kind in KINDS and model.cron == 1 and not model.is_daily


POSSIBLE = {name: project for name, project in PROJECTS.items() if all(map(is_possible, project))}


def day_of(hour: int) -> str:
    return day(len(HOURS) - hour)


def text_of(model: Model) -> str:
    """Return the file of a model."""
    audits = f"audits (stop{', no_bad_rows' if model.is_audited else ''})"
    signals = ", signals (is_open())" if model.has_signal else ""
    tables = [f"raw.{SOURCE}" if name == SOURCE else f"t.{name}" for name in model.reads]
    columns = "day, load, bad" if len(tables) == 1 else "day, LEAST(a.load, b.load) AS load, a.bad OR b.bad AS bad"
    read = tables[0] if len(tables) == 1 else f"{tables[0]} AS a JOIN {tables[1]} AS b USING (day)"
    within = " WHERE day BETWEEN @start_ds AND @end_ds" if model.is_by_interval else ""
    kind = KINDS[model.kind].format(lookback=f", lookback {model.lookback}" if model.lookback else "")
    head = f"MODEL (name t.{model.name}, kind {kind}, start '{day_of(0)}', {audits}{signals}); "
    statement = f"@stop('{model.name}', @start_ds); "
    return f"{head}{statement}SELECT {columns} FROM {read}{within}"


def try_story(seed: int, engine: str, folder: Path, _: object) -> Told:
    """Tell a random history."""
    rng, told = Random(seed), Told()
    name = rng.choice(sorted(POSSIBLE))
    project = POSSIBLE[name]
    files = {f"models/{model.name}.sql": text_of(model) for model in project}
    files |= {"audits/bad.sql": AUDIT, "audits/stop.sql": STOP_AUDIT, "macros/stop.py": STOP, "closed": ""}
    files |= {"signals/ready.py": SIGNAL} if any(model.has_signal for model in project) else {}
    empty = {f"raw.{SOURCE}": "SELECT CURRENT_DATE AS day, 1 AS load, FALSE AS bad LIMIT 0"}
    external = {"keys": {f"raw.{SOURCE}": "load/orders"}, "wait": True}
    told.log.append(f"project: {name}")
    with planned_shop(folder, files, CONFIG, tables=empty) as shop, told.to_its_end():
        shop.configure(restate=True, external_models=external)
        arguments = ", partitions_def=days"
        shop.add_module("loader", LOADER.format(partitions=DAILY.format(start=day_of(0)), arguments=arguments))
        world = planned(project)
        for _number in range(LENGTH):
            action = _drawn(project, world, rng)
            told.log.append(str(action))
            story = Story(project, world)
            world = story.after(action)
            record = _do(shop, action, story, world)
            told.counts[_kind_of(action)] += 1
            others = _other_outcomes(record, story, action) if record and isinstance(action, Run) else []
            for difference in [*_differences(shop, project, world), *others]:
                told.fault("differs from the model", difference)
            if told.faults:
                break
    return told


def _drawn(project: Project, world: World, rng: Random) -> Action:
    """Return what happens next: a load, a signal, a run, or a run that is stopped."""
    actions = list(actions_of(project, world))
    inputs = [action for action in actions if isinstance(action, Load | Signal)]
    runs = [action for action in actions if isinstance(action, Run) and not action.stops]
    stopped = [action for action in actions if isinstance(action, Run) and _can_stop(project, action)]
    draw = rng.random()
    likely: Sequence[Action] = inputs if draw < 0.4 else stopped if draw < 0.55 else runs
    return rng.choice(likely or runs)


def _can_stop(project: Project, run: Run) -> bool:
    """Whether the run is stopped here as in the model: of independent models, SQLMesh may compute the other one first.

    A cancelled run ends before it has planned a batch, or after a batch.
    """
    is_certain = sum(model.reads == (SOURCE,) for model in project) == 1
    return run.stops is not None and is_certain and (run.batches > 0 or run.stops != CANCELLED)


def _kind_of(action: Action) -> str:
    if isinstance(action, Run):
        return action.stops or ("restatements" if action.restates else "runs")
    return "loads" if isinstance(action, Load) else "signals"


def _other_outcomes(record: RunRecord, story: Story, run: Run) -> list[str]:
    """Return the outcomes that differ from those in the model."""
    reported = outcomes.reported(story, run)[0]
    expected = {of.fqn: of.outcome.value for of in reported if isinstance(of, NodeOutcome)}
    found = {name: record.status_of(f"t/{name}") for name in expected}
    return [] if found == expected else [f"outcomes {found}, in the model {expected}"]


def _do(shop: Shop, action: Action, story: Story, world: World) -> RunRecord | None:
    """Do the action, of which the model makes a story and a world. Return the record of a run."""
    (shop.project / "closed").write_text(" ".join(map(day_of, sorted(world.closed))))
    if isinstance(action, Load):
        date = day_of(action.hour)
        shop.query(f"DELETE FROM raw.{SOURCE} WHERE day = '{date}'")
        shop.query(f"INSERT INTO raw.{SOURCE} VALUES ('{date}', {world.loads[action.hour]}, {action.is_bad})")
        shop.instance.report_runless_asset_event(dg.AssetMaterialization(["load", "orders"], partition=date))
    if not isinstance(action, Run):
        return None
    date = day_of(action.start)
    config = {"restate": {"start": date, "end": date}} if action.restates else {"start": date} if action.start else {}
    if action.stops:
        assert story.executed is not None, "it has run"
        last = story.executed.ended[-1]
        (shop.project / "stop").write_text(f"{action.stops} {last.model} {day_of(last.interval[0])}")
    record = shop.launch(assets=[f"t/{name}" for name in action.models], ops={OP: config})
    (shop.project / "stop").unlink(missing_ok=True)
    return record


def _differences(shop: Shop, project: Project, world: World) -> list[str]:
    """Return in which models prod and SQLMesh's state differ from the model of the world."""
    story, ranges, found = Story(project, world), shop.state()["ranges"], []
    for model in project:
        expected = {day_of(hour): row.load for hour, row in zip(HOURS, story.shown(model.name), strict=True) if row}
        shown = {str(date)[:10]: load for date, load in shop.query(f"SELECT day, load FROM t.{model.name}")}
        if shown != expected:
            found.append(f"{model.name} shows {shown}, in the model {expected}")
        computed = {day_of(hour) for hour in story.tables[model.name].computed}
        recorded = _days(ranges[f'"warehouse"."t"."{model.name}"'])
        if recorded != computed:
            found.append(f"{model.name} has computed {sorted(recorded)}, in the model {sorted(computed)}")
    return found


def _days(ranges: Iterable[tuple[int, int]]) -> set[str]:
    starts = (start for first, last in ranges for start in range(first, last, DAY))
    return {str(datetime.fromtimestamp(start / 1000, timezone.utc).date()) for start in starts}


if __name__ == "__main__":
    tell(__doc__, try_story)
