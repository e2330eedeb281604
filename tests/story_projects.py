"""SQLMesh projects of stories: plain data, of which the files are written and the rows are computed in plain Python.

Each model has the columns `day`, `k` and `v`. It reads tables with these columns, or sums of their values of each day.
What can fail is disturbed from outside:

- Two rows of a name in `ctl.causes` are an error in the query or statement of this name.
- The file `failing` names audits that fail: for all days, or for one. (An audit that reads other tables than its
  model's has no result that a job could repeat: docs/audits.md.)
- The file `closed_<model>` has the days on which its signal is closed.
- The files `gates/<role>/stop-...` let batches pause, fail, or kill their process.
- The file `kill` names the statement before or after which processes are killed (`HOOK`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

Rows = dict[str, list[tuple[int, int]]]
"""The keys and values of each day. Each day of the history is there, even without rows."""
ROLE = "STORY_ROLE"
"""The environment variable with the role of a process at gates."""
BY_TIME = ("days", "hours", "balance")
"""Kinds that compute only the days of a batch."""
KINDS = {
    "days": ("INCREMENTAL_BY_TIME_RANGE", "time_column day"),
    "hours": ("INCREMENTAL_BY_TIME_RANGE", "time_column ts"),
    "balance": ("INCREMENTAL_BY_TIME_RANGE", "time_column day"),
    "keyed": ("INCREMENTAL_BY_UNIQUE_KEY", "unique_key (day, k)"),
    "partition": ("INCREMENTAL_BY_PARTITION", ""),
    "appended": ("INCREMENTAL_UNMANAGED", ""),
    "history": ("SCD_TYPE_2_BY_TIME", "unique_key (k), updated_at_name updated_at"),
    "changes": ("SCD_TYPE_2_BY_COLUMN", "unique_key (day), columns [v]"),
    "changes by time": ("SCD_TYPE_2_BY_TIME", "unique_key (day), updated_at_name updated_at"),
    "full": ("FULL", ""),
    "view": ("VIEW", ""),
    "materialized": ("VIEW", "materialized true"),
    "embedded": ("EMBEDDED", ""),
    "seed": ("SEED", "path '../seeds/{name}.csv'"),
}
"""The kind of SQLMesh, and its first options. A `balance` reads itself: it adds its row of the day before."""
FIRST, LAST = "CAST(@start_ds AS DATE)", "CAST(@end_ds AS DATE)"


@dataclass(frozen=True)
class Audit:
    """An audit.

    Attributes:
        highest: The highest value that passes.
        number: Of a standalone audit that finds rows while `ctl.causes` has its name and this number.
    """

    name: str
    is_blocking: bool = True
    highest: int = 1_000_000
    number: int | None = None

    def file(self, table: str = "@this_model") -> str:
        is_standalone = table != "@this_model"
        options = ("" if self.is_blocking else ", blocking false") + (", standalone true" if is_standalone else "")
        query = f"SELECT m.*, 'audit {self.name}' AS audited FROM {table} AS m WHERE m.v > {self.highest}"
        # SQLMesh knows no macros of the project in a standalone audit.
        fails = "" if is_standalone else f" OR @fails('{self.name}')"
        if self.number is not None:
            fails = f" OR '{self.name} {self.number}' IN (SELECT c.name FROM ctl.causes AS c)"
        return f"AUDIT (name {self.name}, dialect duckdb{options});\n{query}{fails}"


@dataclass(frozen=True)
class Model:
    """A model of one of the KINDS.

    Attributes:
        reads: The tables that it reads. Of several, it reads the sums.
        sums: Whether it reads the sum of each day.
        shift: What it adds to the values.
        columns: How many columns it has after the others.
        forward_only: None is SQLMesh's default for its kind.
        is_restatable: Whether a history has `disable_restatement false`.
        auto: How many intervals its `auto_restatement_cron` restates.
        is_awaited: Whether it waits for the loads of its source.
        statements: The numbers of its statements: before and after the query, and of the virtual update; 0 for none.
        tested: The shift that its unit test expects; None for no unit test.
        values: The values of a seed, one on each day.
        is_wrong: Whether its query fails.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    sums: bool = False
    shift: int = 0
    columns: int = 0
    batch_size: int = 0
    lookback: int = 0
    forward_only: bool | None = None
    is_restatable: bool = False
    auto: int = 0
    audits: tuple[Audit, ...] = ()
    has_signal: bool = False
    is_awaited: bool = False
    statements: tuple[int, int, int] = (0, 0, 0)
    tested: int | None = None
    owner: str = "ann"
    values: tuple[int, ...] = ()
    is_wrong: bool = False

    # -- what SQLMesh does with its kind

    @property
    def is_table(self) -> bool:
        return self.kind not in ("view", "materialized", "embedded")

    @property
    def has_time(self) -> bool:
        """Whether a batch computes the days of its intervals only."""
        return KINDS[self.kind][0].startswith("INCREMENTAL")

    @property
    def is_history(self) -> bool:
        """Whether it keeps old values, in rows with `valid_to`."""
        return KINDS[self.kind][0].startswith("SCD")

    @property
    def is_protected(self) -> bool:
        """Whether SQLMesh does not restate it, also if a model upstream is restated: `disable_restatement`."""
        return self.kind == "appended" or (self.is_history and not self.is_restatable)

    @property
    def is_restated(self) -> bool:
        return self.is_table and self.kind != "seed" and not self.is_protected

    @property
    def keeps_rows(self) -> bool:
        """Whether its table stays if it or a model upstream is changed."""
        is_default = self.kind in ("appended", "partition") or self.is_history
        return is_default if self.forward_only is None else self.forward_only

    # -- rows

    def rows(self, read: Rows) -> Rows:
        """Compute the rows of each day from those that it reads."""
        if self.kind == "seed":
            return {day: [(n, value)] for n, (day, value) in enumerate(zip(read, self.values))}
        if self.is_sum:
            read = {day: [(0, sum(v for _, v in rows))] if rows else [] for day, rows in read.items()}
        rows = {day: [(k, v + self.shift) for k, v in values] for day, values in read.items()}
        if self.kind == "balance":
            total = 0
            for day, values in rows.items():
                total += sum(v for _, v in values)
                rows[day] = [(k, total) for k, _ in values]
        return rows

    @property
    def is_sum(self) -> bool:
        return self.sums or self.kind == "balance" or len(self.reads) > 1

    def query(self) -> str:
        read = self.reads[0]
        if self.is_sum:
            union = " UNION ALL ".join(f"SELECT day, v FROM {table}" for table in self.reads)
            read = f"(SELECT r.day, 0 AS k, SUM(r.v) AS v FROM ({union}) AS r GROUP BY r.day)"
        cause = f"SELECT c.extra FROM ctl.causes AS c WHERE c.name = 'query {self.name}' AND c.day = u.day"
        value = f"u.v + {self.shift} + {f'COALESCE(({cause}), 0)' if self.is_table else '0'}"
        value += " + CAST('wrong' || CAST(u.k AS TEXT) AS BIGINT)" if self.is_wrong else ""
        where = f" WHERE u.day BETWEEN {FIRST} AND {LAST}" if self.has_time or self.kind == "history" else ""
        if self.kind == "hours":
            where = " WHERE u.ts BETWEEN CAST(@start_ts AS TIMESTAMP) AND CAST(@end_ts AS TIMESTAMP)"
        if self.kind == "balance":
            read, where = f"(SELECT u.day, u.k, {value} AS v FROM {read} AS u{where})", ""
            last = f"SELECT b.v FROM t.{self.name} AS b WHERE b.day < {FIRST} ORDER BY b.day DESC LIMIT 1"
            value = f"SUM(u.v) OVER (ORDER BY u.day) + COALESCE(({last}), 0)"
        columns = {
            **({"ts": "CAST(u.ts AS TIMESTAMP)"} if self.kind == "hours" else {}),
            "day": "CAST(u.day AS DATE)",
            "k": "CAST(u.k AS INT)",
            "v": f"CAST({value} AS BIGINT)",
            **{f"w{number}": f"CAST({number} AS INT)" for number in range(self.columns)},
            **({"updated_at": "CAST(u.day AS TIMESTAMP)"} if self.kind == "history" else {}),
        }
        if self.kind == "changes by time":  # values only grow
            columns["updated_at"] = f"CAST('1970-01-01' AS TIMESTAMP) + ({value}) * INTERVAL '1' SECOND"
        selected = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
        return f"SELECT {selected} FROM {read} AS u{where}"

    # -- files

    @property
    def kind_text(self) -> str:
        kind, first = KINDS[self.kind]
        options = {
            first.format(name=self.name): first,
            f"batch_size {self.batch_size}": self.batch_size,
            f"lookback {self.lookback}": self.lookback,
            f"forward_only {str(self.forward_only).lower()}": self.forward_only is not None,
            "disable_restatement false": self.is_restatable,
            f"auto_restatement_cron '@daily', auto_restatement_intervals {self.auto}": self.auto,
        }
        texts = [text for text, is_set in options.items() if is_set]
        return f"{kind} ({', '.join(texts)})" if texts else kind

    def file(self) -> str:
        added = "".join(f", w{number} INT" for number in range(self.columns))
        properties = {
            f"audits ({', '.join(audit.name for audit in self.audits)})": self.audits,
            f"signals (opened(model := '{self.name}'))": self.has_signal,
            "interval_unit hour": self.kind == "hours",
            "partitioned_by (day)": self.kind == "partition",
            f"columns (day DATE, k INT, v BIGINT{added})": self.kind in ("seed", "balance"),
        }
        options = "".join(f", {text}" for text, is_set in properties.items() if is_set)
        header = f"MODEL (name t.{self.name}, kind {self.kind_text}, owner {self.owner}, dialect duckdb{options})"
        before, after, virtual = self.statements
        parts = [header]
        if self.kind == "seed":
            pass
        elif self.is_table:
            parts += [f"@note('before', '{self.name}', {before})"] if before else []
            parts += [f"@gate('{self.name}', 'before')", self.query(), f"@gate('{self.name}', 'after')"]
            parts += [f"@note('after', '{self.name}', {after})"] if after else []
        else:
            parts.append(self.query())
        text = ";\n".join(parts) + ";\n"
        if virtual:
            text += f"ON_VIRTUAL_UPDATE_BEGIN;\n@note('virtual', '{self.name}', {virtual});\nON_VIRTUAL_UPDATE_END;\n"
        return text

    def csv(self, days: Collection[str]) -> str:
        """The file of a seed."""
        head = ",".join(["day", "k", "v", *(f"w{number}" for number in range(self.columns))])
        rows = [
            ",".join(map(str, (day, n, value, *range(self.columns))))
            for n, (day, value) in enumerate(zip(days, self.values))
        ]
        return "\n".join([head, *rows, ""])

    def unit_test(self) -> str:
        return f"""
test_{self.name}:
  model: t.{self.name}
  inputs:
    {self.reads[0]}: {{columns: {{day: date, k: int, v: bigint}}, rows: [{{day: 2026-01-01, k: 1, v: 5}}]}}
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
    before_all: tuple[int, ...] = ()
    after_all: tuple[int, ...] = ()

    def with_model(self, model: Model) -> "Project":
        return replace(self, models={**self.models, model.name: model})

    def without(self, name: str) -> "Project":
        return replace(self, models={other: model for other, model in self.models.items() if other != name})

    def downstream(self, names: Collection[str]) -> set[str]:
        """Return these models and all downstream of them."""
        found = set(names)
        for model in self.models.values():
            if found & {table.removeprefix("t.") for table in model.reads}:
                found.add(model.name)
        return found

    def leaves(self) -> list[Model]:
        """The models that nothing reads."""
        return [
            model
            for name, model in self.models.items()
            if self.downstream([name]) == {name} and name not in self.standalone
        ]

    def twin(self, sources: Mapping[str, Rows]) -> dict[str, Rows]:
        """Compute the rows of all models from those of the sources. Days without rows are left out."""
        tables = {f"src.{name}": rows for name, rows in sources.items()}
        days = list(next(iter(sources.values())))
        for model in self.models.values():
            read = {day: [row for table in model.reads for row in tables[table].get(day, [])] for day in days}
            tables[f"t.{model.name}"] = model.rows(read)
        return {name: sorted_rows(tables[f"t.{name}"]) for name in self.models}

    def files(self, days: Collection[str]) -> dict[str, str]:
        """The files of the project, without its config."""
        files = {"macros/__init__.py": "", "macros/story.py": MACROS, "signals/__init__.py": SIGNALS}
        for model in self.models.values():
            files[f"models/{model.name}.sql"] = model.file()
            for audit in model.audits:
                files[f"audits/{audit.name}.sql"] = audit.file()
            if model.tested is not None:
                files[f"tests/test_{model.name}.yaml"] = model.unit_test()
            if model.kind == "seed":
                files[f"seeds/{model.name}.csv"] = model.csv(days)
        for name, audit in self.standalone.items():
            files[f"audits/{audit.name}.sql"] = audit.file(f"t.{name}")
        return files

    def hooked_config(self, config: str) -> str:
        """The text of a `config.py` with the statements before and after all, and with the hook."""
        for when, numbers in (("before_all", self.before_all), ("after_all", self.after_all)):
            statements = [f'  - "{all_statement(when, number)}"\n' for number in numbers]
            config += f"{when}:\n{''.join(statements)}" if statements else ""
        return HOOK.replace("{config}", config)


def sorted_rows(rows: Rows) -> Rows:
    return {day: sorted(values) for day, values in rows.items() if values}


def all_statement(when: str, number: int) -> str:
    table = "ctl.missing" if number < 0 else "ctl.causes"
    what = f"{when} {abs(number)}"
    failure = f"COALESCE((SELECT c.extra FROM {table} AS c WHERE c.name = '{what}'), 0)"
    return f"INSERT INTO ctl.log SELECT '{what}' AS what, '' AS name, '' AS days, {failure} AS extra"


MACROS = '''
import itertools
import os
import signal
import time
from datetime import date, timedelta
from pathlib import Path

from sqlglot import exp
from sqlmesh import macro


def read(file):
    try:
        return file.read_text()
    except FileNotFoundError:
        return None


@macro()
def fails(evaluator, audit: str):
    orders = [line.split() for line in (read(Path("failing")) or "").splitlines()]
    if [audit] in orders:
        return exp.true()
    days = [f"CAST('{order[1]}' AS DATE)" for order in orders if order[0] == audit]
    return f"m.day IN ({', '.join(days)})" if days else exp.false()


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


@macro()
def gate(evaluator, model: str, moment: str):
    """Pause, fail or die, if a file says so of this batch: of its number, or of its model, moment and day."""
    folder = Path("gates", os.environ.get("STORY_ROLE", "run"))
    if evaluator.runtime_stage != "evaluating" or not folder.exists():
        return None
    first, last = (date.fromisoformat(str(evaluator.locals[name])) for name in ("start_ds", "end_ds"))
    days = [str(first + timedelta(days=number)) for number in range((last - first).days + 1)]
    stops = [f"stop-{model}-{moment}-{day}" for day in ("", *days)]
    if moment == "before":
        for number in itertools.count():
            try:
                (folder / f"batch-{number}").touch(exist_ok=False)
                break
            except FileExistsError:
                pass
        stops.append(f"stop-{number}")
    for stop in map(folder.joinpath, stops):
        paused, deadline = folder / stop.name.replace("stop", "paused"), time.monotonic() + 200
        while (verdict := read(stop)) is not None and time.monotonic() < deadline:
            if verdict == "fail":
                raise RuntimeError("a batch fails")
            if verdict == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if verdict == "pause briefly":
                deadline = min(deadline, time.monotonic() + 2)
                stop.write_text("pause")
            paused.write_text(str(os.getpid()))
            time.sleep(0.02)
        paused.unlink(missing_ok=True)
        stop.unlink(missing_ok=True)
    return None
'''

SIGNALS = """
from pathlib import Path

from sqlmesh import signal


@signal()
def opened(batch, model: str):
    closed = Path(f"closed_{model}")
    days = closed.read_text().split() if closed.exists() else []
    return [interval for interval in batch if str(interval[0].date()) not in days]
"""

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
