"""The circuit breaker notices a plan that changes the environment during a run, without parsing it each time."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import plan, write_project
from sqlmesh.core.context import Context

from dg_sqlmesh_component.worker.evaluate.run import cached_circuit_breaker


class CountedEnvironmentCheck:
    """The check that `Context.run` makes before each node, copied from SQLMesh, with a count of its calls."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.calls = 0
        self.plan_id = context.state_sync.get_environment("prod").plan_id

    def __call__(self) -> bool:
        self.calls += 1
        environment = self.context.state_sync.get_environment("prod")
        return not environment or environment.plan_id != self.plan_id or not environment.finalized_ts


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("breaker")
    project = write_project(folder, {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"})
    plan(project)
    plan(project, "dev", "--include-unmodified")
    return project


@pytest.fixture
def environment_check(planned: Path, tmp_path: Path) -> Iterator[CountedEnvironmentCheck]:
    project = tmp_path / "project"
    shutil.copytree(planned, project)
    config = (project / "config.yaml").read_text().replace("warehouse.duckdb", str(project / "warehouse.duckdb"))
    (project / "config.yaml").write_text(config)
    context = Context(paths=str(project), load=False)
    yield CountedEnvironmentCheck(context)
    context.close()


def change_state(environment_check: CountedEnvironmentCheck, statement: str) -> None:
    environment_check.context.state_sync.state_sync.engine_adapter.execute(statement)


def test_sqlmesh_is_asked_once_while_nothing_changes(environment_check: CountedEnvironmentCheck) -> None:
    breaker = cached_circuit_breaker(environment_check, environment_check.context.state_sync, "prod")
    assert [breaker() for _ in range(5)] == [False] * 5
    assert environment_check.calls == 1


def test_plan_for_another_environment_is_no_change(environment_check: CountedEnvironmentCheck) -> None:
    breaker = cached_circuit_breaker(environment_check, environment_check.context.state_sync, "prod")
    assert not breaker()
    change_state(environment_check, "UPDATE sqlmesh._environments SET plan_id = 'another' WHERE name = 'dev'")
    assert not breaker()
    assert environment_check.calls == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sqlmesh._environments SET plan_id = 'another' WHERE name = 'prod'",
        "UPDATE sqlmesh._environments SET finalized_ts = NULL WHERE name = 'prod'",
        "DELETE FROM sqlmesh._environments WHERE name = 'prod'",
    ],
    ids=["another plan was applied", "a plan is being applied", "the environment is gone"],
)
@pytest.mark.parametrize("asked_before", [0, 1, 2])
def test_changes_that_sqlmesh_recognizes_are_recognized(
    environment_check: CountedEnvironmentCheck, statement: str, asked_before: int
) -> None:
    breaker = cached_circuit_breaker(environment_check, environment_check.context.state_sync, "prod")
    for _ in range(asked_before):
        assert not breaker()
    change_state(environment_check, statement)
    assert breaker()
    assert breaker()


def test_plan_applied_between_the_two_queries_is_noticed(environment_check: CountedEnvironmentCheck) -> None:
    def answered_too_early() -> bool:
        answer = environment_check()
        change_state(environment_check, "UPDATE sqlmesh._environments SET plan_id = 'another' WHERE name = 'prod'")
        return answer

    breaker = cached_circuit_breaker(answered_too_early, environment_check.context.state_sync, "prod")
    assert not breaker()
    assert breaker()


def test_sqlmesh_is_asked_once_about_an_irrelevant_change(environment_check: CountedEnvironmentCheck) -> None:
    breaker = cached_circuit_breaker(environment_check, environment_check.context.state_sync, "prod")
    assert not breaker()
    change_state(environment_check, "UPDATE sqlmesh._environments SET expiration_ts = 1 WHERE name = 'prod'")
    assert [breaker() for _ in range(3)] == [False] * 3
    assert environment_check.calls == 2
