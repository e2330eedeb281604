"""The changes of plans between two ticks, and the attributes of `polling_sensor`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from unit.builders import fqn, manifest, model, project_assets

from dg_sqlmesh_component.config.polling_sensor import PollingSensor
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.sensor.plans import PlanChanges, Promotion, difference


def promotion(plan_id: str = "plan", **models: tuple[str, str, str]) -> Promotion:
    return Promotion("prod", plan_id, {fqn(f"t.{name}"): versions for name, versions in models.items()})


def promoted(**models: tuple[str, str, str]) -> dict[str, msg.PromotedVersion]:
    return {fqn(f"t.{name}"): msg.PromotedVersion(*versions) for name, versions in models.items()}


def test_cursor_contains_the_promotion() -> None:
    before = promotion("c0ffee", a=("1", "2", "3"), b=("4", "5", "6"))
    assert Promotion.from_cursor(before.cursor()) == before


@pytest.mark.parametrize("cursor", ["", "text", "[]", "{}", '{"plan_id": "a", "models": "text"}', '{"models": null}'])
def test_other_text_is_no_cursor(cursor: str) -> None:
    with pytest.raises(ValueError):
        Promotion.from_cursor(cursor)


def test_cursor_of_a_thousand_models_is_short() -> None:
    models = {f"model_{number}": (str(number * 7_919_777), str(number * 3_571), "1") for number in range(1000)}
    assert len(Promotion("prod", "c0ffee", models).cursor()) < 25_000


def test_plan_changes_are_added_changed_and_removed_models() -> None:
    before = promotion("one", same=("1", "1", "1"), data=("1", "1", "1"), text=("1", "1", "1"), below=("1", "1", "1"))
    after = promotion("two", same=("1", "1", "1"), data=("2", "2", "1"), text=("1", "1", "2"), new=("1", "1", "1"))
    below = {**after.models, fqn("t.below"): ("2", "1", "1")}
    changes = PlanChanges.between(before, Promotion("prod", "two", below))
    assert changes.by_model == {
        fqn("t.below"): "changed upstream",
        fqn("t.data"): "changed",
        fqn("t.new"): "added",
        fqn("t.text"): "changed",
    }
    assert PlanChanges.between(before, after).by_model[fqn("t.below")] == "removed"
    assets = project_assets(manifest(model("t.data"), model("t.text"), model("t.below")))
    assert changes.sentence(assets) == (
        "Plan two was applied to environment prod "
        "(added: db.t.new; changed: t.data, t.text; changed upstream: t.below)."
    )


def test_observation_names_the_change_of_its_model_and_all_models_of_the_plan() -> None:
    assets = project_assets(manifest(model("t.a"), model("t.b")))
    versions = promoted(a=("2", "other", "1"), c=("1", "1", "1"))
    changes = PlanChanges("two", "prod", {fqn("t.a"): "changed", fqn("t.b"): "removed", fqn("t.c"): "added"})
    changed, removed = changes.observations(assets, versions)
    assert isinstance(changed, dg.AssetObservation)
    assert changed.description == "Plan two has changed t.a in prod."
    metadata = {name: value.value for name, value in changed.metadata.items()}
    assert metadata == {
        "sqlmesh/plan_id": "two",
        "sqlmesh/plan_change": "changed",
        "sqlmesh/snapshot_version": "2",
        "sqlmesh/unapplied_change": "data",
        "sqlmesh/models_added": "db.t.c",
        "sqlmesh/models_changed": "t.a",
        "sqlmesh/models_removed": "t.b",
    }
    assert removed.asset_key == dg.AssetKey(["t", "b"])
    assert removed.metadata["sqlmesh/plan_change"].value == "removed"


def test_difference_of_definitions_and_environment_is_named() -> None:
    assets = project_assets(manifest(model("t.a"), model("t.b")))
    text = difference(
        assets, promoted(a=("2", "other", "1"), c=("1", "1", "1"), d=("1", "1", "1")), "prod", {fqn("t.d")}
    )
    assert text is not None
    assert text.startswith(
        "The definitions differ from environment prod (not in the definitions: db.t.c; not promoted: t.b; "
        "with another definition: t.a)."
    )
    assert 'click "Reload definitions" in `dg dev`' in text
    a, b = (assets.models[fqn(name)] for name in ("t.a", "t.b"))
    same = {found.fqn: msg.PromotedVersion("1", found.data_hash, found.metadata_hash) for found in (a, b)}
    assert difference(assets, same, "prod", set()) is None


def test_sensor_looks_every_five_minutes_by_default() -> None:
    assert PollingSensor().interval == timedelta(minutes=5)


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"interval": "often"}, "`polling_sensor.interval` in defs.yaml is 'often'. Write seconds, or text such as"),
        ({"interval": 5}, "Dagster evaluates sensors every 30 seconds at most. Write a longer interval"),
        ({"default_status": "ON"}, "`polling_sensor.default_status` in defs.yaml is 'ON'"),
    ],
)
def test_wrong_attribute_of_the_sensor_is_named(attributes: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PollingSensor(**attributes)
    assert error in str(caught.value)
