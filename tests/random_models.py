"""Random models of many kinds, crons and time zones. Their rows show which action has computed them."""

from __future__ import annotations

import random
from dataclasses import dataclass

CRONS = {"@hourly": "hour", "0 */6 * * *": "hour", "@daily": "day", "0 6 * * *": "day", "@weekly": "day"}
ZONES = ("UTC", "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")
TIMED = "INCREMENTAL_BY_TIME_RANGE (time_column ts{options})"
KINDS = (TIMED, TIMED, TIMED, "FULL", "VIEW", "INCREMENTAL_BY_UNIQUE_KEY (unique_key ts)", "INCREMENTAL_UNMANAGED")
OPTIONS = (
    "",
    ", batch_size 24",
    ", batch_size 30",
    ", lookback 1",
    ", lookback 2, batch_size 50",
    ", lookback 3, batch_size 7",
)


@dataclass(frozen=True)
class RandomModel:
    name: str
    kind: str
    cron: str
    zone: str
    upstream: tuple[RandomModel, ...]

    @property
    def has_time(self) -> bool:
        """Whether each row belongs to an hour or a day."""
        return "ts" in self.kind or self.kind == "INCREMENTAL_UNMANAGED"

    @property
    def is_by_time(self) -> bool:
        return self.kind.startswith("INCREMENTAL_BY_TIME_RANGE")

    @property
    def can_fail(self) -> bool:
        return self.kind not in ("VIEW", "SEED")

    def text(self, change: int) -> str:
        """The text of the model's file. Another `change` makes another version."""
        if self.kind == "SEED":
            return f"MODEL (name t.{self.name}, kind SEED (path '../seeds/{self.name}.csv'))"
        unit = CRONS[self.cron]
        header = f"MODEL (name t.{self.name}, kind {self.kind}, cron '{self.cron}', cron_tz '{self.zone}');\n"
        within = f"WHERE u.ts >= g.ts AND u.ts < g.ts + INTERVAL 1 {unit}"
        counts = " + ".join(
            f"(SELECT count(*) FROM t.{model.name} AS u {within if self.has_time and model.has_time else ''})"
            for model in self.upstream
        )
        of_day = "AND day BETWEEN @start_ds::DATE AND @end_ds::DATE" if self.has_time else ""
        is_broken = f"EXISTS (SELECT 1 FROM ctl.broken WHERE name = '{self.name}' {of_day})"
        action = f"CASE WHEN {is_broken} THEN error('broken')::INT ELSE (SELECT max(n) FROM ctl.action) END"
        times = f" FROM range(@start_dt::TIMESTAMP, @end_dt::TIMESTAMP, INTERVAL 1 {unit}) AS g(ts)"
        columns = f"{action if self.can_fail else 0} AS n, {counts or 0} AS upstream, {change} AS change"
        return f"{header}SELECT {'g.ts, ' if self.has_time else ''}{columns}{times if self.has_time else ''}"


def random_models(rng: random.Random) -> list[RandomModel]:
    """Return random models. Each reads only models before it in the list."""
    models: list[RandomModel] = []
    for number in range(rng.randint(3, 6)):
        upstream = tuple(rng.sample(models, min(len(models), rng.choice((0, 1, 1, 2)))))
        kind = rng.choice(KINDS) if upstream else rng.choice((TIMED, TIMED, TIMED, "SEED", "FULL"))
        kind = kind.format(options=rng.choice(OPTIONS))
        models.append(RandomModel(f"m{number}", kind, rng.choice(list(CRONS)), rng.choice(ZONES), upstream))
    return models
