"""The jobs `<op>_preview` and `<op>_preview_close`: what they compute and delete, and what stays as it was."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from engine.plan_jobs import PLAN, edit_config, failure_of, kinds, launch, planned
from engine.preview_lab import (
    APPLY,
    CLOSE,
    DAY,
    ENVIRONMENT,
    FORWARD_ONLY,
    ORDERS,
    OTHER,
    PREVIEW,
    REVENUE,
    Lab,
    diffs,
    make_gap,
    on_duckdb,
    report_of_last,
)
from harness import NewShop, at_night, needs_previews, rows_at_night

pytestmark = needs_previews


@pytest.mark.attribute("preview", "preview.environment")
def test_prod_is_identical_before_and_after_a_preview_and_the_changed_models_are_compared(lab: Lab) -> None:
    before = lab.prod()
    lab.change(orders=ORDERS.format(factor="(CASE WHEN id = 3 THEN 5 ELSE 2 END)"))

    report = lab.preview()

    assert lab.prod() == before
    found = diffs(report)
    assert sorted(found) == ["t.orders", "t.revenue"]
    orders = found["t.orders"]
    assert (orders["rows"], orders["rows_prod"]) == (60, 60)
    assert (orders["added"], orders["removed"], orders["changed"]) == (0, 0, 6)
    assert orders["columns"] == {"amount": pytest.approx(0.9), "label": 1.0}
    assert found["t.revenue"]["changed"] == 6
    assert report["environment"] == "pr_1"
    assert kinds(report) == []


def test_applying_a_previewed_plan_by_its_digest_computes_nothing(lab: Lab) -> None:
    lab.change(orders=ORDERS.format(factor=3))
    report = lab.preview()

    assert {model["name"]: model["intervals"] for model in report["models"]} == {"t.orders": 0, "t.revenue": 0}
    assert planned(lab.shop)["digest"] == report["digest"]
    record = launch(lab.shop, APPLY, digest=report["digest"]).succeeded()
    assert "Computed: 0 models" in record.log
    assert lab.ask("SELECT DISTINCT amount FROM t.orders WHERE id = 1") == [(3.0,)]


@on_duckdb
@pytest.mark.attribute("preview.select")
def test_a_preview_of_a_selection_leaves_the_other_changes_out(lab: Lab) -> None:
    """The commit before has previewed the change that this one leaves out."""
    lab.change(orders=ORDERS.format(factor=3), other="MODEL (name t.other, kind FULL); SELECT 2 AS x")
    lab.preview()

    report = lab.preview(select=["t.other"])

    assert list(diffs(report)) == ["t.other"]
    assert [model["name"] for model in report["models"]] == ["t.other"]
    assert report["left_out"] == [{"name": "t.orders", "change": "changed"}]
    assert '"select": ["t.other"]' in report["command"]
    assert "selected models are the same as in prod" in lab.preview(2, select=["t.revenue"])["result"]


def test_the_second_commit_is_compared_with_prod_and_replaces_the_tables_of_the_first(lab: Lab) -> None:
    lab.change(orders=ORDERS.format(factor=3))
    lab.preview()
    first = lab.left_over()
    lab.change(revenue=REVENUE.replace("count(*)", "count(*) + 1"))

    report = lab.preview()

    found = diffs(report)
    assert found["t.orders"]["changed"] == 60
    assert found["t.revenue"]["columns"] == {"amount": 0.0, "orders": 0.0}
    assert len(lab.left_over()["models"]) == len(first["models"])
    assert len(lab.left_over()["tables"]) == len(first["tables"])
    assert {model["name"] for model in report["models"]} == {"t.orders", "t.revenue"}


def test_closing_a_preview_leaves_nothing_and_only_its_own(lab: Lab) -> None:
    before, prod = lab.left_over(), lab.prod()
    lab.change(orders=ORDERS.format(factor=3))
    lab.preview(pull_request=1)
    lab.change(revenue=REVENUE.replace("count(*)", "count(*) + 1"))
    lab.preview(pull_request=2)
    both = lab.left_over()

    lab.close(pull_request=1)

    assert lab.ask("SELECT count(*), sum(amount) FROM t__pr_2.orders") == [(60, 6 * 55 * 3.0)]
    assert lab.ask("SELECT count(*) FROM t__pr_2.revenue") == [(6,)]
    assert both["environments"] - lab.left_over()["environments"] == {("pr_1",)}
    assert len(both["models"] - lab.left_over()["models"]) == 1, "only the version of t.revenue is no longer used"
    lab.close(pull_request=2)
    assert lab.left_over() == before
    assert lab.prod() == prod
    assert lab.close(pull_request=2).status is dg.DagsterRunStatus.SUCCESS


@pytest.mark.advice("that lack intervals: {}. Run prod first, from the deployment of prod.")
@pytest.mark.parametrize(("after", "before"), [(3, 0), *rows_at_night((2, 2))], ids=["three days behind", "with a gap"])
def test_a_preview_is_refused_if_prod_lacks_intervals_that_it_would_read(lab: Lab, after: int, before: int) -> None:
    make_gap(lab, after, before)
    prod = lab.prod()
    lab.change(revenue=REVENUE.replace("count(*)", "count(*) + 1"))

    record = lab.job(PREVIEW).failed()
    report = report_of_last(record)
    assert kinds(report) == ["pending_upstream"]
    assert report["refusals"][0]["models"] == ["t.orders"]
    assert f"t.orders ({6 - after - before} intervals)" in report["refusals"][0]["message"]
    assert "Run prod first" in report["refusals"][0]["message"]
    assert lab.prod() == prod
    assert ("pr_1",) not in lab.left_over()["environments"]

    again = lab.job(PREVIEW, allow_pending=True)
    assert kinds(report_of_last(again)) == ["pending_upstream"], "its data would be wrong, and count as complete"

    lab.change(revenue=REVENUE)
    lab.shop.refresh()
    lab.shop.launch().succeeded()
    lab.change(revenue=REVENUE.replace("count(*)", "count(*) + 1"))
    lab.job(PREVIEW).succeeded()


@pytest.mark.night(
    "unit/capabilities/plans/test_advice.py::test_a_preview_of_pending_models_is_computed_with_the_advised_run_config",
    "test_a_preview_is_refused_if_prod_lacks_intervals_that_it_would_read",
)
@on_duckdb
def test_intervals_that_are_later_than_those_of_the_preview_can_be_allowed(lab: Lab) -> None:
    lab.ask(f"UPDATE sqlmesh._intervals SET end_ts = end_ts - {3 * DAY}")
    before = lab.prod()
    lab.change(revenue=REVENUE.replace("count(*)", "count(*) + 1"))

    assert kinds(report_of_last(lab.job(PREVIEW))) == ["pending_upstream"]
    report = lab.preview(allow_pending=True)

    assert diffs(report)["t.revenue"]["columns"]["orders"] == 0.0
    assert lab.prod() == before, "the pending days are not computed in prod's table"


@on_duckdb
def test_an_unset_variable_breaks_no_code_location_and_the_jobs_name_it(lab: Lab) -> None:
    for name in (PREVIEW, CLOSE):
        record = lab.job(name, None).failed()
        assert "needs the environment variable PULL_REQUEST, which is not set here" in failure_of(record)


@pytest.mark.night(
    "unit/capabilities/plans/test_attributes.py::test_a_run_config_can_only_name_an_environment_that_the_template_could_give"
)
@on_duckdb
def test_the_launchpad_can_name_an_environment_that_fits_the_template(lab: Lab) -> None:
    lab.change(other=OTHER.replace("1 AS x", "2 AS x"))
    lab.job(PREVIEW, None, environment="pr_7").succeeded()
    assert lab.ask("SELECT x FROM t__pr_7.other") == [(2,)]

    refused = lab.job(CLOSE, None, environment="dev").failed()
    assert "'dev', which does not fit `preview.environment` in defs.yaml" in failure_of(refused)
    lab.job(CLOSE, None, environment="pr_7").succeeded()


def pin(lab: Lab) -> None:
    """Let two environments never expire. The first one exists."""
    edit_config("\npinned_environments: [PR_1, pr_2]\n")(lab.shop)
    lab.change(other=OTHER.replace("1 AS x", "2 AS x"))
    lab.shop.plan("pr_1", at=None)
    lab.change(other=OTHER.replace("1 AS x", "3 AS x"))


@on_duckdb
def test_an_environment_that_never_expires_is_refused_and_stays_as_it_was(lab: Lab) -> None:
    pin(lab)
    before = lab.left_over()

    for number in (1, 2):
        record = lab.job(PREVIEW, number).failed()
        assert f"Environment pr_{number} never expires, so it is no preview, and was not changed" in failure_of(record)
    closed = lab.job(CLOSE, 1).failed()
    assert "Environment pr_1 never expires, so it is no preview, and was not deleted." in failure_of(closed)
    assert lab.left_over() == before
    assert lab.ask("SELECT x FROM t__pr_1.other") == [(2,)]


@pytest.mark.advice(
    "and was not changed. Correct `preview.environment` in defs.yaml, or `pinned_environments`",
    "To delete it anyway, use `sqlmesh invalidate`.",
)
@pytest.mark.night("test_an_environment_that_never_expires_is_refused_and_stays_as_it_was")
@on_duckdb
def test_another_environment_is_previewed_or_one_that_never_expires_is_unpinned_or_invalidated(lab: Lab) -> None:
    pin(lab)
    lab.preview(3)
    lab.job(CLOSE, 3).succeeded()
    lab.shop.sqlmesh("invalidate", "pr_1")
    lab.shop.sqlmesh("janitor")
    assert lab.ask("SELECT schema_name FROM information_schema.schemata WHERE schema_name = 't__pr_1'") == []
    config = lab.shop.project / "config.yaml"
    config.write_text(config.read_text().replace("[PR_1, pr_2]", "[PR_1]"))
    lab.preview(2)


@on_duckdb
def test_files_that_equal_prod_are_green_without_a_preview(lab: Lab) -> None:
    report = lab.preview()

    assert report["result"] == "The files are the same as in prod, so there is nothing to preview."
    assert (report["models"], report["diff"]) == ([], [])
    assert ("pr_1",) not in lab.left_over()["environments"]


@pytest.mark.slow
@on_duckdb
def test_a_preview_over_the_budget_computes_nothing(lab: Lab) -> None:
    make_gap(lab, 3, 0)
    assert lab.shop.launch().status is dg.DagsterRunStatus.SUCCESS
    lab.shop.configure(preview={"environment": ENVIRONMENT}, budget={"seconds": 0.000001})
    before = lab.left_over(), lab.prod()
    lab.change(orders=ORDERS.format(factor=3))

    record = lab.job(PREVIEW)

    assert kinds(report_of_last(record)) == ["over_budget"]
    assert (lab.left_over(), lab.prod()) == before
    assert "Estimated: " in lab.preview(over_budget=True)["result"]


@on_duckdb
def test_a_failed_audit_of_a_preview_is_named_and_prod_stays(lab: Lab, tmp_path: Path) -> None:
    lab.monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / "report"))
    before = lab.prod()
    audited = REVENUE.replace("grain day", "grain day, audits (forall(criteria := (amount < 0)))")
    lab.change(revenue=audited)

    record = lab.job(PREVIEW).failed()
    assert "there is no environment pr_1 yet" in failure_of(record)
    assert "forall" in failure_of(record)
    [refusal] = json.loads((tmp_path / "report.json").read_text())["refusals"]
    assert (refusal["kind"], refusal["models"]) == ("error", ["t.revenue"])
    text = (tmp_path / "report.md").read_text()
    assert "**To decide:** 1 failure." in text
    assert "SELECT * FROM" not in text, "no view was created"
    assert lab.prod() == before


@on_duckdb
def test_report_is_written_to_file_also_if_preview_is_refused_or_closed(lab: Lab, tmp_path: Path) -> None:
    lab.monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / "report"))

    def written() -> tuple[dict[str, Any], str]:
        return json.loads((tmp_path / "report.json").read_text()), (tmp_path / "report.md").read_text()

    lab.change(orders=ORDERS.format(factor="(CASE WHEN id = 3 THEN 5 ELSE 2 END)"))
    lab.preview()
    ready, text = written()
    assert diffs(ready).keys() == {"t.orders", "t.revenue"}
    assert "| `t.orders` | 60 | 60 | 0 | 0 | 6 |" in text
    assert "| `t.orders` | `amount` | 6 of 60 |" in text
    assert "dg launch --job sqlmesh_shop_apply" in text
    lab.close()
    closed, text = written()
    assert closed["result"] == "Deleted the preview pr_1."
    assert "Deleted the preview pr_1." in text
    lab.job(PREVIEW, None)
    refused, text = written()
    assert kinds(refused) == ["unset_variable"]
    assert "PULL_REQUEST" in text


@pytest.mark.night(
    "unit/capabilities/plans/test_report_file.py", "test_report_is_written_to_file_also_if_preview_is_refused_or_closed"
)
@on_duckdb
@pytest.mark.parametrize("name", ["missing/report.md", *at_night("report.txt", "folder.json")])
def test_each_job_refuses_an_unwritable_report_before_it_does_anything(lab: Lab, tmp_path: Path, name: str) -> None:
    lab.change(orders=ORDERS.format(factor=3))
    digest = lab.preview()["digest"]
    (tmp_path / "folder.json").mkdir()
    before = lab.left_over(), lab.prod()
    lab.monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / name))

    for job in (PLAN, APPLY, PREVIEW, CLOSE):
        record = lab.job(job, **({"digest": digest} if job == APPLY else {})).failed()
        [failure] = record.failures
        assert str(tmp_path / name) in failure
        assert "DG_SQLMESH_REPORT" in failure
        assert failure.endswith("Nothing was done.")
        assert (lab.left_over(), lab.prod()) == before


@pytest.mark.attribute("preview.tags")
def test_jobs_have_the_tags_of_preview(new_shop: NewShop) -> None:
    shop = new_shop({"models/other.sql": OTHER})
    definitions = shop.configure(preview={"environment": ENVIRONMENT, "tags": {"team": "data"}})
    for job in (PREVIEW, CLOSE):
        assert definitions.resolve_job_def(job).tags["team"] == "data"


@pytest.mark.slow
@on_duckdb
def test_the_second_commit_is_categorized_against_prod(lab: Lab) -> None:
    lab.change(revenue=REVENUE.replace("sum(amount)", "avg(amount)"))
    lab.preview()
    lab.change(revenue=REVENUE.replace("sum(amount)", "avg(amount)").replace("AS orders", "AS orders, 1 AS new"))

    [model] = lab.preview()["models"]

    assert (model["name"], model["category"]) == ("t.revenue", "breaking")


@pytest.mark.slow
@on_duckdb
def test_a_commit_that_takes_everything_back_shows_the_versions_of_prod(lab: Lab) -> None:
    before = lab.left_over()
    lab.change(orders=ORDERS.format(factor=3))
    lab.preview()
    lab.change(orders=ORDERS.format(factor=2))

    report = lab.preview()

    assert (report["models"], report["diff"]) == ([], [])
    assert lab.left_over()["models"] == before["models"]
    lab.close()
    assert lab.left_over() == before


@on_duckdb
def test_closing_leaves_the_version_that_prod_has_shown_before(lab: Lab) -> None:
    """It is needed to go back. SQLMesh's janitor deletes it when it expires."""

    def apply(factor: int, pull_request: int) -> None:
        lab.change(orders=ORDERS.format(factor=factor))
        launch(lab.shop, APPLY, digest=lab.preview(pull_request)["digest"]).succeeded()

    apply(5, pull_request=1)
    apply(6, pull_request=2)
    before = lab.left_over()["models"]

    lab.close(pull_request=1)

    assert lab.left_over()["models"] == before
    assert lab.ask("SELECT DISTINCT amount FROM t.orders WHERE id = 1") == [(6.0,)]


@pytest.mark.slow
@on_duckdb
def test_closing_leaves_the_version_that_prod_has_shown_and_taken_back(lab: Lab) -> None:
    lab.change(orders=ORDERS.format(factor=5))
    launch(lab.shop, APPLY, digest=lab.preview()["digest"])
    shown = lab.left_over()
    lab.change(orders=ORDERS.format(factor=2))
    back = planned(lab.shop, allow_revert=["t.orders"])
    launch(lab.shop, APPLY, digest=back["digest"], allow_revert=["t.orders"]).succeeded()
    lab.change(other=OTHER.replace("1 AS x", "2 AS x"))
    launch(lab.shop, APPLY, digest=planned(lab.shop)["digest"])

    lab.close()

    assert shown["models"] < lab.left_over()["models"]
    lab.change(orders=ORDERS.format(factor=5))
    assert {model["name"]: model["intervals"] for model in planned(lab.shop)["models"]} == {
        "t.orders": 0,
        "t.revenue": 0,
    }


@pytest.mark.slow
def test_closing_a_preview_of_changed_metadata_leaves_the_tables_of_prod(lab: Lab) -> None:
    """Such a version has the table of prod."""
    before, prod = lab.left_over(), lab.prod()
    lab.change(revenue=REVENUE.replace("kind FULL", "kind FULL, owner ann"))
    report = lab.preview()
    assert ([model["change"] for model in report["models"]], report["diff"]) == (["metadata"], [])

    lab.close()

    assert (lab.left_over(), lab.prod()) == (before, prod)


def test_a_new_forward_only_model_is_marked_and_its_preview_is_deleted_after_the_apply(lab: Lab) -> None:
    before = lab.left_over()
    reader = "MODEL (name t.reader, kind FULL); SELECT day FROM t.late"
    lab.change(late=FORWARD_ONLY.format(factor=2).replace("t.orders", "t.late"), reader=reader)
    report = lab.preview()
    for name in ("t.late", "t.reader"):
        assert "Prod will not get this table: it has its own, which an apply computes." in diffs(report)[name]["note"]
    assert {model["name"]: model["intervals"] for model in report["models"]} == {"t.late": 6, "t.reader": 1}
    launch(lab.shop, APPLY, digest=report["digest"])

    lab.close()

    left = lab.left_over()
    assert not [name for _, name in left["tables"] - before["tables"] if name.endswith("__dev")]
    assert [row for row in left["intervals"] if row[-1]] == []
    assert lab.ask("SELECT count(*) FROM t.reader") == [(60,)]


@pytest.mark.slow
def test_a_forward_only_change_whose_preview_has_failed_is_computed_on_its_last_day_by_the_next_one(lab: Lab) -> None:
    """SQLMesh has recorded the other intervals of prod with a table that does not exist yet: it is not missing."""
    lab.change(orders=FORWARD_ONLY.format(factor=2))
    lab.shop.plan(at=None)
    lab.change(orders=FORWARD_ONLY.format(factor=3))
    lab.ask("ALTER TABLE raw.orders RENAME TO away")
    assert lab.job(PREVIEW).status is dg.DagsterRunStatus.FAILURE
    lab.ask("ALTER TABLE raw.away RENAME TO orders")

    record = lab.job(PREVIEW).succeeded()
    assert "is missing" not in record.log
    assert lab.ask("SELECT count(*), sum(amount) FROM t__pr_1.orders") == [(10, 55 * 3.0)]
    assert "Computed: 0 models" in lab.job(PREVIEW).log, "it is computed once"


@pytest.mark.slow
def test_closing_two_previews_of_a_forward_only_change_leaves_no_intervals(lab: Lab) -> None:
    lab.change(orders=FORWARD_ONLY.format(factor=2))
    lab.shop.plan(at=None)
    before = lab.left_over()
    lab.change(orders=FORWARD_ONLY.format(factor=3))
    first = lab.job(PREVIEW)
    assert "is missing" not in first.log, "the preview only has the intervals of prod"
    lab.change(revenue=REVENUE.replace("kind FULL", "kind FULL, owner ann"))
    lab.preview(pull_request=2)

    lab.close(pull_request=1)
    assert lab.ask("SELECT count(*) FROM t__pr_2.orders") == [(10,)]
    lab.close(pull_request=2)

    assert lab.left_over() == before


@pytest.mark.slow
def test_closing_deletes_what_a_failed_commit_has_computed_of_versions_that_prod_shows(lab: Lab) -> None:
    lab.change(orders=FORWARD_ONLY.format(factor=2))
    lab.shop.plan(at=None)
    before = lab.left_over()
    lab.change(orders=FORWARD_ONLY.format(factor=3))
    lab.preview()
    lab.change(
        orders=FORWARD_ONLY.format(factor=4), revenue=REVENUE.replace("FROM t.orders", "FROM t.orders, raw.later")
    )
    assert lab.job(PREVIEW).status is dg.DagsterRunStatus.FAILURE
    lab.ask("CREATE TABLE raw.later AS SELECT 1 AS x")
    assert launch(lab.shop, APPLY, digest=planned(lab.shop)["digest"]).status is dg.DagsterRunStatus.SUCCESS

    lab.close()

    tables = {table for _, table in lab.left_over()["tables"] if table.endswith("__dev")}
    assert tables == {table for _, table in before["tables"] if table.endswith("__dev")}
    assert lab.ask("SELECT name FROM sqlmesh._intervals WHERE is_dev") == []


@pytest.mark.night("engine/test_taken_back.py::test_name_that_is_too_long_is_refused_before_the_promotion")
@pytest.mark.advice("use the number of the pull request instead.")
@pytest.mark.parametrize("lab", ["postgres"], indirect=True)
def test_preview_with_a_name_too_long_for_the_engine_is_refused_before_it_computes_anything(lab: Lab) -> None:
    lab.change(other=OTHER.replace("1 AS x", "2 AS x"))
    before = lab.left_over()
    longest = 63 - len("t__pr_")

    refused = lab.job(PREVIEW, pull_request=10**longest)

    failure = failure_of(refused)
    name = f"t__pr_1{'0' * longest}"
    assert f"{name} has 64 characters, and postgres allows 63." in failure
    assert "Make `preview.environment` in defs.yaml shorter." in failure
    assert lab.left_over() == before
    assert lab.preview(10 ** (longest - 1))["environment"] == name[len("t__") : -1]


@pytest.mark.night(
    "unit/capabilities/plans/worker/test_failed_plan.py", "test_a_failed_audit_of_a_preview_is_named_and_prod_stays"
)
@pytest.mark.parametrize("lab", ["postgres"], indirect=True)
def test_preview_that_fails_in_its_views_shows_the_error_of_the_engine(lab: Lab) -> None:
    lab.change(other=OTHER.replace("1 AS x", "2 AS x"))
    refuse = "RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no view today'; END $$"
    lab.ask(f"CREATE FUNCTION refuse() {refuse}")
    lab.ask("CREATE EVENT TRIGGER no_view ON ddl_command_end WHEN TAG IN ('CREATE VIEW') EXECUTE FUNCTION refuse()")

    failure = failure_of(lab.job(PREVIEW))

    assert "no view today" in failure
    assert "SnapshotId" not in failure
