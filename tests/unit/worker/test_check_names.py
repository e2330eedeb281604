"""Names of asset checks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dg_sqlmesh_component.worker.load.check_names import MAX_LENGTH, check_names

Use = tuple[str, dict[str, str]]

NAMES = {
    "audit without arguments": ([("unique_orders", {})], ["unique_orders"]),
    "an audit keeps the underscores of its name, as dbt's tests have them": (
        [("relationships_loans_book_id__book_id__ref_books_", {})],
        ["relationships_loans_book_id__book_id__ref_books_"],
    ),
    "columns appear by value": (
        [("not_null", {"columns": "(a)"}), ("not_empty", {"column": "b"}), ("not_null", {"columns": "(b, c)"})],
        ["not_null_a", "not_empty_b", "not_null_b_c"],
    ),
    "other arguments follow the columns, with their names": (
        [("accepted_range", {"min_v": "1", "max_v": "10", "column": "price"})],
        ["accepted_range_price_max_v_10_min_v_1"],
    ),
    "words, numbers and lists of them appear": (
        [
            ("accepted_values", {"column": "status", "is_in": "('in transit', 'pre-paid')"}),
            ("accepted_values", {"column": '"status"', "is_in": "['a', 1]"}),
            ("not_null_proportion", {"column": "`a`", "threshold": "0.95"}),
        ],
        [
            "accepted_values_status_is_in_in_transit_pre_paid",
            "accepted_values_status_is_in_a_1",
            "not_null_proportion_a_threshold_0_95",
        ],
    ),
    "arguments that differ only in invalid characters get a hash": (
        [("forall", {"criteria": "(a > 0)"}), ("forall", {"criteria": "(a < 0)"})],
        ["forall_criteria_a_0_25fe18f8", "forall_criteria_a_0_fb832a56"],
    ),
    "a minus sign is an invalid character": (
        [("at_least", {"v": "-1"}), ("at_least", {"v": "1"}), ("at_least", {"v": "''"})],
        ["at_least_v_1_4a0d8f3c", "at_least_v_1", "at_least_v_cdb97ed0"],
    ),
    "audit names with invalid characters get a hash": (
        [("a-b", {}), ("a b", {}), ("a_b", {}), ("注文", {"columns": "x"})],
        ["a_b_d44362d6", "a_b_c8687a08", "a_b", "audit_x_97d29fb7"],
    ),
    "equal uses are numbered": (
        [("not_null", {"columns": "(a)"})] * 3 + [("check", {}), ("check", {})],
        ["not_null_a", "not_null_a_2", "not_null_a_3", "check", "check_2"],
    ),
    "a number that is the name of another audit is skipped": ([("a", {}), ("a", {}), ("a_2", {})], ["a", "a_3", "a_2"]),
    "of different uses with one name, the use with the fewest arguments keeps it": (
        [("not_null", {"columns": "a"}), ("not_null_a", {})],
        ["not_null_a_f576cea0", "not_null_a"],
    ),
    "model without audits": ([], []),
}


@pytest.mark.parametrize(("uses", "names"), NAMES.values(), ids=NAMES)
def test_check_names(uses: list[Use], names: list[str]) -> None:
    assert check_names(uses) == names


def test_long_check_name_is_cut_and_ends_in_a_hash() -> None:
    same = ", ".join(f"'{letter * 20}'" for letter in "abcdef")
    names = [check_names([("accepted_values", {"is_in": f"({same}, {last})"})])[0] for last in ("1", "2")]
    assert len({*names}) == 2
    assert all(len(name) == MAX_LENGTH for name in names)
    assert {name[:-9] for name in names} == {
        f"accepted_values_is_in_{'a' * 20}_{'b' * 20}_{'c' * 20}_{'d' * 20}"[: MAX_LENGTH - 9]
    }


@pytest.mark.parametrize(
    "more",
    [("not_null", {"columns": "(b)"}), ("not_null", {}), ("forall", {"criteria": "(a < 0)"}), ("a-b", {})],
    ids=["of other columns", "without arguments", "of another condition", "another audit"],
)
def test_added_audit_does_not_rename_other_checks(more: Use) -> None:
    uses = [("not_null", {"columns": "(a)"}), ("forall", {"criteria": "(a > 0)"}), ("a_b", {})]
    assert check_names([more, *uses])[1:] == check_names([*uses, more])[:-1] == check_names(uses)


def test_check_name_ignores_the_order_of_arguments() -> None:
    arguments, reordered = {"column": "a", "n": "-1"}, {"n": "-1", "column": "a"}
    assert check_names([("check", arguments)]) == check_names([("check", reordered)])


audit_names = st.sampled_from(["a", "a_b", "a b", "a_2", "a_b_2", "注文"])
arguments = st.dictionaries(st.sampled_from(["columns", "value"]), st.sampled_from(["(a)", "b", "2", "'*'"]))


@given(st.lists(st.tuples(audit_names, arguments), max_size=6))
def test_check_names_are_unique_ascii_identifiers(uses: list[Use]) -> None:
    names = check_names(uses)
    assert len({*names}) == len(uses)
    assert [*sorted(names)] == sorted(check_names(uses[::-1]))
    assert all(name.isidentifier() and name.isascii() for name in names)
