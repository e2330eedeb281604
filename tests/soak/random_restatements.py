"""Restate ranges in random projects, disturb the restatements, and compare all rows with those of a twin.

    python tests/soak/random_restatements.py --stories 100 --seed 1 --engines duckdb postgres mariadb 2> log

The twin is plain Python that computes the rows of each model from the rows of the sources (tests/story_projects.py).
On the engine mariadb, the tables are in PostgreSQL and the state is in MariaDB.

A story plans a project, changes source rows, and restates their days. Batches or audits fail, signals are closed,
sources are not loaded, runs overlap, are cancelled or killed. The causes end at once or at the end. It checks:

- **green but old**: if a run succeeded, and so did the status check and the intervals check of a model, then each of
  its days has the twin's rows. Views and `FULL` models have no intervals check (docs/intervals.md): instead, the state
  must have all of their intervals.
- **changed outside**: a day that no restatement of the story computes keeps its rows and intervals. Source rows of
  such days change too, so that a range that is too long shows.
- **refused but changed**: a refused restatement changes nothing, nor does one that is killed before it has removed any
  interval (docs/recompute.md, "After a failure"). The story then takes the change of the source back.
- **no record**: at the end, Dagster has recorded each computed interval.
- **a lock is left**: at the end, no process holds a lock on the state.
- **not computed in a shell**: after all causes have ended, one `sqlmesh run` computes what is pending. In some stories.
- **not computed again**, **not green at the end**: after all causes have ended, two runs succeed, all checks of status
  and intervals pass, and all rows and intervals are the twin's.

What the documentation does not promise is left out, so that each difference is a fault:

- "The largest interval range is pushed down the graph" (SQLMesh's plan): downstream of a table that SQLMesh restates
  only as a whole, and of a model that reads itself, a restatement may also compute days outside of its range.
- "A `lookback` computes intervals again that are computed" (docs/intervals.md), and not their downstream models. So
  source rows of the days before a range, and of the newest days, do not change, unless they are restated too.
- "If a batch of a `lookback` fails in a shell, SQLMesh keeps its intervals as computed" (docs/intervals.md). So nobody
  types `sqlmesh run` in a project with a lookback while a cause is there.
- "ranges whose source is not loaded ... Those are no gaps" (docs/intervals.md). A restatement "leaves
  intervals pending whose source is not loaded" (docs/wait.md). A job leaves such a model out (docs/recompute.md), so
  its source does not change. A cron ticks after its days are loaded.
- SQLMesh cannot store the times of `auto_restatement_cron` in MariaDB ("No database selected"), nor can `sqlmesh run`.
"""

import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from computed_hours import Hours, recorded_of, text_of
from databases import ENGINES, Database, Servers, day_of
from forked import ForkedProcess
from harness import RunRecord, Shop, planned_shop, processes_in, reconstructable_job, sqlmesh, wait_until
from stories import Told, tell, today
from story_projects import BY_TIME, Audit, Model, Project, Rows

CHECKS = ("sqlmesh_execution_status", "sqlmesh_intervals_complete")
HISTORY = 8
HOURS = 24
LONGEST_LOOKBACK = 2
ROOTS = ("days", "hours")
WHOLE = ("keyed", "full", "view")

# -- a project -------------------------------------------------------------------------------------


def draw_project(rng: random.Random, has_crons: bool) -> Project:
    """Draw one or two roots, and others downstream of them.

    Args:
        has_crons: Whether roots may have an `auto_restatement_cron`.
    """
    project = Project({})
    for kind in rng.sample(ROOTS, rng.choice((1, 1, 2))):
        project = project.with_model(draw_model(rng, kind, kind, f"src.{kind}", has_crons))
    for number in range(rng.randint(2, 4)):
        read = rng.choice([model for model in project.models.values() if model.kind != "view"])
        kind = rng.choice(WHOLE if read.kind == "balance" else ("copy", "copy", "sums", "balance", *WHOLE))
        project = project.with_model(draw_model(rng, f"{kind}_{number}", kind, f"t.{read.name}", False))
    return project


def draw_model(rng: random.Random, name: str, kind: str, reads: str, has_crons: bool) -> Model:
    """Draw a model. A `copy` adds 1 to each value, and `sums` are those of a day."""
    batch_size = {"balance": 1, "full": 0, "view": 0}.get(kind, rng.choice((0, 1, 1, 2)))
    is_by_time, auto = kind not in WHOLE, rng.choice((0, 0, 2, 3)) if has_crons else 0
    # SQLMesh restates so many intervals before now: of an hourly model, also those of today.
    size = HOURS if kind == "hours" else 1
    return Model(
        name,
        {"copy": "days", "sums": "days"}.get(kind, kind),
        (reads,),
        sums=kind in ("sums", "full"),
        shift=int(kind == "copy"),
        batch_size=batch_size * size,
        lookback=rng.choice((0, 0, 0, LONGEST_LOOKBACK)) if is_by_time and kind != "balance" else 0,
        audits=(Audit(f"bad_{name}"),) if kind != "view" and rng.random() < 0.35 else (),
        has_signal=is_by_time and rng.random() < 0.25,
        is_awaited=kind in ROOTS and rng.random() < 0.3,
        auto=(auto + (kind == "hours")) * size if auto else 0,
    )


def roots(project: Project) -> list[Model]:
    return [project.models[kind] for kind in ROOTS if kind in project.models]


def auto_days(model: Model) -> int:
    """How many days before today its `auto_restatement_cron` restates."""
    return model.auto // HOURS - 1 if model.kind == "hours" else model.auto


def has_intervals_check(model: Model) -> bool:
    return model.kind not in ("full", "view")  # docs/intervals.md


# -- actions ---------------------------------------------------------------------------------------

WHILE_COMPUTING = ("kill worker", "kill run", "kill both", "cancel", "overlap")
AT_STATEMENT = "kill at a statement"
TROUBLES = ("none", *["error"] * 4, "audit", "audit", "signal", "cancel", *WHILE_COMPUTING, *[AT_STATEMENT] * 3)


@dataclass(frozen=True)
class Action:
    """What somebody does: `restate`, `day of a job` and `cron` restate, `run` and `sqlmesh run` only run.

    Attributes:
        models: The models that are selected or, of a cron, the one that has it.
        changed: The days of which source rows change before, if a root is among the models.
        at: The model with the trouble, its day, and whether that is before or after its query. Of a kill at a
            statement: which processes, its number, and whether that is before or after it.
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
    names, crons = list(project.models), [model for model in roots(project) if model.auto]
    what = rng.choice(("restate", "restate", "day of a job", *(["cron"] if crons else [])))
    first = rng.randrange(2, len(days))
    chosen = days[first : first + rng.randint(1, 6)]
    models = tuple(rng.sample(names, rng.choice((1, 1, 2)))) if rng.random() < 0.4 else (names[0],)
    if what == "day of a job":
        chosen, models = chosen[:1], tuple(names)
    elif what == "cron":
        model = rng.choice(crons)
        chosen, models = days[-auto_days(model) :], (model.name,)
    has_root = any(root.name in models for root in roots(project))
    changed = sorted(rng.sample(chosen, rng.randint(1, len(chosen)))) if has_root else []
    trouble, at = draw_trouble(rng, project, project.downstream(set(models)), changed or chosen)
    selected = tuple(names) if what == "cron" and rng.random() < 0.8 else ()
    return Action(what, models, chosen[0], chosen[-1], tuple(changed), trouble, at, rng.random() < 0.4, selected)


def draw_trouble(
    rng: random.Random, project: Project, scope: set[str], days: list[str]
) -> tuple[str, tuple[str, str, str]]:
    models = [model for name, model in project.models.items() if name in scope and model.is_table]
    trouble = rng.choice(TROUBLES)
    able = {
        "audit": [model for model in models if model.audits],
        "signal": [model for model in models if model.has_signal],
    }
    if trouble == AT_STATEMENT:
        return trouble, (
            rng.choice(("0", "0", "run", "run 0")),
            str(rng.randint(1, 40)),
            rng.choice(("before", "after")),
        )
    if trouble == "none" or not models:
        return "none", ("", "", "")
    candidates = able.get(trouble, models)
    if not candidates:
        trouble, candidates = "error", models
    return trouble, (rng.choice(candidates).name, rng.choice(days), rng.choice(("before", "after")))


# -- runs ------------------------------------------------------------------------------------------


def launch(root: Path, instance: dg.DagsterInstance, action: Action) -> str:
    """Launch the run of an action in this process. Return its id."""
    selection, tags = {"launch": [uuid.uuid4().hex]}, {}
    if action.what == "day of a job":
        job = reconstructable_job(root, selection, "sqlmesh_shop_restate_day")
        definition = job.get_definition()
        config = {**definition.get_run_config_for_partition_key(action.start)}
        tags = {**definition.get_tags_for_partition_key(action.start, None), "dagster/partition": action.start}
    else:
        selection["assets"] = [f"t/{name}" for name in action.selected or action.models]
        job = reconstructable_job(root, selection)
        restate = {"restate": {"start": action.start, "end": action.end}} if action.what == "restate" else {}
        config = {"ops": {"sqlmesh_shop": {"config": restate}}}
    config["execution"] = {"config": {"in_process": {}}}
    with dg.execute_job(job, instance=instance, run_config=config, tags=tags) as result:
        return result.run_id


def passed(record: RunRecord, model: str, check: str) -> bool:
    result = record.checks.get(f"t/{model}:{check}")
    return result is not None and result.passed


def outcomes_of(record: RunRecord, project: Project) -> str:
    """Return what a run did to each model, and whether its checks of status and intervals passed."""
    return ", ".join(
        f"{name} {record.status_of(f't/{name}')} {''.join('-+'[passed(record, name, check)] for check in CHECKS)}"
        for name in project.models
        if f"t/{name}:{CHECKS[0]}" in record.checks
    )


def was_refused(record: RunRecord) -> bool:
    return bool(record.checks) and has_computed_nothing(record)


def has_computed_nothing(record: RunRecord) -> bool:
    """Whether a run ended before SQLMesh computed or audited anything: it only repeats results (docs/outcomes.md).

    A killed backfill of a day repeats none.
    """
    repeats = (
        {"sqlmesh/carried_over", "sqlmesh/not_evaluated"} & {*check.metadata} for check in record.checks.values()
    )
    return record.status is dg.DagsterRunStatus.FAILURE and all(repeats)


def within(rows: Rows, days: set[str]) -> Rows:
    return {day: values for day, values in rows.items() if day in days}


# -- a story ---------------------------------------------------------------------------------------


@dataclass
class Story(Told):
    """One project, and what was done to it.

    Attributes:
        sources: The rows of each source, as the models should have read them: `others` have changed since.
        others: Days that no restatement of this story computes.
        restated: The days that a restatement may have computed, by model.
        complete: The intervals of each model at the beginning, which it must have at the end.
        has_reached: Whether the last run was disturbed while it computed.
    """

    project: Project
    shop: Shop
    engine: Database
    rng: random.Random
    days: list[str]
    sources: dict[str, Rows]
    others: list[str]
    restated: dict[str, set[str]]
    complete: dict[str, Hours] = field(default_factory=dict)
    has_reached: bool = False

    @property
    def gates(self) -> Path:
        return self.shop.project / "gates" / "run"

    def open_gate(self) -> None:
        for file in (*self.gates.glob("stop-*"), *self.gates.glob("paused-*")):
            file.unlink(missing_ok=True)

    def is_loaded(self, root: str, day: str) -> bool:
        """Whether nothing waits for this day of a source."""
        loaded = self.shop.instance.get_materialized_partitions(dg.AssetKey(["load", root]))
        return not self.project.models[root].is_awaited or day in loaded

    # -- actions

    def act(self, action: Action) -> None:
        self.log.append(str(action))
        sources, restated = self.sources, {name: set(days) for name, days in self.restated.items()}
        tables, computed = (
            {name: self.engine.rows(f"t.{name}") for name in self.project.models},
            self.engine.state().computed,
        )
        if action.start:
            self.change_sources(action)
        self.cause_trouble(action)
        records = self.run(action)
        if action.ends_at_once:
            self.end_causes()
        is_refused = bool(records) and not self.has_reached and was_refused(records[0])
        if records and self.has_reached and self.engine.state().computed == computed:
            is_refused = has_computed_nothing(records[0])  # killed before it had removed any interval
        if is_refused and action.start and action.what != "cron":  # a cron is still due
            self.log.append(f"  refused: {records[0].failures}")
            self.counts["refused"] += 1
            for name, rows in tables.items():
                self.compare("refused but changed", name, self.engine.rows(f"t.{name}"), rows)
            self.compare_computed("refused but changed", self.engine.state().computed, computed)
            for root, days in sources.items():
                for day in set(self.days) - set(self.others):
                    self.engine.write_source(root, day, days[day])
            self.sources, self.restated = sources, restated
        self.check_other_days()

    def change_sources(self, action: Action) -> None:
        """Change the source rows of some restated days, and those of `others`, which no model may read."""
        first, last = self.days.index(action.start), self.days.index(action.end)
        downstream, models = self.project.downstream(set(action.models)), self.project.models
        whole = self.project.downstream({name for name in downstream if models[name].kind not in BY_TIME})
        to_the_end = self.project.downstream({name for name in downstream if models[name].kind == "balance"})
        for name in downstream:
            begin = 0 if name in whole else max(0, first - LONGEST_LOOKBACK)
            self.restated[name] |= set(self.days[begin : None if name in to_the_end | whole else last + 1])
        self.sources = {root: {**rows} for root, rows in self.sources.items()}
        for root in [root for root in self.sources if root in action.models]:
            if action.what == "day of a job" and not self.is_loaded(root, action.start):
                continue
            for day in action.changed:
                self.sources[root][day] = self.new_rows(self.sources[root][day])
                self.engine.write_source(root, day, self.sources[root][day])
            for day in self.others:
                self.engine.write_source(root, day, self.new_rows(self.sources[root][day]))

    def new_rows(self, rows: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Change each value. Sometimes delete a row, or add one."""
        kept = [(k, v + self.rng.randint(1, 9)) for k, v in rows if self.rng.random() < 0.9]
        free = sorted(set(range(24)) - {k for k, _ in rows})
        return [*kept, (self.rng.choice(free), 7)] if self.rng.random() < 0.3 else kept

    def load(self, root: str, days: list[str]) -> None:
        for day in days:
            if not self.is_loaded(root, day):
                event = dg.AssetMaterialization(dg.AssetKey(["load", root]), partition=day)
                self.shop.instance.report_runless_asset_event(event)

    def cause_trouble(self, action: Action) -> None:
        """Create the cause of the trouble, and let the cron tick."""
        model, day, moment = action.at
        if action.trouble == AT_STATEMENT:
            who, number, when = action.at
            (self.shop.project / "kill").write_text(f"{when} {number} {who}")
        elif action.trouble == "error":
            self.engine.add_cause(f"query {model}", day)
        elif action.trouble == "audit":
            (self.shop.project / "failing").write_text(f"bad_{model} {day}")
        elif action.trouble == "signal":
            (self.shop.project / f"closed_{model}").write_text(day)
        elif action.trouble in WHILE_COMPUTING:
            of_day = day if self.project.models[model].kind in BY_TIME else ""
            (self.gates / f"stop-{model}-{moment}-{of_day}").write_text("pause")
        if action.what == "cron":
            self.load(action.models[0], self.days[self.days.index(action.start) :])
            self.engine.let_cron_tick(action.models[0])

    def end_causes(self) -> None:
        self.engine.end_causes()
        for file in (*self.shop.project.glob("closed_*"), *self.shop.project.glob("failing")):
            file.unlink()
        for root in self.sources:
            self.load(root, self.days)

    def run(self, action: Action) -> list[RunRecord]:
        """Run, and check each run that was green. Return the records of Dagster's runs."""
        if action.what == "sqlmesh run":
            if any(model.lookback for model in self.project.models.values()):
                self.end_causes()
            sqlmesh(self.shop.project, "run", check=False)
            return []
        earlier = {run.run_id for run in self.shop.instance.get_runs()}
        self.has_reached = False
        if action.trouble == AT_STATEMENT:
            self.run_and_kill(action)
        elif action.trouble in WHILE_COMPUTING:
            self.run_and_disturb(action)
        else:
            launch(self.shop.root, self.shop.instance, action)
        runs = [run for run in reversed(list(self.shop.instance.get_runs())) if run.run_id not in earlier]
        assert runs, (self.shop.root.parent / "log").read_text()[-3000:]
        for run in runs:
            if not run.is_finished:  # as Dagster's run monitoring
                self.shop.instance.report_run_failed(run)
        records = [self.shop.run_record(run.run_id) for run in runs]
        for record in records:
            self.log.append(f"  {record.status.value}: {outcomes_of(record, self.project)}")
            self.check_green(record)
        self.counts[f"{action.what} {records[0].status.value}"] += 1
        return records

    def start(self, action: Action) -> ForkedProcess:
        return self.shop.start_fork(lambda instance: launch(self.shop.root, instance, action))

    def run_and_kill(self, action: Action) -> None:
        """Run. Processes are killed before or after a statement that writes, in a table or in the state."""
        order, run = self.shop.project / "kill", self.start(action)
        order.write_text(order.read_text().replace("run", str(run.pid)))
        run.wait()
        wait_until(lambda: not processes_in(self.shop.project))
        self.has_reached = not order.exists()
        self.counts[f"{action.trouble}: {action.at[0]} {'reached' if self.has_reached else 'not reached'}"] += 1
        for name in ("kill", "killed"):
            (self.shop.project / name).unlink(missing_ok=True)

    def run_and_disturb(self, action: Action) -> None:
        """Run. While the model of the trouble computes, kill or cancel, or launch a second run."""
        runs = [self.start(action)]
        wait_until(lambda: any(self.gates.glob("paused-*")) or runs[0].poll() is not None)
        self.has_reached = runs[0].poll() is None
        if self.has_reached:
            self.counts[f"{action.trouble} reached"] += 1
            runs += self.disturb(action, runs[0])
        for run in runs:
            run.wait()
        wait_until(lambda: not processes_in(self.shop.project))
        self.open_gate()

    def disturb(self, action: Action, run: ForkedProcess) -> list[ForkedProcess]:
        """Kill or cancel a run, or launch a second one. Return the second one."""
        victims = {"kill worker": processes_in(self.shop.project), "kill run": [run.pid]}
        victims["kill both"] = victims["kill run"] + victims["kill worker"]
        for pid in victims.get(action.trouble, []):
            os.kill(pid, signal.SIGKILL)
        if action.trouble == "overlap":
            second = self.start(Action("run", tuple(self.project.models)))
            time.sleep(1)
            self.open_gate()
            return [second]
        if action.trouble == "cancel":
            os.kill(run.pid, signal.SIGTERM)
            if action.at[2] == "after":  # its process is killed
                return []
            time.sleep(0.5)
        self.open_gate()  # its batch ends
        return []

    # -- claims

    def compare(self, claim: str, name: str, rows: Rows, expected: Rows) -> None:
        for day in sorted({*rows, *expected}):
            if rows.get(day) != expected.get(day):
                self.fault(claim, f"{name} {day} has {rows.get(day)}, expected {expected.get(day)}")

    def compare_computed(self, claim: str, computed: Mapping[str, Hours], expected: Mapping[str, Hours]) -> None:
        for name, hours in expected.items():
            for kind, differing in (("no", hours - computed[name]), ("too many", computed[name] - hours)):
                if differing:
                    self.fault(claim, f"{name} has {kind} intervals on {sorted({day_of(hour) for hour in differing})}")

    def check_green(self, record: RunRecord) -> None:
        """If this run is green for a model, each of its rows is the twin's."""
        if record.status is not dg.DagsterRunStatus.SUCCESS:
            return
        twin, computed = self.project.twin(self.sources), self.engine.state().computed
        for name, model in self.project.models.items():
            checks = CHECKS if has_intervals_check(model) else CHECKS[:1]
            is_complete = has_intervals_check(model) or computed[name] == self.complete[name]
            if is_complete and all(passed(record, name, check) for check in checks):
                self.counts["green models"] += 1
                self.compare("green but old", name, self.engine.rows(f"t.{name}"), twin[name])

    def check_other_days(self) -> None:
        """The days that no restatement may have computed are as they were at the beginning."""
        twin, computed = self.project.twin(self.sources), self.engine.state().computed
        for name, model in self.project.models.items():
            is_whole = model.kind not in BY_TIME and bool(self.restated[name])
            days = set() if is_whole else set(self.days) - self.restated[name]
            self.compare("changed outside", name, within(self.engine.rows(f"t.{name}"), days), within(twin[name], days))
            hours = frozenset(hour for hour in self.complete[name] if day_of(hour) in days)
            self.compare_computed("changed outside", {name: computed[name] & hours}, {name: hours})

    def finish(self) -> None:
        """End all causes, and run twice."""
        self.end_causes()
        twin, in_shell = self.project.twin(self.sources), self.rng.random() < 0.3
        self.log.append(f"end of all causes{', `sqlmesh run`' if in_shell else ''}, and two runs")
        if in_shell:
            sqlmesh(self.shop.project, "run", check=False)
            self.compare_all("not computed in a shell", twin)
        for _ in range(2):
            [record] = self.run(Action("run", tuple(self.project.models)))
            if record.status is not dg.DagsterRunStatus.SUCCESS:
                self.fault("not green at the end", str(record.failures))
        for check, result in record.checks.items():
            if check.endswith(CHECKS) and not result.passed:
                self.fault("not green at the end", f"{check}: {result.description}")
        self.compare_all("not computed again", twin)
        self.check_records()
        if self.engine.held_locks is not None and (number := self.engine.held_locks()):
            self.fault("a lock is left", number)

    def check_records(self) -> None:
        state = self.engine.state()
        for name, model in self.project.models.items():
            if model.has_time:
                recorded = recorded_of(self.shop.instance, name, state.versions[name])
                if lacking := state.computed[name] - recorded.keys():
                    self.fault("no record", f"{name} has no record of {text_of(lacking)}")

    def compare_all(self, claim: str, twin: dict[str, Rows]) -> None:
        for name in self.project.models:
            self.compare(claim, name, self.engine.rows(f"t.{name}"), twin[name])
        self.compare_computed(claim, self.engine.state().computed, self.complete)


# -- the command -----------------------------------------------------------------------------------

LOADER = """
import dagster as dg


@dg.asset(key=["load", "{root}"], partitions_def=dg.DailyPartitionsDefinition("{start}"))
def load_{root}() -> None: ...
"""


@contextmanager
def planned_story(seed: int, engine_name: str, folder: Path, servers: Servers) -> Iterator[tuple[Story, list[Action]]]:
    """Draw a story, and plan its project."""
    rng = random.Random(seed)
    project = draw_project(rng, has_crons=engine_name != "mariadb")
    days = [str(today() - timedelta(days=before)) for before in range(HISTORY, 0, -1)]
    actions = draw_actions(rng, project, days)
    first_days = [(days.index(action.start), days.index(action.end)) for action in actions if action.start]
    restated = {day for first, last in first_days for day in days[max(0, first - LONGEST_LOOKBACK) : last + 1]}
    # If an older day is pending, SQLMesh's run also computes the newest days of a `lookback` again.
    looks_back = any(model.lookback for model in project.models.values())
    others = [day for day in (days[:-LONGEST_LOOKBACK] if looks_back else days) if day not in restated]
    sources: dict[str, Rows] = {
        root.name: {day: [(k, rng.randint(1, 99)) for k in rng.sample(range(24), 2)] for day in days}
        for root in roots(project)
    }
    with servers.database(engine_name, folder / "shop", days[0]) as engine:
        engine.create_tables(sources)
        awaited = [root.name for root in roots(project) if root.is_awaited]
        wait = {"external_models": {"keys": {f"src.{root}": f"load/{root}" for root in awaited}, "wait": True}}
        attributes: dict[str, Any] = {
            "restate": {"jobs": [{"by": "day"}]},
            "intervals_check": True,
            **(wait if awaited else {}),
        }
        files = {**project.files(days), "gates/run/batches": "", "job": "story"}
        files["config.py"] = project.hooked_config(engine.config)
        with planned_shop(folder, files, engine.config, planned_at=None, **attributes) as shop:
            shop.plan(at=None)
            story = Story(project, shop, engine, rng, days, sources, others, {name: set() for name in project.models})
            story.log += [*map(str, project.models.values()), f"Source rows of {others} changed too."]
            for root in awaited:
                shop.add_module(f"load_{root}", LOADER.format(root=root, start=days[0]))
                story.load(root, sorted({*days} - {*rng.sample(days[2:], rng.choice((0, 1)))}))
            yield story, actions


def try_story(seed: int, engine: str, folder: Path, servers: Servers) -> Story:
    with planned_story(seed, engine, folder, servers) as (story, actions), story.to_its_end():
        story.complete = story.engine.state().computed
        story.act(Action("run", tuple(story.project.models)))
        for action in actions:
            story.act(action)
        story.finish()
    return story


if __name__ == "__main__":
    tell(__doc__, try_story, ENGINES, stories=100)
