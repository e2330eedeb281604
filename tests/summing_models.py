"""Random models whose rows are known: a row per day, with the sum of what the model reads of that day and a constant.

They read a source with a row per day. Each batch passes a gate, at which a process can pause, fail or be killed.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass

BY_TIME = "INCREMENTAL_BY_TIME_RANGE (time_column day{options})"
OPTIONS = ("", ", batch_size 1", ", batch_size 2", ", lookback 1", ", lookback 2, batch_size 1", ", forward_only true")
APPENDING = ("INCREMENTAL_UNMANAGED", "INCREMENTAL_UNMANAGED (forward_only false)")
KINDS = {
    "by time": tuple(BY_TIME.format(options=options) for options in OPTIONS),
    "signal": tuple(BY_TIME.format(options=options) for options in OPTIONS),
    "self": tuple(BY_TIME.format(options=options) for options in OPTIONS[:-1]),
    "full": ("FULL",),
    "view": ("VIEW",),
    "embedded": ("EMBEDDED",),
    "appending": APPENDING,
    "seed": ("SEED (path '../seeds/{name}.csv')",),
    "unique key": tuple(
        f"INCREMENTAL_BY_UNIQUE_KEY (unique_key day{options})"
        for options in ("", ", batch_size 1", ", batch_size 2, lookback 1", ", forward_only true")
    ),
    "partition": ("INCREMENTAL_BY_PARTITION",),
    "scd": tuple(
        f"SCD_TYPE_2_BY_{kind}{forward_only}{restatement})"
        for kind in ("COLUMN (unique_key day, columns [n]", "TIME (unique_key day")
        for forward_only in ("", ", forward_only false")
        for restatement in ("", ", disable_restatement false")
    ),
    "materialized view": ("VIEW (materialized true)",),
}
"""The texts of each kind. A model of kind `self` reads itself."""
OF_SOURCE = ("by time", "by time", "by time", "signal", "self", "unique key", "partition")
"""Kinds of models that read the source. A kind that is there three times is chosen three times as often."""
OF_ONE = ("full", "view", "materialized view", "embedded", "scd")
"""Kinds of models that read one model. A row would be a part of the sum while one of two lacks its day."""
SIGNAL = """
from pathlib import Path

from sqlmesh import signal


@signal()
def ready(batch, name: str = ""):
    file = Path("held", name)
    held = file.read_text().split() if file.exists() else []
    return [interval for interval in batch if str(interval[0].date()) not in held]
"""
"""Holds back the days that a file names."""
WITHIN = "day BETWEEN @start_ds::DATE AND @end_ds::DATE AND "
AUDIT = "AUDIT (name fine); SELECT * FROM @this_model WHERE day IN (SELECT day FROM ctl.bad WHERE name = @model)"
MACRO = """
import itertools
import os
import signal
import time
from pathlib import Path

from sqlglot import exp
from sqlmesh import macro


def read(stop):
    try:
        return stop.read_text()
    except FileNotFoundError:  # the story lets the batch go on
        return None


@macro()
def gate(evaluator):
    folder = Path("gates", os.environ.get("STORY_ROLE", "none"))
    if evaluator.runtime_stage != "evaluating" or not folder.exists():
        return exp.true()
    for number in itertools.count():
        try:
            (folder / f"batch-{number}").touch(exist_ok=False)
            break
        except FileExistsError:
            pass
    stop, deadline = folder / f"stop-{number}", time.monotonic() + float((folder / "seconds").read_text())
    while (verdict := read(stop)) is not None and time.monotonic() < deadline:
        if verdict == "fail":
            raise RuntimeError("a batch fails")
        if verdict == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / f"paused-{number}").write_text(str(os.getpid()))
        time.sleep(0.02)
    (folder / f"paused-{number}").unlink(missing_ok=True)
    stop.unlink(missing_ok=True)
    return exp.true()
"""
"""Counts the batches of the processes with one role. Pauses before the one that a file names, or lets it fail."""


@dataclass(frozen=True)
class Model:
    """A model with a row per day: the sum of what it reads of that day, and a constant.

    A model that reads itself adds its row of the day before. A seed has the constant only.

    Attributes:
        columns: The number of columns that were added after the others.
        reads: The names of the models that it reads. Without one, it reads the source.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    constant: int
    columns: int = 0
    reads_itself: bool = False
    has_signal: bool = False

    @property
    def is_seed(self) -> bool:
        return self.kind.startswith("SEED")

    @property
    def reads_source(self) -> bool:
        return not self.reads and not self.is_seed

    @property
    def is_table(self) -> bool:
        return self.kind != "EMBEDDED" and not self.kind.startswith("VIEW")

    @property
    def is_materialized_view(self) -> bool:
        """On PostgreSQL, SQLMesh creates a plain view. Each change upstream counts as one that breaks it."""
        return "materialized" in self.kind

    @property
    def has_time(self) -> bool:
        return self.kind.startswith("INCREMENTAL")

    @property
    def is_appending(self) -> bool:
        return self.kind in APPENDING

    @property
    def is_history(self) -> bool:
        """Whether it keeps old values of a day, in rows with `valid_to`."""
        return self.kind.startswith("SCD")

    @property
    def has_clock(self) -> bool:
        """Whether its rows have the time of their last change. Sums only grow, so they are that time."""
        return "BY_TIME (unique_key" in self.kind

    @property
    def is_protected(self) -> bool:
        """Whether SQLMesh does not restate it, also if a model upstream is restated: `disable_restatement`."""
        return self.is_appending or (self.is_history and "disable_restatement false" not in self.kind)

    @property
    def is_restated(self) -> bool:
        return self.is_table and not self.is_seed and not self.is_protected

    @property
    def is_replaced(self) -> bool:
        """Whether SQLMesh restates it only as a whole."""
        return self.kind.startswith(("INCREMENTAL_BY_UNIQUE_KEY", "INCREMENTAL_BY_PARTITION"))

    @property
    def keeps_rows(self) -> bool:
        """Whether its table stays if it or a model upstream is changed."""
        is_default = self.kind in (APPENDING[0], "INCREMENTAL_BY_PARTITION") or self.is_history
        return "forward_only true" in self.kind or (is_default and "forward_only false" not in self.kind)

    @property
    def is_copied(self) -> bool:
        """Whether a change of it or of a model upstream gives it a new table."""
        return self.is_table and not self.keeps_rows

    @property
    def text(self) -> str:
        audits = f", audits (fine(model := '{self.name}'))" if "time_column" in self.kind else ""
        types = f", columns (day DATE, n BIGINT{self._added('{} INT')})" if self.is_seed or self.reads_itself else ""
        by_day = ", partitioned_by (day)" if self.kind == "INCREMENTAL_BY_PARTITION" else ""
        signals = f", signals (ready(name := '{self.name}'))" if self.has_signal else ""
        kind = self.kind.format(name=self.name)
        return f"MODEL (name t.{self.name}, kind {kind}{by_day}{signals}{audits}{types});\n{self._query}"

    @property
    def _query(self) -> str:
        if self.is_seed:
            return ""
        tables = " UNION ALL ".join(f"SELECT day, n FROM {table}" for table in self.tables)
        where = f" WHERE {WITHIN if self.has_time else ''}@gate()" if self.is_table else ""
        total = f"sum(n) + {self.constant}"
        if self.reads_itself:
            before = f"SELECT max(past.n) FROM t.{self.name} AS past WHERE past.day = @start_ds::DATE - 1"
            total = f"sum({total}) OVER (ORDER BY day::DATE) + COALESCE(({before}), 0)"
        updated = f", TIMESTAMP '1970-01-01' + ({total}) * INTERVAL '1 second' AS updated_at" if self.has_clock else ""
        columns = f"day::DATE AS day, ({total})::BIGINT AS n{updated}{self._added('{number}::INT AS {}')}"
        return f"SELECT {columns} FROM ({tables}) AS read_here{where} GROUP BY 1"

    def _added(self, text: str) -> str:
        return "".join(", " + text.format(f"added_{number}", number=number) for number in range(self.columns))

    def csv(self, days: Collection[str]) -> str:
        """The file of a seed."""
        head = ",".join(["day", "n", *(f"added_{number}" for number in range(self.columns))])
        rows = [",".join([of_day, str(self.constant), *map(str, range(self.columns))]) for of_day in days]
        return "\n".join([head, *rows, ""])

    @property
    def tables(self) -> list[str]:
        return [f"t.{name}" for name in self.reads] or ["raw.source"]


Models = dict[str, Model]


@dataclass(frozen=True)
class StandaloneAudit:
    """A standalone audit of a model. It finds rows while `ctl.failing` has its number, which is part of its query."""

    name: str
    reads: str
    number: int = 0

    @property
    def text(self) -> str:
        rows = f"SELECT * FROM t.{self.reads} WHERE {self.number} IN (SELECT number FROM ctl.failing)"
        return f"AUDIT (name {self.name}, standalone true); {rows}"


def random_models(rng: random.Random, kind: str | None = None) -> Models:
    """Return random models, upstream models first. Nothing reads an append-only model, or a history.

    Args:
        kind: The kind of the second model.
    """
    models: Models = {}
    for number in range(rng.randint(3, 6)):
        reads_source = number == 0 or rng.random() < 0.2
        wanted = kind if number == 1 else None
        models[f"m{number}"] = random_model(rng, f"m{number}", models, reads_source=reads_source, kind=wanted)
    return models


def random_model(
    rng: random.Random, name: str, models: Models, *, reads_source: bool, kind: str | None = None
) -> Model:
    possible = [model.name for model in models.values() if not model.is_protected and not model.is_history]
    reads = () if reads_source else tuple(rng.sample(possible, min(len(possible), rng.choice((1, 1, 2)))))
    if kind is None:
        of_one = OF_ONE if len(reads) == 1 else ()
        others = ("appending", "seed") if reads else ()
        kind = rng.choice((*OF_SOURCE, *of_one, *others))
    elif kind not in OF_SOURCE:
        reads = (rng.choice(possible),)
    text = rng.choice(KINDS[kind])
    reads = () if kind == "seed" else reads
    constant = rng.randint(1, 9) * 1000
    return Model(name, text, reads, constant, reads_itself=kind == "self", has_signal=kind == "signal")


def downstream(models: Models, names: Collection[str]) -> set[str]:
    """The models and all that read them."""
    found = set(names)
    for model in models.values():  # upstream models first
        if found & set(model.reads):
            found.add(model.name)
    return found
