"""Apply and preview random changes while random actions go on, and compare rows and records after each of them.

    python tests/soak/random_changes.py --stories 100 --seed 1 --engines postgres

A story has a random project with some pending days. One or two changes of files are previewed and applied by processes
of their own, which pause before random batches. Meanwhile come runs, restatements, ticks, the sensor, the janitor,
failing audits, signals that hold days back, cancels and kills. On DuckDB, whose file is the lock, they take turns.

The expected rows are those of the twin, plain Python (tests/story_projects.py). It checks:

- **rows**: after each action, and after an apply that has failed, each day that the state has as computed has the rows
  that the promoted definitions give of the source. A model that keeps rows of an older definition has only its days
  compared, until everything is restated. One that SQLMesh does not restate may keep the older value of a day. A history
  has one current row of each day, and its values follow one another. A preview shows the rows of its definitions.
- **lost**: after an apply no day less, unless a signal holds it back. At the end, all days are there, once.
- **early**: a day that a signal holds back is not computed.
- **waits**: no run waits for a plan that computes new versions. No lock is left at the end.
- **fails**: nothing fails without a reason. A standalone audit fails exactly if the promoted one finds rows, and blocks
  nothing.
- **records**: at the end, Dagster has recorded each computed interval, and none more often than it was computed (not
  counted after a janitor, which merges SQLMesh's rows of computations). In a run of everything, each model is executed
  or up to date.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from computed_hours import hour_of, recorded_of, text_of
from databases import ENGINES, Database, Servers
from engine.plan_jobs import APPLY, PLAN, executed
from forked import ForkedProcess
from harness import RunRecord, Shop, planned_shop, wait_until
from stories import Told, tell, today
from story_projects import ROLE, Audit, Model, Project, Rows
from waiting import evaluate_tick

DAYS = 6
"""How many days the source has. The first plan computes those before the last three."""
OP = "sqlmesh_shop"
PREVIEW, JANITOR = f"{OP}_preview", f"{OP}_janitor"
ROLES = ("apply", "preview", "run", "killed")
ALONE = "alone"
"""The name of the standalone audit."""

# -- projects --------------------------------------------------------------------------------------

OF_DAYS: tuple[dict[str, Any], ...] = (
    {},
    {"batch_size": 1},
    {"batch_size": 2},
    {"lookback": 1},
    {"lookback": 2, "batch_size": 1},
    {"forward_only": True},
)
OF_KEYS: tuple[dict[str, Any], ...] = ({}, {"batch_size": 1}, {"batch_size": 2, "lookback": 1}, {"forward_only": True})
OF_HISTORIES: tuple[dict[str, Any], ...] = tuple(
    {"forward_only": forward_only, "is_restatable": is_restatable}
    for forward_only in (None, False)
    for is_restatable in (False, True)
)
KINDS: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "by time": ("days", OF_DAYS),
    "signal": ("days", tuple({**options, "has_signal": True} for options in OF_DAYS)),
    "self": ("balance", OF_DAYS[:-1]),
    "full": ("full", ({},)),
    "view": ("view", ({},)),
    "materialized view": ("materialized", ({},)),
    "embedded": ("embedded", ({},)),
    "appending": ("appended", ({}, {"forward_only": False})),
    "seed": ("seed", ({},)),
    "unique key": ("keyed", OF_KEYS),
    "partition": ("partition", ({},)),
    "history": ("changes", OF_HISTORIES),
    "history by time": ("changes by time", OF_HISTORIES),
}
"""The kinds of the models, and the options of each."""
OF_SOURCE = ("by time", "by time", "by time", "signal", "self", "unique key", "partition")
"""Kinds of models that read the source. A kind that is there three times is chosen three times as often."""
OF_ONE = ("full", "view", "materialized view", "embedded", "history", "history by time")
"""Kinds of models that read one model. A row would be a part of the sum while one of two lacks its day."""


def draw_project(rng: random.Random, kind: str | None) -> Project:
    """Draw a project. Nothing reads an append-only model, or a history.

    Args:
        kind: The kind of the second model. None: any.
    """
    project = Project({})
    for number in range(rng.randint(3, 6)):
        reads_source, wanted = number == 0 or rng.random() < 0.2, kind if number == 1 else None
        project = project.with_model(draw_model(rng, f"m{number}", project, reads_source=reads_source, kind=wanted))
    shown = [name for name, model in project.models.items() if model.kind != "embedded"]
    return replace(project, standalone={rng.choice(shown): Audit(ALONE, highest=10**12, number=0)})


def draw_model(
    rng: random.Random, name: str, project: Project, *, reads_source: bool, kind: str | None = None
) -> Model:
    """Draw a model, whose rows are the sums of what it reads and a constant."""
    possible = [f"t.{m.name}" for m in project.models.values() if not m.is_protected and not m.is_history]
    reads = () if reads_source else tuple(rng.sample(possible, min(len(possible), rng.choice((1, 1, 2)))))
    if kind is None:
        kind = rng.choice((*OF_SOURCE, *(OF_ONE if len(reads) == 1 else ()), *(("appending", "seed") if reads else ())))
    elif kind not in OF_SOURCE:
        reads = (rng.choice(possible),)
    of_sqlmesh, options = KINDS[kind]
    shift = rng.randint(1, 9) * 1000
    return Model(
        name,
        of_sqlmesh,
        ("src.a",) if not reads or kind == "seed" else reads,
        sums=True,
        shift=shift,
        audits=(Audit(f"fine_{name}", highest=10**12),) if of_sqlmesh in ("days", "balance") else (),
        values=(shift,) * DAYS if kind == "seed" else (),
        **rng.choice(options),
    )


def reads_source(model: Model) -> bool:
    return model.reads == ("src.a",) and model.kind != "seed"


# -- one story -------------------------------------------------------------------------------------


@dataclass
class Job:
    """A job in a process of its own.

    Attributes:
        token: The value of its run's tag.
    """

    process: ForkedProcess
    token: str

    def has_ended(self) -> bool:
        return self.process.poll() is not None


@dataclass
class Story(Told):
    """A project, what was done, and what its tables must have.

    Attributes:
        prod: The promoted definitions.
        files: Those of the files.
        source: The rows of each day of the source.
        altered: The days whose value has changed.
        mixed: The models with rows of older definitions.
        held: The days that the signal of a model holds back.
        not_ready: Those that prod's model did not have when its signal began to hold them back.
        failing: The numbers with which the standalone audit finds rows.
        is_bad: Whether an audit fails.
        is_raced: Whether actions were launched while runs had to wait for the last plan.
        is_disturbed: Whether the last plan was told to fail, or an audit or a signal could fail it.
        is_cut: Whether the last plan was killed or cancelled while runs had to wait for it.
        later: Jobs that were launched at a pause, and had to wait.
        days: The days that each model had as computed at the last look.
        computed_rows: The hours of each row of SQLMesh's state that a computation has written.
    """

    rng: random.Random
    shop: Shop
    database: Database
    prod: Project
    files: Project
    source: Rows
    altered: set[str] = field(default_factory=set)
    mixed: set[str] = field(default_factory=set)
    held: dict[str, set[str]] = field(default_factory=dict)
    not_ready: dict[str, set[str]] = field(default_factory=dict)
    failing: set[int] = field(default_factory=set)
    is_bad: bool = False
    is_raced: bool = False
    is_disturbed: bool = False
    is_cut: bool = False
    later: list[Job] = field(default_factory=list)
    days: dict[str, set[str]] = field(default_factory=dict)
    computed_rows: dict[str, Any] = field(default_factory=dict)
    cursor: str | None = None

    def note(self, text: str) -> None:
        self.log.append(text)
        self.counts[text.split(":")[0]] += 1

    # -- launching

    @property
    def assets(self) -> list[str]:
        """The assets of models that prod shows and that the files still have."""
        shown = self.prod.models.items()
        return [f"t/{name}" for name, model in shown if name in self.files.models and model.kind != "embedded"]

    def launch(self, assets: Collection[str], tags: dict[str, str] | None = None, **config: Any) -> RunRecord:
        record = self.shop.launch(assets=sorted(assets), ops={OP: config} if config else None, tags=tags)
        self.check_alone(record)
        return record

    def job(self, name: str, tags: dict[str, str] | None = None, **config: Any) -> RunRecord:
        return self.shop.run_record(executed(self.shop, self.shop.instance, name, config, tags))

    def fork(self, role: str, launch: Callable[[Story, dict[str, str]], object]) -> Job:
        token = uuid.uuid4().hex

        def call(instance: dg.DagsterInstance) -> str:
            os.environ[ROLE] = role
            shop = Shop(self.shop.root, instance, self.shop.project, is_loaded=True)
            launch(replace(self, shop=shop), {"story": token})
            return ""

        return Job(self.shop.start_fork(call), token)

    def ended(self, job: Job) -> RunRecord | None:
        """The run of a job that has ended. If its process was killed, Dagster learns it, as by run monitoring."""
        for run in self.shop.instance.get_runs(dg.RunsFilter(tags={"story": job.token})):
            if not run.is_finished:
                self.shop.instance.report_run_failed(run)
            return self.shop.run_record(run.run_id)
        return None

    # -- gates

    def gates(self, role: str) -> Path:
        return self.shop.project / "gates" / role

    def stop(self, role: str, ahead: int, verdict: str = "pause") -> None:
        """Let a coming batch of a role pause, fail or kill its worker. On DuckDB it has the file: it pauses briefly."""
        done = len(list(self.gates(role).glob("batch-*")))
        if verdict == "pause" and self.database.held_locks is None:
            verdict = "pause briefly"
        (self.gates(role) / f"stop-{done + ahead}").write_text(verdict)

    def clear(self, role: str) -> None:
        for file in (*self.gates(role).glob("stop-*"), *self.gates(role).glob("paused-*")):
            file.unlink(missing_ok=True)

    def pauses(self, role: str) -> list[Path]:
        return sorted(self.gates(role).glob("paused-*"))

    def runs_wait(self) -> bool:
        """Whether a plan or the janitor keeps runs from starting."""
        held_locks = self.database.held_locks
        return held_locks is None or held_locks() > 1  # that of changes, and that of runs

    # -- checks

    def check_prod(self, *, is_end: bool = False) -> None:
        state = self.database.state()
        for row, (hours, is_new) in ((row, of) for rows in state.rows.values() for row, of in rows.items()):
            if is_new:
                self.computed_rows[row] = hours
        lost = dict(self.days)
        for name, model in self.prod.models.items():
            if model.is_table:
                self.days[name] = {day for day in self.source if hour_of(day) in state.computed[name]}
            else:  # it shows what it reads
                read = [self.days[table[2:]] if table != "src.a" else {*self.source} for table in model.reads]
                self.days[name] = set.intersection(*read)
            if model.kind == "embedded":
                continue
            rows = self.rows(f"t.{name}", model)
            gone = (self.days[name] if model.is_table else lost.get(name, set())) - rows.keys()
            assert not gone, f"lost: t.{name} counts as computed, and has no rows, for {sorted(gone)}"
            if model.is_table:
                gone = lost.get(name, set()) - rows.keys()
                assert not gone, f"lost: t.{name} has no rows any more for {sorted(gone)}"
            lacking = self.source.keys() - rows.keys() if is_end else set()
            assert not lacking, f"lost: {name} lacks {sorted(lacking)}"
            early = {day for day in self.not_ready.get(name, ()) if day in self.days[name]}
            assert not early, f"early: t.{name} was computed before its signal was ready: {early}"
            if name not in self.mixed:
                compared = self.days[name] - (self.altered if model.is_protected else set())
                self.compare(f"t.{name}", {day: rows[day] for day in compared & rows.keys()}, self.prod)

    def rows(self, table: str, model: Model) -> Rows:
        """The rows of each day. One of a history is the current one."""
        rows = self.database.rows(table, "WHERE valid_to IS NULL" if model.is_history else "")
        double = sorted(day for day, values in rows.items() if len(values) > 1)
        assert not double, f"rows: {table} has days twice: {double}"
        if model.is_history:
            self.check_history(table)
        return rows

    def compare(self, table: str, rows: Rows, project: Project) -> None:
        twin = project.twin({"a": self.source})[table.split(".")[1]]
        wrong = {day: (values, twin.get(day)) for day, values in sorted(rows.items()) if values != twin.get(day)}
        assert not wrong, f"rows: {table} has wrong rows (found, expected): {wrong}"

    def check_history(self, table: str) -> None:
        """Each value of a day is valid until the next one."""
        of_days: dict[str, list[tuple[Any, ...]]] = {}
        for day, *row in self.database.query(f"SELECT day, valid_from, valid_to, v FROM {table} ORDER BY 1, 2"):
            of_days.setdefault(str(day), []).append(tuple(row))
        for day, rows in of_days.items():
            is_whole = all(before[1] == after[0] and before[2] != after[2] for before, after in pairwise(rows))
            assert is_whole, f"rows: {table} has a wrong history of {day}: {rows}"

    def check_preview(self) -> None:
        """A preview has views of changed models only. A forward-only model has other rows in it than prod will have."""
        tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 't__pr_1'"
        kept = [name for name, model in self.files.models.items() if model.keeps_rows]
        other = self.files.downstream([*kept, *self.mixed]) | self.not_computed()
        shown = {name for (name,) in self.database.query(tables)} - other
        self.counts["previewed models compared"] += len(shown)
        for name in shown:
            model = self.files.models[name]
            self.compare(f"t__pr_1.{name}", self.rows(f"t__pr_1.{name}", model), self.files)

    def leave_out_held(self, names: Collection[str]) -> None:
        """Let models lose the first day that a signal holds back, and later ones: SQLMesh may leave out these too."""
        first = min((day for days in self.held.values() for day in days), default="9999")
        for name in self.prod.downstream(self.held) & self.days.keys() & set(names):
            self.days[name] = {day for day in self.days[name] if day < first}

    @property
    def number(self) -> int:
        """That of the promoted standalone audit."""
        return next(iter(self.prod.standalone.values())).number or 0

    def check_alone(self, record: RunRecord) -> bool:
        """The standalone audit fails exactly if the promoted one finds rows. Return whether a run has evaluated it."""
        [(reads, alone)] = self.files.standalone.items()
        result = record.checks.get(f"t/{reads}:{ALONE}")
        if result is None or result.metadata.keys() & {"sqlmesh/carried_over", "sqlmesh/not_evaluated"}:
            return False
        numbers = {self.number, alone.number or 0} if self.is_raced else {self.number}
        finds = {number in self.failing for number in numbers}
        assert (not result.passed) in finds, f"fails: {ALONE}: {result.passed}, failing {self.failing}, {numbers}"
        assert result.severity is dg.AssetCheckSeverity.WARN, f"fails: {ALONE} blocks"
        self.counts[f"standalone audits that {'passed' if result.passed else 'failed'}"] += 1
        return True

    def check_records(self) -> None:
        """Dagster has recorded each computed day, and none more often than SQLMesh has computed it.

        Raises:
            AssertionError: It has not.
        """
        state = self.database.state()
        # SQLMesh has merged the rows of computations, and left out those that a restatement has removed.
        [(is_compacted,)] = self.database.query("SELECT count(*) > 0 FROM sqlmesh._intervals WHERE is_compacted")
        for name, model in self.prod.models.items():
            if not model.has_time:
                continue
            recorded = recorded_of(self.shop.instance, name, state.versions[name])
            lacking = state.computed[name] - recorded.keys()
            assert not lacking, f"records: t.{name} has no record of {text_of(lacking)}"
            rows = Counter(hour for row in state.rows[name] for hour in self.computed_rows.get(row, ()))
            double = [hour for hour, number in recorded.items() if number > rows[hour]]
            assert is_compacted or not double, (
                f"records: t.{name} has recorded {text_of(double)} more often than computed"
            )
            self.counts["models with compared records"] += 1
            once = [hour for hour, number in recorded.items() if number > 1] if model.kind == "appended" else []
            assert not once, f"records: t.{name} is append-only, and has recorded {text_of(once)} more than once"

    # -- changes

    def write(self) -> None:
        """Write the files of the models."""
        for file in (self.shop.project / "models").glob("*.sql"):
            if file.stem not in self.files.models:
                file.unlink()
        for path, text in self.files.files(list(self.source)).items():
            (self.shop.project / path).write_text(text)
        self.shop.refresh()

    def change(self) -> None:
        """Change one or two models: another constant, a column more, a new model, or one less. Change the audit too."""
        [(audited, alone)] = self.files.standalone.items()
        computing = [name for name, model in self.files.models.items() if model.is_table and not model.keeps_rows]
        for number in range(self.rng.choice((1, 1, 2))):
            name = self.rng.choice(list(self.files.models) if number or not computing else computing)
            model = self.files.models[name]
            kind = self.rng.choice(("constant", "constant", "constant", "column", *("new", "removed") * number))
            if kind == "removed" and model in self.files.leaves() and len(self.files.models) > 3:
                self.files = self.files.without(name)
            elif kind == "new":
                name = f"m{10 + len(self.log)}{len(self.files.models)}"
                self.files = self.files.with_model(draw_model(self.rng, name, self.files, reads_source=False))
            elif kind == "constant" and not model.keeps_rows:
                values = tuple(value + 10_000 for value in model.values)
                self.files = self.files.with_model(replace(model, shift=model.shift + 10_000, values=values))
            else:
                kind = "column"
                self.files = self.files.with_model(replace(model, columns=model.columns + 1))
            self.note(f"change {kind}: {name}")
        if self.rng.random() < 0.4:
            self.files = replace(self.files, standalone={audited: replace(alone, number=(alone.number or 0) + 1)})
            self.note(f"change audit: {ALONE}")
        self.write()

    def promoted(self) -> None:
        """The files were applied. Models that keep their rows now have some of older definitions."""
        changed = [name for name in self.files.models if self.has_other_values(name)]
        kept = [name for name in self.files.downstream(changed) if self.files.models[name].keeps_rows]
        self.mixed = (self.mixed | self.files.downstream(kept) | self.not_computed()) & self.files.models.keys()
        self.prod = self.files
        # SQLMesh promotes a new version without the days that its signal holds back (docs/plans.md).
        self.leave_out_held(self.prod.models)
        self.days = {name: days for name, days in self.days.items() if name in self.prod.models}
        self.not_ready.clear()  # the new version may have been planned before its signal held them back

    def not_computed(self) -> set[str]:
        """Models with a breaking change upstream, of which no direct parent has one. They keep their rows.

        A model that only has new columns is computed again, and SQLMesh takes its change for one that breaks nothing.
        """
        prod, models = self.prod.models, self.files.models
        breaking: set[str] = set()
        kept: set[str] = set()
        changed = self.files.downstream([name for name in models if models[name] != prod.get(name)])
        for name, model in models.items():  # upstream models first
            is_wider = name in prod and model.columns != prod[name].columns
            is_broken = bool(breaking & {table.removeprefix("t.") for table in model.reads}) and not is_wider
            # On PostgreSQL, SQLMesh creates a plain view. Each change upstream counts as one that breaks it.
            is_broken |= model.kind == "materialized" and name in changed
            if self.has_other_values(name) or is_broken:
                breaking.add(name)
            elif name in self.files.downstream(breaking) & prod.keys() and not is_wider:
                kept.add(name)
        return self.files.downstream(kept)

    def has_other_values(self, name: str) -> bool:
        """Whether the values of a model of prod are changed by the files."""
        return name in self.prod.models and self.files.models[name].shift != self.prod.models[name].shift

    # -- plans

    def apply(self) -> None:
        """Apply the files, and launch the job again until it has succeeded."""
        digest, lost = self.digest(), list[str]()
        for attempt in range(8):
            if attempt > 3:
                mend(self)
                release(self)
            record = self.beside("apply", partial(launch_apply, digest, lost), attempt)
            if record and record.status is dg.DagsterRunStatus.SUCCESS:
                self.note("applied")
                self.promoted()
                self.check_prod()
                return
            text = failure_of(record)
            self.note(f"apply has failed: {text[:300]}")
            if not self.is_cut:  # prod shows what it showed before: a promotion that fails is taken back
                self.check_prod()
            if reason := [name for name in ("digest:", "moved:", "Build a new plan") if name in text]:
                self.note(f"planned again because of {reason[0]}")
                digest = self.digest()
            elif "lost_intervals:" in text and not lost:
                lost = sorted(set(re.findall(r"t\.\w+(?= \()", text)))
                made_new = {f"t.{m.name}" for m in self.files.models.values() if m.is_history or m.is_protected}
                assert made_new.issuperset(lost), f"lost: the apply would lose rows of {lost}"
            else:
                assert self.is_disturbed, f"fails: an undisturbed apply: {text}"
        raise AssertionError("fails: the apply does not succeed")

    def digest(self) -> str:
        record = self.job(PLAN).succeeded()
        return record.tags["sqlmesh/plan_digest"]

    def preview(self) -> None:
        for attempt in range(8):
            if attempt > 1:
                mend(self)
                release(self)
                run_of_all(self)
            record = self.beside("preview", launch_preview, attempt)
            if record and record.status is dg.DagsterRunStatus.SUCCESS:
                self.note("previewed")
                if not self.is_raced:  # else a restatement may have come after the preview
                    self.check_preview()
                return
            self.note(f"preview has failed: {failure_of(record)[:300]}")
        raise AssertionError("fails: the preview does not succeed")

    def beside(self, role: str, launch: Callable[[Story, dict[str, str]], object], attempt: int) -> RunRecord | None:
        """Launch a plan in a process of its own, and act at its pauses. Return its run."""
        for ahead in (self.rng.choice((0, 0, 1)), *self.rng.sample((2, 3, 5, 8), 2)) if attempt < 4 else ():
            self.stop(role, ahead)
        job = self.fork(role, launch)
        self.is_raced = self.is_disturbed = self.is_cut = False
        self.look_for_trouble()
        while True:
            wait_until(lambda: bool(self.pauses(role)) or job.has_ended())
            paused = self.pauses(role)
            if not paused:
                break
            self.at_pause(role, paused[0], job)
        self.clear(role)
        return self.ended(job)

    def at_pause(self, role: str, paused: Path, job: Job) -> None:
        """Do something while a plan pauses, and let it go on or not."""
        stop = paused.with_name(paused.name.replace("paused", "stop"))
        verdict = self.rng.choices(("go", "fail", "kill", "cancel", "kill run"), (14, 1, 1, 1, 1))[0]
        actions = self.rng.choices(list(ACTIONS), list(ACTIONS.values()), k=self.rng.choice((0, 1, 2, 2, 3)))
        has_lock = self.runs_wait()
        self.counts[f"{role} told to {verdict}"] += 1
        self.note(f"{role} pauses{' and runs wait' if has_lock else ''}: {paused.name}, {verdict}")
        if has_lock:
            self.clear(role)  # else it would pause again while the runs of this pause wait for it
            self.is_raced = True
            self.days.clear()  # what these actions change is not looked at before the plan promotes
        self.is_disturbed |= has_lock or verdict != "go"
        self.is_cut |= has_lock
        for action in actions:
            before = {run.run_id for run in self.shop.instance.get_runs()}
            self.counts[action.__name__] += 1
            action(self)
            self.look_for_trouble()
            if not has_lock:
                self.check_prod()
                new = [run for run in self.shop.instance.get_runs() if run.run_id not in before]
                logs = [self.shop.run_record(r.run_id).log for r in new if "story" not in r.tags]
                waits = any("Waiting" in log for log in logs)
                assert not waits, f"waits: a run waits while the {role} computes: {logs}"
        if verdict in ("cancel", "kill run"):
            worker = int(paused.read_text() or 0) if paused.exists() else 0
            job.process.send_signal(signal.SIGTERM if verdict == "cancel" else signal.SIGKILL)
            wait_until(lambda: job.has_ended() and not is_alive(worker))
            self.clear(role)
        elif not has_lock and stop.exists() and verdict != "go":
            stop.write_text(verdict)
        else:
            stop.unlink(missing_ok=True)
        wait_until(lambda: not paused.exists() or job.has_ended() or verdict in ("kill", "fail"))
        paused.unlink(missing_ok=True)

    def look_for_trouble(self) -> None:
        """Note what can let a batch of the plan fail, or lets it leave days out."""
        self.is_disturbed |= self.is_bad or bool(self.held)

    def end_later(self) -> None:
        """Wait for the jobs that were launched at a pause and had to wait."""
        for job in self.later:
            wait_until(job.has_ended)
            record = self.ended(job)
            ok = record and record.status is dg.DagsterRunStatus.SUCCESS
            failure = failure_of(record)
            # An audit had to fail while it ran, or a restatement of prod has left out an older day.
            is_reason = re.search(r"failed its audit|audit error|pending_upstream", failure)
            assert ok or is_reason, f"fails: a job that waited: {failure}"
        self.later.clear()

    def end(self) -> None:
        """Correct everything, run everything, and check; then restate everything, and check again."""
        self.end_later()
        mend(self)
        release(self)
        record = run_of_all(self)
        statuses = {asset: record.status_of(asset) for asset in self.assets}
        assert {*statuses.values()} <= {"executed", "up_to_date"}, f"records: outcomes of the last run: {statuses}"
        self.check_prod(is_end=True)
        sensor(self)
        self.check_records()
        fail_alone(self, {self.number})
        [reads] = self.prod.standalone
        record = self.shop.launch(checks=[f"t/{reads}:{ALONE}"])
        assert self.check_alone(record), f"fails: {ALONE} was not evaluated: {record.failures}"
        succeed(self, record)
        restated = [f"t/{name}" for name, model in self.prod.models.items() if model.is_restated]
        self.launch(restated, restate={"start": min(self.source), "end": max(self.source)}).succeeded()
        self.mixed = {name for name, model in self.prod.models.items() if model.is_protected}
        self.check_prod(is_end=True)
        self.check_records()
        held_locks = self.database.held_locks
        assert not (held_locks and held_locks()), "waits: a lock is left"


def launch_apply(digest: str, lost: list[str], story: Story, tags: dict[str, str]) -> None:
    story.job(APPLY, tags, digest=digest, allow_lost_intervals=lost)


def launch_preview(story: Story, tags: dict[str, str]) -> None:
    story.job(PREVIEW, tags, allow_pending=True)


def failure_of(record: RunRecord | None) -> str:
    if record is None:
        return "no run"
    errors = [event.event_specific_data.error for event in record.events(dg.DagsterEventType.STEP_FAILURE)]
    return " ".join([*record.failures, *(error.to_string()[:600] for error in errors if error)]) or record.log[-800:]


def is_alive(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()


# -- actions at pauses -----------------------------------------------------------------------------


def succeed(story: Story, record: RunRecord) -> None:
    """A run fails only for a reason."""
    story.counts["runs"] += 1
    is_ok = record.status is dg.DagsterRunStatus.SUCCESS
    assert is_ok or story.is_bad, f"fails: a run: {record.failures}"


def run_of_all(story: Story) -> RunRecord:
    story.note("run of all")
    record = story.launch(story.assets)
    succeed(story, record)
    return record


def run_with_janitor(story: Story) -> None:
    story.note("run with janitor")
    succeed(story, story.launch(story.assets, skip_janitor=False))


def run_of_subset(story: Story) -> None:
    names = story.rng.sample(story.assets, story.rng.randint(1, len(story.assets)))
    story.note(f"run of subset: {names}")
    succeed(story, story.launch(names))


def run_until(story: Story) -> None:
    end = story.rng.choice(list(story.source)[-3:])
    story.note(f"run until: {end}")
    succeed(story, story.launch(story.assets, end=end))


def restatement(story: Story) -> None:
    """Change the source, and restate what reads it."""
    first, last = sorted(story.rng.choice(list(story.source)) for _ in range(2))
    for day, [(k, value)] in story.source.items():
        if first <= day <= last:
            story.source[day] = [(k, value + 100)]
            story.altered.add(day)
    story.database.query(f"UPDATE src.a SET v = v + 100 WHERE day BETWEEN '{first}' AND '{last}'")
    if any(model.kind == "balance" for model in (story.prod.models | story.files.models).values()):
        story.altered |= {day for day in story.source if first <= day}  # each day has the one before in it
    readers = [name for name, model in story.prod.models.items() if reads_source(model)]
    names = [name for name in readers if name in story.files.models]
    story.mixed |= story.prod.downstream(set(readers) - set(names))  # no asset any more, so nobody restates them
    record = story.launch([f"t/{name}" for name in names], restate={"start": first, "end": last})
    story.note(f"restatement: {names} {first} {last} {record.status.value}")
    is_ok = record.status is dg.DagsterRunStatus.SUCCESS
    assert is_ok or story.is_bad or story.held, f"fails: a restatement: {record.failures}"


def hold(story: Story) -> None:
    """Let the signal of a model hold back some days."""
    names = [name for name, model in story.prod.models.items() if model.has_signal]
    if not names:
        return
    name, days = story.rng.choice(names), set(story.rng.sample(list(story.source)[-3:], story.rng.randint(1, 2)))
    (story.shop.project / f"closed_{name}").write_text(" ".join(days))
    story.held[name] = days
    if not story.is_raced:
        story.not_ready[name] = days - story.database.rows(f"t.{name}").keys()
    story.note(f"signal holds back: {name} {sorted(days)}")


def release(story: Story) -> None:
    for name in story.held:
        (story.shop.project / f"closed_{name}").unlink()
    story.held.clear()
    story.not_ready.clear()
    story.note("signals are ready")


def tick(story: Story) -> None:
    requests = evaluate_tick(story.shop).run_requests or ()
    story.note(f"tick: {len(requests)}")
    for request in requests:
        keys = [key.to_user_string() for key in request.asset_selection or ()]
        succeed(story, story.launch([key for key in keys if key in story.assets]))


def sensor(story: Story) -> None:
    repository = story.shop.refresh().get_repository_def()
    context = dg.build_sensor_context(story.shop.instance, story.cursor, repository_def=repository)
    result = repository.get_sensor_def(f"{OP}_sensor").evaluate_tick(context)
    story.cursor = result.cursor or story.cursor
    for event in result.asset_events:
        story.shop.instance.report_runless_asset_event(event)
    story.note(f"sensor: {len(result.asset_events)} events")


def janitor_later(story: Story) -> None:
    story.note("janitor waits")
    story.later.append(story.fork("later", lambda forked, tags: forked.job(JANITOR, tags)))


def preview_later(story: Story) -> None:
    story.note("preview waits")
    story.later.append(story.fork("later", launch_preview))


def failing_audit(story: Story) -> None:
    """Let the audit of a model fail for a day, and run."""
    names = [name for name, model in story.prod.models.items() if model.audits]
    if names:
        name, day = story.rng.choice(names), story.rng.choice(list(story.source))
        with (story.shop.project / "failing").open("a") as file:
            file.write(f"fine_{name} {day}\n")
        story.is_bad = True
        story.note(f"failing audit: {name} {day}")
        story.launch(story.assets)


def failing_standalone_audit(story: Story) -> None:
    """Let a standalone audit find rows. It blocks nothing, so no run fails."""
    fail_alone(story, set(story.rng.choice(((0,), (1,), (0, 1), ()))))
    story.note(f"failing standalone audit: {story.failing}")
    run_of_subset(story)


def fail_alone(story: Story, numbers: set[int]) -> None:
    story.failing = numbers
    story.database.end_causes()
    for number in numbers:
        story.database.add_cause(f"{ALONE} {number}", min(story.source))


def mend(story: Story) -> None:
    (story.shop.project / "failing").unlink(missing_ok=True)
    story.is_bad = False
    story.note("mend")


def failing_run(story: Story) -> None:
    """Let a batch of a run fail, or kill its worker."""
    verdict = story.rng.choice(("fail", "kill"))
    story.stop("run", story.rng.choice((0, 0, 1, 2)), verdict)
    record = story.launch(story.assets)
    story.clear("run")
    story.note(f"run in which a batch has to {verdict}: {record.status.value}")


def killed_run(story: Story) -> None:
    """Kill the process of a run before one of its batches."""
    story.stop("killed", story.rng.choice((0, 0, 1, 2)))
    assets = story.assets
    job = story.fork("killed", lambda forked, tags: forked.launch(assets, tags))
    wait_until(lambda: bool(story.pauses("killed")) or job.has_ended())
    if paused := story.pauses("killed"):
        worker = int(paused[0].read_text() or 0)
        job.process.kill()
        wait_until(lambda: job.has_ended() and not is_alive(worker))
    story.clear("killed")
    record = story.ended(job)
    story.note(f"run that is killed: {record and record.status.value}")


ACTIONS: dict[Callable[[Story], object], int] = {
    run_of_all: 3,
    run_of_subset: 3,
    run_until: 3,
    run_with_janitor: 1,
    restatement: 4,
    tick: 2,
    sensor: 1,
    janitor_later: 1,
    preview_later: 1,
    failing_audit: 1,
    failing_standalone_audit: 1,
    hold: 2,
    release: 1,
    mend: 1,
    failing_run: 2,
    killed_run: 1,
}


# -- the command -----------------------------------------------------------------------------------


def try_story(seed: int, engine: str, folder: Path, servers: Servers, kind: str | None = None) -> Story:
    """Tell one story.

    Args:
        kind: The kind of the second model. None: any.
    """
    rng = random.Random(seed)
    days = [str(today() - timedelta(days=ago)) for ago in range(DAYS, 0, -1)]
    source: Rows = {day: [(0, rng.randint(1, 9))] for day in days}
    project = draw_project(rng, kind)
    attributes: dict[str, Any] = {
        "deploy": True,
        "preview": {"environment": "pr_1"},
        "restate": True,
        "schedule": {"cron": "@daily"},
        "polling_sensor": True,
        "janitor": True,
        "intervals_check": True,
        "execution": {"overlap_timeout": 250},
    }
    tasks = rng.choice((1, 1, 2))
    with servers.database(engine, folder / "shop", days[0], tasks) as database:
        database.create_tables({"a": source})
        files = project.files(days) | {f"gates/{role}/none": "" for role in ROLES} | {"seeds/none": ""}
        with planned_shop(folder, files, database.config, planned_at=None, **attributes) as shop:
            shop.plan()
            shop.refresh()
            story = Story(rng, shop, database, project, project, source)
            story.log += [model.file() for model in project.models.values()]
            with story.to_its_end():
                act(story)
            for job in story.later:
                wait_until(job.has_ended)
    return story


def act(story: Story) -> None:
    story.check_prod()
    if story.rng.random() < 0.5:
        hold(story)
    for _ in range(story.rng.choice((1, 1, 2))):
        story.change()
        if story.rng.random() < 0.3:
            story.preview()
        story.apply()
    story.end()


if __name__ == "__main__":
    tell(__doc__, try_story, ENGINES, stories=100, kind=KINDS)
