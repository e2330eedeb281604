"""The jobs `<op>_plan` and `<op>_apply`: what a plan reports, what is refused, and what an apply records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from engine.plan_jobs import (
    APPLY,
    PLAN,
    change,
    failure_of,
    launch,
    planned,
    report_of,
)
from harness import CONFIG, NewShop, RunRecord, Shop, python_model, sqlmesh, wait_until
from postgres import postgres_server

BASE = "MODEL (name t.base, kind VIEW, owner ann); SELECT 1 AS id, 2.5::{type} AS amount"

DAILY = """
MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true));
SELECT @start_ds::DATE AS day, id, amount FROM t.base
"""

TOTAL = """
MODEL (name t.total, kind FULL, audits (not_null(columns := (amount))));
SELECT sum(amount){added} AS amount FROM t.daily
"""

MODELS = {
    "models/base.sql": BASE.format(type="DOUBLE"),
    "models/daily.sql": DAILY,
    "models/total.sql": TOTAL.format(added=""),
    "models/other.sql": "MODEL (name t.other, kind FULL, owner eve); SELECT 1 AS x",
}


@pytest.fixture
def shop(new_shop: NewShop) -> Shop:
    return new_shop(MODELS, deploy=True)


def kinds(report: dict[str, Any]) -> list[str]:
    return [refusal["kind"] for refusal in report["refusals"]]


@pytest.mark.attribute("deploy")
def test_jobs_have_the_tags_of_deploy(shop: Shop) -> None:
    for job in (PLAN, APPLY):
        definition = shop.configure(deploy={"tags": {"team": "data"}}).resolve_job_def(job)
        assert definition.tags["team"] == "data"


def test_a_plan_lists_direct_and_indirect_changes_and_applies_nothing(shop: Shop) -> None:
    before = shop.state()
    change(shop, total=TOTAL.format(added=" + 1"))

    report = planned(shop)

    [model] = report["models"]
    assert (model["name"], model["change"], model["category"], model["intervals"]) == (
        "t.total",
        "changed",
        "breaking",
        1,
    )
    assert kinds(report) == []
    assert shop.state() == before


def test_an_apply_of_the_reviewed_digest_promotes_it_and_records_each_version_once(shop: Shop) -> None:
    launched = shop.launch()
    assert launched.status is dg.DagsterRunStatus.SUCCESS, launched.log
    change(shop, total=TOTAL.format(added=" + 1"))
    digest = planned(shop)["digest"]

    record = launch(shop, APPLY, digest=digest)

    assert record.status is dg.DagsterRunStatus.SUCCESS, record.log
    [event] = record.events(dg.DagsterEventType.ASSET_MATERIALIZATION)
    assert event.asset_key == dg.AssetKey(["t", "total"])
    assert "plan" in event.event_specific_data.materialization.metadata["sqlmesh/origin"].value
    evaluations = [event.event_specific_data for event in record.events(dg.DagsterEventType.ASSET_CHECK_EVALUATION)]
    assert {evaluation.check_name: evaluation.passed for evaluation in evaluations} == {
        "not_null_amount": True,
        "sqlmesh_execution_status": True,
    }
    assert planned(shop)["models"] == []
    assert shop.launch().computed_outside == {}, "the next run records nothing again"


def test_a_job_that_is_launched_again_does_not_show_the_plan_of_the_first_run(shop: Shop) -> None:
    """Dagster copies the tags of the first run. This run has no plan, because the project cannot be loaded."""
    job = shop.refresh().resolve_job_def(PLAN)
    change(shop, total="MODEL (name t.total")
    copied = {"sqlmesh/plan_digest": "first", "sqlmesh/plan_id": "first"}
    run = job.execute_in_process(instance=shop.instance, tags=copied, raise_on_error=False)
    [record] = shop.instance.get_runs(dg.RunsFilter(run_ids=[run.run_id]))
    assert record.status is dg.DagsterRunStatus.FAILURE
    assert {record.tags[tag] for tag in copied} == {"not set"}


def test_an_applied_digest_can_be_applied_again_and_does_nothing(shop: Shop) -> None:
    """An apply may be killed after SQLMesh has finished the plan, and before Dagster knows."""
    change(shop, total=TOTAL.format(added=" + 1"))
    digest = planned(shop)["digest"]
    assert launch(shop, APPLY, digest=digest).status is dg.DagsterRunStatus.SUCCESS
    before = shop.state()

    again = launch(shop, APPLY, digest=digest)

    assert again.status is dg.DagsterRunStatus.SUCCESS, failure_of(again)
    assert again.computed_outside == {}
    assert shop.state() == before


def test_a_model_whose_audits_alone_have_changed_is_audited_and_not_reported_as_executed(shop: Shop) -> None:
    shop.launch()
    audited = "MODEL (name t.other, kind FULL, audits (not_null(columns := (x)))); SELECT 1 AS x"
    change(shop, other=audited)
    report = planned(shop)
    assert [(model["name"], model["change"], model["intervals"]) for model in report["models"]] == [
        ("t.other", "metadata", 0)
    ]

    record = launch(shop, APPLY, digest=report["digest"])

    assert record.status is dg.DagsterRunStatus.SUCCESS, failure_of(record)
    evaluations = [event.event_specific_data for event in record.events(dg.DagsterEventType.ASSET_CHECK_EVALUATION)]
    assert {evaluation.check_name: evaluation.passed for evaluation in evaluations} == {"not_null_x": True}
    assert record.computed_outside == {}
    assert "Computed: 0 models" in record.log


def test_an_added_audit_that_fails_leaves_prod_on_its_versions(shop: Shop) -> None:
    change(shop, other="MODEL (name t.other, kind FULL, audits (not_null(columns := (x)))); SELECT 1 AS x")
    launch(shop, APPLY, digest=planned(shop)["digest"])
    failing = "accepted_values(column := x, is_in := (2))"
    change(shop, other=f"MODEL (name t.other, kind FULL, audits ({failing})); SELECT 1 AS x")

    record = launch(shop, APPLY, digest=planned(shop)["digest"])

    assert record.status is dg.DagsterRunStatus.FAILURE
    assert "accepted_values" in failure_of(record)
    assert "environment prod is as it was before" in failure_of(record)


def test_a_table_that_cannot_be_created_is_named(shop: Shop) -> None:
    change(shop, new="MODEL (name t.new, kind FULL); SELECT 1 AS x, no_such_function() AS y")

    record = launch(shop, APPLY, digest=planned(shop)["digest"])

    assert record.status is dg.DagsterRunStatus.FAILURE
    assert "no_such_function" in failure_of(record)
    assert "t.new" in failure_of(record)
    assert "not requested" not in failure_of(record)


def test_another_digest_is_refused_before_anything_is_computed(shop: Shop) -> None:
    change(shop, total=TOTAL.format(added=" + 1"))
    digest = planned(shop)["digest"]
    change(shop, total=TOTAL.format(added=" + 2"))
    before = shop.state()

    record = launch(shop, APPLY, digest=digest)

    assert record.status is dg.DagsterRunStatus.FAILURE
    assert "the files of the project differ" in failure_of(record)
    assert digest in failure_of(record)
    assert shop.state() == before


def test_a_plan_applied_by_somebody_else_makes_the_approval_void(shop: Shop) -> None:
    change(shop, total=TOTAL.format(added=" + 1"))
    digest = planned(shop)["digest"]
    change(shop, total=TOTAL.format(added=""), other="MODEL (name t.other, kind FULL); SELECT 2 AS x")
    shop.plan(at=None)
    change(shop, total=TOTAL.format(added=" + 1"), other=MODELS["models/other.sql"])

    record = launch(shop, APPLY, digest=digest)

    assert kinds(report_of(record)) == ["moved", "stale_branch"]
    assert "t.other" in failure_of(record)


def test_an_approval_of_no_changes_can_be_applied_twice_and_a_later_merge_moves_nothing(shop: Shop) -> None:
    change(shop, total=TOTAL.format(added=" + 1"))
    launch(shop, APPLY, digest=planned(shop)["digest"])
    report = planned(shop)
    assert report["models"] == []

    for _ in range(2):
        applied = launch(shop, APPLY, digest=report["digest"])
        assert applied.status is dg.DagsterRunStatus.SUCCESS, failure_of(applied)
    change(shop, total=TOTAL.format(added=" + 2"))
    refused = launch(shop, APPLY, digest=report["digest"])

    assert kinds(report_of(refused)) == ["digest"], "nobody has applied a plan since, but the files differ"


AUDITED = "MODEL (name t.other, kind FULL, audits (not_null(columns := (x)))); SELECT {x} AS x"


@pytest.mark.parametrize("x", [1, 2], ids=["the model is unchanged", "the model is changed too"])
def test_a_branch_without_a_colleagues_audit_does_not_remove_it(shop: Shop, x: int) -> None:
    change(shop, other=AUDITED.format(x=1))
    shop.plan(at=None)
    change(shop, other=f"MODEL (name t.other, kind FULL, owner eve); SELECT {x} AS x")

    report = planned(shop)

    assert [(refusal["kind"], refusal["models"]) for refusal in report["refusals"]] == [("stale_branch", ["t.other"])]
    digest = report["digest"]
    assert launch(shop, APPLY, digest=digest).status is dg.DagsterRunStatus.FAILURE
    change(shop, other=AUDITED.format(x=2))
    assert kinds(planned(shop)) == [], "a branch with the audit may change the model"


def test_a_model_that_reads_its_old_columns_again_takes_nothing_back(shop: Shop) -> None:
    """Its metadata in SQLMesh has the columns of the models that it reads."""
    change(shop, other="MODEL (name t.other, kind FULL); SELECT * FROM t.total")
    shop.plan(at=None)
    wider = "MODEL (name t.total, kind FULL); SELECT sum(amount) AS amount, 1 AS y FROM t.daily"
    change(shop, total=wider)
    shop.plan(at=None)
    change(shop, total="MODEL (name t.total, kind FULL); SELECT max(amount) AS amount FROM t.daily")

    assert kinds(planned(shop)) == []


def test_an_indirect_destructive_change_is_refused_by_name(shop: Shop) -> None:
    """SQLMesh#5719: SQLMesh builds this plan without an error, and breaks the environment half-way."""
    change(shop, base=BASE.format(type="INT"))
    report = planned(shop)

    assert kinds(report) == ["destructive"]
    assert report["refusals"][0]["models"] == ["t.daily"]
    daily = next(model for model in report["models"] if model["name"] == "t.daily")
    assert (daily["change"], daily["destructive"]) == ("indirect", ["drops amount and adds it again as INT"])
    record = launch(shop, APPLY, digest=report["digest"])
    assert record.status is dg.DagsterRunStatus.FAILURE
    shop.launch()  # prod is whole: a run does not wait for an unfinished plan

    change(shop, total="MODEL (name t.total, kind FULL); SELECT max(amount) AS amount FROM t.daily")
    digest = planned(shop)["digest"]
    allowed = launch(shop, APPLY, digest=digest, allow_destructive=["t.daily"])
    assert allowed.status is dg.DagsterRunStatus.SUCCESS, failure_of(allowed)
    assert report_of(allowed)["digest"] == digest, "the report names the reviewed digest"
    assert "Values are lost: t.daily (drops amount and adds it again as INT)." in allowed.log
    assert "To compute the values of the added columns again, restate t.daily." in allowed.log


def test_a_dropped_column_is_gone_and_no_restatement_is_advised(shop: Shop) -> None:
    change(shop, daily=DAILY.replace("id, amount", "id"), total="MODEL (name t.total, kind FULL); SELECT 1 AS amount")
    report = planned(shop)
    allowed = launch(shop, APPLY, digest=report["digest"], allow_destructive=["t.daily"])

    assert allowed.status is dg.DagsterRunStatus.SUCCESS, failure_of(allowed)
    assert "Values are lost: t.daily (drops amount)." in allowed.log
    assert "To compute the values of the added columns again" not in allowed.log


def test_a_column_that_only_the_table_has_is_refused_by_name(shop: Shop) -> None:
    """The promoted definition has dropped it under `on_destructive_change: ignore`."""
    ignoring = DAILY.replace("forward_only true", "forward_only true, on_destructive_change ignore")
    change(shop, daily=ignoring.replace("id, amount", "amount"))
    ignored = planned(shop)
    assert (kinds(ignored), ignored["models"][0]["columns"]) == ([], []), "the table and its view keep the column"
    assert launch(shop, APPLY, digest=ignored["digest"]).status is dg.DagsterRunStatus.SUCCESS
    change(shop, daily=DAILY.replace("id, amount", "amount, 1 AS added"))

    report = planned(shop)

    assert report["models"][0]["destructive"] == ["drops id (not in the promoted definition)"]
    assert [(refusal["kind"], refusal["models"]) for refusal in report["refusals"]] == [("destructive", ["t.daily"])]
    assert launch(shop, APPLY, digest=report["digest"]).status is dg.DagsterRunStatus.FAILURE
    shop.launch()  # prod is whole: a run does not wait for an unfinished plan
    allowed = launch(shop, APPLY, digest=report["digest"], allow_destructive=["t.daily"])
    assert allowed.status is dg.DagsterRunStatus.SUCCESS, failure_of(allowed)


def test_a_revert_on_purpose_is_applied_and_recorded_as_promoted_only(shop: Shop) -> None:
    change(shop, total=TOTAL.format(added=" + 1"))
    changed = launch(shop, APPLY, digest=planned(shop)["digest"])
    assert str(changed.computed_outside["t/total"].metadata["sqlmesh/origin"].value).startswith("computed by plan ")
    change(shop, total=TOTAL.format(added=""))
    report = planned(shop)
    assert kinds(report) == ["stale_branch"]
    assert '"allow_revert": ["t.total"]' in report["command"]

    reverted = launch(shop, APPLY, digest=report["digest"], allow_revert=["t.total"])

    assert reverted.status is dg.DagsterRunStatus.SUCCESS, failure_of(reverted)
    origin = reverted.computed_outside["t/total"].metadata["sqlmesh/origin"].value
    assert str(origin).startswith("promoted by plan ")


def test_a_blocking_audit_that_fails_leaves_prod_on_its_versions(shop: Shop) -> None:
    change(shop, total=TOTAL.format(added=" + NULL"))
    digest = planned(shop)["digest"]

    record = launch(shop, APPLY, digest=digest)

    assert record.status is dg.DagsterRunStatus.FAILURE
    assert "not_null" in failure_of(record)
    assert "environment prod is as it was before" in failure_of(record)
    assert record.events(dg.DagsterEventType.ASSET_MATERIALIZATION) == []
    assert record.events(dg.DagsterEventType.ASSET_CHECK_EVALUATION) == []
    assert shop.query("SELECT amount FROM t.total") != [(None,)]


def test_the_report_is_written_as_markdown_or_json(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(shop, total=TOTAL.format(added=" + 1"))
    for name in ("only.md", "only.json", "both"):
        monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / name))
        planned(shop)

    assert {file.name for file in tmp_path.iterdir() if file.is_file()} >= {
        "only.md", "only.json", "both.md", "both.json",
    }  # fmt: skip
    for name in ("only", "both"):
        assert "`t.total` | changed (breaking)" in (tmp_path / f"{name}.md").read_text()
        assert json.loads((tmp_path / f"{name}.json").read_text())["environment"] == "prod"


KILLED = python_model("t.total", "if Path('kill').exists(): os.kill(os.getpid(), signal.SIGKILL)", ["t.daily"])


@pytest.fixture
def killed_shop(new_shop: NewShop) -> Shop:
    """A shop whose t.total kills SQLMesh's process while the project has a file `kill`."""
    shop = new_shop({**MODELS, "models/total.sql": "", "models/total.py": KILLED}, deploy=True)
    (shop.project / "kill").touch()
    return shop


def test_an_apply_killed_in_the_backfill_leaves_prod_whole_and_the_same_digest_finishes_it(killed_shop: Shop) -> None:
    shop = killed_shop
    added = "MODEL (name t.added, kind FULL); SELECT 1 AS x"
    (shop.project / "models" / "total.py").write_text(KILLED.replace("[1]", "[2]"))
    change(shop, added=added)
    digest = planned(shop)["digest"]

    killed = launch(shop, APPLY, digest=digest)

    assert killed.status is dg.DagsterRunStatus.FAILURE
    assert shop.query("SELECT id FROM t.total") == [(1,)]
    (shop.project / "kill").unlink()
    finished = launch(shop, APPLY, digest=digest)
    assert finished.status is dg.DagsterRunStatus.SUCCESS, failure_of(finished)
    assert shop.query("SELECT id FROM t.total") == [(2,)]
    assert planned(shop)["models"] == []


def test_an_apply_killed_in_the_promotion_is_finished_by_the_same_digest(killed_shop: Shop) -> None:
    shop = killed_shop
    change(shop, base=BASE.format(type="DOUBLE").replace("2.5", "3.5"))
    digest = planned(shop)["digest"]

    killed = launch(shop, APPLY, digest=digest)

    assert killed.status is dg.DagsterRunStatus.FAILURE
    (shop.project / "kill").unlink()
    shop.configure(deploy=True, execution={"environment_timeout": 1})
    waiting = shop.launch()
    assert waiting.status is dg.DagsterRunStatus.FAILURE
    assert "launch that run again" in waiting.log
    assert APPLY in waiting.log
    finished = launch(shop, APPLY, digest=digest)
    assert finished.status is dg.DagsterRunStatus.SUCCESS, failure_of(finished)
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS


@pytest.mark.parametrize("settings", ["", "plan: {use_finalized_state: true}\n"])
def test_the_same_digest_is_accepted_however_often_the_promotion_fails(killed_shop: Shop, settings: str) -> None:
    """Each attempt writes a plan of its own into the environment's row, and the one before it as its previous plan."""
    shop = killed_shop
    _edit_config(settings)(shop)
    change(shop, base=BASE.format(type="DOUBLE").replace("2.5", "3.5"))
    digest = planned(shop)["digest"]
    for _ in range(2):
        assert "killed by signal 9" in failure_of(launch(shop, APPLY, digest=digest))
    (shop.project / "kill").unlink()

    finished = launch(shop, APPLY, digest=digest)

    assert finished.status is dg.DagsterRunStatus.SUCCESS, failure_of(finished)
    assert shop.launch().status is dg.DagsterRunStatus.SUCCESS, "prod is whole again"


KILL_IN_PROMOTION = f'''
import os
import signal
from pathlib import Path

import yaml
from sqlmesh.core.config import Config
from sqlmesh.core.engine_adapter import EngineAdapter

EXECUTE, KILL = EngineAdapter._execute, Path(__file__).with_name("kill")


def execute(adapter, sql, *arguments, **options):
    EXECUTE(adapter, sql, *arguments, **options)
    if sql.startswith('DELETE FROM "sqlmesh"."_environments"') and KILL.exists():
        os.kill(os.getpid(), signal.SIGKILL)


EngineAdapter._execute = execute
config = Config.parse_obj(yaml.safe_load("""{CONFIG}"""))
'''


def test_an_apply_killed_while_it_replaces_the_environment_in_the_state_leaves_it_there(new_shop: NewShop) -> None:
    shop = new_shop({**MODELS, "config.py": KILL_IN_PROMOTION}, deploy=True)
    change(shop, total=TOTAL.format(added=" + 1"))
    digest = planned(shop)["digest"]
    (shop.project / "kill").touch()
    assert "killed by signal 9" in failure_of(launch(shop, APPLY, digest=digest))
    (shop.project / "kill").unlink()

    assert shop.query("SELECT name FROM sqlmesh._environments") == [("prod",)]
    assert launch(shop, APPLY, digest=digest).status is dg.DagsterRunStatus.SUCCESS


FAIL = """
from pathlib import Path

from sqlmesh import macro


@macro()
def fail_in_migration(evaluator):
    if evaluator.runtime_stage == "creating" and Path("fail").exists():
        raise RuntimeError("no space left on device")
"""


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
        assert "between two plans" in failure_of(failed)
    (shop.project / "fail").unlink()
    resumed = planned(shop)
    assert [(m["name"], m["change"], m["destructive"]) for m in resumed["models"]] == [
        (m["name"], m["change"], m["destructive"]) for m in reviewed["models"]
    ], "the report has what the plan changes, also while it is unfinished"
    assert kinds(resumed) == ["destructive"]

    finished = launch(shop, APPLY, **config)

    assert finished.status is dg.DagsterRunStatus.SUCCESS, failure_of(finished)
    assert shop.query("SELECT DISTINCT typeof(amount) FROM t.daily") == [("INTEGER",)]
    again = launch(shop, APPLY, **config)
    assert again.status is dg.DagsterRunStatus.SUCCESS, failure_of(again)


def test_a_view_that_cannot_be_promoted_is_finished_by_the_same_run_config(shop: Shop) -> None:
    """SQLMesh raises the engine's error for it, and none of its own."""
    on_promotion = "ON_VIRTUAL_UPDATE_BEGIN; INSERT INTO t.promotions VALUES (1); ON_VIRTUAL_UPDATE_END;"
    change(shop, total=f"{TOTAL.format(added=' + 1')};\n{on_promotion}")
    digest = planned(shop)["digest"]

    failed = launch(shop, APPLY, digest=digest)

    assert "Table with name promotions does not exist" in failure_of(failed)
    assert "which is now between two plans" in failure_of(failed)
    assert "correct the cause and launch this job again with the same run config" in failure_of(failed)
    shop.query("CREATE TABLE t.promotions (x INT)")
    finished = launch(shop, APPLY, digest=digest)
    assert finished.status is dg.DagsterRunStatus.SUCCESS, failure_of(finished)
    assert shop.query("SELECT x FROM t.promotions") == [(1,)]


def test_an_unfinished_plan_of_somebody_else_is_refused_by_name(killed_shop: Shop) -> None:
    shop = killed_shop
    change(shop, base=BASE.format(type="DOUBLE").replace("2.5", "3.5"))
    launch(shop, APPLY, digest=planned(shop)["digest"])
    (shop.project / "kill").unlink()
    change(shop, other="MODEL (name t.other, kind FULL); SELECT 2 AS x")

    report = planned(shop)

    assert "unfinished_plan" in kinds(report)


@pytest.mark.attribute("budget")
def test_a_plan_over_the_budget_is_refused_and_computes_nothing(shop: Shop) -> None:
    shop.launch()  # records what the models cost
    shop.configure(deploy=True, budget={"seconds": 0})
    change(shop, total=TOTAL.format(added=" + 1"))
    digest = planned(shop)["digest"]
    before = shop.state()

    refused = launch(shop, APPLY, digest=digest)

    assert kinds(report_of(refused)) == ["over_budget"]
    assert shop.state() == before
    assert launch(shop, APPLY, digest=digest, over_budget=True).status is dg.DagsterRunStatus.SUCCESS


def test_a_run_over_the_budget_is_refused_before_it_computes_anything(new_shop: NewShop) -> None:
    shop = new_shop(MODELS)
    first = shop.launch(assets=["t/base", "t/other"])
    assert first.status is dg.DagsterRunStatus.SUCCESS
    shop.launch(assets=["t/daily"])
    shop.query("DELETE FROM sqlmesh._intervals WHERE name LIKE '%daily%'")
    shop.configure(budget={"seconds": 0})
    before = shop.state()

    refused = shop.launch(assets=["t/daily"])

    [failure] = refused.failures
    assert failure.startswith("The run is over the budget. The estimate from earlier runs is ")
    assert "`budget.seconds` in defs.yaml is 0.0. Nothing was computed." in failure
    assert refused.materializations == {}
    assert shop.state() == before
    warned = shop.launch(assets=["t/daily"], ops={"sqlmesh_shop": {"dry_run": True}})
    assert "a run would be refused without `over_budget: true`" in warned.log
    allowed = shop.launch(assets=["t/daily"], ops={"sqlmesh_shop": {"over_budget": True}})
    assert set(allowed.materializations) == {"t/daily"}


# -- the digest -----------------------------------------------------------------------------------


def test_the_digest_is_equal_on_another_path_and_after_a_run_of_prod(shop: Shop, tmp_path: Path) -> None:
    change(shop, total=TOTAL.format(added=" + 1"))
    digest = planned(shop)["digest"]
    shop.launch()
    assert planned(shop)["digest"] == digest

    moved = shutil.copytree(shop.project, tmp_path / "elsewhere" / "copy")
    shop.project = moved
    shop.configure(deploy=True)

    assert planned(shop)["digest"] == digest


def _edit_config(text: str, old: str = "", new: str = "") -> Callable[[Shop], None]:
    def edit(shop: Shop) -> None:
        config = shop.project / "config.yaml"
        config.write_text(config.read_text().replace(old, new) + text)

    return edit


def _plan_another_change(shop: Shop) -> None:
    total = shop.project / "models" / "total.sql"
    ours = total.read_text()
    total.write_text(MODELS["models/total.sql"])
    change(shop, more="MODEL (name t.more, kind FULL); SELECT 1 AS x")
    shop.plan(at=None)
    total.write_text(ours)


DIFFERENCES: dict[str, tuple[int, Callable[[Shop], object]]] = {
    "moved prod": (0, _plan_another_change),
    "changed query": (1, lambda shop: change(shop, total=TOTAL.format(added=" + 2"))),
    "removed model": (1, lambda shop: (shop.project / "models" / "other.sql").unlink()),
    "category": (2, _edit_config("plan: {auto_categorize_changes: {sql: 'off'}}\n")),
    "statement": (3, _edit_config("after_all: [SELECT 1]\n")),
    "requirement": (4, lambda shop: (shop.project / "sqlmesh-requirements.lock").write_text("numpy==2.1.2\n")),
    "setting": (5, _edit_config("plan: {forward_only: true}\n")),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_the_digest_differs_in_the_field_of_what_has_changed(shop: Shop, name: str) -> None:
    field, edit = DIFFERENCES[name]
    change(shop, total=TOTAL.format(added=" + 1"))
    before = planned(shop)["digest"].split("-")

    edit(shop)

    after = planned(shop)["digest"].split("-")
    assert before[field] != after[field]


def test_the_digest_differs_for_another_allow_list(shop: Shop) -> None:
    change(shop, base=BASE.format(type="INT"))
    assert planned(shop)["digest"] != planned(shop, allow_destructive=["t.daily"])["digest"]


# -- what is reported -----------------------------------------------------------------------------


def test_removed_uncategorized_and_metadata_changes_are_reported(shop: Shop) -> None:
    _edit_config("plan: {auto_categorize_changes: {sql: 'off'}}\n")(shop)
    (shop.project / "models" / "other.sql").unlink()
    change(
        shop,
        total=TOTAL.format(added=" + 1"),
        base=BASE.format(type="DOUBLE").replace("owner ann", "owner bob"),
        new="MODEL (name t.new, kind FULL); SELECT 1 AS x",
    )

    report = planned(shop)

    changes = {model["name"]: (model["change"], model["category"]) for model in report["models"]}
    assert changes == {
        "t.base": ("metadata", "metadata"),
        "t.total": ("changed", None),
        "t.new": ("added", "breaking"),
        "t.other": ("removed", None),
    }
    owners = {model["name"]: model["owner"] for model in report["models"]}
    assert (owners["t.base"], owners["t.other"]) == ("bob", "eve")
    assert [(refusal["kind"], refusal["models"]) for refusal in report["refusals"]] == [("uncategorized", ["t.total"])]


def test_a_failing_unit_test_is_reported_with_its_difference(
    shop: Shop,
) -> None:
    (shop.project / "tests").mkdir()
    (shop.project / "tests" / "test_other.yaml").write_text(
        "test_other: {model: t.other, inputs: {}, outputs: {query: [{x: 2}]}}\n"
    )

    refusal, record = refused_project(shop)

    assert refusal["kind"] == "tests"
    assert f"The unit test test_other ({shop.project}/tests/test_other.yaml) fails:" in refusal["message"]
    assert "      x\n      exp act\n    0   2   1" in refusal["message"]
    assert f"To run the tests:\n\n    cd {shop.project} && sqlmesh test" in refusal["message"]
    assert refusal["message"] in failure_of(record)


def test_a_rule_of_the_linter_that_a_model_breaks_is_reported(shop: Shop) -> None:
    config = shop.project / "config.yaml"
    config.write_text(
        config.read_text() + "linter: {enabled: true, rules: [noselectstar], warn_rules: [nomissingaudits]}\n"
    )
    change(shop, total="MODEL (name t.total, kind FULL); SELECT * FROM t.daily")

    refusal, record = refused_project(shop)

    assert refusal["kind"] == "linter"
    assert "t.total: noselectstar: Query should not contain SELECT *" in refusal["message"]
    assert "nomissingaudits" not in refusal["message"]
    assert "t.total: nomissingaudits: " in record.log
    assert f"    cd {shop.project} && sqlmesh lint" in refusal["message"]


def test_a_new_column_that_a_model_does_not_allow_is_reported(shop: Shop) -> None:
    config = {
        mode: DAILY.replace("forward_only true", f"forward_only true, on_additive_change {mode}")
        for mode in ("error", "warn")
    }
    change(shop, daily=config["error"].replace("amount FROM", "amount, 1 AS added FROM"))

    refusal, _ = refused_project(shop)

    assert refusal["kind"] == "additive"
    assert "warehouse.t.daily gains columns (ALTER TABLE" in refusal["message"]
    assert "set `on_additive_change: allow` in the model" in refusal["message"]
    change(shop, daily=config["warn"].replace("amount FROM", "amount, 1 AS added FROM"))
    record = launch(shop, PLAN)
    assert record.status is dg.DagsterRunStatus.SUCCESS, record.log
    assert "Its `on_additive_change` asks for this warning." in record.log


def refused_project(shop: Shop) -> tuple[dict[str, Any], RunRecord]:
    """The only refusal of a project for which SQLMesh builds no plan, and the run of the job."""
    with pytest.MonkeyPatch.context() as patch:
        report = shop.project.parent / "report.json"
        patch.setenv("DG_SQLMESH_REPORT", str(report))
        record = launch(shop, PLAN)
    assert record.status is dg.DagsterRunStatus.FAILURE
    [refusal] = json.loads(report.read_text())["refusals"]
    return refusal, record


def test_report_names_why_sqlmesh_died_before_it_had_a_plan(
    killed_shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = killed_shop
    (shop.project / "tests").mkdir()
    (shop.project / "tests" / "test_total.yaml").write_text(
        "test_total: {model: t.total, inputs: {t.daily: []}, outputs: {query: [{id: 1}]}}\n"
    )
    monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / "report.json"))
    for job, config in ((PLAN, {}), (APPLY, {"digest": "of-another-plan"})):
        record = launch(shop, job, **config)

        assert record.status is dg.DagsterRunStatus.FAILURE
        [failure] = record.failures
        report = json.loads((tmp_path / "report.json").read_text())
        assert kinds(report) == ["error"]
        assert "signal 9" in report["refusals"][0]["message"]
        assert report["refusals"][0]["message"] in failure


def test_changed_statements_are_in_each_form_of_the_report_and_are_applied(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _edit_config("before_all: ['CREATE TABLE IF NOT EXISTS marker AS SELECT 1 AS x']\n")(shop)
    monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / "report.md"))

    report = planned(shop)

    assert "+ CREATE TABLE IF NOT EXISTS marker" in report["statements"]
    text = (tmp_path / "report.md").read_text()
    assert "## Plan for environment prod: no changed models, changed statements or requirements; 0 intervals" in text
    assert report["command"] in text
    assert launch(shop, APPLY, digest=report["digest"]).status is dg.DagsterRunStatus.SUCCESS
    assert planned(shop)["statements"] == ""


def test_report_promises_no_old_version_in_dev_only_mode(
    new_shop: NewShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = new_shop(MODELS, CONFIG + "virtual_environment_mode: dev_only\n", deploy=True)
    (shop.project / "models" / "other.sql").unlink()
    change(shop, base=BASE.format(type="DOUBLE").replace("1 AS id, ", ""), daily=DAILY.replace("id, ", ""))
    monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / "report.md"))

    planned(shop)

    text = (tmp_path / "report.md").read_text()
    losses = text[text.index("**prod loses:**") : text.index("| Model |")]
    assert "`t.other` is removed: its rows are not computed any more." in losses
    assert "A table stays until somebody drops it, because SQLMesh does not." in losses
    assert "the old version stays" not in losses


def test_the_first_plan_of_an_environment_is_applied(new_shop: NewShop) -> None:
    shop = new_shop(MODELS, planned_at=None, deploy=True)
    report = planned(shop)
    assert {model["change"] for model in report["models"]} == {"added"}

    record = launch(shop, APPLY, digest=report["digest"])

    assert record.status is dg.DagsterRunStatus.SUCCESS, failure_of(record)
    assert set(record.computed_outside) == {"t/base", "t/daily", "t/total", "t/other"}
    assert planned(shop)["models"] == []


def test_an_environment_other_than_prod_is_planned_and_applied(shop: Shop) -> None:
    shop.plan("dev", "--include-unmodified", at=None)
    project = {"path": str(shop.project), "environment": "dev"}
    shop.add_component("shop", {"project": project, "deploy": True})
    change(shop, base=BASE.format(type="INT"))
    report = planned(shop)
    assert (report["environment"], kinds(report)) == ("dev", []), "dev shows previews in tables of their own"

    record = launch(shop, APPLY, digest=report["digest"])

    assert record.status is dg.DagsterRunStatus.SUCCESS, failure_of(record)
    assert "t/total" in record.computed_outside
    assert planned(shop)["models"] == []
    assert shop.query("SELECT typeof(amount) FROM t__dev.base") == [("INTEGER",)]
    assert shop.query("SELECT typeof(amount) FROM t.base") == [("DOUBLE",)]


def test_a_plan_that_creates_an_environment_names_those_that_exist(shop: Shop) -> None:
    shop.add_component("shop", {"project": {"path": str(shop.project), "environment": "prdo"}, "deploy": True})
    log = launch(shop, PLAN).log
    assert "Environment 'prdo' does not exist in the state of the SQLMesh project at" in log
    assert "This state has: prod. Did you mean prod?" in log
    assert "The plan creates it." in log


# -- PostgreSQL -----------------------------------------------------------------------------------

WAITING_QUERY = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted"
SLOW = "MODEL (name t.slow, kind FULL); SELECT {id} AS id, pg_advisory_xact_lock(7)::text AS paused"
LAST = "MODEL (name t.last, kind FULL); SELECT id + 1 AS id FROM t.slow"


def test_a_plan_that_lands_while_another_one_computes_stops_it(new_shop: NewShop) -> None:
    with postgres_server() as server:
        server.query("CREATE DATABASE landing")
        files = {
            "models/slow.sql": SLOW.format(id=1),
            "models/last.sql": LAST,
            "models/other.sql": MODELS["models/other.sql"],
        }
        shop = new_shop(files, server.config("landing"), deploy=True)
        change(shop, slow=SLOW.format(id=2))
        digest = planned(shop)["digest"]
        with ThreadPoolExecutor(1) as threads, server.advisory_lock(7, "landing"):
            applying = threads.submit(launch, shop, APPLY, digest=digest)
            wait_until(lambda: bool(server.query(WAITING_QUERY)) or applying.done())
            change(shop, slow=SLOW.format(id=1), other="MODEL (name t.other, kind FULL); SELECT 5 AS x")
            shop.plan(at=None)
        record = applying.result()

        assert "Another plan has changed environment prod since this one was built" in failure_of(record)
        assert server.query("SELECT x FROM t.other", "landing") == [(5,)]
        assert server.query("SELECT id FROM t.last", "landing") == [(2,)], "prod shows the old version"
        assert shop.launch().status is dg.DagsterRunStatus.SUCCESS


def test_on_postgresql_a_reviewed_plan_is_applied_and_a_run_waits_for_it(new_shop: NewShop) -> None:
    with postgres_server() as server:
        server.query("CREATE DATABASE landing")
        files = {"models/slow.sql": SLOW.format(id=1), "models/last.sql": LAST}
        shop = new_shop(files, server.config("landing"), deploy=True)
        change(shop, slow=SLOW.format(id=2))
        digest = planned(shop)["digest"]
        with ThreadPoolExecutor(1) as threads:
            with server.advisory_lock(7, "landing"):
                applying = threads.submit(launch, shop, APPLY, digest=digest)
                wait_until(lambda: bool(server.query(WAITING_QUERY)) or applying.done())
                process = shop.launch_in_new_process()
                wait_until(lambda: "held by plan of run" in all_logs(shop), process)
            record, run_id = applying.result(), process.communicate(timeout=200)[0].split()[-1]

        assert record.status is dg.DagsterRunStatus.SUCCESS, failure_of(record)
        assert set(record.computed_outside) == {"t/slow", "t/last"}
        assert server.query("SELECT id FROM t.last", "landing") == [(3,)]
        assert shop.run_record(run_id).computed_outside == {}, "the apply has recorded them"


def all_logs(shop: Shop) -> str:
    return "\n".join(shop.run_record(run.run_id).log for run in shop.instance.get_runs())


def test_a_run_that_meets_other_local_files_names_the_job_that_shows_the_plan(shop: Shop) -> None:
    change(shop, total=TOTAL.format(added=" + 1"))
    shop.refresh()

    log = shop.launch().log

    assert "If the local files are newer, promote them:\n\n    dg launch --job sqlmesh_shop_plan" in log


def test_a_model_of_another_repository_that_a_plan_changes_is_marked(shop: Shop, tmp_path: Path) -> None:
    """Two projects share one state. The second one reads a model of the first one, which is planned alone."""
    first = f"project: first\n{(shop.project / 'config.yaml').read_text()}"
    (shop.project / "config.yaml").write_text(first.replace("warehouse.duckdb", str(tmp_path / "shared.duckdb")))
    second = tmp_path / "second"
    (second / "models").mkdir(parents=True)
    (second / "config.yaml").write_text((shop.project / "config.yaml").read_text().replace("first", "second"))
    (second / "models" / "reader.sql").write_text("MODEL (name r.reader, kind FULL); SELECT amount FROM t.total")
    sqlmesh(shop.project, "-p", str(shop.project), "-p", str(second), "plan", "--auto-apply", "--no-prompts")
    change(shop, total=TOTAL.format(added=" + 1"))

    record = launch(shop, PLAN)

    assert [model["name"] for model in report_of(record)["models"]] == ["t.total", "r.reader"]
    text = next(
        event.event_specific_data.metadata["sqlmesh/report"].value
        for event in record.events(dg.DagsterEventType.ENGINE_EVENT)
        if "sqlmesh/report" in event.event_specific_data.metadata
    )
    assert "| `r.reader` | changed upstream (indirect breaking, project second) |" in text


def test_each_python_gives_the_categories_the_same_hash(shop: Shop) -> None:
    """Python 3.10 writes a member of an enumeration in another way than later versions. The tests run on both."""
    change(shop, total=TOTAL.format(added=" + 1"))
    assert planned(shop)["digest"].split("-")[2] == "40a328bf51"
