"""Names of asset checks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dg_sqlmesh_component.worker.naming import MAX_LENGTH, check_names

Use = tuple[str, dict[str, str]]

NAMES = {
    "an audit that stands once keeps its name, whatever its arguments": (
        [("not_null", {"columns": "(a)"}), ("forall", {"criteria": "x > 1"})],
        ["not_null", "forall"],
    ),
    "an audit that stands twice is told apart by its arguments": (
        [("not_null", {"columns": "(a)"}), ("unique", {}), ("not_null", {"columns": "(b, c)"})],
        ["not_null_a", "unique", "not_null_b_c"],
    ),
    "all arguments count": (
        [("accepted", {"column": "a", "n": "1"}), ("accepted", {"column": "a", "n": "2"})],
        ["accepted_a_1", "accepted_a_2"],
    ),
    "uses that do not differ are numbered": (
        [("not_null", {"columns": "(a)"})] * 3,
        ["not_null_a", "not_null_a_2", "not_null_a_3"],
    ),
    "uses without arguments are numbered": ([("check", {}), ("check", {})], ["check", "check_2"]),
    "arguments that differ only in what a name cannot hold are numbered": (
        [("positive", {"of": "a > b"}), ("positive", {"of": "a < b"})],
        ["positive_a_b", "positive_a_b_2"],
    ),
    "characters that a name cannot hold become an underscore": ([("no-nulls (v2)", {})], ["no_nulls_v2"]),
    "a name without a character that fits is still a name": ([("注文", {}), ("größe", {})], ["audit", "gr_e"]),
    "audits whose names become one are told apart": (
        [("a-b", {"columns": "x"}), ("a b", {"columns": "y"})],
        ["a_b_x", "a_b_y"],
    ),
    "an argument without a character that fits is still told": (
        [("equals", {"value": "'*'"}), ("equals", {"value": "1"})],
        ["equals_audit", "equals_1"],
    ),
    "a model without audits has none": ([], []),
}


@pytest.mark.parametrize(("uses", "names"), NAMES.values(), ids=NAMES)
def test_check_names(uses: list[Use], names: list[str]) -> None:
    assert check_names(uses) == names


def test_reordering_the_audits_of_a_model_renames_no_check() -> None:
    uses = [("not_null", {"columns": "(a)"}), ("not_null", {"columns": "(b)"}), ("unique", {"columns": "(a)"})]
    assert check_names(uses[::-1]) == check_names(uses)[::-1]


def test_long_arguments_are_cut_and_the_names_still_differ() -> None:
    same = "x" * (2 * MAX_LENGTH)
    names = check_names([("forall", {"criteria": f"{same}1"}), ("forall", {"criteria": f"{same}2"})])
    cut = f"forall_{same}"[:MAX_LENGTH]
    assert names == [cut, f"{cut}_2"]


@pytest.mark.parametrize(
    "uses",
    [[("a", {}), ("a", {}), ("a_2", {})], [("a", {"x": "b"}), ("a", {"x": "b"}), ("a_b_2", {})]],
    ids=["without arguments", "with arguments"],
)
def test_a_numbered_name_is_not_that_of_another_audit(uses: list[Use]) -> None:
    names = check_names(uses)
    assert len({*names}) == len(uses)
    assert names[-1] == uses[-1][0]


audit_names = st.sampled_from(["a", "a_b", "a b", "a_2", "a_b_2", "注文"])
arguments = st.dictionaries(st.sampled_from(["columns", "value"]), st.sampled_from(["(a)", "b", "2", "'*'"]))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(audit_names, arguments), max_size=6))
def test_all_names_differ_and_are_names(uses: list[Use]) -> None:
    names = check_names(uses)
    assert len({*names}) == len(uses)
    assert all(name.isidentifier() and name.isascii() for name in names)
