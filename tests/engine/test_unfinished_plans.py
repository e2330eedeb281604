"""Plans that were killed or have failed half-way: prod stays whole, and the same digest finishes them."""

import re
from typing import Any
from unittest.mock import ANY

import dagster as dg
import pytest
from engine.plan_jobs import (
    APPLY,
    BASE,
    DAILY,
    KILLED,
    MODELS,
    PLAN,
    change,
    edit_config,
    failure_of,
    killed_shop,
    kinds,
    launch,
    message_of,
    planned,
    report_of,
    text_of,
)
from engine.preview_lab import PREVIEW
from harness import CONFIG, HAS_PREVIEWS, NewShop, Shop, at_night, needs_previews, rows_at_night
from postgres import postgres_server


@pytest.mark.night(
    "engine/test_apply_beside_runs.py::test_killed_apply_is_finished_with_the_same_digest_and_reads_again_what_was_rewritten",
    "test_an_apply_killed_in_the_promotion_is_finished_by_the_same_digest",
)
def test_an_apply_killed_in_the_backfill_leaves_prod_whole_and_the_same_digest_finishes_it(new_shop: NewShop) -> None:
    shop = killed_shop(new_shop)
    added = "MODEL (name t.added, kind FULL); SELECT 1 AS x"
    (shop.project / "models" / "total.py").write_text(KILLED.replace("[1]", "[2]"))
    change(shop, added=added)
    digest = planned(shop)["digest"]

    launch(shop, APPLY, digest=digest).failed()
    assert shop.query("SELECT id FROM t.total") == [(1,)]
    (shop.project / "kill").unlink()
    launch(shop, APPLY, digest=digest).succeeded()
    assert shop.query("SELECT id FROM t.total") == [(2,)]
    assert planned(shop)["models"] == []


@pytest.mark.advice("launch that run again. With `take_back: true`, {} takes the plan")
@pytest.mark.parametrize(
    ("settings", "attempts"),
    [
        ("after_all: [SELECT 1]\n", ("digest",)),
        *rows_at_night(
            ("after_all: [SELECT 1]\n", ("digest", "take_back", "digest", "digest")),
            ("plan: {use_finalized_state: true}\n", ("digest", "take_back", "digest", "digest")),
        ),
    ],
)
def test_an_apply_killed_in_the_promotion_is_finished_by_the_same_digest(
    new_shop: NewShop, settings: str, attempts: tuple[str, ...]
) -> None:
    """Each attempt writes a plan of its own into the environment's row, and the one before it as its previous plan.

    It also stores its statements there, which another plan's approval would not expect.
    """
    shop = killed_shop(new_shop)
    edit_config(settings)(shop)
    change(shop, base=BASE.format(type="DOUBLE").replace("2.5", "3.5"))
    (shop.project / "models" / "other.sql").unlink()
    digest = planned(shop)["digest"]

    configs = {"digest": {"digest": digest}, "take_back": {"take_back": True}}
    for attempt in attempts:
        interrupted = launch(shop, APPLY, **configs[attempt])
        is_taken_back = interrupted.status is dg.DagsterRunStatus.SUCCESS
        assert is_taken_back or "killed by signal 9" in failure_of(interrupted)
    (shop.project / "kill").unlink()
    shop.configure(deploy=True, execution={"environment_timeout": 1})
    waiting = shop.launch().failed()
    [tag] = re.findall(rf"the job {APPLY}\? Its run has the tag `sqlmesh/plan_id: (\w+)`: launch that run", waiting.log)
    assert f"again. With `take_back: true`, {APPLY} takes the plan back, or says why it cannot." in waiting.log
    [run] = shop.instance.get_runs(dg.RunsFilter(tags={"sqlmesh/plan_id": tag}))
    ops: Any = run.run_config["ops"]
    launch(shop, APPLY, **ops[APPLY]["config"]).succeeded()
    views = "SELECT table_name FROM information_schema.views WHERE table_schema = 't'"
    assert ("other",) not in shop.query(views), "the finished plan removes the views that no attempt before did"
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS, "prod is whole again"


@pytest.mark.slow
def test_the_attempt_that_finishes_a_plan_computes_a_table_whose_kind_has_changed(new_shop: NewShop) -> None:
    """In this mode, SQLMesh computes it after the promotion. The intervals of the old kind are in the state."""
    tables = {"raw.switch": "SELECT 0 AS x"}
    config = f"{CONFIG}virtual_environment_mode: dev_only\n"
    shop = new_shop({"models/x.sql": "MODEL (name t.x, kind FULL); SELECT 1 AS n"}, config, tables=tables, deploy=True)
    n = "CASE WHEN (SELECT x FROM raw.switch) = 0 THEN error('no') ELSE '7' END::INT AS n"
    by_day = "kind INCREMENTAL_BY_TIME_RANGE (time_column day)"
    change(shop, x=f"MODEL (name t.x, {by_day}); SELECT @start_ds::DATE AS day, {n}")
    digest = planned(shop)["digest"]
    assert "which is now between two plans" in failure_of(launch(shop, APPLY, digest=digest))
    shop.query("UPDATE raw.switch SET x = 1")

    launch(shop, APPLY, digest=digest).succeeded()

    assert (7,) in shop.query("SELECT n FROM t.x")


DAYS = "MODEL (name t.{name}, kind INCREMENTAL_BY_TIME_RANGE (time_column day{more})); SELECT {query}"
BETWEEN = "WHERE day BETWEEN @start_ds AND @end_ds"


@pytest.mark.night(
    "test_an_added_model_is_not_computed_beyond_its_source",
    "engine/test_apply_beside_runs.py::test_killed_apply_is_finished_with_the_same_digest_...",
)
def test_the_attempt_that_finishes_a_plan_computes_as_far_as_prod_did_before_the_first(new_shop: NewShop) -> None:
    """A reader must not be computed beyond its source: no run would compute these days again."""
    raw = {
        "raw.days": "SELECT CURRENT_DATE - range::INT AS day, 1 AS n FROM range(9)",
        "raw.bad": "SELECT CURRENT_DATE - 4 AS day",
    }
    both = f"day, early.n + late.n AS n FROM t.early LEFT JOIN t.late USING (day) {BETWEEN}"
    late = f"day, IF(day IN (FROM raw.bad), error('bad day'), n) AS n FROM t.early {BETWEEN}"
    files = {
        "early": DAYS.format(name="early", more=", forward_only true", query=f"day, n FROM raw.days {BETWEEN}"),
        "late": DAYS.format(name="late", more=", batch_size 1", query=f"day, n FROM t.early {BETWEEN}"),
        "reader": DAYS.format(name="reader", more="", query=both),
    }
    shop = new_shop({f"models/{name}.sql": text for name, text in files.items()}, tables=raw, deploy=True)
    shop.launch(assets=["t/early"])
    early = files["early"].replace("day, n", "day, n, 1 AS more")
    change(shop, early=early, late=DAYS.format(name="late", more=", batch_size 1", query=late))
    digest = planned(shop)["digest"]

    launch(shop, APPLY, digest=digest).failed()
    shop.query("DELETE FROM raw.bad")
    launch(shop, APPLY, digest=digest).succeeded()

    days = "SELECT list(day ORDER BY day) FROM t."
    assert shop.query(f"{days}reader") == shop.query(f"{days}late")
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS
    assert shop.query("SELECT DISTINCT n FROM t.reader") == [(2,)]


def test_an_added_model_is_not_computed_beyond_its_source(new_shop: NewShop) -> None:
    """SQLMesh computes it as far as any model of prod: the days without a source would have no rows for good."""
    raw = {"raw.days": "SELECT CURRENT_DATE - range::INT AS day, 1 AS n FROM range(9)"}
    files = {
        name: DAYS.format(name=name, more="", query=f"day, n FROM raw.days {BETWEEN}") for name in ("early", "late")
    }
    shop = new_shop({f"models/{name}.sql": text for name, text in files.items()}, tables=raw, deploy=True)
    shop.launch(assets=["t/early"])
    reads = f"day, early.n + late.n AS n FROM t.early LEFT JOIN t.late USING (day) {BETWEEN}"
    change(shop, reader=DAYS.format(name="reader", more="", query=reads))

    report = planned(shop)

    [model] = report["models"]
    days = "SELECT list(day ORDER BY day) FROM t."
    launch(shop, APPLY, digest=report["digest"]).succeeded()

    assert (model["name"], model["intervals"]) == ("t.reader", shop.query("SELECT count(*) FROM t.late")[0][0])
    assert shop.query(f"{days}reader") == shop.query(f"{days}late")
    shop.launch().succeeded()
    assert shop.query(f"{days}reader") == shop.query(f"{days}early")
    assert shop.query("SELECT DISTINCT n FROM t.reader") == [(2,)]


@pytest.mark.night(
    "engine/test_waiting_plans.py::test_a_plan_of_another_model_does_not_compute_a_day_that_is_not_loaded",
    "unit/capabilities/plans/test_gate.py::test_rows_that_the_next_run_computes_are_a_loss_until_then",
)
def test_the_report_names_days_that_wait_for_an_upstream_model_that_has_lost_them(new_shop: NewShop) -> None:
    raw = {"raw.days": "SELECT CURRENT_DATE - range::INT AS day, '1' AS n FROM range(9)"}
    source = DAYS.format(name="source", more=", lookback 1", query=f"day, n::INT AS n FROM raw.days {BETWEEN}")
    reader = DAYS.format(name="reader", more="", query=f"day, n FROM t.source {BETWEEN}")
    shop = new_shop({"models/source.sql": source, "models/reader.sql": reader}, tables=raw, deploy=True)
    [(last,)] = shop.query("SELECT max(day) FROM t.reader")
    shop.query("UPDATE raw.days SET n = 'bad'")
    assert shop.launch().status is dg.DagsterRunStatus.FAILURE  # its `lookback` has forgotten the last day
    shop.query("UPDATE raw.days SET n = '1'")
    shop.sqlmesh("janitor")  # merges ranges: only then SQLMesh sees that the last day is gone
    change(shop, source=source.replace("n::INT", "n::INT + 1"))

    record = launch(shop, PLAN).succeeded()
    applied = launch(shop, APPLY, digest=report_of(record)["digest"]).succeeded()

    assert f"loses rows of {last} until the next run." in text_of(record)
    assert "2 intervals; 1 interval left out, waiting for t.source" in text_of(record)
    assert "Left out, because t.source is not computed: t.reader (1 interval). The next run" in applied.log
    assert shop.query(f"SELECT max(day) < '{last}' FROM t.reader") == [(True,)]
    shop.launch().succeeded()
    assert shop.query(f"SELECT max(day) > '{last}', min(n), max(n) FROM t.reader") == [(True, 2, 2)]


FAIL = """
from pathlib import Path

from sqlmesh import macro


@macro()
def fail_in_migration(evaluator):
    if evaluator.runtime_stage == "creating" and Path("fail").exists():
        raise RuntimeError("no space left on device")
"""


@pytest.mark.slow
def test_a_destructive_plan_that_fails_in_its_migration_is_finished_by_the_same_run_config(new_shop: NewShop) -> None:
    daily = DAILY.replace("SELECT", "@fail_in_migration();\nSELECT")
    total = "MODEL (name t.total, kind FULL); SELECT max(amount) AS amount FROM t.daily"
    files = {**MODELS, "models/daily.sql": daily, "models/total.sql": total, "macros/fail.py": FAIL}
    shop = new_shop(files, deploy=True)
    change(shop, base=BASE.format(type="INT"))
    reviewed = planned(shop)
    config = {"digest": planned(shop, allow_destructive=["t.daily"])["digest"], "allow_destructive": ["t.daily"]}
    (shop.project / "fail").touch()
    for _ in range(2):
        failed = launch(shop, APPLY, **config)
        assert kinds(report_of(failed)) == []
        assert "no space left" in failure_of(failed)
        assert "environment prod shows what it showed before" in failure_of(failed)
    (shop.project / "fail").unlink()
    models = [
        {**model, "intervals": 0} if model["name"] == "t.base" else model  # the failed job has computed it
        for model in reviewed["models"]
    ]
    assert planned(shop) == {**reviewed, "models": models, "run_id": ANY}

    launch(shop, APPLY, **config).succeeded()
    assert shop.query("SELECT DISTINCT typeof(amount) FROM t.daily") == [("INTEGER",)]
    launch(shop, APPLY, **config).succeeded()


KEPT = """
MODEL (name t.kept, kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true));
SELECT @start_ds::DATE AS day, 1 AS x{columns}
"""
ENDS_ALL_CONNECTIONS = """
MODEL (name t.shown, kind VIEW);
SELECT {number} AS x;
ON_VIRTUAL_UPDATE_BEGIN;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity, t.failing WHERE datname = current_database();
ON_VIRTUAL_UPDATE_END;
"""


@pytest.mark.night(
    "unit/capabilities/plans/worker/test_failed_plan.py",
    "engine/test_taken_back.py::test_plan_that_has_merged_rows_into_a_table_of_prod_is_named_and_not_taken_back",
    "engine/test_taken_back.py::test_statement_that_fails_after_a_view_is_replaced_is_named_and_the_plan_taken_back",
)
def test_apply_whose_database_fails_in_promotion_says_so_and_the_next_one_names_lost_values(new_shop: NewShop) -> None:
    with postgres_server() as server:
        server.query("CREATE DATABASE failing")
        server.query("CREATE SCHEMA t", "failing")
        server.query("CREATE TABLE t.failing (x INT)", "failing")
        files = {"kept": KEPT.format(columns=", 2 AS y"), "shown": ENDS_ALL_CONNECTIONS.format(number=1)}
        models = {f"models/{name}.sql": text for name, text in files.items()}
        shop = new_shop(models, server.config("failing"), deploy=True)
        server.query("INSERT INTO t.failing VALUES (1)", "failing")
        change(shop, kept=KEPT.format(columns=""), shown=ENDS_ALL_CONNECTIONS.format(number=2))
        config = {"digest": planned(shop)["digest"], "allow_destructive": ["t.kept"]}

        failed = launch(shop, APPLY, **config)

        assert "after it had begun to change environment prod, which is now between two plans" in failure_of(failed)
        assert "Values are lost: t.kept (drops y)." in failure_of(failed)
        assert "correct the cause and launch this job again with the same run config" in failure_of(failed)
        server.query("DELETE FROM t.failing", "failing")
        finished = launch(shop, APPLY, **config).succeeded()
        assert f"Earlier attempts: run {failed.run_id}. Values are lost: t.kept (drops y)." in finished.log


ENDS_ITS_SESSION = """
CREATE FUNCTION ends() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;
CREATE TRIGGER ends BEFORE INSERT ON sqlmesh._environments FOR EACH ROW EXECUTE FUNCTION ends();
"""


@pytest.mark.night(
    "unit/capabilities/plans/worker/test_failed_plan.py",
    "engine/test_taken_back.py::test_plan_that_has_merged_rows_into_a_table_of_prod_is_named_and_not_taken_back",
)
def test_apply_whose_state_does_not_answer_any_more_says_that_prod_may_be_between_two_plans(new_shop: NewShop) -> None:
    with postgres_server() as server:
        server.query("CREATE DATABASE silent")
        shop = new_shop({"models/kept.sql": KEPT.format(columns="")}, server.config("silent"), deploy=True)
        change(shop, kept=KEPT.format(columns=", 2 AS y"))
        config = {"digest": planned(shop)["digest"]}
        server.query(ENDS_ITS_SESSION, "silent")

        failed = launch(shop, APPLY, **config)

        assert "environment prod may be between two plans, because SQLMesh's state does not answer" in failure_of(
            failed
        )
        assert "SQLMesh's state does not answer: " in failed.log
        server.query("DROP TRIGGER ends ON sqlmesh._environments", "silent")
        launch(shop, APPLY, **config).succeeded()


@pytest.mark.night(
    "unit/capabilities/plans/worker/test_failed_plan.py",
    "engine/test_new_audits.py::test_an_apply_that_fails_after_the_promotion_records_what_prod_shows",
)
@pytest.mark.advice("correct the cause and launch this job again{}.")
def test_a_statement_after_the_promotion_that_fails_is_executed_by_the_next_attempt(shop: Shop) -> None:
    edit_config("after_all: [INSERT INTO t.promotions VALUES (1)]\n")(shop)
    digest = planned(shop)["digest"]

    failed = launch(shop, APPLY, digest=digest)

    assert "The plan failed after it was promoted: environment prod shows it." in failure_of(failed)
    assert "launch this job again with the same run config" in failure_of(failed)
    shop.query("CREATE TABLE t.promotions (x INT)")
    launch(shop, APPLY, digest=digest).succeeded()
    assert shop.query("SELECT x FROM t.promotions") == [(1,)]


@pytest.mark.night(
    "unit/capabilities/plans/worker/test_failed_plan.py",
    "engine/test_new_audits.py::test_an_apply_that_fails_after_the_promotion_records_what_prod_shows",
)
def test_the_error_of_a_statement_is_named_also_if_prod_cannot_be_read_after_it(shop: Shop) -> None:
    edit_config("after_all: [DROP SCHEMA sqlmesh CASCADE, SELECT no_such_function()]\n")(shop)

    failed = launch(shop, APPLY, digest=planned(shop)["digest"])

    assert "no_such_function" in failure_of(failed)
    assert "The data that prod shows was not recorded, because it could not be read: " in failed.log


STATEMENTS = "before_all: [INSERT INTO raw.log VALUES ('before')]\nafter_all: [INSERT INTO raw.log VALUES ('after')]\n"
WRONG_TEST = """
test_x:
  model: t.x
  inputs: {raw.later: {rows: [{n: 1}]}}
  outputs: {query: {rows: [{n: 2}]}}
"""


@pytest.mark.night(
    "engine/test_new_audits.py::test_an_apply_that_fails_after_the_promotion_records_what_prod_shows",
    "engine/test_plan_reports.py::test_a_failing_unit_test_is_reported_with_its_difference",
)
@needs_previews
def test_each_attempt_executes_unit_tests_and_statements(new_shop: NewShop) -> None:
    tables = {"raw.log": "SELECT 'planned' AS n"}
    files, preview = {"models/x.sql": "MODEL (name t.x, kind FULL); SELECT 1 AS n"}, {"environment": "pr_1"}
    shop = new_shop(files, CONFIG + STATEMENTS, tables=tables, deploy=True, preview=preview)

    def executed() -> list[str]:
        found = [n for (n,) in shop.query("SELECT n FROM raw.log")]
        shop.query("DELETE FROM raw.log")
        return found

    change(shop, x="MODEL (name t.x, kind FULL); SELECT n FROM raw.later")
    digest = planned(shop)["digest"]
    executed()
    launch(shop, APPLY, digest=digest).failed()
    assert executed() == ["before"]
    shop.query("CREATE TABLE raw.later AS SELECT 1 AS n")
    launch(shop, PREVIEW).succeeded()
    assert executed() == ["before", "after"]
    file = shop.project / "tests" / "test_x.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(WRONG_TEST)
    assert "test_x" in failure_of(launch(shop, APPLY, digest=digest))
    assert executed() == []
    file.unlink()
    launch(shop, APPLY, digest=digest).succeeded()
    assert executed() == ["before", "after"]


FINE = "MODEL (name t.fine, kind FULL); SELECT {x} AS x"
LATE = "MODEL (name t.late, kind FULL); SELECT n FROM raw.{table}"


@pytest.mark.night(
    "engine/test_apply_beside_runs.py::test_killed_apply_is_finished_with_the_same_digest_...",
    "engine/test_previews.py::test_applying_a_previewed_plan_by_its_digest_computes_nothing",
)
@needs_previews
@pytest.mark.advice(
    "If you change a file of the project, review the new plan: it has another digest. If you correct only data,",
    "Correct the files of the project, and launch this job again. Finished intervals are not computed again.",
)
def test_a_failed_preview_or_apply_is_launched_again_and_computes_nothing_that_was_finished(new_shop: NewShop) -> None:
    files = {"models/fine.sql": FINE.format(x=0), "models/late.sql": LATE.format(table="before")}
    tables = {f"raw.{table}": "SELECT 1 AS n" for table in ("before", "loaded")}
    shop = new_shop(files, tables=tables, deploy=True, preview={"environment": "pr_1"})

    change(shop, fine=FINE.format(x=1), late=LATE.format(table="mistyped"))
    failed = failure_of(launch(shop, PREVIEW))
    assert "Correct the files of the project, and launch this job again. Finished intervals are not" in failed
    change(shop, late=LATE.format(table="loaded"))
    assert "The preview is ready. Computed: 1 model." in launch(shop, PREVIEW).succeeded().log

    change(shop, fine=FINE.format(x=2), late=LATE.format(table="not_loaded"))
    digest = planned(shop)["digest"]
    failed = failure_of(launch(shop, APPLY, digest=digest))
    assert "launch this job again with the same run config. Finished intervals are not computed again." in failed
    change(shop, late=LATE.format(table="mistyped"))
    assert planned(shop)["digest"] != digest
    change(shop, late=LATE.format(table="not_loaded"))
    shop.query("CREATE TABLE raw.not_loaded AS SELECT 1 AS n")
    assert "Computed: 1 model." in launch(shop, APPLY, digest=digest).succeeded().log


OTHER = "MODEL (name t.other, kind FULL); SELECT 2 AS x"


@pytest.mark.advice(
    "finish it first: launch {} with the deployment and the digest of that plan.",
    "Or take it back: launch {} with `take_back: true`.",
    "To take it back, launch the apply job with `take_back: true`.",
    "If it was interrupted, finish it first.",
)
@pytest.mark.parametrize("is_taken_back", [True, *at_night(False)], ids=["taken back", "finished"])
def test_an_unfinished_plan_of_somebody_else_is_refused_by_name_until_it_is_taken_back_or_finished(
    new_shop: NewShop, is_taken_back: bool
) -> None:
    shop = killed_shop(new_shop)
    (shop.project / "kill").touch()
    change(shop, other=MODELS["models/other.sql"], base=BASE.format(type="DOUBLE").replace("2.5", "3.5"))
    digest = planned(shop)["digest"]
    launch(shop, APPLY, digest=digest).failed()
    (shop.project / "kill").unlink()
    advice = "To take it back, launch the apply job with `take_back: true`."
    assert advice in launch(shop, PLAN).succeeded().log
    change(shop, other=OTHER)
    message = message_of("unfinished_plan", planned(shop))
    assert f"finish it first: launch {APPLY} with the deployment and the digest of that plan. Or take it" in message
    if HAS_PREVIEWS:
        shop.configure(deploy=True, preview={"environment": "pr_1"})
        [(plan,)] = shop.query("SELECT plan_id FROM sqlmesh._environments WHERE name = 'prod'")
        refused = f"Plan {plan} has begun to change environment prod and has not finished. A preview is made from"
        assert refused in failure_of(launch(shop, PREVIEW))
    change(shop, other=MODELS["models/other.sql"])
    launch(shop, APPLY, **({"take_back": True} if is_taken_back else {"digest": digest})).succeeded()
    change(shop, other=OTHER)
    if HAS_PREVIEWS:
        launch(shop, PREVIEW, allow_pending=is_taken_back).succeeded()  # the plan has computed pending days
    assert planned(shop)["refusals"] == []
