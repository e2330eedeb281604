"""A SQLMesh project as plain data."""

import pytest

from dg_sqlmesh_component.manifest import MAX_QUERY_CHARACTERS, cut, split_fqn


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


@pytest.mark.parametrize("characters", [0, 1, MAX_QUERY_CHARACTERS - 1, MAX_QUERY_CHARACTERS])
def test_a_query_within_the_bound_is_kept_whole(characters: int) -> None:
    assert cut("x" * characters) == "x" * characters


@pytest.mark.parametrize("characters", [MAX_QUERY_CHARACTERS + 1, 10 * MAX_QUERY_CHARACTERS])
def test_a_longer_query_is_cut_and_says_how_long_it_was(characters: int) -> None:
    note = f"\n-- cut here: {characters} characters in all"
    kept = cut("SELECT " + "x" * (characters - len("SELECT ")))
    assert len(kept) == MAX_QUERY_CHARACTERS
    assert kept == "SELECT " + "x" * (MAX_QUERY_CHARACTERS - len("SELECT ") - len(note)) + note


@pytest.mark.parametrize("characters", [1, MAX_QUERY_CHARACTERS, MAX_QUERY_CHARACTERS + 1, 10 * MAX_QUERY_CHARACTERS])
def test_what_was_cut_is_not_cut_again(characters: int) -> None:
    assert cut(cut("x" * characters)) == cut("x" * characters)
