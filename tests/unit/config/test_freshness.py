"""The attribute `freshness`: durations, and the policy of each kind of model."""

from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from unit.builders import model, translator

from dg_sqlmesh_component.config.attribute_types import Freshness
from dg_sqlmesh_component.protocol.errors import ConfigurationError, ProjectLoadError
from dg_sqlmesh_component.protocol.manifest import Model

TWO_HOURS = timedelta(hours=2)


def freshness(**attributes: Any) -> Freshness:
    """Resolve these attributes of `freshness` in defs.yaml."""
    context = dg.ResolutionContext.default()
    resolved: Freshness = Freshness.resolve_from_model(context, Freshness.model()(**attributes))
    return resolved


def policy(of: Model, **attributes: Any) -> dg.FreshnessPolicy | None:
    """Return the freshness policy of a model's asset."""
    return translator(of, freshness=freshness(**attributes)).asset_spec(of).freshness_policy


@pytest.mark.parametrize(
    ("written", "duration"),
    [
        (7200, TWO_HOURS),
        (7200.0, TWO_HOURS),
        ("2h", TWO_HOURS),
        (" 2H ", TWO_HOURS),
        ("120m", TWO_HOURS),
        ("1h60m", TWO_HOURS),
        ("7200s", TWO_HOURS),
        ("PT2H", TWO_HOURS),
        ("02:00:00", TWO_HOURS),
        ("1d", timedelta(days=1)),
        ("1 day", timedelta(days=1)),
        ("2 days", timedelta(days=2)),
        ("P1DT2H", timedelta(hours=26)),
        (0, timedelta(0)),
        ("{{ 3600 * 2 }}", TWO_HOURS),
    ],
)
def test_slack_is_seconds_or_a_duration(written: object, duration: timedelta) -> None:
    assert freshness(slack=written).slack == duration


NO_DURATIONS = ["", "soon", "2 apples", "h", "1y", "-", "-1h", "{{ [1] }}", "{{ none }}", "{{ true }}"]


@pytest.mark.parametrize("written", [*NO_DURATIONS, float("inf"), float("nan")])
def test_slack_that_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        freshness(slack=written)
    assert str(refusal.value).startswith("`freshness.slack` in defs.yaml is ")
    assert str(refusal.value).endswith(". Write seconds, or text such as 2h, 90m, 1 day or PT1H30M.")


@pytest.mark.parametrize("written", [-1, "-PT1H", "367 days", 1e9, 1e12])
def test_slack_that_is_negative_or_longer_than_a_year_is_refused(written: object) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        freshness(slack=written)
    assert str(refusal.value) == (
        f"`freshness.slack` in defs.yaml is {written!r}. It must not be negative or longer than 366 days."
    )


KINDS = ["FULL", "VIEW", "INCREMENTAL_BY_TIME_RANGE", "SCD_TYPE_2_BY_TIME", "MANAGED", "CUSTOM"]


@pytest.mark.parametrize(
    ("properties", "window"),
    [
        *(({"kind": kind}, timedelta(hours=26)) for kind in KINDS),
        ({"cron": "0 9 * * 1-5", "cron_tz": "America/New_York"}, timedelta(days=3, hours=3)),
        ({"kind": "SEED"}, None),
        ({"end": "2026-06-30"}, None),
    ],
    ids=str,
)
def test_window_is_the_longest_gap_of_the_cron_plus_slack_if_sqlmesh_executes_the_model_after_every_tick(
    properties: dict[str, Any], window: timedelta | None
) -> None:
    expected = None if window is None else dg.FreshnessPolicy.time_window(window)
    assert policy(model(**properties), slack="2h") == expected


def test_assets_have_no_policy_and_no_condition_by_default() -> None:
    spec = translator(model()).asset_spec(model())
    assert (spec.freshness_policy, spec.automation_condition) == (None, None)


@pytest.mark.parametrize("attribute", [{"freshness": Freshness(TWO_HOURS)}, {"automation": "cron"}], ids=str)
def test_cron_with_seconds_is_refused(attribute: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        translator(model(cron="0 6 * * * 30"), **attribute).asset_spec(model(cron="0 6 * * * 30"))
    [name] = attribute
    assert str(refusal.value) == (
        f"Model core.orders (/shop/models/orders.sql): Dagster does not accept its cron '0 6 * * * 30', which `{name}` "
        "in defs.yaml uses. Write five fields (minute, hour, day of month, month, day of week) or an alias such as "
        "@daily."
    )


def test_translation_overrides_condition_and_policy() -> None:
    mine = dg.AutomationCondition.eager()
    week = dg.FreshnessPolicy.time_window(timedelta(days=7))

    def translate(spec: dg.AssetSpec, _: Model) -> dg.AssetSpec:
        assert spec.automation_condition is not None
        assert spec.freshness_policy is not None
        return spec.replace_attributes(automation_condition=mine, freshness_policy=week)

    options: dict[str, Any] = {"automation": "cron", "freshness": Freshness(TWO_HOURS), "translation": translate}
    spec = translator(model(), **options).asset_spec(model())
    assert (spec.automation_condition, spec.freshness_policy) == (mine, week)


def test_tag_of_a_model_sets_its_slack_in_place_of_the_one_in_yaml() -> None:
    heavy = model(cron="@daily", tags=("dagster:freshness:2h",))
    alone = translator(heavy).asset_spec(heavy).freshness_policy
    assert alone == dg.FreshnessPolicy.time_window(timedelta(hours=26))
    assert policy(heavy, slack="30m") == alone


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        (("dagster:freshness:soon",), "'dagster:freshness:soon' cannot be used: Write seconds, or text such as 2h"),
        (("dagster:freshness:1h", "dagster:freshness:2h"), "another tag has set another one already"),
    ],
)
def test_tag_that_is_no_duration_or_contradicts_another_is_refused(tags: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ProjectLoadError, match=problem):
        translator(model(tags=tags))
