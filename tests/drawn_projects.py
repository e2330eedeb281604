"""Random projects whose models and audits fail while a flag is raised."""

import random
from dataclasses import dataclass

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
