"""Formatting of text for people."""

import pytest

from dg_sqlmesh_component.protocol.formatting import counted


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (0, ("audit",), "0 audits"),
        (1, ("audit",), "1 audit"),
        (2, ("audit",), "2 audits"),
        (1, ("batch", "batches"), "1 batch"),
        (21, ("batch", "batches"), "21 batches"),
    ],
)
def test_counted_uses_singular_for_one(count: int, words: tuple[str, ...], text: str) -> None:
    assert counted(count, *words) == text
