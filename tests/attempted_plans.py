"""Draw the projects of tests/soak/random_attempts.py: a project, a change of it, and what can fail in its plan.

Each model has the columns `day`, `k` and `v`, and reads one table. The hook in `config.py` logs what SQLMesh executes
with success. What can fail is disturbed from outside:

- Two rows of a name in `ctl.causes` are an error in the query or statement of this name.
- The file `failing` names audits that fail. (An audit that reads other tables than its model's has no result that a job
  could repeat: docs/audits.md.)
- The file `kill` names the statement before or after which processes are killed.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

BY_TIME = ("days", "kept")
"""Kinds that compute days. A `kept` model is forward-only."""
KINDS = ("days", "days", "kept", "full", "full", "view", "keyed", "history")
START = 6


@dataclass(frozen=True)
class Audit:
    name: str
    is_blocking: bool = True
    highest: int = 1_000_000
    """The highest value that passes."""

    def file(self, table: str = "@this_model") -> str:
        options = "" if self.is_blocking else ", blocking false"
        options += "" if table == "@this_model" else ", standalone true"
        query = f"SELECT m.*, 'audit {self.name}' AS audited FROM {table} AS m"
        header = f"AUDIT (name {self.name}, dialect duckdb{options})"
        # SQLMesh knows no macros of the project in a standalone audit.
        fails = f" OR @fails('{self.name}')" if table == "@this_model" else ""
        return f"{header};\n{query} WHERE m.v > {self.highest}{fails}"


@dataclass(frozen=True)
class Model:
    """A model.

    Attributes:
        shift: What it adds to the values.
        has_column: Whether it has one more column.
        statements: The numbers of its statements: before and after the query, and of the virtual update; 0 for none.
        tested: The shift that its unit test expects; None for no unit test.
        is_wrong: Whether its query fails.
    """

    name: str
    kind: str
    reads: str
    shift: int = 0
    has_column: bool = False
    batch_size: int = 0
    audits: tuple[Audit, ...] = ()
    statements: tuple[int, int, int] = (0, 0, 0)
    tested: int | None = None
    owner: str = "ann"
    rows: tuple[int, ...] = ()
    is_wrong: bool = False

    def query(self) -> str:
        cause = f"SELECT c.extra FROM ctl.causes AS c WHERE c.name = 'query {self.name}' AND c.day = u.day"
        failure = "0" if self.kind == "view" else f"COALESCE(({cause}), 0)"
        failure += " + CAST('wrong' || CAST(u.k AS TEXT) AS BIGINT)" if self.is_wrong else ""
        column = ", CAST(u.k AS BIGINT) AS w" if self.has_column else ""
        where = " WHERE u.day BETWEEN CAST(@start_ds AS DATE) AND CAST(@end_ds AS DATE)"
        query = f"SELECT u.day, u.k, CAST(u.v + {self.shift} + {failure} AS BIGINT) AS v{column}"
        if self.kind == "history":
            query += ", CAST(u.day AS TIMESTAMP) AS updated_at"
        return f"{query} FROM {self.reads} AS u{where if self.kind in (*BY_TIME, 'keyed', 'history') else ''}"

    def file(self) -> str:
        batch_size = f", batch_size {self.batch_size}" if self.batch_size else ""
        kind = {
            "days": f"INCREMENTAL_BY_TIME_RANGE (time_column day{batch_size})",
            "kept": f"INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true{batch_size})",
            "keyed": f"INCREMENTAL_BY_UNIQUE_KEY (unique_key (day, k){batch_size})",
            "history": "SCD_TYPE_2_BY_TIME (unique_key (k), updated_at_name updated_at)",
            "full": "FULL",
            "view": "VIEW",
            "seed": f"SEED (path '../seeds/{self.name}.csv'), columns (day DATE, k INT, v BIGINT)",
        }[self.kind]
        header = f"name t.{self.name}, kind {kind}, owner {self.owner}, dialect duckdb"
        if self.audits:
            header += f", audits ({', '.join(audit.name for audit in self.audits)})"
        before, after, virtual = self.statements
        parts = [f"MODEL ({header})"]
        if before and self.kind not in ("view", "seed"):
            parts.append(f"@note('before', '{self.name}', {before})")
        if self.kind != "seed":
            parts.append(self.query())
        if self.kind not in ("view", "seed"):
            parts.append(f"@note('after', '{self.name}', {after})")
        text = ";\n".join(parts) + ";\n"
        if virtual:
            text += f"ON_VIRTUAL_UPDATE_BEGIN;\n@note('virtual', '{self.name}', {virtual});\nON_VIRTUAL_UPDATE_END;\n"
        return text

    def unit_test(self) -> str:
        return f"""
test_{self.name}:
  model: t.{self.name}
  inputs:
    {self.reads}: {{columns: {{day: date, k: int, v: bigint}}, rows: [{{day: 2026-01-01, k: 1, v: 5}}]}}
    ctl.causes: {{columns: {{name: text, day: date, extra: int}}, rows: []}}
  outputs: {{partial: true, query: {{rows: [{{day: 2026-01-01, k: 1, v: {5 + (self.tested or 0)}}}]}}}}
  vars: {{start: 2026-01-01, end: 2026-01-01}}
"""


@dataclass(frozen=True)
class Project:
    """Models, in an order in which each one reads only earlier ones.

    Attributes:
        standalone: Standalone audits, by the model that each one reads.
        before_all: The numbers of the statements. A negative number is a statement that fails.
    """

    models: dict[str, Model]
    standalone: dict[str, Audit] = field(default_factory=dict)
    before_all: tuple[int, ...] = (1,)
    after_all: tuple[int, ...] = (1,)

    def with_model(self, model: Model) -> "Project":
        return replace(self, models={**self.models, model.name: model})

    def leaves(self) -> list[Model]:
        read = {model.reads for model in self.models.values()} | {f"t.{name}" for name in self.standalone}
        return [model for model in self.models.values() if f"t.{model.name}" not in read]

    def files(self, config: str, days: list[str]) -> dict[str, str]:
        files = {"macros/__init__.py": "", "macros/note.py": MACROS}
        for when, numbers in (("before_all", self.before_all), ("after_all", self.after_all)):
            statements = [f'  - "{all_statement(when, number)}"\n' for number in numbers]
            config += f"{when}:\n{''.join(statements)}" if statements else ""
        files["config.py"] = HOOK.replace("{config}", config)
        for model in self.models.values():
            files[f"models/{model.name}.sql"] = model.file()
            for audit in model.audits:
                files[f"audits/{audit.name}.sql"] = audit.file()
            if model.tested is not None:
                files[f"tests/test_{model.name}.yaml"] = model.unit_test()
            if model.kind == "seed":
                rows = [f"{days[n % len(days)]},{n},{value}\n" for n, value in enumerate(model.rows)]
                files[f"seeds/{model.name}.csv"] = "day,k,v\n" + "".join(rows)
        for name, audit in self.standalone.items():
            files[f"audits/{audit.name}.sql"] = audit.file(f"t.{name}")
        return files


def all_statement(when: str, number: int) -> str:
    table = "ctl.missing" if number < 0 else "ctl.causes"
    what = f"{when} {abs(number)}"
    failure = f"COALESCE((SELECT c.extra FROM {table} AS c WHERE c.name = '{what}'), 0)"
    return f"INSERT INTO ctl.log SELECT '{what}' AS what, '' AS name, '' AS days, {failure} AS extra"


MACROS = '''
from pathlib import Path

from sqlglot import exp
from sqlmesh import macro


@macro()
def fails(evaluator, audit: str):
    failing = Path("failing")
    return exp.true() if failing.exists() and audit in failing.read_text().split() else exp.false()


@macro()
def note(evaluator, what: str, name: str, number: int):
    """A statement that writes a line. If it creates or compares tables, SQLMesh does not execute it."""
    if evaluator.runtime_stage not in ("evaluating", "promoting"):
        return None
    table = ".".join(part.name for part in exp.to_table(evaluator.this_model).parts)
    days = f"{evaluator.locals.get('start_ds')}..{evaluator.locals.get('end_ds')}"
    named = f"'{what} {name} {number}' AS what, '{table}' AS name, '{days}' AS days"
    failure = f"COALESCE((SELECT c.extra FROM ctl.causes AS c WHERE c.name = '{what} {name} {number}'), 0)"
    return f"INSERT INTO ctl.log SELECT {named}, {failure} AS extra"
'''

HOOK = '''
"""Log what SQLMesh executes with success, and kill processes at the statement that the file `kill` names."""

import itertools
import json
import os
import re
import signal
import time
from pathlib import Path

import yaml
from sqlmesh.core.config import Config
from sqlmesh.core.engine_adapter import EngineAdapter

FOLDER, NUMBERS = Path(__file__).parent, itertools.count(1)
WRITES = re.compile(r"(/[*].*?[*]/)?[ ]*(CREATE|INSERT|DELETE|UPDATE|DROP|ALTER|MERGE|TRUNCATE)", re.IGNORECASE)


def note(**entry):
    with (FOLDER / "executed.jsonl").open("a") as log:
        log.write(json.dumps({"job": (FOLDER / "job").read_text(), **entry}) + chr(10))


def kill(moment, number):
    order = FOLDER / "kill"
    if order.exists():
        when, at, *pids = order.read_text().split()
        if (when, at) == (moment, str(number)):
            order.rename(FOLDER / "killed")
            for pid in pids:
                os.kill(int(pid) or os.getpid(), signal.SIGKILL)
            time.sleep(1)  # the worker of a killed run learns it meanwhile


def wrap(execute, fetchone):
    def execute_and_note(adapter, sql, *arguments, **options):
        if not WRITES.match(sql):
            return execute(adapter, sql, *arguments, **options)
        number = next(NUMBERS)
        kill("before", number)
        result = execute(adapter, sql, *arguments, **options)
        note(number=number, sql=sql)
        kill("after", number)
        return result

    def fetchone_and_note(adapter, query, *arguments, **options):
        row = fetchone(adapter, query, *arguments, **options)
        sql = query if isinstance(query, str) else query.sql(dialect=adapter.dialect)
        if "'audit " in sql and "COUNT(*)" in sql:
            note(audit=sql, failing=int(row[0]))
        return row

    EngineAdapter._execute, EngineAdapter.fetchone, EngineAdapter.is_noted = execute_and_note, fetchone_and_note, True


if not hasattr(EngineAdapter, "is_noted"):
    wrap(EngineAdapter._execute, EngineAdapter.fetchone)
config = Config.parse_obj(yaml.safe_load("""{config}"""))
'''


# -- a project -------------------------------------------------------------------------------------


def draw_project(rng: random.Random) -> Project:
    project = Project({}, before_all=(1,) if rng.random() < 0.5 else (), after_all=(1,) if rng.random() < 0.7 else ())
    for number in range(rng.randint(3, 6)):
        project = project.with_model(draw_model(rng, project, f"m{number}"))
    if rng.random() < 0.2:
        project = draw_standalone(rng, project)
    return project


def draw_standalone(rng: random.Random, project: Project) -> Project:
    name = rng.choice(list(project.models))
    number = len(project.standalone) + rng.randint(1, 99)
    return replace(project, standalone={**project.standalone, name: Audit(f"alone_{name}_{number}", False, 60)})


def draw_model(rng: random.Random, project: Project, name: str) -> Model:
    kind = "seed" if project.models and rng.random() < 0.15 else rng.choice(KINDS)
    # Rows of a SCD_TYPE_2 model have its own columns, and a seed has no column of time: nobody reads them here.
    read = [f"t.{model.name}" for model in project.models.values() if model.kind != "history"]
    reads = {"history": "src.a", "seed": ""}.get(kind, rng.choice([*read, "src.a"]))
    audits = tuple(draw_audit(rng, name) for _ in range(rng.choice((0, 0, 1))))
    return Model(
        name,
        kind,
        reads,
        shift=rng.randint(0, 9) if kind != "seed" else 0,
        has_column=kind != "seed" and rng.random() < 0.2,
        batch_size=rng.choice((0, 1, 2)) if kind in (*BY_TIME, "keyed") else 0,
        audits=audits,
        statements=(rng.randint(0, 1), 1, rng.randint(0, 1)),
        rows=tuple(rng.randint(1, 99) for _ in range(3)),
    )


def draw_audit(rng: random.Random, name: str) -> Audit:
    is_blocking = rng.random() < 0.7
    return Audit(f"audit_{name}_{rng.randint(1, 999)}", is_blocking, 1_000_000 if is_blocking else 60)


# -- a change --------------------------------------------------------------------------------------


def draw_change(rng: random.Random, project: Project) -> tuple[Project, list[str]]:
    """Change one to three things. Return the new project, and what has changed."""
    changed: list[str] = []
    for _ in range(rng.choice((1, 2, 2, 3, 4))):
        what = rng.choice(list(CHANGES))
        project, name = CHANGES[what](rng, project)
        changed.append(f"{what} {name}".strip())
    return project, changed


def _some(rng: random.Random, project: Project, *but: str) -> Model:
    models = [model for model in project.models.values() if model.kind not in but]
    return rng.choice(models or [draw_model(rng, project, f"m{len(project.models)}")])


def _expression(rng: random.Random, project: Project) -> tuple[Project, str]:
    model = _some(rng, project)
    if model.kind == "seed":
        return project.with_model(replace(model, rows=(*model.rows[1:], rng.randint(1, 99)))), model.name
    changed = replace(model, shift=model.shift + rng.randint(1, 9))
    return project.with_model(replace(changed, tested=None if model.tested is None else changed.shift)), model.name


def _column(rng: random.Random, project: Project) -> tuple[Project, str]:
    model = _some(rng, project, "seed")
    if model.kind == "seed":
        return _expression(rng, project)
    return project.with_model(replace(model, has_column=not model.has_column)), model.name


def _new_model(rng: random.Random, project: Project) -> tuple[Project, str]:
    number = max([int(name[1:]) for name in project.models], default=0) + 1
    return project.with_model(model := draw_model(rng, project, f"m{number}")), model.name


def _removed_model(rng: random.Random, project: Project) -> tuple[Project, str]:
    if not (leaves := project.leaves()) or len(project.models) < 3:
        return _new_model(rng, project)
    leaf = rng.choice(leaves)
    kept = {name: model for name, model in project.models.items() if name != leaf.name}
    return replace(project, models=kept), leaf.name


def _new_audit(rng: random.Random, project: Project) -> tuple[Project, str]:
    model = _some(rng, project)
    return project.with_model(replace(model, audits=(*model.audits, draw_audit(rng, model.name)))), model.name


def _new_standalone(rng: random.Random, project: Project) -> tuple[Project, str]:
    return draw_standalone(rng, project), ""


def _statement(rng: random.Random, project: Project) -> tuple[Project, str]:
    model, place = _some(rng, project, "seed"), rng.choice((0, 1, 2, 2))
    statements = [number + (place == index) for index, number in enumerate(model.statements)]
    return project.with_model(replace(model, statements=(statements[0], statements[1], statements[2]))), model.name


def _all_statements(rng: random.Random, project: Project) -> tuple[Project, str]:
    if rng.random() < 0.4:
        return replace(project, before_all=(*project.before_all, len(project.before_all) + 1)), "before"
    return replace(project, after_all=(*project.after_all, len(project.after_all) + 1)), "after"


def _owner(rng: random.Random, project: Project) -> tuple[Project, str]:
    model = _some(rng, project)
    return project.with_model(replace(model, owner=f"eve{rng.randint(1, 99)}")), model.name


def _kind(rng: random.Random, project: Project) -> tuple[Project, str]:
    model = _some(rng, project, "seed", "kept", "history")
    if model.kind in ("seed", "kept", "history"):
        return _expression(rng, project)
    kind = rng.choice([kind for kind in ("days", "full", "view", "keyed") if kind != model.kind])
    return project.with_model(replace(model, kind=kind)), f"{model.name} to {kind}"


CHANGES: dict[str, Callable[[random.Random, Project], tuple[Project, str]]] = {
    "expression": _expression,
    "expression of": _expression,
    "column": _column,
    "new model": _new_model,
    "removed model": _removed_model,
    "new audit": _new_audit,
    "new audit of": _new_audit,
    "standalone audit": _new_standalone,
    "statement": _statement,
    "all statements": _all_statements,
    "owner": _owner,
    "kind": _kind,
}
