"""Load random sources in any order between runs, and check after each run that nothing was computed too early.

    python tests/soak/random_sources.py --stories 100 --seed 1

A story has some days with their own clock, often with a change of clocks in a source's time zone. Loads succeed, are
repeated, fail or are refused by their check, also while others run. They are reported, or runs of one partition or of
several. The partitions of a source change, and so do the models' files, without a plan. Runs are of all models or of
some, of a tick, with bounds, restate, fail, retry or are killed.

After each run, an interval of SQLMesh's state must be one for which all sources were complete when it was computed, by
the oracle of `source_histories`, and must have all its rows. At the end, everything is loaded, no interval may be
missing, and each has its rows once: also if no table had rows at the beginning, and tables that are computed as a whole
begin later than the models that read them.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from clock import MovedClock
from computed_hours import Hours, State, text_of
from databases import Servers
from drawn import DISTURBED
from forked import ForkedProcess
from harness import CONFIG, RunRecord, Shop, planned_shop, processes_in, wait_until
from random_loads import (
    CHANGES,
    COUNTRIES,
    IN_RUN,
    KINDS,
    OUTCOMES,
    SLOT,
    ZONES,
    Load,
    RandomSource,
    Slots,
    result_file,
    slot_of,
    slots_of,
)
from stories import Told, tell
from waiting import evaluate_tick, launch_request

DAYS = 3
STARTS = ("2025-10-24", "2025-10-31", "2026-01-14", "2026-03-06", "2026-03-27")
"""The first days. Among the days after them, clocks change in Berlin and New York."""
OP = "sqlmesh_shop"
SLOTS = {"hour": 3600 // SLOT, "day": 86400 // SLOT}
CRONS = {"hour": ("@hourly", "0 */6 * * *"), "day": ("@daily", "0 6 * * *")}
MODEL_KINDS = (
    "INCREMENTAL_BY_TIME_RANGE (time_column ts)",
    "INCREMENTAL_BY_TIME_RANGE (time_column ts, batch_size 5)",
    "INCREMENTAL_BY_TIME_RANGE (time_column ts, lookback 1)",
    "FULL",
    "VIEW",
    "EMBEDDED",
)


@dataclass(frozen=True)
class RandomModel:
    """A model with one row per hour or day. A row has the sum of the values that it has read of that hour or day."""

    name: str
    unit: str
    kind: str
    cron: str
    sources: tuple[RandomSource, ...] = ()
    upstream: tuple[RandomModel, ...] = ()
    start: str = ""

    @property
    def is_table(self) -> bool:
        return self.kind not in ("VIEW", "EMBEDDED")

    @property
    def tables(self) -> list[str]:
        return [source.name for source in self.sources]

    def text(self, tables: Collection[str]) -> str:
        """The text of the model's file if it reads these tables of the sources' schema."""
        start = f", start '{self.start}'" if self.start else ""
        header = f"MODEL (name t.{self.name}, kind {self.kind}, cron '{self.cron}'{start});\n"
        within = ["ts >= @start_dt::TIMESTAMP AND ts <= @end_dt::TIMESTAMP"] if self.is_incremental else []
        where = " AND ".join([*within, f"@disturbed('{self.name}')"] if self.is_table else ["TRUE"])
        tables = [f"t.{model.name}" for model in self.upstream] + [f"raw.{name}" for name in tables]
        read = " UNION ALL ".join(f"SELECT date_trunc('{self.unit}', ts) AS ts, n FROM {table}" for table in tables)
        return f"{header}SELECT ts, sum(n)::BIGINT AS n FROM ({read}) AS read_here WHERE {where} GROUP BY 1"

    def expected(self, hour: int) -> int:
        """The expected value of the row that begins at an hour since 1970."""
        slots = range(2 * hour, 2 * hour + SLOTS[self.unit])
        of_sources = (s.values[slot, country] for s in self.sources for slot in slots for country in COUNTRIES)
        return sum(of_sources) + sum(
            model.expected(start // 2) for model in self.upstream for start in slots[:: SLOTS[model.unit]]
        )

    @property
    def is_compared(self) -> bool:
        """Whether late data of all sources upstream of it is found: it compares windows, of incremental models.

        A `lookback` computes a late interval again, but not downstream.
        """
        if self.sources and (self.kind == "FULL" or any(s.was_without_windows for s in self.sources)):
            return False
        return all(
            model.is_compared and "lookback" not in model.kind and (model.is_incremental or self.is_incremental)
            for model in self.upstream
        )

    @property
    def is_incremental(self) -> bool:
        return "INCREMENTAL" in self.kind


def random_models(rng: random.Random, sources: list[RandomSource], *, is_empty: bool) -> list[RandomModel]:
    """Return random models. Each reads a source, or models before it in the list with its unit or a smaller one.

    Args:
        is_empty: Whether no table has rows yet. Then a `FULL` model begins later than the models that read it.
    """
    models: list[RandomModel] = []
    # If a model ran more often than one that it reads, SQLMesh would not wait for it.
    crons = {unit: rng.choice(CRONS[unit]) for unit in CRONS}
    for number in range(rng.randint(2, 4)):
        unit = rng.choice(("hour", "day"))
        possible = [model for model in models if (model.unit, unit) != ("day", "hour")]
        upstream = tuple(rng.sample(possible, min(len(possible), rng.randint(0, 2))))
        read = (rng.choice(sources),) if not upstream or rng.random() < 0.3 else ()
        kind = rng.choice(MODEL_KINDS if number else MODEL_KINDS[:3])
        start = f"{sources[0].start:%Y-%m-%d}" if is_empty and kind == "FULL" else ""
        models.append(RandomModel(f"m{number}", unit, kind, crons[unit], read, upstream, start))
    return models


# -- one story ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """A run that loads a source, and whose check waits for its result."""

    source: RandomSource
    process: ForkedProcess
    passes: bool


@dataclass
class Story(Told):
    """A project, its sources, and what was done."""

    rng: random.Random
    shop: Shop
    clock: MovedClock
    start: datetime
    sources: list[RandomSource]
    models: list[RandomModel]
    is_late: bool = False
    held: dict[str, Held] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.end = self.start + timedelta(days=DAYS)
        self.assets = [f"t/{model.name}" for model in self.models if model.kind != "EMBEDDED"]
        self.state = State.of(self.shop.project)

    # -- loads

    def load_some(self) -> None:
        """Do some of the possible loads, in any order, and a few that were done before."""
        now = self.clock.now
        loads = [(source, load) for source in self.sources for load in source.loads(now)]
        again = 0.8 if self.is_late else 0.1
        loads = [(s, load) for s, load in loads if not s.is_done(load, now) or self.rng.random() < again]
        for source, load in self.rng.sample(loads, self.rng.randint(0, len(loads))):
            outcome = self.rng.choices(list(OUTCOMES), list(OUTCOMES.values()))[0]
            if source.name not in self.held:  # the check has a result for the newest load of its asset
                self.load(source, load, outcome)

    def load_rest(self) -> None:
        for source in self.sources:
            for load in source.loads(self.clock.now):
                if not source.is_done(load, self.clock.now):
                    self.load(source, load, "loaded")

    def load(self, source: RandomSource, load: Load, outcome: str) -> None:
        if outcome in IN_RUN and (load.is_early or source.kind == "days and countries"):
            outcome = "loaded"
        again = " again" if source.is_there(load) else ""
        several = " of several" if len(load.partitions) > 1 and outcome in IN_RUN else ""
        early = " early" if load.is_early else ""
        self.counts[f"load{early}{several} {outcome}{again}"] += 1
        self.log.append(f"{self.clock.now:%H:%M} {source.name} {load.text} {outcome}")
        source.write(load, outcome, self.shop.query)
        if outcome in IN_RUN:
            self._load_in_run(source, load, outcome)
        elif outcome != "failed":
            source.report(load, outcome, self.shop.instance)

    def _load_in_run(self, source: RandomSource, load: Load, outcome: str) -> None:
        """Run the asset of a source for the partitions of a load. Its check may wait until `release_checks`."""
        first, last = load.partitions[0], load.partitions[-1]
        tags = {"dagster/partition": first} if first == last else {}
        if first != last:
            tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        if source.kind == "stated":
            (self.shop.project / f"{source.name}_until").write_text(str(source.until_of(load).value))
        passes, is_held = not outcome.startswith("refused"), outcome.endswith("while others run")
        selection: dict[str, Any] = {"assets": [source.key.to_user_string()], "tags": tags if first else None}
        if is_held:
            checking = self.shop.project / f"{source.name}_checking"
            process = self.shop.start("in_process", **selection)
            self.held[source.name] = Held(source, process, passes)
            wait_until(checking.exists, process)
        else:
            result_file(source).write_text("passed" if passes else "failed")
            self.shop.launch(**selection)
        [run] = self.shop.instance.get_run_records(limit=1)
        assert run.start_time is not None
        for partition in load.partitions:
            source.add_load(load, partition, run.start_time, run.dagster_run.run_id)
        source.add_planned_check(run.dagster_run.run_id)
        if not is_held:
            source.add_result(run.dagster_run.run_id, passed=passes)

    def release_checks(self) -> None:
        """Let the checks end that still run. Some runs are killed instead, so their checks have no result."""
        for held in self.held.values():
            run_id = held.source.events[-1].run_id
            if self.rng.random() < 0.3:
                held.process.kill()
                held.process.wait()
                (self.shop.project / f"{held.source.name}_checking").unlink()
                run = self.shop.instance.get_run_by_id(run_id)
                assert run is not None
                self.shop.instance.report_run_failed(run)
                result = "killed"
            else:
                result = "passed" if held.passes else "failed"
                result_file(held.source).write_text(result)
                held.process.wait(120)
                held.source.add_result(run_id, passed=held.passes)
            self.counts[f"held check {result}"] += 1
            self.log.append(f"{held.source.name}: its check {result}")
        self.held.clear()

    def repair_some(self) -> None:
        """Let checks of sources pass that refuse the newest load, after its rows are there."""
        for source in self.sources:
            is_chosen = source.name not in self.held and self.rng.random() < 0.3
            if is_chosen and source.repair(self.shop.query, self.shop.instance):
                self.counts["repaired"] += 1
                self.log.append(f"{source.name}: repaired, its check passed")

    # -- changes

    def change_partitions(self) -> None:
        """Change the partitions of a source, unless older loads would then state rows that are not there."""
        source = self.rng.choice(self.sources)
        if source.kind not in CHANGES or source.name in self.held:
            return
        before, source.kind = source.kind, self.rng.choice(CHANGES[source.kind])
        if not source.complete(self.clock.now) <= frozenset.intersection(*map(frozenset, source.rows_there)):
            source.kind = before
            return
        source.was_without_windows |= source.kind == "none"
        self.counts[f"{before} became {source.kind}"] += 1
        self.log.append(f"{source.name}: {before} became {source.kind}")
        self.define_sources()

    def define_sources(self) -> None:
        """Write the assets of the sources, in a new module: this process has imported the one before."""
        for module in self.modules:
            (self.shop.root / self.shop.root.name / "defs" / f"{module}.py").unlink()
        self.modules = [f"loaders_{len(self.log)}"]
        code = "import random_loads\n" + "".join(source.code for source in self.sources)
        self.shop.add_module(self.modules[0], code)
        self.shop.refresh()

    def edit_file(self) -> None:
        """Let the file of a model read another table, or again what the promoted version reads. Nothing is planned."""
        possible = [model for model in self.models if model.sources]
        model = self.rng.choice(possible)
        tables = self.rng.choice((["apart"], [source.name for source in self.sources], model.tables))
        text = model.text(tables)
        file = self.shop.project / "models" / f"{model.name}.sql"
        if text == file.read_text():
            return
        file.write_text(text)
        self.shop.refresh()
        kind = "edited back" if tables == model.tables else "edited"
        self.counts[f"file {kind}"] += 1
        self.log.append(f"the file of {model.name} reads {tables}")

    # -- runs

    def launch(self, assets: Collection[str], **config: Any) -> RunRecord:
        return self.shop.launch(assets=sorted(assets), ops={OP: config} if config else None)

    def run(self, assets: Collection[str], **config: Any) -> RunRecord:
        """Run models, and never the assets that load. Nothing may fail."""
        record = self.launch(assets, **config).succeeded()
        self.log.append(f"run {[(asset, record.status_of(asset)) for asset in sorted(assets)]} {config or ''}")
        self.counts.update(f"outcome {record.status_of(asset)}" for asset in assets)
        return record

    def check(self) -> None:
        """Compare what the state has now, and had not before this run, with the sources and the rows.

        Raises:
            AssertionError: An interval was computed too early, or lacks rows.
        """
        before, self.state = self.state, State.of(self.shop.project)
        computed = self.state.computed_since(before)
        for model in self.models:
            hours = self.of_history(computed.get(model.name, frozenset()))
            early = {slot // 2 for slot in slots_of(hours) - self.complete(model)} if hours else set()
            assert not early, f"{model.name} was computed too early for {text_of(early)}"
            self.counts["intervals"] += len(hours) // (24 if model.unit == "day" else 1)
            if model.is_table:
                self.check_rows(model)

    def check_nothing_waits(self) -> None:
        """After a run of all that ignores crons: a model that reads only sources waits for nothing else.

        A `lookback` is left out: it computes older intervals again.
        """
        state, hour = State.of(self.shop.project), int(self.clock.now.timestamp()) // 3600
        for model in self.models:
            if not model.is_incremental or model.upstream or "lookback" in model.kind:
                continue
            size, complete = 24 if model.unit == "day" else 1, self.complete(model)
            for begin in range(slot_of(self.start) // 2, hour - size + 1, size):
                hours = frozenset(range(begin, begin + size))
                is_due = slots_of(hours) <= complete
                assert not is_due or hours <= state.computed[model.name], f"{model.name} waits for {text_of(hours)}"
                self.counts["complete intervals computed"] += is_due

    def check_rows(self, model: RandomModel, *, is_end: bool = False) -> None:
        """Each interval that counts as computed has its row."""
        size = 24 if model.unit == "day" else 1
        found = dict(self.shop.query(f"SELECT epoch(ts)::BIGINT // 3600, n FROM t.{model.name}"))
        starts = {hour for hour in self.of_history(self.state.computed[model.name]) if hour % size == 0}
        bad = {hour: found.get(hour) for hour in sorted(starts) if found.get(hour) != model.expected(hour)}
        if self.is_late and not is_end:  # values of older loads
            bad = {hour: n for hour, n in bad.items() if n is None}
        some = [(text_of({hour}), n, model.expected(hour)) for hour, n in list(bad.items())[:3]]
        assert not bad, f"{model.name} has {len(bad)} computed intervals with wrong rows (found, expected): {some}"

    def of_history(self, hours: Hours) -> Hours:
        """Without the days before it, which the plan computes."""
        return frozenset(hour for hour in hours if hour >= slot_of(self.start) // 2)

    def complete(self, model: RandomModel) -> Slots:
        """The half hours for which everything is there that a model reads."""
        read = [source.complete(self.clock.now) for source in model.sources]
        for parent in model.upstream:
            read.append(slots_of(self.state.computed[parent.name]) if parent.is_table else self.complete(parent))
        return frozenset.intersection(*read)

    def check_end(self) -> None:
        """No interval is left out.

        Raises:
            AssertionError: One is.
        """
        hours = frozenset(range(slot_of(self.start) // 2, slot_of(self.end) // 2))
        for model in self.models:
            left = hours - self.state.computed[model.name]
            assert model.kind == "EMBEDDED" or not left, f"{model.name} was never computed for {text_of(left)}"
            if model.kind != "EMBEDDED" and (model.is_compared or not self.is_late):
                self.counts["models with all rows"] += 1
                self.check_rows(model, is_end=True)

    def restate_late(self) -> None:
        """Launch what ticks of the schedule request for late data, until nothing is late.

        Raises:
            AssertionError: A restatement fails, or there is no end.
        """
        for _ in range(100):
            late = [
                request
                for request in evaluate_tick(self.shop).run_requests or ()
                if "restate" in str(request.run_config)
            ]
            if not late:
                return
            [request] = late
            record = launch_request(self.shop, request)
            self.log.append(f"late: {request.run_config}")
            assert record.status is dg.DagsterRunStatus.SUCCESS, record.failures
            self.counts["late data restated"] += 1
        raise AssertionError("late data is restated again and again")


# -- kinds of runs --------------------------------------------------------------------------------


def run_of_all(story: Story) -> None:
    story.run(story.assets)


def run_of_subset(story: Story) -> None:
    story.run(story.rng.sample(story.assets, story.rng.randint(1, len(story.assets))))


def run_without_cron(story: Story) -> None:
    story.run(story.assets, ignore_cron=True)
    story.check_nothing_waits()


def run_with_bounds(story: Story) -> None:
    """Compute a part of the time, by `start`, `end` or both."""
    hours = max(1, int((story.clock.now - story.start) / timedelta(hours=1)))
    instants = sorted(story.start + timedelta(hours=story.rng.randint(0, hours)) for _ in range(2))
    bounds = {name: f"{instant:%Y-%m-%d %H:%M:%S}" for name, instant in zip(("start", "end"), instants, strict=True)}
    for name in story.rng.choice(((), ("start",), ("end",))):
        del bounds[name]
    story.run(story.assets, **bounds)


def restatement(story: Story) -> None:
    """Restate some days. Intervals whose source is not loaded wait. If no cron has ticked since, it is refused."""
    days = (story.clock.now - story.start) // timedelta(days=1)
    if not days:
        return
    first, last = sorted(story.start + timedelta(days=story.rng.randrange(days)) for _ in range(2))
    names = story.rng.sample(story.assets, story.rng.randint(1, min(2, len(story.assets))))
    record = story.launch(names, restate={"start": f"{first:%Y-%m-%d}", "end": f"{last:%Y-%m-%d}"})
    is_refused = record.status is not dg.DagsterRunStatus.SUCCESS
    story.log.append(f"restate {names} {first:%d} {last:%d}{' refused' if is_refused else ''}")
    story.counts["restatement refused" if is_refused else "restatement done"] += 1
    if is_refused:
        computed = State.of(story.shop.project).computed_since(story.state)
        assert not computed, f"a refused restatement has computed {computed.keys()}: {record.failures}"
        reasons = ("no complete interval of its unit", "has not ticked since this range began")
        assert any(reason in str(record.failures) for reason in reasons), record.failures


def run_of_tick(story: Story) -> None:
    """Launch what a tick of the schedule requests."""
    for request in evaluate_tick(story.shop).run_requests or ():
        names = sorted(key.path[-1] for key in request.asset_selection or ())
        record = launch_request(story.shop, request)
        story.log.append(f"tick requests {names}: {request.run_config or ''}")
        story.counts["runs that ticks request"] += 1
        assert record.status is dg.DagsterRunStatus.SUCCESS, record.failures


def run_with_failure(story: Story) -> None:
    """Let a batch of a model fail. A retry inside the step may succeed."""
    flag = _disturb(story, 0)
    record = story.launch(story.assets, ignore_cron=True)
    _describe(story, flag, f"fail, {record.status.value}")


def run_with_killed_worker(story: Story) -> None:
    flag = _disturb(story, signal.SIGKILL)
    record = story.launch(story.assets, ignore_cron=True)
    _describe(story, flag, f"kill the worker, {record.status.value}")


def run_that_is_killed(story: Story) -> None:
    """Kill the process of the run. The worker ends by itself."""
    pid = story.shop.start("in_process", assets=story.assets).pid
    flag = _disturb(story, signal.SIGKILL, pid)
    os.waitpid(pid, 0)
    wait_until(lambda: not processes_in(story.shop.project))
    loading = {held.source.events[-1].run_id for held in story.held.values()}
    for run in story.shop.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        if run.run_id not in loading:
            story.shop.instance.report_run_failed(run)  # as Dagster's run monitoring does
    _describe(story, flag, "kill the run")


def _disturb(story: Story, number: int, pid: int = 0) -> Path:
    name = story.rng.choice([model.name for model in story.models if model.is_table])
    flag = story.shop.project / "disturb"
    flag.write_text(f"{name} {story.rng.choice((0, 0, 1, 2))} {int(number)} {pid}")
    return flag


def _describe(story: Story, flag: Path, text: str) -> None:
    """Note whether a run was disturbed. Most of those that were not had nothing to compute."""
    text = f"not disturbed: {text}" if flag.exists() else text
    flag.unlink(missing_ok=True)
    story.log.append(text)
    story.counts[text] += 1


RUNS: dict[Callable[[Story], None], int] = {
    run_of_all: 3,
    run_of_subset: 4,
    run_without_cron: 4,
    run_with_bounds: 2,
    restatement: 3,
    run_of_tick: 3,
    run_with_failure: 2,
    run_with_killed_worker: 1,
    run_that_is_killed: 1,
}


@contextmanager
def planned_story(seed: int, folder: Path) -> Iterator[Story]:
    rng = random.Random(seed)
    start = datetime.fromisoformat(f"{rng.choice(STARTS)}T00:00+00:00")
    end, is_late, is_empty = start + timedelta(days=DAYS), rng.random() < 0.5, rng.random() < 0.3
    options: dict[str, Any] = {"folder": str(folder / "shop"), "changes": is_late}
    sources = [
        RandomSource(f"s{n}", rng.choice(KINDS), rng.choice(ZONES), start, end, end_offset=rng.randint(0, 1), **options)
        for n in range(rng.randint(1, 2))
    ]
    models = random_models(rng, sources, is_empty=is_empty)
    files = {f"models/{model.name}.sql": model.text(model.tables) for model in models}
    files |= {"macros/__init__.py": "", "macros/disturbed.py": DISTURBED}
    names = [*(source.name for source in sources), "apart"]
    tables = {f"raw.{name}": "SELECT now()::TIMESTAMP AS ts, '' AS country, 1 AS n LIMIT 0" for name in names}
    config = CONFIG.replace("6 days ago", f"{start - timedelta(days=2):%Y-%m-%d}")
    attributes: dict[str, Any] = {
        "external_models": {"wait": True, **({"late": "restate"} if is_late else {})},
        "restate": True,
        "schedule": {"cron": "@daily"},
        **({"execution": {"retries": {"max_retries": 1, "delay": 0}}} if rng.random() < 0.5 else {}),
    }
    clock = MovedClock(start + timedelta(minutes=10))
    with ExitStack() as stack:
        with clock.shown():
            shop = stack.enter_context(planned_shop(folder, files, config, tables, None, **attributes))
            shop.plan(*(["--skip-backfill"] if is_empty else []), at=f"{start:%Y-%m-%d}")
            story = Story(rng, shop, clock, start, sources, models, is_late)
            story.log += [f"{s.name}: {s.kind}, {s.zone}, {s.end_offset}" for s in sources]
            story.log += [model.text(model.tables) for model in models]
            story.define_sources()
        yield story


def try_story(seed: int, engine: str, folder: Path, servers: Servers) -> Story:
    with planned_story(seed, folder) as story:
        try:
            with story.to_its_end():
                _act(story)
        finally:
            for held in story.held.values():
                held.process.kill()
    return story


def _act(story: Story) -> None:
    """Move the clock, load and run, until the end is over. Then load the rest, and run everything."""
    while story.clock.now < story.end:
        later = story.clock.now + timedelta(hours=story.rng.choice((1, 13, 24, 24, 40)), minutes=3)
        story.clock.move_to(later)
        with story.clock.shown():
            story.log.append(f"-- {story.clock.now:%Y-%m-%dT%H:%M}")
            if story.rng.random() < 0.3:
                story.edit_file()
            if story.rng.random() < 0.4:
                story.change_partitions()
            story.load_some()
            story.repair_some()
            [run] = story.rng.choices(list(RUNS), list(RUNS.values()))
            story.counts[run.__name__] += 1
            run(story)
            story.check()
            story.release_checks()
    story.clock.move_to(story.end + timedelta(hours=36))  # each zone's last day is over
    with story.clock.shown():
        story.load_rest()
        story.run(story.assets, ignore_cron=True)
        story.check()
        if story.is_late:
            story.restate_late()
            story.check()
        story.check_end()


if __name__ == "__main__":
    tell(__doc__, try_story, stories=100)
