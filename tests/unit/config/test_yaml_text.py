"""YAML that a person pastes means what it was made of, for every reader of YAML."""

from typing import Any

import pytest
import yaml
from dagster_shared.yaml_utils import load_run_config_yaml
from hypothesis import given
from hypothesis import strategies as st

from dg_sqlmesh_component.config.yaml_text import yaml_block, yaml_line

TEXTS = (
    st.text(max_size=12)
    | st.from_regex(r"[0-9a-f]{1,12}", fullmatch=True)
    | st.sampled_from(
        [
            "2026-01-01",
            "1e4",
            "12e456",
            "1_000",
            "0x1f",
            "null",
            "no",
            "~",
            "",
            "a: b",
            "*x",
            '"t"."a"',
            "x #y",
            "12:30",
        ]
    )
)
VALUES = st.recursive(
    TEXTS | st.booleans() | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_what_is_written_is_read_again_by_dagster_and_by_pyyaml(value: Any) -> None:
    for text in (yaml_block({"value": value}), yaml_line({"value": value})):
        assert load_run_config_yaml(text) == {"value": value}
        assert yaml.safe_load(text) == {"value": value}


def test_text_that_yaml_1_2_reads_as_a_number_is_in_quotes() -> None:
    """PyYAML itself would write it without quotes."""
    assert yaml.safe_dump({"name": "123456e7"}) == "name: 123456e7\n"
    assert yaml_block({"name": "123456e7"}) == "name: '123456e7'"


@pytest.mark.parametrize(
    ("value", "line", "block"),
    [
        ({"start": "2026-01-01", "tables": ["raw.orders"]}, "{start: '2026-01-01', tables: [raw.orders]}", None),
        (
            {"ops": {"apply": {"config": {"over_budget": True}}}},
            None,
            "ops:\n  apply:\n    config:\n      over_budget: true",
        ),
        ([{"by": "day"}], "[{by: day}]", "- by: day"),
    ],
)
def test_block_has_lines_and_a_line_has_none(value: Any, line: str | None, block: str | None) -> None:
    assert line in (None, yaml_line(value))
    assert block in (None, yaml_block(value))


def test_a_long_text_stays_on_its_line() -> None:
    names = [f"schema.model_{number}" for number in range(40)]
    assert "\n" not in yaml_line({"allow_destructive": names})


def test_the_same_list_twice_is_written_twice() -> None:
    names = ["t.a"]
    assert yaml_line({"one": names, "two": names}) == "{one: [t.a], two: [t.a]}"
