"""The changes of plans between two ticks."""

import dagster as dg
import pytest
from unit.builders import fqn, manifest, model, project_assets

from dg_sqlmesh_component.capabilities.polling_sensor.messages import ChangesFound
from dg_sqlmesh_component.capabilities.polling_sensor.plans import CURSOR, LastPlan, PlanChanges, difference
from dg_sqlmesh_component.history.stored_record import INTERNAL
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import short_hash


def promoted(**models: tuple[str, str, str]) -> dict[str, msg.PromotedVersion]:
    return {fqn(f"t.{name}"): msg.PromotedVersion(*versions) for name, versions in models.items()}


def test_cursor_contains_the_plan_and_the_models_that_it_had_not_promoted() -> None:
    assets = project_assets(manifest(model("t.a"), model("t.b")))
    last = LastPlan.of("prod", ChangesFound("c0ffee", True, promoted(a=("1", "2", "3"))), assets)
    assert last == LastPlan("prod", "c0ffee", (fqn("t.b"),), short_hash([fqn("t.a"), fqn("t.b")]))
    assert CURSOR.validate_json(CURSOR.dump_json(last)) == last


@pytest.mark.parametrize("cursor", ["", "text", "[]", "{}", '{"plan_id": "a"}', '{"unpromoted": null}'])
def test_other_text_is_no_cursor(cursor: str) -> None:
    with pytest.raises(ValueError):
        CURSOR.validate_json(cursor)


def test_plan_changes_are_added_changed_and_removed_models() -> None:
    recorded: dict[str, msg.RecordedData | None] = {
        fqn(f"t.{name}"): msg.RecordedData("1", 0, "1", "1") for name in ("same", "data", "text", "below", "gone")
    }
    recorded |= dict.fromkeys([fqn("t.new"), fqn("t.never")])
    before = LastPlan("prod", "one", (fqn("t.new"), fqn("t.never")), short_hash(sorted(recorded)))
    after = promoted(
        same=("1", "1", "1"), data=("2", "2", "1"), text=("1", "1", "2"), below=("2", "1", "1"), new=("1", "1", "1")
    )
    found = ChangesFound("two", is_finalized=True, promoted=after)
    changes = PlanChanges.between(before, found, recorded)
    assert changes.by_model == {
        fqn("t.below"): "changed upstream",
        fqn("t.data"): "changed",
        fqn("t.gone"): "removed",
        fqn("t.new"): "added",
        fqn("t.text"): "changed",
    }
    assets = project_assets(manifest(model("t.data"), model("t.text"), model("t.below"), model("t.gone")))
    assert changes.sentence(assets) == (
        "Plan two was applied to environment prod "
        "(added: db.t.new; changed: t.data, t.text; changed upstream: t.below; removed: t.gone)."
    )


def test_new_models_of_the_definitions_are_added_if_the_plan_has_them_and_never_removed() -> None:
    """A release is planned and rolled out between two ticks, or rolled out while another plan is applied."""
    before = LastPlan.of(
        "prod", ChangesFound("one", True, promoted(a=("1", "1", "1"))), project_assets(manifest(model("t.a")))
    )
    recorded = {fqn("t.a"): msg.RecordedData("1", 0, "1", "1"), fqn("t.planned"): None, fqn("t.unplanned"): None}
    after = promoted(a=("1", "1", "1"), planned=("1", "1", "1"))
    found = ChangesFound("two", is_finalized=True, promoted=after)
    assert PlanChanges.between(before, found, recorded).by_model == {fqn("t.planned"): "added"}


def test_observation_names_the_change_of_its_model_and_all_models_of_the_plan() -> None:
    assets = project_assets(manifest(model("t.a"), model("t.b"), model("t.c")))
    versions = promoted(a=("2", "other", "1"), c=("1", "1", "1"))
    changes = PlanChanges("two", "prod", {fqn("t.a"): "changed", fqn("t.b"): "removed", fqn("t.c"): "added"})
    changed, removed, _ = changes.observations(assets, versions, {fqn("t.a"): msg.RecordedData("2", 5, "1", "1")})
    assert isinstance(changed, dg.AssetObservation)
    assert changed.description == "Plan two has changed t.a in prod."
    metadata = {name: value.value for name, value in changed.metadata.items()}
    assert metadata == {
        "sqlmesh/plan_id": "two",
        "sqlmesh/plan_change": "changed",
        "sqlmesh/snapshot_version": "2",
        "sqlmesh/unapplied_change": "data",
        "sqlmesh/models_added": "t.c",
        "sqlmesh/models_changed": "t.a",
        "sqlmesh/models_removed": "t.b",
        INTERNAL: {"record": "prod 2 5 other 1 "},
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
