"""Formatting of text for people."""

import pytest

from dg_sqlmesh_component.protocol.formatting import counted, cut, plan_block


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


def test_a_command_that_only_shows_a_plan_is_not_named_alone() -> None:
    assert plan_block("sqlmesh plan") == "\n\n    sqlmesh plan"
    assert plan_block("dg launch --job shop_plan") == (
        "\n\n    dg launch --job shop_plan"
        "\n\nThis job applies nothing. Its report has the command that applies the plan."
    )
