"""Compare dry runs with the run after them, on random projects with seeds, random selections and earlier failures.

python tests/soak/random_predictions.py --projects 100 --seed 1
"""

import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from drawn import try_many
from drawn_projects import AUDIT, random_project
from harness import CONFIG, Shop, planned_shop, raise_flags

SEED = {
    "models/seed.sql": "MODEL (name t.seed, kind SEED (path '../seeds/seed.csv')); ",
    "seeds/seed.csv": "code\nDE\n",
    "models/reads_seed.sql": "MODEL (name t.reads_seed, kind FULL, cron '0 6 * * *'); SELECT code FROM t.seed",
}
DECIDED_BY_DATA = {"failed", "audit_failed", "partly_executed", "blocked"}
OP = "sqlmesh_shop"


def try_random_predictions(rng: random.Random, folder: Path) -> str:
    """Plan a random project, run parts of it with failures, and compare each run with the dry run before it.

    Returns:
        How many predictions were compared, and for how many of them data has decided.

    Raises:
        AssertionError: A prediction was wrong, or a dry run has computed something.
    """
    rng = random.Random(rng.randrange(2**32))  # Hypothesis draws small numbers far too often
    models = random_project(rng)
    files = {f"models/m{number}.sql": model.text for number, model in enumerate(models)}
    files |= {**SEED, "audits/flag_is_off.sql": AUDIT}
    assets = [f"t/{model.name}" for model in models if model.kind != "EMBEDDED"] + ["t/seed", "t/reads_seed"]
    flags = [f"audit_{number}_{audit}" for number in range(len(models)) for audit in range(2)]
    flags += [f"fails_{number}" for number, model in enumerate(models) if model.fails]
    config = CONFIG.replace("6 days ago", "3 weeks ago")
    compared = decided = 0
    with planned_shop(folder, files, config, {"ctl.flags": "SELECT '' AS name LIMIT 0"}) as shop:
        for _ in range(3):
            raise_flags(shop.project, *(flag for flag in flags if rng.random() < 0.2))
            options = {"ignore_cron": rng.random() < 0.3, "end": rng.choice((None, None, "1 day ago"))}
            equal, by_data = _compare(shop, rng.sample(assets, rng.randint(1, len(assets))), options)
            compared, decided = compared + equal + by_data, decided + by_data
    return f"{len(models)} models, {compared} predictions, {decided} decided by data"


def _compare(shop: Shop, selected: list[str], options: dict[str, Any]) -> tuple[int, int]:
    """How many predictions were equal to the outcome, and how many outcomes were decided by data."""
    config = {name: value for name, value in options.items() if value}
    before = shop.state()
    dry_run = shop.launch(assets=selected, ops={OP: {**config, "dry_run": True}}).logged
    assert shop.state() == before, "a dry run has changed the state"
    run = shop.launch(assets=selected, ops={OP: config})
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
    return len(selected) - by_data, by_data


def _rows(metadata: dict[str, Any], table: str) -> list[dg.TableRecord]:
    return list(metadata[table].records) if table in metadata else []


if __name__ == "__main__":
    try_many(__doc__, try_random_predictions)
