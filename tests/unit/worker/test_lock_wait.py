"""The waits of a run for locks share one limit, and only waiting counts. A state without locks is named once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlmesh.core.config import Config, GatewayConfig
from sqlmesh.core.config.connection import DuckDBConnectionConfig, MotherDuckConnectionConfig

from dg_sqlmesh_component.capabilities.janitor.messages import JanitorRequest
from dg_sqlmesh_component.capabilities.plans.messages import PlanRequest
from dg_sqlmesh_component.protocol.errors import DatabaseInUseError, EvaluationError
from dg_sqlmesh_component.protocol.messages import AwaitedTables, JobSettings, OpenProject
from dg_sqlmesh_component.worker import state_lock
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.state_lock import CHANGES, RUNS, LockWait, StateLock, locked_context

BACKFILL = 3_600.0


@dataclass
class Clock:
    """Time passes where it is slept, and nowhere else. It also keeps what a run says while it waits."""

    now: float = 1_000.0
    said: list[str] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def log(self, _level: str, text: str) -> None:
        self.said.append(text)

    def refuse_if_cancelled(self) -> None:
        pass

    def held_for(self, seconds: float) -> Callable[[], str]:
        """An attempt that fails until so many seconds have passed."""
        free = self.now + seconds

        def attempt() -> str:
            if self.now < free:
                raise DatabaseInUseError("It is held.")
            return "the lock"

        return attempt


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(state_lock, "time", clock)
    return clock


def lock_wait(clock: Clock, seconds: float) -> LockWait:
    return LockWait(cast("Pipe", cast("Any", clock)), seconds)


def test_two_waits_of_a_run_share_the_limit(clock: Clock) -> None:
    wait = lock_wait(clock, 10)
    assert wait.until(clock.held_for(6)) == "the lock"
    begin = clock.now
    with pytest.raises(DatabaseInUseError, match=r"It is held\. This run has waited for 10 seconds"):
        wait.until(clock.held_for(6))
    assert clock.now - begin == 4


def test_what_a_run_does_between_two_waits_does_not_count(clock: Clock) -> None:
    wait = lock_wait(clock, 10)
    wait.until(clock.held_for(4))
    clock.now += BACKFILL
    assert wait.until(clock.held_for(4)) == "the lock"


def test_an_attempt_that_succeeds_at_once_does_not_count_however_long_it_takes(clock: Clock) -> None:
    wait = lock_wait(clock, 10)
    wait.until(lambda: clock.sleep(BACKFILL))
    assert wait.until(clock.held_for(4)) == "the lock"


def test_a_run_says_that_it_waits_once_a_minute_and_how_long_it_still_will(clock: Clock) -> None:
    lock_wait(clock, 90).until(clock.held_for(70))
    assert [said.split(".")[0] for said in clock.said] == ["Waiting up to 90 seconds", "Waiting up to 30 seconds"]


def test_the_error_of_a_driver_is_explained_to_whoever_asked_for_the_lock(clock: Clock) -> None:
    def fail() -> Any:
        raise OSError("no route to host")

    request = JanitorRequest(OpenProject(("shop",), None, None, None))
    explained = pytest.raises(EvaluationError, match="SQLMesh ended the run with an error: OSError: no route to host")
    with explained, locked_context(request, fail, cast("Pipe", cast("Any", clock))):
        pass


def test_state_without_locks_is_named_once_with_command_that_lets_dagster_start_one_run_at_a_time(clock: Clock) -> None:
    gateway = GatewayConfig(
        connection=DuckDBConnectionConfig(), state_connection=MotherDuckConnectionConfig(token="x", database="state")
    )
    context: Any = SimpleNamespace(config=Config(gateways={"local": gateway}), selected_gateway="local")
    project, job = OpenProject(("shop",), None, None, None), JobSettings(pool="sqlmesh_shop_prod")
    plan = PlanRequest(project, "prod", AwaitedTables(), job=job)
    for scope in (CHANGES, RUNS):  # an apply takes both
        with StateLock(context, plan, lock_wait(clock, 10), scope):
            pass
    [said] = clock.said
    assert said.startswith("SQLMesh's state in motherduck cannot be locked")
    assert said.endswith("\n\n    dagster instance concurrency set sqlmesh_shop_prod 1")
