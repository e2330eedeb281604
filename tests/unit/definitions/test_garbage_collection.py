"""Building definitions pauses Python's garbage collection and restores its earlier state."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from dg_sqlmesh_component.definitions.garbage_collection import paused_garbage_collection


@pytest.fixture(autouse=True)
def _enabled() -> Iterator[None]:
    assert gc.isenabled()
    yield
    gc.enable()


def test_garbage_collection_is_paused_inside_and_enabled_afterwards() -> None:
    with paused_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_garbage_collection_is_enabled_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="wrong"), paused_garbage_collection():
        raise ValueError("wrong")
    assert gc.isenabled()


def test_disabled_garbage_collection_stays_disabled() -> None:
    gc.disable()
    with paused_garbage_collection():
        pass
    assert not gc.isenabled()
