"""Apply plans of random changes, of which attempts fail, and compare with a twin: one undisturbed `sqlmesh plan`.

    python tests/soak/random_attempts.py --stories 50 --seed 1 --engines duckdb 2> log

A story plans a project, and changes it. The twin is the same project on a copy of the database: plain SQLMesh applies
the change there, with the corrected files and sources. Then the jobs of Dagster apply it, with or without a preview.
An attempt fails at something that the twin has executed: a query, a statement before or after it, an audit, a statement
before or after all models, one of a virtual update, a unit test. Or a process is killed, also one of a preview, of the
preview of an earlier commit, or of the job that closes it. The cause is corrected or not, and the job is launched
again. It checks:

- **green, but not done**: if an apply is green, the environment, its intervals, rows and views are the twin's, and what
  the twin has executed was executed with success. `before_all` and `after_all` in the green attempt: "again"
  (docs/contributing/second-attempts.md). Audits of rows that no attempt has computed since the environment was as
  before: "again". Audits of computed rows after the rows were written last. All else in any attempt, also a preview:
  "the apply shows the tables of the preview in prod and does not compute them again" (docs/previews.md).
- **no record**: after a green apply, Dagster has "one materialization" of each model with new data, and "evaluated
  audits are results of their checks" (docs/plans.md). "Audits of a killed job have no result": so not after a kill.
- **not green at the end**: in a project that was planned as of now, a run after the apply is green and changes nothing.
- **red, but corrected**: without a cause, an apply is green.
- **computed again**: "finished intervals are not computed again" (docs/plans.md).
- **half-way**: after a red apply, prod shows what it showed before, or what the twin shows. After a kill, it may be
  between two plans (docs/plans.md, "Finish an interrupted plan"). Rows that a forward-only change has computed are
  pending again, and a column that it has added stays (docs/plan-reference.md, "Know what cannot be taken back").
- **changed by a preview**: "A preview never changes prod's rows, intervals, versions or views" (docs/previews.md). Nor
  does its close.
- **wrong preview**: what a green preview shows is what the twin shows. Forward-only models have other rows.
- **left over**: after the close of a preview, state and database have what those of the twin have (docs/previews.md,
  "Close it"), even if the preview, an earlier one or the close was killed. Versions of a commit that nobody saw are
  left to the janitor.
"""

import json
import random
import re
import shlex
import shutil
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from attempted_plans import draw_change, draw_project
from computed_hours import HOUR
from databases import Database, Servers, day_of
from engine.plan_jobs import APPLY, PLAN, executed, report_of
from harness import RunRecord, Shop, planned_shop, processes_in, wait_until
from stories import Told, tell, today
from story_projects import BY_TIME, Model, Project

PREVIEW, CLOSE = "sqlmesh_shop_preview", "sqlmesh_shop_preview_close"
DAYS = 6
"""How many days the source has."""
SLACK = 5.5
"""Seconds after which rows of prod are older than a job for certain: clocks of two hosts may differ by 5 seconds."""
LOGGED = re.compile(r"INSERT INTO \S*log\S* .*?SELECT '(\w+) ?(\S*?) ?(\d+)'(?: AS \S+)?, '(.*?)'(?: AS \S+)?, '(.*?)'")
AUDITED = re.compile(r"'audit (\w+)' AS")
TABLE = re.compile(r'"(t__\w+)"')
WRITTEN = re.compile(
    r'(?:INSERT INTO|CREATE OR REPLACE TABLE) \S*"(t__\w+)"|'
    r'CREATE TABLE IF NOT EXISTS \S*"(t__\w+)" AS (?!.*(?:WHERE|AND) FALSE)'
)


# -- the database ----------------------------------------------------------------------------------


def short(name: str) -> str:
    return name.replace('"', "").split(".")[-1]


@dataclass
class Facts:
    """What prod shows, according to the state and its views."""

    fingerprints: dict[str, str]
    versions: dict[str, str]
    promoted: set[str]
    is_finalized: bool
    statements: list[list[str]]
    unpaused: set[tuple[str, str]]
    intervals: dict[str, set[str]]
    views: dict[str, list[dict[str, str]]]

    @classmethod
    def read(cls, database: Database) -> "Facts":
        [row] = database.query(
            "SELECT snapshots, promoted_snapshot_ids, finalized_ts IS NOT NULL FROM sqlmesh._environments"
            " WHERE name = 'prod'"
        )
        shown = {short(entry["name"]): entry for entry in json.loads(row[0])}
        unpaused = database.query("SELECT name, identifier FROM sqlmesh._snapshots WHERE unpaused_ts IS NOT NULL")
        statements = database.query(
            "SELECT environment_statements FROM sqlmesh._environment_statements WHERE environment_name = 'prod'"
        )
        return cls(
            {name: json.dumps(entry["fingerprint"], sort_keys=True) for name, entry in shown.items()},
            {name: str(entry.get("version")) for name, entry in shown.items()},
            {short(entry["name"]) for entry in json.loads(row[1])} if row[1] else set(shown),
            bool(row[2]),
            [sorted(re.findall(r"(?:before|after)_all \d+", str(text))) for text in statements],
            {(short(name), identifier) for name, identifier in unpaused},
            intervals(database),
            views_of(database, "t"),
        )

    def computed(self) -> dict[str, set[str]]:
        """The computed days of each model that is shown."""
        return {name: self.intervals.get(version, set()) for name, version in self.versions.items()}

    def differences(self, other: "Facts", kept: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
        """Compare.

        Args:
            kept: Models of which only the columns and computed days of the other side count.
        """
        found = [
            f"{what}: {mine}, expected {theirs}"
            for what, mine, theirs in (
                ("shown versions", self.fingerprints, other.fingerprints),
                ("promoted models", self.promoted, other.promoted),
                ("finished", self.is_finalized, other.is_finalized),
                ("statements", self.statements, other.statements),
                ("unpaused versions", self.unpaused, other.unpaused),
                ("views", set(self.views), set(other.views)),
            )
            if mine != theirs
        ]
        mine, theirs = self.computed(), other.computed()
        for name, days in theirs.items():
            has = mine.get(name, set())
            if has - days or (days - has and name not in kept):
                found.append(f"days of {name}: {sorted(has)}, expected {sorted(days)}")
        for view, rows in other.views.items():
            has_rows = self.views.get(view, [])
            if view in kept:
                has_rows, rows = (
                    [row for row in narrowed(side, rows) if row.get("day", "")[:10] in mine.get(view, set())]
                    for side in (has_rows, rows)
                )
            if has_rows != rows:
                found.append(f"rows of {view}: {has_rows}, expected {rows}")
        return found


def narrowed(rows: list[dict[str, str]], like: list[dict[str, str]]) -> list[dict[str, str]]:
    """These rows with only the columns of the others."""
    columns = like[0] if like else {}
    return sorted([{name: value for name, value in row.items() if name in columns} for row in rows], key=str)


def intervals(database: Database) -> dict[str, set[str]]:
    """The days that the state has as computed, by the version of the table."""
    days: dict[str, set[str]] = defaultdict(set)
    events = "SELECT version, start_ts, end_ts, is_removed FROM sqlmesh._intervals WHERE NOT is_dev"
    events += " AND NOT is_pending_restatement ORDER BY created_ts, is_removed"
    for version, start, end, is_removed in database.query(events):
        found = {day_of(hour) for hour in range(start // HOUR, end // HOUR, 24)}
        days[version] = days[version] - found if is_removed else days[version] | found
    return days


def views_of(database: Database, schema: str) -> dict[str, list[dict[str, str]]]:
    """The rows of all views of a schema."""
    columns: dict[str, list[str]] = defaultdict(list)
    for view, column in database.query(
        "SELECT table_name, column_name FROM information_schema.columns"
        f" WHERE table_schema = '{schema}' ORDER BY table_name, ordinal_position"
    ):
        columns[view].append(column)
    return {
        view: sorted(
            [dict(zip(names, map(str, row))) for row in database.query(f"SELECT * FROM {schema}.{view}")], key=str
        )
        for view, names in columns.items()
    }


def contents(database: Database) -> dict[str, set[tuple[Any, ...]]]:
    """What state and database have, apart from instants."""
    tables = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema LIKE '%t%'"
    system = ("information_schema", "pg_catalog")
    return {
        "environments": set(database.query("SELECT name FROM sqlmesh._environments")),
        "versions": set(database.query("SELECT name, identifier FROM sqlmesh._snapshots")),
        "tables": {row for row in database.query(tables) if row[0] not in system},
    }


# -- what was executed -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Execution:
    """What SQLMesh has executed with success.

    Attributes:
        what: `before`, `after` (a query), `virtual`, `before_all`, `after_all` or `audit`.
        name: Of the model or audit, with the number of a statement.
        table: The table or view that it is about.
        days: The days that it is about; none for the whole table.
        failing: The rows that an audit has found.
    """

    job: str
    order: int
    what: str
    name: str
    table: str
    days: frozenset[str]
    failing: int = 0


def executions(log: Path) -> tuple[list[Execution], int]:
    """Read the log of the hook. Return also the number of statements of each process that writes most."""
    found, number = [], 0
    for order, line in enumerate(log.read_text().splitlines() if log.exists() else []):
        entry = json.loads(line)
        number = max(number, entry.get("number", 0))
        sql = (entry.get("sql") or entry["audit"]).replace("\n", " ")
        days = re.findall(r"\d{4}-\d\d-\d\d", sql)
        if "audit" in entry:
            [name], [table, *_] = AUDITED.findall(sql), [*TABLE.findall(sql), ""]
            found.append(Execution(entry["job"], order, "audit", name, table, span(days), entry["failing"]))
        elif match := LOGGED.search(sql):
            what, name, statement, table, _ = match.groups()
            # The table of a virtual update is a view, whose schema is the environment.
            table = table.split(".", 1)[-1] if what == "virtual" else table.split(".")[-1]
            found.append(Execution(entry["job"], order, what, f"{name} {statement}".strip(), table, span(days)))
        elif match := WRITTEN.search(sql):
            found.append(Execution(entry["job"], order, "rows", "", match[1] or match[2], frozenset()))
    return found, number


def span(days: list[str]) -> frozenset[str]:
    """All days from the first to the last."""
    if not days:
        return frozenset()
    first, last = date.fromisoformat(min(days)), date.fromisoformat(max(days))
    return frozenset(str(first + timedelta(days=number)) for number in range((last - first).days + 1))


# -- a story ---------------------------------------------------------------------------------------


@dataclass
class Story(Told):
    """One project, its change, and what was done.

    Attributes:
        project: After the change.
        before, twin: What prod showed before, and what plain SQLMesh shows after the change.
        expected: What plain SQLMesh has executed.
        statements: How many statements plain SQLMesh has executed that write something.
        since: The number of the first job since prod was as before.
        has_lost_values: Whether an apply has said that it cannot be taken back, because values are lost.
        has_unseen: Whether the state may have versions of a commit that no environment has shown.
    """

    shop: Shop
    database: Database
    rng: random.Random
    days: list[str]
    first: Project
    project: Project
    changes: list[str]
    before: Facts = field(init=False)
    twin: Facts = field(init=False)
    contents: dict[str, set[tuple[Any, ...]]] = field(init=False)
    expected: list[Execution] = field(default_factory=list)
    statements: int = 0
    planned_at: str | None = None
    trouble: tuple[str, ...] = ()
    has_lost_values: bool = False
    approved: dict[str, Any] | None = None
    was_killed: bool = False
    was_finalized: bool = True
    since: int = 0
    has_unseen: bool = False
    jobs: list[str] = field(default_factory=list)

    # -- files and causes

    def write(self, project: Project) -> None:
        for folder in ("models", "audits", "tests", "seeds"):
            shutil.rmtree(self.shop.project / folder, ignore_errors=True)
        for name, text in files_of(project, self.database, self.days).items():
            file = self.shop.project / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    # -- the twin

    def apply_to_twin(self) -> None:
        """Apply the change with plain SQLMesh, read what it did, and go back."""
        self.write(self.first)
        (self.shop.project / "job").write_text("setup")
        self.planned_at = self.rng.choice((None, None, "3 days ago"))
        self.shop.plan(at=self.planned_at)
        planned = time.monotonic()
        self.before = Facts.read(self.database)
        self.database.save("before")
        (self.shop.project / "executed.jsonl").unlink(missing_ok=True)
        (self.shop.project / "job").write_text("twin")
        self.write(self.project)
        destructive = [word for name in self.project.models for word in ("--allow-destructive-model", f"t.{name}")]
        self.shop.plan(*destructive, at=None)
        self.twin, self.contents = Facts.read(self.database), contents(self.database)
        self.expected, self.statements = executions(self.shop.project / "executed.jsonl")
        (self.shop.project / "executed.jsonl").unlink(missing_ok=True)
        self.database.restore("before")
        shutil.rmtree(self.shop.project / ".cache", ignore_errors=True)
        # What a job that is killed has read within that time may be older than prod's rows, and is computed again.
        time.sleep(max(0, planned + SLACK - time.monotonic()))

    # -- jobs

    def launch(self, job: str, is_killed: bool = False, **config: Any) -> RunRecord:
        """Launch a job in a fork, which may be killed."""
        if is_killed:
            self.order_kill()
        label = f"{len(self.jobs)} {job.removeprefix('sqlmesh_shop_')}"
        self.jobs.append(label)
        (self.shop.project / "job").write_text(label)
        self.shop.refresh()
        earlier = {run.run_id for run in self.shop.instance.get_runs()}
        order = self.shop.project / "kill"
        process = self.shop.start_fork(lambda instance: executed(self.shop, instance, job, config))
        if order.exists():
            order.write_text(order.read_text().replace("run", str(process.pid)))
        process.wait()
        wait_until(lambda: not processes_in(self.shop.project))
        if is_killed:
            self.end_kill()
        [run] = [run for run in self.shop.instance.get_runs() if run.run_id not in earlier]
        if not run.is_finished:  # as Dagster's run monitoring
            self.shop.instance.report_run_failed(run)
        record = self.shop.run_record(run.run_id)
        self.counts[f"{job.removeprefix('sqlmesh_shop_')} {record.status.value}"] += 1
        failure = record.failures[0].replace("\n", " ")[:300] if record.failures else ""
        self.log.append(f"{label} {config or ''}: {record.status.value} {failure}")
        return record

    def is_green(self, record: RunRecord) -> bool:
        return record.status is dg.DagsterRunStatus.SUCCESS

    def preview(self, *, is_corrected: bool = True) -> None:
        """Preview the files. The job may be killed, and is launched again, or not."""
        was = Facts.read(self.database)
        if not was.is_finalized:  # "A preview is made from prod"
            return
        is_killed = is_corrected and self.rng.random() < 0.3
        record = self.launch(PREVIEW, is_killed=is_killed, allow_pending=True)
        self.check_unchanged(was)
        if is_killed and not self.is_green(record):
            self.was_killed = True
            self.has_unseen |= self.rng.random() < 0.5
            if self.has_unseen:
                return
            record = self.launch(PREVIEW, allow_pending=True)
            self.check_unchanged(was)
        if not self.is_green(record):
            # Nobody else has tables in these databases: only a preview itself could have taken a name.
            if is_corrected and ("was refused" not in record.failures[0] or "name_taken:" in record.failures[0]):
                self.fault("red, but corrected", record.failures[0])
        elif is_corrected:
            self.check_preview()

    def check_unchanged(self, was: Facts) -> None:
        """A job of previews has left prod as it was."""
        self.check_computed_once(was.intervals)
        for difference in Facts.read(self.database).differences(was):
            self.fault("changed by a preview", difference)

    def check_preview(self) -> None:
        """The views of the preview have the rows of the twin's, as far as they have computed days."""
        models = self.project.models.items()
        other = self.project.downstream({name for name, model in models if model.forward_only or model.is_history})
        for view, rows in views_of(self.database, "t__pr_1").items():
            self.counts["views of previews"] += view not in other
            wrong = [row for row in rows if row not in self.twin.views[view]] if view not in other else []
            if wrong or (view not in other and not self.planned_at and len(rows) != len(self.twin.views[view])):
                self.fault("wrong preview", f"rows of {view}: {rows}, expected {self.twin.views[view]}")

    def preview_earlier(self) -> None:
        """Preview an earlier commit, which the preview of the last one replaces."""
        earlier, changes = draw_change(self.rng, self.first)
        self.log.append(f"an earlier commit: {', '.join(changes)}")
        self.write(earlier)
        was, is_killed = Facts.read(self.database), self.rng.random() < 0.4
        record = self.launch(PREVIEW, is_killed=is_killed, allow_pending=True)
        self.has_unseen |= not self.is_green(record)
        self.check_unchanged(was)
        self.write(self.project)

    def close(self) -> None:
        """Close the preview, and compare what is left with what the twin has."""
        was = Facts.read(self.database)
        record = self.launch(CLOSE, is_killed=self.rng.random() < 0.5)
        if not self.is_green(record):
            self.check_unchanged(was)
            record = self.launch(CLOSE)
        if not self.is_green(record):
            self.fault("left over", str(record.failures))
        self.check_unchanged(was)
        for kind, found in contents(self.database).items():
            left, missing = sorted(found - self.contents[kind]), sorted(self.contents[kind] - found)
            if (left and not self.has_unseen) or missing:
                self.fault("left over", f"{kind}: left {left}, missing {missing}")

    def approve(self) -> dict[str, Any] | None:
        """Plan, and return the config that applies this plan; None if there is no plan."""
        record = self.launch(PLAN)
        if not self.is_green(record):
            return None
        report = report_of(record)
        if report["command"] is None and not Facts.read(self.database).is_finalized:
            return None
        command = shlex.split(report["command"])
        config: dict[str, Any] = json.loads(command[command.index("--config-json") + 1])["ops"][APPLY]["config"]
        return config

    def apply(self, config: dict[str, Any], *, is_corrected: bool) -> bool:
        """Apply a plan, and check what the job says. Return whether it is green."""
        computed, was = intervals(self.database), Facts.read(self.database)
        self.was_finalized = was.is_finalized
        if not was.differences(self.before):
            self.since = len(self.jobs)
        record = self.launch(APPLY, **config)
        self.check_computed_once(computed)
        if self.is_green(record):
            self.check_green()
        elif is_corrected:
            self.fault("red, but corrected", str(record.failures))
        else:
            self.check_red(record)
        return self.is_green(record)

    # -- claims

    def done(self) -> list[Execution]:
        return executions(self.shop.project / "executed.jsonl")[0]

    def check_computed_once(self, computed: dict[str, set[str]]) -> None:
        """The last job has computed no day that the state had as computed when it began."""
        for entry in self.done():
            if entry.job == self.jobs[-1] and entry.what == "after" and not entry.table.endswith("__dev"):
                had = computed.get(entry.table.split("__")[-1], set())
                again = entry.days & had if self.kind(entry.name.split()[0]) in BY_TIME else entry.days <= had
                if again and entry.days:
                    self.fault("computed again", f"{entry.name} {entry.table} {sorted(entry.days)}, had {sorted(had)}")

    def kind(self, name: str) -> str:
        model = self.project.models.get(name) or self.first.models.get(name)
        return model.kind if model else ""

    def check_green(self) -> None:
        """Everything that the twin has executed was executed with success."""
        for difference in Facts.read(self.database).differences(self.twin):
            self.fault("green, but not done", difference)
        done = self.done()
        written = {(entry.table, day): entry.order for entry in done if entry.what == "after" for day in entry.days}
        written |= {(entry.table, ""): entry.order for entry in done if entry.what == "rows"}
        jobs = set(self.jobs[self.since :])
        # A table without days is audited as a whole after each batch. Only the last one is about all of its rows.
        last_audits = {(of.name, of.table): of for of in self.expected if of.what == "audit" and not of.days}
        for wanted in self.expected:
            if wanted.what == "rows":  # compared already
                continue
            if wanted.what == "audit" and not wanted.days and last_audits[wanted.name, wanted.table] is not wanted:
                continue
            same = [entry for entry in done if (entry.what, entry.name) == (wanted.what, wanted.name)]
            if wanted.what in ("before_all", "after_all"):
                number = sum(entry.job == self.jobs[-1] for entry in same)
                if number != 1:
                    self.fault("green, but not done", f"{wanted.what} {wanted.name} was executed {number} times")
                continue
            if wanted.what == "virtual":
                if not any(entry.job in jobs and entry.table == wanted.table for entry in same):
                    self.fault("green, but not done", f"virtual update of {wanted.name}")
                continue
            same = [entry for entry in same if entry.table == wanted.table]
            if wanted.what == "audit":
                same = [entry for entry in same if entry.failing == wanted.failing]
            missing = set()
            for day in wanted.days or {""}:
                about = [entry for entry in same if not day or day in entry.days or not entry.days]
                if wanted.what == "audit":
                    last = written.get((wanted.table, day))
                    about = [entry for entry in about if (entry.job in jobs if last is None else entry.order > last)]
                if not about:
                    missing.add(day)
            if missing:
                self.fault("green, but not done", f"{wanted.what} {wanted.name} {wanted.table} {sorted(missing)}")

    def check_records(self) -> None:
        """Dagster knows what the attempts have computed and audited."""
        computed = {wanted.name.split()[0] for wanted in self.expected if wanted.what == "after"} & self.twin.promoted
        for name in computed:
            key = dg.AssetKey(["t", name])
            records = self.shop.instance.fetch_materializations(key, limit=9).records
            if len(records) != 1:
                self.fault("no record", f"{name} has {len(records)} materializations")
        failing: Counter[str] = Counter()
        for wanted in self.expected:
            if wanted.what == "audit":
                failing[wanted.name] += wanted.failing
        results = {
            check.check_name: check
            for run in reversed(list(self.shop.instance.get_runs()))
            for check in self.shop.run_record(run.run_id).checks.values()
        }
        for audit, number in failing.items():
            if audit not in results:
                self.fault("no record", f"{audit} has no result")
            elif results[audit].passed != (number == 0):
                self.fault("no record", f"{audit}: {results[audit]}, the twin found {number} rows")

    def check_run(self) -> None:
        """Nothing is pending after the apply."""
        was = Facts.read(self.database)
        record = self.shop.launch()
        self.log.append(f"run: {record.status.value}")
        if not self.is_green(record):
            self.fault("not green at the end", str(record.failures))
        for difference in Facts.read(self.database).differences(was):
            self.fault("not green at the end", difference)

    def check_red(self, record: RunRecord) -> None:
        """Prod shows what it showed before, or what the twin shows."""
        now = Facts.read(self.database)
        forward_only = {name for name, model in self.project.models.items() if model.forward_only}
        before = now.differences(self.before, kept=forward_only)
        is_killed = (self.shop.project / "killed").exists()
        # Prod has the statement that fails, too: the way back executes it.
        is_no_way_back = self.trouble[-1:] == ("",) and self.trouble[1] in self.virtual_updates(self.first)
        self.has_lost_values |= "has lost values of" in str(record.failures)
        is_no_way_back |= self.has_lost_values and any(change.startswith("column ") for change in self.changes)
        is_between = not now.is_finalized and (is_killed or is_no_way_back or not self.was_finalized)
        if before and now.differences(self.twin) and not is_between:
            self.fault("half-way", f"{record.failures} {before}")
        self.counts[
            f"prod after red: {'before' if not before else 'between' if not now.is_finalized else 'after'}"
        ] += 1

    # -- troubles

    def troubles(self) -> list[tuple[str, ...]]:
        """What can fail: what the twin has executed, files, and processes."""
        found: list[tuple[str, ...]] = [("kill",), ("kill",)]
        for entry in self.expected:
            if entry.what == "rows":
                continue
            name, day = entry.name.split()[0], self.rng.choice(sorted(entry.days) or [""])
            if entry.what in ("before_all", "after_all"):
                found += [("cause", f"{entry.what} {name}", ""), ("file", entry.what, name)]
            elif entry.what == "after":
                found += [
                    ("cause", f"query {name}", day),
                    ("cause", f"after {entry.name}", ""),
                    ("file", "query", name),
                ]
            elif entry.what in ("before", "virtual"):
                found.append(("cause", f"{entry.what} {entry.name}", ""))
            elif entry.what == "audit" and self.is_blocking(name):
                found += [("cause", f"audit {name}", day), ("file", "audit", name)]
        tested = [name for name, model in self.project.models.items() if model.kind == "full"]
        found += [("file", "unit test", name) for name in tested]
        by_kind: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for trouble in found:
            by_kind[" ".join([trouble[0], *trouble[1].split()[:1]] if len(trouble) > 1 else trouble)].append(trouble)
        return [self.rng.choice(troubles) for _, troubles in sorted(by_kind.items())]

    def virtual_updates(self, project: Project) -> set[str]:
        return {f"virtual {model.name} {model.statements[2]}" for model in project.models.values()}

    def is_blocking(self, audit: str) -> bool:
        audits = [audit for model in self.project.models.values() for audit in model.audits]
        return any(found.name == audit and found.is_blocking for found in audits)

    def cause(self, trouble: tuple[str, ...]) -> None:
        self.trouble = trouble
        self.has_unseen |= trouble[0] == "file"
        self.log.append(f"trouble: {' '.join(trouble)}")
        if trouble[0] == "cause" and trouble[1].startswith("audit "):
            (self.shop.project / "failing").write_text(trouble[1].removeprefix("audit "))
        elif trouble[0] == "cause":
            self.database.add_cause(trouble[1], trouble[2] or self.days[0])
        elif trouble[0] == "file":
            self.write(self.wrong(trouble[1], trouble[2]))
        self.counts[f"trouble {' '.join(trouble[:2]).split(' m')[0]}"] += 1

    def order_kill(self) -> None:
        when, who = self.rng.choice(("before", "after")), self.rng.choice(("0", "0", "run", "run 0"))
        at = self.rng.randint(1, max(1, self.statements))
        (self.shop.project / "kill").write_text(f"{when} {at} {who}")
        self.log.append(f"kill {when} statement {at} of {self.statements}: {who}")

    def end_kill(self) -> bool:
        """Return whether a process was killed."""
        was_killed = (self.shop.project / "killed").exists()
        for name in ("kill", "killed"):
            (self.shop.project / name).unlink(missing_ok=True)
        return was_killed

    def correct(self) -> None:
        self.database.end_causes()
        self.end_kill()
        (self.shop.project / "failing").unlink(missing_ok=True)
        self.write(self.project)

    def wrong(self, what: str, name: str) -> Project:
        """The project, with a file that is wrong."""
        if what in ("before_all", "after_all"):
            numbers = tuple(-number if str(number) == name else number for number in getattr(self.project, what))
            change: dict[str, Any] = {what: numbers}
            return replace(self.project, **change)
        if what == "audit":
            models = [model for model in self.project.models.values() if any(a.name == name for a in model.audits)]
            audits = tuple(replace(audit, highest=-1) if audit.name == name else audit for audit in models[0].audits)
            return self.project.with_model(replace(models[0], audits=audits))
        model = self.project.models[name]
        change = {"is_wrong": True} if what == "query" else {"tested": model.shift + 1}
        return self.project.with_model(replace(model, **change))

    # -- the story

    def act(self) -> None:
        """Apply with attempts that fail. At the end, the cause is corrected, or not."""
        self.write(self.project)
        if self.rng.random() < 0.2:
            self.preview_earlier()
        for _ in range(self.rng.choice((1, 1, 2))):
            if self.rng.random() < 0.5:
                self.preview()
            if self.attempt(self.rng.choice(self.troubles())):
                break
        if self.rng.random() < 0.2:
            self.preview()
        config = self.approved if self.rng.random() < 0.8 else self.approve()
        config = config or self.approve()
        if config is None and self.has_lost_values:
            self.finish_in_shell()
            return
        if config is None:
            self.fault("red, but corrected", "the plan job")
            return
        if self.apply(config, is_corrected=True) and not self.was_killed:
            self.check_records()
        if not self.planned_at and self.rng.random() < 0.3:
            self.check_run()
        if any(PREVIEW.endswith(job.split()[-1]) for job in self.jobs) and self.rng.random() < 0.7:
            self.close()

    def finish_in_shell(self) -> None:
        """The failure says: "If the files have to change, apply a new plan with `sqlmesh plan`"."""
        self.shop.plan(at=None)
        for difference in Facts.read(self.database).differences(self.twin):
            self.fault("not green at the end", difference)

    def attempt(self, trouble: tuple[str, ...]) -> bool:
        """Let one or two applies fail. Return whether one is green."""
        config = None
        if trouble[0] == "file" and trouble[1] != "unit test":
            self.cause(trouble)
            config = self.approve()
        elif trouble[0] != "file" or self.rng.random() < 0.5:
            config = self.approve()
            self.cause(trouble)
        else:
            self.cause(trouble)
            if self.approve() is not None:
                self.fault("half-way", "a plan with a unit test that fails")
        is_green = False
        if config is not None:
            if self.rng.random() < 0.2:
                self.preview(is_corrected=False)
            for _ in range(self.rng.choice((1, 1, 2))):
                if trouble[0] == "kill":
                    self.order_kill()
                is_green = is_green or self.apply(config, is_corrected=False)
                was_killed = self.end_kill()
                self.was_killed |= was_killed
                if was_killed and not Facts.read(self.database).is_finalized and self.rng.random() < 0.3:
                    self.take_back()
        self.correct()
        self.approved = config if trouble[0] != "file" or trouble[1] == "unit test" else None
        return is_green

    def take_back(self) -> None:
        record = self.launch(APPLY, take_back=True)
        if self.is_green(record):
            kept = {name for name, model in self.project.models.items() if model.forward_only}
            for difference in Facts.read(self.database).differences(self.before, kept=kept):
                self.fault("half-way", difference)


# -- the command -----------------------------------------------------------------------------------


def try_story(seed: int, engine: str, folder: Path, servers: Servers) -> Story:
    rng = random.Random(seed)
    days = [str(today() - timedelta(days=before)) for before in range(DAYS, 0, -1)]
    first = draw_project(rng)
    project, changes = draw_change(rng, first)
    with servers.database(engine, folder / "shop") as database:
        database.create_tables({"a": {day: [(k, rng.randint(1, 99)) for k in rng.sample(range(9), 2)] for day in days}})
        files, preview = files_of(first, database, days), {"environment": "pr_1"}
        with planned_shop(folder, files, planned_at=None, deploy=True, preview=preview) as shop:
            story = Story(shop, database, rng, days, first, project, changes)
            story.log += [*map(describe, project.models.values()), f"change: {', '.join(changes)}"]
            with story.to_its_end():
                story.apply_to_twin()
                story.act()
            if story.faults:
                print(*story.expected, *story.done(), sep="\n", file=sys.stderr)
    return story


def files_of(project: Project, database: Database, days: list[str]) -> dict[str, str]:
    return {**project.files(days), "config.py": project.hooked_config(database.config)}


def describe(model: Model) -> str:
    return f"{model.name}: {model.kind} of {model.reads}, audits {[audit.name for audit in model.audits]}"


if __name__ == "__main__":
    tell(__doc__, try_story, ("duckdb", "postgres"))
