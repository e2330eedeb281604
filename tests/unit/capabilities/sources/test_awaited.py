"""For which ranges the assets that load external tables are complete, by real events of an instance."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from inspect import signature
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from harness import empty_instance
from unit.calls import queries

from dg_sqlmesh_component.capabilities.sources.attributes import Wait
from dg_sqlmesh_component.capabilities.sources.awaited import read_sources
from dg_sqlmesh_component.dagster_internals.assets import loaders
from dg_sqlmesh_component.dagster_internals.event_log import check_records
from dg_sqlmesh_component.definitions.awaited import Source
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.messages import FOREVER

KEY = dg.AssetKey(["load", "orders"])
TABLE = '"db"."raw"."orders"'
DAYS = dg.DailyPartitionsDefinition(start_date="2026-11-01")
COUNTRIES = dg.StaticPartitionsDefinition(["de", "us"])


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with empty_instance(tmp_path, has_default_storage=True) as instance:
        yield instance


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp() * 1000)


Check = Callable[[dg.AssetCheckExecutionContext], bool]


def location(
    partitions: dg.PartitionsDefinition[str] | None = DAYS,
    passes: Check | bool = True,
    *,
    is_declared: bool = False,
    metadata: dict[str, Any] | None = None,
) -> dg.RepositoryDefinition:
    """Return a code location with a source, and a blocking check that passes or fails."""

    @dg.asset(key=KEY, partitions_def=partitions, metadata=metadata, backfill_policy=dg.BackfillPolicy.single_run())
    def orders() -> None: ...

    @dg.asset_check(asset=KEY, blocking=True)
    def complete(context) -> dg.AssetCheckResult:  # type: ignore[no-untyped-def]  # Dagster refuses text as a type
        return dg.AssetCheckResult(passed=passes if isinstance(passes, bool) else passes(context))

    loads_it = dg.define_asset_job("load_it", dg.AssetSelection.assets(KEY) | dg.AssetSelection.checks_for_assets(KEY))
    checks_it = dg.define_asset_job("check_it", dg.AssetSelection.checks_for_assets(KEY))
    asset = dg.AssetSpec(KEY, partitions_def=partitions) if is_declared else orders
    jobs = [checks_it] if is_declared else [loads_it, checks_it]
    return dg.Definitions(assets=[asset], asset_checks=[complete], jobs=jobs).get_repository_def()


def materialize(instance: dg.DagsterInstance, *partitions: str, **metadata: Any) -> None:
    for partition in partitions or (None,):
        instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition=partition, metadata=metadata))


def run_job(
    instance: dg.DagsterInstance, definitions: dg.RepositoryDefinition, job: str = "load_it", *days: str
) -> str:
    """Run a job for all days between two, or without a partition. Return the id of the run."""
    tags = dict(zip(("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), days))
    result = definitions.get_job(job).execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    return result.run_id


def read(instance: dg.DagsterInstance, definitions: dg.RepositoryDefinition, lag: timedelta = timedelta(0)) -> Source:
    found = read_sources(instance, loaders(definitions, {TABLE: KEY}, also_elsewhere={TABLE}), lag)
    return found[TABLE]


def test_the_partitions_count_of_an_asset_that_another_system_materializes(instance: dg.DagsterInstance) -> None:
    materialize(instance, "2026-11-01", "2026-11-03")
    found = read(instance, location(is_declared=True))
    assert found.incomplete == ((at("2026-11-02"), at("2026-11-03")), (at("2026-11-04"), FOREVER))


def test_each_key_that_a_dynamic_dimension_has_today_must_be_loaded(instance: dg.DagsterInstance) -> None:
    countries = dg.DynamicPartitionsDefinition(name="countries")
    instance.add_dynamic_partitions("countries", ["de", "us"])
    materialize(instance, "de")
    assert read(instance, location(countries)).sentence() == "load/orders has no materialization of us"
    both = dg.MultiPartitionsDefinition({"day": DAYS, "country": countries})
    materialize(instance, "de|2026-11-01", "us|2026-11-01", "us|2026-11-02")
    assert read(instance, location(both)).incomplete == ((at("2026-11-02"), FOREVER),)


@pytest.mark.attribute("external_models.wait.lag")
def test_without_partitions_complete_until_start_of_last_run_less_lag(instance: dg.DagsterInstance) -> None:
    definitions = location(None)
    record = instance.get_run_record_by_id(run_job(instance, definitions))
    assert record is not None
    assert record.start_time is not None
    found = read(instance, definitions, timedelta(minutes=30))
    assert found.incomplete == ((round(record.start_time * 1000) - 30 * 60_000, FOREVER),)
    assert "load/orders was loaded last by a run that began 20" in found.sentence()
    assert "its lag is 0:30:00" in found.sentence()


def test_each_partition_without_time_has_the_instant_of_its_last_load_or_what_its_loader_states(
    instance: dg.DagsterInstance,
) -> None:
    until = dg.MetadataValue.timestamp(at("2026-11-01") / 1000)
    materialize(instance, "de", "us", **{"sqlmesh/complete_until": until})
    materialize(instance, "us")
    stated = read(instance, location(COUNTRIES))
    assert stated.incomplete == ((at("2026-11-01"), FOREVER),)
    assert stated.sentence() == (
        "load/orders is complete until 2026-11-01T00:00:00Z in partition de, as its loader says"
    )
    materialize(instance, "de")
    reported = read(instance, location(COUNTRIES))
    assert "was loaded last in partition us at 20" in reported.sentence()
    assert "lag" not in reported.sentence()
    ((end, _),) = reported.incomplete
    assert abs(end - datetime.now().timestamp() * 1000) < 300_000


def test_the_partitions_of_sources_are_read_in_one_query(instance: dg.DagsterInstance) -> None:
    keys = [dg.AssetKey(["load", name]) for name in ("first", "second")]
    assets = [dg.AssetSpec(key, partitions_def=DAYS) for key in keys]
    definitions = dg.Definitions(assets=assets).get_repository_def()
    found = loaders(definitions, {key.path[-1]: key for key in keys}, also_elsewhere=("first", "second"))
    for key in keys:
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="2026-11-01"))
    instance.report_runless_asset_event(dg.AssetMaterialization(keys[1], partition="2026-11-02"))
    with queries() as executed:
        after = read_sources(instance, found)
    assert len([query for query in executed if "event_logs.partition" in query]) == 1
    assert after["first"].incomplete == ((at("2026-11-02"), FOREVER),)
    assert after["second"].incomplete == ((at("2026-11-03"), FOREVER),)
    instance.wipe_assets([keys[0]])
    instance.report_runless_asset_event(dg.AssetMaterialization(keys[0], partition="2026-11-03"))
    assert read_sources(instance, found)["first"].incomplete[0] == (at("2026-11-01"), at("2026-11-03"))


def test_table_is_awaited_if_asset_of_code_location_makes_it_by_key_or_table_name(instance: dg.DagsterInstance) -> None:
    named = location(metadata={"dagster/table_name": "db.raw.orders"})
    elsewhere = {TABLE: dg.AssetKey(["raw", "orders"])}
    assert loaders(location(), {TABLE: KEY}, also_elsewhere=())[TABLE].key == KEY
    assert loaders(named, elsewhere, also_elsewhere=())[TABLE].key == KEY
    assert loaders(location(), elsewhere, also_elsewhere=()) == {}
    chosen = read_sources(instance, loaders(location(), elsewhere, also_elsewhere=elsewhere))
    assert chosen[TABLE].sentence() == "raw/orders was never materialized: materialize it once"


def test_a_pattern_that_matches_no_table_is_refused() -> None:
    wait = Wait(tables=["raw.*", "rwa.*"])
    with pytest.raises(ConfigurationError, match=r"names 'rwa\.\*', but no model reads an external table of that name"):
        wait.refuse_unknown([TABLE])
    Wait(tables=["RAW.orders"]).refuse_unknown([TABLE])
    assert Wait(tables=["RAW.orders"]).has(TABLE)


@pytest.mark.advice("because the run has ended without one: execute the check")
def test_a_load_is_refused_until_its_blocking_check_has_a_result(instance: dg.DagsterInstance) -> None:
    """The check reads the source while it runs. Then its process is killed, and somebody executes it alone."""
    sentences = []

    def check(context: dg.AssetCheckExecutionContext) -> bool:
        sentences.append(read(context.instance, definitions).sentence())
        raise ValueError("killed")

    definitions = location(passes=check)
    run_job(instance, definitions, "load_it", "2026-11-01", "2026-11-01")
    assert sentences[0].startswith("load/orders has no result of its check complete yet")
    ended = read(instance, definitions)
    assert "because the run has ended without one: execute the check" in ended.sentence()
    assert ended.incomplete == ((at("2026-11-01"), FOREVER),)
    run_job(instance, location(), "check_it")
    after = read(instance, definitions)
    assert "check" not in after.sentence()
    assert after.incomplete == ((at("2026-11-02"), FOREVER),)


def test_a_failed_check_refuses_all_partitions_of_a_backfill_in_one_run(instance: dg.DagsterInstance) -> None:
    definitions = location(passes=False)
    run_job(instance, definitions, "load_it", "2026-11-01", "2026-11-06")
    refused = read(instance, definitions)
    assert refused.incomplete == ((at("2026-11-01"), FOREVER),)
    named = "in partition 2026-11-04, 2026-11-05, 2026-11-06 and 3 earlier ones"
    assert refused.sentence().startswith(f"load/orders has failed its check complete {named}")
    run_job(instance, location(), "load_it", "2026-11-06", "2026-11-06")
    assert read(instance, definitions).incomplete[0] == (at("2026-11-01"), at("2026-11-06"))
    run_job(instance, definitions, "load_it", "2026-11-01", "2026-11-06")
    run_job(instance, location(), "check_it")
    assert read(instance, definitions).incomplete == ((at("2026-11-07"), FOREVER),)


def test_a_failed_check_of_a_partition_refuses_no_other_partition_of_its_run(instance: dg.DagsterInstance) -> None:
    if "partition" not in signature(dg.AssetCheckEvaluation.__new__).parameters:
        pytest.skip("this Dagster has no checks of partitions")
    definitions = location()
    run_job(instance, definitions, "load_it", "2026-11-01", "2026-11-03")
    passed = next(check_records(instance, dg.AssetCheckKey(KEY, "complete"))).event
    assert passed is not None
    assert passed.asset_check_evaluation is not None
    target = passed.asset_check_evaluation.target_materialization_data  # a load of this run
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            KEY, "complete", passed=False, target_materialization_data=target, partition="2026-11-02"
        )
    )
    found = read(instance, definitions)
    assert found.incomplete == ((at("2026-11-02"), at("2026-11-03")), (at("2026-11-04"), FOREVER))
    assert "load/orders has failed its check complete in partition 2026-11-02" in found.sentence()


def test_a_blocking_check_of_a_declared_asset_refuses_too(instance: dg.DagsterInstance) -> None:
    definitions = location(None, passes=False, is_declared=True)
    materialize(instance)
    assert read(instance, definitions).incomplete != ((0, FOREVER),)
    run_job(instance, definitions, "check_it")
    refused = read(instance, definitions)
    assert (refused.incomplete, refused.sentence()) == (((0, FOREVER),), "load/orders has failed its check complete")


@pytest.mark.advice("which names no materialization: execute the check")
def test_failed_result_that_names_no_load_refuses_each_one_until_the_next_result(instance: dg.DagsterInstance) -> None:
    definitions = location()
    run_job(instance, definitions, "load_it", "2026-11-01", "2026-11-01")
    for passed, severity in ((False, dg.AssetCheckSeverity.ERROR), (False, dg.AssetCheckSeverity.WARN)):
        evaluation = dg.AssetCheckEvaluation(KEY, "complete", passed, severity=severity, blocking=True)
        instance.report_runless_asset_event(evaluation)
        found = read(instance, definitions)
        is_error = severity is dg.AssetCheckSeverity.ERROR
        assert found.incomplete == ((at("2026-11-01" if is_error else "2026-11-02"), FOREVER),)
        assert ("check complete, which names no materialization" in found.sentence()) == is_error
    instance.report_runless_asset_event(dg.AssetCheckEvaluation(KEY, "complete", False, blocking=True))
    assert read(instance, definitions).incomplete == ((at("2026-11-01"), FOREVER),)
    run_job(instance, definitions, "check_it")
    assert read(instance, definitions).incomplete == ((at("2026-11-02"), FOREVER),)


@pytest.mark.advice("was not materialized since its partitions have changed: materialize it")
@pytest.mark.parametrize("declared", [[], [dg.AssetSpec(KEY, tags={"sqlmesh/kind": "external"})]])
def test_partitions_of_a_dependency_count(instance: dg.DagsterInstance, declared: list[dg.AssetSpec]) -> None:
    """Dagster makes an asset without partitions of each dependency, and a component of each external table."""

    @dg.asset(deps=[KEY])
    def days() -> None: ...

    definitions = dg.Definitions(assets=[days, *declared]).get_repository_def()
    materialize(instance, "2026-11-01")
    assert read(instance, definitions).incomplete[0][0] > at("2026-11-01")
    known = dg.Definitions(assets=[days, dg.AssetSpec(KEY)]).get_repository_def()
    assert read(instance, known).sentence().startswith("load/orders was not materialized since its partitions")
    materialize(instance)
    assert read(instance, known).incomplete[0][0] > at("2026-11-01")


@pytest.mark.advice("by a run that was deleted: materialize it again")
@pytest.mark.parametrize("has_default_storage", [False, True])
def test_a_deleted_run_completes_less_also_after_its_load_was_read(tmp_path: Path, has_default_storage: bool) -> None:
    with empty_instance(tmp_path, has_default_storage=has_default_storage) as instance:
        _delete_runs(instance)


def _delete_runs(instance: dg.DagsterInstance) -> None:
    days, whole = location(), location(None)
    first = run_job(instance, days, "load_it", "2026-11-01", "2026-11-01")
    run_job(instance, days, "load_it", "2026-11-02", "2026-11-02")
    assert read(instance, days).incomplete == ((at("2026-11-03"), FOREVER),)
    instance.delete_run(first)
    assert read(instance, days).incomplete == ((at("2026-11-01"), at("2026-11-02")), (at("2026-11-03"), FOREVER))
    refused = run_job(instance, location(passes=False), "load_it", "2026-11-02", "2026-11-02")
    before = read(instance, days).incomplete
    assert before == ((at("2026-11-01"), FOREVER),)
    instance.delete_run(refused)
    assert read(instance, days).incomplete == before, "nothing says which day was refused"
    run_job(instance, days, "load_it", "2026-11-03", "2026-11-03")
    instance.wipe_assets([KEY])
    only = run_job(instance, whole)
    assert read(instance, whole).incomplete[0][0] > at("2026-11-03")
    instance.delete_run(only)
    gone = read(instance, whole)
    assert gone.incomplete == ((0, FOREVER),)
    assert gone.sentence().endswith("was loaded last by a run that was deleted: materialize it again")
    run_job(instance, whole)
    assert read(instance, whole).incomplete[0][0] > at("2026-11-03")


@pytest.mark.advice("to wait for the other tables only, name them")
def test_sources_with_any_partitions_or_statement_are_read_with_the_others(instance: dg.DagsterInstance) -> None:
    """Each of these made every run and tick fail, also of models that read other sources."""
    static = dg.StaticPartitionsDefinition(["a"])
    definitions = {
        "two_times": dg.MultiPartitionsDefinition({"day": DAYS, "month": dg.MonthlyPartitionsDefinition("2026-11-01")}),
        "two_others": dg.MultiPartitionsDefinition({"team": static, "country": COUNTRIES}),
        "text": None, "ms": None, "json": None, "nan": None, "null": None,
    }  # fmt: skip
    stated = {"text": "2026-11-24", "ms": at("2026-11-24"), "json": {"until": 1}, "nan": float("nan"), "null": None}
    keys = {name: dg.AssetKey([name]) for name in definitions}
    specs = [dg.AssetSpec(keys[name], partitions_def=partitions) for name, partitions in definitions.items()]
    found = loaders(dg.Definitions(assets=specs).get_repository_def(), keys, also_elsewhere=keys)
    for name, key in keys.items():
        partition = {"two_times": "2026-11-01|2026-11-01", "two_others": "de|a"}.get(name)
        metadata: dict[str, Any] = {"sqlmesh/complete_until": stated[name]} if name in stated else {}
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition, metadata=metadata))
    sources = read_sources(instance, found)
    assert {source.incomplete for source in sources.values()} == {((0, FOREVER),)}
    assert sources["two_others"].sentence() == "two_others has no materialization of us|a"
    assert sources["two_times"].sentence().startswith("two_times has two dimensions of time windows")
    for name, value in stated.items():
        shown = repr("null" if value is None else value)
        expected = f"{name} has {shown} as `sqlmesh/complete_until`, which is no timestamp in seconds"
        assert sources[name].sentence() == expected
    others = Wait(tables=[f"raw.{name}" for name in definitions if name != "two_times"])
    awaited = {name for name in definitions if others.has(f'"db"."raw"."{name}"')}
    assert awaited == definitions.keys() - {"two_times"}
