"""The main job, end to end, on embedded DuckDB: `make demo`.

The demo works in `.demo/` with the commands that a user types. It checks itself: it compares the outcomes of each run
with the intervals in the SQLMesh state. Exit status 0 means that all checks passed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
import warnings
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb

warnings.simplefilter("ignore")  # Dagster warns about its own beta features
import dagster as dg  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DEMO = ROOT / ".demo"
LOGS = DEMO / "logs"
PROJECT = DEMO / "analytics"  # a Dagster project
SHOP = PROJECT / "sqlmesh_project"  # the scaffolder creates the SQLMesh project here
BIN = Path(sys.executable).parent  # not resolved: a virtual environment's interpreter is a link
WIDTH = 120


def main() -> None:
    started = time.monotonic()
    title("Set-up: a Dagster project, a SQLMesh project in it, and its first plan, which computes nothing.")
    prepare()
    run("dg scaffold defs dg_sqlmesh_component.SQLMeshProjectComponent shop --json-params '{\"init\": true}'", PROJECT)
    run("sqlmesh plan --skip-backfill --auto-apply --no-prompts", SHOP)
    models = everything_is_pending()
    nothing_is_pending(models)
    an_audit_fails(models)
    title(f"All checks passed in {time.monotonic() - started:.0f} seconds. Look at the result in the browser:")
    print('export DAGSTER_HOME="$PWD/.demo/dagster_home"', f'PATH="$PWD/{os.path.relpath(BIN, ROOT)}:$PATH"')
    print(f"cd {PROJECT.relative_to(ROOT)} && dg dev\n")
    print(f"It is safe to run `sqlmesh` in {SHOP.relative_to(ROOT)} in the meantime: Dagster does not hold the")
    print("DuckDB file between runs. To fix the third act, type this there and materialize everything again:\n")
    print('sqlmesh fetchdf "CREATE OR REPLACE TABLE raw.orders AS SELECT DISTINCT * FROM raw.orders"')


# -- the three acts -------------------------------------------------------------------------------


def everything_is_pending() -> set[str]:
    """Run everything for the first time. Returns every model of the project."""
    title("1. The first run computes everything. One Dagster run is one SQLMesh run.")
    models, complete = intervals()
    require(bool(models) and not complete, f"The plan must compute nothing, but it computed {complete}.")
    rows, _ = launch(1)
    require_outcomes(rows, dict.fromkeys(models, "executed"))
    empty = [row.model for row in rows if not row.metadata.get("dagster/row_count")]
    require(not empty, f"Each model must have rows, but these have none, or they were not counted: {empty}")
    warned = {row.model: row.checks["warned"] for row in rows if row.checks["warned"]}
    large = "unusually_large_order_threshold_250"
    require(warned == {"core.daily_orders": [large]}, f"One audit must warn, but: {warned}")
    print()
    newest = query("SELECT MAX(order_date) FROM core.daily_orders")
    require(newest == today() - timedelta(days=1), f"core.daily_orders must reach yesterday, but ends on {newest}.")
    left, _ = intervals()
    require(not left, f"After the run nothing must be pending, but {left} are.")
    return models


def nothing_is_pending(models: set[str]) -> None:
    title("2. The same again. Nothing is pending, so nothing is executed, and each model says why.")
    rows, _ = launch(2)
    require_outcomes(rows, dict.fromkeys(models, "up to date"))
    silent = [row.model for row in rows if not row.why]
    require(not silent, f"These models do not say why they were not executed: {silent}")


def an_audit_fails(models: set[str]) -> None:
    title("3. A colleague adds two models and plans them, as if two days ago. Then an order lands a second time.")
    for path in sorted((HERE / "colleague").rglob("*.sql")):
        print(f"+ {(SHOP / 'models' / path.relative_to(HERE / 'colleague')).relative_to(ROOT)}")
    shutil.copytree(HERE / "colleague", SHOP / "models", dirs_exist_ok=True)
    run("sqlmesh plan --auto-apply --no-prompts --execution-time '2 days ago'", SHOP)
    query(f"INSERT INTO raw.orders FROM raw.orders WHERE ordered_at < '{today()}' ORDER BY ordered_at DESC LIMIT 1")
    pending, _ = intervals()
    bad = {"core.invoices": "audit failed", "marts.invoiced_by_country": "blocked"}
    require(pending == bad.keys(), f"Only the new models must be pending, but {pending} are.")
    rows, failures = launch(3, must_fail=True)
    require_outcomes(rows, {**dict.fromkeys(models, "up to date"), **bad})
    require(len(failures) == 1, f"There must be one Failure, but there are {len(failures)}.")
    print(f"\nDagster's one Failure:\n{textwrap.indent(failures[0], '  | ')}\n")
    unnamed = [name for name in [*bad, "unique_values"] if name not in failures[0]]
    require(not unnamed, f"The Failure does not name {unnamed}.")
    left, _ = intervals()
    require(left == pending, f"What failed and what was blocked must still be pending, but {left} are.")


# -- what Dagster recorded ------------------------------------------------------------------------


@dataclass
class Row:
    """One model in one run, as recorded in Dagster's event log."""

    model: str
    outcome: str
    metadata: dict[str, Any]
    why: str | None
    checks: dict[str, list[str]] = field(default_factory=lambda: {"passed": [], "warned": [], "failed": []})
    carried_over: bool = False

    def cells(self) -> list[str]:
        seconds = self.metadata.get("sqlmesh/seconds")
        passed = len(self.checks["passed"])
        checks = [f"{passed} passed"] if passed else []
        checks += [f"{word}: {', '.join(self.checks[word])}" for word in ("warned", "failed") if self.checks[word]]
        checks += ["audits carried over"] if self.carried_over else []
        return [
            self.model,
            self.outcome,
            self.metadata.get("sqlmesh/intervals", "-"),
            str(self.metadata.get("dagster/row_count", "-")),
            "-" if seconds is None else f"{seconds:.2f}",
            "; ".join(checks) or "-",
        ]


def launch(number: int, must_fail: bool = False) -> tuple[list[Row], list[str]]:
    """Run everything in Dagster and print the table. Returns its rows, and the texts of the steps' failures."""
    run("dg launch --assets 'kind:sqlmesh'", PROJECT, must_fail)
    with dg.DagsterInstance.get() as instance:
        runs = instance.get_runs()  # the latest first
        require(len(runs) == number, f"Dagster must have recorded {number} runs, but has {len(runs)}.")
        require(runs[0].is_success is not must_fail, f"Dagster reports the run as {runs[0].status.value}.")
        events = instance.all_logs(runs[0].run_id)
    table = [row for row in map(read_model, events) if row]
    rows = {row.model: row for row in table}
    require(len(rows) == len(table), f"Each model must be recorded once, but: {sorted(row.model for row in table)}")
    for evaluation in filter(None, (event.asset_check_evaluation for event in events)):
        row = rows[".".join(evaluation.asset_key.path)]
        bad = "warned" if evaluation.severity is dg.AssetCheckSeverity.WARN else "failed"
        row.checks["passed" if evaluation.passed else bad].append(evaluation.check_name)
        row.carried_over |= "sqlmesh/carried_over" in evaluation.metadata
    print_table(table)
    step_events = [event.dagster_event for event in events if event.dagster_event]
    failures = [event.step_failure_data for event in step_events if event.is_step_failure]
    return table, [
        str(failure.user_failure_data.description if failure.user_failure_data else failure.error)
        for failure in failures
    ]


def read_model(event: dg.EventLogEntry) -> Row | None:
    """Return the row of a materialization or observation, None for other events."""
    asset_event = event.asset_materialization or event.asset_observation
    if asset_event is None:
        return None
    model, why = ".".join(asset_event.asset_key.path), asset_event.description
    metadata: dict[str, Any] = {name: value.value for name, value in asset_event.metadata.items()}
    outcome = metadata.get("sqlmesh/status", "executed")
    materialized = event.asset_materialization is not None
    require(materialized == (outcome == "executed"), f"{model} is {outcome}, but materialized: {materialized}.")
    if "sqlmesh/reason" in metadata:
        due = metadata.get("sqlmesh/next_due")
        due = f"next due {datetime.fromtimestamp(due, timezone.utc):%Y-%m-%d %H:%M} UTC" if due else None
        why = "; ".join(filter(None, [metadata["sqlmesh/reason"], due]))
    return Row(model, outcome, metadata, why)


def print_table(rows: list[Row]) -> None:
    lines = [["model", "outcome", "intervals (UTC)", "rows", "seconds", "checks"], *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in list(zip(*lines))[:-1]]
    indent = " " * (sum(widths) + 2 * len(widths))
    print()
    for line, row in zip(lines, [None, *rows]):
        start = "".join(cell.ljust(width + 2) for cell, width in zip(line, widths))
        print(textwrap.fill(line[-1], WIDTH, initial_indent=start, subsequent_indent=indent))
        if row is None:
            print("-" * WIDTH)
        elif row.why:
            print(textwrap.fill(row.why, WIDTH, initial_indent="    ", subsequent_indent="    "))


# -- SQLMesh's own state, and the data ------------------------------------------------------------


def intervals() -> tuple[set[str], set[str]]:
    """Ask SQLMesh for the models with pending intervals and for the complete models."""
    output = run("sqlmesh check_intervals", SHOP)
    complete, _, missing = output.partition("Missing Intervals")
    pending, done = (set(re.findall(r"^\W+ (\w+\.\w+)(?::|\s*$)", part, re.MULTILINE)) for part in (missing, complete))
    require(bool(pending | done), f"The demo cannot read the output of SQLMesh:\n{output}")
    print(textwrap.fill(f"Pending intervals: {', '.join(sorted(pending)) or 'none'}.", WIDTH, initial_indent="  "))
    return pending, done - {"raw.orders"}  # external: SQLMesh reads it and never runs it


def query(sql: str) -> Any:
    """Read or change the warehouse directly, because no process holds the file between runs. Returns a single value."""
    print(f"duckdb> {sql}")
    with duckdb.connect(str(SHOP / "warehouse.duckdb")) as connection:
        answer = connection.execute(sql)
        [column] = [column for column, *_ in answer.description]
        [[value]] = answer.fetchall()
    print(f"{column}: {value}")
    return value


# -- commands and checks --------------------------------------------------------------------------


def prepare() -> None:
    """Start from scratch with the files of an empty Dagster project."""
    shutil.rmtree(DEMO, ignore_errors=True)
    shutil.copytree(HERE / "start", DEMO)
    LOGS.mkdir()
    for name in [name for name in os.environ if name.startswith(("DAGSTER_", "SQLMESH_"))]:
        del os.environ[name]
    os.environ.update(NO_COLOR="1", COLUMNS="200", PYTHONUTF8="1", DAGSTER_HOME=str(DEMO / "dagster_home"))
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"


def run(command: str, folder: Path, must_fail: bool = False) -> str:
    """Run a command in a folder. Its output goes to a log file and is printed if the exit status is unexpected."""
    print(f"{folder.relative_to(ROOT)} $ {command}", flush=True)
    words = shlex.split(command)
    log = LOGS / f"{len(list(LOGS.iterdir())) + 1:02}-{words[0]}-{words[1]}.log"
    with log.open("wb") as file:
        status = subprocess.call(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    output = log.read_text(encoding="utf-8", errors="replace")
    if (status != 0) is not must_fail:
        print(textwrap.indent(output, "  | "))
        wrong = "succeeded, but had to fail" if must_fail else f"failed with exit status {status}"
        require(False, f"`{command}` {wrong}. Its output is above and in {log.relative_to(ROOT)}.")
    return output


def require_outcomes(rows: list[Row], expected: dict[str, str]) -> None:
    actual = {row.model: row.outcome for row in rows}
    models = sorted(model for model in {*expected, *actual} if expected.get(model) != actual.get(model))
    wrong = [f"{model} must be {expected.get(model)}, but is {actual.get(model)}." for model in models]
    require(not wrong, "\n".join(wrong))


def require(truth: bool, message: str) -> None:
    if not truth:
        midnight = "\nMidnight UTC has passed since the start, so new intervals are pending. Start the demo again."
        sys.exit(f"\nThe demo failed. {message}{midnight if today() != STARTED_ON else ''}")


def today() -> date:
    return datetime.now(timezone.utc).date()


def title(text: str) -> None:
    print(f"\n{'=' * WIDTH}\n{text}\n")


STARTED_ON = today()

if __name__ == "__main__":
    main()
