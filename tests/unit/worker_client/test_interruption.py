"""A signal does not interrupt the results of a step. After the op, Dagster has its own signal handlers again."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest
from dagster._utils import interrupts

from dg_sqlmesh_component.worker_client.interruption import Interruption

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class ReceivedInterrupt(dict[str, bool]):
    """Replaces the flag that Dagster reads right after it installs the raising signal handler."""

    def __init__(self, when_looked_at: Callable[[], None]) -> None:
        super().__init__(received=False)
        self._when_looked_at = when_looked_at

    def __getitem__(self, key: str) -> bool:
        self._when_looked_at()
        return super().__getitem__(key)


class Run:
    """A run of an op that yields three pairs of results, like materializations with their checks."""

    def __init__(self, signal_at: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._signal_at, self._number = signal_at, number
        self._monkeypatch = monkeypatch
        self._is_guarded = False
        self.signalled_at: list[str] = []
        self.handlers_between_ops: list[str] = []
        """The signal handlers at each event between the end of the op and the start of the next."""
        self.interruption: Interruption

    def reach(self, place: str) -> None:
        if self._is_guarded and place == self._signal_at and not self.signalled_at:
            self.signalled_at.append(place)
            os.kill(os.getpid(), self._number)

    def execute(self, fails: bool = False, guard: bool = True) -> dg.ExecuteInProcessResult:
        self._monkeypatch.setattr(
            interrupts, "_received_interrupt", ReceivedInterrupt(lambda: self.reach("as Dagster goes on"))
        )
        store = dg.DagsterInstance.handle_new_event
        instance = dg.DagsterInstance.ephemeral()

        def handle_new_event(event: Any, **options: Any) -> None:
            if event.dagster_event is not None and event.dagster_event.is_step_materialization:
                self.reach("while Dagster records")
            if event.dagster_event is not None and event.dagster_event.event_type_value in (
                "STEP_SUCCESS",
                "STEP_START",
            ):
                handler: Any = signal.getsignal(signal.SIGINT)
                self.handlers_between_ops.append(handler.__qualname__)
            store(instance, event, **options)

        self._monkeypatch.setattr(instance, "handle_new_event", handle_new_event)

        def finished() -> Iterator[int]:
            for number in range(3):
                self._is_guarded = True
                self.reach("in the op")
                yield number
            if fails:
                raise dg.Failure("something failed")

        @dg.op(out=dg.Out(dg.Nothing))
        def yields_results(context) -> Any:  # type: ignore[no-untyped-def]  # Dagster does not resolve annotations here
            self.interruption = Interruption(context, lambda: None)
            for number in self.interruption.guard(finished()) if guard else finished():
                yield dg.AssetMaterialization(f"asset_{number}")
                self.reach("between two results of one")
                yield dg.AssetMaterialization(f"check_{number}")
            self._is_guarded = False
            yield dg.Output(None)

        @dg.op(ins={"before": dg.In(dg.Nothing)})
        def comes_next() -> None: ...

        @dg.job
        def job() -> None:
            comes_next(yields_results())

        return job.execute_in_process(instance=instance, raise_on_error=False)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Install one handler for both signals, as Dagster's processes do."""
    before = [signal.getsignal(number) for number in NUMBERS]
    interrupts.setup_interrupt_handlers()
    yield
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)


PLACES = ("in the op", "while Dagster records", "between two results of one", "as Dagster goes on")


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("place", PLACES)
def test_no_result_is_lost_wherever_a_signal_comes(place: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    run = Run(place, number, monkeypatch)
    result = run.execute()
    assert run.signalled_at == [place]
    assert run.interruption.is_cancelled
    recorded = [
        event.asset_key.path[0] for event in result.all_events if event.is_step_materialization and event.asset_key
    ]
    assert recorded == [f"{kind}_{number}" for number in range(3) for kind in ("asset", "check")]
    assert result.success
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_signal_handlers_of_dagster_are_restored_after_an_op_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    installing = interrupts._replace_interrupt_signal
    before = [signal.getsignal(number) for number in NUMBERS]
    assert not Run("nowhere", signal.SIGTERM, monkeypatch).execute(fails=True).success
    assert interrupts._replace_interrupt_signal is installing
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_signal_handlers_between_our_op_and_the_next_are_dagsters(monkeypatch: pytest.MonkeyPatch) -> None:
    guarded, unguarded = (Run("nowhere", signal.SIGTERM, monkeypatch) for _ in range(2))
    assert guarded.execute().success
    assert unguarded.execute(guard=False).success
    assert len(unguarded.handlers_between_ops) == 4  # both ops start and succeed
    assert guarded.handlers_between_ops == unguarded.handlers_between_ops


@pytest.mark.parametrize("in_dagster", ["report_run_canceling", "report_run_canceled"])
def test_step_is_cancelled_without_a_signal_if_dagster_has_recorded_that_its_run_is(
    in_dagster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Celery executor sends no signal to a step that runs."""
    monkeypatch.setattr("dg_sqlmesh_component.worker_client.interruption.RUN_CHECK_SECONDS", 0.01)
    cancels: list[bool] = []

    @dg.op
    def waits(context) -> Any:  # type: ignore[no-untyped-def]  # Dagster does not resolve annotations here
        interruption = Interruption(context, lambda: cancels.append(True))

        def results() -> Iterator[None]:
            getattr(context.instance, in_dagster)(context.run)
            until = time.monotonic() + 10
            while not cancels and time.monotonic() < until:
                time.sleep(0.01)
            yield

        list(interruption.guard(results()))
        cancels.append(interruption.is_cancelled)

    @dg.job
    def job() -> None:
        waits()

    job.execute_in_process()
    assert cancels == [True, True]
