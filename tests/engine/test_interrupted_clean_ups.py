"""A clean-up that ends half-way: no environment ever shows fewer rows, and the next one deletes the rest."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pytest
from engine.plan_jobs import applied, edit_config, failure_of, launch, planned
from engine.preview_lab import APPLY, CLOSE, FORWARD_ONLY, ORDERS, OTHER, PREVIEW, Lab, on_duckdb
from harness import needs_previews, processes_in, wait_until
from postgres import Server

pytestmark = needs_previews

on_postgres = pytest.mark.parametrize("lab", [pytest.param("postgres", marks=pytest.mark.slow)], indirect=True)
"""Only there can a session keep another one from dropping a table."""

AS_IN_PROD, CHANGED = ORDERS.format(factor=2), ORDERS.format(factor=3)


def tables(lab: Lab) -> set[str]:
    rows = lab.ask("SELECT table_name FROM information_schema.tables WHERE table_schema = 'sqlmesh__t'")
    return {name for (name,) in rows}


def rows(lab: Lab, schema: str = "t") -> list[tuple[object, ...]]:
    """The number and sum of orders, and the number of orders that t.revenue has counted."""
    revenue = f"(SELECT sum(orders) FROM {schema}.revenue)"
    return lab.ask(f"SELECT count(*), sum(amount), {revenue} FROM {schema}.orders")


def apply(lab: Lab) -> None:
    applied(lab.shop)


def previewed(lab: Lab, **models: str) -> str:
    """Preview changed models. Return the new table of t.orders, which is dropped after that of t.revenue."""
    before = tables(lab)
    lab.change(**models)
    lab.preview()
    [orders] = [name for name in tables(lab) - before if "orders" in name]
    return orders


@contextmanager
def table_in_use(lab: Lab, server: Server, table: str) -> Iterator[None]:
    """Let a session read the table until the block ends, so that nobody can drop it."""
    [(database,)] = lab.ask("SELECT current_database()")
    with server.session(database) as cursor:
        cursor.execute(f"BEGIN; LOCK TABLE sqlmesh__t.{table} IN ACCESS SHARE MODE")
        yield


def killed(lab: Lab, server: Server, job: str, table: str) -> None:
    """Launch a job, and kill SQLMesh's process when it waits for this table and has dropped another one."""
    before = tables(lab)

    def has_dropped_one() -> bool:
        [(waiting,)] = lab.ask("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL")
        return bool(waiting) and bool(before - tables(lab))

    def kill() -> None:
        try:
            wait_until(has_dropped_one)
        finally:  # else the job would wait for ever
            for pid in processes_in(lab.shop.project):
                os.kill(pid, signal.SIGKILL)

    with table_in_use(lab, server, table):
        killer = threading.Thread(target=kill)
        killer.start()
        record = lab.job(job)
        killer.join()
    assert record.status is dg.DagsterRunStatus.FAILURE


@on_postgres
def test_prod_is_complete_after_the_apply_of_a_version_whose_close_was_killed(lab: Lab, server: Any) -> None:
    before = lab.left_over()
    orders = previewed(lab, orders=CHANGED)

    killed(lab, server, CLOSE, orders)
    apply(lab)

    assert rows(lab) == [(60, 6 * 55 * 3.0, 60)]
    lab.close()
    assert lab.left_over()["environments"] == before["environments"]
    assert len(lab.left_over()["models"]) == len(before["models"]) + 2, "prod's version and the one before"


@on_postgres
def test_prod_is_complete_after_the_apply_of_a_version_that_close_could_not_delete(lab: Lab, server: Any) -> None:
    [(database,)] = lab.ask("SELECT current_database()")
    lab.ask(f"ALTER DATABASE {database} SET lock_timeout = '100ms'")
    tables_before = len(tables(lab))
    orders = previewed(lab, orders=CHANGED)

    with table_in_use(lab, server, orders):
        record = lab.job(CLOSE)
    assert record.status is dg.DagsterRunStatus.FAILURE
    assert len(tables(lab)) == tables_before + 1
    apply(lab)

    assert rows(lab) == [(60, 6 * 55 * 3.0, 60)]


@on_postgres
@pytest.mark.parametrize("goes_back", [False, True], ids=["close", "first commit again"])
def test_next_job_finishes_the_killed_clean_up_of_a_second_commit(lab: Lab, server: Any, goes_back: bool) -> None:
    before = lab.left_over()
    orders = previewed(lab, orders=CHANGED)
    lab.change(orders=ORDERS.format(factor=4))
    killed(lab, server, PREVIEW, orders)

    if goes_back:
        lab.change(orders=CHANGED)
        lab.preview()
        assert rows(lab, "t__pr_1") == [(60, 6 * 55 * 3.0, 60)]
    lab.close()

    assert lab.left_over() == before


def test_a_plan_computes_a_table_again_that_is_missing_although_the_state_has_its_intervals(lab: Lab) -> None:
    """SQLMesh's own janitor leaves this behind if it is interrupted on a command line."""
    orders = previewed(lab, orders=CHANGED)
    lab.ask(f"DROP TABLE sqlmesh__t.{orders} CASCADE")

    shown = planned(lab.shop)
    assert {model["name"]: model["intervals"] for model in shown["models"]} == {"t.orders": 6, "t.revenue": 0}
    record = launch(lab.shop, APPLY, digest=shown["digest"]).succeeded()
    assert "of t.orders is missing, although SQLMesh's state has its intervals" in record.log
    assert rows(lab) == [(60, 6 * 55 * 3.0, 60)]


def test_a_preview_computes_its_missing_table_again_and_an_empty_table_is_not_missing(lab: Lab) -> None:
    before = lab.prod()
    empty = "MODEL (name t.empty, kind FULL); SELECT 1 AS x WHERE FALSE"
    orders = previewed(lab, orders=CHANGED, empty=empty)
    lab.ask(f"DROP TABLE sqlmesh__t.{orders} CASCADE")

    record = lab.job(PREVIEW).succeeded()
    assert "Computed: 1 model." in record.log
    assert rows(lab, "t__pr_1") == [(60, 6 * 55 * 3.0, 60)]
    assert lab.prod() == before


@pytest.mark.night(
    "engine/test_previews.py::test_closing_a_preview_leaves_nothing_and_only_its_own",
    "test_a_plan_computes_a_table_again_that_is_missing_although_the_state_has_its_intervals",
)
@on_duckdb
def test_a_commit_without_a_new_model_replaces_a_preview_whose_close_has_deleted_that_model(lab: Lab) -> None:
    before = lab.left_over()
    previewed(lab, orders=CHANGED, new="MODEL (name t.new, kind FULL); SELECT 1 AS x")
    lab.ask("DELETE FROM sqlmesh._snapshots WHERE name LIKE '%new%'")
    lab.ask("UPDATE sqlmesh._environments SET expiration_ts = 1 WHERE name = 'pr_1'")
    (lab.shop.project / "models/new.sql").unlink()

    lab.preview()

    assert rows(lab, "t__pr_1") == [(60, 6 * 55 * 3.0, 60)]
    lab.close()
    assert len(lab.left_over()["models"]) == len(before["models"])


@on_postgres
@pytest.mark.parametrize("job", [CLOSE, PREVIEW], ids=["close", "second commit"])
def test_forward_only_change_is_previewed_on_last_day_after_a_killed_clean_up(lab: Lab, server: Any, job: str) -> None:
    lab.change(orders=FORWARD_ONLY.format(factor=2))
    lab.shop.plan(at=None)
    before = lab.left_over()
    orders = previewed(lab, orders=FORWARD_ONLY.format(factor=3))
    if job == PREVIEW:
        lab.change(orders=FORWARD_ONLY.format(factor=4))
    killed(lab, server, job, orders)
    lab.change(orders=FORWARD_ONLY.format(factor=3))

    lab.preview()

    assert lab.ask("SELECT count(*), sum(amount) FROM t__pr_1.orders") == [(10, 55 * 3.0)]
    lab.close()
    assert lab.left_over() == before


@pytest.mark.night(
    "engine/test_dependents.py::test_the_janitor_drops_no_view_of_others_and_names_each_until_somebody_drops_it",
    "engine/test_previews.py::test_closing_a_preview_leaves_nothing_and_only_its_own",
)
@pytest.mark.advice(
    "SQLMesh could not delete the views of {}; the log says why. Launch this job again.",
    "Launch this job again to delete the rest.",
)
@on_duckdb
def test_close_that_cannot_delete_an_object_says_why_and_the_next_one_deletes_the_rest(lab: Lab) -> None:
    edit_config("environment_suffix_target: table\n")(lab.shop)
    before, tables_before = lab.left_over(), tables(lab)
    lab.change(other=OTHER.replace("1 AS x", "2 AS x"))
    lab.preview()
    [table] = tables(lab) - tables_before
    lab.ask("DROP VIEW t.other__pr_1; CREATE TABLE t.other__pr_1 AS SELECT 1 AS x")
    lab.ask(f"DROP TABLE sqlmesh__t.{table}; CREATE VIEW sqlmesh__t.{table} AS SELECT 1 AS x")

    no_table = failure_of(lab.job(CLOSE))
    assert "The preview pr_1 was not deleted: " in no_table
    assert f"{table} is of type View" in no_table
    lab.ask(f"DROP VIEW sqlmesh__t.{table}")
    no_view = lab.job(CLOSE)
    assert "SQLMesh could not delete the views of pr_1; the log says why." in failure_of(no_view)
    assert "other__pr_1 is of type Table" in no_view.log
    lab.ask("DROP TABLE t.other__pr_1")

    lab.close()

    assert lab.left_over() == before
