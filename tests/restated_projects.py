"""Draw the stories of tests/soak/random_restatements.py: projects whose rows plain Python can compute, and actions.

Each model has the columns `day`, `k` and `v`, and reads one table. A root reads a source table with `ts`, `k` and `v`.
The batches of a model can be disturbed from outside:

- Two rows of a model and a day in `ctl.causes` are an error in its query. A row for `audit <model>` fails its audit.
- The file `closed_<model>` has the days on which its signal is closed.
- While the file `gate` exists, the batch that it names waits. It creates the file `reached` first.
"""

import random
from dataclasses import dataclass
from pathlib import Path

HOURS = 24
LONGEST_LOOKBACK = 2
ROOTS = ("days", "hours")
BY_TIME = ("days", "hours", "copy", "sums", "balance")
WHOLE = ("keyed", "full", "view")

Rows = dict[str, list[tuple[int, int]]]
"""The keys and values of each day. Each day of the history is there, even without rows."""


@dataclass(frozen=True)
class Model:
    """A model of one of the kinds in BY_TIME and WHOLE. A `balance` reads itself.

    Attributes:
        reads: The table that it reads.
        auto: How many days its `auto_restatement_cron` restates.
    """

    name: str
    kind: str
    reads: str
    batch_size: int = 0
    lookback: int = 0
    is_audited: bool = False
    has_signal: bool = False
    is_awaited: bool = False
    auto: int = 0

    @property
    def can_fail(self) -> bool:
        return self.kind != "view"  # its query runs when it is read

    @property
    def has_intervals_check(self) -> bool:
        return self.kind not in ("full", "view")  # docs/intervals.md

    def rows(self, read: Rows) -> Rows:
        """Compute the rows of each day from those of the table that it reads."""
        sums = {day: sum(v for _, v in rows) for day, rows in read.items()}
        if self.kind == "copy":
            return {day: [(k, v + 1) for k, v in rows] for day, rows in read.items()}
        if self.kind in ("sums", "full"):
            return {day: [(0, sums[day])] if rows else [] for day, rows in read.items()}
        if self.kind == "balance":
            return {day: [(0, sum(v for other, v in sums.items() if other <= day))] for day in read}
        return read

    def query(self) -> str:
        day = "CAST(u.ts AS DATE)" if self.kind in ROOTS else "u.day"
        start, end = "CAST(@start_ds AS DATE)", "CAST(@end_ds AS DATE)"
        source, between = f"FROM {self.reads} AS u", f"WHERE {day} BETWEEN {start} AND {end}"
        rows = f"{day} AS day, CAST(u.k AS INT) AS k, CAST(u.v + {self.failure(day)} AS BIGINT) AS v {source}"
        sums = f"t.day, 0 AS k, CAST(t.v + {self.failure('t.day')} AS BIGINT) AS v FROM (SELECT u.day, SUM(u.v) AS v"
        last = f"SELECT b.v FROM s.{self.name} AS b WHERE b.day = {start} - INTERVAL 1 DAY"
        today = f"COALESCE((SELECT SUM(u.v) {source} WHERE u.day = {start}), 0) + {self.failure(start)}"
        hours = "WHERE u.ts BETWEEN CAST(@start_ts AS TIMESTAMP) AND CAST(@end_ts AS TIMESTAMP)"
        return {
            "days": f"SELECT {rows} {between}",
            "hours": f"SELECT CAST(u.ts AS TIMESTAMP) AS ts, {rows} {hours}",
            "copy": f"SELECT {rows.replace('u.v +', 'u.v + 1 +')} {between}",
            "sums": f"SELECT {sums} {source} {between} GROUP BY u.day) AS t",
            "balance": f"SELECT {start} AS day, 0 AS k, CAST(COALESCE(({last}), 0) + {today} AS BIGINT) AS v",
            "keyed": f"SELECT {rows} {between}",
            "full": f"SELECT {sums} {source} GROUP BY u.day) AS t",
            "view": f"SELECT {rows}",
        }[self.kind]

    def failure(self, day: str) -> str:
        """An expression that is 0, and an error if `ctl.causes` has two rows of the day."""
        if not self.can_fail:
            return "0"
        return f"COALESCE((SELECT c.extra FROM ctl.causes AS c WHERE c.name = '{self.name}' AND c.day = {day}), 0)"

    def file(self) -> str:
        """Return the text of its file."""
        # SQLMesh restates so many intervals before now: of an hourly model, also those of today.
        column, intervals = ("ts", (self.auto + 1) * HOURS) if self.kind == "hours" else ("day", self.auto)
        batch_size = f", batch_size {self.batch_size}" if self.batch_size else ""
        by_time = f"INCREMENTAL_BY_TIME_RANGE (time_column {column}{batch_size}"
        if self.lookback:
            by_time += f", lookback {self.lookback}"
        if self.auto:
            by_time += f", auto_restatement_cron '@daily', auto_restatement_intervals {intervals}"
        whole = {
            "keyed": f"INCREMENTAL_BY_UNIQUE_KEY (unique_key (day, k){batch_size})",
            "full": "FULL",
            "view": "VIEW",
        }
        header = f"name s.{self.name}, kind {whole.get(self.kind, by_time + ')')}, dialect duckdb"
        header += ", interval_unit hour" if self.kind == "hours" else ""
        header += f", audits (bad_{self.name})" if self.is_audited else ""
        header += f", signals (opened(model := '{self.name}'))" if self.has_signal else ""
        if not self.can_fail:
            return f"MODEL ({header});\n{self.query()}"
        before, after = (f"@gate('{self.name}', '{moment}')" for moment in ("before", "after"))
        return f"MODEL ({header});\n{before};\n{self.query()};\n{after}"


AUDIT = """
AUDIT (name bad_{name}, dialect duckdb);
SELECT * FROM @this_model AS m WHERE m.day IN (SELECT c.day FROM ctl.causes AS c WHERE c.name = 'audit {name}')
"""

MACROS = """
import json
import time
from pathlib import Path

from sqlmesh import macro


@macro()
def gate(evaluator, model: str, moment: str):
    order = Path("{folder}") / "gate"
    if evaluator.runtime_stage != "evaluating" or not order.exists():
        return None
    chosen = json.loads(order.read_text())
    days = (str(evaluator.locals["start_ds"]), str(evaluator.locals["end_ds"]))
    if [model, moment] == chosen["at"] and (not chosen["day"] or days[0] <= chosen["day"] <= days[1]):
        (Path("{folder}") / "reached").touch()
        while order.exists():
            time.sleep(0.02)
    return None
"""

SIGNALS = """
from pathlib import Path

from sqlmesh import signal


@signal()
def opened(batch, model: str):
    closed = Path("{folder}") / f"closed_{{model}}"
    days = closed.read_text().split() if closed.exists() else []
    return [interval for interval in batch if str(interval[0].date()) not in days]
"""


@dataclass(frozen=True)
class Project:
    """Models, in an order in which each one reads only earlier ones."""

    models: dict[str, Model]

    @property
    def roots(self) -> list[Model]:
        return [model for model in self.models.values() if model.kind in ROOTS]

    def downstream(self, names: set[str]) -> set[str]:
        """Return these models and all downstream of them."""
        for model in self.models.values():
            if model.reads.removeprefix("s.") in names:
                names = names | {model.name}
        return names

    def twin(self, sources: dict[str, Rows]) -> dict[str, Rows]:
        """Compute the rows of all models from those of the sources. Days without rows are left out."""
        tables = {f"src.{name}": rows for name, rows in sources.items()}
        for model in self.models.values():
            tables[f"s.{model.name}"] = model.rows(tables[model.reads])
        return {name: sorted_rows(tables[f"s.{name}"]) for name in self.models}

    def files(self, folder: Path) -> dict[str, str]:
        """Return the files of the project in this folder."""
        files = {"macros/__init__.py": "", "macros/gates.py": MACROS.format(folder=folder)}
        files["signals/__init__.py"] = SIGNALS.format(folder=folder)
        for model in self.models.values():
            files[f"models/{model.name}.sql"] = model.file()
            if model.is_audited:
                files[f"audits/bad_{model.name}.sql"] = AUDIT.format(name=model.name)
        return files


def sorted_rows(rows: Rows) -> Rows:
    return {day: sorted(values) for day, values in rows.items() if values}


def draw_project(rng: random.Random, has_crons: bool) -> Project:
    """Draw one or two roots, and others downstream of them.

    Args:
        has_crons: Whether roots may have an `auto_restatement_cron`.
    """
    models: dict[str, Model] = {}
    for kind in rng.sample(ROOTS, rng.choice((1, 1, 2))):
        models[kind] = _draw_model(rng, kind, kind, f"src.{kind}", has_crons)
    for number in range(rng.randint(2, 4)):
        reads = rng.choice([model for model in models.values() if model.kind != "view"])
        kind = rng.choice(WHOLE if reads.kind == "balance" else ("copy", "copy", "sums", "balance", *WHOLE))
        models[f"{kind}_{number}"] = _draw_model(rng, f"{kind}_{number}", kind, f"s.{reads.name}", False)
    return Project(models)


def _draw_model(rng: random.Random, name: str, kind: str, reads: str, has_crons: bool) -> Model:
    batch_size = {"balance": 1, "full": 0, "view": 0}.get(kind, rng.choice((0, 1, 1, 2)))
    return Model(
        name,
        kind,
        reads,
        batch_size=batch_size * (HOURS if kind == "hours" else 1),
        lookback=rng.choice((0, 0, 0, LONGEST_LOOKBACK)) if kind in BY_TIME and kind != "balance" else 0,
        is_audited=kind != "view" and rng.random() < 0.35,
        has_signal=kind in BY_TIME and rng.random() < 0.25,
        is_awaited=kind in ROOTS and rng.random() < 0.3,
        auto=rng.choice((0, 0, 2, 3)) if has_crons else 0,
    )


# -- actions ---------------------------------------------------------------------------------------

WHILE_COMPUTING = ("kill worker", "kill run", "kill both", "cancel", "overlap")
TROUBLES = ("none", *["error"] * 4, "audit", "audit", "signal", "cancel", *WHILE_COMPUTING)


@dataclass(frozen=True)
class Action:
    """What somebody does: `restate`, `day of a job` and `cron` restate, `run` and `sqlmesh run` only run.

    Attributes:
        models: The models that are selected or, of a cron, the one that has it.
        changed: The days of which source rows change before, if a root is among the models.
        at: The model with the trouble, its day, and whether that is before or after its query.
        ends_at_once: Whether the cause of the trouble ends after this action.
        selected: The models that the run of a cron selects.
    """

    what: str
    models: tuple[str, ...]
    start: str = ""
    end: str = ""
    changed: tuple[str, ...] = ()
    trouble: str = "none"
    at: tuple[str, str, str] = ("", "", "")
    ends_at_once: bool = True
    selected: tuple[str, ...] = ()

    def __str__(self) -> str:
        days = (
            f" {self.start}..{self.end}, source changed on {', '.join(self.changed) or 'no day'}" if self.start else ""
        )
        trouble = f", {self.trouble} at {' '.join(self.at)}" if self.trouble != "none" else ""
        until = " until the end" if not self.ends_at_once and trouble else ""
        selected = f" in a run of {', '.join(self.selected)}" if self.selected else ""
        return f"{self.what} of {', '.join(self.models)}{selected}{days}{trouble}{until}"


def draw_actions(rng: random.Random, project: Project, days: list[str]) -> list[Action]:
    actions, everything = [draw_restatement(rng, project, days)], tuple(project.models)
    for _ in range(rng.randint(1, 5)):
        what = rng.choice(("restate", "restate", "run", "run", "run some", "sqlmesh run"))
        if what == "restate":
            actions.append(draw_restatement(rng, project, days))
        elif what == "run some":
            actions.append(Action("run", tuple(rng.sample(everything, rng.randint(1, len(everything) - 1)))))
        else:
            actions.append(Action(what, everything))
    return actions


def draw_restatement(rng: random.Random, project: Project, days: list[str]) -> Action:
    """Draw a restatement, and trouble in one of the models that it computes."""
    names, crons = list(project.models), [model for model in project.roots if model.auto]
    what = rng.choice(("restate", "restate", "day of a job", *(["cron"] if crons else [])))
    first = rng.randrange(2, len(days))
    chosen = days[first : first + rng.randint(1, 6)]
    models = tuple(rng.sample(names, rng.choice((1, 1, 2)))) if rng.random() < 0.4 else (names[0],)
    if what == "day of a job":
        chosen, models = chosen[:1], tuple(names)
    elif what == "cron":
        model = rng.choice(crons)
        chosen, models = days[-model.auto :], (model.name,)
    has_root = any(root.name in models for root in project.roots)
    changed = sorted(rng.sample(chosen, rng.randint(1, len(chosen)))) if has_root else []
    trouble, at = draw_trouble(rng, project, project.downstream(set(models)), changed or chosen)
    selected = tuple(names) if what == "cron" and rng.random() < 0.8 else ()
    return Action(what, models, chosen[0], chosen[-1], tuple(changed), trouble, at, rng.random() < 0.4, selected)


def draw_trouble(
    rng: random.Random, project: Project, scope: set[str], days: list[str]
) -> tuple[str, tuple[str, str, str]]:
    models = [model for name, model in project.models.items() if name in scope and model.can_fail]
    trouble = rng.choice(TROUBLES)
    able = {
        "audit": [model for model in models if model.is_audited],
        "signal": [model for model in models if model.has_signal],
    }
    if trouble == "none" or not models:
        return "none", ("", "", "")
    candidates = able.get(trouble, models)
    if not candidates:
        trouble, candidates = "error", models
    return trouble, (rng.choice(candidates).name, rng.choice(days), rng.choice(("before", "after")))
