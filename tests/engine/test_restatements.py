"""Automatic restatements: upstream models are restated before downstream models, also across runs."""

from __future__ import annotations

from pathlib import Path

from harness import dagster_project, plan, query, write_project

DAYS = "range(0, 1 + (@end_ds::DATE - @start_ds::DATE)) AS r(i)"
AUTO_RESTATEMENT = "auto_restatement_cron '@hourly', auto_restatement_intervals 3"
FILES = {
    "models/source.sql": f"MODEL (name t.source, kind INCREMENTAL_BY_TIME_RANGE (time_column ds, {AUTO_RESTATEMENT})); "
    f"SELECT @start_ds::DATE + i::INT AS ds, (SELECT max(v) FROM raw.numbers) AS x FROM {DAYS}",
    "models/middle.sql": "MODEL (name t.middle, kind EMBEDDED); SELECT ds, x FROM t.source",
    "models/reader.sql": "MODEL (name t.reader, kind INCREMENTAL_BY_TIME_RANGE (time_column ds)); "
    "SELECT ds, x FROM t.middle WHERE ds BETWEEN @start_ds AND @end_ds",
}


def test_downstream_model_run_alone_is_not_restated_before_its_upstream_model(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", FILES)
    query(project, "CREATE SCHEMA raw")
    query(project, "CREATE TABLE raw.numbers AS SELECT 1 AS v")
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": str(project)})
        dagster.refresh()
        dagster.launch()
        query(project, "UPDATE raw.numbers SET v = 2")
        query(
            project,
            "UPDATE sqlmesh._auto_restatements SET next_auto_restatement_ts = next_auto_restatement_ts - 7200000",
        )
        alone = dagster.launch(assets=["t/reader"])
        everything = dagster.launch()
    assert alone.status_of("t/reader") == "up_to_date"
    assert "it would restate warehouse.t.reader before models upstream of it" in alone.log
    assert everything.status_of("t/source") == everything.status_of("t/reader") == "executed"
    restated = "SELECT ds FROM {} WHERE x = 2 ORDER BY 1"
    assert query(project, restated.format("t.reader")) == query(project, restated.format("t.source")) != []
