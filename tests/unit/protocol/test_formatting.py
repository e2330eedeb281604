"""Formatting of text for people."""

import pytest

from dg_sqlmesh_component.protocol.formatting import counted, cut


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


@pytest.mark.parametrize("characters", [0, 1, 199, 200])
def test_text_within_the_limit_is_not_cut(characters: int) -> None:
    assert cut("x" * characters, 200) == "x" * characters


@pytest.mark.parametrize("characters", [201, 2_000])
def test_longer_text_is_cut_with_a_note_of_its_length(characters: int) -> None:
    note = f"\n-- cut here: {characters} characters in all"
    assert cut("x" * characters, 200) == "x" * (200 - len(note)) + note
