"""Tell random histories of the small world of `model.world` on real SQLMesh and Dagster, and compare all rows.

    python tests/soak/random_histories.py --stories 100 --seed 1

After each action, each table, view and interval must be as in the model. If they differ, the model is wrong, or a rule.
An hour of the model is a day here. Nothing is killed: `killed_processes.py` kills. No model is daily, has a
signal, a slower cron or keeps its history.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from harness import CONFIG, Shop, planned_shop
from model.histories import PROJECTS, actions_of
from model.world import HOURS, SOURCE, Load, Model, Project, Run, Story, World, planned
from stories import Told, tell
from waiting import DAILY, LOADER, OP, day

LENGTH, DAY = 6, 86_400_000
KINDS = {
    "incremental": "INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1{lookback})",
    "by_key": "INCREMENTAL_BY_UNIQUE_KEY (unique_key day, batch_size 1)",
    "whole": "FULL",
    "view": "VIEW",
}
AUDIT = "AUDIT (name no_bad_rows); SELECT * FROM @this_model WHERE bad"


def is_possible(model: Model) -> bool:
    return model.kind in KINDS and model.cron == 1 and not (model.is_daily or model.has_signal)


POSSIBLE = {name: project for name, project in PROJECTS.items() if all(map(is_possible, project))}


def day_of(hour: int) -> str:
    return day(len(HOURS) - hour)


def text_of(model: Model) -> str:
    """Return the file of a model."""
    audits = ", audits (no_bad_rows)" if model.is_audited else ""
    tables = [f"raw.{SOURCE}" if name == SOURCE else f"t.{name}" for name in model.reads]
    columns = "day, load, bad" if len(tables) == 1 else "day, LEAST(a.load, b.load) AS load, a.bad OR b.bad AS bad"
    read = tables[0] if len(tables) == 1 else f"{tables[0]} AS a JOIN {tables[1]} AS b USING (day)"
    within = " WHERE day BETWEEN @start_ds AND @end_ds" if model.is_by_interval else ""
    kind = KINDS[model.kind].format(lookback=f", lookback {model.lookback}" if model.lookback else "")
    head = f"MODEL (name t.{model.name}, kind {kind}, start '{day_of(0)}'{audits}); "
    return f"{head}SELECT {columns} FROM {read}{within}"


def try_story(seed: int, engine: str, folder: Path, _: object) -> Told:
    """Tell a random history."""
    rng, told = Random(seed), Told()
    name = rng.choice(sorted(POSSIBLE))
    project = POSSIBLE[name]
    files = {f"models/{model.name}.sql": text_of(model) for model in project}
    empty = {f"raw.{SOURCE}": "SELECT CURRENT_DATE AS day, 1 AS load, FALSE AS bad LIMIT 0"}
    external = {"keys": {f"raw.{SOURCE}": "load/orders"}, "wait": True}
    told.log.append(f"project: {name}")
    with planned_shop(folder, {**files, "audits/bad.sql": AUDIT}, CONFIG, tables=empty) as shop, told.to_its_end():
        shop.configure(restate=True, external_models=external)
        arguments = ", partitions_def=days"
        shop.add_module("loader", LOADER.format(partitions=DAILY.format(start=day_of(0)), arguments=arguments))
        world = planned(project)
        for _number in range(LENGTH):
            actions = list(actions_of(project, world))
            loads = [action for action in actions if isinstance(action, Load)]
            runs = [action for action in actions if isinstance(action, Run) and action.killed_after is None]
            likely: Sequence[Load | Run] = loads if loads and rng.random() < 0.4 else runs
            action = rng.choice(likely)
            told.log.append(str(action))
            world = Story(project, world).after(action)
            _do(shop, action, world)
            told.counts["runs" if isinstance(action, Run) else "loads"] += 1
            for difference in _differences(shop, project, world):
                told.fault("differs from the model", difference)
            if told.faults:
                break
    return told


def _do(shop: Shop, action: Load | Run, world: World) -> None:
    """Do the action, after which the model's world is `world`."""
    if isinstance(action, Load):
        date = day_of(action.hour)
        shop.query(f"DELETE FROM raw.{SOURCE} WHERE day = '{date}'")
        shop.query(f"INSERT INTO raw.{SOURCE} VALUES ('{date}', {world.loads[action.hour]}, {action.is_bad})")
        shop.instance.report_runless_asset_event(dg.AssetMaterialization(["load", "orders"], partition=date))
        return
    date = day_of(action.start)
    config = {"restate": {"start": date, "end": date}} if action.restates else {"start": date} if action.start else {}
    shop.launch(assets=[f"t/{name}" for name in action.models], ops={OP: config})


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
