"""What an apply records in Dagster: the data that the environment shows after it, and no other."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import clock
import dagster as dg
import pytest
from engine.plan_jobs import applied, change, launch
from engine.preview_lab import DAY, PREVIEW
from engine.recorded_models import MODELS, broken, day, health, restate, tick, unsynced
from harness import CONFIG, NewShop, RunRecord, Shop, at_night, needs_previews


@pytest.fixture
def shop(new_recorded: NewShop) -> Shop:
    """All intervals are computed, and recorded by a run."""
    shop = new_recorded(planned_at="now", deploy=True)
    shop.launch()
    return shop


def metadata_of(record: RunRecord, asset: str) -> dict[str, Any]:
    return {name: value.value for name, value in record.computed_outside[asset].metadata.items()}


# -- coverage -----------------------------------------------------------------------------------------


@pytest.mark.night("test_each_model_has_one_materialization_after_a_non_breaking_change_and_nothing_is_unsynced")
@pytest.mark.parametrize("computed_by", ["the apply", *at_night("a plan of another environment")])
def test_an_incremental_model_has_its_coverage_after_an_apply(shop: Shop, computed_by: str) -> None:
    change(shop, days=MODELS["models/days.sql"].replace("ELSE 1 END", "ELSE 2 END"))
    if computed_by != "the apply":
        shop.plan("dev", at=None)

    record = applied(shop)

    assert record.checks["t/days:sqlmesh_intervals_complete"].passed
    description = record.description_of("t/days:sqlmesh_intervals_complete")
    assert description == f"t.days has no gaps in {day(8)} to {day(1)} (8 days)."
    assert metadata_of(record, "t/days")["sqlmesh/coverage"] == f"{day(8)} to {day(1)} (8 days)"


@pytest.mark.night(
    "engine/test_records.py::test_failed_restatement_fails_checks_until_range_is_computed_again",
    "engine/test_plan_losses.py::test_corrected_rows_stay_corrected_if_a_plan_shows_an_earlier_version_again",
)
def test_an_apply_computes_the_day_that_a_failed_restatement_has_left_pending(shop: Shop) -> None:
    broken(shop, day(5))
    shop.launch(ops=restate(day(6), day(5)), assets=["t/days"])
    broken(shop)
    gap = f"epoch_ms(start_ts) = TIMESTAMP '{day(3)}'"  # a plan computes gaps, and nothing newer
    shop.query(f"DELETE FROM sqlmesh._intervals WHERE name LIKE '%days%' AND {gap}")
    change(shop, alone=MODELS["models/alone.sql"].replace("1 AS n", "2 AS n"))

    record = applied(shop)

    assert metadata_of(record, "t/days")["sqlmesh/intervals"] == f"{day(5)}, {day(3)}"
    assert health(record) == {"execution": True, "intervals": True}


# -- audits -------------------------------------------------------------------------------------------


@pytest.mark.night(
    "unit/report/test_results.py::test_audit_of_new_intervals_warns_of_older_ones_that_have_failed_...",
    "engine/test_apply_beside_runs.py::test_run_does_not_wait_for_the_backfill_...",
)
@needs_previews
def test_an_audit_that_passes_in_an_apply_warns_of_older_rows_that_failed_in_a_preview_and_in_an_apply(
    new_recorded: NewShop,
) -> None:
    shop = new_recorded(deploy=True, preview={"environment": "pr_1"})
    n = f"ELSE CASE @start_ds::DATE WHEN '{day(6)}' THEN -1 ELSE 1 END END"
    change(shop, days=MODELS["models/days.sql"].replace("ELSE 1 END", n))
    launch(shop, PREVIEW).succeeded()
    assert shop.launch().checks["t/days:soft"].passed, "it computes the old version, until yesterday"

    of_new_days = applied(shop).checks["t/days:soft"]
    shop.query(f"DELETE FROM sqlmesh._intervals WHERE name LIKE '%days%' AND epoch_ms(start_ts) = TIMESTAMP '{day(2)}'")
    change(shop, alone=MODELS["models/alone.sql"].replace("1 AS n", "2 AS n"))
    of_gap = applied(shop).checks["t/days:soft"]

    for found, computed in ((of_new_days, f"{day(3)} to {day(1)} (3 days)"), (of_gap, day(2))):
        assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
        text = f"No failing rows in {computed}. Other intervals: 1 row failed in {day(6)} at "
        assert str(found.description).startswith(text)


# -- data that a plan promotes without computing it ---------------------------------------------------

DAILY = "kind INCREMENTAL_BY_TIME_RANGE (time_column ds)"
CHAIN = {
    "models/base.sql": f"MODEL (name t.base, {DAILY}); SELECT @start_ds::DATE AS ds, 1::INT AS n",
    "models/sums.sql": f"MODEL (name t.sums, {DAILY}, audits (not_null(columns := (n)))); "
    "SELECT ds, sum(n)::INT AS n FROM t.base WHERE ds BETWEEN @start_ds::DATE AND @end_ds::DATE GROUP BY ds",
    "models/shown.sql": "MODEL (name t.shown, kind VIEW); SELECT ds, n FROM t.base",
    "models/total.sql": "MODEL (name t.total, kind FULL); SELECT sum(n)::INT AS n FROM t.shown",
}
NON_BREAKING = CHAIN["models/base.sql"] + ", 2::INT AS m"
UNAFFECTED = {"t/sums", "t/total"}
"""SQLMesh creates the view again, as new data."""


@pytest.fixture
def chain(new_shop: NewShop) -> Shop:
    """All intervals are computed, and recorded by a run that has audited nothing."""
    shop = new_shop(CHAIN, planned_at=None, deploy=True, intervals_check=True, polling_sensor=True)
    applied(shop)
    return shop


def data_versions(record: RunRecord) -> dict[str, str]:
    return {key: (event.tags or {})["dagster/data_version"] for key, event in record.computed_outside.items()}


def test_each_model_has_one_materialization_after_a_non_breaking_change_and_nothing_is_unsynced(chain: Shop) -> None:
    change(chain, base=CHAIN["models/base.sql"].replace("1::INT", "2::INT"))
    before = applied(chain)
    assert before.checks["t/sums:not_null_n"].passed
    change(chain, base=NON_BREAKING.replace("1::INT", "2::INT"))

    record = applied(chain)

    assert set(record.computed_outside) == {"t/base", "t/shown", *UNAFFECTED}
    for asset in UNAFFECTED:
        metadata = metadata_of(record, asset)
        assert metadata["sqlmesh/origin"].startswith("promoted by plan ")
        assert "sqlmesh/intervals" not in metadata, "nothing was computed"
        assert data_versions(record)[asset] == data_versions(before)[asset], "the data is the same"
    assert metadata_of(record, "t/sums")["sqlmesh/coverage"]
    results = {name.partition(":")[2]: check.passed for name, check in record.checks.items() if "t/sums" in name}
    assert results == {"not_null_n": True, "sqlmesh_execution_status": True, "sqlmesh_intervals_complete": True}
    assert not unsynced(chain)
    assert chain.launch().computed_outside == {}
    assert not unsynced(chain)


@pytest.mark.night(
    "unit/history/test_records.py::test_data_promoted_again_is_recorded_once",
    "test_each_model_has_one_materialization_after_a_non_breaking_change_and_nothing_is_unsynced",
    "engine/test_polling_sensor.py::test_everything_that_is_typed_in_a_shell_is_recorded_once",
)
@pytest.mark.parametrize("found_by", ["a run", *at_night("a run of a subset", "the sensor")])
def test_a_non_breaking_plan_in_a_shell_leaves_nothing_unsynced(chain: Shop, found_by: str) -> None:
    change(chain, base=NON_BREAKING)
    chain.plan(at=None)

    if found_by == "the sensor":
        text = tick(chain)
        assert "Recorded 2 models promoted again outside of Dagster: t.sums, t.total." in text
        assert "promoted again" not in tick(chain)
    else:
        if found_by == "a run of a subset":
            chain.launch(assets=["t/base"])
        record = chain.launch()
        assert set(record.computed_outside) >= UNAFFECTED
        assert "promoted outside of Dagster; computed before" in metadata_of(record, "t/sums")["sqlmesh/origin"]

    assert not unsynced(chain)
    assert chain.launch().computed_outside == {}


@pytest.mark.parametrize("applies", [(True, True), *at_night((True, True, False))], ids=["jobs", "and a shell"])
def test_each_materialization_has_the_rows_of_its_table_whoever_has_computed_or_promoted_it(
    new_shop: NewShop, applies: tuple[bool, ...]
) -> None:
    shop = new_shop(CHAIN, planned_at=None, deploy=True, include_metadata=["row_count"])
    changes = CHAIN["models/base.sql"], NON_BREAKING, NON_BREAKING.replace("2::INT", "3::INT")
    for base, is_applied in zip(changes, applies):
        change(shop, base=base)
        if not is_applied:
            shop.plan(at=None)
        record = applied(shop) if is_applied else shop.launch()
        rows = {asset: metadata_of(record, asset).get("dagster/row_count") for asset in record.computed_outside}
        [(days,)] = shop.query("SELECT count(*) FROM t.base")
        assert rows == {"t/base": days, "t/sums": days, "t/shown": days, "t/total": 1}


# -- forward-only changes -----------------------------------------------------------------------------

FORWARD_ONLY = {
    "models/base.sql": "MODEL (name t.base, kind FULL); SELECT 1::INT AS n",
    "models/shown.sql": "MODEL (name t.shown, kind VIEW); SELECT n, 1::INT AS m FROM t.base",
    "models/total.sql": "MODEL (name t.total, kind FULL); SELECT sum(m)::INT AS m FROM t.shown",
    "models/past.sql": "MODEL (name t.past, kind SCD_TYPE_2_BY_TIME (unique_key id, updated_at_name day)); "
    "SELECT 1 AS id, DATE '2020-01-01' AS day, 1::INT AS n",
}
NEW_CODE, NEW_DATA = "has a new code version", "has a new dependency data version"


@contextmanager
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Show this process and its workers the time of tomorrow."""
    offset = time.time() - time.monotonic() + DAY / 1000
    monkeypatch.setenv(clock.VARIABLE, str(offset))
    traveller = clock.start(offset)
    yield
    traveller.stop()
    monkeypatch.delenv(clock.VARIABLE)


@pytest.mark.night("engine/test_dev_only.py::test_a_preview_says_which_rows_prod_will_not_have_and_an_apply_until_when")
@pytest.mark.parametrize("mode", [*at_night("plan: {forward_only: true}"), "virtual_environment_mode: dev_only"])
@pytest.mark.parametrize("is_recorded", [True, *at_night(False)], ids=["recorded before", "never recorded"])
def test_kept_rows_are_not_in_sync_until_they_are_computed(
    new_shop: NewShop, monkeypatch: pytest.MonkeyPatch, mode: str, is_recorded: bool
) -> None:
    shop = new_shop(FORWARD_ONLY, config=f"{CONFIG}{mode}\n", planned_at="now", deploy=True)
    if is_recorded:
        shop.launch()
    for name in ("base", "shown", "past"):
        change(shop, **{name: FORWARD_ONLY[f"models/{name}.sql"].replace("1::INT", "2::INT")})

    record = applied(shop)

    assert shop.query("SELECT n, m FROM t.shown") == [(1, 2)], "the view is new, the table that it reads is not"
    computed = {"t/shown"} if is_recorded else {"t/base", "t/shown", "t/total", "t/past"}
    assert set(record.computed_outside) == computed
    assert "Prod keeps the existing rows of t.base, t.total until the first run after" in record.log
    assert "Prod keeps the existing rows of t.past: runs compute later intervals by the new definition." in record.log
    assert unsynced(shop)["t/base"] == [NEW_CODE]
    assert "t/shown" not in unsynced(shop)
    if is_recorded:
        assert metadata_of(record, "t/shown")["sqlmesh/origin"].startswith("computed by plan ")
        assert unsynced(shop)["t/total"] == [NEW_DATA], "it was computed from the view before"
    with tomorrow(monkeypatch):
        assert set(shop.launch().materializations) == {"t/base", "t/shown", "t/total", "t/past"}
    assert shop.query("SELECT n, m FROM t.shown") == [(2, 2)]
    assert shop.query("SELECT n FROM t.past") == [(1,)], "SQLMesh copies a row whose source has not changed"
    assert not unsynced(shop)
