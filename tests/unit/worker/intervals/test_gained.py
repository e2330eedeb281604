"""Which intervals of readers lack rows because of a plan, over plain pictures of the tables before and after it."""

from collections.abc import Sequence
from typing import Any

import pytest

from dg_sqlmesh_component.protocol.messages import Interval
from dg_sqlmesh_component.worker.intervals.gained import LackingRows, ReadTable, lacking_rows

DAYS = [(10, 20)]


def table(*reads: str, shown: Sequence[Interval] = DAYS, depends_on_past: bool = False, **more: Any) -> ReadTable:
    """A table of daily intervals, which keeps its rows and has those of before, unless `more` says otherwise."""
    of: dict[str, Any] = {
        "coming": (),
        "computed": shown,
        "planned": (),
        "keeps_rows": True,
        "again": "in_parts",
        "whole": lambda interval: interval,
        **more,
    }
    return ReadTable(frozenset(reads), shown, depends_on_past=lambda: depends_on_past, **of)


EARLIER = table(shown=[(14, 20)], planned=[(10, 14)])  # its `start` is earlier, and the plan computes the days
LATER = table(shown=DAYS, computed=(), planned=[(14, 20)], keeps_rows=False)  # a new version, whose `start` is later
WEEKLY: dict[str, Any] = {"whole": lambda of: (of[0] // 7 * 7, -(-of[1] // 7) * 7)}


def again(**tables: ReadTable) -> dict[str, list[Interval]]:
    return {name: list(of) for name, of in lacking_rows(tables).again.items()}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (table(), []),
        (EARLIER, [(10, 14)]),
        (table(shown=[(10, 16)], planned=[(16, 25)]), [(16, 20)]),
        (table(shown=[(14, 20)], computed=[(9, 20)], keeps_rows=False), [(10, 14)]),
        (table(shown=DAYS, computed=(), planned=[(10, 20)], keeps_rows=False), []),
        (table(shown=[(10, 16)], coming=[(16, 20)], planned=[(16, 20)]), []),
        (table(shown=[(10, 16)], coming=[(16, 18)], planned=[(16, 20)]), [(18, 20)]),
        (LATER, []),
        (table(shown=[(14, 20)], planned=[(10, 14)], again="as_a_whole"), []),
        (table(shown=[(14, 20)], planned=[(10, 14)], again="never"), [(10, 14)]),
    ],
    ids=[
        "nothing changes",
        "an earlier start",
        "a later end, beyond what the reader has computed",
        "a new version with more, which a preview has computed",
        "a new version with the same",
        "what the next run would have computed anyway",
        "more than the next run would have computed",
        "a new version with less: the reader keeps its rows",
        "a table that is computed as a whole has no intervals",
        "a source that is not computed in part",
    ],
)
def test_a_reader_that_is_kept_is_outdated_where_its_source_gains_intervals(
    source: ReadTable, expected: list[Interval]
) -> None:
    found = lacking_rows({"t": source, "r": table("t")})
    assert list(found.again.get("r", ())) == expected
    assert found.because_of == ({"r": ("t",)} if expected else {})
    assert not found.left


def test_whole_intervals_are_computed_again_with_later_ones_that_depend_on_them() -> None:
    assert again(t=EARLIER, r=table("t", shown=[(7, 28)], **WEEKLY)) == {"r": [(7, 14)]}
    assert again(t=EARLIER, r=table("t", shown=[(0, 11), (12, 30)])) == {"r": [(10, 11), (12, 14)]}
    assert again(t=EARLIER, r=table("t", depends_on_past=True)) == {"r": [(10, 20)]}


def test_readers_of_readers_are_outdated_too() -> None:
    first = table("t", shown=[(7, 28)], **WEEKLY)
    assert again(t=EARLIER, r=first, s=table("r"), u=table("s", shown=[(13, 20)])) == {
        "r": [(7, 14)],
        "s": [(10, 14)],
        "u": [(13, 14)],
    }


def test_a_whole_table_waits_for_its_tick_unless_an_incremental_one_reads_it() -> None:
    whole = table("t", shown=(), computed=[(0, 20)], again="as_a_whole")
    assert again(t=EARLIER, f=whole) == {}
    assert again(t=EARLIER, f=whole, g=table("f", shown=(), computed=[(0, 20)], again="as_a_whole")) == {}
    assert again(t=EARLIER, f=whole, r=table("f")) == {"f": [(0, 20)], "r": [(10, 14)]}


@pytest.mark.parametrize("how", ["as_a_whole", "at_its_tick"])
def test_a_whole_table_lacks_no_rows_that_were_not_due_at_its_last_tick(how: str) -> None:
    """A weekly one, and a daily reader of it, which has read it on a later day."""
    until_16 = table("t", shown=(), computed=[(0, 16)], again=how)
    later = table(shown=[(10, 17)], planned=[(17, 18)])
    assert lacking_rows({"t": later, "f": until_16, "r": table("f")}) == LackingRows()
    found = lacking_rows({"t": table(shown=[(10, 15)], planned=[(15, 18)]), "f": until_16, "r": table("f")})
    assert (found.again | found.left)["r"] == ((15, 16),)


@pytest.mark.parametrize("between", ["never", "at_its_tick"])
def test_what_cannot_be_computed_in_part_is_named_with_its_readers(between: Any) -> None:
    found = lacking_rows({"t": EARLIER, "u": table("t", again=between), "r": table("u"), "s": table("r", "t")})
    assert {name: list(of) for name, of in found.again.items()} == {"s": [(10, 14)]}
    assert {name: list(of) for name, of in found.left.items() if name != "u"} == {"r": [(10, 14)], "s": [(10, 14)]}
    assert ("u" in found.left) is (between == "never")
    assert found.because_of["r"] == ("u",)


def test_a_new_version_between_passes_new_rows_on_and_is_computed_again_only_if_it_has_read_old_ones() -> None:
    """A preview may have computed it, from a table of prod that is computed again now."""
    rebuilt = table("t", keeps_rows=False)
    assert again(t=EARLIER, r=rebuilt, s=table("r")) == {"s": [(10, 14)]}
    assert again(t=EARLIER, r=table("t"), s=table("r", keeps_rows=False)) == {"r": [(10, 14)], "s": [(10, 14)]}
    as_a_whole = table("r", keeps_rows=False, again="never")
    assert again(t=EARLIER, r=table("t"), s=as_a_whole)["s"] == [(10, 20)]
