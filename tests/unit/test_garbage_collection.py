"""Building definitions pauses Python's garbage collection and restores its earlier state."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from dg_sqlmesh_component.definitions.garbage_collection import collecting_no_garbage


@pytest.fixture(autouse=True)
def _enabled() -> Iterator[None]:
    assert gc.isenabled()
    yield
    gc.enable()


def test_garbage_collection_is_paused_inside_and_enabled_afterwards() -> None:
    with collecting_no_garbage():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_garbage_collection_is_enabled_again_after_an_error() -> None:
    with pytest.raises(ValueError, match="wrong"), collecting_no_garbage():
        raise ValueError("wrong")
    assert gc.isenabled()


def test_disabled_garbage_collection_stays_disabled() -> None:
    gc.disable()
    with collecting_no_garbage():
        pass
    assert not gc.isenabled()
