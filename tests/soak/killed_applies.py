"""Kill `<op>_apply` at random points, and check that the same digest finishes the plan: nothing lost, nothing twice.

    python tests/soak/killed_applies.py --kills 20 --seed 1

Each trial starts from the same planned project on DuckDB or PostgreSQL, with changes that SQLMesh computes before and
after it promotes them. SQLMesh's process is killed after a random time, and the job is launched again with the same
digest. Then versions, intervals and rows equal those of an undisturbed apply, and a run of all models succeeds.
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
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dagster as dg
from harness import RunRecord, Shop, planned_shop, processes_in
from postgres import postgres_server

PLAN, APPLY = "sqlmesh_shop_plan", "sqlmesh_shop_apply"
DAYS = "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1)"
KEPT = "kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true)"
FILES = {
    "models/base.sql": "MODEL (name t.base, kind VIEW); SELECT {id} AS id",
    "models/days.sql": f"MODEL (name t.days, {DAYS}); SELECT @start_ds::date AS day, {{id}} AS id, {{slow}} AS slow",
    "models/kept.sql": f"MODEL (name t.kept, {KEPT}); SELECT @start_ds::date AS day, id FROM t.base",
    # SQLMesh computes these after it has promoted: they read t.kept, which only then has its new definition.
    "models/total.sql": "MODEL (name t.total, kind FULL); "
    "SELECT sum(b.id) AS id, {slow} AS slow FROM t.kept AS k CROSS JOIN t.base AS b",
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id, {slow} AS slow FROM t.total",
}
SLOW = {"duckdb": "(SELECT max(hash(range) % 1000) FROM range(60000000))", "postgres": "(SELECT pg_sleep(0.15))::text"}
PHASES = ("before anything", "in the backfill", "in the promotion", "not at all")


@dataclass
class Testbed:
    """A project whose files have changed since it was planned."""

    shop: Shop
    restore: Callable[[], object]
    query: Callable[[str], list[tuple[Any, ...]]]

    def launch(self, job: str, **config: Any) -> RunRecord:
        definition = self.shop.refresh().resolve_job_def(job)
        run_config = {"ops": {job: {"config": config}}}
        run = definition.execute_in_process(instance=self.shop.instance, run_config=run_config, raise_on_error=False)
        return self.shop.run_record(run.run_id)

    def digest(self) -> str:
        run = self.shop.instance.get_run_by_id(self.launch(PLAN).run_id)
        assert run is not None
        return run.tags["sqlmesh/plan_digest"]

    def measure(self) -> dict[str, Any]:
        """Versions and intervals in SQLMesh's state, and the rows of each table."""
        state = self.shop.state()
        tables = {Path(name).stem: None for name in FILES}
        rows = {table: sorted(map(str, self.query(f"SELECT * FROM t.{table}"))) for table in tables}
        return {"versions": state["versions"], "ranges": state["ranges"], "rows": rows}


@contextmanager
def create_testbed(engine: str, folder: Path) -> Iterator[Testbed]:
    """Plan the project, then change its files."""
    folder.mkdir()
    before = {name: text.format(id=1, slow="'1'") for name, text in FILES.items()}
    after = {name: text.format(id=2, slow=SLOW[engine]) for name, text in FILES.items()}
    if engine == "duckdb":
        with planned_shop(folder, before, deploy=True) as shop:
            database = shop.project / "warehouse.duckdb"
            shutil.copy(database, folder / "baseline")
            _write(shop, after)
            yield Testbed(shop, lambda: shutil.copy(folder / "baseline", database), shop.query)
    else:
        with postgres_server() as server:
            server.query("CREATE DATABASE trial")
            with planned_shop(folder, before, server.config("trial"), deploy=True) as shop:
                server.query("CREATE DATABASE baseline TEMPLATE trial")
                _write(shop, after)

                def restore() -> None:
                    server.query("DROP DATABASE trial WITH (FORCE)")
                    server.query("CREATE DATABASE trial TEMPLATE baseline")

                yield Testbed(shop, restore, lambda sql: server.query(sql, "trial"))


def _write(shop: Shop, files: dict[str, str]) -> None:
    for name, text in files.items():
        (shop.project / name).write_text(text)


def kill_one(testbed: Testbed, digest: str, seconds: float, expected: dict[str, Any]) -> str:
    """Kill an apply after so many seconds, and finish it. Return where it was killed."""
    shop = testbed.shop
    testbed.restore()
    with ThreadPoolExecutor(1) as threads:
        applying = threads.submit(testbed.launch, APPLY, digest=digest)
        time.sleep(seconds)
        for pid in processes_in(shop.project):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed = applying.result()
    if killed.status is dg.DagsterRunStatus.SUCCESS:
        phase = "not at all"
    elif "unfinished" in (shown := testbed.launch(PLAN).log) or "Plan for environment prod: no changed" in shown:
        phase = "in the promotion"
    else:
        phase = "in the backfill" if "SQLMesh computes" in killed.log else "before anything"
    if phase != "not at all":
        finished = testbed.launch(APPLY, digest=digest)
        assert finished.status is dg.DagsterRunStatus.SUCCESS, f"killed {phase}:\n{finished.log}"
    assert testbed.measure() == expected, f"killed {phase}: the environment differs from that of an undisturbed apply"
    later = shop.launch()
    assert later.status is dg.DagsterRunStatus.SUCCESS, f"killed {phase}:\n{later.log}"
    return phase


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="on each engine")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engines", nargs="+", choices=tuple(SLOW), default=tuple(SLOW))
    options = parser.parse_args()
    for engine in options.engines:
        with (
            tempfile.TemporaryDirectory() as folder,
            create_testbed(engine, Path(folder) / engine) as testbed,
        ):
            digest, began = testbed.digest(), time.monotonic()
            undisturbed = testbed.launch(APPLY, digest=digest)
            assert undisturbed.status is dg.DagsterRunStatus.SUCCESS, undisturbed.log
            longest, expected, random_ = time.monotonic() - began, testbed.measure(), random.Random(options.seed)
            phases: Counter[str] = Counter()
            for _ in range(options.kills):
                phases[kill_one(testbed, digest, random_.uniform(0.5, 1) * longest, expected)] += 1
            counts = ", ".join(f"{phases[phase]} {phase}" for phase in PHASES)
            print(f"{engine}: an undisturbed apply takes {longest:.1f} s; killed {counts}", flush=True)


if __name__ == "__main__":
    main()
