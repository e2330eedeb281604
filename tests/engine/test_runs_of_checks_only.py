"""Runs of checks only: each audit has its own result, about the data that its environment has computed."""

from collections.abc import Iterator

import dagster as dg
import pytest
from harness import CONFIG, NewShop, Shop, at_night, planned_shop, write_project

from dg_sqlmesh_component.history.stored_record import INTERNAL

DAILY_ROWS = "@start_ds::DATE + i::INT AS ds FROM range(0, 1 + (@end_ds::DATE - @start_ds::DATE)) AS r(i)"
FILES = {
    "external_models.yaml": """
        - name: raw.source
          columns: {id: int}
          audits: [{name: known}]
    """,
    # SQLMesh stores this argument so that sqlglot writes it with other brackets in this dialect.
    "models/first.sql": "MODEL (name t.first, kind FULL, dialect redshift, audits (forall(criteria := [id > 0]))); "
    "SELECT id FROM raw.source",
    "models/model.sql": "MODEL (name t.model, kind FULL, "
    "audits (soft(), hard(), broken(blocking := false), not_null(columns := (id)))); SELECT id FROM raw.source",
    "audits/known.sql": "AUDIT (name known, blocking false); "
    "SELECT * FROM raw.source WHERE (SELECT is_known FROM raw.flags) = 0",
    "audits/soft.sql": "AUDIT (name soft, blocking false); SELECT * FROM @this_model WHERE id < 0",
    "audits/hard.sql": "AUDIT (name hard); SELECT * FROM @this_model WHERE (SELECT is_fine FROM raw.flags) = 0",
    "audits/broken.sql": "AUDIT (name broken); SELECT * FROM @this_model WHERE "
    "CASE WHEN (SELECT is_fine FROM raw.flags) = 0 THEN error('the audit is broken') ELSE false END",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    tables = {"raw.source": "SELECT 1 AS id", "raw.flags": "SELECT 1 AS is_fine, 1 AS is_known"}
    with planned_shop(tmp_path_factory.mktemp("alone"), FILES, tables=tables) as shop:
        assert shop.launch().status == dg.DagsterRunStatus.SUCCESS
        shop.query("UPDATE raw.flags SET is_fine = 0")
        yield shop


@pytest.mark.parametrize(
    "check",
    [
        "t/model:soft",
        "t/model:not_null_id",
        "t/model:sqlmesh_execution_status",
        "t/first:forall_criteria_ARRAY_id_0_21acdcae",
    ],
)
def test_run_of_one_check_ignores_other_audits_of_the_model(shop: Shop, check: str) -> None:
    record = shop.launch(checks=[check]).succeeded()
    assert list(record.checks) == [check]
    assert record.checks[check].passed


def test_audit_that_raises_does_not_lose_results_of_other_audits(shop: Shop) -> None:
    record = shop.launch(checks=["t/model:soft", "t/model:broken", "t/model:hard", "t/model:not_null_id"]).failed()
    assert {name: result.passed for name, result in record.checks.items()} == {
        "t/model:soft": True,
        "t/model:broken": False,
        "t/model:hard": False,
        "t/model:not_null_id": True,
    }
    assert record.checks["t/model:broken"].severity is dg.AssetCheckSeverity.WARN, "its use is not blocking"
    [failure] = record.failures
    assert "t.model: audit broken could not be evaluated" in failure
    assert "the audit is broken" in failure
    assert "t.model: audit hard failed: 1 row." in failure


def test_failed_audit_without_its_check_in_the_run_is_logged(new_shop: NewShop) -> None:
    """The check of this external table belongs to another downstream model."""
    files = {name: FILES[name] for name in FILES if "model.sql" not in name}
    files["models/second.sql"] = "MODEL (name t.second, kind FULL); SELECT id FROM raw.source"
    tables = {"raw.source": "SELECT 1 AS id", "raw.flags": "SELECT 1 AS is_fine, 0 AS is_known"}
    record = new_shop(files, tables=tables).launch(assets=["t/second"]).succeeded()
    assert "raw.source: audit known failed: 1 row. Its check t/first:raw_source__known is not part" in record.log


@pytest.mark.advice("If the local file is newer, apply a plan.")
@pytest.mark.parametrize(
    "promoted", ["", *at_night("not_null(columns := (name))")], ids=["no audit", "other arguments"]
)
def test_check_of_audit_that_is_not_promoted_warns(new_shop: NewShop, promoted: str) -> None:
    model = "MODEL (name t.one, kind FULL, audits ({})); SELECT 1 AS id, 'a' AS name"
    shop = new_shop({"models/one.sql": model.format(promoted)})
    write_project(shop.project, {"models/one.sql": model.format("not_null(columns := (id))")})
    record = shop.launch(checks=["t/one:not_null_id"])
    result = record.checks["t/one:not_null_id"]
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert "If the local file is newer, apply a plan. If not, refresh the manifest" in str(result.description)
    shop.plan(at=None)
    assert shop.launch(checks=["t/one:not_null_id"]).succeeded().checks["t/one:not_null_id"].passed


@pytest.mark.night("test_run_of_checks_in_dev_audits_the_table_that_dev_shows")
def test_forward_only_preview_in_dev_counts_as_computed(new_shop: NewShop) -> None:
    """SQLMesh stores the intervals of a forward-only change separately for dev and prod."""
    model = "MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE ({kind}), audits (not_null(columns := (id)))); SELECT "
    kind = "time_column ds"
    shop = new_shop({"models/days.sql": f"{model.format(kind=kind)} 1 AS id, {DAILY_ROWS}"})
    forward_only = model.format(kind=f"{kind}, forward_only true")
    write_project(shop.project, {"models/days.sql": f"{forward_only} NULLIF(2, 2) AS id, {DAILY_ROWS}"})
    shop.plan("dev", "--start", "5 days ago")
    shop.configure(project={"path": str(shop.project), "environment": "dev"})
    assert shop.launch().status_of("t/days") == "executed"
    second_run = shop.launch()
    checks_only = shop.launch(checks=["t/days:not_null_id", "t/days:sqlmesh_execution_status"])
    assert "all complete intervals are computed" in str(second_run.observations["t/days"].description)
    carried = second_run.checks["t/days:not_null_id"]
    assert carried.metadata["sqlmesh/carried_over"].value is True
    assert not carried.passed
    assert not checks_only.checks["t/days:not_null_id"].passed
    assert checks_only.checks["t/days:not_null_id"].metadata["sqlmesh/failing_row_count_of_all_intervals"].value == 5
    assert "has nothing to do" in str(checks_only.checks["t/days:sqlmesh_execution_status"].description)


def test_run_of_checks_in_dev_audits_the_table_that_dev_shows(new_shop: NewShop) -> None:
    """If an upstream model has a new column in dev, the table that dev shows is that of prod. A run in dev computes
    another table.
    """
    model = "MODEL (name t.{}, kind INCREMENTAL_BY_TIME_RANGE (time_column ds), {}); SELECT "
    source = model.format("source", "description ''") + "1 AS id, "
    reader = model.format("reader", "audits (soft())") + "id, ds FROM t.source WHERE ds BETWEEN @start_ds AND @end_ds"
    files = {
        "models/source.sql": source + DAILY_ROWS,
        "models/reader.sql": reader,
        "models/apart.sql": "MODEL (name t.apart, kind FULL); SELECT 1 AS id",
        "audits/soft.sql": FILES["audits/soft.sql"],
    }
    shop = new_shop(files)
    write_project(shop.project, {"models/source.sql": f"{source} 2 AS other, {DAILY_ROWS}"})
    shop.plan("dev")
    shop.configure(project={"path": str(shop.project), "environment": "dev"}, include_metadata=["row_count"])
    checks_only = shop.launch(checks=["t/reader:soft"])
    record = shop.launch()
    assert checks_only.status == dg.DagsterRunStatus.SUCCESS
    assert INTERNAL in checks_only.checks["t/reader:soft"].metadata
    assert record.status_of("t/reader") == "executed"
    # Without this metadata, the result is never carried over.
    assert INTERNAL not in record.checks["t/reader:soft"].metadata
    # The plan has not changed t.apart, so dev has no view of it.
    counted = {key for key, event in record.materializations.items() if "dagster/row_count" in event.metadata}
    assert counted == {"t/source", "t/reader"}
    assert "could not be described" not in record.log


def test_rows_are_counted_in_an_environment_whose_catalog_is_not_attached(new_shop: NewShop) -> None:
    config = CONFIG.replace("database: warehouse.duckdb", "catalogs: {warehouse: warehouse.duckdb}")
    state = "    state_connection: {type: duckdb, database: state.duckdb}\n"
    config = config.replace("default_gateway", f"{state}default_gateway")
    daily = f"MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column ds)); SELECT {DAILY_ROWS}"
    shop = new_shop({"models/daily.sql": daily}, f"{config}environment_suffix_target: catalog\n")
    shop.plan("dev", "--include-unmodified")
    shop.configure(project={"path": str(shop.project), "environment": "dev"}, include_metadata=["row_count"])
    record = shop.launch()
    assert record.materializations["t/daily"].metadata["dagster/row_count"].value == 6
    assert "could not be described" not in record.log


def test_audit_that_raises_in_a_run_does_not_lose_earlier_results(new_shop: NewShop) -> None:
    model = "MODEL (name t.model, kind FULL, audits (soft(), broken())); SELECT -1 AS id"
    files = {"models/model.sql": model, **{name: FILES[name] for name in ("audits/soft.sql", "audits/broken.sql")}}
    shop = new_shop(files, tables={"raw.flags": "SELECT 1 AS is_fine"})
    shop.query("UPDATE raw.flags SET is_fine = 0")
    record = shop.launch()
    assert record.status_of("t/model") == "failed"
    assert not record.checks["t/model:soft"].passed
    broken = record.checks["t/model:broken"]
    assert broken.severity == dg.AssetCheckSeverity.WARN
    assert broken.description == "Not evaluated: InvalidInputException: Invalid Input Error: the audit is broken"


@pytest.mark.night(
    "engine/test_steps.py::test_failed_blocking_check_fails_later_runs_until_its_audit_passes",
    "unit/run/test_step_results.py",
)
def test_run_of_checks_repeats_the_failure_of_a_model_until_somebody_has_computed_it(new_shop: NewShop) -> None:
    files = {
        "models/ill.sql": "MODEL (name t.ill, kind FULL, audits (soft())); SELECT text::INT AS id FROM raw.source",
        "models/bare.sql": "MODEL (name t.bare, kind FULL); SELECT text::INT AS id FROM raw.source",
        "audits/soft.sql": FILES["audits/soft.sql"],
    }
    checks = ["t/ill:soft", "t/ill:sqlmesh_execution_status", "t/bare:sqlmesh_execution_status"]
    shop = new_shop(files, tables={"raw.source": "SELECT '1' AS text"})
    shop.query("UPDATE raw.source SET text = 'one'")
    failed = shop.launch()
    assert failed.status_of("t/ill") == failed.status_of("t/bare") == "failed"

    for _ in range(2):
        audited = shop.launch(checks=checks).failed()
        assert audited.checks["t/ill:soft"].passed
        for check in checks[1:]:
            result = audited.checks[check]
            assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
            assert result.metadata["sqlmesh/evaluated_in_run"].value == failed.run_id
            assert "Could not convert string 'one'" in str(result.metadata["sqlmesh/error"].value)

    shop.query("UPDATE raw.source SET text = '1'")
    shop.sqlmesh("run")
    audited = shop.launch(checks=checks).succeeded()
    assert all(result.passed for result in audited.checks.values())
