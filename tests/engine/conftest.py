"""Fixtures of the engine tests."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import worker_zygote
from engine.plan_jobs import MODELS as PLANNED
from engine.preview_lab import ENVIRONMENT, MODELS, RAW, Lab
from engine.recorded_models import MODELS as RECORDED
from engine.recorded_models import day
from harness import CONFIG, NewShop, Shop, planned_shop, query
from postgres import postgres_server

LONGEST_TEST_SECONDS = 120


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Begin no test right before midnight in UTC: many compare days with those of a plan before."""
    left = 86_400 - time.time() % 86_400
    if left < LONGEST_TEST_SECONDS:
        time.sleep(left)


@pytest.fixture(autouse=True, scope="module")
def _forked_workers() -> Iterator[None]:
    """Let workers of the test process be forks of a process that has imported SQLMesh (tests/worker_zygote.py).

    They do not fork themselves to load and render models: for a few models, that takes longer. Workers of other tests,
    and those of other processes, do.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MAX_FORK_WORKERS", "1")
        with worker_zygote.forked_workers():
            yield


@pytest.fixture
def new_shop(tmp_path: Path) -> Iterator[NewShop]:
    """Create a planned project with a component. The Dagster instance ends with the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(planned_shop(tmp_path, *arguments, **options))


@pytest.fixture
def shop(new_shop: NewShop) -> Shop:
    """A shop of `plan_jobs.MODELS` whose changes are planned by jobs."""
    return new_shop(PLANNED, deploy=True)


@pytest.fixture
def new_recorded(new_shop: NewShop) -> NewShop:
    """Create a project of `recorded_models.MODELS`, some of them replaced, whose checks and restatements are on.

    Its models start eight days ago.
    """

    def create(models: dict[str, str] = RECORDED, planned_at: str = f"{day(3)} 12:00:00", **attributes: Any) -> Shop:
        tables = {"ctl.broken": "SELECT NULL::DATE AS day LIMIT 0"}
        config = CONFIG.replace("6 days ago", f"'{day(8)}'")
        options = {"intervals_check": True, "restate": True, **attributes}
        return new_shop({**RECORDED, **models}, config, tables=tables, planned_at=planned_at, **options)

    return create


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["duckdb", pytest.param("postgres", marks=pytest.mark.slow)])
def lab(request: pytest.FixtureRequest, new_shop: NewShop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lab:
    attributes = {"deploy": {}, "preview": {"environment": ENVIRONMENT}}
    if request.param == "duckdb":
        shop = new_shop(MODELS, planned_at=None, **attributes)
        lab = Lab(shop, lambda sql: query(shop.project, sql), monkeypatch)
    else:
        server = request.getfixturevalue("server")
        database = f"shop_{abs(hash(str(tmp_path))) % 10**9}"
        server.query(f"CREATE DATABASE {database}")
        shop = new_shop(MODELS, config=server.config(database), planned_at=None, **attributes)
        lab = Lab(shop, lambda sql: server.query(sql, database), monkeypatch)
    lab.ask("CREATE SCHEMA raw")
    lab.ask(f"CREATE TABLE raw.orders AS {RAW}")
    shop.plan(at=None)
    return lab
