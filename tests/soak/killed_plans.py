"""Kill applies, second commits and closes at random statements: no row of prod is lost, and nothing is left.

    python tests/soak/killed_plans.py --kills 100 --seed 1

Each trial starts from the same project on DuckDB or PostgreSQL: prod shows its first commit, a preview the second one.
SQLMesh's process kills itself (SIGKILL) before or after a random statement that writes. Then come a preview or none, a
plan, an apply, a run and a close. Prod and the preview have the rows of a twin that was never killed, and after the
close the state and the warehouse have what those of the twin have. The folder of a failed trial is kept.
"""

import argparse
import random
import re
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
import worker_zygote
from harness import CONFIG, RunRecord, Shop, planned_shop, processes_in, wait_until
from postgres import new_postgres_server

PLAN, APPLY = "sqlmesh_shop_plan", "sqlmesh_shop_apply"
PREVIEW, CLOSE = "sqlmesh_shop_preview", "sqlmesh_shop_preview_close"
STORIES = {"apply": APPLY, "second commit": PREVIEW, "close": CLOSE}
ENGINES = ("duckdb", "postgres")

DAYS = "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1)"
KEPT = "kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true)"
FILES = {
    "models/base.sql": "MODEL (name t.base, kind VIEW); SELECT {id} AS id",
    "models/days.sql": f"MODEL (name t.days, {DAYS}); SELECT @start_ds::date AS day, {{id}} AS id",
    "models/kept.sql": f"MODEL (name t.kept, {KEPT}); SELECT @start_ds::date AS day, id FROM t.base",
    # SQLMesh computes these after it has promoted: they read t.kept, which only then has its new definition.
    "models/total.sql": "MODEL (name t.total, kind FULL); SELECT sum(b.id) AS id FROM t.kept AS k CROSS JOIN t.base b",
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id FROM t.total",
    "models/count.sql": "MODEL (name t.count, kind FULL); SELECT count(*) AS days, sum(id) AS id FROM t.days",
}
TABLES = tuple(Path(name).stem for name in FILES)
HOOK = '''
"""Log each statement that writes, and kill this process at the one that the file `kill` names."""

import itertools
import os
import re
import signal
from pathlib import Path

import yaml
from sqlmesh.core.config import Config
from sqlmesh.core.engine_adapter import EngineAdapter

FOLDER, NUMBERS, EXECUTE = Path(__file__).parent, itertools.count(1), EngineAdapter._execute
WRITES = re.compile(r"(/[*].*?[*]/)?[ ]*(CREATE|INSERT|DELETE|UPDATE|DROP|ALTER|MERGE|TRUNCATE)", re.IGNORECASE)


def execute(adapter, sql, *arguments, **options):
    if not WRITES.match(sql):
        return EXECUTE(adapter, sql, *arguments, **options)
    number, kill = next(NUMBERS), FOLDER / "kill"
    when = kill.read_text() if kill.exists() else ""
    with (FOLDER / "statements").open("a") as log:
        log.write(sql.replace(chr(10), " ")[:300] + chr(10))
    if when == f"before {number}":
        os.kill(os.getpid(), signal.SIGKILL)
    result = EXECUTE(adapter, sql, *arguments, **options)
    if when == f"after {number}":
        os.kill(os.getpid(), signal.SIGKILL)
    return result


EngineAdapter._execute = execute
config = Config.parse_obj(yaml.safe_load("""{config}"""))
'''
STAGES = (
    ("deletes intervals", r"(DELETE FROM|UPDATE) \S*_intervals"),
    ("records intervals", r"INSERT INTO \S*_intervals"),
    ("deletes versions", r"DELETE FROM \S*_snapshots"),
    ("records versions", r"INSERT INTO \S*_snapshots"),
    ("deletes the environment", r"DELETE FROM \S*_environment|DROP SCHEMA|UPDATE \S*_environments SET .?expiration_ts"),
    ("promotes", r"_environment|UPDATE \S*_snapshots|(CREATE|DROP)[^(]* VIEW|ALTER TABLE|schema_tmp"),
    ("drops tables", r"DROP TABLE"),
    ("computes", r""),
)
"""What SQLMesh does with a statement: the first row that matches."""


@dataclass
class Testbed:
    """A project, its database, and copies of the database by name."""

    shop: Shop
    query: Callable[[str], list[tuple[Any, ...]]]
    save: Callable[[str], object]
    restore: Callable[[str], object]
    expected: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def definitions(self) -> dg.Definitions:
        """All commits have the same models and dependencies."""
        return self.shop.refresh()

    def commit(self, number: int) -> None:
        for name, text in FILES.items():
            (self.shop.project / name).write_text(text.format(id=number))

    def launch(self, job: str, **config: Any) -> RunRecord:
        definition = self.definitions.resolve_job_def(job)
        run_config = {"ops": {job: {"config": config}}}
        run = definition.execute_in_process(instance=self.shop.instance, run_config=run_config, raise_on_error=False)
        return self.shop.run_record(run.run_id)

    def succeed(self, job: str, **config: Any) -> RunRecord:
        return self.launch(job, **config).succeeded()

    def digest(self) -> str:
        run = self.shop.instance.get_run_by_id(self.succeed(PLAN).run_id)
        assert run is not None
        return run.tags["sqlmesh/plan_digest"]

    def rows(self, schema: str = "t") -> dict[str, list[str]]:
        return {table: sorted(map(str, self.query(f"SELECT * FROM {schema}.{table}"))) for table in TABLES}

    def contents(self) -> dict[str, set[Any]]:
        """What the state and the warehouse have, except instants."""
        tables = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema LIKE '%t%'"
        return {
            "environments": set(self.query("SELECT name FROM sqlmesh._environments")),
            "versions": set(self.query("SELECT name, identifier FROM sqlmesh._snapshots")),
            "intervals": set(self.query("SELECT DISTINCT name, version, is_dev FROM sqlmesh._intervals")),
            "tables": {row for row in self.query(tables) if row[0] not in ("information_schema", "pg_catalog")},
        }

    def statements(self) -> list[str]:
        """The statements of the last job that wrote something, in order."""
        log = self.shop.project / "statements"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def twin(self) -> None:
        """Save the database of each start, and measure what an undisturbed twin of each end has."""
        self.save("prod")
        self.expected["rows", 1] = self.rows()
        for number in (2, 3):
            self.restore("prod")
            self.commit(number)
            self.succeed(APPLY, digest=self.digest())
            assert self.shop.launch().status is dg.DagsterRunStatus.SUCCESS
            self.expected["rows", number], self.expected["contents", number] = self.rows(), self.contents()
        self.restore("prod")
        for number in (2, 3):
            self.commit(number)
            self.statements()
            self.succeed(PREVIEW)
            self.expected["statements", "second commit"] = len(self.statements())
            self.expected["preview", number] = self.rows("t__pr_1")
            if number == 2:
                self.save("preview")
        for story in ("apply", "close"):
            self.restore("preview")
            self.commit(2)
            options = {"digest": self.digest()} if story == "apply" else {}
            self.statements()
            self.succeed(STORIES[story], **options)
            self.expected["statements", story] = len(self.statements())


@contextmanager
def create_testbed(engine: str, folder: Path) -> Iterator[Testbed]:
    """Plan the first commit as of now."""
    folder.mkdir()
    files = {name: text.format(id=1) for name, text in FILES.items()}
    options: dict[str, Any] = {"planned_at": None, "deploy": True, "preview": {"environment": "pr_1"}}
    if engine == "duckdb":
        hook = HOOK.replace("{config}", CONFIG)
        with planned_shop(folder, {**files, "config.py": hook}, **options) as shop:
            shop.plan(at=None)
            database = shop.project / "warehouse.duckdb"

            def copy(source: Path, target: Path) -> None:
                wait_until(lambda: not processes_in(shop.project))
                shutil.copy(source, target)

            testbed = Testbed(
                shop, shop.query, lambda name: copy(database, folder / name), lambda name: copy(folder / name, database)
            )
            testbed.twin()
            yield testbed
    else:
        with new_postgres_server() as server:
            server.query("CREATE DATABASE trial")
            hook = HOOK.replace("{config}", server.config("trial"))
            with planned_shop(folder, {**files, "config.py": hook}, **options) as shop:

                def replace(target: str, source: str) -> None:
                    server.query(f"DROP DATABASE IF EXISTS {target} WITH (FORCE)")
                    server.query(f"CREATE DATABASE {target} TEMPLATE {source}")

                def save(name: str) -> None:
                    wait_until(lambda: not processes_in(shop.project))
                    replace(f"saved_{name}", "trial")

                shop.plan(at=None)
                testbed = Testbed(
                    shop, lambda sql: server.query(sql, "trial"), save, lambda name: replace("trial", f"saved_{name}")
                )
                testbed.twin()
                yield testbed


def kill_one(testbed: Testbed, random_: random.Random) -> str:
    """Kill a job at a random statement, and go on. Return the story and the stage."""
    story = random_.choice(list(STORIES))
    testbed.restore("preview")
    testbed.commit(3 if story == "second commit" else 2)
    digest = testbed.digest() if story == "apply" else ""
    testbed.statements()
    kill = testbed.shop.project / "kill"
    number = random_.randint(1, testbed.expected["statements", story])
    kill.write_text(f"{random_.choice(['before', 'after'])} {number}")
    killed = testbed.launch(STORIES[story], **({"digest": digest} if digest else {}))
    kill_at = kill.read_text()
    kill.unlink()
    wait_until(lambda: not processes_in(testbed.shop.project))
    statement = testbed.statements()[-1]
    stage = "not at all" if killed.status is dg.DagsterRunStatus.SUCCESS else stage_of(statement)
    after = 2 if story == "apply" else random_.choice([2, 3])
    print(f"{story}: killed {kill_at} ({stage}: {statement[:90]}), then commit {after}", flush=True)
    go_on(testbed, story, after, digest, is_previewed=random_.random() < 1 / 3)
    return f"{story}: {stage}"


def stage_of(statement: str) -> str:
    statement = statement.replace('"', "")
    return next(stage for stage, pattern in STAGES if re.search(pattern, statement, re.IGNORECASE))


def go_on(testbed: Testbed, story: str, after: int, digest: str, *, is_previewed: bool) -> None:
    """Check prod, then preview, plan, apply, run and close, and check again after each."""
    expected = testbed.expected
    if story == "apply":
        now = testbed.rows()
        assert all(len(now[table]) >= len(rows) for table, rows in expected["rows", 1].items()), "prod lost rows"
    else:
        assert testbed.rows() == expected["rows", 1], "prod has changed before an apply"
    # Versions of a commit that was killed before it was shown belong to no environment.
    promoted = {plan for (plan,) in testbed.query("SELECT snapshots FROM sqlmesh._environments WHERE name = 'pr_1'")}
    testbed.commit(after)
    if digest:
        testbed.succeed(APPLY, digest=digest)
    elif is_previewed:
        testbed.succeed(PREVIEW)
        assert testbed.rows("t__pr_1") == expected["preview", after], "the preview differs from its twin"
    if not digest:
        testbed.succeed(APPLY, digest=testbed.digest())
    assert testbed.rows() == expected["rows", after], "prod differs from its twin after the apply"
    testbed.shop.launch().succeeded()
    assert testbed.rows() == expected["rows", after], "prod differs from its twin after the run"
    testbed.succeed(CLOSE)
    assert testbed.rows() == expected["rows", after], "prod differs from its twin after the close"
    # Closing deletes the intervals of tables of a preview, also those that the twin's apply has recorded.
    left = {
        kind: (found - twin, {row for row in twin - found if row[-1] is not True})
        for kind, twin in expected["contents", after].items()
        for found in [testbed.contents()[kind]]
    }
    is_unshown = story == "second commit" and after == 2 and promoted == expected["promoted"]
    assert is_unshown or not any(map(any, left.values())), f"left over, and missing: {left}"


def try_kills(engine: str, kills: int, seed: int, folder: Path) -> tuple[Counter[str], int]:
    """Return the kills of each story and stage, and the number of failed trials. Their folders are kept."""
    stages: Counter[str] = Counter()
    failed = 0
    with create_testbed(engine, folder / engine) as testbed:
        testbed.restore("preview")
        shown = testbed.query("SELECT snapshots FROM sqlmesh._environments WHERE name = 'pr_1'")
        testbed.expected["promoted"] = {snapshots for (snapshots,) in shown}
        for trial in range(kills):
            random_ = random.Random(f"{seed} {trial}")
            try:
                stages[kill_one(testbed, random_)] += 1
            except Exception:  # noqa: BLE001  # a trial fails for any reason, and the others go on
                failed += 1
                kept = Path(tempfile.mkdtemp(prefix=f"killed_plans_{engine}_{seed}_{trial}_"))
                shutil.copytree(testbed.shop.project, kept / "project")
                (kept / "error.txt").write_text(traceback.format_exc())
                print(f"{engine}: trial {trial} of seed {seed} failed, see {kept}", flush=True)
    return stages, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="on each engine")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    options = parser.parse_args()
    failed = 0
    for engine in options.engines:
        with tempfile.TemporaryDirectory() as folder, worker_zygote.forked_workers():
            stages, failures = try_kills(engine, options.kills, options.seed, Path(folder))
        failed += failures
        for stage, number in sorted(stages.items()):
            print(f"{engine}: {number} kills: {stage}", flush=True)
        print(f"{engine}: {failures} failed trials", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
