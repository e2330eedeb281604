"""The JSON schema of `defs.yaml`, by which `dg check yaml` reports errors."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from unit.config.attributes import ATTRIBUTE_PATHS, EVERYTHING, replaced, values

from dg_sqlmesh_component import SQLMeshProjectComponent
from dg_sqlmesh_component.config.attribute_types import NOT_OF_ONE_MODEL
from dg_sqlmesh_component.config.schema import name_errors

DAGSTERS_SCHEMA = SQLMeshProjectComponent.model().model_json_schema()
OUR_SCHEMA = SQLMeshProjectComponent.get_model_cls().model_json_schema()
ENUMERATED = [place for place in ATTRIBUTE_PATHS if place[-1] in ("checks", "automation")]


def messages_of(attributes: dict[str, Any]) -> list[str]:
    """Return path and message of each error that `dg check yaml` would report."""
    validation_errors = Draft202012Validator(OUR_SCHEMA).iter_errors({"project": "shop", **attributes})
    return sorted(f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validation_errors)


def test_json_schema_of_the_attributes_is_valid() -> None:
    Draft202012Validator.check_schema(OUR_SCHEMA)
    assert not messages_of(EVERYTHING)


def unknown(parent: str, key: str, advice: str) -> tuple[str, str]:
    """Return the error for a key that does not exist, from `dg check yaml` and from a load."""
    start = f"{parent}.{key}" if parent else key
    return (
        f"{parent}: Additional properties are not allowed ('{key}' was unexpected)",
        f"{start}: Value error, there is no such attribute. {advice}",
    )


def instead_of(path: str, expected: str) -> tuple[str, str]:
    return f"{path}: {expected!r} was expected", f"{path}: Value error, write {expected}"


def of_type(path: str, value: object, types: str, expected: str) -> tuple[str, str]:
    return f"{path}: {value!r} is not of type {types}", f"{path}: Value error, write {expected}"


SCHEDULE = "true, false or a mapping, for example {default_status: RUNNING, tags: {team: data}}"
WORDS = "'column_lineage', 'links', 'row_count', 'sql'"

WRONG: list[tuple[Any, ...]] = [
    ({"translation": {"grup_name": "x"}}, unknown("translation", "grup_name", "Did you mean group_name?")),
    ({"project": {"path": "shop", "enviroment": ""}}, unknown("project", "enviroment", "Did you mean environment?")),
    ({"schedule": {"default_statu": "ON"}}, unknown("schedule", "default_statu", "Did you mean default_status?")),
    ({"execution": {"timeout": "30m"}}, unknown("execution", "timeout", NOT_OF_ONE_MODEL["timeout"])),
    (
        {"preview": {"environment": "pr", "diff": {"profile": 2}}},
        unknown("preview.diff", "profile", "Known: decimals, ignore, max_rows."),
    ),
    (
        {"execution": {"retries": {"max_retry": 3}}},
        ("execution.retries: 'max_retries' is a required property", "execution.retries.max_retries: Field required"),
        unknown("execution.retries", "max_retry", "Did you mean max_retries?"),
    ),
    (
        {"select": {"a": 1}, "nope": 1},
        of_type("select", {"a": 1}, "'string', 'array', 'null'", "text or a list"),
        unknown("", "nope", "Did you mean op?"),
    ),
    ({"preview": True}, instead_of("preview", "a mapping, for example {environment: 'pr_{{ env.PULL_REQUEST }}'}")),
    ({"audits": None}, instead_of("audits", "a mapping, for example {checks: blocking}")),
    ({"schedule": []}, instead_of("schedule", SCHEDULE)),
    (
        {"external_models": {"keys": ["raw.payments"]}},
        instead_of("external_models.keys", "a mapping, for example {raw.orders: dlt/shop/orders}"),
    ),
    ({"op": {"pool": 5}}, of_type("op.pool", 5, "'string', 'null'", "a value of another type")),
    ({"project": {"path": "shop", "env": {"A": 5}}}, of_type("project.env.A", 5, "'string'", "text")),
    ({"select": True}, of_type("select", True, "'string', 'array', 'null'", "text or a list")),
    ({"include_metadata": {}}, of_type("include_metadata", {}, "'array', 'string'", "a list")),
    ({"virtual_views": {}}, of_type("virtual_views", {}, "'boolean', 'string'", "true or false")),
    (
        {"include_metadata": ["sqll"]},
        (
            f"include_metadata.0: 'sqll' is not one of [{WORDS}, 'storage_kind']",
            f"include_metadata.0: Input should be {WORDS} or 'storage_kind'",
        ),
    ),
]


@pytest.mark.parametrize("row", WRONG, ids=lambda row: str(row[0]))
def test_wrong_key_or_value_is_one_error_with_its_path_in_the_schema_and_in_a_load(row: tuple[Any, ...]) -> None:
    attributes, *errors = row
    assert messages_of(attributes) == sorted(of_schema for of_schema, _ in errors)
    with pytest.raises(ValidationError) as caught:
        SQLMeshProjectComponent.get_model_cls().model_validate({"project": "shop", **attributes})
    loaded = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in caught.value.errors()]
    assert loaded == [of_load for _, of_load in errors]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"schedule": {"default_status": "ON"}}, "schedule.default_status: 'ON' is not one of ['RUNNING', 'STOPPED']"),
        ({"automation": "daily"}, "automation: 'daily' is not one of ['cron']"),
    ],
    ids=str,
)
def test_wrong_word_is_an_error_in_the_schema(attributes: dict[str, Any], message: str) -> None:
    assert messages_of(attributes) == [message]


@pytest.mark.parametrize(
    "retries", [3, None, "{{ env.RETRIES }}", {"max_retries": "{{ env.RETRIES }}", "delay": "{{ env.DELAY }}"}], ids=str
)
def test_retries_accept_a_number_a_mapping_and_templates(retries: Any) -> None:
    assert not messages_of({"execution": {"retries": retries}})


@pytest.mark.parametrize("path", ATTRIBUTE_PATHS, ids=str)
def test_schema_accepts_the_same_as_dagsters_schema_except_unknown_enum_words(path: tuple[Any, ...]) -> None:
    @settings(max_examples=settings().max_examples // 6)  # for each of 80 attributes
    @given(values)
    def accepts_the_same(value: Any) -> None:
        attributes = replaced(path, value)
        is_valid_for_dagster, is_valid_for_us = (
            Draft202012Validator(schema).is_valid(attributes) for schema in (DAGSTERS_SCHEMA, OUR_SCHEMA)
        )
        is_wrong_word = path in ENUMERATED and isinstance(value, str)
        assert is_valid_for_us == is_valid_for_dagster or (is_wrong_word and is_valid_for_dagster)

    accepts_the_same()


def test_union_of_two_mappings_is_unchanged() -> None:
    schema = {
        "$defs": {"A": {"type": "object"}, "B": {"type": "object"}},
        "properties": {"it": {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}, {"type": "string"}]}},
    }
    assert name_errors(copy.deepcopy(schema)) == schema
