"""A process whose lock is lost computes, promotes and deletes nothing more."""

import io
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from dg_sqlmesh_component.capabilities.janitor.worker.janitor import JanitorConsole
from dg_sqlmesh_component.protocol.errors import LockLostError
from dg_sqlmesh_component.worker.observe.tracker import Cancelled, Tracker
from dg_sqlmesh_component.worker.pipe import Pipe


@pytest.fixture
def pipe() -> Pipe:
    """A pipe whose events nobody reads. The constructor would take over this process's own streams."""
    pipe = Pipe.__new__(Pipe)
    pipe._events, pipe._lock = cast("Any", io.BytesIO()), threading.Lock()
    pipe.is_cancelled, pipe.locks = False, [lambda: None, lambda: "The lock of runs is lost."]
    return pipe


def test_no_batch_begins_without_the_lock(pipe: Pipe) -> None:
    tracker = Tracker(pipe)
    with pytest.raises(Cancelled):
        tracker.start_snapshot_evaluation_progress(cast("Any", None))
    assert str(tracker.lost_lock) == "The lock of runs is lost."
    assert not tracker.was_cancelled


@pytest.mark.parametrize(
    "step", [Tracker.update_promotion_progress, Tracker.update_cleanup_progress], ids=["a view", "a deleted table"]
)
def test_nothing_is_promoted_or_deleted_after_one_step_without_the_lock(
    pipe: Pipe, step: Callable[[Tracker], None]
) -> None:
    tracker = Tracker(pipe)
    with pytest.raises(LockLostError, match=r"The lock of runs is lost\."):
        step(tracker)
    assert tracker.lost_lock is not None
    pipe.locks.pop()
    step(tracker)


def test_the_janitor_stops_after_the_object_that_it_deletes_without_the_lock(pipe: Pipe) -> None:
    with pytest.raises(LockLostError):
        JanitorConsole(pipe).update_cleanup_progress("t.orders")
