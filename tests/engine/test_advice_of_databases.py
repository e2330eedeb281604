"""Advice about databases: what it says is done on a real server or in a real file, and the job succeeds."""

import re

import pytest
from engine.plan_jobs import APPLY, PLAN, change, failure_of, launch, planned
from engine.preview_lab import PREVIEW
from harness import BIN, NewShop, needs_previews, run
from mariadb import mariadb_server
from pgbouncer import pgbouncer
from postgres import Server

ONE_MODEL = {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"}


def new_database(server: Server, name: str) -> str:
    """Create an empty database, and return the configuration of a project in it."""
    server.query(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    server.query(f"CREATE DATABASE {name}")
    return server.config(name)


SLOW = """
MODEL (name t.slow, kind FULL{tags});
{limit}
SELECT seconds FROM ctl.pause CROSS JOIN pg_sleep((SELECT max(seconds) FROM ctl.pause))
"""


@pytest.mark.night("unit/definitions/test_translator.py")
@pytest.mark.advice("SET LOCAL statement_timeout = '30min';")
def test_a_timeout_of_the_engine_in_the_model_ends_its_query_alone(new_shop: NewShop, server: Server) -> None:
    config = new_database(server, "slow")
    server.query("CREATE SCHEMA ctl", "slow")
    server.query("CREATE TABLE ctl.pause AS SELECT 0.6 AS seconds", "slow")
    tags = ", tags ('dagster:timeout:30m')"
    shop = new_shop({"models/slow.sql": SLOW.format(tags=tags, limit=""), **ONE_MODEL}, config, planned_at=None)
    [limit] = re.findall(r"before the query: (SET LOCAL statement_timeout = '30min';)", shop.load_error())
    for text, is_limited in ((limit, False), (limit.replace("30min", "200ms"), True)):
        change(shop, slow=SLOW.format(tags="", limit=text))
        shop.plan("--skip-backfill")
        shop.refresh()
        record = shop.launch()
        assert record.status_of("t/slow") == ("failed" if is_limited else "executed")
        assert not is_limited or "canceling statement due to statement timeout" in record.failures[0]
    assert record.status_of("t/one") is not None


@pytest.mark.night(
    "unit/worker/test_lock_session.py::test_pgbouncer_is_refused_if_it_gives_each_transaction_another_session"
)
@pytest.mark.advice("name the host and port of PostgreSQL itself. Or set the mode for that database in pgbouncer.ini:")
def test_a_run_behind_pgbouncer_succeeds_after_its_state_or_mode_was_changed(new_shop: NewShop, server: Server) -> None:
    new_database(server, "my_state")
    with pgbouncer(server, "transaction") as pooled:
        config = pooled.config("my_state")
        shop = new_shop(ONE_MODEL, config)
        refused = failure_of(shop.launch())
        direct = config[config.index("      type: postgres") : config.index("default_gateway")]
        direct = direct.replace(str(pooled.port), str(server.port)).rstrip()
        (shop.project / "config.yaml").write_text(
            config.replace("default_gateway", f"    state_connection:\n{direct}\ndefault_gateway")
        )
        assert "t/one" in shop.launch().succeeded().materializations
        (shop.project / "config.yaml").write_text(config)
        assert "such as PgBouncer" in failure_of(shop.launch())
    [line] = re.findall(r"    \[databases\]\n    (my_state = .*)", refused)
    line = line.replace("host=...", f"host=127.0.0.1 port={server.port} user=postgres")
    with pgbouncer(server, "transaction", line) as pooled:
        (shop.project / "config.yaml").write_text(pooled.config("my_state"))
        shop.launch().succeeded()


DAILY = """
MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true));
SELECT CAST(@start_ds AS DATE) AS day, {columns}
"""


@pytest.mark.night("upstream/test_sqlmesh_losses.py::test_a_table_whose_columns_cannot_be_read_is_named")
@pytest.mark.advice("Allow the user of the SQLMesh connection to read and alter this table.")
def test_a_plan_is_applied_after_its_user_may_read_and_alter_the_table(new_shop: NewShop) -> None:
    with mariadb_server() as mariadb:
        config = mariadb.config()
        shop = new_shop({"models/daily.sql": DAILY.format(columns="1 AS x")}, config, deploy=True)
        change(shop, daily=DAILY.format(columns="1 AS x, 2 AS y"))
        mariadb.query("CREATE OR REPLACE USER analyst")
        mariadb.query("GRANT ALL ON t.* TO analyst")
        mariadb.query("GRANT CREATE, DROP ON sqlmesh__t.* TO analyst")
        (shop.project / "config.yaml").write_text(config.replace("user: root", "user: analyst"))
        refused = failure_of(launch(shop, PLAN))
        assert re.search(r"its columns cannot be read: .*command denied.* Allow the user of the SQLMesh", refused)
        mariadb.query("GRANT ALL ON sqlmesh__t.* TO analyst")
        launch(shop, APPLY, digest=planned(shop)["digest"]).succeeded()
        assert mariadb.query("SELECT DISTINCT x FROM t.daily") == [(1,)]
        mariadb.query("DROP USER analyst")


UNLOCKABLE = """
from typing import Literal

from pydantic import Field
from sqlmesh.core.config import Config, DuckDBConnectionConfig, GatewayConfig, ModelDefaultsConfig


class Unlockable(DuckDBConnectionConfig):
    type_: Literal["motherduck"] = Field(alias="type", default="motherduck")


config = Config(
    gateways={"local": GatewayConfig(connection=Unlockable(database="warehouse.duckdb"))},
    model_defaults=ModelDefaultsConfig(dialect="duckdb", start="6 days ago"),
)
"""


def command_in(text: str) -> str:
    [command] = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    return str(command)


@pytest.mark.night(
    "engine/test_janitor.py::test_clean_up_and_previews_refuse_a_state_that_cannot_be_locked",
    "unit/worker/test_lock_wait.py::test_state_without_locks_is_named_once_with_command_that_lets_dagster_start_one_run_at_a_time",
)
@needs_previews
@pytest.mark.advice(
    "Let Dagster start one at a time, unless you have done so:{}",
    "Remove `janitor` and `preview` in defs.yaml. At a time without runs, use:{}",
    "Remove `preview` in defs.yaml. At a time without runs, use:{}",
)
def test_jobs_of_a_state_that_cannot_be_locked_name_commands_that_do_their_work(new_shop: NewShop) -> None:
    """The state is a DuckDB file that is called MotherDuck, which has no locks."""
    files = {**ONE_MODEL, "config.py": UNLOCKABLE}
    shop = new_shop(files, deploy=True, janitor=True, preview={"environment": "pr_1"})
    change(shop, one="MODEL (name t.one, kind FULL); SELECT 2 AS id")
    for job in (PREVIEW, "sqlmesh_shop_janitor"):
        refused = failure_of(launch(shop, job))
        assert "motherduck cannot be locked. Remove `" in refused
        words = command_in(refused).partition("&& sqlmesh ")[2].split()
        shop.sqlmesh(*words, *(["--auto-apply", "--no-prompts"] if "plan" in words else []))
    assert shop.query("SELECT id FROM t__pr_1.one") == [(2,)]
    shop.configure(deploy=True)
    [warning] = [line for line in shop.launch().succeeded().warnings if "cannot be locked" in line]
    command = command_in(warning).split()
    run([BIN / command[0], *command[1:]], cwd=shop.root, DAGSTER_HOME=str(shop.instance.root_directory))
    assert shop.instance.event_log_storage.get_concurrency_info(command[-2]).slot_count == 1
    shop.launch().succeeded()
