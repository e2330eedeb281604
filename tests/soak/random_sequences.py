"""Run random sequences of actions, and compare state, rows and records after each of them.

    python tests/soak/random_sequences.py --stories 100 --seed 1

Each story has a random project and its own clock, which all processes share. An action is a tick, a run, a plan, a
command in a shell or a failure. A twin project has its own DuckDB file: only the `sqlmesh` command changes it, at the
same instants. What is expected follows from SQLMesh's state, from the rows and from docs/observe.md, scheduling.md and
reliability.md, never from the code of the package. It checks:

- **records**: a model is materialized if and only if the run has computed it, with exactly its intervals.
- **outside**: data from outside is recorded once, with exactly its intervals; data of our runs never is.
- **adopted**: data of which Dagster has no record at all is recorded once, with exactly its intervals.
- **rows**: the rows of the last action are those of the intervals in the state.
- **twin**: intervals, rows and success are those of a project driven by the `sqlmesh` command alone.
- **ticks**: a tick of a schedule requests what `sqlmesh run` computes.
- **forgotten**: hours that a lookback of ours has not finished are missing, and their check is failed, until a run
  computes exactly these.
- **green**: after a run of all models, the status check of each model without a problem is passed.
- **stale**: no asset is stale whose upstream models were computed before it.

The last action of a row is in its column `n`: so the rows show what was computed when, without the state.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from clock import MovedClock
from computed_hours import HOUR, NONE, Hours, State, intervals_of, recorded_hours, text_of
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from dagster._utils.schedules import schedule_execution_time_iterator
from databases import Servers
from drawn import DISTURBED
from harness import CONFIG, DagsterProject, RunRecord, dagster_project, query, run_in_fork, version_of, write_project
from random_models import CRONS, RandomModel, random_models
from stories import Told, tell

ATTRIBUTES = {"schedule": True, "polling_sensor": True, "janitor": True, "intervals_check": True}
RETRIES = {"max_retries": 1, "delay": 0}
OP = "sqlmesh_shop"
STARTS = ("2025-10-22", "2025-10-30", "2026-01-14", "2026-03-05", "2026-03-26")
"""The first days of sequences: among them, clocks change in Berlin and New York."""

AUDIT = "AUDIT (name fine); SELECT * FROM @this_model WHERE ts::DATE IN (SELECT day FROM ctl.bad WHERE name = @model)"

# -- one story ------------------------------------------------------------------------------------


@dataclass
class Outside:
    """Data of a model that was computed outside of Dagster and that Dagster has not recorded."""

    required: Hours
    allowed: Hours
    """`required`, and what our runs have computed again since then."""
    first: Hours = NONE
    """The part that was computed before Dagster's first record of this version."""
    is_merged: bool = False
    """SQLMesh's janitor has merged the intervals, so the record may contain more."""


@dataclass
class Story(MovedClock, Told):
    """A project, its twin, and what is known of both."""

    rng: random.Random
    folder: Path
    dagster: DagsterProject
    actions: list[str] = field(default_factory=list)
    outside: dict[str, Outside] = field(default_factory=dict)
    gone: dict[str, Hours] = field(default_factory=dict)
    """Hours that the state has as computed, and that have no rows."""
    forgotten: dict[str, Hours] = field(default_factory=dict)
    """Hours that were computed once, and that a run of ours has begun to compute again and has not finished."""
    interrupted: set[str] = field(default_factory=set)
    """The model during which the run of this action was killed or cancelled."""
    observed: set[str] = field(default_factory=set)
    """Models that were interrupted or have failed: Dagster has no materialization of what they have computed last."""
    computed_in: dict[str, int] = field(default_factory=dict)
    changed_in: dict[str, int] = field(default_factory=dict)
    """The last action that has computed a model."""
    broken: set[str] = field(default_factory=set)
    cursor: str | None = None

    def __post_init__(self) -> None:
        self.models = random_models(self.rng)
        self.log += [f"{model.name}: {model.kind}, {model.cron} {model.zone}" for model in self.models]
        self.changes = Counter[str]()
        start = datetime.fromisoformat(f"{self.rng.choice(STARTS)}T00:00+00:00")
        files = {f"models/{model.name}.sql": text_of_model(model, 0) for model in self.models}
        files |= {"macros/__init__.py": "", "macros/disturbed.py": DISTURBED, "audits/fine.sql": AUDIT}
        files |= {f"seeds/{model.name}.csv": "n\n1\n" for model in self.models if model.kind == "SEED"}
        config = CONFIG.replace("6 days ago", f"{start - timedelta(weeks=4):%Y-%m-%d}")
        self.project = write_project(self.folder / "shop", files, config)
        query(self.project, "CREATE SCHEMA ctl")
        query(self.project, "CREATE TABLE ctl.action AS SELECT 0 AS n")
        query(self.project, "CREATE TABLE ctl.broken (name TEXT, day DATE)")
        query(self.project, "CREATE TABLE ctl.bad (name TEXT, day DATE)")
        self.move_to(start + timedelta(minutes=self.rng.randint(5, 25)))
        with self.shown():
            self.shell(self.project, "plan", "--auto-apply", "--no-prompts")
            self.twin = Path(shutil.copytree(self.project, self.folder / "twin"))
            attributes: dict[str, Any] = dict(ATTRIBUTES)
            self.has_retries = self.rng.random() < 0.3
            if self.has_retries:
                attributes["execution"] = {"retries": RETRIES}
            self.dagster.add_component("shop", {"project": str(self.project), **attributes})
            self.refresh()
        self.state = State.of(self.project)
        self.outside = {name: Outside(hours, hours, hours) for name, hours in self.state.computed.items()}
        self.computed_in = dict.fromkeys(self.state.versions, 0)

    # -- time

    def wait(self) -> None:
        """Move the time forward, to an instant that is some minutes away from ticks of crons."""
        later = self.now + timedelta(hours=self.rng.choice((0, 0, 1, 3, 7, 13, 24, 24, 50)))
        later = later.replace(minute=self.rng.randint(5, 25))
        self.move_to(later if later > self.now + timedelta(minutes=2) else later + timedelta(hours=1))

    # -- tools

    def refresh(self) -> None:
        self.definitions = self.dagster.refresh()
        self.repository = self.definitions.get_repository_def()

    def shell(self, project: Path, *arguments: str) -> bool:
        """Run the `sqlmesh` command. Return whether it has succeeded."""
        return run_in_fork(["sqlmesh", "-p", str(project), *arguments], project)[0] == 0

    def in_both_shells(self, *arguments: str) -> None:
        for project in (self.project, self.twin):
            self.shell(project, *arguments)

    def launch(
        self, models: Collection[str], config: Mapping[str, Any] | None = None, job: str = "sqlmesh_shop_job"
    ) -> RunRecord:
        run_id = str(uuid.UUID(int=self.rng.getrandbits(128)))
        with suppress(dg.DagsterExecutionInterruptedError):  # cancelled
            self.definitions.resolve_job_def(job).execute_in_process(
                instance=self.dagster.instance,
                asset_selection=[key_of(name) for name in sorted(models)] or None,
                run_config={"ops": {OP: {"config": dict(config)}}} if config else None,
                raise_on_error=False,
                run_id=run_id,
            )
        return RunRecord(self.dagster.instance, run_id)

    @cached_property
    def names(self) -> list[str]:
        return [model.name for model in self.models]

    def downstream_of(self, names: Collection[str]) -> set[str]:
        found = set(names)
        for model in self.models:  # parents first
            if found & {parent.name for parent in model.upstream}:
                found.add(model.name)
        return found

    # -- actions

    def act(self, action: Callable[[Story], None]) -> None:
        """Do one action in both projects, and compare."""
        self.wait()
        self.actions.append(action.__name__)
        number = len(self.actions)
        with self.shown():
            self.twin_before = State.of(self.twin)
            for project in (self.project, self.twin):
                query(project, f"UPDATE ctl.action SET n = {number}")
            try:
                action(self)
            finally:
                self.log.append(f"{number}. {self.actions[-1]} at {self.now:%Y-%m-%dT%H:%M:%S}")

    def describe(self, text: str) -> None:
        self.actions[-1] += f" {text}"

    def check_run(self, record: RunRecord, selected: Collection[str], twin_succeeded: bool | None) -> None:
        """Compare the records of a run with the state and the rows."""
        before, self.state, gone_before = self.state, State.of(self.project), dict(self.gone)
        forgotten_before = self.note_forgotten(before)
        self.counts["unfinished lookback"] += sum(
            bool(hours - forgotten_before.get(name, NONE)) for name, hours in self.forgotten.items()
        )
        computed = self.state.computed_since(before)
        statuses = {name: status_of(record, name) for name in self.names}
        self.counts.update(statuses[name] for name in selected)
        for name in self.names:
            event = record.materializations.get(f"t/{name}") or record.observations.get(f"t/{name}")
            hours, found = computed.get(name, NONE), recorded_hours(event.metadata) if event else NONE
            is_materialized = f"t/{name}" in record.materializations
            if is_materialized != bool(hours) and not (hours and name in self.broken | self.interrupted):
                self.fault("records", f"{name} is {statuses[name]}, and has computed {text_of(hours)}")
            elif found not in (hours, None):
                self.fault("records", f"{name} has recorded {text_of(found)}, and computed {text_of(hours)}")
        for name in self.interrupted & self.outside.keys():
            if self.has_retries:  # the first attempt has forgotten them, so the second one did not find them
                self.outside[name].required -= computed.get(name, NONE)
        self.check_outside(
            {**record.computed_outside, **record.reported_outside},
            {name for name in selected if statuses[name] == "up_to_date"},
        )
        for name, hours in computed.items():
            if name in self.outside:
                whole = not self.model(name).has_time
                self.outside[name].required = NONE if whole else self.outside[name].required - hours
        without_record = self.observed | self.interrupted | computed.keys()
        self.observed = {name for name in without_record if f"t/{name}" not in record.materializations}
        self.check_rows(computed)
        self.check_state_is_honest(computed, gone_before)
        if forgotten_before or self.forgotten or self.interrupted:
            if twin_succeeded is not None:
                self.check_forgotten(forgotten_before, computed)
                self.check_healed(record, selected)
            self.copy_to_twin()
        elif twin_succeeded is not None:
            if twin_succeeded != (record.status == dg.DagsterRunStatus.SUCCESS):
                self.fault("twin", f"SQLMesh has succeeded: {twin_succeeded}; here: {record.failures or 'success'}")
            self.check_twin()
        if set(selected) == set(self.names):
            for name in self.names:
                is_green = self.check_passed(name, "sqlmesh_execution_status")
                if statuses[name] in ("executed", "up_to_date") and not is_green:
                    self.fault("green", f"the status check of {name} ({statuses[name]}) is failed")
        self.check_stale()

    def note_forgotten(self, before: State) -> dict[str, Hours]:
        """Note the hours that were computed before this action and are not any more. Return those noted before it."""
        forgotten = self.forgotten
        self.forgotten = {
            name: hours
            for name in self.names
            if before.versions[name] == self.state.versions[name]
            if (hours := (before.computed[name] | forgotten.get(name, NONE)) - self.state.computed[name])
        }
        return forgotten

    def check_state_is_honest(self, computed: Mapping[str, Hours], gone_before: Mapping[str, Hours]) -> None:
        """Hours whose rows this run has deleted, or written without finishing them, must not count as computed."""
        for model in self.models:
            if model.has_time:
                written = self.hours_with_rows(model.name, len(self.actions)) - computed.get(model.name, NONE)
                false = (written & self.state.computed[model.name]) | (
                    self.gone[model.name] - gone_before.get(model.name, NONE)
                )
                if false:
                    self.fault("forgotten", f"{model.name} has {text_of(false)} as computed, and they are not")
        for name in self.forgotten:
            if self.check_passed(name, "sqlmesh_intervals_complete"):
                self.fault("forgotten", f"{name} lacks {text_of(self.forgotten[name])}, and its check is passed")

    def check_forgotten(self, forgotten_before: Mapping[str, Hours], computed: Mapping[str, Hours]) -> None:
        """Compare what a run has computed and forgotten with what an undisturbed `sqlmesh run` computes."""
        number, twin = len(self.actions), State.of(self.twin)
        computed_by_twin = twin.computed_since(self.twin_before)
        for model in self.models:
            name, mine, theirs = model.name, computed.get(model.name, NONE), computed_by_twin.get(model.name, NONE)
            if not model.has_time:
                continue
            touched = theirs | self.hours_with_rows(name, number, self.twin)
            touched |= twin.computed[name] - self.hours_with_rows(name, project=self.twin)
            forgotten, earlier = self.forgotten.get(name, NONE), forgotten_before.get(name, NONE)
            if touched and (again := (mine - earlier - touched) & self.twin_before.computed[name]):
                self.fault("forgotten", f"{name} has computed {text_of(again)} again, which nobody needs")
            if touched and (more := forgotten - earlier - touched):
                self.fault("forgotten", f"{name} has forgotten {text_of(more)}, which SQLMesh does not compute")
            has_started = mine or forgotten - earlier or self.hours_with_rows(name, number)
            if has_started and (left := (theirs - mine) & self.state.computed[name]):
                self.fault("forgotten", f"{name} has left out {text_of(left)}, and has them as computed")

    def check_healed(self, record: RunRecord, selected: Collection[str]) -> None:
        """A run that nothing disturbs computes everything that is forgotten."""
        failing = self.downstream_of(self.broken)
        for name, hours in self.forgotten.items():
            if name in selected and name not in failing and not self.interrupted:
                self.fault("forgotten", f"{name} still lacks {text_of(hours)} after a run ({record.failures})")

    def check_shell(self) -> None:
        """Note what was computed outside of Dagster, and compare both projects."""
        before, self.state = self.state, State.of(self.project)
        forgotten_before = self.note_forgotten(before)
        computed = self.state.computed_since(before)
        for name, version in self.state.versions.items():
            hours = computed.get(name, NONE)
            if version != before.versions[name]:
                everything = self.state.computed[name]
                self.outside[name] = Outside(everything, everything, everything)
            elif hours:
                data = self.outside.setdefault(name, Outside(NONE, NONE))
                data.required, data.allowed = data.required | hours, data.allowed | hours
            if name in self.outside and before.rows[name].keys() - self.state.rows[name].keys():
                self.outside[name].is_merged = True
        self.check_rows(computed)
        if forgotten_before:  # the twin has them as computed
            self.copy_to_twin()
        else:
            self.check_twin()

    def check_outside(self, recorded: Mapping[str, dg.AssetMaterialization], required: Collection[str]) -> None:
        """Compare the records of data from outside with what was computed there.

        Args:
            required: The models whose data must be recorded now.
        """
        for name in self.names:
            data, event = self.outside.get(name, Outside(NONE, NONE)), recorded.get(f"t/{name}")
            if event is None and name not in required:
                continue
            self.outside.pop(name, None)
            found = recorded_hours(event.metadata) if event else NONE
            if event and version_of(event) != self.state.versions[name]:
                self.fault("outside", f"{name} is recorded with another version")
            if found is None:
                continue
            missing = data.required - found
            if missing and missing <= data.first:
                self.fault("adopted", f"{name} lacks a record of {text_of(missing)}")
            elif missing:
                self.fault("outside", f"{name} lacks a record of {text_of(missing)}")
            if event and (not data.allowed or found - (self.state.computed[name] if data.is_merged else data.allowed)):
                self.fault("outside", f"{name} is recorded with {text_of(found)}, new is {text_of(data.allowed)}")

    def check_rows(self, computed: Mapping[str, Hours]) -> None:
        """Compare the rows of this action with the state."""
        number = len(self.actions)
        for name, hours in computed.items():
            self.computed_in[name] = number
            if self.model(name).kind in ("VIEW", "SEED"):
                continue
            if self.model(name).has_time:
                found = self.hours_with_rows(name, number)
                if found != hours and not (name in self.broken | self.interrupted and found > hours):
                    self.fault("rows", f"{name} has new rows of {text_of(found)}, and computed {text_of(hours)}")
            elif (rows := query(self.project, f"SELECT n FROM t.{name}")) != [(number,)]:
                self.fault("rows", f"{name} was computed, and its rows are {rows}")
        for model in self.models:
            if model.has_time:
                self.gone[model.name] = self.state.computed[model.name] - self.hours_with_rows(model.name)

    def check_twin(self) -> None:
        """Compare intervals and rows of both projects."""
        if differing := self.differing_models():
            self.fault("twin", "; ".join(f"{name}: {text}" for name, text in differing.items()))
            self.copy_to_twin()

    def differing_models(self) -> dict[str, str]:
        differing, twin = {}, State.of(self.twin)
        for name in self.names:
            mine, theirs = self.state.computed[name], twin.computed[name]
            rows = [query(project, f"SELECT * FROM t.{name} ORDER BY ALL") for project in (self.project, self.twin)]
            if mine != theirs:
                differing[name] = f"only here {text_of(mine - theirs)}, only in the twin {text_of(theirs - mine)}"
            elif rows[0] != rows[1]:
                differing[name] = f"other rows: {sorted(set(rows[0]) ^ set(rows[1]))[:4]}"
        return differing

    def copy_to_twin(self) -> None:
        self.counts["copy of the twin"] += 1
        shutil.copy(self.project / "warehouse.duckdb", self.twin / "warehouse.duckdb")
        # SQLMesh alone forgets nothing. If the twin lacked them, its `lookback` would reach further into the past.
        now = int(self.now.timestamp() * 1000)
        for name, hours in self.forgotten.items():
            for start, end in intervals_of(hours):
                values = f"{start * HOUR} AS start_ts, {end * HOUR} AS end_ts, {now} AS created_ts"
                rows = f"SELECT * REPLACE (uuid()::TEXT AS id, {values}) FROM sqlmesh._intervals"
                of_table = f"version = '{self.state.versions[name]}' AND name LIKE '%\"{name}\"' AND NOT is_dev"
                recorded = "NOT is_removed AND NOT is_pending_restatement LIMIT 1"
                query(self.twin, f"INSERT INTO sqlmesh._intervals BY NAME {rows} WHERE {of_table} AND {recorded}")

    def check_stale(self) -> None:
        """Models that were computed after their upstream models must not be stale."""
        instance = self.dagster.instance
        resolver = CachingStaleStatusResolver(instance, self.repository.asset_graph, LoadingContextForTest(instance))
        for model in self.models:
            family = {model.name, *(parent.name for parent in seen_through_views(model))}
            # A forward-only change keeps the data: the model has new code until it is computed next.
            since = [self.changed_in.get(model.name, 0), *(self.computed_in[name] for name in family)]
            in_order = self.computed_in[model.name] >= max(since)
            causes = [cause.reason for cause in resolver.get_stale_causes(key_of(model.name))]
            if in_order and causes and not family & (self.outside.keys() | self.observed):
                self.fault("stale", f"{model.name} is stale: {causes}")

    def model(self, name: str) -> RandomModel:
        return self.models[int(name[1:])]

    def hours_with_rows(self, name: str, number: int | None = None, project: Path | None = None) -> Hours:
        """The hours of a model that have rows, or rows of one action."""
        size = 24 if CRONS[self.model(name).cron] == "day" else 1
        where = "" if number is None else f"WHERE n = {number}"
        starts = query(project or self.project, f"SELECT DISTINCT epoch_ms(ts) // {HOUR} FROM t.{name} {where}")
        return frozenset(hour for (start,) in starts for hour in range(start, start + size))

    def check_passed(self, name: str, check: str) -> bool:
        """Whether the last result of a check is passed."""
        key = dg.AssetCheckKey(key_of(name), check)
        record = self.dagster.instance.event_log_storage.get_latest_asset_check_execution_by_key([key]).get(key)
        event = record.event.dagster_event if record and record.event else None
        return bool(event and event.asset_check_evaluation_data.passed)


def text_of_model(model: RandomModel, change: int) -> str:
    """The text of a model's file. A run can be interrupted in each batch of an incremental model, and audits it."""
    text = model.text(change)
    if not model.has_time:
        return text
    audits = f", audits (fine(model := '{model.name}'))" if model.is_by_time else ""
    return text.replace(");\n", f"{audits});\n", 1) + f" WHERE @disturbed('{model.name}')"


def seen_through_views(model: RandomModel) -> Iterator[RandomModel]:
    """The models that a model reads, and those that the views among them read: Dagster looks through views."""
    for parent in model.upstream:
        yield parent
        if parent.kind == "VIEW":
            yield from seen_through_views(parent)


def status_of(record: RunRecord, name: str) -> str:
    """The outcome of a model in a run."""
    key = f"t/{name}"
    if key in record.materializations:
        return "executed"
    if key in record.computed_outside:
        return "up_to_date"
    return record.status_of(key) or "none"


def key_of(name: str) -> dg.AssetKey:
    return dg.AssetKey(["t", name])


# -- actions --------------------------------------------------------------------------------------


def tick_of_schedule(story: Story) -> None:
    """Evaluate the next tick of a schedule, and launch the run that it requests."""
    schedules = {schedule.name: schedule for schedule in story.repository.schedule_defs}
    schedule = schedules[story.rng.choice(sorted(schedules.keys() - {"sqlmesh_shop_janitor_schedule"}))]
    scheduled = next(
        schedule_execution_time_iterator(
            story.now.timestamp(), schedule.cron_schedule, schedule.execution_timezone, ascending=True
        )
    )
    story.move_to(scheduled + timedelta(seconds=20))
    with story.shown():
        context = dg.build_schedule_context(story.dagster.instance, scheduled, repository_def=story.repository)
        requests = schedule.evaluate_tick(context).run_requests
        requested = {key.path[-1] for request in requests or () for key in request.asset_selection or ()}
        story.describe(f"{schedule.name} {sorted(requested)}")
        before = State.of(story.twin)
        record = story.launch(requested) if requested else None
        succeeded = story.shell(story.twin, "run")
        computed = set(State.of(story.twin).computed_since(before))
        if computed - requested:
            story.fault("ticks", f"requested {sorted(requested)}, SQLMesh computes {sorted(computed)}")
        if record:
            story.check_run(record, requested, succeeded)


def run_of_all(story: Story) -> None:
    record = story.launch(story.names)
    story.check_run(record, story.names, story.shell(story.twin, "run"))


def run_without_cron(story: Story) -> None:
    record = story.launch(story.names, {"ignore_cron": True})
    story.check_run(record, story.names, story.shell(story.twin, "run", "--ignore-cron"))


def interrupted_run_of_all(story: Story) -> None:
    """Kill the worker of a run, or cancel the run, before a batch of an incremental model."""
    name = story.rng.choice([model.name for model in story.models if model.has_time] or story.names)
    is_cancelled, batches = story.rng.random() < 0.5, story.rng.choice((0, 0, 1, 2))
    number, pid = (signal.SIGTERM, os.getpid()) if is_cancelled else (signal.SIGKILL, 0)
    flag = story.project / "disturb"
    flag.write_text(f"{name} {batches} {int(number)} {pid}")
    previous = signal.signal(signal.SIGTERM, lambda *_: None)  # if it comes after the step
    try:
        record = story.launch(story.names, {"ignore_cron": True})
    finally:
        signal.signal(signal.SIGTERM, previous)
    how = "not interrupted" if flag.exists() else f"{number.name} in batch {batches}"
    story.interrupted = set() if flag.exists() else {name}
    flag.unlink(missing_ok=True)
    story.describe(f"{name} {how}")
    story.counts[how.split()[0]] += 1
    story.check_run(record, story.names, story.shell(story.twin, "run", "--ignore-cron"))
    story.interrupted = set()


def run_of_subset(story: Story) -> None:
    """Run some models. The twin runs those that do not wait.

    Models that wait in part may differ from the twin: they have computed less, or failed in other intervals.
    """
    selected = story.rng.sample(story.names, story.rng.randint(1, len(story.names) - 1))
    story.describe(str(selected))
    record = story.launch(selected)
    story.check_run(record, selected, None)
    options = [option for name in selected if status_of(record, name) != "waiting" for option in named(name)]
    if options:
        story.shell(story.twin, "run", "--no-auto-upstream", *options)
    if story.forgotten:
        story.copy_to_twin()
        return
    twin = State.of(story.twin)
    waited = {name for name in selected if story.state.computed[name] < twin.computed[name]} | story.broken
    differing = story.differing_models()
    if differing.keys() - story.downstream_of(waited):
        story.fault("twin", "; ".join(f"{name}: {text}" for name, text in differing.items()))
    if differing:
        story.copy_to_twin()


def named(name: str) -> tuple[str, str]:
    return ("--select-model", f"t.{name}")


def restatement_in_shell(story: Story) -> None:
    names = [model.name for model in story.models if model.kind not in ("SEED", "INCREMENTAL_UNMANAGED")]
    selected = sorted(story.rng.sample(names, min(len(names), story.rng.choice((1, 1, 2)))))
    days = sorted(story.rng.sample(range(8, 20), 2))
    last, first = (f"{story.now - timedelta(days=ago):%Y-%m-%d}" for ago in days)
    story.describe(f"{selected} {first} {last}")
    models = [option for name in selected for option in ("--restate-model", f"t.{name}")]
    story.in_both_shells("plan", "--auto-apply", "--no-prompts", *models, "--start", first, "--end", last)
    story.check_shell()


def run_in_shell(story: Story) -> None:
    options = story.rng.choice(([], ["--skip-janitor"], ["--skip-janitor"], ["--skip-janitor", "--ignore-cron"]))
    story.describe(" ".join(options))
    story.in_both_shells("run", *options)
    story.check_shell()


def plan_of_changed_model(story: Story) -> None:
    mend(story)
    model = story.rng.choice(story.models)
    story.describe(model.name)
    story.changes[model.name] += 1
    story.changed_in[model.name] = len(story.actions)
    for project in (story.project, story.twin):
        if model.kind == "SEED":
            (project / f"seeds/{model.name}.csv").write_text(f"n\n{story.changes[model.name]}\n")
        else:
            text = text_of_model(model, story.changes[model.name])
            (project / f"models/{model.name}.sql").write_text(text)
    story.in_both_shells("plan", "--auto-apply", "--no-prompts")
    story.check_shell()
    story.refresh()


def break_model(story: Story) -> None:
    """Make a model fail, for all days or for some of them, or let its audit fail."""
    name = story.rng.choice(story.names)
    day, days = story.now.date(), story.rng.choice((range(-3, 30), range(-3, 4), range(1, 3), range(9, 12)))
    table = "broken"
    if story.model(name).is_by_time and story.rng.random() < 0.4:
        table, days = "bad", range(-3, 4)
    story.describe(f"{name} {table} {days}")
    story.broken.add(name)
    values = ", ".join(f"('{name}', '{day - timedelta(days=ago)}')" for ago in days)
    for project in (story.project, story.twin):
        query(project, f"INSERT INTO ctl.{table} VALUES {values}")


def mend(story: Story) -> None:
    story.broken.clear()
    for project in (story.project, story.twin):
        query(project, "DELETE FROM ctl.broken")
        query(project, "DELETE FROM ctl.bad")


def janitor(story: Story) -> None:
    record = story.launch((), job="sqlmesh_shop_janitor")
    if record.status != dg.DagsterRunStatus.SUCCESS:
        story.fault("records", f"the janitor has failed: {record.failures}")
    story.shell(story.twin, "janitor")
    story.check_shell()


def tick_of_sensor(story: Story) -> None:
    sensor = story.repository.get_sensor_def("sqlmesh_shop_sensor")
    context = dg.build_sensor_context(story.dagster.instance, story.cursor, repository_def=story.repository)
    result = sensor.evaluate_tick(context)
    story.cursor = result.cursor
    for event in result.asset_events:
        story.dagster.instance.report_runless_asset_event(event)
    data = [event for event in result.asset_events if isinstance(event, dg.AssetMaterialization)]
    story.check_outside({event.asset_key.to_user_string(): event for event in data}, story.names)
    story.check_stale()


ACTIONS = {
    tick_of_schedule: 4,
    run_of_all: 2,
    interrupted_run_of_all: 3,
    run_without_cron: 1,
    run_of_subset: 3,
    restatement_in_shell: 2,
    run_in_shell: 3,
    plan_of_changed_model: 1,
    break_model: 3,
    mend: 2,
    janitor: 1,
    tick_of_sensor: 4,
}


def try_story(seed: int, engine: str, folder: Path, servers: Servers) -> Story:
    """Tell one story, which ends with a run of all models and a tick of the sensor."""
    rng = random.Random(seed)
    with dagster_project(folder) as dagster:
        story = Story(rng, folder, dagster)
        actions = rng.choices(list(ACTIONS), list(ACTIONS.values()), k=rng.randint(8, 14))
        with story.to_its_end():
            for action in [*actions, mend, run_without_cron, tick_of_sensor]:
                story.counts[action.__name__] += 1
                story.act(action)
    return story


if __name__ == "__main__":
    tell(__doc__, try_story, stories=100)
