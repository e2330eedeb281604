"""Tell random stories of loads, runs and plans, and compare each row with what the user documentation promises.

    python tests/soak/random_rows.py --stories 100 --seed 1 --engines duckdb postgres

Each row knows which loads of the sources and which batches it was computed from (tests/row_oracle.py). A story has a
project of 3 to 6 models, and one or two sources with loads that succeed, are corrected, have bad rows, or are left out.
Runs are of all or of some models, bounded, of a tick, restate, fail, are cancelled or killed. A plan may change the
kind, `start`, `end` or `cron` of a model, and somebody may type `sqlmesh run`. After each action, each row is compared
with what its query would return now. The claims:

- **green over wrong rows**: if a row differs, or its batch was not accepted, then some check of its model is not green
  in this run, or the result of the model names the day.
- **not named**: the same, and the page of the model names the day, or the model upstream that is the reason.
- **computed past a hole**: no run computes an interval that a table upstream, or a source, lacks.
- **computed from refused rows**: no run computes a row from a row whose batch was not accepted.
- **wrong when it was computed**: a model that is computed as a whole has what its query returned.
- **lost**: each row that a plan takes away is named by its report.
- **wrong at the end**: after all is loaded and corrected, two runs of everything, and the restatements that checks and
  ticks advise, each row is right. After one more restatement of everything, also those that the documentation excepts.

What the documentation excepts is in `Story.is_excepted`.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from clock import MovedClock
from computed_hours import State
from databases import Database, Servers
from engine.plan_jobs import APPLY, PLAN, report_of
from engine.plan_jobs import launch as launch_job
from harness import RunRecord, Shop, planned_shop, processes_in, sqlmesh, wait_until
from row_oracle import Key, Row, Rows, Warehouse
from row_pages import INTERVALS, LATE, STATUS, Page, named_days
from row_projects import (
    DAY,
    FIRST,
    INCREMENTAL,
    LAST,
    MACROS,
    SHOWN,
    SIGNALS,
    WHOLE,
    RowModel,
    Source,
    at,
    days_of,
    draw_models,
    hour_of,
    hours,
)
from stories import Told, tell
from waiting import OP, evaluate_tick, launch_request

PLANNED_DAYS = 2
# -- a story ---------------------------------------------------------------------------------------


@dataclass
class Story(Told):
    """A project, its sources, and what was done.

    Attributes:
        now: All tables after the last action.
        accepted: The batches that were accepted.
        known: The batches of earlier actions.
        late: What is done about late data.
        lenient: The models that may be computed without waiting, in a shell or with `ignore_sources`.
        green: Whether a model was green in its last run.
        by_shell: The batches of `sqlmesh run`. It leaves no mark of those that it has refused (docs/audits.md).
        slow: The models whose cron a plan has made less frequent.
    """

    rng: random.Random
    shop: Shop
    database: Database
    clock: MovedClock
    sources: list[Source]
    models: dict[str, RowModel]
    late: str
    state: State | None = None
    now: Warehouse | None = None
    accepted: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    lenient: set[str] = field(default_factory=set)
    green: dict[str, bool] = field(default_factory=dict)
    by_shell: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)

    @property
    def warehouse(self) -> Warehouse:
        assert self.now is not None
        return self.now

    @property
    def instant(self) -> datetime:
        return self.clock.now.replace(tzinfo=None)

    @property
    def assets(self) -> list[str]:
        return [model.asset for model in self.models.values() if model.kind != "embedded"]

    @property
    def restatable(self) -> list[str]:
        return [model.asset for model in self.models.values() if model.kind not in ("embedded", "scd")]

    def note(self, text: str) -> None:
        self.log.append(f"{self.instant:%d %H:%M} {text}")

    # -- tables

    def read(self) -> Warehouse:
        """Read all tables and the state, and learn which batches were accepted."""
        before, self.state = self.state, State.read(self.database.query_state)
        tables = {source.table: self._source_rows(source) for source in self.sources}
        tables |= {f"t.{m.name}": self._model_rows(m) for m in self.models.values() if m.kind != "embedded"}
        fresh = self.state.computed_since(before) if before else self.state.computed
        first = FIRST
        self.now = Warehouse(self.models, first, self.instant, tables, self.state.computed, fresh)
        for model in self.models.values():
            if model.kind in SHOWN or model.kind == "scd":
                continue
            done = fresh.get(model.name, frozenset())
            for (ts, _), row in tables[f"t.{model.name}"].items():
                if row.own not in self.known and (hour_of(ts) in done or (model.kind == "full" and done)):
                    self.accepted.add(row.own)
        return self.now

    def _source_rows(self, source: Source) -> Rows:
        found = self.database.query(f"SELECT ts, k, v, l, bad FROM {source.table}")
        return {(ts, int(k)): Row(int(v), (load,), bool(bad)) for ts, k, v, load, bad in found}

    def _model_rows(self, model: RowModel) -> Rows:
        where = " WHERE valid_to IS NULL" if model.kind == "scd" else ""
        rows: Rows = {}
        for ts, k, v, loads, bad, batches in self.database.query(
            f"SELECT ts, k, v, l, bad, b FROM t.{model.name}{where}"
        ):
            if (ts, int(k)) in rows:
                self.fault("twice", f"{model.name} has {ts} {k} twice")
            names = [name for name in batches.split() if "." in name]
            if model.kind == "scd":  # it keeps the batch of a row that has not changed
                names = [name for name in names if not name.startswith(f"{model.name}.")]
            own = names[-1] if model.kind not in (*SHOWN, "scd") and names else ""
            rows[ts, int(k)] = Row(int(v), tuple(sorted(loads.split())), bool(bad), frozenset(names), own)
        return rows

    def unaccepted(self, rows: Mapping[Key, Row]) -> dict[Key, str]:
        """The rows with a batch that was not accepted, as far as our runs can know."""
        known = self.accepted | self.by_shell
        names = {key: next(iter(row.batches - known), "") for key, row in rows.items()}
        return {key: name for key, name in names.items() if name}

    # -- loads

    def load(self, source: Source, days: Collection[date], *, is_bad: bool = False) -> None:
        for day in sorted(days):
            source.loads += 1
            rows = [(hour, k, self.rng.randint(1, 99)) for hour, k in ((3, 0), (3, 1), (15, 0))]
            name = f"{source.name}@{day:%d}#{source.loads}"
            values = ", ".join(
                f"('{day} {hour:02}:30:00'::TIMESTAMP, {k}, {v}, '{name}', {int(is_bad and not k)}, '{name}')"
                for hour, k, v in rows
            )
            self.database.query(f"DELETE FROM {source.table} WHERE ts::DATE = '{day}'::DATE")
            self.database.query(f"INSERT INTO {source.table} VALUES {values}")
            again = " again" if day in source.loaded else ""
            source.loaded.add(day)
            (source.bad.add if is_bad else source.bad.discard)(day)
            self.note(f"load {source.name} {day}{again}{' with bad rows' if is_bad else ''}")
            if source.by_day:
                self.report(source, str(day))
        if not source.by_day:
            self.report(source, None)

    def report(self, source: Source, partition: str | None) -> None:
        event = dg.AssetMaterialization(source.key, partition=partition)
        self.shop.instance.report_runless_asset_event(event)
        source.last = self.instant

    def past_days(self) -> list[date]:
        days = [FIRST + DAY * number for number in range((LAST - FIRST).days + 1)]
        return [day for day in days if at(day) + DAY <= self.instant]

    # -- runs

    def launch(self, assets: Collection[str], **config: Any) -> RunRecord:
        return self.shop.launch(assets=sorted(assets), ops={OP: config} if config else None)

    def run(self, text: str, assets: Collection[str], **config: Any) -> RunRecord:
        record = self.launch(assets, **config)
        self.after_run(text, record)
        return record

    def after_run(self, text: str, record: RunRecord) -> None:
        """Read all tables, and check what the run says about them."""
        self.read()
        outcomes = {
            model.name: f"{record.status_of(model.asset)}{'' if Page.of(record, model).is_green else '!'}"
            for model in self.models.values()
            if f"{model.asset}:{STATUS}" in record.checks
        }
        self.note(f"{text}: {record.status.value} {outcomes}")
        self.counts.update(f"outcome {outcome}" for outcome in outcomes.values())
        if was_refused(record):
            self.note(f"  refused: {record.failures}"[:300])
            self.counts["refused"] += 1
        else:
            self.check_computed()
            # A restatement also computes models that are not selected. Some of their checks have no results.
            planned = record.events(dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
            selected = {event.asset_key.to_user_string() for event in planned}
            for name in outcomes:
                if self.models[name].asset in selected:
                    self.check_page(record, self.models[name])
        self.count_unselected(record)
        self.remember()

    def count_unselected(self, record: RunRecord) -> None:
        """Count wrong rows of models that are not in this run, and that were green when they were last in one."""
        for model in self.models.values():
            if f"{model.asset}:{STATUS}" in record.checks:
                self.green[model.name] = Page.of(record, model).is_green
            elif self.green.get(model.name):
                rows = self.warehouse.tables[f"t.{model.name}"]
                wrong = {*self.warehouse.wrong(model).values(), *("refused" for _ in self.unaccepted(rows))}
                self.counts.update(f"not in the run, green before: {model.kind} {why}" for why in wrong)

    def remember(self) -> None:
        for rows in self.warehouse.tables.values():
            self.known |= {row.own for row in rows.values()} - {""}

    # -- claims

    def check_computed(self) -> None:
        """Nothing was computed past a hole, or from rows that were not accepted."""
        now = self.warehouse
        for model in self.models.values():
            done = now.fresh.get(model.name, frozenset())
            if model.kind in SHOWN or not done:
                continue
            if model.kind in WHOLE:
                done = hours(
                    now.start_of(model),
                    datetime.fromtimestamp((max(done) + 1) * 3600, timezone.utc).replace(tzinfo=None),
                )
                self.check_whole(model)
            self.check_holes(model, done)
        for model in self.models.values():
            if model.kind in SHOWN or model.kind == "scd":
                continue
            rows = now.tables[f"t.{model.name}"]
            new = {key: row for key, row in rows.items() if row.own not in self.known}
            self.counts["rows computed"] += len(new)
            if model.name in self.lenient:
                continue
            refused = {
                key: name
                for key, row in new.items()
                for name in row.batches - {row.own} - self.by_shell
                if name not in self.accepted
            }
            if refused:
                self.fault("computed from refused rows", f"{model.name}: {some(refused)}")

    def check_holes(self, model: RowModel, done: frozenset[int]) -> None:
        if model.name in self.lenient:
            return
        for table in sorted(self.warehouse.tables_of(model)):
            source = next((source for source in self.sources if source.table == table), None)
            if source is not None:
                lacking: set[date] = source.lacking(done)
            else:
                lacking = days_of(self.warehouse.lacking(table, done))
            if lacking:
                days = sorted(map(str, lacking))
                self.fault("computed past a hole", f"{model.name} ({model.kind}) although {table} lacks {days}")

    def check_whole(self, model: RowModel) -> None:
        wrong = self.warehouse.wrong(model)
        if wrong:
            self.fault("wrong when it was computed", f"{model.name} ({model.kind}): {some(wrong)}")

    def check_page(self, record: RunRecord, model: RowModel) -> None:
        """The page of a model names each of its wrong rows."""
        now, page = self.warehouse, Page.of(record, model)
        rows = now.tables[f"t.{model.name}"]
        self.check_audit(model, page)
        self.check_late(model, page)
        wrong = now.wrong(model) | {key: f"refused {name}" for key, name in self.unaccepted(rows).items()}
        wrong = {key: why for key, why in wrong.items() if not self.is_excepted(model, key, why, page)}
        if not wrong:
            return
        self.counts.update(f"wrong rows: {why.split()[0]}" for why in wrong.values())
        named = named_days(page.text)
        unnamed = {key: why for key, why in wrong.items() if key[0].date() not in named}
        details = f"{model.name} ({model.kind}): {some(unnamed)}. Its page: {page.text[:900]}"
        if page.is_green and (unnamed or model.kind not in INCREMENTAL):
            self.fault("green over wrong rows", details)
        elif model.kind in INCREMENTAL and not page.says_nothing:
            computed = now.computed[model.name]
            if any(hour_of(key[0]) in computed and not why.startswith("refused") for key, why in unnamed.items()):
                self.fault("not named", details)

    def check_audit(self, model: RowModel, page: Page) -> None:
        """If its status is green, then the check of its audit is not green over bad rows."""
        if not model.audit or not page.checks[STATUS]:
            return
        rows = self.warehouse.tables[f"t.{model.name}"]
        bad = {key: "bad" for key in self.accepted_rows(model) if rows[key].is_bad}
        if bad and page.checks.get(f"{model.audit}_{model.name}"):
            self.fault("audit green over bad rows", f"{model.name}: {some(bad)}. Its page: {page.text[:900]}")

    def accepted_rows(self, model: RowModel) -> set[Key]:
        """The rows of its computed intervals, or of the whole table."""
        computed, rows = self.warehouse.computed[model.name], self.warehouse.tables[f"t.{model.name}"]
        return {key for key in rows if model.kind not in INCREMENTAL or hour_of(key[0]) in computed}

    def check_late(self, model: RowModel, page: Page) -> None:
        """`sqlmesh_no_late_data` is not green if a partition was loaded after the model was computed for it."""
        if model.kind not in INCREMENTAL:
            return
        now = self.warehouse
        for table in now.tables_of(model):
            source = next((source for source in self.sources if source.table == table), None)
            if source is None or not source.by_day:
                continue
            late = {
                key: why
                for key, why in now.wrong(model).items()
                if hour_of(key[0]) in now.computed[model.name]
                and self.differs_without(model, key, now.tables_of(model) - {table})
            }
            if late and page.checks.get(LATE, True):
                self.fault(
                    "late data is not found", f"{model.name} ({model.kind}): {some(late)}. Its page: {page.text[:900]}"
                )

    def is_excepted(self, model: RowModel, key: Key, why: str, page: Page) -> bool:
        """Whether the documentation says that nothing finds this row."""
        now = self.warehouse
        if why.startswith("refused"):
            return False
        if model.kind in WHOLE:
            # It is computed when its cron ticks, and was right then (`check_whole`).
            until = model.due_until(self.instant)
            is_never_due = until <= now.start_of(model)  # a plan has changed its cron
            if is_never_due or hour_of(until) - 1 in now.computed[model.name]:
                self.counts["excepted: whole until its tick"] += 1
                return True
            return False
        if why == "lacks" and hour_of(key[0]) not in now.computed[model.name]:
            return False
        tables = now.tables_of(model)
        whole = {table for table in tables if self.kind_of(table) in WHOLE}
        if whole and not self.differs_without(model, key, whole):
            self.counts["excepted: outdated by a table that is computed as a whole"] += 1
            return True
        if self.slow & now.upstream(model):  # "it does not wait for that model, as in SQLMesh" (docs/wait.md)
            self.counts["excepted: its cron ticks before the cron of a model upstream"] += 1
            return True
        for source in self.sources:
            if source.table in tables and not source.by_day and f"load/{source.name}" in page.of_late:
                self.counts["excepted: source without partitions"] += 1
                return True
        return False

    def kind_of(self, table: str) -> str:
        model = self.models.get(table.removeprefix("t."))
        return model.kind if model else "source"

    def differs_without(self, model: RowModel, key: Key, tables: Collection[str]) -> bool:
        """Whether a row differs also because of other tables than these: by the loads that only those have."""
        now = self.warehouse
        row, expected = now.tables[f"t.{model.name}"].get(key), now.read_by(model).get(key)
        if expected is None:
            return False
        differing = set(expected.loads) ^ set(row.loads if row else ())
        elsewhere = {
            load
            for table in now.tables_of(model) - set(tables)
            for (ts, k), other in now.tables[table].items()
            if (ts, k) == key
            for load in other.loads
        }
        return bool(differing & elsewhere)


def some(found: Mapping[Key, str]) -> str:
    shown = [f"{ts:%d %H:%M} {k} {why}" for (ts, k), why in sorted(found.items())[:3]]
    return f"{', '.join(shown)}{f' and {len(found) - 3} more' if len(found) > 3 else ''}"


def was_refused(record: RunRecord) -> bool:
    """Whether a run ended before SQLMesh computed or audited anything: it only repeats results (docs/outcomes.md)."""
    repeats = (
        {"sqlmesh/carried_over", "sqlmesh/not_evaluated"} & {*check.metadata} for check in record.checks.values()
    )
    return record.status is not dg.DagsterRunStatus.SUCCESS and all(repeats)


# -- actions ---------------------------------------------------------------------------------------


def loads(story: Story) -> None:
    """Load what is due, load something again, or leave a hole."""
    for source in story.sources:
        days = story.past_days()
        new = [day for day in days if day not in source.loaded]
        if not source.by_day:
            again = [day for day in days if day in source.loaded and story.rng.random() < 0.15]
            if new or again:
                story.load(source, [*new, *again], is_bad=story.rng.random() < 0.15)
            continue
        chosen = [day for day in new if story.rng.random() < 0.75]
        chosen += [day for day in source.loaded if story.rng.random() < (0.6 if day in source.bad else 0.12)]
        for day in chosen:
            story.load(source, [day], is_bad=story.rng.random() < 0.2)


def run_all(story: Story) -> None:
    story.run("run all", story.assets)


def run_with_janitor(story: Story) -> None:
    """The janitor merges the intervals of SQLMesh's state, and with them their times."""
    story.run("run all, with the janitor", story.assets, skip_janitor=False)


def run_some(story: Story) -> None:
    chosen = story.rng.sample(story.assets, story.rng.randint(1, max(1, len(story.assets) - 1)))
    story.run(f"run {sorted(chosen)}", chosen)


def run_bounded(story: Story) -> None:
    days = story.past_days()
    first, last = sorted(story.rng.choice(days) for _ in range(2))
    bounds = {"start": str(first), "end": str(last)}
    for name in story.rng.choice((("start",), ("end",), ())):
        del bounds[name]
    chosen = story.rng.sample(story.assets, story.rng.randint(1, len(story.assets)))
    story.run(f"run {sorted(chosen)} {bounds}", chosen, **bounds)


def run_ignoring(story: Story) -> None:
    story.lenient |= {*story.models}
    story.run("run all, ignore_sources", story.assets, ignore_sources=True)
    story.lenient.clear()


def tick(story: Story) -> None:
    result = evaluate_tick(story.shop)
    for request in result.run_requests or ():
        names = sorted(key.path[-1] for key in request.asset_selection or ())
        story.after_run(f"tick requests {names} {request.run_config or ''}", launch_request(story.shop, request))
        story.counts["runs of ticks"] += 1


def restate(story: Story) -> None:
    days = story.past_days()
    first, last = sorted(story.rng.choice(days) for _ in range(2))
    possible = story.restatable
    chosen = story.rng.sample(possible, min(len(possible), story.rng.choice((1, 1, 2, 9))))
    config = {"start": str(first), "end": str(last)}
    story.run(f"restate {sorted(chosen)} {config}", chosen, restate=config)


def run_checks(story: Story) -> None:
    """Execute the checks of a model alone, except its status."""
    model = story.rng.choice([model for model in story.models.values() if model.kind != "embedded"])
    names = [f"{model.audit}_{model.name}"] if model.audit else []
    names += [INTERVALS] if model.kind in INCREMENTAL else []
    if not names:
        return
    record = story.shop.launch(checks=[f"{model.asset}:{name}" for name in names])
    story.read()
    page = Page.of(record, model)
    story.note(f"checks of {model.name}: {record.status.value} {page.checks}")
    rows = story.warehouse.tables[f"t.{model.name}"]
    bad = {key: "bad" for key in story.accepted_rows(model) if rows[key].is_bad}
    if bad and page.checks.get(f"{model.audit}_{model.name}"):
        story.fault("audit green over bad rows", f"{model.name}, its check alone: {some(bad)}")
    check = record.checks.get(f"{model.asset}:{INTERVALS}")
    if check and check.passed:
        lacking = days_of(story.warehouse.lacking(f"t.{model.name}", story.warehouse.due(model)))
        if lacking - named_days(check.description or ""):
            story.fault("gap not found", f"{model.name}: {sorted(map(str, lacking))}. Its check: {check.description}")
    story.remember()


def disturbed(story: Story) -> None:
    """Fail, kill or cancel a run in the middle of its batches, or while it audits. Sometimes it restates."""
    rng, project = story.rng, story.shop.project
    tables = [model for model in story.models.values() if model.kind not in SHOWN]
    model = rng.choice(tables)
    where = "audit" if model.audit and rng.random() < 0.6 else "query"
    what = rng.choice(("fail", "fail", "kill worker", "kill run", "cancel"))
    config = {}
    if rng.random() < 0.5:
        days = story.past_days()
        first, last = sorted(rng.choice(days) for _ in range(2))
        config = {"restate": {"start": str(first), "end": str(last)}}
    chosen = [model.asset] if config and rng.random() < 0.5 else story.restatable if config else story.assets
    number = {"fail": 0, "kill worker": signal.SIGKILL, "kill run": signal.SIGKILL, "cancel": signal.SIGTERM}[what]
    flag, batches = project / "disturb", rng.choice((0, 0, 1))
    text = f"{what} at the {where} of {model.name}, after {batches} batches, {sorted(chosen)} {config or ''}"
    order = f"{model.name} {where} {int(number)} {{}} {batches}"
    if what in ("fail", "kill worker"):
        flag.write_text(order.format(0))
        record: RunRecord | None = story.launch(chosen, **config)
    else:
        record = launch_and_disturb(story, chosen, config, order)
    is_reached = not flag.exists()
    flag.unlink(missing_ok=True)
    story.counts[f"{what} {where} {'reached' if is_reached else 'not reached'}"] += 1
    if record is not None:
        story.after_run(f"{text}{'' if is_reached else ' (not reached)'}", record)


def launch_and_disturb(
    story: Story, chosen: Collection[str], config: Mapping[str, Any], order: str
) -> RunRecord | None:
    """Launch a run in a process of its own, which an order names. Return None if it was killed before it had a run."""
    earlier = {run.run_id for run in story.shop.instance.get_runs()}
    process = story.shop.start("in_process", assets=sorted(chosen), ops={OP: config} if config else None)
    (story.shop.project / "disturb").write_text(order.format(process.pid))
    process.wait(300)
    wait_until(lambda: not processes_in(story.shop.project))
    runs = [run for run in story.shop.instance.get_runs() if run.run_id not in earlier]
    for run in runs:
        if not run.is_finished:
            story.shop.instance.report_run_failed(run)  # as Dagster's run monitoring does
    return story.shop.run_record(runs[0].run_id) if runs else None


def shell(story: Story) -> None:
    """Type `sqlmesh run`, sometimes of one model. It does not wait for sources, nor for models that it leaves out."""
    chosen = [f"t.{story.rng.choice([*story.models])}"] if story.rng.random() < 0.5 else []
    selected = ["--no-auto-upstream", *(f"--select-model={name}" for name in chosen)] if chosen else []
    output = sqlmesh(story.shop.project, "run", "--skip-janitor", *selected, check=False)
    story.read()
    for rows in story.warehouse.tables.values():
        story.by_shell |= {row.own for row in rows.values()} - story.known
    story.remember()
    story.note(f"sqlmesh run {' '.join(chosen)} ({'failed' if 'failed' in output.lower() else 'done'})")
    story.counts["sqlmesh run"] += 1


def signals(story: Story) -> None:
    """Close the signal of a model for some days, or open it."""
    for model in story.models.values():
        if model.has_signal:
            file = story.shop.project / f"closed_{model.name}"
            closed = [str(day) for day in story.past_days() if story.rng.random() < 0.3]
            file.write_text(" ".join(closed))
            story.note(f"the signal of {model.name} is closed on {closed}")


def plan(story: Story) -> None:
    """Change the kind, `start`, `end` or `cron` of a model, and apply the plan with the command of its report."""
    rng = story.rng
    model = rng.choice([model for model in story.models.values() if model.kind not in ("scd", "embedded")])
    changed = rng.choice(changes(rng, model, story))
    if changed == model:
        return
    text = f"plan {model.name}: {difference(model, changed)}"
    file = story.shop.project / "models" / f"{model.name}.sql"
    file.write_text(changed.text)
    record = launch_job(story.shop, PLAN)
    if record.status is not dg.DagsterRunStatus.SUCCESS:
        story.note(f"{text}: no plan, {record.failures}"[:400])
        story.counts["no plan"] += 1
        file.write_text(model.text)
        story.shop.refresh()
        return
    report = report_of(record)
    before = story.warehouse
    config = json.loads(shlex.split(report["command"])[-1])["ops"][APPLY]["config"] if report["command"] else {}
    record = launch_job(story.shop, APPLY, **config)
    if record.status is not dg.DagsterRunStatus.SUCCESS:
        story.note(f"{text}: refused, {record.failures}"[:600])
        kinds = [refusal["kind"] for refusal in report["refusals"]]
        story.counts[f"apply refused {kinds}"] += 1
        file.write_text(model.text)
        story.shop.refresh()
        story.read()
        story.remember()
        return
    story.models[model.name] = changed
    if changed.cron not in ("@hourly", "@daily"):
        story.slow.add(model.name)
    story.note(f"{text}: applied, {({k: v for k, v in config.items() if k != 'digest'}) or ''}")
    story.counts["applied"] += 1
    story.read()
    check_losses(story, before, report, f"{record.log} {record.job_metadata}")
    story.check_computed()
    story.remember()


def check_losses(story: Story, before: Warehouse, report: Mapping[str, Any], result: str) -> None:
    """Each row that prod does not show any more is in the report, or waits for a signal in the result of the apply."""
    planned = {found["name"].split(".")[-1].strip('"'): found for found in report["models"]}
    for name, model in story.models.items():
        table = f"t.{name}"
        lost = before.tables[table].keys() - story.warehouse.tables[table].keys() if model.kind != "embedded" else set()
        if not lost:
            continue
        story.counts["models with losses"] += 1
        ranges = planned[name]["lost_intervals"] if name in planned else []
        unnamed = [ts for ts, _ in lost if not any(_is_in(ts, *bounds) for bounds in ranges)]
        if unnamed and not (table in result and {ts.date() for ts in unnamed} <= named_days(result)):
            story.fault("lost", f"{name} has lost {sorted(map(str, unnamed))[:4]}, and the report names {ranges}")


def _is_in(ts: datetime, start: str | None, end: str | None) -> bool:
    return (start or "")[:19] <= f"{ts:%Y-%m-%dT%H:%M:%S}" < (end or "9999")[:19]


def difference(model: RowModel, changed: RowModel) -> str:
    return ", ".join(
        f"{name} {value or 'none'} -> {getattr(changed, name) or 'none'}"
        for name, value in vars(model).items()
        if value != getattr(changed, name)
    )


def changes(rng: random.Random, model: RowModel, story: Story) -> list[RowModel]:
    kinds = [kind for kind in ("time", "full", "view", "key") if kind != model.kind and model.cron != "@hourly"]
    found = [replace(model, kind=kind, batch_size=0, has_signal=False) for kind in kinds]
    found += [replace(model, start=FIRST + DAY * rng.choice((-2, 1, 2)))] * 2
    if model.kind in INCREMENTAL:
        found += [replace(model, end=rng.choice((*story.past_days()[-2:], None)))]
    if model.cron != "@hourly":
        found += [replace(model, cron=rng.choice(("@daily", "0 6 * * *", "@weekly")))]
    if model.start:
        found += [replace(model, start=None)]
    return found


ACTIONS: dict[Callable[[Story], None], int] = {
    run_all: 3,
    run_with_janitor: 1,
    run_some: 4,
    run_bounded: 3,
    run_ignoring: 1,
    tick: 2,
    restate: 4,
    run_checks: 1,
    disturbed: 5,
    shell: 2,
    plan: 4,
}


# -- the end ---------------------------------------------------------------------------------------


def finish(story: Story) -> None:
    """Load and correct everything, run twice, and follow what checks and ticks advise."""
    story.clock.move_to(datetime(2026, 3, 9, 7, 10, tzinfo=timezone.utc))
    with story.clock.shown():
        for file in story.shop.project.glob("closed_*"):
            file.unlink()
        for source in story.sources:
            story.load(source, [day for day in story.past_days() if day not in source.loaded or day in source.bad])
            if not source.by_day:
                story.report(source, None)
        record = story.run("run all at the end", story.assets)
        for number in range(6):
            advised = advised_restatements(story, record)
            if not advised and number:
                break
            if story.late == "restate":
                tick(story)
            elif advised and story.rng.random() < 0.7:
                start, end = min(c["start"] for _, c in advised), max(c["end"] for _, c in advised)
                follow(story, {asset for asset, _ in advised}, {"start": start, "end": end})
            else:
                for asset, config in advised:
                    follow(story, [asset], config)
            record = story.run("run all at the end again", story.assets)
        check_end(story, record, is_last=False)
        is_wrong = any(story.warehouse.wrong(model) for model in story.models.values())
        if is_wrong or record.status is not dg.DagsterRunStatus.SUCCESS:
            story.run("restate everything", story.restatable, restate={"start": str(FIRST - 2 * DAY), "end": str(LAST)})
            record = story.run("run all after that", story.assets)
            check_end(story, record, is_last=True)


def follow(story: Story, assets: Collection[str], config: dict[str, str]) -> None:
    story.run(f"advised: restate {sorted(assets)} {config}", assets, restate=config)
    story.counts["advised restatements"] += 1


ADVICE = r"restate: \{start: '([^']+)', end: '([^']+)'\}"


def advised_restatements(story: Story, record: RunRecord) -> list[tuple[str, dict[str, Any]]]:
    """The restatements that checks of late data and of intervals advise."""
    found = []
    for name, check in record.checks.items():
        asset, kind = name.rsplit(":", 1)
        if check.passed or kind not in (LATE, INTERVALS):
            continue
        story.note(f"  {name}: {check.description}")
        for start, end in re.findall(ADVICE, check.description or ""):
            found.append((asset, {"start": start, "end": end}))
    return found


def check_end(story: Story, record: RunRecord, *, is_last: bool) -> None:
    for model in story.models.values():
        wrong = story.warehouse.wrong(model)
        page = Page.of(record, model)
        if not is_last or model.kind == "scd":  # by default, it cannot be restated
            wrong = {key: why for key, why in wrong.items() if not story.is_excepted(model, key, why, page)}
        if wrong:
            story.fault(
                f"wrong at the end{' for good' if is_last else ''}",
                f"{model.name} ({model.kind}): {some(wrong)}. Its page: {page.text[:600]}",
            )
    # Nothing tells that a source without partitions was corrected, so a model may have passed on its bad rows.
    is_excepted = not is_last and not all(source.by_day for source in story.sources)
    if record.status is not dg.DagsterRunStatus.SUCCESS and not is_excepted:
        story.fault("not green at the end", str(record.failures))


# -- the command -----------------------------------------------------------------------------------


@contextmanager
def planned_story(seed: int, engine: str, folder: Path, servers: Servers) -> Iterator[Story]:
    rng = random.Random(seed)
    sources = [Source(f"s{number}", number == 0 or rng.random() < 0.4) for number in range(rng.choice((1, 1, 2)))]
    models = draw_models(rng, sources)
    sources = [source for source in sources if any(source.table in model.reads for model in models)]
    late = rng.choice(("warn", "warn", "restate"))
    clock = MovedClock(datetime(2026, 3, 2 + PLANNED_DAYS, 0, 10, tzinfo=timezone.utc))
    attributes: dict[str, Any] = {
        "external_models": {"keys": {s.table: f"load/{s.name}" for s in sources}, "wait": True, "late": late},
        "restate": True,
        "schedule": True,
        "deploy": True,
        "intervals_check": True,
    }
    files = {f"models/{model.name}.sql": model.text for model in models}
    files |= {f"audits/{model.name}.sql": model.audit_text for model in models if model.audit}
    files |= {"macros/__init__.py": "", "macros/rows.py": MACROS, "signals/__init__.py": SIGNALS}
    with servers.database(engine, folder / "shop", str(FIRST)) as database, clock.shown():
        database.query("CREATE SCHEMA raw")
        for source in sources:
            database.query(f"CREATE TABLE {source.table} (ts TIMESTAMP, k INT, v BIGINT, l TEXT, bad INT, b TEXT)")
        with planned_shop(folder, files, database.config, planned_at=None, **attributes) as shop:
            for source in sources:
                shop.add_module(f"load_{source.name}", source.code)
            story = Story(rng, shop, database, clock, sources, {model.name: model for model in models}, late)
            story.log += [
                model.text.replace("\n", " ").split("SELECT")[0] + f"reads {', '.join(model.reads)}" for model in models
            ]
            story.log += [f"{s.name}: {'daily partitions' if s.by_day else 'no partitions'}" for s in sources]
            story.log.append(f"late: {late}")
            for source in sources:
                story.load(source, [FIRST + DAY * number for number in range(PLANNED_DAYS)])
            # With two tasks, SQLMesh's promotion fails now and then on PostgreSQL.
            sqlmesh(shop.project, "plan", "--auto-apply", "--no-prompts", check=False)
            shop.plan(at=None)
            story.note("sqlmesh plan")
            story.read()
            story.remember()
            yield story


def try_story(seed: int, engine: str, folder: Path, servers: Servers) -> Story:
    with planned_story(seed, engine, folder, servers) as story, story.to_its_end():
        for _ in range(story.rng.randint(5, 8)):
            if story.rng.random() < 0.4 and story.instant < at(LAST) - DAY:
                tomorrow = at(story.instant.date()) + DAY + timedelta(minutes=story.rng.choice((10, 10, 430)))
                story.clock.move_to(tomorrow.replace(tzinfo=timezone.utc))
            with story.clock.shown():
                if story.rng.random() < 0.7:
                    loads(story)
                if story.rng.random() < 0.3:
                    signals(story)
                [action] = story.rng.choices(list(ACTIONS), list(ACTIONS.values()))
                story.counts[action.__name__] += 1
                action(story)
                if len(story.faults) > 3:
                    return story
        finish(story)
    return story


if __name__ == "__main__":
    tell(__doc__, try_story, ("duckdb", "postgres"), stories=100)
