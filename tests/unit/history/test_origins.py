"""Who has computed data of which an asset has no record, by the runs of an instance and their records."""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import dagster as dg
import pytest
import time_machine
from unit.builders import attributes, days, fqn, manifest, model, project_assets

from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history import origins as module
from dg_sqlmesh_component.history.active_runs import CHANGES_TAG, mark_as_computing
from dg_sqlmesh_component.history.origins import OUTSIDE, Origin, StateRun, origin_of, origins
from dg_sqlmesh_component.history.records import OutsideData, record_metadata
from dg_sqlmesh_component.history.stored_record import StoredRecord
from dg_sqlmesh_component.protocol import messages as msg

PROMOTED = msg.PromotedVersion("7", "data", "text", None)
ORDERS = fqn("core.orders")
KEY = dg.AssetKey(["core", "orders"])


def data(at: int) -> OutsideData:
    return OutsideData(ORDERS, PROMOTED, (days(1, 1),), at, None, "", {}, None)


RECORDED = [StoredRecord("prod", "7", 20, ("data", "text", "now"))]
OF_DEV = [StoredRecord("dev", "7", 20, ("data", "text", "now"))]
OF_ANOTHER_VERSION = [StoredRecord("prod", "6", 20, ("data", "text", "now"))]
OLDER = [StoredRecord("prod", "7", 14, ("data", "text", "now"))]


@pytest.mark.parametrize(
    ("run", "records", "expected"),
    [
        (StateRun("a", 10, 30, True), RECORDED, Origin("a", "prod")),
        (StateRun("a", 15, 15, True), RECORDED, Origin("a", "prod")),
        (StateRun("a", 10, None, False), RECORDED, Origin("a", "prod")),
        (StateRun("a", 10, 30, True), OF_DEV, Origin("a", "dev")),
        (StateRun("a", 16, 30, True), RECORDED, OUTSIDE),
        (StateRun("a", 10, 14, True), RECORDED, OUTSIDE),
        (StateRun("a", 10, 30, True), OF_ANOTHER_VERSION, OUTSIDE),
        (StateRun("a", 10, 30, True), OLDER, OUTSIDE),
        (StateRun("a", 10, 30, False), OLDER, Origin("a")),
        (StateRun("a", 10, None, False), [], Origin("a")),
        (StateRun("a", 16, None, False), [], OUTSIDE),
    ],
    ids=str,
)
def test_data_is_that_of_a_run_with_a_record_of_it_or_of_no_run_if_each_has_recorded_everything(
    run: StateRun, records: list[StoredRecord], expected: Origin
) -> None:
    assert origin_of(data(15), [run], lambda _: records) == expected


def test_a_record_says_more_than_a_newer_run_that_has_not_ended() -> None:
    runs = [StateRun("newer", 12, None, False), StateRun("older", 10, 20, True)]
    found = origin_of(data(15), runs, lambda run_id: RECORDED if run_id == "older" else [])
    assert found == Origin("older", "prod")


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        (OUTSIDE, "outside of Dagster, at T"),
        (Origin(is_forgotten=True), "outside of Dagster, or by a run that Dagster does not have any more, at T"),
        (Origin("a", "prod"), "by run a, at T. Recorded again: Dagster had no record of it"),
        (Origin("a", "dev"), "by run a in environment dev, at T"),
        (Origin("a"), "while run a was in progress, at T"),
    ],
)
def test_text_says_who_and_whether_it_is_recorded_again(origin: Origin, text: str) -> None:
    assert origin.text("prod", 0) == text.replace("T", "1970-01-01T00:00:00Z")


# -- with the runs of an instance -------------------------------------------------------------------

NOON = datetime(2026, 2, 10, 12, tzinfo=timezone.utc)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def milliseconds(minute: int) -> int:
    return round((NOON + timedelta(minutes=minute)).timestamp() * 1000)


def run(instance: dg.DagsterInstance, minute: int, state: str = "shop", *, recorded: bool = True, **tags: str) -> str:
    """A run of ten minutes that takes the lock after one minute, and ends in success."""

    @dg.multi_asset(specs=[dg.AssetSpec(KEY, skippable=True)])
    def orders(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        clock.shift(60)
        mark_as_computing(instance, context.run.run_id, state)
        clock.shift(540)
        if recorded:
            known = msg.RecordedData("7", milliseconds(minute + 9), "data", "text", "now")
            yield dg.MaterializeResult(KEY, metadata=record_metadata("prod", known))

    with time_machine.travel(NOON + timedelta(minutes=minute), tick=False) as clock:
        return dg.materialize([orders], instance=instance, tags=tags).run_id


def origin(instance: dg.DagsterInstance, minute: int) -> Origin:
    assets = project_assets(manifest(model("core.orders")))
    settings = Settings(attributes(), assets, "sqlmesh_shop", "pool", "shop_prod", "shop", frozenset(assets.specs))
    return origins(instance, settings, [data(milliseconds(minute))])[ORDERS]


def test_the_run_of_the_state_that_had_the_lock_is_found(instance: dg.DagsterInstance) -> None:
    first, second = run(instance, 0), run(instance, 30)
    run(instance, 0, "another state")
    assert [origin(instance, minute).run_id for minute in (0, 5, 20, 35, 45)] == [None, first, None, second, None]


def test_a_preview_or_an_apply_may_have_computed_what_it_has_not_recorded(instance: dg.DagsterInstance) -> None:
    run(instance, 0, recorded=False)
    assert origin(instance, 5) == OUTSIDE
    change = run(instance, 30, recorded=False, **{CHANGES_TAG: "shop"})
    assert origin(instance, 35) == Origin(change)


def test_older_runs_than_those_that_are_searched_are_not_denied(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_RUNS", 1)
    run(instance, 0)
    newest = run(instance, 1)
    assets = project_assets(manifest(model("core.orders"), model("core.other")))
    settings = Settings(attributes(), assets, "sqlmesh_shop", "pool", "shop_prod", "shop", frozenset(assets.specs))
    other = OutsideData(fqn("core.other"), PROMOTED, (days(1, 1),), milliseconds(0), None, "", {}, None)
    found = origins(instance, settings, [data(milliseconds(5)), other])
    assert found == {ORDERS: Origin(newest, "prod"), other.fqn: Origin(is_forgotten=True)}


def test_data_from_before_an_asset_was_wiped_may_be_that_of_a_deleted_run(instance: dg.DagsterInstance) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization(KEY))
    with time_machine.travel(NOON + timedelta(minutes=10), tick=False):
        instance.wipe_assets([KEY])
    assert origin(instance, 5) == Origin(is_forgotten=True)
    assert origin(instance, 15) == OUTSIDE
