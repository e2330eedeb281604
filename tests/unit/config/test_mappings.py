"""Attributes of `defs.yaml` that are mappings: text in place of a mapping, switches, and templates."""

from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster.components.resolved.core_models import OpSpec
from dagster.components.resolved.errors import ResolutionException
from unit.builders import model
from unit.config.attributes import EVERYTHING, loaded

from dg_sqlmesh_component import Janitor, ProjectTests
from dg_sqlmesh_component.capabilities.polling_sensor.attributes import PollingSensor
from dg_sqlmesh_component.capabilities.restatements.attributes import Restate, RestateJob
from dg_sqlmesh_component.capabilities.schedule.attributes import Schedule
from dg_sqlmesh_component.config.attribute_types import Audits, Freshness, IntervalsCheck, TagConvention
from dg_sqlmesh_component.config.external_models import ExternalModels
from dg_sqlmesh_component.config.mappings import TemplateScope
from dg_sqlmesh_component.protocol.errors import ConfigurationError

SWITCHES = {
    "schedule": Schedule,
    "janitor": Janitor,
    "intervals_check": IntervalsCheck,
    "polling_sensor": PollingSensor,
    "restate": Restate,
    "test": ProjectTests,
}


def resolved(attribute: str, value: Any) -> Any:
    """Resolve one attribute as Dagster does from a `defs.yaml`."""
    return getattr(loaded({**EVERYTHING, "automation": None, attribute: value}), attribute)


@pytest.mark.parametrize(
    ("attribute", "allowed"),
    [
        ("translation", "a mapping"),
        ("tag_convention", "true, false or a mapping"),
        ("external_models", "a mapping"),
        ("external_models.keys", "a mapping"),
        ("audits", "a mapping"),
        ("freshness", "a mapping"),
        ("op", "a mapping"),
        ("execution", "a mapping"),
        ("restate", "true, false or a mapping"),
        ("restate.jobs", "a list of mappings"),
        ("schedule", "true, false or a mapping"),
        ("janitor", "true, false or a mapping"),
        ("intervals_check", "true, false or a mapping"),
    ],
)
def test_text_in_place_of_a_mapping_is_refused_with_an_example_in_yaml(attribute: str, allowed: str) -> None:
    name, _, key = attribute.partition(".")
    with pytest.raises(ConfigurationError) as refusal:
        resolved(name, {key: "daily"} if key else "daily")
    problem, _, example = str(refusal.value).partition("\n\n")
    assert problem == f"`{attribute}` in defs.yaml is 'daily'. Write {allowed}, for example:"
    [(written, value)] = yaml.safe_load(example).items()
    assert written == (key or name)
    assert value
    if name != "external_models":  # the example names a table of another project
        assert loaded({**EVERYTHING, "automation": None, name: {key: value} if key else value})


def test_example_is_in_the_form_of_the_file() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        resolved("freshness", "2h")
    assert str(refusal.value).endswith("for example:\n\n    freshness:\n      slack: '2h'")


@pytest.mark.parametrize("attribute", SWITCHES)
@pytest.mark.parametrize("value", [True, {}, "true", "{{ 'true' }}", "{{ 1 == 1 }}"])
def test_true_and_an_empty_mapping_mean_all_defaults(attribute: str, value: Any) -> None:
    assert resolved(attribute, value) == SWITCHES[attribute]()


@pytest.mark.parametrize("attribute", SWITCHES)
@pytest.mark.parametrize("value", [False, None, "{{ 'False' }}", "{{ none }}"])
def test_false_and_null_switch_off(attribute: str, value: Any) -> None:
    assert resolved(attribute, value) is None


@pytest.mark.parametrize("value", [True, {}, "true", "{{ 'true' }}", {"prefix": "dagster"}, {"separator": ":"}])
def test_default_tag_convention_can_be_written(value: Any) -> None:
    assert resolved("tag_convention", value) == TagConvention("dagster", ":")


@pytest.mark.parametrize("value", [False, "false", "{{ 'False' }}"])
def test_tag_convention_is_on_unless_it_is_false(value: Any) -> None:
    assert resolved("tag_convention", value) is None
    without = {key: other for key, other in EVERYTHING.items() if key != "tag_convention"}
    assert loaded({**without, "automation": None}).tag_convention == TagConvention()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"prefix": ""}, "`tag_convention.prefix` in defs.yaml is ''. Write a text, such as `prefix: dagster`. If no "),
        ({"prefix": "  "}, "`tag_convention.prefix` in defs.yaml is '  '. Write a text"),
        (
            {"separator": ""},
            "`tag_convention.separator` in defs.yaml is ''. Write a text, such as `separator: \":\"`. ",
        ),
        (
            {"prefix": "dagster:"},
            "`tag_convention.prefix` in defs.yaml is 'dagster:', which ends with the separator ':', so",
        ),
        ({"prefix": "a/b/", "separator": "/"}, "so a tag would need it twice. Write `prefix: 'a/b'` instead."),
        ("{{ none }}", "`tag_convention` in defs.yaml is None. Write true, false or a mapping, for example:"),
        ("dagster:", "`tag_convention` in defs.yaml is 'dagster:'. Write true, false or a mapping, for example:"),
    ],
)
def test_wrong_tag_convention_is_refused_with_what_to_write(value: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        resolved("tag_convention", value)
    assert problem in str(refusal.value)


@pytest.mark.parametrize("attribute", ["freshness", "op"])
def test_null_is_the_default_of_an_optional_mapping(attribute: str) -> None:
    assert resolved(attribute, None) is None
    assert resolved(attribute, "{{ none }}") is None


@pytest.mark.parametrize(
    ("attribute", "template", "expected"),
    [
        ("audits", "{{ {'checks': 'none'} }}", Audits("none")),
        ("freshness", "{{ {'slack': '2h'} }}", Freshness("2h")),  # type: ignore[arg-type]  # becomes a duration
        ("janitor", "{{ {'cron': '@daily'} }}", Janitor("@daily")),
        ("op", "{{ {'name': 'sales'} }}", OpSpec(name="sales")),
        ("restate", {"jobs": "{{ [{'by': 'month'}] }}"}, Restate(jobs=[RestateJob("month")])),
        (
            "external_models",
            {"keys": "{{ {'raw.events': 'dlt/events'} }}"},
            ExternalModels(keys={"raw.events": dg.AssetKey(["dlt", "events"])}),
        ),
    ],
)
def test_template_may_render_to_a_mapping(attribute: str, template: Any, expected: object) -> None:
    assert resolved(attribute, template) == expected


@pytest.mark.parametrize("value", [600, "10m", "{{ '600' }}", "{{ {'interval': 600} }}", {"interval": "PT10M"}])
def test_interval_of_the_sensor_may_stand_alone(value: Any) -> None:
    assert resolved("polling_sensor", value) == PollingSensor(timedelta(minutes=10))


@pytest.mark.parametrize(
    ("attribute", "value", "path"),
    [
        ("polling_sensor", "often", "polling_sensor.interval"),
        ("intervals_check", {"slack": "often"}, "intervals_check.slack"),
    ],
)
def test_wrong_duration_is_refused_with_its_attribute(attribute: str, value: Any, path: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        resolved(attribute, value)
    assert str(refusal.value) == (
        f"`{path}` in defs.yaml is 'often'. Write seconds, or text such as 2h, 90m, 1 day or PT1H30M."
    )


def test_unknown_key_in_a_mapping_from_a_template_is_refused() -> None:
    with pytest.raises(ResolutionException, match="cheks"):
        resolved("audits", "{{ {'cheks': 'none'} }}")


# -- templates that read attributes of models ------------------------------------------------------


def rendered(template: str) -> object:
    scope = TemplateScope("model", model("core.orders", tags=("finance",)))
    return dg.ResolutionContext.default().with_scope(model=scope).resolve_value(template)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ model.name }}", "core.orders"),
        ("by_{{ model.schema }}", "by_core"),
        ("{{ 'finance' in model.tags }}", True),
        ("{{ model.owner or 'nobody' }}", "nobody"),
    ],
)
def test_template_reads_existing_attributes(template: str, expected: object) -> None:
    assert rendered(template) == expected


@pytest.mark.parametrize("template", ["{{ model.nmae }}", "by_{{ model.nmae }}", "{{ model.nmae | default('x') }}"])
def test_misspelt_attribute_in_template_is_an_error(template: str) -> None:
    with pytest.raises(ResolutionException, match="`model` has no attribute 'nmae' in a template"):
        rendered(template)
