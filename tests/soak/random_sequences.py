"""Run random sequences of actions, and compare state, rows and records after each of them.

    python tests/soak/random_sequences.py --sequences 100 --seed 1

Each sequence has a random project and its own clock, which all processes share. An action is a tick, a run, a
restatement, a plan, a command in a shell or a failure. A twin project has its own DuckDB file: only the `sqlmesh`
command changes it, at the same instants. What is expected follows from SQLMesh's state, from the rows and from
docs/observe.md, recompute.md, scheduling.md and reliability.md, never from the code of the package.

The last action of a row is in its column `n`: so the rows show what was computed when, without the state.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
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
import worker_zygote
from clock import MovedClock
from computed_hours import HOUR, NONE, Hours, State, recorded_hours, text_of
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from dagster._utils.schedules import schedule_execution_time_iterator
from drawn import DISTURBED
from harness import CONFIG, DagsterProject, RunRecord, dagster_project, query, run_in_fork, version_of, write_project
from random_models import CRONS, RandomModel, random_models

CHECKS = {
    "records": "a model is materialized if and only if the run has computed it, with exactly its intervals",
    "outside": "data from outside is recorded once, with exactly its intervals; data of our runs never is",
    "adopted": "data of which Dagster has no record at all is recorded once, with exactly its intervals",
    "rows": "the rows of the last action are those of the intervals in the state",
    "twin": "intervals, rows and success are those of a project driven by the `sqlmesh` command alone",
    "ticks": "a tick of a schedule requests what `sqlmesh run` computes",
    "forgotten": "hours that a lookback of ours has not finished are missing, and their check is failed, until a run "
    "computes exactly these",
    "lost": "the checks of a model whose restatement has failed stay failed until its hours are computed again",
    "green": "after a run of all models, the status check of each model without a problem is passed",
    "errors": "no action raises an error",
    "stale": "no asset is stale whose upstream models were computed before it",
}
ATTRIBUTES = {"schedule": True, "polling_sensor": True, "janitor": True, "intervals_check": True, "restate": True}
RETRIES = {"max_retries": 1, "delay": 0}
OP = "sqlmesh_shop"
STARTS = ("2025-10-22", "2025-10-30", "2026-01-14", "2026-03-05", "2026-03-26")
"""The first days of sequences: among them, clocks change in Berlin and New York."""

AUDIT = "AUDIT (name fine); SELECT * FROM @this_model WHERE ts::DATE IN (SELECT day FROM ctl.bad WHERE name = @model)"

# -- one sequence ---------------------------------------------------------------------------------


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
class Sequence(MovedClock):
    """A project, its twin, and what is known of both."""

    rng: random.Random
    folder: Path
    dagster: DagsterProject
    disagreements: list[tuple[str, str]] = field(default_factory=list)
    """Names of checks, and what they have found."""
    actions: list[str] = field(default_factory=list)
    outside: dict[str, Outside] = field(default_factory=dict)
    gone: dict[str, Hours] = field(default_factory=dict)
    """Hours that the state has as computed, and that have no rows."""
    lost: dict[str, Hours] = field(default_factory=dict)
    """Hours that a failed restatement of ours has deleted, or written without finishing."""
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
    outcomes: Counter[str] = field(default_factory=Counter)
    """The outcomes of models in runs, interruptions, lookbacks that did not finish, and copies of the twin."""

    def __post_init__(self) -> None:
        self.models = random_models(self.rng)
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

    def disagree(self, check: str, text: str) -> None:
        self.disagreements.append((check, f"action {len(self.actions)}: {text}"))

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

    def act(self, action: Callable[[Sequence], None]) -> None:
        """Do one action in both projects, and compare."""
        self.wait()
        self.actions.append(action.__name__)
        number = len(self.actions)
        with self.shown():
            self.twin_before = State.of(self.twin)
            for project in (self.project, self.twin):
                query(project, f"UPDATE ctl.action SET n = {number}")
            action(self)
            self.actions[-1] += f" at {self.now:%Y-%m-%dT%H:%M:%S}"

    def describe(self, text: str) -> None:
        self.actions[-1] += f" {text}"

    def check_run(
        self, record: RunRecord, selected: Collection[str], twin_succeeded: bool | None, *, is_restatement: bool = False
    ) -> None:
        """Compare the records of a run with the state and the rows."""
        before, self.state, gone_before = self.state, State.of(self.project), dict(self.gone)
        forgotten_before = self.note_forgotten(before)
        self.outcomes["unfinished lookback"] += sum(
            bool(hours - forgotten_before.get(name, NONE)) for name, hours in self.forgotten.items()
        )
        computed = self.state.computed_since(before)
        statuses = {name: status_of(record, name) for name in self.names}
        self.outcomes.update(statuses[name] for name in selected)
        for name in self.names:
            event = record.materializations.get(f"t/{name}") or record.observations.get(f"t/{name}")
            hours, found = computed.get(name, NONE), recorded_hours(event.metadata) if event else NONE
            is_materialized = f"t/{name}" in record.materializations
            if is_materialized != bool(hours) and not (hours and name in self.broken | self.interrupted):
                self.disagree("records", f"{name} is {statuses[name]}, and has computed {text_of(hours)}")
            elif found not in (hours, None):
                self.disagree("records", f"{name} has recorded {text_of(found)}, and computed {text_of(hours)}")
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
        if not is_restatement:
            self.check_state_is_honest(computed, gone_before)
        if is_restatement and record.status != dg.DagsterRunStatus.SUCCESS:
            for name, gone in self.gone.items():  # rows are written and not recorded if an audit has failed
                written = self.hours_with_rows(name, len(self.actions)) - computed.get(name, NONE)
                self.lost[name] = self.lost.get(name, NONE) | (gone - gone_before.get(name, NONE)) | written
        if forgotten_before or self.forgotten or self.interrupted:
            if twin_succeeded is not None and not is_restatement:
                self.check_forgotten(forgotten_before, computed)
                self.check_healed(record, selected)
            self.copy_to_twin()
        elif twin_succeeded is not None:
            # A run of a model with lost rows fails, although SQLMesh has succeeded.
            should_succeed = twin_succeeded and not any(self.lost.get(name) for name in selected)
            if should_succeed != (record.status == dg.DagsterRunStatus.SUCCESS):
                self.disagree("twin", f"SQLMesh has succeeded: {twin_succeeded}; here: {record.failures or 'success'}")
            if is_restatement and self.is_held_back():
                self.copy_to_twin()
            else:
                self.check_twin()
        self.check_lost()
        if set(selected) == set(self.names) and not is_restatement:
            for name in self.names:
                is_green = self.check_passed(name, "sqlmesh_execution_status")
                if statuses[name] in ("executed", "up_to_date") and not self.lost.get(name) and not is_green:
                    self.disagree("green", f"the status check of {name} ({statuses[name]}) is failed")
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
                    self.disagree("forgotten", f"{model.name} has {text_of(false)} as computed, and they are not")
        for name in self.forgotten:
            if self.check_passed(name, "sqlmesh_intervals_complete"):
                self.disagree("forgotten", f"{name} lacks {text_of(self.forgotten[name])}, and its check is passed")

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
                self.disagree("forgotten", f"{name} has computed {text_of(again)} again, which nobody needs")
            if touched and (more := forgotten - earlier - touched):
                self.disagree("forgotten", f"{name} has forgotten {text_of(more)}, which SQLMesh does not compute")
            has_started = mine or forgotten - earlier or self.hours_with_rows(name, number)
            if has_started and (left := (theirs - mine) & self.state.computed[name]):
                self.disagree("forgotten", f"{name} has left out {text_of(left)}, and has them as computed")

    def check_healed(self, record: RunRecord, selected: Collection[str]) -> None:
        """A run that nothing disturbs computes everything that is forgotten."""
        failing = self.downstream_of(self.broken)
        for name, hours in self.forgotten.items():
            if name in selected and name not in failing and not self.interrupted:
                self.disagree("forgotten", f"{name} still lacks {text_of(hours)} after a run ({record.failures})")

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
                self.lost.pop(name, None)
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
                self.disagree("outside", f"{name} is recorded with another version")
            if found is None:
                continue
            missing = data.required - found
            if missing and missing <= data.first:
                self.disagree("adopted", f"{name} lacks a record of {text_of(missing)}")
            elif missing:
                self.disagree("outside", f"{name} lacks a record of {text_of(missing)}")
            if event and (not data.allowed or found - (self.state.computed[name] if data.is_merged else data.allowed)):
                self.disagree("outside", f"{name} is recorded with {text_of(found)}, new is {text_of(data.allowed)}")

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
                    self.disagree("rows", f"{name} has new rows of {text_of(found)}, and computed {text_of(hours)}")
            elif (rows := query(self.project, f"SELECT n FROM t.{name}")) != [(number,)]:
                self.disagree("rows", f"{name} was computed, and its rows are {rows}")
        for model in self.models:
            if model.has_time:
                self.gone[model.name] = self.state.computed[model.name] - self.hours_with_rows(model.name)
        self.lost = {name: hours - computed.get(name, NONE) for name, hours in self.lost.items()}

    def is_held_back(self) -> bool:
        """Whether the twin has restated a whole model beyond what its upstream models have. A run of ours does not."""
        twin = State.of(self.twin)
        more = {name: twin.computed[name] - self.state.computed[name] for name in self.names}
        differing = [name for name in self.names if twin.computed[name] != self.state.computed[name]]
        return bool(differing) and all(
            not self.model(name).has_time
            and self.state.computed[name] <= twin.computed[name]
            and any(more[name] - self.state.computed[parent.name] for parent in self.model(name).upstream)
            for name in differing
        )

    def check_twin(self) -> None:
        """Compare intervals and rows of both projects."""
        if differing := self.differing_models():
            self.disagree("twin", "; ".join(f"{name}: {text}" for name, text in differing.items()))
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
        self.outcomes["copy of the twin"] += 1
        shutil.copy(self.project / "warehouse.duckdb", self.twin / "warehouse.duckdb")
        # SQLMesh alone forgets nothing. If the twin lacked them, its `lookback` would reach further into the past.
        now = int(self.now.timestamp() * 1000)
        for name, hours in self.forgotten.items():
            starts = sorted(hour for hour in hours if hour - 1 not in hours)
            ends = sorted(hour + 1 for hour in hours if hour + 1 not in hours)
            for start, end in zip(starts, ends):
                values = f"{start * HOUR} AS start_ts, {end * HOUR} AS end_ts, {now} AS created_ts"
                rows = f"SELECT * REPLACE (uuid()::TEXT AS id, {values}) FROM sqlmesh._intervals"
                of_table = f"version = '{self.state.versions[name]}' AND name LIKE '%\"{name}\"' AND NOT is_dev"
                recorded = "NOT is_removed AND NOT is_pending_restatement LIMIT 1"
                query(self.twin, f"INSERT INTO sqlmesh._intervals BY NAME {rows} WHERE {of_table} AND {recorded}")

    def check_lost(self) -> None:
        """The checks of models with lost rows must be failed."""
        for name, hours in self.lost.items():
            for check in ("sqlmesh_execution_status", "sqlmesh_intervals_complete"):
                if hours and self.check_passed(name, check):
                    self.disagree("lost", f"the rows of {name} of {text_of(hours)} are bad, and {check} is passed")

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
                self.disagree("stale", f"{model.name} is stale: {causes}")

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


def tick_of_schedule(sequence: Sequence) -> None:
    """Evaluate the next tick of a schedule, and launch the run that it requests."""
    schedules = {schedule.name: schedule for schedule in sequence.repository.schedule_defs}
    schedule = schedules[sequence.rng.choice(sorted(schedules.keys() - {"sqlmesh_shop_janitor_schedule"}))]
    scheduled = next(
        schedule_execution_time_iterator(
            sequence.now.timestamp(), schedule.cron_schedule, schedule.execution_timezone, ascending=True
        )
    )
    sequence.move_to(scheduled + timedelta(seconds=20))
    with sequence.shown():
        context = dg.build_schedule_context(sequence.dagster.instance, scheduled, repository_def=sequence.repository)
        requests = schedule.evaluate_tick(context).run_requests
        requested = {key.path[-1] for request in requests or () for key in request.asset_selection or ()}
        sequence.describe(f"{schedule.name} {sorted(requested)}")
        before = State.of(sequence.twin)
        record = sequence.launch(requested) if requested else None
        succeeded = sequence.shell(sequence.twin, "run")
        computed = set(State.of(sequence.twin).computed_since(before))
        if computed - requested:
            sequence.disagree("ticks", f"requested {sorted(requested)}, SQLMesh computes {sorted(computed)}")
        if record:
            sequence.check_run(record, requested, succeeded)


def run_of_all(sequence: Sequence) -> None:
    record = sequence.launch(sequence.names)
    sequence.check_run(record, sequence.names, sequence.shell(sequence.twin, "run"))


def run_without_cron(sequence: Sequence) -> None:
    record = sequence.launch(sequence.names, {"ignore_cron": True})
    sequence.check_run(record, sequence.names, sequence.shell(sequence.twin, "run", "--ignore-cron"))


def interrupted_run_of_all(sequence: Sequence) -> None:
    """Kill the worker of a run, or cancel the run, before a batch of an incremental model."""
    name = sequence.rng.choice([model.name for model in sequence.models if model.has_time] or sequence.names)
    is_cancelled, batches = sequence.rng.random() < 0.5, sequence.rng.choice((0, 0, 1, 2))
    number, pid = (signal.SIGTERM, os.getpid()) if is_cancelled else (signal.SIGKILL, 0)
    flag = sequence.project / "disturb"
    flag.write_text(f"{name} {batches} {int(number)} {pid}")
    previous = signal.signal(signal.SIGTERM, lambda *_: None)  # if it comes after the step
    try:
        record = sequence.launch(sequence.names, {"ignore_cron": True})
    finally:
        signal.signal(signal.SIGTERM, previous)
    how = "not interrupted" if flag.exists() else f"{number.name} in batch {batches}"
    sequence.interrupted = set() if flag.exists() else {name}
    flag.unlink(missing_ok=True)
    sequence.describe(f"{name} {how}")
    sequence.outcomes[how.split()[0]] += 1
    sequence.check_run(record, sequence.names, sequence.shell(sequence.twin, "run", "--ignore-cron"))
    sequence.interrupted = set()


def run_of_subset(sequence: Sequence) -> None:
    """Run some models. The twin runs those that do not wait.

    Models that wait in part may differ from the twin: they have computed less, or failed in other intervals.
    """
    selected = sequence.rng.sample(sequence.names, sequence.rng.randint(1, len(sequence.names) - 1))
    sequence.describe(str(selected))
    record = sequence.launch(selected)
    sequence.check_run(record, selected, None)
    options = [option for name in selected if status_of(record, name) != "waiting" for option in named(name)]
    if options:
        sequence.shell(sequence.twin, "run", "--no-auto-upstream", *options)
    if sequence.forgotten:
        sequence.copy_to_twin()
        return
    twin = State.of(sequence.twin)
    waited = {name for name in selected if sequence.state.computed[name] < twin.computed[name]} | sequence.broken
    differing = sequence.differing_models()
    if differing.keys() - sequence.downstream_of(waited):
        sequence.disagree("twin", "; ".join(f"{name}: {text}" for name, text in differing.items()))
    if differing:
        sequence.copy_to_twin()


def named(name: str) -> tuple[str, str]:
    return ("--select-model", f"t.{name}")


def restatement(sequence: Sequence) -> None:
    """Restate past days of some models in a run. A third of these runs fail."""
    selected, first, last = random_restatement(sequence)
    if sequence.rng.random() < 0.33:
        break_model(sequence, selected[:1])
    record = sequence.launch(selected, {"restate": {"start": first, "end": last}})
    succeeded = sequence.shell(sequence.twin, *restate_options(selected, first, last))
    sequence.check_run(record, selected, succeeded, is_restatement=True)


def restatement_in_shell(sequence: Sequence) -> None:
    sequence.in_both_shells(*restate_options(*random_restatement(sequence)))
    sequence.check_shell()


def random_restatement(sequence: Sequence) -> tuple[list[str], str, str]:
    names = [model.name for model in sequence.models if model.kind not in ("SEED", "INCREMENTAL_UNMANAGED")]
    selected = sorted(sequence.rng.sample(names, min(len(names), sequence.rng.choice((1, 1, 2)))))
    days = sorted(sequence.rng.sample(range(8, 20), 2))
    last, first = (f"{sequence.now - timedelta(days=ago):%Y-%m-%d}" for ago in days)
    sequence.describe(f"{selected} {first} {last}")
    return selected, first, last


def restate_options(selected: Collection[str], first: str, last: str) -> list[str]:
    models = [option for name in selected for option in ("--restate-model", f"t.{name}")]
    return ["plan", "--auto-apply", "--no-prompts", *models, "--start", first, "--end", last]


def run_in_shell(sequence: Sequence) -> None:
    options = sequence.rng.choice(([], ["--skip-janitor"], ["--skip-janitor"], ["--skip-janitor", "--ignore-cron"]))
    sequence.describe(" ".join(options))
    sequence.in_both_shells("run", *options)
    sequence.check_shell()


def plan_of_changed_model(sequence: Sequence) -> None:
    mend(sequence)
    model = sequence.rng.choice(sequence.models)
    sequence.describe(model.name)
    sequence.changes[model.name] += 1
    sequence.changed_in[model.name] = len(sequence.actions)
    for project in (sequence.project, sequence.twin):
        if model.kind == "SEED":
            (project / f"seeds/{model.name}.csv").write_text(f"n\n{sequence.changes[model.name]}\n")
        else:
            text = text_of_model(model, sequence.changes[model.name])
            (project / f"models/{model.name}.sql").write_text(text)
    sequence.in_both_shells("plan", "--auto-apply", "--no-prompts")
    sequence.check_shell()
    sequence.refresh()


def break_model(sequence: Sequence, names: Collection[str] = ()) -> None:
    """Make one of these models, or of all, fail, for all days or for some of them, or let its audit fail."""
    name = sequence.rng.choice(list(names) or sequence.names)
    day, days = sequence.now.date(), sequence.rng.choice((range(-3, 30), range(-3, 4), range(1, 3), range(9, 12)))
    table = "broken"
    if not names and sequence.model(name).is_by_time and sequence.rng.random() < 0.4:
        table, days = "bad", range(-3, 4)
    sequence.describe(f"{name} {table} {days}")
    sequence.broken.add(name)
    values = ", ".join(f"('{name}', '{day - timedelta(days=ago)}')" for ago in days)
    for project in (sequence.project, sequence.twin):
        query(project, f"INSERT INTO ctl.{table} VALUES {values}")


def mend(sequence: Sequence) -> None:
    sequence.broken.clear()
    for project in (sequence.project, sequence.twin):
        query(project, "DELETE FROM ctl.broken")
        query(project, "DELETE FROM ctl.bad")


def janitor(sequence: Sequence) -> None:
    record = sequence.launch((), job="sqlmesh_shop_janitor")
    if record.status != dg.DagsterRunStatus.SUCCESS:
        sequence.disagree("records", f"the janitor has failed: {record.failures}")
    sequence.shell(sequence.twin, "janitor")
    sequence.check_shell()


def tick_of_sensor(sequence: Sequence) -> None:
    sensor = sequence.repository.get_sensor_def("sqlmesh_shop_sensor")
    context = dg.build_sensor_context(sequence.dagster.instance, sequence.cursor, repository_def=sequence.repository)
    result = sensor.evaluate_tick(context)
    sequence.cursor = result.cursor
    for event in result.asset_events:
        sequence.dagster.instance.report_runless_asset_event(event)
    data = [event for event in result.asset_events if isinstance(event, dg.AssetMaterialization)]
    sequence.check_outside({event.asset_key.to_user_string(): event for event in data}, sequence.names)
    sequence.check_lost()
    sequence.check_stale()


ACTIONS = {
    tick_of_schedule: 4,
    run_of_all: 2,
    interrupted_run_of_all: 3,
    run_without_cron: 1,
    run_of_subset: 3,
    restatement: 3,
    restatement_in_shell: 2,
    run_in_shell: 3,
    plan_of_changed_model: 1,
    break_model: 3,
    mend: 2,
    janitor: 1,
    tick_of_sensor: 4,
}


def try_sequence(seed: int, folder: Path) -> Sequence:
    """Run one sequence, which ends with a run of all models and a tick of the sensor."""
    rng = random.Random(seed)
    with dagster_project(folder) as dagster:
        sequence = Sequence(rng, folder, dagster)
        actions = rng.choices(list(ACTIONS), list(ACTIONS.values()), k=rng.randint(8, 14))
        try:
            for action in [*actions, mend, run_without_cron, tick_of_sensor]:
                sequence.act(action)
        except Exception:  # noqa: BLE001  # the next sequences run too
            sequence.disagree("errors", traceback.format_exc())
    return sequence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="the seed of the first sequence; the next has the next")
    parser.add_argument("--without", nargs="+", choices=CHECKS, default=(), metavar="CHECK", help=", ".join(CHECKS))
    arguments = parser.parse_args()
    start, actions, outcomes = time.monotonic(), Counter[str](), Counter[str]()
    failing: dict[str, list[int]] = {check: [] for check in CHECKS if check not in arguments.without}
    with worker_zygote.forked_workers():
        for seed in range(arguments.seed, arguments.seed + arguments.sequences):
            with tempfile.TemporaryDirectory() as folder:
                sequence = try_sequence(seed, Path(folder).resolve())
            actions.update(text.split()[0] for text in sequence.actions)
            outcomes += sequence.outcomes
            found = [(check, text) for check, text in sequence.disagreements if check in failing]
            for check in failing:
                failing[check] += [seed] if check in dict(found) else []
            print(f"seed {seed}: {len(sequence.models)} models, {len(sequence.actions)} actions", flush=True)
            if found:
                models = [f"{model.name}: {model.kind}, {model.cron} {model.zone}" for model in sequence.models]
                lines = [*models, *(f"{number}. {text}" for number, text in enumerate(sequence.actions, 1))]
                lines += [f"DISAGREES ({check}): {text}" for check, text in found]
                print(*(f"    {line}" for line in lines), sep="\n", flush=True)
    for check, seeds in failing.items():
        print(f"{check}: {CHECKS[check]}: {f'no, seeds {seeds}' if seeds else 'yes'}")
    print(f"actions: {dict(actions)}\noutcomes: {dict(outcomes)}\n{time.monotonic() - start:.0f} seconds")
    sys.exit(any(failing.values()))


if __name__ == "__main__":
    main()
