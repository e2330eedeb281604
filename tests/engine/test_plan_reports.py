"""The digest of a plan, and what the report of a plan says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from engine.plan_jobs import (
    APPLY,
    BASE,
    DAILY,
    MODELS,
    PLAN,
    TOTAL,
    change,
    edit_config,
    failure_of,
    killed_shop,
    kinds,
    launch,
    planned,
    report_of,
    text_of,
)
from harness import CONFIG, NewShop, RunRecord, Shop, at_night

from dg_sqlmesh_component.capabilities.plans.digest import PREVIOUS, UNKNOWN, differing_parts

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


def _plan_another_change(shop: Shop) -> None:
    total = shop.project / "models" / "total.sql"
    ours = total.read_text()
    total.write_text(MODELS["models/total.sql"])
    change(shop, more="MODEL (name t.more, kind FULL); SELECT 1 AS x")
    shop.plan(at=None)
    total.write_text(ours)


DIFFERENCES: dict[str, tuple[str, Callable[[Shop], object]]] = {
    "moved prod": (PREVIOUS, _plan_another_change),
    "changed query": ("models", lambda shop: change(shop, total=TOTAL.format(added=" + 2"))),
    "removed model": ("models", lambda shop: (shop.project / "models" / "other.sql").unlink()),
    "category": ("categories", edit_config("plan: {auto_categorize_changes: {sql: 'off'}}\n")),
    "statement": ("statements", edit_config("after_all: [SELECT 1]\n")),
    "requirement": (
        "requirements",
        lambda shop: (shop.project / "sqlmesh-requirements.lock").write_text("numpy==2.1.2\n"),
    ),
    "setting": ("settings", edit_config("plan: {forward_only: true}\n")),
}


@pytest.mark.parametrize("name", [*list(DIFFERENCES)[:1], *at_night(*list(DIFFERENCES)[1:])])
def test_the_digest_names_what_has_changed(shop: Shop, name: str) -> None:
    part, edit = DIFFERENCES[name]
    change(shop, total=TOTAL.format(added=" + 1"))
    before = planned(shop)["digest"]

    edit(shop)

    assert {part, UNKNOWN} & set(differing_parts(before, planned(shop)["digest"]) or ())


@pytest.mark.night(
    "unit/capabilities/plans/test_gate_by_facts.py::test_the_run_config_of_the_report_accepts_exactly_what_was_refused",
    "engine/test_plan_gate.py::test_an_indirect_destructive_change_is_refused_by_name",
)
def test_the_command_has_the_allow_list_which_does_not_change_the_digest(shop: Shop) -> None:
    change(shop, base=BASE.format(type="INT"))
    report = planned(shop, allow_destructive=["t.daily"])
    assert report["digest"] == planned(shop)["digest"]
    assert f'{{"digest": "{report["digest"]}", "allow_destructive": ["t.daily"]}}' in report["command"]


# -- what is reported -----------------------------------------------------------------------------


@pytest.mark.advice("Set `auto_categorize_changes` in the SQLMesh project, or choose a category")
def test_removed_uncategorized_and_metadata_changes_are_reported(shop: Shop) -> None:
    edit_config("plan: {auto_categorize_changes: {sql: 'off'}}\n")(shop)
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
    config = shop.project / "config.yaml"
    config.write_text(config.read_text().replace("sql: 'off'", "sql: full"))
    assert planned(shop)["refusals"] == []


@pytest.mark.advice("Correct the models or the tests. To run the tests:")
def test_a_failing_unit_test_is_reported_with_its_difference(shop: Shop) -> None:
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
    test = shop.project / "tests" / "test_other.yaml"
    test.write_text(test.read_text().replace("x: 2", "x: 1"))
    shop.sqlmesh("test")
    assert planned(shop)["refusals"] == []


@pytest.mark.advice("Correct the models or the linter's rules:")
def test_a_rule_of_the_linter_that_a_model_breaks_is_reported(shop: Shop) -> None:
    edit_config("linter: {enabled: true, rules: [noselectstar], warn_rules: [nomissingaudits]}\n")(shop)
    change(shop, total="MODEL (name t.total, kind FULL); SELECT * FROM t.daily")

    refusal, record = refused_project(shop)

    assert refusal["kind"] == "linter"
    assert "t.total: noselectstar: Query should not contain SELECT *" in refusal["message"]
    assert "nomissingaudits" not in refusal["message"]
    assert "t.total: nomissingaudits: " in record.log
    assert f"    cd {shop.project} && sqlmesh lint" in refusal["message"]
    change(shop, total=TOTAL.format(added=" + 1"))
    assert planned(shop)["refusals"] == []


@pytest.mark.night("test_a_new_column_that_a_model_does_not_allow_is_refused_also_if_sqlmesh_does_not_know_the_types")
@pytest.mark.advice("To allow the new columns, set `on_additive_change: allow` in the model.")
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
    record = launch(shop, PLAN).succeeded()
    assert "Its `on_additive_change` asks for this warning." in record.log
    change(
        shop,
        daily=config["error"]
        .replace("on_additive_change error", "on_additive_change allow")
        .replace("amount FROM", "amount, 1 AS added FROM"),
    )
    assert planned(shop)["refusals"] == []


UNTYPED = """
MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true, on_additive_change error));
SELECT day{more} FROM raw.days WHERE day BETWEEN @start_ds::DATE AND @end_ds::DATE
"""


def test_a_new_column_that_a_model_does_not_allow_is_refused_also_if_sqlmesh_does_not_know_the_types(
    new_shop: NewShop,
) -> None:
    """SQLMesh itself fails after it has begun to change prod."""
    days = {"raw.days": "SELECT CURRENT_DATE - 3 AS day, 1 AS id"}
    shop = new_shop({"models/days.sql": UNTYPED.format(more="")}, tables=days, deploy=True)
    change(shop, days=UNTYPED.format(more=", 1 AS added"))

    [refusal] = planned(shop)["refusals"]

    assert (refusal["kind"], refusal["models"]) == ("additive", ["t.days"])
    assert "columns that it cannot: t.days (added)." in refusal["message"]


@pytest.mark.night("test_a_new_column_that_a_model_does_not_allow_is_refused_also_if_sqlmesh_does_not_know_the_types")
@pytest.mark.advice("If it is a SEED, add the columns to its table by hand.")
def test_a_new_column_of_a_seed_that_keeps_its_table_is_refused_until_somebody_adds_it(new_shop: NewShop) -> None:
    """SQLMesh itself fails at each attempt."""
    config = f"{CONFIG}virtual_environment_mode: dev_only\n"
    files = {"models/s.sql": "MODEL (name t.s, kind SEED (path '../s.csv'));", "s.csv": "id,old\n1,2\n"}
    shop = new_shop(files, config, deploy=True)
    (shop.project / "s.csv").write_text("id,new\n1,3\n")
    [refusal] = planned(shop)["refusals"]
    assert (refusal["kind"], refusal["models"]) == ("additive", ["t.s"])
    assert "columns that it cannot: t.s (new)." in refusal["message"]
    shop.query("ALTER TABLE t.s ADD COLUMN new INT")

    launch(shop, APPLY, digest=planned(shop)["digest"]).succeeded()

    assert shop.query("SELECT id, new FROM t.s") == [(1, 3)]


@pytest.mark.night("unit/report/test_markdown.py", "test_changed_statements_are_shown_and_applied")
@pytest.mark.advice("Review all of them, and the digest, on the page of the run.")
def test_losses_that_do_not_fit_into_a_comment_are_all_on_the_page_of_the_run(
    new_shop: NewShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [f"column_{n}" for n in range(500)]
    wide = "MODEL (name t.wide, kind FULL); SELECT 1 AS id{}"
    shop = new_shop({"models/wide.sql": wide.format("".join(f", 1 AS {name}" for name in columns))}, deploy=True)
    change(shop, wide=wide.format(""))
    monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / "report.md"))

    record = launch(shop, PLAN).succeeded()

    comment, page = (tmp_path / "report.md").read_text(), text_of(record)
    assert "**Too long for a comment.** Refusals: none. Losses: 500. Review all of them, and the digest, on" in comment
    digest = report_of(record)["digest"]
    assert digest not in comment
    assert f"Digest of this plan: `{digest}`" in page
    for name in columns:
        assert f"`t.wide` drops {name}: queries that use the column will fail." in page
    launch(shop, APPLY, digest=digest).succeeded()


@pytest.mark.night(
    "test_removed_uncategorized_and_metadata_changes_are_reported",
    "unit/capabilities/plans/test_gate.py::test_markdown_begins_with_refusals_and_losses",
)
@pytest.mark.advice("If nobody has removed it, this branch is older than the model: merge the main branch.")
def test_model_that_an_older_branch_lacks_is_no_loss_after_the_main_branch_was_merged(shop: Shop) -> None:
    newer = "MODEL (name t.newer, kind FULL); SELECT 1 AS x"
    change(shop, newer=newer)
    shop.plan(at=None)
    (shop.project / "models" / "newer.sql").unlink()
    change(shop, total=TOTAL.format(added=" + 1"))
    record = launch(shop, PLAN).succeeded()
    assert "`t.newer` is removed: queries that use it will fail." in text_of(record)
    assert "If nobody has removed it, this branch is older than the model: merge the main branch." in text_of(record)
    change(shop, newer=newer)
    record = launch(shop, PLAN).succeeded()
    assert "t.newer" not in text_of(record)
    assert [model["name"] for model in report_of(record)["models"]] == ["t.total"]


def refused_project(shop: Shop) -> tuple[dict[str, Any], RunRecord]:
    """The only refusal of a project for which SQLMesh cannot build a plan, and the run of the job."""
    with pytest.MonkeyPatch.context() as patch:
        report = shop.project.parent / "report.json"
        patch.setenv("DG_SQLMESH_REPORT", str(report))
        record = launch(shop, PLAN)
    assert record.status is dg.DagsterRunStatus.FAILURE
    [refusal] = json.loads(report.read_text())["refusals"]
    return refusal, record


@pytest.mark.night(
    "engine/test_unfinished_plans.py::test_an_apply_killed_in_the_promotion_is_finished_by_the_same_digest",
    "engine/test_previews.py::test_a_failed_audit_of_a_preview_is_named_and_prod_stays",
)
def test_report_says_why_sqlmesh_died_early(new_shop: NewShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = killed_shop(new_shop)
    (shop.project / "tests").mkdir()
    (shop.project / "tests" / "test_total.yaml").write_text(
        "test_total: {model: t.total, inputs: {t.daily: []}, outputs: {query: [{id: 1}]}}\n"
    )
    monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / "report.json"))
    for job, config in ((PLAN, {}), (APPLY, {"digest": "of-another-plan"})):
        record = launch(shop, job, **config).failed()
        [failure] = record.failures
        report = json.loads((tmp_path / "report.json").read_text())
        assert kinds(report) == ["error"]
        assert "signal 9" in report["refusals"][0]["message"]
        assert report["refusals"][0]["message"] in failure


@pytest.mark.attribute("webserver_base_url")
def test_changed_statements_are_shown_and_applied(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.configure(deploy=True, webserver_base_url="https://dagster.example.com/")
    edit_config("before_all: ['CREATE TABLE IF NOT EXISTS marker AS SELECT 1 AS x']\n")(shop)
    monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / "report.md"))

    report = planned(shop)

    assert "+ CREATE TABLE IF NOT EXISTS marker" in report["statements"]
    text = (tmp_path / "report.md").read_text()
    assert "## Plan for environment prod: no changed models, changed statements or requirements; nothing" in text
    assert report["command"] in text
    assert f"(https://dagster.example.com/runs/{report['run_id']})" in text
    assert launch(shop, APPLY, digest=report["digest"]).status is dg.DagsterRunStatus.SUCCESS
    assert planned(shop)["statements"] == ""


def test_dev_only_promises_no_old_version(new_shop: NewShop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
