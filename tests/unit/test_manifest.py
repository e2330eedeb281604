"""A SQLMesh project as plain data."""

import pytest

from dg_sqlmesh_component.manifest import cut, split_fqn

LIMIT = 200


@pytest.mark.parametrize(
    ("quoted", "parts"),
    [
        ('"db"."core"."orders"', ("db", "core", "orders")),
        ('"orders"', ("orders",)),
        ('"a.b"."c d"', ("a.b", "c d")),
        ('"say ""hi"""."orders"', ('say "hi"', "orders")),
        ('""', ("",)),
        ("orders_add_up", ()),
    ],
)
def test_a_quoted_name_is_taken_apart_at_its_quotes(quoted: str, parts: tuple[str, ...]) -> None:
    assert split_fqn(quoted) == parts


@pytest.mark.parametrize("characters", [0, 1, LIMIT - 1, LIMIT])
def test_a_query_within_the_bound_is_kept_whole(characters: int) -> None:
    assert cut("x" * characters, LIMIT) == "x" * characters


@pytest.mark.parametrize("characters", [LIMIT + 1, 10 * LIMIT])
def test_a_longer_query_is_cut_and_says_how_long_it_was(characters: int) -> None:
    note = f"\n-- cut here: {characters} characters in all"
    kept = cut("SELECT " + "x" * (characters - len("SELECT ")), LIMIT)
    assert len(kept) == LIMIT
    assert kept == "SELECT " + "x" * (LIMIT - len("SELECT ") - len(note)) + note
