"""The jobs `<op>_plan` and `<op>_apply`: what is refused, and what an apply records."""

from concurrent.futures import ThreadPoolExecutor
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
    applied,
    change,
    edit_config,
    failure_of,
    kinds,
    launch,
    planned,
    report_of,
    text_of,
)
from harness import YEARLY_CRON, NewShop, Shop, at_night, rows_at_night, sqlmesh, wait_until
from postgres import postgres_server
from waiting import day

from dg_sqlmesh_component.capabilities.plans import step
from dg_sqlmesh_component.history.active_runs import mark_as_computing


@pytest.mark.attribute("deploy", "deploy.tags")
def test_jobs_have_the_tags_of_deploy(shop: Shop) -> None:
    for job in (PLAN, APPLY):
        definition = shop.configure(deploy={"tags": {"team": "data"}}).resolve_job_def(job)
        assert definition.tags["team"] == "data"


def test_a_plan_lists_direct_and_indirect_changes_and_applies_nothing(shop: Shop) -> None:
    before = shop.state()
    change(shop, total=TOTAL.format(added=" + 1"))

    report = planned(shop)

    [node] = report["models"]
    assert (node["name"], node["change"], node["category"], node["intervals"]) == ("t.total", "changed", "breaking", 1)
    assert kinds(report) == []
    assert shop.state() == before


def test_an_apply_of_the_reviewed_digest_promotes_it_and_records_each_version_once(shop: Shop) -> None:
    shop.launch().succeeded()
    change(shop, total=TOTAL.format(added=" + 1"))
    digest = planned(shop)["digest"]

    record = launch(shop, APPLY, digest=digest).succeeded()
    [event] = record.events(dg.DagsterEventType.ASSET_MATERIALIZATION)
    assert event.asset_key == dg.AssetKey(["t", "total"])
    origin = event.event_specific_data.materialization.metadata["sqlmesh/origin"].value
    assert origin.startswith("computed by plan ")
    evaluations = [event.event_specific_data for event in record.events(dg.DagsterEventType.ASSET_CHECK_EVALUATION)]
    assert {evaluation.check_name: evaluation.passed for evaluation in evaluations} == {
        "not_null_amount": True,
        "sqlmesh_execution_status": True,
    }
    assert planned(shop)["models"] == []
    assert shop.launch().computed_outside == {}, "the next run records nothing again"


@pytest.mark.night(
    "test_models_downstream_of_a_selected_one_are_planned_as_they_are_in_prod",
    "unit/capabilities/plans/test_gate.py::test_markdown_names_the_changes_that_a_selection_leaves_out",
)
@pytest.mark.advice("Select it too, for example with {}.")
def test_a_plan_of_a_selection_applies_only_that_and_names_the_changes_that_it_leaves_out(shop: Shop) -> None:
    change(shop, total=TOTAL.format(added=" + 1"), other="MODEL (name t.other, kind FULL, owner eve); SELECT 2 AS x")
    change(shop, new="MODEL (name t.new, kind FULL); SELECT 1 AS x", newer="MODEL (name t.newer); SELECT x FROM t.new")
    assert "leaves out t.new, which t.newer reads" in failure_of(launch(shop, PLAN, select=["t.newer"]))
    audit = shop.project / "audits" / "alone.sql"
    audit.parent.mkdir()
    audit.write_text("AUDIT (name alone, standalone true); SELECT * FROM t.new WHERE x > 1")
    failure = failure_of(launch(shop, PLAN, select=["t.other"]))
    assert "leaves out t.new, which alone reads" in failure
    assert "Select it too, for example with t.new." in failure
    launch(shop, PLAN, select=["t.other", "t.new"]).succeeded()
    audit.unlink()
    whole = planned(shop)["digest"]
    shop.configure(deploy={"select": "t.other"})
    report = planned(shop)
    assert [(model["name"], model["intervals"]) for model in report["models"]] == [("t.other", 1)]
    assert report["select"] == ["t.other"]
    left_out = {"t.new": "added", "t.newer": "added", "t.total": "changed"}
    assert {model["name"]: model["change"] for model in report["left_out"]} == left_out
    for digest, select in ((whole, ["t.other"]), (report["digest"], [])):
        failure = failure_of(launch(shop, APPLY, digest=digest, select=select))
        assert (
            "What differs: `select` in the run config differs, so other models are taken from the files. R" in failure
        )

    record = launch(shop, APPLY, digest=report["digest"])

    assert record.status is dg.DagsterRunStatus.SUCCESS, failure_of(record)
    assert "Computed: 1 model." in record.log
    assert [model["name"] for model in planned(shop, select=[])["models"]] == ["t.new", "t.newer", "t.total"]


@pytest.mark.advice("and then they read each other: {}. Select all of them.")
def test_a_selection_with_which_models_read_each_other_is_refused_by_name(new_shop: NewShop) -> None:
    """The files reverse who reads whom, and only one of both files is taken."""
    files = {"models/a.sql": "MODEL (name t.a); SELECT x FROM t.b", "models/b.sql": "MODEL (name t.b); SELECT 1 AS x"}
    shop = new_shop(files, deploy=True)
    change(shop, a="MODEL (name t.a); SELECT 1 AS x", b="MODEL (name t.b); SELECT x FROM t.a")
    refused = launch(shop, PLAN, select=["t.b"])
    assert "then they read each other: t.a, t.b. Select all of them." in failure_of(refused)
    launch(shop, PLAN, select=["t.a", "t.b"]).succeeded()


@pytest.mark.attribute("deploy.select")
def test_models_downstream_of_a_selected_one_are_planned_as_they_are_in_prod(shop: Shop) -> None:
    """With its own `--select-model`, SQLMesh would promote t.total without rows."""
    change(shop, daily=DAILY.replace("id, amount", "id, amount * 2 AS amount").replace(", forward_only true", ""))
    change(shop, total=TOTAL.format(added=" + 1"))

    shop.configure(deploy={"select": "t.daily"})
    report = planned(shop)

    changes = {model["name"]: (model["change"], bool(model["intervals"])) for model in report["models"]}
    assert changes == {"t.daily": ("changed", True), "t.total": ("indirect", True)}
    assert report["left_out"] == [{"name": "t.total", "change": "changed"}]


READ_FILE = """
from pathlib import Path

from sqlmesh import macro


@macro()
def number(evaluator):
    return Path("number").read_text()
"""


def test_a_selection_that_leaves_a_model_as_its_macro_can_no_longer_render_it_is_refused(new_shop: NewShop) -> None:
    """The macro of prod reads a file that the change of the model has deleted."""
    rendered = "MODEL (name t.rendered, kind FULL); SELECT @number() AS x"
    files = {**MODELS, "models/rendered.sql": rendered, "macros/number.py": READ_FILE, "number": "1"}
    shop = new_shop(files, deploy=True)
    change(shop, rendered=rendered.replace("@number()", "1"), total=TOTAL.format(added=" + 1"))
    (shop.project / "number").unlink()

    failure = failure_of(launch(shop, PLAN, select=["t.total"]))

    assert "`select` in the run config leaves no valid project: " in failure
    assert "Model 't.rendered' sourced from state cannot be rendered" in failure


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

    again = launch(shop, APPLY, digest=digest).succeeded()
    assert again.computed_outside == {}
    assert shop.state() == before


@pytest.mark.night(
    "test_an_applied_digest_can_be_applied_again_and_does_nothing",
    "unit/capabilities/plans/test_gate_by_facts.py::test_a_digest_is_valid_until_...",
)
def test_the_digest_of_a_plan_without_changes_can_be_applied_again_until_the_files_change(shop: Shop) -> None:
    nothing = planned(shop)
    assert nothing["models"] == []
    for _ in range(2):
        launch(shop, APPLY, digest=nothing["digest"]).succeeded()
    change(shop, total=TOTAL.format(added=" + 1"))
    refused = launch(shop, APPLY, digest=nothing["digest"])
    assert kinds(report_of(refused)) == ["digest"], "nobody has applied a plan since, but the files differ"


def test_a_model_whose_audits_alone_have_changed_is_audited_and_not_reported_as_executed(shop: Shop) -> None:
    shop.launch()
    audited = "MODEL (name t.other, kind FULL, audits (not_null(columns := (x)))); SELECT 1 AS x"
    change(shop, other=audited)
    report = planned(shop)
    assert [(model["name"], model["change"], model["intervals"]) for model in report["models"]] == [
        ("t.other", "metadata", 0)
    ]

    record = launch(shop, APPLY, digest=report["digest"]).succeeded()
    evaluations = [event.event_specific_data for event in record.events(dg.DagsterEventType.ASSET_CHECK_EVALUATION)]
    assert {evaluation.check_name: evaluation.passed for evaluation in evaluations} == {"not_null_x": True}
    assert record.computed_outside == {}
    assert "Computed: 0 models" in record.log


@pytest.mark.night(
    "unit/capabilities/plans/worker/test_failed_plan.py", "test_a_blocking_audit_that_fails_leaves_prod_on_its_versions"
)
def test_a_table_that_cannot_be_created_is_named(shop: Shop) -> None:
    change(shop, new="MODEL (name t.new, kind FULL); SELECT 1 AS x, no_such_function() AS y")

    record = launch(shop, APPLY, digest=planned(shop)["digest"]).failed()
    assert "no_such_function" in failure_of(record)
    assert "t.new" in failure_of(record)
    assert "not requested" not in failure_of(record)


def test_another_digest_is_refused_before_anything_is_computed(shop: Shop) -> None:
    change(shop, total=TOTAL.format(added=" + 1"))
    digest = planned(shop)["digest"]
    change(shop, total=TOTAL.format(added=" + 2"))
    before = shop.state()

    record = launch(shop, APPLY, digest=digest).failed()
    assert "the files of the project differ" in failure_of(record)
    assert digest in failure_of(record)
    assert shop.state() == before


@pytest.mark.night(
    "unit/capabilities/plans/test_gate_by_facts.py::test_a_digest_is_valid_until_another_plan_is_applied_or_the_files_change",
    "engine/test_plan_reports.py::test_the_digest_names_what_has_changed",
)
def test_a_plan_applied_by_somebody_else_makes_the_approval_void(shop: Shop) -> None:
    change(shop, total=TOTAL.format(added=" + 1"))
    digest = planned(shop)["digest"]
    config, theirs = (shop.project / "config.yaml").read_text(), "MODEL (name t.other, kind FULL); SELECT 2 AS x"

    change(shop, total=TOTAL.format(added=""))
    edit_config("after_all: [SELECT 1]\n")(shop)
    shop.plan(at=None)
    change(shop, total=TOTAL.format(added=" + 1"))
    (shop.project / "config.yaml").write_text(config)
    record = launch(shop, APPLY, digest=digest)

    assert kinds(report_of(record)) == ["moved"], "the plan removes their statement, and nobody has reviewed that"
    assert "statements or required packages" in failure_of(record)

    change(shop, total=TOTAL.format(added=""), other=theirs)
    shop.plan(at=None)
    change(shop, total=TOTAL.format(added=" + 1"), other=MODELS["models/other.sql"])
    record = launch(shop, APPLY, digest=digest)

    assert kinds(report_of(record)) == ["moved", "stale_branch"]
    assert "t.other" in failure_of(record)


AUDITED = "MODEL (name t.other, kind FULL, audits (not_null(columns := (x)))); SELECT {x} AS x"


@pytest.mark.night(
    "unit/capabilities/plans/test_gate_by_facts.py::test_exactly_what_nobody_has_named_is_refused",
    "test_a_revert_on_purpose_is_applied_and_recorded_as_promoted_only",
)
@pytest.mark.parametrize("x", [1, *at_night(2)], ids=["the model is unchanged", "the model is changed too"])
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


@pytest.mark.night(
    "unit/capabilities/plans/test_gate_by_facts.py::test_exactly_what_nobody_has_named_is_refused",
    "test_a_revert_on_purpose_is_applied_and_recorded_as_promoted_only",
)
def test_a_model_that_reads_its_old_columns_again_takes_nothing_back(shop: Shop) -> None:
    """Its metadata in SQLMesh has the columns of the models that it reads."""
    change(shop, other="MODEL (name t.other, kind FULL); SELECT * FROM t.total")
    shop.plan(at=None)
    wider = "MODEL (name t.total, kind FULL); SELECT sum(amount) AS amount, 1 AS y FROM t.daily"
    change(shop, total=wider)
    shop.plan(at=None)
    change(shop, total="MODEL (name t.total, kind FULL); SELECT max(amount) AS amount FROM t.daily")

    assert kinds(planned(shop)) == []


@pytest.mark.advice("To compute the values of the added columns again, restate {}.")
def test_an_indirect_destructive_change_is_refused_by_name(shop: Shop) -> None:
    """SQLMesh#5719: SQLMesh builds this plan without an error, and breaks the environment half-way."""
    change(shop, base=BASE.format(type="INT"))
    report = planned(shop)

    assert kinds(report) == ["destructive"]
    assert report["refusals"][0]["models"] == ["t.daily"]
    daily = next(model for model in report["models"] if model["name"] == "t.daily")
    assert (daily["change"], daily["destructive"]) == ("indirect", ["drops amount and adds it again as INT"])
    launch(shop, APPLY, digest=report["digest"]).failed()
    shop.launch()  # prod is whole: a run does not wait for an unfinished plan

    change(shop, total="MODEL (name t.total, kind FULL); SELECT max(amount) AS amount FROM t.daily")
    digest = planned(shop)["digest"]
    allowed = launch(shop, APPLY, digest=digest, allow_destructive=["t.daily"]).succeeded()
    assert report_of(allowed)["digest"] == digest, "the report names the reviewed digest"
    assert "Values are lost: t.daily (drops amount and adds it again as INT)." in allowed.log
    assert "To compute the values of the added columns again, restate t.daily." in allowed.log
    empty = "SELECT count(*) FROM t.daily WHERE amount IS NULL"
    assert shop.query(empty) != [(0,)]
    shop.configure(deploy=True, restate=True)
    [(first, last)] = shop.query("SELECT min(day)::DATE::TEXT, max(day)::DATE::TEXT FROM t.daily")
    again = {"sqlmesh_shop": {"restate": {"start": first, "end": last}}}
    shop.launch(assets=["t/daily"], ops=again).succeeded()
    assert shop.query(empty) == [(0,)]


TWO_CATALOGS = """
gateways:
  local: {connection: {type: duckdb, database: warehouse.duckdb}}
  other: {connection: {type: duckdb, database: elsewhere.duckdb}}
default_gateway: local
gateway_managed_virtual_layer: true
model_defaults: {dialect: duckdb, start: 6 days ago}
disable_anonymized_analytics: true
"""
TWIN = """
MODEL (name s.orders, kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true){more});
SELECT @start_ds::DATE AS day{columns}
"""
IN_OTHER_CATALOG = ", gateway other, tags ('dagster:key_prefix:elsewhere')"


def test_models_of_one_name_in_two_catalogs_are_told_apart_and_named_one_by_one(new_shop: NewShop) -> None:
    twins = {"here": "", "there": IN_OTHER_CATALOG}
    files = {f"models/{name}.sql": TWIN.format(more=more, columns=", 1 AS x") for name, more in twins.items()}
    left = {f"left_{name}": f"MODEL (name s.left, kind FULL{more}); SELECT 1 AS x" for name, more in twins.items()}
    shop = new_shop({**files, **{f"models/{name}.sql": text for name, text in left.items()}}, TWO_CATALOGS, deploy=True)
    change(shop, **{name: TWIN.format(more=more, columns="") for name, more in twins.items()})
    change(shop, left_there=left["left_there"].replace("FULL", "EMBEDDED"))

    refused = launch(shop, APPLY, digest="of another plan", allow_destructive=["s.orders"])

    report = report_of(refused)
    names = {"s.orders", "elsewhere.s.orders", "elsewhere.s.left"}
    assert {model["name"] for model in report["models"]} == names, "one of them has lost its table"
    destructive = next(refusal for refusal in report["refusals"] if refusal["kind"] == "destructive")
    assert set(destructive["models"]) == {"warehouse.s.orders", "elsewhere.s.orders"}
    assert "s.orders, which fits 2 models" in failure_of(refused)
    assert "'warehouse.s.orders'" in failure_of(refused)
    assert shop.query("SELECT DISTINCT x FROM s.orders") == [(1,)]


@pytest.mark.night(
    "upstream/test_sqlmesh_losses.py::test_a_plan_names_what_sqlmesh_drops",
    "test_an_indirect_destructive_change_is_refused_by_name",
)
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


def test_a_revert_on_purpose_is_applied_and_recorded_as_promoted_only(shop: Shop) -> None:
    change(shop, total=TOTAL.format(added=" + 1"))
    changed = launch(shop, APPLY, digest=planned(shop)["digest"])
    assert str(changed.computed_outside["t/total"].metadata["sqlmesh/origin"].value).startswith("computed by plan ")
    change(shop, total=TOTAL.format(added=""))
    report = planned(shop)
    assert kinds(report) == ["stale_branch"]
    assert '"allow_revert": ["t.total"]' in report["command"]

    reverted = launch(shop, APPLY, digest=report["digest"], allow_revert=["t.total"]).succeeded()
    origin = reverted.computed_outside["t/total"].metadata["sqlmesh/origin"].value
    assert str(origin).startswith("promoted by plan ")


def test_a_version_without_an_interval_is_promoted_with_one_that_is_computed(shop: Shop) -> None:
    """SQLMesh creates no table for it if it computes only others, before the promotion. Then its view fails.

    One is behind a forward-only change, the others are behind a version that is computed.
    """
    yearly = f"MODEL (name t.{{name}}, kind {{kind}}, cron '{YEARLY_CRON}'); SELECT {{query}}"
    late = yearly.format(name="late", kind="FULL", query="added FROM t.daily")
    full = yearly.format(name="full", kind="FULL", query="x FROM t.other")
    view = yearly.format(name="view", kind="VIEW", query="x FROM t.other")
    daily = DAILY.replace("amount FROM", "amount, 1 AS added FROM")
    other = "MODEL (name t.other, kind FULL, owner eve); SELECT 2 AS x"
    change(shop, daily=daily, late=late, other=other, full=full, view=view)

    applied(shop)

    assert shop.query("SELECT added FROM t.late") == shop.query("SELECT x FROM t.full") == []
    assert shop.query("SELECT x FROM t.other") == shop.query("SELECT x FROM t.view") == [(2,)]


@pytest.mark.night(
    "engine/test_waiting_plans.py::test_a_plan_of_another_model_does_not_compute_a_day_that_is_not_loaded",
    "unit/capabilities/plans/worker/test_rounds.py::test_what_was_tried_and_still_lacks_waits_for_signals",
)
def test_an_apply_names_the_days_for_which_the_signal_of_a_new_version_is_not_ready(shop: Shop) -> None:
    signals = shop.project / "signals"
    signals.mkdir()
    signal = "from sqlmesh import signal\n\n\n@signal()\ndef of_first(batch):\n    return batch[:1]\n"
    (signals / "__init__.py").write_text(signal)
    by_day = "kind INCREMENTAL_BY_TIME_RANGE (time_column day), start '6 days ago'"
    late = f"MODEL (name t.late, {by_day}, signals [of_first()]); SELECT @start_ds::DATE AS day"
    change(shop, late=late, reads=f"MODEL (name t.reads, {by_day}); SELECT day FROM t.late")

    days = f"{day(5)} to {day(4)} (2 days)"
    left_out = f"Left out, because signals are not ready: t.late ({days}), t.reads ({days}). Runs compute it"
    record = applied(shop)
    assert left_out in record.log
    for asset in ("t/late", "t/reads"):
        table: Any = record.computed_outside[asset].metadata["sqlmesh/not_computed"]
        waiting = [row.data["range"] for row in table.records if row.data["why"] == "waits for a source or a signal"]
        assert waiting == [days], "no gap"


IS_TWO = "audits (accepted_values(column := x, is_in := (2)))"


@pytest.mark.parametrize(
    ("models", "failed"),
    [
        ({"total": TOTAL.format(added=" + NULL")}, "t.total (models/total.sql) failed its audit not_null (1 row)."),
        *rows_at_night(
            (
                {"other": f"MODEL (name t.other, kind FULL, {IS_TWO}); SELECT 1 AS x"},
                "t.other (models/other.sql) failed its audit accepted_values (1 row).",
            )
        ),
    ],
    ids=["on computed rows", "an added audit"],
)
def test_a_blocking_audit_that_fails_leaves_prod_on_its_versions(
    shop: Shop, models: dict[str, str], failed: str
) -> None:
    change(shop, **models)
    digest = planned(shop)["digest"]

    record = launch(shop, APPLY, digest=digest).failed()
    assert failed in failure_of(record)
    assert "environment prod is as it was before" in failure_of(record)
    assert record.events(dg.DagsterEventType.ASSET_MATERIALIZATION) == []
    assert record.events(dg.DagsterEventType.ASSET_CHECK_EVALUATION) == []
    assert shop.query("SELECT amount FROM t.total") != [(None,)]


@pytest.mark.attribute("budget.seconds")
def test_a_plan_over_the_budget_is_refused_and_computes_nothing(shop: Shop) -> None:
    shop.launch()  # records what the models cost
    shop.configure(deploy=True, budget={"seconds": 0.000001})
    change(shop, total=TOTAL.format(added=" + 1"))
    digest = planned(shop)["digest"]
    before = shop.state()

    refused = launch(shop, APPLY, digest=digest)

    assert kinds(report_of(refused)) == ["over_budget"]
    assert shop.state() == before
    assert launch(shop, APPLY, digest=digest, over_budget=True).status is dg.DagsterRunStatus.SUCCESS


@pytest.mark.advice("Select fewer models, limit the range with `start` and `end`, or set `over_budget: true`")
def test_a_run_over_the_budget_is_refused_before_it_computes_anything(new_shop: NewShop) -> None:
    lone = "AUDIT (name lone, standalone true); SELECT 1 FROM t.total WHERE FALSE"
    shop = new_shop(MODELS | {"audits/lone.sql": lone})
    shop.launch(assets=["t/base", "t/other"]).succeeded()
    shop.launch(assets=["t/daily"])
    shop.query("DELETE FROM sqlmesh._intervals WHERE name LIKE '%daily%'")
    shop.configure(budget={"seconds": 0.000001})
    before = shop.state()

    refused = shop.launch(assets=["t/daily"])

    [failure] = refused.failures
    assert failure.startswith("The run is over the budget. The estimate from earlier runs is ")
    assert "`budget.seconds` in defs.yaml is 0.000001. Nothing was computed." in failure
    assert refused.materializations == {}
    assert shop.state() == before
    for fewer in ({"assets": ["t/other"]}, {"assets": ["t/daily"], "ops": {"sqlmesh_shop": {"end": "2020-01-01"}}}):
        shop.launch(**fewer).succeeded()
    warned = shop.launch(assets=["t/daily"], ops={"sqlmesh_shop": {"dry_run": True}})
    assert "a run would be refused without `over_budget: true`" in warned.log
    allowed = shop.launch(assets=["t/daily"], ops={"sqlmesh_shop": {"over_budget": True}})
    assert set(allowed.materializations) == {"t/daily"}
    shop.query("DELETE FROM sqlmesh._intervals WHERE name LIKE '%total%'")
    unknown = shop.launch(assets=["t/total"]).succeeded()
    assert "Without a record of an earlier computation, so not estimated: t.total." in unknown.log


@pytest.mark.slow
def test_the_first_plan_of_an_environment_is_applied(new_shop: NewShop) -> None:
    shop = new_shop(MODELS, planned_at=None, deploy=True)
    report = planned(shop)
    assert {model["change"] for model in report["models"]} == {"added"}

    record = launch(shop, APPLY, digest=report["digest"]).succeeded()
    assert set(record.computed_outside) == {"t/base", "t/daily", "t/total", "t/other"}
    assert planned(shop)["models"] == []


def test_an_environment_other_than_prod_is_planned_and_applied(shop: Shop) -> None:
    shop.plan("dev", "--include-unmodified", at=None)
    project = {"path": str(shop.project), "environment": "dev"}
    shop.add_component("shop", {"project": project, "deploy": True})
    change(shop, base=BASE.format(type="INT"))
    report = planned(shop)
    assert (report["environment"], kinds(report)) == ("dev", []), "dev shows previews in tables of their own"

    record = launch(shop, APPLY, digest=report["digest"]).succeeded()
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


@pytest.mark.night("test_a_plan_that_lands_while_another_one_computes_stops_it", "unit/worker/test_circuit_breaker.py")
def test_plan_that_lands_before_another_computes_stops_it(new_shop: NewShop, monkeypatch: pytest.MonkeyPatch) -> None:
    with postgres_server() as server:
        server.query("CREATE DATABASE landing")
        shop = new_shop(MODELS, server.config("landing"), deploy=True)
        change(shop, total=TOTAL.format(added=" + 1"))
        digest = planned(shop)["digest"]

        def land(*arguments: Any) -> int:
            change(shop, total=TOTAL.format(added=""), other="MODEL (name t.other, kind FULL); SELECT 5 AS x")
            shop.plan(at=None)
            return mark_as_computing(*arguments)

        monkeypatch.setattr(step, "mark_as_computing", land)  # after the plan is built, and before it is approved
        record = launch(shop, APPLY, digest=digest)

        assert "Another plan has changed environment prod since this one was built" in failure_of(record)
        assert server.query("SELECT x FROM t.other", "landing") == [(5,)]


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


@pytest.mark.night(
    "engine/test_stale_manifest.py::test_run_fails_if_promoted_model_reads_model_missing_from_manifest",
    "engine/test_stale_manifest.py::test_after_a_plan_in_a_shell_the_manifest_differs_and_not_the_local_files",
)
@pytest.mark.advice("If the local files are newer, promote them:{}{}")
def test_a_run_that_meets_other_local_files_names_the_job_that_shows_the_plan(shop: Shop) -> None:
    change(shop, total=TOTAL.format(added=" + 1"))
    shop.refresh()

    log = shop.launch().log

    assert (
        "If the local files are newer, promote them:\n\n    dg launch --job sqlmesh_shop_plan\n\n"
        "This job applies nothing. Its report has the command that applies the plan." in log
    )
    launch(shop, APPLY, digest=planned(shop)["digest"]).succeeded()
    assert "The manifest differs" not in shop.launch().log


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
    assert "| `r.reader` | changed upstream (indirect breaking, project second) |" in text_of(record)


def test_each_python_gives_the_categories_the_same_hash(shop: Shop) -> None:
    """Python 3.10 writes a member of an enumeration in another way than later versions. The tests run on both."""
    change(shop, total=TOTAL.format(added=" + 1"))
    assert planned(shop)["digest"][14] == "t"
