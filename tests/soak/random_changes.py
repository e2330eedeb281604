"""Apply and preview random changes while random actions go on, and compare rows and records after each of them.

    python tests/soak/random_changes.py --stories 100 --seed 1

A story has a random project with some pending days, on PostgreSQL or, with `--duckdb`, on DuckDB. One or two changes of
files are previewed and applied by processes of their own, which pause before random batches. Meanwhile come runs,
restatements, ticks, the sensor, the janitor, failing audits, signals that hold days back, cancels and kills. No run may
wait for a plan that computes new versions. After each action, prod must have the rows that its definitions give of the
source, and after an apply no day less, unless a signal holds it back. A day that a signal holds back is not computed. A
standalone audit fails exactly if the promoted one finds rows. At the end, all days are there, append-only models have
each day once, and Dagster has recorded each computed interval, and none more often than it was computed.

The expected rows are computed here, of the models' constants. A model that keeps rows of an older definition has only
its days compared, until everything is restated. A model that SQLMesh does not restate (`disable_restatement`) may keep
the older value of a day. An SCD_TYPE_2 model has one current row of each day, and its values follow one another.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
import duckdb
import mariadb
import worker_zygote
from computed_hours import HOUR, State, recorded_hours, text_of
from dagster._utils.interrupts import setup_interrupt_handlers
from drawn import try_seeds
from harness import (
    CONFIG,
    RunRecord,
    Shop,
    dagster_project,
    plan,
    reconstructable_job,
    version_of,
    wait_until,
    write_project,
)
from harness import query as query_duckdb
from postgres import Server, new_postgres_server
from summing_models import (
    AUDIT,
    KINDS,
    MACRO,
    SIGNAL,
    Model,
    Models,
    StandaloneAudit,
    downstream,
    random_model,
    random_models,
)

DAYS = 6
"""How many days the source has. The first plan computes those before the last three."""
OP = "sqlmesh_shop"
PLAN, APPLY, PREVIEW, JANITOR = (f"{OP}_{job}" for job in ("plan", "apply", "preview", "janitor"))
ROLE = "STORY_ROLE"


HELD_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"


@dataclass
class Servers:
    """Where stories are told.

    Attributes:
        tables: None: on DuckDB.
        state: The server of SQLMesh's state, if that is not where the tables are.
    """

    tables: Server | None = None
    state: mariadb.Server | None = None


@dataclass
class Warehouse:
    """Where a story's tables and SQLMesh's state are.

    Attributes:
        config: The text of `config.yaml`.
        ask: Runs SQL on the tables. On DuckDB, it waits until no process has the file.
        ask_state: Runs SQL on SQLMesh's state.
        held_locks: The number of locks on the state that are held. None: on DuckDB, whose file is the lock.
    """

    config: str
    ask: Callable[[str], list[tuple[Any, ...]]]
    ask_state: Callable[[str], list[tuple[Any, ...]]]
    held_locks: Callable[[], int] | None = None


# -- one story ------------------------------------------------------------------------------------


@dataclass
class Story:
    """A project, what was done, and what its tables must have.

    Attributes:
        prod: The promoted definitions.
        files: Those of the files.
        alone: The standalone audit of the files.
        number: The number of the promoted standalone audit.
        failing: The numbers with which it finds rows.
        source: The value of each day of the source.
        altered: The days whose value has changed.
        mixed: The models with rows of older definitions.
        unfinished: Restatements that have failed: models, first and last day.
        waiting: The models whose rows a restatement has left, because they wait for a day that a kill left out.
        held: The days that the signal of a model holds back.
        not_ready: Those that prod's model did not have when its signal began to hold them back.
        is_bad: Whether an audit fails.
        is_raced: Whether actions were launched while runs had to wait for the last plan.
        is_disturbed: Whether the last plan was told to fail, or an audit, a restatement or a signal could fail it.
        later: The processes of jobs that were launched at a pause, by the value of their run's tag.
        days: The days that each model had as computed at the last look.
        computed_rows: The hours of each row of SQLMesh's state that a computation has written.
    """

    rng: random.Random
    shop: Shop
    warehouse: Warehouse
    prod: Models
    files: Models
    source: dict[str, int]
    alone: StandaloneAudit
    number: int = 0
    failing: set[int] = field(default_factory=set)
    altered: set[str] = field(default_factory=set)
    mixed: set[str] = field(default_factory=set)
    unfinished: list[tuple[list[str], str, str]] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    held: dict[str, set[str]] = field(default_factory=dict)
    not_ready: dict[str, set[str]] = field(default_factory=dict)
    is_bad: bool = False
    is_raced: bool = False
    is_disturbed: bool = False
    later: dict[str, int] = field(default_factory=dict)
    days: dict[str, set[str]] = field(default_factory=dict)
    computed_rows: dict[str, Any] = field(default_factory=dict)
    cursor: str | None = None
    actions: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def note(self, text: str) -> None:
        self.actions.append(text)
        self.counts[text.split(":")[0]] += 1

    # -- launching

    @property
    def assets(self) -> list[str]:
        """The assets of models that prod shows and that the files still have."""
        return [f"t/{name}" for name in self.prod if name in self.files and self.prod[name].kind != "EMBEDDED"]

    def launch(self, assets: Collection[str], tags: dict[str, str] | None = None, **config: Any) -> RunRecord:
        record = self.shop.launch(assets=sorted(assets), ops={OP: config} if config else None, tags=tags)
        self.check_alone(record)
        return record

    def job(self, name: str, tags: dict[str, str] | None = None, **config: Any) -> RunRecord:
        job = reconstructable_job(self.shop.root, {"launch": [uuid.uuid4().hex]}, name)
        run_config = {"execution": {"config": {"in_process": {}}}, "ops": {name: {"config": config}} if config else {}}
        with dg.execute_job(job, instance=self.shop.instance, run_config=run_config, tags=tags) as done:
            return self.shop.run_record(done.run_id)

    def fork(self, role: str, launch: Callable[[Story, dict[str, str]], object]) -> tuple[int, str]:
        """Launch something in a process of its own. Return its process id, and the value of its run's tag."""
        token = uuid.uuid4().hex
        if pid := os.fork():
            return pid, token
        status = 1
        try:
            os.setsid()
            os.environ[ROLE] = role
            with (self.shop.project.parent / "log").open("a") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            setup_interrupt_handlers()  # as in the process of a run
            with dg.DagsterInstance.from_config(self.shop.instance.root_directory) as instance:
                shop = Shop(self.shop.root, instance, self.shop.project, is_loaded=True)
                launch(replace(self, shop=shop), {"story": token})
            status = 0
        except BaseException:  # noqa: BLE001  # the process ends here
            traceback.print_exc()
        finally:
            os._exit(status)

    def ended(self, token: str) -> RunRecord | None:
        """The run of a process that has ended. If the process was killed, Dagster learns it, as by run monitoring."""
        for run in self.shop.instance.get_runs(dg.RunsFilter(tags={"story": token})):
            if not run.is_finished:
                self.shop.instance.report_run_failed(run)
            return self.shop.run_record(run.run_id)
        return None

    # -- gates

    def gates(self, role: str) -> Path:
        return self.shop.project / "gates" / role

    def stop(self, role: str, ahead: int, verdict: str = "pause") -> None:
        """Let a coming batch of a role pause, fail or kill its worker."""
        done = len(list(self.gates(role).glob("batch-*")))
        (self.gates(role) / f"stop-{done + ahead}").write_text(verdict)

    def clear(self, role: str) -> None:
        for file in (*self.gates(role).glob("stop-*"), *self.gates(role).glob("paused-*")):
            file.unlink(missing_ok=True)

    def pauses(self, role: str) -> list[Path]:
        return sorted(self.gates(role).glob("paused-*"))

    def runs_wait(self) -> bool:
        """Whether a plan or the janitor keeps runs from starting."""
        held_locks = self.warehouse.held_locks
        return held_locks is None or held_locks() > 1  # that of changes, and that of runs

    # -- checks

    def expected(self, name: str, of_day: str, models: Models) -> int:
        model = models[name]
        read = [self.expected(parent, of_day, models) for parent in model.reads]
        own = model.constant + (self.source[of_day] if model.reads_source else 0)
        earlier = max((other for other in self.source if other < of_day), default=None)
        past = self.expected(name, earlier, models) if model.reads_itself and earlier else 0
        return sum(read) + own + past

    def check(
        self, models: Models, schema: str = "t", shown: Collection[str] | None = None, *, is_end: bool = False
    ) -> None:
        """Compare the rows of an environment with what its definitions give.

        Raises:
            AssertionError: They differ, a day is missing, or an append-only model has one twice.
        """
        for model in models.values():
            if model.kind == "EMBEDDED" or (shown is not None and model.name not in shown):
                continue
            current = " WHERE valid_to IS NULL" if model.is_history else ""
            found = self.warehouse.ask(f"SELECT day, n FROM {schema}.{model.name}{current}")
            rows = [(str(row[0]), row[1]) for row in found]
            count = Counter(of_day for of_day, _ in rows)
            double = sorted(of_day for of_day, number in count.items() if number > 1)
            assert not double, f"{schema}.{model.name} has rows twice: {double}"
            lost = self.days.get(model.name, set()) - count.keys() if schema == "t" else set()
            assert not lost, f"t.{model.name} has lost {sorted(lost)}"
            if is_end:
                assert count.keys() == self.source.keys(), f"{model.name} lacks {sorted(self.source.keys() - count)}"
            self.check_values(model, dict(rows), models, schema)
            if model.is_history:
                self.check_history(f"{schema}.{model.name}")

    def check_history(self, table: str) -> None:
        """Each value of a day is valid until the next one."""
        of_days: dict[str, list[tuple[Any, ...]]] = {}
        for of_day, *row in self.warehouse.ask(f"SELECT day, valid_from, valid_to, n FROM {table} ORDER BY 1, 2"):
            of_days.setdefault(str(of_day), []).append(tuple(row))
        for of_day, rows in of_days.items():
            is_whole = all(before[1] == after[0] and before[2] != after[2] for before, after in pairwise(rows))
            assert is_whole, f"{table} has a wrong history of {of_day}: {rows}"

    def check_values(self, model: Model, rows: dict[str, int], models: Models, schema: str) -> None:
        if self.unfinished or model.name in self.mixed | downstream(models, self.waiting):
            return
        rows = {of_day: n for of_day, n in rows.items() if not (model.is_protected and of_day in self.altered)}
        wanted = {of_day: self.expected(model.name, of_day, models) for of_day in rows}
        bad = {of_day: (n, wanted[of_day]) for of_day, n in sorted(rows.items()) if n != wanted[of_day]}
        assert not bad, f"{schema}.{model.name} has wrong rows (found, expected): {bad}"

    def check_state(self) -> State:
        """Days that the state has as computed have their rows."""
        state = State.read(self.warehouse.ask_state)
        for name, model in self.prod.items():
            if model.is_table:
                found = {str(row[0]) for row in self.warehouse.ask(f"SELECT day FROM t.{name}")}
                self.days[name] = {of_day for of_day in self.source if hour_of(of_day) in state.computed[name]}
                gone = self.days[name] - found
                assert not gone, f"t.{name} counts as computed, and has no rows, for {sorted(gone)}"
            for row, (hours, is_new) in state.rows[name].items():
                if is_new:
                    self.computed_rows[row] = hours
        return state

    def check_prod(self) -> None:
        self.check(self.prod)
        state = self.check_state()
        for name, days in self.not_ready.items():
            early = {of_day for of_day in days if hour_of(of_day) in state.computed[name]}
            assert not early, f"t.{name} was computed before its signal was ready: {early}"

    def leave_out_held(self, names: Collection[str]) -> None:
        """Let models lose the first day that a signal holds back, and later ones: SQLMesh may leave out these too."""
        first = min((of_day for days in self.held.values() for of_day in days), default="9999")
        for name in downstream(self.prod, self.held.keys()) & self.days.keys() & set(names):
            self.days[name] = {of_day for of_day in self.days[name] if of_day < first}

    def check_alone(self, record: RunRecord) -> bool:
        """The standalone audit fails exactly if the promoted one finds rows. Return whether a run has evaluated it."""
        result = record.checks.get(f"t/{self.alone.reads}:{self.alone.name}")
        if result is None or result.metadata.keys() & {"sqlmesh/carried_over", "sqlmesh/not_evaluated"}:
            return False
        numbers = {self.number, self.alone.number} if self.is_raced else {self.number}
        finds = {number in self.failing for number in numbers}
        assert (not result.passed) in finds, f"{self.alone}: {result.passed}, failing {self.failing}, {numbers}"
        assert result.severity is dg.AssetCheckSeverity.WARN, f"{self.alone} blocks"
        self.counts[f"standalone audits that {'passed' if result.passed else 'failed'}"] += 1
        return True

    def check_records(self) -> None:
        """Dagster has recorded each computed day, and none more often than SQLMesh has computed it.

        Raises:
            AssertionError: It has not.
        """
        state = self.check_state()
        for name, model in self.prod.items():
            if not model.has_time:
                continue
            recorded: Counter[int] = Counter()
            key = dg.AssetKey(["t", name])
            fetches = self.shop.instance.fetch_materializations, self.shop.instance.fetch_observations
            for record in (record for fetch in fetches for record in fetch(key, limit=1000).records):
                event = record.asset_materialization or record.asset_observation  # of a model computed in part
                if event and version_of(event) == state.versions[name]:
                    recorded.update(recorded_hours(event.metadata) or ())
            lacking = state.computed[name] - recorded.keys()
            assert not lacking, f"t.{name} has no record of {text_of(lacking)}"
            rows = Counter(hour for row in state.rows[name] for hour in self.computed_rows.get(row, ()))
            is_merged = any(row not in self.computed_rows for row in state.rows[name])
            double = [hour for hour, number in recorded.items() if number > rows[hour]]
            assert is_merged or not double, f"t.{name} has recorded {text_of(double)} more often than computed"
            self.counts["models with compared records"] += 1
            once = [hour for hour, number in recorded.items() if number > 1] if model.is_appending else []
            assert not once, f"t.{name} is append-only, and has recorded {text_of(once)} more than once"

    # -- changes

    def write(self) -> None:
        """Write the files of the models."""
        folder = self.shop.project / "models"
        for file in folder.glob("*.sql"):
            if file.stem not in self.files:
                file.unlink()
        for path, text in texts_of(self.files, self.source, self.alone).items():
            (self.shop.project / path).write_text(text)
        self.shop.refresh()

    def change(self) -> None:
        """Change one or two models: another constant, a column more, a new model, or one less. Change the audit too."""
        computing = [name for name, model in self.files.items() if model.is_copied]
        for number in range(self.rng.choice((1, 1, 2))):
            name = self.rng.choice(list(self.files) if number or not computing else computing)
            model = self.files[name]
            is_leaf = downstream(self.files, [name]) == {name} and len(self.files) > 3 and name != self.alone.reads
            kind = self.rng.choice(("constant", "constant", "constant", "column", *("new", "removed") * number))
            if kind == "removed" and is_leaf:
                del self.files[name]
            elif kind == "new":
                name = f"m{10 + len(self.actions)}{len(self.files)}"
                self.files[name] = random_model(self.rng, name, self.files, reads_source=False)
            elif kind == "constant" and not model.keeps_rows:
                self.files[name] = replace(model, constant=model.constant + 10_000)
            else:
                kind = "column"
                self.files[name] = replace(model, columns=model.columns + 1)
            self.note(f"change {kind}: {name}")
        if self.rng.random() < 0.4:
            self.alone = replace(self.alone, number=self.alone.number + 1)
            self.note(f"change audit: {self.alone.name}")
        self.write()

    def promoted(self) -> None:
        """The files were applied. Models that keep their rows now have some of older definitions."""
        changed = [name for name in self.files if name in self.prod and self.value_of(name)]
        kept = [name for name in downstream(self.files, changed) if self.files[name].keeps_rows]
        self.mixed = (self.mixed | downstream(self.files, kept) | self.not_computed()) & self.files.keys()
        self.prod = dict(self.files)
        self.number = self.alone.number
        # SQLMesh promotes a new version without the days that its signal holds back (docs/plans.md).
        self.leave_out_held(self.prod)
        self.days = {name: days for name, days in self.days.items() if name in self.prod}
        self.not_ready.clear()  # the new version may have been planned before its signal held them back

    def not_computed(self) -> set[str]:
        """Models with a breaking change upstream, of which no direct parent has one. They keep their rows.

        A model that only has new columns is computed again, and SQLMesh takes its change for one that breaks nothing.
        """
        breaking: set[str] = set()
        kept: set[str] = set()
        changed = downstream(self.files, [name for name in self.files if self.files[name] != self.prod.get(name)])
        for name, model in self.files.items():  # upstream models first
            is_wider = name in self.prod and model.columns != self.prod[name].columns
            is_broken = bool(breaking & set(model.reads)) and not is_wider
            is_broken |= model.is_materialized_view and name in changed
            if (name in self.prod and self.value_of(name)) or is_broken:
                breaking.add(name)
            elif name in downstream(self.files, breaking) & self.prod.keys() and not is_wider:
                kept.add(name)
        return downstream(self.files, kept)

    def value_of(self, name: str) -> bool:
        """Whether the values of a model have changed by the files."""
        return self.files[name].constant != self.prod[name].constant

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
            if reason := [name for name in ("digest:", "moved:", "Build a new plan") if name in text]:
                self.note(f"planned again because of {reason[0]}")
                digest = self.digest()
            elif "lost_intervals:" in text and not lost:
                lost = sorted(set(re.findall(r"t\.\w+(?= for )", text)))
                made_new = {f"t.{m.name}" for m in self.files.values() if m.is_history or m.is_protected}
                assert made_new.issuperset(lost), f"the apply would lose rows of {lost}"
            else:
                assert self.is_disturbed, "an undisturbed apply has failed"
        raise AssertionError("the apply does not succeed")

    def digest(self) -> str:
        record = self.job(PLAN).succeeded()
        run = self.shop.instance.get_run_by_id(record.run_id)
        assert run is not None
        return run.tags["sqlmesh/plan_digest"]

    def preview(self) -> None:
        for attempt in range(8):
            if attempt > 1:
                self.heal()
                run_of_all(self)
            record = self.beside("preview", launch_preview, attempt)
            if record and record.status is dg.DagsterRunStatus.SUCCESS:
                self.note("previewed")
                if self.is_raced:  # a restatement may have come after the preview
                    return
                self.check_preview()
                return
            self.note(f"preview has failed: {failure_of(record)[:300]}")
        raise AssertionError("the preview does not succeed")

    def check_preview(self) -> None:
        """A preview has views of changed models only. A forward-only model has other rows in it than prod will have."""
        tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 't__pr_1'"
        shown = {name for (name,) in self.warehouse.ask(tables)}
        kept = [name for name, model in self.files.items() if model.keeps_rows]
        shown -= downstream(self.files, [*kept, *self.mixed]) | self.not_computed()
        self.counts["previewed models compared"] += len(shown)
        self.check(self.files, "t__pr_1", shown)

    def beside(self, role: str, launch: Callable[[Story, dict[str, str]], object], attempt: int) -> RunRecord | None:
        """Launch a plan in a process of its own, and act at its pauses. Return its run."""
        for ahead in (self.rng.choice((0, 0, 1)), *self.rng.sample((2, 3, 5, 8), 2)) if attempt < 4 else ():
            self.stop(role, ahead)
        pid, token = self.fork(role, launch)
        is_gone = partial(has_ended, pid)
        self.is_raced = self.is_disturbed = False
        self.look_for_trouble()
        while True:
            wait_until(lambda: bool(self.pauses(role)) or is_gone())
            paused = self.pauses(role)
            if not paused:
                break
            self.at_pause(role, paused[0], pid)
        self.clear(role)
        return self.ended(token)

    def at_pause(self, role: str, paused: Path, pid: int) -> None:
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
        for action in actions:
            before = {run.run_id for run in self.shop.instance.get_runs()}
            self.counts[action.__name__] += 1
            action(self)
            self.look_for_trouble()
            if not has_lock:
                self.check_prod()
                new = [run for run in self.shop.instance.get_runs() if run.run_id not in before]
                logs = [self.shop.run_record(r.run_id).log for r in new if "story" not in r.tags]
                assert not any("Waiting" in log for log in logs), f"a run waits while the {role} computes: {logs}"
        if verdict in ("cancel", "kill run"):
            worker = int(paused.read_text() or 0) if paused.exists() else 0
            os.kill(pid, signal.SIGTERM if verdict == "cancel" else signal.SIGKILL)
            wait_until(lambda: has_ended(pid) and not is_alive(worker))
            self.clear(role)
        elif not has_lock and stop.exists() and verdict != "go":
            stop.write_text(verdict)
        else:
            stop.unlink(missing_ok=True)
        wait_until(lambda: not paused.exists() or has_ended(pid) or verdict in ("kill", "fail"))
        paused.unlink(missing_ok=True)

    def look_for_trouble(self) -> None:
        """Note what can let a batch of the plan fail, or lets it leave days out."""
        self.is_disturbed |= self.is_bad or bool(self.unfinished or self.held)

    def end_later(self) -> None:
        """Wait for the jobs that were launched at a pause and had to wait."""
        for token, pid in self.later.items():
            wait_until(partial(has_ended, pid))
            record = self.ended(token)
            ok = record and record.status is dg.DagsterRunStatus.SUCCESS
            failure = failure_of(record)
            # An audit had to fail while it ran, or a restatement of prod has left out an older day.
            is_reason = re.search(r"failed its audit|'fine' audit error|pending_upstream", failure)
            assert ok or is_reason or self.unfinished, f"a job that waited has failed: {failure}"
        self.later.clear()

    def heal(self) -> None:
        """Correct what lets runs fail, and finish restatements."""
        mend(self)
        release(self)
        for names, first, last in self.unfinished:  # each of these runs fails until all others are finished too
            restated = [f"t/{name}" for name in names if name in self.prod]
            self.launch(restated, restate={"start": first, "end": last})
        self.unfinished.clear()
        self.waiting.clear()  # the next run of all computes them

    def end(self) -> None:
        """Heal, run everything, and check; then restate everything, and check again."""
        self.end_later()
        self.heal()
        run_of_all(self)
        self.check(self.prod, is_end=True)
        sensor(self)
        self.check_records()
        fail_alone(self, {self.alone.number})
        record = self.shop.launch(checks=[f"t/{self.alone.reads}:{self.alone.name}"])
        assert self.check_alone(record), f"{self.alone} was not evaluated: {record.failures}"
        succeed(self, record)
        restated = [name for name, model in self.prod.items() if model.is_restated]
        record = self.launch(
            [f"t/{name}" for name in restated], restate={"start": min(self.source), "end": max(self.source)}
        ).succeeded()
        self.mixed = {name for name, model in self.prod.items() if model.is_protected}
        self.check(self.prod, is_end=True)
        self.check_records()


def launch_apply(digest: str, lost: list[str], story: Story, tags: dict[str, str]) -> None:
    story.job(APPLY, tags, digest=digest, allow_lost_intervals=lost)


def launch_preview(story: Story, tags: dict[str, str]) -> None:
    story.job(PREVIEW, tags, allow_pending=True)


def texts_of(models: Models, days: Collection[str], alone: StandaloneAudit) -> dict[str, str]:
    """The files of models and of a standalone audit."""
    files = {f"models/{model.name}.sql": model.text for model in models.values()}
    files[f"audits/{alone.name}.sql"] = alone.text
    return files | {f"seeds/{model.name}.csv": model.csv(days) for model in models.values() if model.is_seed}


def hour_of(of_day: str) -> int:
    return int(datetime.fromisoformat(f"{of_day}T00:00+00:00").timestamp()) * 1000 // HOUR


def failure_of(record: RunRecord | None) -> str:
    if record is None:
        return "no run"
    errors = [event.event_specific_data.error for event in record.events(dg.DagsterEventType.STEP_FAILURE)]
    return " ".join([*record.failures, *(error.to_string()[:600] for error in errors if error)]) or record.log[-800:]


def has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def is_alive(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()


# -- actions at pauses ----------------------------------------------------------------------------


def succeed(story: Story, record: RunRecord) -> None:
    """A run fails only for a reason."""
    story.counts["runs"] += 1
    is_ok = record.status is dg.DagsterRunStatus.SUCCESS
    assert is_ok or story.is_bad or story.unfinished, f"a run has failed: {record.failures}"


def run_of_all(story: Story) -> None:
    story.note("run of all")
    succeed(story, story.launch(story.assets))


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
    for of_day in story.source:
        if first <= of_day <= last:
            story.source[of_day] += 100
            story.altered.add(of_day)
    story.warehouse.ask(f"UPDATE raw.source SET n = n + 100 WHERE day BETWEEN '{first}' AND '{last}'")
    if any(model.reads_itself for model in (story.prod | story.files).values()):
        story.altered |= {of_day for of_day in story.source if first <= of_day}  # each day has the one before in it
    readers = [name for name, model in story.prod.items() if model.reads_source]
    names = [name for name in readers if name in story.files]
    story.mixed |= downstream(story.prod, set(readers) - set(names))  # no asset any more, so nobody restates them
    record = story.launch([f"t/{name}" for name in names], restate={"start": first, "end": last})
    story.note(f"restatement: {names} {first} {last} {record.status.value}")
    if record.status is not dg.DagsterRunStatus.SUCCESS:
        # A model that SQLMesh only restates as a whole counts as failed if it waits for a signal (docs/recompute.md).
        assert story.is_bad or story.unfinished or story.held, f"a restatement has failed: {record.failures}"
        story.unfinished.append((names, first, last))
    # These tables are replaced without the days that are held back. The next run after the signal computes them.
    story.leave_out_held([name for name, model in story.prod.items() if model.is_replaced])
    story.waiting |= story.held.keys()
    story.waiting |= {name for name in story.prod if f"t.{name} is waiting: " in record.log}


def hold(story: Story) -> None:
    """Let the signal of a model hold back some days."""
    names = [name for name, model in story.prod.items() if model.has_signal]
    if not names:
        return
    name, days = story.rng.choice(names), set(story.rng.sample(list(story.source)[-3:], story.rng.randint(1, 2)))
    (story.shop.project / "held" / name).write_text(" ".join(days))
    story.held[name] = days
    if not story.is_raced:
        story.not_ready[name] = days - {str(row[0]) for row in story.warehouse.ask(f"SELECT day FROM t.{name}")}
    story.note(f"signal holds back: {name} {sorted(days)}")


def release(story: Story) -> None:
    for name in story.held:
        (story.shop.project / "held" / name).unlink()
    story.held.clear()
    story.not_ready.clear()
    story.note("signals are ready")


def tick(story: Story) -> None:
    repository = story.shop.refresh().get_repository_def()
    [schedule] = [s for s in repository.schedule_defs if "janitor" not in s.name]
    context = dg.build_schedule_context(story.shop.instance, datetime.now(timezone.utc), repository_def=repository)
    requests = schedule.evaluate_tick(context).run_requests or ()
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
    pid, token = story.fork("later", lambda forked, tags: forked.job(JANITOR, tags))
    story.later[token] = pid


def preview_later(story: Story) -> None:
    story.note("preview waits")
    pid, token = story.fork("later", launch_preview)
    story.later[token] = pid


def failing_audit(story: Story) -> None:
    """Let the audit of a model fail for some days, and run."""
    names = [name for name, model in story.prod.items() if "time_column" in model.kind]
    if names:
        name, of_day = story.rng.choice(names), story.rng.choice(list(story.source))
        story.warehouse.ask(f"INSERT INTO ctl.bad VALUES ('{name}', '{of_day}')")
        story.is_bad = True
        story.note(f"failing audit: {name} {of_day}")
        story.launch(story.assets)


def failing_standalone_audit(story: Story) -> None:
    """Let a standalone audit find rows. It blocks nothing, so no run fails."""
    fail_alone(story, set(story.rng.choice(((0,), (1,), (0, 1), ()))))
    story.note(f"failing standalone audit: {story.failing}")
    run_of_subset(story)


def fail_alone(story: Story, numbers: set[int]) -> None:
    story.failing = numbers
    story.warehouse.ask("DELETE FROM ctl.failing")
    for number in numbers:
        story.warehouse.ask(f"INSERT INTO ctl.failing VALUES ({number})")


def mend(story: Story) -> None:
    story.warehouse.ask("DELETE FROM ctl.bad")
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
    pid, token = story.fork("killed", lambda forked, tags: forked.launch(assets, tags))
    wait_until(lambda: bool(story.pauses("killed")) or has_ended(pid))
    if paused := story.pauses("killed"):
        worker = int(paused[0].read_text() or 0)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: has_ended(pid) and not is_alive(worker))
    story.clear("killed")
    record = story.ended(token)
    story.note(f"run that is killed: {record and record.status.value}")


ACTIONS: dict[Callable[[Story], None], int] = {
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


# -- stories --------------------------------------------------------------------------------------


@contextmanager
def told(seed: int, folder: Path, servers: Servers, kind: str | None) -> Iterator[Story]:
    """Create the project of a story, and plan it as of three days ago."""
    rng = random.Random(seed)
    today = datetime.now(timezone.utc).date()
    source = {str(today - timedelta(days=ago)): rng.randint(1, 9) for ago in range(DAYS, 0, -1)}
    models = random_models(rng, kind)
    warehouse = open_warehouse(folder / "shop", servers, min(source), tasks=rng.choice((1, 1, 2)))
    shown = [name for name, model in models.items() if model.kind != "EMBEDDED"]
    alone = StandaloneAudit("alone", rng.choice(shown))
    files = texts_of(models, source, alone)
    files |= {"seeds/none": "", "held/none": "", "signals/__init__.py": SIGNAL}
    files |= {"macros/__init__.py": "", "macros/gate.py": MACRO, "audits/fine.sql": AUDIT}
    for role in ("apply", "preview", "run", "killed"):
        files[f"gates/{role}/seconds"] = "2" if servers.tables is None else "200"
    project = write_project(folder / "shop", files, warehouse.config)
    values = ", ".join(f"(DATE '{of_day}', {n})" for of_day, n in source.items())
    for sql in (
        "CREATE SCHEMA raw",
        "CREATE SCHEMA ctl",
        "CREATE TABLE raw.source (day DATE, n INT)",
        f"INSERT INTO raw.source VALUES {values}",
        "CREATE TABLE ctl.bad (name TEXT, day DATE)",
        "CREATE TABLE ctl.failing (number INT)",
    ):
        warehouse.ask(sql)
    plan(project)
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
    with dagster_project(folder) as dagster:
        dagster.add_component("shop", {"project": str(project), **attributes})
        shop = Shop(dagster.root, dagster.instance, project)
        shop.refresh()
        yield Story(rng, shop, warehouse, models, dict(models), source, alone)


def open_warehouse(project: Path, servers: Servers, start: str, tasks: int) -> Warehouse:
    server, state = servers.tables, servers.state
    if server is None:
        ask = partial(ask_duckdb, project)
        return Warehouse(CONFIG.replace("6 days ago", start), ask, ask)
    database = f"story_{uuid.uuid4().hex[:8]}"
    server.query(f"CREATE DATABASE {database}")
    config = server.config(database, start=start).replace("concurrent_tasks: 2", f"concurrent_tasks: {tasks}")
    ask = partial(server.query, database=database)
    if state is not None:
        state.clear()
        return Warehouse(state.with_state(config), ask, state.query, state.held_locks)
    held = f"{HELD_LOCKS} AND database = (SELECT oid FROM pg_database WHERE datname = '{database}')"
    return Warehouse(config, ask, ask, lambda: server.query(held)[0][0])


def ask_duckdb(project: Path, sql: str) -> list[tuple[Any, ...]]:
    project.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 300
    while True:
        try:
            return query_duckdb(project, sql)
        except duckdb.IOException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def try_story(seed: int, folder: Path, servers: Servers, kind: str | None = None) -> Story:
    """Tell one story.

    Args:
        kind: The kind of the second model. None: any.

    Raises:
        AssertionError: Rows or records are wrong. The message has the whole story.
    """
    with ExitStack() as stack:
        story = stack.enter_context(told(seed, folder, servers, kind))
        texts = [model.text for model in story.prod.values()]
        os.environ[ROLE] = "run"
        try:
            story.check_prod()
            if story.rng.random() < 0.5:
                hold(story)
            for _ in range(story.rng.choice((1, 1, 2))):
                story.change()
                if story.rng.random() < 0.3:
                    story.preview()
                story.apply()
            story.end()
        except Exception as error:
            for pid in story.later.values():
                wait_until(partial(has_ended, pid))
            log = story.shop.project.parent / "log"
            logged = [line for line in log.read_text().splitlines() if " DEBUG " not in line] if log.exists() else []
            lines = [*texts, *story.actions, f"{error}", traceback.format_exc(limit=-4), *logged[-15:]]
            raise AssertionError("\n    ".join(lines)) from error
        finally:
            del os.environ[ROLE]
    return story


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="the seed of the first story; the next has the next")
    parser.add_argument("--duckdb", action="store_true", help="tell the stories on DuckDB, whose file is the lock")
    parser.add_argument("--state", choices=("postgres", "mariadb"), default="postgres", help="where SQLMesh's state is")
    parser.add_argument("--kind", choices=KINDS, help="the kind of the second model; otherwise any")
    arguments = parser.parse_args()
    servers = Servers()

    def trial(seed: int, folder: Path) -> tuple[Counter[str], str]:
        since = time.monotonic()
        story = try_story(seed, folder, servers, arguments.kind)
        text = f"{len(story.prod)} models, {len(story.actions)} actions, {time.monotonic() - since:.0f} seconds"
        return story.counts + Counter(stories=1), text

    with ExitStack() as stack:
        stack.enter_context(worker_zygote.forked_workers())
        if not arguments.duckdb:
            servers.tables = stack.enter_context(new_postgres_server())
        if arguments.state == "mariadb":
            servers.state = stack.enter_context(mariadb.new_mariadb_server())
        try_seeds(range(arguments.seed, arguments.seed + arguments.stories), trial)


if __name__ == "__main__":
    main()
