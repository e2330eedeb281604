"""Advice about `defs.yaml`: a wrong value is refused, and what the error says to write loads."""

from typing import Any

import pytest
from dagster.components.resolved.errors import ResolutionException
from pydantic import ValidationError
from unit.config.attributes import loaded

from dg_sqlmesh_component.protocol.errors import SQLMeshComponentError

WAIT = {"external_models": {"keys": {"raw.events": "dlt/events"}, "wait": True}}


def advised(part: str, wrong: dict[str, Any], *corrected: dict[str, Any]) -> Any:
    """Return a row: a part of the advice, attributes that it is about, and each correction that it names."""
    return pytest.param(part, wrong, corrected, id=part)


@pytest.mark.parametrize(
    ("part", "wrong", "corrected"),
    [
        advised(
            "Change `audits.checks`, or remove `audits.sample_rows`.",
            {"audits": {"checks": "none", "sample_rows": 3}},
            {"audits": {"checks": "blocking", "sample_rows": 3}},
            {"audits": {"checks": "none"}},
        ),
        advised(
            ".sample_rows`, or remove `",
            {"audits": {"columns": ["id"]}},
            {"audits": {"columns": ["id"], "sample_rows": 3}},
            {"audits": {}},
        ),
        advised(
            "`budget` in defs.yaml sets no limit. Write one, for example `seconds: 1800`.",
            {"budget": {}},
            {"budget": {"seconds": 1800}},
        ),
        advised(
            "`project.environment` in defs.yaml is {}. Write a name.",
            {"project": {"path": "shop", "environment": " "}},
            {"project": {"path": "shop", "environment": "dev"}},
        ),
        advised(
            "It compares the tables that the models wait for. Set them as well:",
            {"external_models": {"keys": {"raw.events": "dlt/events"}, "late": "warn"}},
            {"external_models": {"keys": {"raw.events": "dlt/events"}, "late": "warn", "wait": True}},
        ),
        advised(
            "A tick of the schedule requests the restatements. Set both as well:",
            {"external_models": {**WAIT["external_models"], "late": "restate"}},
            {"external_models": {**WAIT["external_models"], "late": "restate"}, "restate": True, "schedule": True},
        ),
        advised(
            "Dagster would request each model twice. Remove one of them.",
            {"schedule": True, "automation": "cron"},
            {"schedule": True},
            {"automation": "cron"},
        ),
        advised(
            "Write seconds, or text such as 2h, 90m, 1 day or PT1H30M",
            {"freshness": {"slack": "soon"}},
            *({"freshness": {"slack": slack}} for slack in (7200, "2h", "90m", "1 day", "PT1H30M")),
        ),
        advised(
            "so no interval would wait. Name a table, or remove `external_models.wait`.",
            {"external_models": {"keys": {"raw.events": "dlt/events"}, "wait": {"tables": []}}},
            {"external_models": {"keys": {"raw.events": "dlt/events"}, "wait": {"tables": ["raw.events"]}}},
            {"external_models": {"keys": {"raw.events": "dlt/events"}}},
        ),
        advised(
            "in defs.yaml is true or false. Write a number.",
            {"execution": {"concurrent_tasks": "{{ true }}"}},
            {"execution": {"concurrent_tasks": 2}},
        ),
        advised("in defs.yaml is {}. Write {}, for example:", {"schedule": "daily"}, {"schedule": True}),
        advised(
            "every {} seconds at most. Write a longer interval, for example 5m.",
            {"polling_sensor": {"interval": 5}},
            {"polling_sensor": {"interval": "5m"}},
        ),
        advised(
            "Set `schedule.cron` too, or remove `schedule.timezone`.",
            {"schedule": {"timezone": "Europe/Berlin"}},
            {"schedule": {"timezone": "Europe/Berlin", "cron": "@daily"}},
            {"schedule": True},
        ),
        advised(
            "Write five fields, for example '0 6 * * *', or an alias such as '@daily'.",
            {"schedule": {"cron": "every day"}},
            {"schedule": {"cron": "0 6 * * *"}},
            {"schedule": {"cron": "@daily"}},
        ),
        advised(
            "which is no time zone. Write a name such as 'Europe/Berlin'.",
            {"janitor": {"timezone": "Berlin"}},
            {"janitor": {"timezone": "Europe/Berlin"}},
        ),
        advised("write a number", {"budget": {"seconds": []}}, {"budget": {"seconds": 5}}),
        advised("write {}", {"preview": True}, {"preview": {"environment": "pr_12"}}),
        advised(
            "Set `execution.retries` in defs.yaml: the step retries missing intervals.",
            {"translation": {"retries": 3}},
            {"execution": {"retries": 3}},
        ),
        advised(
            "Give the model a tag, and set a limit for it in defs.yaml: `execution.tag_concurrency_limits`.",
            {"execution": {"pool": "warehouse"}},
            {"execution": {"tag_concurrency_limits": {"a:b:c": 1}}},
        ),
        advised(
            "is an environment of its own, which is made from prod. Write for example",
            {"preview": {"environment": "prod"}},
            {"preview": {"environment": "pr_{{ env('PULL_REQUEST', '12') }}"}},
        ),
        advised(
            "Write a name, or remove it: the op has a pool by default.", {"op": {"pool": ""}}, {"op": {"pool": "x"}}, {}
        ),
        advised(
            "and the op is in another pool. Write `op.pool: {}` instead.",
            {"op": {"tags": {"dagster/concurrency_key": "x"}}},
            {"op": {"pool": "x"}},
        ),
        advised(
            "Write a text, such as `{}: {}`. If no tag sets a property, write `tag_convention: false`.",
            {"tag_convention": {"prefix": ""}},
            {"tag_convention": {"prefix": "dagster"}},
            {"tag_convention": False},
        ),
        advised(
            "which ends with the separator {}, so a tag would need it twice. Write `prefix: {}` instead.",
            {"tag_convention": {"prefix": "x:y:"}},
            {"tag_convention": {"prefix": "x:y"}},
        ),
        advised(
            "SQLMesh models have no partitions in Dagster. Remove it.",
            {"op": {"backfill_policy": {"type": "single_run"}}},
            {},
        ),
    ],
)
def test_what_the_error_says_to_write_loads(
    part: str, wrong: dict[str, Any], corrected: tuple[dict[str, Any], ...]
) -> None:
    with pytest.raises((SQLMeshComponentError, ResolutionException, ValidationError)) as refusal:
        loaded({"project": "shop", **wrong})
    assert all(of in str(refusal.value) for of in part.split("{}"))
    for attributes in corrected:
        assert loaded({"project": "shop", **attributes})
