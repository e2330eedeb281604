"""What runs and the sensor say of data that a run has computed, and of which an asset has no record any more."""

import dagster as dg
import pytest
from engine.recorded_models import OP, broken, day, restate, tick
from harness import NewShop, RunRecord, Shop

MODELS = ("days", "shown", "total", "alone")


def origins(run: RunRecord) -> dict[str, str]:
    """Who has last computed the data that a run has recorded, without the times, by asset."""
    outside = {**run.computed_outside, **run.reported_outside}
    texts = {key: str(event.metadata["sqlmesh/origin"].value) for key, event in outside.items()}
    return {key: text.partition(", at 20")[0] + text.partition("Z")[2] for key, text in texts.items()}


def wipe(shop: Shop) -> None:
    shop.instance.wipe_assets([dg.AssetKey(["t", name]) for name in MODELS])


def of_all(text: str, prefix: str = "t") -> dict[str, str]:
    return {f"{prefix}/{name}": text for name in MODELS}


def test_wiped_or_renamed_assets_are_recorded_again_with_the_run_that_has_computed_them(new_recorded: NewShop) -> None:
    shop = new_recorded(polling_sensor=True)
    computed = shop.launch().run_id
    again = f"by run {computed}. Recorded again: Dagster had no record of it"

    wipe(shop)
    names = "t.alone, t.days, t.shown, t.total"
    expected = f"Recorded 4 models again, because Dagster had no record of data computed by run {computed}: {names}."
    assert tick(shop) == expected
    assert tick(shop) == "Nothing was computed or promoted outside of Dagster."
    assert not shop.launch().checks["t/days:soft"].metadata.get("sqlmesh/carried_over"), "it was evaluated again"

    wipe(shop)
    wiped = shop.launch()
    assert origins(wiped) == of_all(again)
    assert {wiped.status_of(f"t/{name}") for name in MODELS} == {"up_to_date"}, "nothing was computed again"

    shop.configure(translation={"key_prefix": "new"}, polling_sensor=True)
    renamed = shop.launch()
    assert origins(renamed) == of_all(again, "new/t")
    assert not renamed.checks["new/t/days:soft"].metadata.get("sqlmesh/carried_over")
    old = shop.instance.fetch_materializations(dg.AssetKey(["t", "days"]), limit=1).records
    assert old, "the old key keeps its history"


@pytest.mark.night(
    "unit/history/test_origins.py",
    "test_wiped_or_renamed_assets_are_recorded_again_with_the_run_that_has_computed_them",
)
def test_data_of_a_wiped_asset_whose_run_was_deleted_is_not_said_to_be_computed_outside_of_dagster(
    new_recorded: NewShop,
) -> None:
    shop = new_recorded(polling_sensor=True)
    shop.instance.delete_run(shop.launch().run_id)
    assert tick(shop) == "Nothing was computed or promoted outside of Dagster.", "Dagster keeps last materializations"
    assert origins(shop.launch()) == {}
    wipe(shop)
    who = "outside of Dagster, or by a run that Dagster does not have any more"
    assert tick(shop) == f"Recorded 4 models computed {who}: t.alone, t.days, t.shown, t.total."
    wipe(shop)
    shop.plan("--restate-model", "t.alone", at=None)
    assert origins(shop.launch()) == {**of_all(who), "t/alone": "outside of Dagster"}

    broken(shop, day(3))
    failed = shop.launch(ops=restate(day(4), day(3)), assets=["t/days"])
    assert failed.status_of("t/days") == "partly_executed"
    shop.instance.delete_run(failed.run_id)
    broken(shop)
    assert origins(shop.launch())["t/days"] == "outside of Dagster", "nothing says that there was a run"


# -- tables that two environments share -------------------------------------------------------------


@pytest.mark.night(
    "unit/history/test_origins.py",
    "test_wiped_or_renamed_assets_are_recorded_again_with_the_run_that_has_computed_them",
)
def test_run_in_another_environment_is_named_if_it_has_computed_a_shared_table(new_recorded: NewShop) -> None:
    """It is a run of another component, or one whose run config names the environment."""
    shop = new_recorded(execution={"environments": ["dev"]})
    shop.plan("dev", "--include-unmodified", at=f"{day(3)} 12:00:00")
    dev = {"project": {"path": str(shop.project), "environment": "dev"}, "translation": {"key_prefix": "dev"}}
    shop.add_component("shop_dev", dev)
    shop.refresh()
    of_prod, of_dev = ([f"{prefix}t/{name}" for name in MODELS] for prefix in ("", "dev/"))
    recorded = shop.launch(assets=of_dev, ops={"sqlmesh_shop_dev": {"end": day(4)}})
    assert set(origins(recorded).values()) == {"outside of Dagster"}, "the plan has computed it"

    once = shop.launch(assets=["t/alone"], ops={OP: {"environment": "dev"}}).succeeded()
    prod = shop.launch(assets=of_prod).succeeded()
    assert origins(prod)["t/alone"] == f"by run {once.run_id} in environment dev"
    assert set(prod.materializations) == {"t/days", "t/shown", "t/total"}

    shown = shop.launch(assets=of_dev)
    of_others = dict.fromkeys(("dev/t/days", "dev/t/shown", "dev/t/total"), f"by run {prod.run_id} in environment prod")
    assert origins(shown).items() >= of_others.items()
    intervals = shown.computed_outside["dev/t/days"].metadata["sqlmesh/intervals"].value
    assert intervals == f"{day(3)} to {day(1)} (3 days)"
