"""Random models whose rows are known: a row per day, with the sum of what the model reads of that day and a constant.

They read a source with a row per day. Each batch passes a gate, at which a process can pause, fail or be killed.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

BY_TIME = "INCREMENTAL_BY_TIME_RANGE (time_column day{options})"
OPTIONS = ("", ", batch_size 1", ", batch_size 2", ", lookback 1", ", lookback 2, batch_size 1", ", forward_only true")
APPENDING = ("INCREMENTAL_UNMANAGED", "INCREMENTAL_UNMANAGED (forward_only false)")
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

    Attributes:
        columns: The number of columns that were added after the others.
        reads: The names of the models that it reads. Without one, it reads the source.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    constant: int
    columns: int = 0

    @property
    def is_table(self) -> bool:
        return self.kind not in ("VIEW", "EMBEDDED")

    @property
    def has_time(self) -> bool:
        return self.kind.startswith("INCREMENTAL")

    @property
    def is_appending(self) -> bool:
        return self.kind in APPENDING

    @property
    def keeps_rows(self) -> bool:
        """Whether its table stays if it or a model upstream is changed."""
        return self.kind == APPENDING[0] or "forward_only true" in self.kind

    @property
    def is_copied(self) -> bool:
        """Whether a change of it or of a model upstream gives it a new table."""
        return self.is_table and not self.keeps_rows

    @property
    def text(self) -> str:
        audits = f", audits (fine(model := '{self.name}'))" if "time_column" in self.kind else ""
        tables = " UNION ALL ".join(f"SELECT day, n FROM {table}" for table in self.tables)
        added = "".join(f", {number}::INT AS added_{number}" for number in range(self.columns))
        where = f" WHERE {WITHIN if self.has_time else ''}@gate()" if self.is_table else ""
        return (
            f"MODEL (name t.{self.name}, kind {self.kind}{audits});\n"
            f"SELECT day::DATE AS day, (sum(n) + {self.constant})::BIGINT AS n{added} "
            f"FROM ({tables}) AS read_here{where} GROUP BY 1"
        )

    @property
    def tables(self) -> list[str]:
        return [f"t.{name}" for name in self.reads] or ["raw.source"]


Models = dict[str, Model]


def random_models(rng: random.Random) -> Models:
    """Return random models, upstream models first. Nothing reads an append-only model."""
    models: Models = {}
    for number in range(rng.randint(3, 6)):
        models[f"m{number}"] = random_model(rng, f"m{number}", models, reads_source=number == 0 or rng.random() < 0.2)
    return models


def random_model(rng: random.Random, name: str, models: Models, *, reads_source: bool) -> Model:
    possible = [model.name for model in models.values() if not model.is_appending]
    reads = () if reads_source else tuple(rng.sample(possible, min(len(possible), rng.choice((1, 1, 2)))))
    by_time = BY_TIME.format(options=rng.choice(OPTIONS))
    # A row of the others would be a part of the sum while one of two upstream models lacks its day.
    kinds = (by_time, by_time, by_time, *(("FULL", "VIEW", "EMBEDDED") if len(reads) == 1 else ()))
    return Model(name, rng.choice((*kinds, *(APPENDING if reads else ()))), reads, rng.randint(1, 9) * 1000)


def downstream(models: Models, names: Collection[str]) -> set[str]:
    """The models and all that read them."""
    found = set(names)
    for model in models.values():  # upstream models first
        if found & set(model.reads):
            found.add(model.name)
    return found
