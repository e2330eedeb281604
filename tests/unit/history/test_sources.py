"""For which ranges the assets that load external tables are complete, by real events of an instance."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from harness import empty_instance
from unit.calls import queries

from dg_sqlmesh_component.config.external_models import Wait
from dg_sqlmesh_component.dagster_internals.assets import loaders
from dg_sqlmesh_component.history.partition_windows import windows_of
from dg_sqlmesh_component.history.sources import Source, read_sources
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.messages import FOREVER

KEY = dg.AssetKey(["load", "orders"])
TABLE = '"db"."raw"."orders"'
DAYS = dg.DailyPartitionsDefinition(start_date="2026-11-01")
NEW_YORK = dg.DailyPartitionsDefinition(start_date="2026-11-01", timezone="America/New_York")
COUNTRIES = dg.StaticPartitionsDefinition(["de", "us"])


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with empty_instance(tmp_path, has_default_storage=True) as instance:
        yield instance


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp() * 1000)


def repository(
    partitions: dg.PartitionsDefinition[str] | None = None, metadata: dict[str, Any] | None = None, passes: bool = True
) -> dg.RepositoryDefinition:
    """Return a code location with one asset, which has a blocking check."""

    @dg.asset(key=KEY, partitions_def=partitions, metadata=metadata)
    def orders() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult()

    @dg.asset_check(asset=KEY, blocking=True)
    def complete() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=passes)

    defs = dg.Definitions(assets=[orders], asset_checks=[complete], jobs=[dg.define_asset_job("load_it")])
    return defs.get_repository_def()


def source(
    instance: dg.DagsterInstance, definitions: dg.RepositoryDefinition, lag: timedelta = timedelta(0)
) -> Source | None:
    found = loaders(definitions, {TABLE: KEY}, also_elsewhere=())
    return read_sources(instance, found, lag).get(TABLE)


def materialize(instance: dg.DagsterInstance, *partitions: str, **metadata: Any) -> None:
    for partition in partitions or (None,):
        instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition=partition, metadata=metadata))


def test_windows_without_load_are_incomplete_and_all_before_the_first_is_complete(instance: dg.DagsterInstance) -> None:
    materialize(instance, "2026-11-01", "2026-11-02", "2026-11-04")
    found = source(instance, repository(DAYS))
    assert found is not None
    assert found.incomplete == ((at("2026-11-03"), at("2026-11-04")), (at("2026-11-05"), FOREVER))
    assert found.sentence().startswith("load/orders has no materialization of ")


def test_a_window_that_was_loaded_before_it_was_over_is_complete_up_to_that_load(instance: dg.DagsterInstance) -> None:
    now = datetime.now(timezone.utc)
    days = dg.DailyPartitionsDefinition(f"{now - timedelta(days=1):%Y-%m-%d}", end_offset=1)
    before = round(now.timestamp() * 1000)
    materialize(instance, *days.get_partition_keys())
    found = source(instance, repository(days))
    assert found is not None
    [(start, end)] = found.incomplete
    assert end == FOREVER
    assert before <= start <= round(datetime.now(timezone.utc).timestamp() * 1000)


def test_windows_are_instants_in_the_time_zone_of_the_partitions(instance: dg.DagsterInstance) -> None:
    """The clocks of New York change on 1 November 2026, so that day has 25 hours."""
    materialize(instance, "2026-11-01")
    found = source(instance, repository(NEW_YORK))
    assert found is not None
    assert found.incomplete == ((at("2026-11-02T05:00"), FOREVER),)


@pytest.mark.parametrize("countries", [COUNTRIES, dg.DynamicPartitionsDefinition(name="countries")])
def test_a_window_of_two_dimensions_is_complete_when_all_keys_of_the_other_one_are(
    instance: dg.DagsterInstance, countries: dg.PartitionsDefinition[str]
) -> None:
    instance.add_dynamic_partitions("countries", ["de", "us"])
    both = dg.MultiPartitionsDefinition({"day": DAYS, "country": countries})
    for key in ({"day": "2026-11-01", "country": "de"}, {"day": "2026-11-01", "country": "us"}):
        materialize(instance, dg.MultiPartitionKey(key))
    materialize(instance, dg.MultiPartitionKey({"day": "2026-11-02", "country": "us"}))
    found = source(instance, repository(both))
    assert found is not None
    assert found.incomplete == ((at("2026-11-02"), FOREVER),)


@pytest.mark.parametrize(
    ("earlier", "partitions"),
    [
        ("2026-11-02", dg.HourlyPartitionsDefinition(start_date="2026-11-01-00:00")),
        ("2026-11-02", dg.WeeklyPartitionsDefinition(start_date="2026-11-01")),
        ("2026-11-02", dg.MonthlyPartitionsDefinition(start_date="2026-11-01")),
        ("2026-11-02", dg.MultiPartitionsDefinition({"day": DAYS, "country": COUNTRIES})),
        ("2026-11-02|de", DAYS),
        ("de", DAYS),
    ],
)
def test_materializations_of_partitions_that_the_asset_had_before_do_not_count(
    instance: dg.DagsterInstance, earlier: str, partitions: dg.PartitionsDefinition[str]
) -> None:
    """Dagster keeps them. It finds a window for some of these keys: for a day, the week or month after it."""
    materialize(instance, earlier)
    found = source(instance, repository(partitions))
    assert found is not None
    assert found.incomplete == ((at("2026-11-01"), FOREVER),)
    assert windows_of(partitions, [earlier]) == {}


def test_windows_that_the_partitions_exclude_are_complete(instance: dg.DagsterInstance) -> None:
    days = dg.TimeWindowPartitionsDefinition(
        start="2026-11-01", fmt="%Y-%m-%d", cron_schedule="0 0 * * *", exclusions=[datetime(2026, 11, 2)]
    )
    materialize(instance, "2026-11-01", "2026-11-03")
    found = source(instance, repository(days))
    assert found is not None
    assert found.incomplete == ((at("2026-11-04"), FOREVER),)


def test_the_partitions_count_of_an_asset_that_another_system_materializes(instance: dg.DagsterInstance) -> None:
    declared = dg.Definitions(assets=[dg.AssetSpec(KEY, partitions_def=DAYS)]).get_repository_def()
    materialize(instance, "2026-11-01", "2026-11-03")
    found = read_sources(instance, loaders(declared, {TABLE: KEY}, also_elsewhere={TABLE}))
    assert found[TABLE].incomplete == ((at("2026-11-02"), at("2026-11-03")), (at("2026-11-04"), FOREVER))


@pytest.mark.parametrize("lag", [0, 30])
def test_without_partitions_complete_until_start_of_last_run_less_lag(instance: dg.DagsterInstance, lag: int) -> None:
    definitions = repository()
    result = definitions.get_job("load_it").execute_in_process(instance=instance)
    record = instance.get_run_record_by_id(result.run_id)
    assert record is not None
    assert record.start_time is not None
    found = source(instance, definitions, timedelta(minutes=lag))
    assert found is not None
    assert found.incomplete == ((round(record.start_time * 1000) - lag * 60_000, FOREVER),)
    assert "load/orders was loaded last by a run that began 20" in found.sentence()
    assert ("its lag is 0:30:00" in found.sentence()) == (lag > 0)


def test_the_loader_may_state_until_when_it_is_complete(instance: dg.DagsterInstance) -> None:
    until = dg.MetadataValue.timestamp(at("2026-11-24") / 1000)
    materialize(instance, **{"sqlmesh/complete_until": until})
    found = source(instance, repository())
    assert found is not None
    assert found.incomplete == ((at("2026-11-24"), FOREVER),)
    assert found.sentence() == "load/orders is complete until 2026-11-24T00:00:00Z, as its loader says"


def test_of_other_partitions_the_oldest_materialization_counts(instance: dg.DagsterInstance) -> None:
    definitions = repository(COUNTRIES)
    materialize(instance, "us")
    missing = source(instance, definitions)
    assert missing is not None
    assert missing.sentence() == "load/orders has no materialization of de"
    assert missing.incomplete == ((0, FOREVER),)
    materialize(instance, "de")
    materialize(instance, "us")
    found = source(instance, definitions)
    assert found is not None
    assert "was loaded last in partition de at 20" in found.sentence()
    ((until, _),) = found.incomplete
    assert abs(until - datetime.now().timestamp() * 1000) < 300_000


def test_of_dynamic_partitions_that_do_not_exist_any_more_nothing_is_complete(instance: dg.DagsterInstance) -> None:
    materialize(instance, "gone")
    found = source(instance, repository(dg.DynamicPartitionsDefinition(name="countries")))
    assert found is not None
    assert (found.incomplete, found.sentence()) == (((0, FOREVER),), "load/orders has no partitions")


@pytest.mark.parametrize("partitions", [DAYS, COUNTRIES])
def test_a_partition_is_not_complete_if_a_blocking_check_of_its_last_materialization_has_failed(
    instance: dg.DagsterInstance, partitions: dg.PartitionsDefinition[str]
) -> None:
    """The partitions after it are loaded, so the asset's last materialization is another one."""
    refuses, passes = repository(partitions, passes=False), repository(partitions)
    first, second = partitions.get_partition_keys()[:2]
    run_partition(instance, refuses, first)
    run_partition(instance, passes, second)
    found = source(instance, passes)
    assert found is not None
    assert found.sentence().startswith(f"load/orders has failed its check complete in partition {first}")
    assert found.incomplete[0][0] == (at("2026-11-01") if partitions is DAYS else 0)
    run_partition(instance, passes, first)
    again = source(instance, passes)
    assert again is not None
    assert "check" not in again.sentence()
    assert again.incomplete[0][0] > at("2026-11-02")


def run_partition(instance: dg.DagsterInstance, definitions: dg.RepositoryDefinition, partition: str) -> None:
    job = definitions.get_job("load_it")
    job.execute_in_process(instance=instance, partition_key=partition, raise_on_error=False)


def test_nothing_is_complete_without_materialization_or_if_blocking_check_failed(instance: dg.DagsterInstance) -> None:
    definitions = repository(passes=False)
    never = source(instance, definitions)
    assert never is not None
    assert (never.incomplete, never.sentence()) == (
        ((0, FOREVER),), "load/orders was never materialized: materialize it once",
    )  # fmt: skip
    definitions.get_job("load_it").execute_in_process(instance=instance, raise_on_error=False)
    refused = source(instance, definitions)
    assert refused is not None
    assert (refused.incomplete, refused.sentence()) == (((0, FOREVER),), "load/orders has failed its check complete")
    materialize(instance)
    after = source(instance, definitions)
    assert after is not None
    assert after.incomplete != ((0, FOREVER),), "the check has not looked at this materialization"


def test_the_partitions_of_sources_are_read_in_one_query(instance: dg.DagsterInstance) -> None:
    keys = [dg.AssetKey(["load", name]) for name in ("first", "second")]
    assets = [dg.asset(key=key, partitions_def=DAYS)(_nothing) for key in keys]
    definitions = dg.Definitions(assets=assets).get_repository_def()
    found = loaders(definitions, {key.path[-1]: key for key in keys}, also_elsewhere=())
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


def _nothing() -> None: ...


def test_table_is_awaited_if_asset_of_code_location_makes_it_by_key_or_table_name(instance: dg.DagsterInstance) -> None:
    named = repository(metadata={"dagster/table_name": "db.raw.orders"})
    elsewhere = {TABLE: dg.AssetKey(["raw", "orders"])}
    assert loaders(named, elsewhere, also_elsewhere=())[TABLE].key == KEY
    assert loaders(repository(), elsewhere, also_elsewhere=()) == {}
    chosen = read_sources(instance, loaders(repository(), elsewhere, also_elsewhere=elsewhere))
    assert chosen[TABLE].sentence() == "raw/orders was never materialized: materialize it once"


def test_a_pattern_that_matches_no_table_is_refused() -> None:
    wait = Wait(tables=["raw.*", "rwa.*"])
    with pytest.raises(ConfigurationError, match=r"names 'rwa\.\*', but no model reads an external table of that name"):
        wait.refuse_unknown([TABLE])
    Wait(tables=["RAW.orders"]).refuse_unknown([TABLE])
    assert Wait(tables=["RAW.orders"]).has(TABLE)


Body = Callable[[dg.AssetCheckExecutionContext], bool]


def checked(
    body: Body, partitions: dg.PartitionsDefinition[str] | None = DAYS, *, is_declared: bool = False
) -> dg.RepositoryDefinition:
    """Return a code location with a source, and a blocking check with this body."""

    @dg.asset(key=KEY, partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def orders() -> None: ...

    @dg.asset_check(asset=KEY, blocking=True)
    def complete(context) -> dg.AssetCheckResult:  # type: ignore[no-untyped-def]  # Dagster refuses text as a type
        return dg.AssetCheckResult(passed=body(context))

    loads_it = dg.define_asset_job("load_it", dg.AssetSelection.assets(KEY) | dg.AssetSelection.checks_for_assets(KEY))
    checks_it = dg.define_asset_job("check_it", dg.AssetSelection.checks_for_assets(KEY))
    asset = dg.AssetSpec(KEY, partitions_def=partitions) if is_declared else orders
    jobs = [checks_it] if is_declared else [loads_it, checks_it]
    return dg.Definitions(assets=[asset], asset_checks=[complete], jobs=jobs).get_repository_def()


def passes(_: dg.AssetCheckExecutionContext) -> bool:
    return True


def fails(_: dg.AssetCheckExecutionContext) -> bool:
    return False


def run_job(
    instance: dg.DagsterInstance, definitions: dg.RepositoryDefinition, job: str = "load_it", *days: str
) -> str:
    """Run a job for all days between two, or without a partition. Return the id of the run."""
    tags = dict(zip(("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), days))
    result = definitions.get_job(job).execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    return result.run_id


def read(instance: dg.DagsterInstance, definitions: dg.RepositoryDefinition) -> Source:
    found = read_sources(instance, loaders(definitions, {TABLE: KEY}, also_elsewhere={TABLE}))
    return found[TABLE]


@pytest.mark.parametrize("partitions", [None, DAYS])
def test_a_load_is_refused_until_its_blocking_check_has_a_result(
    instance: dg.DagsterInstance, partitions: dg.PartitionsDefinition[str] | None
) -> None:
    """The check reads the source while it runs. Then its process is killed, and somebody executes it alone."""
    sentences = []

    def body(context: dg.AssetCheckExecutionContext) -> bool:
        sentences.append(read(context.instance, definitions).sentence())
        raise ValueError("killed")

    definitions = checked(body, partitions)
    nothing = 0 if partitions is None else at("2026-11-01")
    run_job(instance, definitions, "load_it", *(["2026-11-01", "2026-11-01"] if partitions else []))
    assert sentences[0].startswith("load/orders has no result of its check complete yet")
    ended = read(instance, definitions)
    assert "because the run has ended without one: execute the check" in ended.sentence()
    assert ended.incomplete == ((nothing, FOREVER),)
    run_job(instance, checked(passes, partitions), "check_it")
    after = read(instance, definitions)
    assert "check" not in after.sentence()
    assert after.incomplete[0][0] > nothing


def test_a_failed_check_refuses_all_partitions_of_a_backfill_in_one_run(instance: dg.DagsterInstance) -> None:
    definitions = checked(fails)
    run_job(instance, definitions, "load_it", "2026-11-01", "2026-11-06")
    refused = read(instance, definitions)
    assert refused.incomplete == ((at("2026-11-01"), FOREVER),)
    named = "in partition 2026-11-04, 2026-11-05, 2026-11-06 and 3 earlier ones"
    assert refused.sentence().startswith(f"load/orders has failed its check complete {named}")
    run_job(instance, checked(passes), "load_it", "2026-11-06", "2026-11-06")
    assert read(instance, definitions).incomplete[0] == (at("2026-11-01"), at("2026-11-06"))
    run_job(instance, definitions, "load_it", "2026-11-01", "2026-11-06")
    run_job(instance, checked(passes), "check_it")
    assert read(instance, definitions).incomplete == ((at("2026-11-07"), FOREVER),)


def test_a_blocking_check_of_a_declared_asset_refuses_too(instance: dg.DagsterInstance) -> None:
    definitions = checked(fails, None, is_declared=True)
    materialize(instance)
    assert read(instance, definitions).incomplete != ((0, FOREVER),)
    run_job(instance, definitions, "check_it")
    refused = read(instance, definitions)
    assert (refused.incomplete, refused.sentence()) == (((0, FOREVER),), "load/orders has failed its check complete")


def test_failed_result_that_names_no_load_refuses_each_one_until_the_next_result(instance: dg.DagsterInstance) -> None:
    definitions = checked(passes)
    run_job(instance, definitions, "load_it", "2026-11-01", "2026-11-01")
    for passed, severity in ((False, dg.AssetCheckSeverity.ERROR), (False, dg.AssetCheckSeverity.WARN)):
        evaluation = dg.AssetCheckEvaluation(KEY, "complete", passed, severity=severity, blocking=True)
        instance.report_runless_asset_event(evaluation)
        found = read(instance, definitions)
        is_error = severity is dg.AssetCheckSeverity.ERROR
        assert found.incomplete == ((at("2026-11-01" if is_error else "2026-11-02"), FOREVER),)
        assert ("check complete, which names no materialization" in found.sentence()) == is_error


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


@pytest.mark.parametrize("has_default_storage", [False, True])
def test_a_deleted_run_completes_less_also_after_its_load_was_read(tmp_path: Path, has_default_storage: bool) -> None:
    with empty_instance(tmp_path, has_default_storage=has_default_storage) as instance:
        _delete_runs(instance)


def _delete_runs(instance: dg.DagsterInstance) -> None:
    days, whole = checked(passes), checked(passes, None)
    first = run_job(instance, days, "load_it", "2026-11-01", "2026-11-01")
    run_job(instance, days, "load_it", "2026-11-02", "2026-11-02")
    assert read(instance, days).incomplete == ((at("2026-11-03"), FOREVER),)
    instance.delete_run(first)
    assert read(instance, days).incomplete == ((at("2026-11-01"), at("2026-11-02")), (at("2026-11-03"), FOREVER))
    refused = run_job(instance, checked(fails), "load_it", "2026-11-02", "2026-11-02")
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
