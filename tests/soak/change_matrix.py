"""Try each cell of the matrix of changes for real, and compare each row with what the report of the plan has named.

    python tests/soak/change_matrix.py --cells 'from full' 'time: *'

A cell (tests/change_cells.py) is a change of one model with readers of several kinds. Several cells stand in one
project. Prod is planned, the change is planned and applied with the command of its report, in one plan or in two. A run
follows on each of the two next days, and one after the tick of a weekly reader. The rows of each table are compared:
before the apply, after it, after the runs, and with those of a fresh project of the same day. If a plan or an apply
fails, its cells are tried apart.

It checks, for each table:

- **goes**: a row that prod shows, and does not show after the apply or the runs, is named by the report.
- **stays**: no row that is named stays, and something goes if rows are named.
- **refused**: if a row is gone after the runs, the plan was refused without an option.
- **lacks**: a row that a fresh project shows is there after the runs, or the report or the check of the intervals has
  named it. A reader that ticks before its source never has the newest rows (docs/wait.md), so they do not count.
- **check**, **outdated**: if the check or the report says that rows lack, one does.
- **old value**: a row has the value of the new definition, or the report says that prod keeps the rows.
- **double**: no row is there twice, except those that the report names.
- **command**: the command of the report can be applied, or the plan is refused by name.
"""

import argparse
import fnmatch
import itertools
import json
import os
import random
import re
import shlex
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import change_cells
import dagster as dg
import duckdb
import worker_zygote
from change_cells import NOW, ROWS, Cell, region
from clock import MovedClock
from engine.plan_jobs import APPLY, PLAN, executed, report_of
from harness import OWN_MATERIALIZATION, RunRecord, Shop, plan, planned_shop, query, write_project

CONFIG = """
gateways:
  local:
    connection:
      type: duckdb
      database: warehouse.duckdb
default_gateway: local
disable_anonymized_analytics: true
{top}
model_defaults:
  dialect: duckdb
  start: '{start}'
{defaults}
"""
MOST_CELLS = 14
"""How many cells stand in one project."""
LAST_WEEKLY_TICK = datetime(2026, 3, 8)
"""Before `NOW`."""

Rows = Counter[tuple[int, int]]
"""How often a table shows the row with this id and value. It is empty if there is no table."""
ANCHOR = "MODEL (name t.anchor, kind FULL); SELECT 1 AS x"
"""A project whose models are all embedded has no assets."""


def config(text: str, start: str) -> str:
    top, defaults = ("", text) if text.startswith(" ") else (text, "")
    return CONFIG.format(top=top, start=start, defaults=defaults)


def files_of(cells: Mapping[str, Cell], files: Callable[[Cell, str], Mapping[str, str]]) -> dict[str, str]:
    """The files of a project, of the files of each cell by the name of its model."""
    found = {"seeds/rows.csv": change_cells.seed_file(), "materializations/own.py": OWN_MATERIALIZATION}
    found["models/anchor.sql"] = ANCHOR
    for prefix, cell in cells.items():
        found |= files(cell, prefix)
    return found


def config_of(cells: Mapping[str, Cell], *, is_after: bool) -> str:
    setting = next(iter(cells.values())).setting
    return config(setting.after, setting.start_after) if is_after else config(setting.before, setting.start)


@dataclass
class Observed:
    """What was seen of one cell. Keys are names of tables.

    Attributes:
        shown: The rows of each table: before the apply, after it, and after each run.
        fresh: The rows of a fresh project. Empty if SQLMesh cannot plan such a project.
        planned: The table's entries in the reports of the plans.
        refused: The models of refusals of kind `lost_intervals`.
        checks: The results of `sqlmesh_intervals_complete` that have not passed at the end.
        trouble: What has failed.
        refusal: Why the change was not applied: it was refused by name, or SQLMesh cannot plan the project before it.
    """

    shown: dict[str, list[Rows]] = field(default_factory=lambda: defaultdict(list))
    fresh: dict[str, Rows] = field(default_factory=dict)
    planned: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    refused: set[str] = field(default_factory=set)
    checks: dict[str, str] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)
    refusal: str = ""


class Named:
    """The rows that reports name for a table, by its entries."""

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        self.entries = entries

    def all_of(self, *keys: str) -> list[Any]:
        return [value for entry in self.entries for key in keys for value in entry.get(key) or ()]

    def _of(self, *keys: str) -> set[int]:
        ranges = self.all_of(*keys)
        return {
            number
            for number, at in ROWS.items()
            if at is not None
            and any(at >= instant(start, datetime.min) and at < instant(end, datetime.max) for start, end in ranges)
        }

    @property
    def lost(self) -> set[int]:
        # The report calls an interval without start and end "all rows".
        is_named = [None, None] in self.all_of("lost_intervals") or self._any("lost_without_time")
        without_time = {number for number, at in ROWS.items() if at is None and is_named}
        return self._of("lost_intervals", "lost_upstream") | without_time

    @property
    def outdated(self) -> set[int]:
        """Those of which the report says that nothing computes them."""
        return self._of("left_outdated")

    @property
    def appended_again(self) -> set[int]:
        return self._of("appended_again")

    @property
    def is_removed(self) -> bool:
        return any(entry.get("change") == "removed" for entry in self.entries)

    @property
    def keeps_rows(self) -> bool:
        return self._any("kept_rows")

    def _any(self, key: str) -> bool:
        return any(entry.get(key) for entry in self.entries)


def instant(text: str | None, default: datetime) -> datetime:
    return datetime.fromisoformat(text[:19]) if text else default


def ids(rows: Collection[tuple[int, int]]) -> set[int]:
    return {number for number, _ in rows}


def in_regions(numbers: Collection[int]) -> str:
    counts = Counter(region(ROWS[number]) for number in numbers)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def judge(cell: Cell, seen: Observed) -> list[str]:
    """Return what is wrong, with the tables for which it is."""
    tables = defaultdict(list)
    for name, shown in seen.shown.items():
        if len(shown) == len(cell.run_days) + 1 + len(cell.setting.selects):
            for fault in judge_table(cell, seen, name):
                tables[fault].append(name.partition("_")[2] or "model")
    return [*seen.trouble, *(f"[{', '.join(names)}] {fault}" for fault, names in tables.items())]


def judge_table(cell: Cell, seen: Observed, name: str) -> Iterator[str]:
    shown = [ids(rows) for rows in seen.shown[name]]
    of_plans, before, last = shown[: -len(cell.run_days)], shown[0], shown[-1]
    fresh = ids(seen.fresh.get(name, ()))
    entries = seen.planned.get(name, [])
    named = Named(entries)
    if named.is_removed:
        return
    gone = {row for now, later in itertools.pairwise(of_plans) for row in now - later}
    gone_later = of_plans[-1] - last
    if unnamed := gone - named.lost:
        yield f"goes: {in_regions(unnamed)}, not named; back after a run: {in_regions(unnamed & last)}"
    if unnamed := gone_later - gone - named.lost:
        yield f"goes after the apply: {in_regions(unnamed)}, not named"
    of_source = fresh or {*ROWS}  # SQLMesh cannot plan each project from nothing
    if kept := set.intersection(*shown) & named.lost:
        yield f"stays: {in_regions(kept)}, named"
    elif named.lost & model_showed(seen, name) and before and not gone | gone_later | (named.lost & (of_source - last)):
        yield "stays: nothing goes, and rows are named"
    causes = {name, *map(short, named.all_of("loses_with"))}
    if any("lost_upstream" in entry for entry in entries):
        causes |= {name.partition("_")[0]}
    if (lost := before - last) and not causes & seen.refused:
        yield f"refused: {in_regions(lost)} for good, not refused"
    lacking = fresh - last - before - named.lost - named.outdated - never_read(cell, seen, name)
    if lacking and name not in seen.checks:
        yield f"lacks: {in_regions(lacking)}"
    if fresh and not {*seen.fresh[name]} - {*seen.shown[name][-1]}:
        yield from judge_needless(seen, name, named)
    yield from judge_values(cell, seen, name, last)


def judge_needless(seen: Observed, name: str, named: Named) -> Iterator[str]:
    """What is wrong if a table that lacks no row is said to lack some."""
    if "Outdated" in seen.checks.get(name, ""):
        yield f"check: says that rows lack, and none does: {seen.checks[name]}"
    if outdated := Named(named.entries[-1:]).outdated:  # a later plan may have computed it again
        yield f"outdated: {in_regions(outdated)}, and none lacks"


def model_showed(seen: Observed, name: str) -> set[int]:
    """The rows that a reader may have read. Ranges are named whether they have rows or not (docs/plan-reference.md)."""
    prefix, _, reader = name.partition("_")
    return ids(seen.shown[prefix][0]) or {*ROWS} if reader else {*ROWS}


def read_by(cell: Cell, name: str) -> Iterator[str]:
    """The tables of the cell that a table reads, directly or through others."""
    prefix, _, reader = name.partition("_")
    if reader:
        source = cell.readers[reader].reads.strip("{}")
        parent = f"{prefix}_{source}" if source in cell.readers else prefix
        yield from (parent, *read_by(cell, parent))


def judge_values(cell: Cell, seen: Observed, name: str, last: set[int]) -> Iterator[str]:
    fresh, rows = seen.fresh.get(name, Counter()), seen.shown[name]
    old = {row for row in fresh if row[0] in last} - {*rows[-1]}
    # A view shows the rows that the model keeps, and a reader has computed its intervals from them.
    keeps_rows = any(Named(seen.planned.get(of, [])).keeps_rows for of in (name, *read_by(cell, name)))
    if old and not keeps_rows and "forward_only" not in cell.after.options:
        yield f"old value: {in_regions(ids(old))}"
    often = {
        row[0]
        for row, count in rows[-1].items()
        # SQLMesh never deletes the rows of a partition without a name.
        if ROWS[row[0]] is not None and count > max(fresh[row], rows[0][row], 1)
    }
    for of in (name, *read_by(cell, name)):
        often -= Named(seen.planned.get(of, [])).appended_again
    if often:
        yield f"double: {in_regions(often)}"


def never_read(cell: Cell, seen: Observed, name: str) -> set[int]:
    """Rows that a reader lacks in every project, because its cron ticks before that of a table that it reads."""
    prefix, _, reader = name.partition("_")
    if any("weekly" in parent for parent in read_by(cell, name)):
        return rows_since(LAST_WEEKLY_TICK)
    ticks = {"@hourly": 0, "": 1}
    model = 0 if cell.is_hourly else 2 if re.search("20 \\*|weekly|monthly|Tokyo", cell.after.head) else 1
    if ticks["@hourly" if reader == "hourly" else ""] >= model:
        return set()
    lacked = {*ROWS} - ids(seen.shown[prefix][0]) if cell.before == cell.after else set()
    return rows_since(NOW.replace(hour=0)) | lacked


def rows_since(instant: datetime) -> set[int]:
    return {number for number, at in ROWS.items() if at is not None and at >= instant}


class NotAppliedError(Exception):
    """The change of these cells was refused, its apply has failed, or SQLMesh cannot plan the project before it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


class Sheet:
    """Cells in one project. The key of a cell is the name of its model."""

    def __init__(self, cells: Mapping[str, Cell], stack: ExitStack) -> None:
        self.plans = range(len(next(iter(cells.values())).setting.selects))
        self.cells, self.clock = cells, MovedClock(NOW.replace(tzinfo=timezone.utc))
        self.seen = {prefix: Observed() for prefix in cells}
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        files, tables = files_of(cells, Cell.files_before), {change_cells.TABLE: change_cells.sql_of_source()}
        self.shop = stack.enter_context(
            planned_shop(
                folder, files, config_of(cells, is_after=False), tables, None, deploy=True, intervals_check=True
            )
        )

    def look(self) -> None:
        """Note what each table shows."""
        with duckdb.connect(str(self.shop.project / "warehouse.duckdb"), read_only=True) as connection:
            for prefix, cell in self.cells.items():
                for name in cell.tables(prefix):
                    self.seen[prefix].shown[name].append(shown(connection, name))

    def plan_change_and_run(self) -> None:
        with self.clock.shown():
            try:
                self.shop.plan(at="now")
            except AssertionError as error:
                raise NotAppliedError("impossible", str(error)) from error
            self.look()
            for number in self.plans:
                self.change(number)
                self.apply(self.report(number))
                self.look()
            self.shop.refresh()
        for days in next(iter(self.cells.values())).run_days:
            self.clock.move_to(NOW.replace(tzinfo=timezone.utc) + timedelta(days=days))
            with self.clock.shown():
                record = self.shop.launch()
                self.look()
        self.note(record)

    def change(self, number: int) -> None:
        for path in (self.shop.project / "models").iterdir():
            path.unlink()
        files = files_of(self.cells, lambda cell, prefix: cell.files_of_plan(prefix, number))
        write_project(self.shop.project, files, config_of(self.cells, is_after=True))

    def report(self, number: int) -> dict[str, Any]:
        """Plan the change, and note what the report says."""
        selected = [name for prefix, cell in self.cells.items() for name in cell.selected(prefix, number)]
        record = launch(self.shop, PLAN, {"select": selected} if selected else {})
        if record.status is not dg.DagsterRunStatus.SUCCESS:
            raise NotAppliedError("the plan fails", failure(record))
        report = report_of(record)
        entries = {short(entry["name"]): entry for entry in [*report["catch_up"], *report["models"]]}
        refusals = [refusal for refusal in report["refusals"] if refusal["kind"] == "lost_intervals"]
        refused = {short(model) for refusal in refusals for model in refusal["models"]}
        for prefix, cell in self.cells.items():
            seen = self.seen[prefix]
            for name in cell.tables(prefix):
                if name in entries:
                    seen.planned[name].append(entries[name])
            seen.refused |= refused & {*cell.tables(prefix)}
        return report

    def apply(self, report: dict[str, Any]) -> None:
        if report["command"] is None:
            if report["refusals"]:
                raise NotAppliedError("refused", json.dumps(report["refusals"]))
            return
        command = json.loads(shlex.split(report["command"])[-1])["ops"][APPLY]["config"]
        record = launch(self.shop, APPLY, command)
        if record.status is not dg.DagsterRunStatus.SUCCESS:
            raise NotAppliedError("command: the apply fails", failure(record))

    def note(self, record: RunRecord) -> None:
        """Note what the last run says."""
        for check, evaluation in record.checks.items():
            asset, name = check.split(":")
            table = asset.split("/")[-1]
            if name == "sqlmesh_intervals_complete" and not evaluation.passed:
                self.seen[table.partition("_")[0]].checks[table] = str(evaluation.description)
        if record.status is not dg.DagsterRunStatus.SUCCESS:
            for prefix in culprits_in(self.cells, failure(record)):
                self.seen[prefix].trouble.append(f"the last run fails: {record.failures}")


def launch(shop: Shop, job: str, run_config: Mapping[str, Any]) -> RunRecord:
    shop.load_for_launch()
    return shop.run_record(executed(shop, shop.instance, job, dict(run_config)))


def failure(record: RunRecord) -> str:
    return "\n".join([*record.failures, record.log])


def short(name: str) -> str:
    return name.replace('"', "").split(".")[-1]


def shown(connection: duckdb.DuckDBPyConnection, name: str) -> Rows:
    try:
        return Counter(connection.sql(f"SELECT id, v FROM t.{name}").fetchall())
    except duckdb.CatalogException:
        return Counter()


FRESH: dict[Any, dict[str, Rows]] = {}
"""The rows of fresh projects, by definition: those of the model and of each reader."""


def definition_of(cell: Cell) -> Any:
    return tuple(cell.files_after("c").items()), cell.setting.after, cell.setting.start_after, cell.run_days


def compute_fresh(cells: Mapping[str, Cell]) -> None:
    """Plan a fresh project of the definitions that none had before."""
    new = {definition_of(cell): prefix for prefix, cell in cells.items() if definition_of(cell) not in FRESH}
    while new:
        left = {prefix: cells[prefix] for prefix in new.values()}
        try:
            rows = fresh_rows(left)
        except AssertionError as error:  # SQLMesh cannot compute a reader of a table without intervals
            missing = {*re.findall(r"name t__(c\d+)\w* does not exist", str(error))} & {*left}
            missing = missing or {*culprits_in(left, str(error).strip().splitlines()[-1])}
            if not missing:
                raise
            rows = {prefix: {} for prefix in missing}
        for definition, prefix in [*new.items()]:
            if prefix in rows:
                FRESH[definition] = rows[prefix]
                del new[definition]


def fresh_rows(cells: Mapping[str, Cell]) -> dict[str, dict[str, Rows]]:
    days = next(iter(cells.values())).run_days[-1]
    clock = MovedClock(NOW.replace(tzinfo=timezone.utc) + timedelta(days=days, minutes=1))
    with clock.shown(), tempfile.TemporaryDirectory() as folder:
        project = write_project(
            Path(folder).resolve(), files_of(cells, Cell.files_after), config_of(cells, is_after=True)
        )
        query(project, "CREATE SCHEMA raw")
        query(project, f"CREATE TABLE {change_cells.TABLE} AS {change_cells.sql_of_source()}")
        plan(project, at="now")
        with duckdb.connect(str(project / "warehouse.duckdb"), read_only=True) as connection:
            return {
                prefix: {name.removeprefix(prefix): shown(connection, name) for name in cell.tables(prefix)}
                for prefix, cell in cells.items()
            }


# -- the cells -------------------------------------------------------------------------------------


def try_cells(cells: Mapping[str, Cell]) -> Iterator[tuple[Cell, Observed, list[str]]]:
    """Try cells in one project, and apart if that fails."""
    with ExitStack() as stack:
        sheet = Sheet(cells, stack)
        try:
            sheet.plan_change_and_run()
        except NotAppliedError as error:
            if len(cells) > 1:
                yield from try_apart(cells, error.text)
                return
            [seen] = sheet.seen.values()
            if error.kind in ("refused", "impossible"):
                seen.refusal = str(error)
            else:
                seen.trouble.append(f"{error.kind}: {error.text[:1500]}")
        except Exception:  # noqa: BLE001  # other cells are tried
            if len(cells) > 1:
                yield from try_apart(cells, "")
                return
            [seen] = sheet.seen.values()
            seen.trouble.append(traceback.format_exc(limit=-3))
    compute_fresh(cells)
    for prefix, cell in cells.items():
        seen = sheet.seen[prefix]
        seen.fresh = {f"{prefix}{reader}": rows for reader, rows in FRESH[definition_of(cell)].items()}
        yield cell, seen, judge(cell, seen)


def culprits_in(cells: Mapping[str, Cell], text: str) -> dict[str, Cell]:
    """The cells of which a failure names a table."""
    return {prefix: cell for prefix, cell in cells.items() if re.search(rf"\b(t__)?{prefix}(\b|_)", text)}


def try_apart(cells: Mapping[str, Cell], text: str) -> Iterator[tuple[Cell, Observed, list[str]]]:
    culprits = culprits_in(cells, text)
    if not culprits or len(culprits) == len(cells):
        names = [*cells]
        culprits = {name: cells[name] for name in names[: len(names) // 2]}
    yield from try_cells({name: cell for name, cell in cells.items() if name not in culprits})
    yield from try_cells(culprits)


def sheets(cells: Sequence[Cell], size: int) -> Iterator[dict[str, Cell]]:
    """Cells with the same setting and runs, as many as stand in one project."""
    by_setting = defaultdict(list)
    for number, cell in enumerate(cells):
        by_setting[cell.setting, cell.run_days].append((f"c{number:03}", cell))
    for numbered in by_setting.values():
        for first in range(0, len(numbered), size):
            yield dict(numbered[first : first + size])


def chosen_cells(patterns: Collection[str]) -> list[Cell]:
    def is_chosen(cell: Cell) -> bool:
        return any(fnmatch.fnmatch(text, pattern) for pattern in patterns for text in (cell.name, cell.group))

    return [*filter(is_chosen, change_cells.all_cells())]


def sample(cells: Sequence[Cell], number: int, seed: int) -> list[Cell]:
    """Cells of as many projects as `number`, drawn at random."""
    projects = [*sheets(cells, MOST_CELLS)]
    drawn = random.Random(seed).sample(projects, min(number, len(projects)))
    return [cell for project in drawn for cell in project.values()]


def try_all(cells: Sequence[Cell], size: int = MOST_CELLS) -> Iterator[tuple[Cell, Observed, list[str]]]:
    for sheet in sheets(cells, size):
        yield from try_cells(sheet)


def line(cell: Cell, seen: Observed, faults: Sequence[str]) -> str:
    word = "wrong" if faults else "not applied" if seen.refusal else "right"
    return f"| {cell.name} | {word} | {'; '.join(faults) or ' '.join(seen.refusal.split())[-300:]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=["*"], help="patterns of names or groups of cells")
    parser.add_argument("--size", type=int, default=MOST_CELLS, help="how many cells stand in one project")
    parser.add_argument("--projects", type=int, help="try the cells of so many projects, drawn at random")
    parser.add_argument("--seed", type=int, default=1, help="of the drawn projects")
    parser.add_argument("--json", type=Path, help="a file for what was seen")
    arguments = parser.parse_args()
    begin, cells, words = time.monotonic(), chosen_cells(arguments.cells), Counter[str]()
    if arguments.projects:
        cells = sample(cells, arguments.projects, arguments.seed)
    os.environ["MAX_FORK_WORKERS"] = "1"  # a fork loads a few models faster than its own forks do
    with worker_zygote.forked_workers():
        try_and_print(cells, arguments, words)
    print(f"{len(cells)} cells: {dict(words)}, {time.monotonic() - begin:.0f} s")
    sys.exit(1 if words["wrong"] else 0)


def try_and_print(cells: Sequence[Cell], arguments: argparse.Namespace, words: Counter[str]) -> None:
    print("| cell | | |\n|---|---|---|")
    for cell, seen, faults in try_all(cells, arguments.size):
        text = line(cell, seen, faults)
        words[text.split(" | ")[1]] += 1
        print(text, flush=True)
        if arguments.json:
            with arguments.json.open("a") as file:
                file.write(json.dumps({"cell": cell.name, "faults": faults, **as_json(seen)}) + "\n")


def as_json(seen: Observed) -> dict[str, Any]:
    return {"planned": seen.planned, "checks": seen.checks, "refused": sorted(seen.refused), "refusal": seen.refusal}


if __name__ == "__main__":
    main()
