"""Which load of a source is new, also after Dagster has forgotten events: SQLite then gives their ids again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from harness import empty_instance
from unit.builders import days, fqn
from unit.capabilities.sources.late_data import component_of

from dg_sqlmesh_component.capabilities.sources.awaited import latest_loads
from dg_sqlmesh_component.capabilities.sources.late_loads import source_loads
from dg_sqlmesh_component.protocol import messages as msg

ORDERS, KEY = fqn("core.orders"), dg.AssetKey(["load", "orders"])
REPOSITORY, SETTINGS = component_of({"orders": ["orders"]})


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with empty_instance(tmp_path, has_default_storage=True) as instance:
        yield instance


def load(instance: dg.DagsterInstance) -> str:
    """Load a day. Return the run."""
    assets = [REPOSITORY.assets_defs_by_key[KEY]]
    return dg.materialize(assets, instance=instance, partition_key="2026-01-01").run_id


def forget_the_newest_run(instance: dg.DagsterInstance, run_id: str) -> None:
    instance.delete_run(run_id)


def empty_the_event_log(instance: dg.DagsterInstance, _: str) -> None:
    instance.event_log_storage.wipe()


FORGETS = pytest.mark.parametrize("forget", [forget_the_newest_run, empty_the_event_log])


@FORGETS
def test_a_load_is_new_although_its_storage_id_is_that_of_a_forgotten_one(
    instance: dg.DagsterInstance, forget: Callable[[dg.DagsterInstance, str], None]
) -> None:
    def last() -> tuple[str, int]:
        [found] = latest_loads(instance, REPOSITORY, SETTINGS).values()
        [event] = instance.fetch_materializations(KEY, limit=1).records
        return found.mark, event.storage_id

    run_id = load(instance)
    seen, storage_id = last()
    assert last() == (seen, storage_id)
    forget(instance, run_id)
    load(instance)
    mark, same_id = last()
    assert same_id == storage_id
    assert mark != seen


@FORGETS
def test_a_late_range_is_requested_again_although_the_storage_id_of_its_load_is_that_of_a_forgotten_one(
    instance: dg.DagsterInstance, forget: Callable[[dg.DagsterInstance, str], None]
) -> None:
    source = source_loads(instance, REPOSITORY, SETTINGS)
    assert source is not None

    def newest() -> tuple[int, int] | None:
        reads = {ORDERS: msg.PromotedReads("1", tuple(source.assets.tables_behind_views(ORDERS)))}
        return source.compare([ORDERS], reads).newest_loads({days(1, 1): [ORDERS]})[days(1, 1)]

    run_id = load(instance)
    before = newest()
    forget(instance, run_id)
    load(instance)
    after = newest()
    assert before is not None
    assert after is not None
    assert before[0] == after[0]
    assert before != after
