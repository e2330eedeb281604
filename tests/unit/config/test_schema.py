"""The JSON schema of `defs.yaml`, by which `dg check yaml` reports errors."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from unit.config.attributes import ATTRIBUTE_PATHS, EVERYTHING, replaced, values

from dg_sqlmesh_component import SQLMeshProjectComponent
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


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            {"execution": {"retries": {"max_retry": 3}}},
            [
                "execution.retries: 'max_retries' is a required property",
                "execution.retries: Additional properties are not allowed ('max_retry' was unexpected)",
            ],
        ),
        ({"translation": {"grup_name": "x"}}, ["translation: Additional properties are not allowed ('grup_name' was"]),
        (
            {"project": {"path": "shop", "enviroment": "dev"}},
            ["project: Additional properties are not allowed ('enviroment' was unexpected)"],
        ),
        ({"op": {"pool": 5}}, ["op.pool: 5 is not of type 'string', 'null'"]),
        ({"project": {"path": "shop", "env": {"A": 5}}}, ["project.env.A: 5 is not of type 'string'"]),
        ({"include_metadata": ["sqll"]}, ["include_metadata.0: 'sqll' is not one of ['column_lineage', 'links',"]),
        (
            {"schedule": {"default_status": "ON"}},
            ["schedule.default_status: 'ON' is not one of ['RUNNING', 'STOPPED']"],
        ),
        ({"automation": "daily"}, ["automation: 'daily' is not one of ['cron']"]),
        (
            {"preview": True},
            ['preview: \'a mapping, for example {"environment": "pr_{{ env.PULL_REQUEST }}"}\' was exp'],
        ),
        ({"freshness": 7200}, ['freshness: \'a mapping, for example {"slack": "2h"}\' was expected']),
        ({"audits": None}, ['audits: \'a mapping, for example {"checks": "blocking"}\' was expected']),
        ({"schedule": []}, ['schedule: \'true, false or a mapping, for example {"default_status": ']),
        (
            {"external_models": {"keys": ["raw.payments"]}},
            ['external_models.keys: \'a mapping, for example {"raw.orders": "dlt/shop/orders"}\' was expected'],
        ),
        ({"select": True}, ["select: True is not of type 'string', 'array', 'null'"]),
        ({"include_metadata": {}}, ["include_metadata: {} is not of type 'array', 'string'"]),
    ],
    ids=str,
)
def test_wrong_key_or_value_is_reported_by_name(attributes: dict[str, Any], expected: list[str]) -> None:
    messages = messages_of(attributes)
    assert len(messages) == len(expected)
    assert all(error.startswith(start) for error, start in zip(messages, expected)), messages


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            {"schedule": {"default_statu": "RUNNING"}},
            ["schedule.default_statu: Value error, there is no such attribute. Did you mean default_status?"],
        ),
        ({"schedule": {"tags": {"a": 5}}}, ["schedule.tags.a: Value error, write text"]),
        ({"schedule": 5}, ["schedule: Value error, write true, false or a mapping, for example {"]),
        ({"janitor": {"cron": 5}}, ["janitor.cron: Value error, write text"]),
        (
            {"polling_sensor": {"interva": 5}},
            ["polling_sensor.interva: Value error, there is no such attribute. Did you mean interval?"],
        ),
        (
            {"execution": {"retries": {"max_retry": 3}}},
            [
                "execution.retries.max_retries: Field required",
                "execution.retries.max_retry: Value error, there is no such attribute. Did you mean max_retries",
            ],
        ),
        (
            {"select": {"a": 1}, "nope": 1},
            ["select: Value error, write text or a list", "nope: Value error, there is no"],
        ),
        ({"preview": True}, ['preview: Value error, write a mapping, for example {"environment": "pr_{{ env.PULL_']),
        (
            {"external_models": {"keys": ["raw.payments"]}},
            ['external_models.keys: Value error, write a mapping, for example {"raw.orders": "dlt/shop/orders"}'],
        ),
        (
            {"preview": {"environment": "pr", "diff": {"decimal": 2}}},
            ["preview.diff.decimal: Value error, there is no"],
        ),
        (
            {"translation": {"grup_name": "x"}},
            ["translation.grup_name: Value error, there is no such attribute. Did y"],
        ),
        ({"virtual_views": {}}, ["virtual_views: Value error, write true or false"]),
        (
            {"execution": {"timeout": "30m"}},
            ["execution.timeout: Value error, there is no such attribute. One process computes all models, and cannot"],
        ),
    ],
    ids=str,
)
def test_wrong_key_or_value_is_one_error_when_dagster_loads_it(attributes: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        SQLMeshProjectComponent.get_model_cls().model_validate({"project": "shop", **attributes})
    messages = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in caught.value.errors()]
    assert len(messages) == len(expected)
    assert all(error.startswith(start) for error, start in zip(messages, expected)), messages


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
