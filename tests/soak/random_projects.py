"""Run random projects with random failures, and check that Dagster records what happened.

Names, dependencies, kinds, tags, audits and crons of the models are random.

python tests/soak/random_projects.py --projects 30 --seed 1
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from drawn import try_many
from harness import CONFIG, planned_shop, raise_flags

NAMES = (
    "orders",
    "Orders2",
    "order items",
    "order-items",
    "select",
    "läden",
    "a.b",
    "O'Neill",
    "_x",
    "x__y",
    "日本",
    "T1",
)
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


def try_random_project(rng: random.Random, folder: Path) -> str:
    """Plan a random project, make random models and audits fail, run it, and compare records with the state.

    Returns:
        A short description of the project and its outcomes.

    Raises:
        AssertionError: Dagster has recorded something other than what happened.
    """
    models = random_project(rng)
    files = {f"models/m{number}.sql": model.text for number, model in enumerate(models)}
    # Three weeks, because SQLMesh's plan fails if a model reads a weekly model without a complete week.
    config = CONFIG.replace("6 days ago", "3 weeks ago")
    files["audits/flag_is_off.sql"] = AUDIT
    audits = [f"audit_{number}_{audit}" for number in range(len(models)) for audit in range(2)]
    failing = [f"fails_{number}" for number, model in enumerate(models) if model.fails]
    with planned_shop(folder, files, config, {"ctl.flags": "SELECT '' AS name LIMIT 0"}) as shop:
        raise_flags(shop.project, *(flag for flag in [*audits, *failing] if rng.random() < 0.3))
        before = shop.state()["intervals"]
        record = shop.launch(rng.choice(("in_process", "multiprocess")))
        after = shop.state()["intervals"]
        assets = {model.name for model in models if model.kind != "EMBEDDED"}
        grown = {fqn.split('"')[-2] for fqn in after if after[fqn] > before.get(fqn, 0)} & assets
        materialized = {key.split("/", 1)[1] for key in record.materializations}
        observed = {key.split("/", 1)[1] for key in {**record.observations, **record.computed_outside}}
        statuses = {name: record.status_of(f"t/{name}") for name in assets}
        partly = {name for name, status in statuses.items() if status == "partly_executed"}
        assert materialized | partly == grown, (materialized, partly, grown, statuses)
        assert materialized | observed == assets, (materialized, observed, assets)
        assert not materialized & observed
        is_red = bool(set(statuses.values()) - {"executed", "up_to_date", "waiting"})
        assert (record.status == dg.DagsterRunStatus.FAILURE) is is_red, (statuses, record.failures)
        raise_flags(shop.project)
        second_run = shop.launch()
        assert second_run.status == dg.DagsterRunStatus.SUCCESS, second_run.failures
        assert not {key.split("/", 1)[1] for key in second_run.materializations} & materialized
    return f"{len(models)} models, {sorted(map(str, set(statuses.values())))}"


if __name__ == "__main__":
    try_many(__doc__, try_random_project)
