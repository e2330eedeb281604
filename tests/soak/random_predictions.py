"""Compare dry runs with the run after them, and the records of that run with the state.

python tests/soak/random_predictions.py --stories 100 --seed 1

Names, dependencies, kinds, tags, audits and crons of the models are random. Models and audits fail while a flag is
raised. A run of some models, or of all, has the outcomes of the dry run before it, unless data decides. Each model
whose intervals have grown is materialized, and no other one. The run is red exactly if an outcome is. After the last
run, without a flag, nothing is computed that it had computed.
"""

import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from databases import Servers
from harness import CONFIG, EXECUTORS, RunRecord, Shop, planned_shop, raise_flags
from stories import Told, tell

NAMES = ("orders", "Orders2", "an item", "an-item", "select", "läden", "a.b", "O'Neill", "_x", "x__y", "日本", "T1")
TAGS = ("finance", "dagster:group_name:marts", "dagster:kind:table", "dagster:tag:layer=gold", "a b c", "pii:yes", "ü")
CRONS = ("@daily", "@daily", "@daily", "@weekly", "0 6 * * *", "@hourly")
KINDS = (
    "FULL",
    "FULL",
    "VIEW",
    "INCREMENTAL_BY_TIME_RANGE (time_column day)",
    "INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1)",
    "INCREMENTAL_BY_UNIQUE_KEY (unique_key day)",
    "INCREMENTAL_UNMANAGED",
    "EMBEDDED",
)
FLAG = "(SELECT count(*) FROM ctl.flags WHERE name = '{flag}')"


@dataclass(frozen=True)
class RandomModel:
    """The properties of a model that determine its expected outcome."""

    name: str
    kind: str
    fails: bool
    text: str


def random_project(rng: random.Random) -> list[RandomModel]:
    """Return random models. Each reads only models before it in the list."""
    models: list[RandomModel] = []
    for number, name in enumerate(rng.sample(NAMES, rng.randint(3, 9))):
        models.append(_random_model(rng, number, name, models))
    return models


def _random_model(rng: random.Random, number: int, name: str, before: list[RandomModel]) -> RandomModel:
    kind, flag = rng.choice(KINDS), f"fails_{number}"
    fails = kind not in ("EMBEDDED", "VIEW") and rng.random() < 0.2
    quoted = f'"t"."{name}"'
    parents = rng.sample(before, min(len(before), rng.randint(0, 2)))
    audits = []
    if kind != "EMBEDDED":
        for audit in range(rng.randint(0, 2)):
            blocking = rng.random() < 0.5
            audits.append(f"flag_is_off(flag := 'audit_{number}_{audit}', blocking := {str(blocking).lower()})")
    tags = ", ".join(f"'{tag}'" for tag in rng.sample(TAGS, rng.randint(0, 3)))
    properties = [
        f"name {quoted}",
        f"kind {kind}",
        f"cron '{rng.choice(CRONS)}'",
        *([f"tags ({tags})"] if tags else []),
        *([f"audits ({', '.join(audits)})"] if audits else []),
    ]
    joins = "".join(f' CROSS JOIN (SELECT count(*) AS c{i} FROM "t"."{p.name}")' for i, p in enumerate(parents))
    failure = f"CASE WHEN {FLAG.format(flag=flag)} > 0 THEN error('boom') ELSE '' END" if fails else "''"
    day = "@start_ds::date" if "INCREMENTAL" in kind else "current_date"
    text = f"MODEL ({', '.join(properties)}); SELECT {day} AS day, {failure} AS never FROM (SELECT 1 AS one){joins}"
    return RandomModel(name.lower(), kind, fails, text)  # DuckDB ignores upper and lower case


AUDIT = "AUDIT (name flag_is_off, defaults (flag = '')); SELECT 1 FROM ctl.flags WHERE name = @flag"
SEED = {
    "models/seed.sql": "MODEL (name t.seed, kind SEED (path '../seeds/seed.csv')); ",
    "seeds/seed.csv": "code\nDE\n",
    "models/reads_seed.sql": "MODEL (name t.reads_seed, kind FULL, cron '0 6 * * *'); SELECT code FROM t.seed",
}
DECIDED_BY_DATA = {"failed", "audit_failed", "partly_executed", "blocked"}
OP = "sqlmesh_shop"


def try_story(seed: int, engine: str, folder: Path, servers: Servers) -> Told:
    """Plan a random project, run parts of it with failures, then all of it, and at last all without a failure.

    Raises:
        AssertionError: A prediction or a record was wrong, or a dry run has computed something.
    """
    rng = random.Random(seed)
    models = random_project(rng)
    files = {f"models/m{number}.sql": model.text for number, model in enumerate(models)}
    files |= {**SEED, "audits/flag_is_off.sql": AUDIT}
    assets = [f"t/{model.name}" for model in models if model.kind != "EMBEDDED"] + ["t/seed", "t/reads_seed"]
    flags = [f"audit_{number}_{audit}" for number in range(len(models)) for audit in range(2)]
    flags += [f"fails_{number}" for number, model in enumerate(models) if model.fails]
    # Three weeks, because SQLMesh's plan fails if a model reads a weekly model without a complete week.
    config, told = CONFIG.replace("6 days ago", "3 weeks ago"), Told()
    with planned_shop(folder, files, config, {"ctl.flags": "SELECT '' AS name LIMIT 0"}) as shop:
        for selected in (*(rng.sample(assets, rng.randint(1, len(assets))) for _ in range(3)), assets):
            raise_flags(shop.project, *(flag for flag in flags if rng.random() < 0.2))
            options = {"ignore_cron": rng.random() < 0.3, "end": rng.choice((None, None, "1 day ago"))}
            before = shop.state()["intervals"]
            run, equal, by_data = _compare(shop, selected, options, rng.choice(EXECUTORS))
            told.counts.update({"predictions": equal + by_data, "decided by data": by_data})
            told.counts.update(_check_records(shop, run, selected, before))
        raise_flags(shop.project)
        end = shop.launch().succeeded()
        assert not end.materializations.keys() & run.materializations.keys(), "computed twice"
    return told


def _check_records(shop: Shop, run: RunRecord, selected: list[str], before: dict[str, int]) -> list[str]:
    """Compare what Dagster has recorded with the state. Return the outcomes."""
    after = shop.state()["intervals"]
    assets = {"t/" + fqn.split('"')[-2]: fqn for fqn in after}
    grown = {asset for asset, fqn in assets.items() if after[fqn] > before.get(fqn, 0)} & {*selected}
    materialized, observed = {*run.materializations}, {*run.observations, *run.computed_outside}
    statuses = {asset: run.status_of(asset) for asset in selected}
    partly = {asset for asset, status in statuses.items() if status == "partly_executed"}
    assert materialized | partly == grown, (materialized, partly, grown, statuses)
    assert materialized | observed == {*selected}, (materialized, observed, selected)
    assert not materialized & observed
    is_red = bool({*statuses.values()} - {"executed", "up_to_date", "waiting"})
    assert (run.status == dg.DagsterRunStatus.FAILURE) is is_red, (statuses, run.failures)
    return [f"outcome {status}" for status in statuses.values()]


def _compare(shop: Shop, selected: list[str], options: dict[str, Any], executor: str) -> tuple[RunRecord, int, int]:
    """Run, and count the predictions that were equal to the outcome, and those that were decided by data."""
    config = {name: value for name, value in options.items() if value}
    before = shop.state()
    dry_run = shop.launch(assets=selected, ops={OP: {**config, "dry_run": True}}).logged
    assert shop.state() == before, "a dry run has changed the state"
    run = shop.launch(executor, assets=selected, ops={OP: config})
    found = run.logged
    outcomes = {
        row.data["model"]: str(row.data["outcome"]).replace(" ", "_") for row in _rows(found, "sqlmesh/not_executed")
    }
    outcomes |= {row.data["model"]: "executed" for row in _rows(found, "sqlmesh/slowest")}
    predictions = {row["model"]: row for row in dry_run["sqlmesh/dry_run_json"]}
    assert predictions.keys() == outcomes.keys()
    by_data = 0
    for model, prediction in predictions.items():
        outcome, case = outcomes[model], (prediction, outcomes[model], config, selected)
        if outcome in DECIDED_BY_DATA or prediction["outcome"] == "blocked":
            by_data += 1
            assert prediction["outcome"] in ("executed", "blocked"), case
            continue
        assert prediction["outcome"] == outcome, case
        if outcome == "executed":
            asset = model.replace('"', "").lower().replace(".", "/", 1)
            computed = run.materializations[asset].metadata
            assert prediction["intervals"] == computed["sqlmesh/intervals"].value, case
            assert prediction["batches"] == (
                computed["sqlmesh/batches"].value if "sqlmesh/batches" in computed else 1
            ), case
    return run, len(selected) - by_data, by_data


def _rows(metadata: dict[str, Any], table: str) -> list[dg.TableRecord]:
    return list(metadata[table].records) if table in metadata else []


if __name__ == "__main__":
    tell(__doc__, try_story)
