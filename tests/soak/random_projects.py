"""Run random projects with random failures, and check that Dagster records what happened.

Names, dependencies, kinds, tags, audits and crons of the models are random.

python tests/soak/random_projects.py --projects 30 --seed 1
"""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from drawn import try_many
from drawn_projects import AUDIT, random_project
from harness import CONFIG, planned_shop, raise_flags


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
        second_run = shop.launch().succeeded()
        assert not {key.split("/", 1)[1] for key in second_run.materializations} & materialized
    return f"{len(models)} models, {sorted(map(str, set(statuses.values())))}"


if __name__ == "__main__":
    try_many(__doc__, try_random_project)
