"""A promotion that fails is taken back: prod shows what it showed before, and the same digest is accepted again."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from engine.plan_jobs import APPLY, PLAN, change, failure_of, launch, planned, text_of
from harness import CONFIG, NewShop, Shop, at_night, rows_at_night, sqlmesh
from postgres import postgres_server

STOP = '''
import json
import shutil
import os
import signal
from pathlib import Path

import yaml
from sqlmesh.core.config import Config
from sqlmesh.core.engine_adapter import EngineAdapter

EXECUTE, FILE, STATEMENTS = EngineAdapter._execute, Path(__file__).with_name("stop"), []


def execute(adapter, sql, *arguments, **options):
    is_ignored = "CREATE SCHEMA" in sql or sql == "SELECT 1"  # SQLMesh goes on after its error, or is not asked
    if STATEMENTS and FILE.exists() and not is_ignored:
        number, kills = json.loads(FILE.read_text())
        STATEMENTS.append(sql)
        if len(STATEMENTS) > number:
            FILE.unlink()
            print("stopped at", sql)
            if kills:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("no space left on device")
    EXECUTE(adapter, sql, *arguments, **options)
    if sql.startswith("DELETE FROM") and "_environments" in sql:
        STATEMENTS.append(sql)


EngineAdapter._execute = execute
config = Config.parse_obj(yaml.safe_load("""{config}"""))
'''
"""A project that fails, or is killed, at a statement after it has begun to change an environment."""


def stop(shop: Shop, number: int, *, kills: bool = False) -> Path:
    """Stop the next plan at a statement of its promotion."""
    file = shop.project / "stop"
    file.write_text(json.dumps([number, kills]))
    return file


Query = Callable[[str], list[tuple[Any, ...]]]


@dataclass
class Prod:
    """What prod shows."""

    query: Query

    def shown(self, of: "dict[str, Any] | None" = None) -> dict[str, Any]:
        """The rows of each view or table of schema t, with the columns of another result, and its rows of the state."""
        columns: dict[str, str] = of["columns"] if of else self._columns()
        ids = "SELECT name, identifier FROM sqlmesh._snapshots WHERE unpaused_ts IS NOT NULL"
        return {
            "columns": {name: columns.get(name, "") for name in self._columns() if "_schema_tmp" not in name},
            "rows": {name: sorted(self.query(f"SELECT {columns[name]} FROM t.{name}"), key=str) for name in columns},
            "environment": self.query(
                "SELECT plan_id, previous_plan_id, finalized_ts, snapshots, requirements FROM sqlmesh._environments"
            ),
            "statements": self.query("SELECT environment_statements FROM sqlmesh._environment_statements"),
            "unpaused": sorted(self.query(ids)),
            "unrestorable": self.query(f"{ids} AND unrestorable"),
        }

    def _columns(self) -> dict[str, str]:
        found = self.query(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 't' "
            "ORDER BY table_name, ordinal_position"
        )
        columns: dict[str, list[str]] = {}
        for name, column in found:
            columns.setdefault(name, []).append(column)
        return {name: ", ".join(of_table) for name, of_table in columns.items()}


DAILY = """
MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true));
SELECT CAST(@start_ds AS DATE) AS day, {columns} FROM t.base
"""
BEFORE = {
    "base": "MODEL (name t.base, kind FULL); SELECT 1 AS x",
    "shown": "MODEL (name t.shown, kind VIEW); SELECT x FROM t.base",
    "daily": DAILY.format(columns="x"),
    "total": "MODEL (name t.total, kind FULL); SELECT count(*) AS n, max(x) AS x FROM t.daily",
    "gone": "MODEL (name t.gone, kind FULL); SELECT 3 AS x",
}
PROMOTIONS = "ON_VIRTUAL_UPDATE_BEGIN; INSERT INTO t.promotions VALUES (1); ON_VIRTUAL_UPDATE_END;"
FORWARD_ONLY = "plan: {forward_only: true}\n"
DEV_ONLY = "virtual_environment_mode: dev_only\n"

KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "many changes": (
        "",
        {
            "base": "MODEL (name t.base, kind FULL); SELECT 2 AS x",
            "daily": DAILY.format(columns="x, 5 AS y"),
            "new": "MODEL (name t.new, kind VIEW); SELECT 4 AS x",
            "gone": "",
        },
    ),
    "metadata": ("", {"shown": "MODEL (name t.shown, kind VIEW, owner ann); SELECT x FROM t.base"}),
    "forward-only": ("", {"daily": DAILY.format(columns="x + 1 AS x")}),
    "forward-only view": (FORWARD_ONLY, {"shown": "MODEL (name t.shown, kind VIEW); SELECT x + 1 AS x FROM t.base"}),
    "dev_only": (
        DEV_ONLY,
        {
            "base": "MODEL (name t.base, kind FULL); SELECT 2 AS x",
            "shown": "MODEL (name t.shown, kind VIEW); SELECT x + 1 AS x FROM t.base",
            "gone": "",
        },
    ),
}

"""By kind of change, settings of the project, and the changed models."""

kinds = pytest.mark.parametrize(
    "kind", ["many changes", *(pytest.param(k, marks=pytest.mark.slow) for k in [*KINDS][1:])]
)


def models(texts: dict[str, str]) -> dict[str, str]:
    return {f"models/{name}.sql": text for name, text in texts.items()}


def edit(shop: Shop, models: dict[str, str]) -> str:
    """Change the models, remove those without a text, and return the digest of the plan."""
    change(shop, **models)
    for removed in (name for name, text in models.items() if not text):
        (shop.project / "models" / f"{removed}.sql").unlink()
    config = shop.project / "config.py"
    if config.exists():
        config.write_text(config.read_text().replace("SELECT 7", "SELECT 8"))
    digest: str = planned(shop)["digest"]
    return digest


def fail_at_each_statement(shop: Shop, prod: Prod, after: dict[str, str], restore: Callable[[], object]) -> None:
    shown = prod.shown()
    digest = edit(shop, after)
    for number in range(1, 99):
        stop(shop, number)
        record = launch(shop, APPLY, digest=digest)
        if record.status is dg.DagsterRunStatus.SUCCESS:  # SQLMesh tries a migration again
            restore()
            continue
        assert "no space left on device" in failure_of(record)
        if "after it was promoted" in failure_of(record):
            break
        assert "between two plans" not in failure_of(record), (number, failure_of(record), record.log)
        assert prod.shown(shown) == shown, number
    assert number > 10
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS
    assert "SELECT 8" in str(prod.shown()["statements"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_promotion_that_fails_at_any_statement_is_taken_back(new_shop: NewShop, kind: str) -> None:
    settings, after = KINDS[kind]
    config_py = STOP.replace("{config}", CONFIG + settings + "before_all: [SELECT 7]\n")
    shop = new_shop({**models(BEFORE), "config.py": config_py}, deploy=True)
    database, kept = shop.project / "warehouse.duckdb", shop.project / "kept.duckdb"
    shutil.copy(database, kept)
    fail_at_each_statement(shop, Prod(shop.query), after, lambda: shutil.copy(kept, database))


@pytest.mark.night(
    "upstream/test_sqlmesh_internals.py::test_environment_is_replaced_in_duckdb_by_two_statements_or_in_one_transaction",
    "test_killed_promotion_is_taken_back_by_a_run_config",
)
def test_an_apply_killed_while_it_replaces_the_environment_in_the_state_leaves_it_there(new_shop: NewShop) -> None:
    shop = new_shop({**models(BEFORE), "config.py": STOP.replace("{config}", CONFIG)}, deploy=True)
    digest = edit(shop, {"base": "MODEL (name t.base, kind FULL); SELECT 2 AS x"})
    stop(shop, 1, kills=True)  # at the statement after the deletion of the environment's row

    assert "killed by signal 9" in failure_of(launch(shop, APPLY, digest=digest))

    assert shop.query("SELECT name FROM sqlmesh._environments") == [("prod",)]
    launch(shop, APPLY, digest=digest).succeeded()


KILLED_AT = (3, 9, 15, 21)


@pytest.mark.parametrize(
    ("kind", "killed_at"), [("many changes", KILLED_AT[1:2]), *rows_at_night(*((kind, KILLED_AT) for kind in KINDS))]
)
def test_killed_promotion_is_taken_back_by_a_run_config(new_shop: NewShop, kind: str, killed_at: Sequence[int]) -> None:
    settings, after = KINDS[kind]
    config_py = STOP.replace("{config}", CONFIG + settings + "before_all: [SELECT 7]\n")
    shop = new_shop({**models(BEFORE), "config.py": config_py}, deploy=True)
    take_back_what_is_killed(shop, Prod(shop.query), after, killed_at)


def take_back_what_is_killed(
    shop: Shop, prod: Prod, after: dict[str, str], killed_at: Sequence[int] = KILLED_AT
) -> None:
    shown = prod.shown()
    digest = edit(shop, after)
    for number in killed_at:
        stop(shop, number, kills=True)
        assert "killed by signal 9" in failure_of(launch(shop, APPLY, digest=digest)), number
        record = launch(shop, APPLY, take_back=True)
        if record.status is not dg.DagsterRunStatus.SUCCESS:
            assert "shows a finished plan. There is nothing to take back" in failure_of(record)
            break
        assert "Taken back: environment prod shows what it showed before plan" in record.succeeded().log
        assert _without_times(prod.shown(shown)) == _without_times(shown), number
    else:
        launch(shop, APPLY, digest=digest).succeeded()
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS
    assert "SELECT 8" in str(prod.shown()["statements"])


def _without_times(shown: dict[str, Any]) -> dict[str, Any]:
    """What prod shows, without the ids of plans, and when the last one has finished."""
    [(_, _, _, *environment)] = shown["environment"]
    return {**shown, "environment": sorted(json.loads(environment[0]), key=lambda info: info["name"])}


@contextmanager
def postgres_shop(new_shop: NewShop, texts: dict[str, str], more: str = "") -> Iterator[tuple[Shop, Prod]]:
    with postgres_server() as server:
        server.query("CREATE DATABASE taken_back")

        def query(sql: str) -> list[tuple[Any, ...]]:
            return server.query(sql, "taken_back")

        config = server.config("taken_back") + more
        files = {"config.py": STOP.replace("{config}", config)} if more else {}
        yield new_shop({**models(texts), **files}, config, deploy=True), Prod(query)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_promotion_that_fails_at_any_statement_is_taken_back_on_postgres(new_shop: NewShop, kind: str) -> None:
    settings, after = KINDS[kind]
    with postgres_shop(new_shop, BEFORE, settings + "before_all: [SELECT 7]\n") as (shop, prod):
        fail_at_each_statement(shop, prod, after, lambda: pytest.fail("the plan is applied"))


@pytest.mark.slow
@kinds
def test_killed_promotion_is_taken_back_by_a_run_config_on_postgres(new_shop: NewShop, kind: str) -> None:
    settings, after = KINDS[kind]
    with postgres_shop(new_shop, BEFORE, settings + "before_all: [SELECT 7]\n") as (shop, prod):
        take_back_what_is_killed(shop, prod, after)


def test_statement_that_fails_after_a_view_is_replaced_is_named_and_the_plan_taken_back(new_shop: NewShop) -> None:
    with postgres_shop(new_shop, BEFORE) as (shop, prod):
        shown = prod.shown()
        new = f"MODEL (name t.new, kind FULL); SELECT 1 AS x;\n{PROMOTIONS}"
        digest = edit(shop, {"base": "MODEL (name t.base, kind FULL); SELECT 2 AS x", "gone": "", "new": new})

        failed = failure_of(launch(shop, APPLY, digest=digest))

        assert "The plan failed while it was promoted, and was taken back: environment prod shows what it" in failed
        assert 'relation "t.promotions" does not exist' in failed
        assert "To apply it, correct the cause and launch this job again with the same run config" in failed
        assert prod.shown(shown) == shown
        shop.launch(assets=["t/base"]).succeeded()
        prod.query("CREATE TABLE t.promotions (x INT)")
        launch(shop, APPLY, digest=digest).succeeded()
        assert prod.query("SELECT x FROM t.base") == [(2,)]


@pytest.mark.night(
    "unit/capabilities/plans/worker/test_failed_plan.py",
    "test_plan_that_has_merged_rows_into_a_table_of_prod_is_named_and_not_taken_back",
)
@pytest.mark.advice(
    "It could not be taken back: {}. To try again, launch this job with `take_back: true`.",
    "Plan {} could not be taken back: {}. Correct the cause, and launch this job again.",
)
def test_take_back_that_fails_succeeds_after_its_cause_is_corrected(new_shop: NewShop) -> None:
    shop = new_shop(models(BEFORE), deploy=True)
    prod = Prod(shop.query)
    shown = prod.shown()
    [(table,)] = shop.query("SELECT table_name FROM information_schema.tables WHERE table_name LIKE 't__base__%'")
    new = f"MODEL (name t.new, kind FULL); SELECT 1 AS x;\n{PROMOTIONS}"
    digest = edit(shop, {"base": "MODEL (name t.base, kind FULL); SELECT 2 AS x", "new": new})
    shop.query(f"ALTER TABLE sqlmesh__t.{table} RENAME TO kept")

    failed = failure_of(launch(shop, APPLY, digest=digest))
    again = failure_of(launch(shop, APPLY, take_back=True))

    assert "which is now between two plans. It could not be taken back: " in failed
    assert "To try again, launch this job with `take_back: true`." in failed
    assert "Correct the cause, and launch this job again." in again
    for why in (failed, again):
        assert f"{table} does not exist" in why
    shop.query(f"ALTER TABLE sqlmesh__t.kept RENAME TO {table}")
    launch(shop, APPLY, take_back=True).succeeded()
    assert _without_times(prod.shown(shown)) == _without_times(shown)


@pytest.mark.advice(
    "{}no job of this Dagster instance has applied it. Apply it again:{}",
    "If it was not applied by this job, apply it again:{}",
)
@pytest.mark.parametrize("told_by", ["take back", *at_night("a run that waits")])
def test_plan_of_a_shell_is_not_taken_back_and_finished_by_the_named_command(new_shop: NewShop, told_by: str) -> None:
    files = {**models(BEFORE), "config.py": STOP.replace("{config}", CONFIG)}
    shop = new_shop(files, deploy=True, execution={"environment_timeout": 1})
    edit(shop, {"base": "MODEL (name t.base, kind FULL); SELECT 2 AS x"})
    stop(shop, 9, kills=True)
    sqlmesh(shop.project, "plan", "--auto-apply", "--no-prompts", check=False)
    shows = text_of(launch(shop, PLAN).succeeded())
    assert "It cannot be taken back: no job of this Dagster instance has applied it." in shows
    told = failure_of(launch(shop, APPLY, take_back=True)) if told_by == "take back" else shop.launch().failed().log
    [words] = re.findall(rf"apply it again:\n\n    cd {shop.project} && sqlmesh (.*)", told, re.IGNORECASE)
    shop.sqlmesh(*words.split(), "--auto-apply", "--no-prompts")
    assert shop.query("SELECT x FROM t.base") == [(2,)]
    shop.launch().succeeded()


TEXTS = {
    name: f"""
MODEL (name t.{name}, kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true));
SELECT @start_ds::DATE AS day, 'a'::VARCHAR(10) AS x
"""
    for name in ("first", "second")
}


@pytest.mark.night("test_statement_that_fails_after_a_view_is_replaced_is_named_and_the_plan_taken_back")
def test_type_that_postgres_cannot_change_is_named_and_all_views_are_there_again(new_shop: NewShop) -> None:
    with postgres_shop(new_shop, TEXTS) as (shop, prod):
        shown = prod.shown()
        digest = edit(shop, {name: text.replace("(10)", "(20)") for name, text in TEXTS.items()})

        failed = failure_of(launch(shop, APPLY, digest=digest))

        assert "cannot alter type of a column used by a view or rule" in failed
        assert "environment prod shows what it showed before" in failed
        assert prod.shown(shown) == shown


FIRST_DAY = "UPDATE sqlmesh._intervals SET start_ts = start_ts + 86400000 WHERE name LIKE '%daily%'"


def plan_that_computes_a_day_and_then_fails(new_shop: NewShop, daily: str) -> tuple[Shop, str, str]:
    """A forward-only change computes a day that prod lacks after it has begun to promote."""
    shop = new_shop(models({**BEFORE, "daily": daily.format(columns="x")}), deploy=True)
    shop.query(FIRST_DAY)
    total = f"MODEL (name t.total, kind FULL); SELECT count(*) AS n FROM t.daily;\n{PROMOTIONS}"
    digest = edit(shop, {"daily": daily.format(columns="x + 1 AS x"), "total": total})
    return shop, digest, failure_of(launch(shop, APPLY, digest=digest))


def test_rows_that_a_plan_has_computed_in_a_table_of_prod_are_computed_again(new_shop: NewShop) -> None:
    shop, digest, failed = plan_that_computes_a_day_and_then_fails(new_shop, DAILY)

    assert "environment prod shows what it showed before" in failed
    assert shop.query("SELECT max(x) FROM t.daily") == [(2,)]
    shop.launch().succeeded()
    assert shop.query("SELECT max(x) FROM t.daily") == [(1,)]
    shop.query("CREATE TABLE t.promotions (x INT)")
    launch(shop, APPLY, digest=digest).succeeded()


BY_KEY = DAILY.replace("INCREMENTAL_BY_TIME_RANGE (time_column", "INCREMENTAL_BY_UNIQUE_KEY (unique_key")


def test_plan_that_has_merged_rows_into_a_table_of_prod_is_named_and_not_taken_back(new_shop: NewShop) -> None:
    shop, _, failed = plan_that_computes_a_day_and_then_fails(new_shop, BY_KEY)

    why = "cannot be taken back: t.daily may have rows of its new definition. "
    assert "which is now between two plans. It " + why in failed
    assert why + "Finish it" in failure_of(launch(shop, APPLY, take_back=True))


@pytest.mark.advice(
    "{}{}. Finish it: launch this job with the digest of that plan.",
    "has begun to change it and has not finished. To finish it, apply this plan.",
    "Runs wait until it is finished. If the files have to change, apply a new plan with `sqlmesh plan`.",
)
@pytest.mark.night("test_plan_that_has_merged_rows_into_a_table_of_prod_is_named_and_not_taken_back")
def test_plan_that_has_merged_rows_is_finished_by_its_digest_or_by_a_new_plan(new_shop: NewShop) -> None:
    daily = BY_KEY
    shop, digest, _ = plan_that_computes_a_day_and_then_fails(new_shop, daily)
    shown = launch(shop, PLAN).succeeded().log
    assert "cannot be taken back: t.daily may have rows of its new definition." in shown
    shop.query("CREATE TABLE t.promotions (x INT)")
    launch(shop, APPLY, digest=digest).succeeded()
    shop.query("DROP TABLE t.promotions")
    shop.query(FIRST_DAY)
    total = f"MODEL (name t.total, kind FULL); SELECT 7 AS n;\n{PROMOTIONS}"
    again = failure_of(
        launch(shop, APPLY, digest=edit(shop, {"daily": daily.format(columns="x + 2 AS x"), "total": total}))
    )
    assert "If the files have to change, apply a new plan with `sqlmesh plan`." in again
    change(shop, total="MODEL (name t.total, kind FULL); SELECT 8 AS n")
    shop.plan(at=None)
    shop.launch().succeeded()
    assert shop.query("SELECT n FROM t.total") == [(8,)]


@pytest.mark.advice("Nothing was done. Write `digest` in the run config, from {}")
@pytest.mark.parametrize("config", [{}, *at_night({"digest": "abc", "take_back": True})])
def test_apply_needs_a_digest_or_takes_back(shop: Shop, config: dict[str, Any]) -> None:
    assert "or, to take back a plan that has not finished, `take_back: true`" in failure_of(
        launch(shop, APPLY, **config)
    )
    launch(shop, APPLY, digest=planned(shop)["digest"]).succeeded()


def test_name_that_is_too_long_is_refused_before_the_promotion(new_shop: NewShop) -> None:
    """A table has its first 63 characters."""
    with postgres_shop(new_shop, BEFORE, "physical_table_naming_convention: hash_md5\n") as (shop, prod):
        name = "x" * 67
        prod.query(f"CREATE TABLE t.{name[:63]} (x INT)")
        change(shop, new=f"MODEL (name t.{name}, kind FULL); SELECT 1 AS x")

        failed = failure_of(launch(shop, PLAN))

        assert f"a name would be too long: {name} has 67 characters, and postgres allows 63. Rename" in failed
