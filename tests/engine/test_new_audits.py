"""The audits that a plan adds or changes are evaluated before it promotes, whatever came before that plan."""

from collections.abc import Callable

import pytest
from engine.plan_jobs import APPLY, failure_of, launch, planned
from engine.preview_lab import ORDERS, PREVIEW, Lab, on_duckdb
from harness import at_night, needs_previews, rows_at_night

AUDITS = "audits (accepted_range(column := amount, max_v := 20))"
TABLE = ORDERS.format(factor=2)
VIEW = "MODEL (name t.shown, kind VIEW); SELECT id * 2 AS amount FROM raw.orders"
EXTERNAL = "- name: raw.orders\n  columns: {day: DATE, id: INT}\n"
ADDED = {
    "to a table": ("models/orders.sql", TABLE, TABLE.replace("(day, id))", f"(day, id), {AUDITS})")),
    "to a table whose query is also formatted": (
        "models/orders.sql",
        TABLE,
        TABLE.replace("(day, id))", f"(day, id), {AUDITS})").replace(", 'x'", ",\n  'x'"),
    ),
    "to a view": ("models/shown.sql", VIEW, VIEW.replace("VIEW)", f"VIEW, {AUDITS})")),
    "to a changed view": (
        "models/shown.sql",
        VIEW,
        VIEW.replace("VIEW)", f"VIEW, {AUDITS})").replace(" FROM", ", 1 AS x FROM"),
    ),
    "to an external table": (
        "external_models.yaml",
        EXTERNAL,
        f"{EXTERNAL}  audits:\n    - name: accepted_range\n      column: id\n      max_v: '10'\n",
    ),
}
"""By what a plan adds an audit to, a file before and after it."""


def make_wrong(lab: Lab) -> None:
    """Let the rows that prod shows fail the audit."""
    lab.ask("UPDATE raw.orders SET id = 99 WHERE id = 10")
    lab.shop.plan("--restate-model", "t.orders", at=None)


def after_failed_apply(lab: Lab, add: Callable[[], object]) -> None:
    make_wrong(lab)
    add()
    launch(lab.shop, APPLY, digest=planned(lab.shop)["digest"]).failed()


def after_failed_preview(lab: Lab, add: Callable[[], object]) -> None:
    make_wrong(lab)
    add()
    lab.job(PREVIEW).failed()
    assert "accepted_range" in failure_of(lab.job(PREVIEW)), "the second preview does not skip it either"


def after_passed_preview(lab: Lab, add: Callable[[], object]) -> None:
    add()
    lab.preview()
    make_wrong(lab)


CASES = [
    (after_passed_preview, "to a changed view"),
    *rows_at_night(
        (after_failed_apply, "to a table whose query is also formatted"), (after_failed_preview, "to a table")
    ),
    pytest.param(after_passed_preview, "to a table", marks=pytest.mark.slow),
    pytest.param(after_passed_preview, "to an external table", marks=pytest.mark.slow),
    pytest.param(after_failed_preview, "to a changed view", marks=pytest.mark.slow),
    pytest.param(after_failed_apply, "to a view", marks=pytest.mark.slow),
]


@needs_previews
@pytest.mark.parametrize(("came_before", "added"), CASES)
def test_an_added_audit_that_fails_stops_each_apply(
    lab: Lab, came_before: Callable[[Lab, Callable[[], object]], None], added: str
) -> None:
    file, before, after = ADDED[added]
    path = lab.shop.project / file
    path.write_text(before)
    lab.shop.plan(at=None)
    came_before(lab, lambda: path.write_text(after))
    shown, digest = lab.prod()["environment"], planned(lab.shop)["digest"]

    failed = launch(lab.shop, APPLY, digest=digest).failed()

    assert "audit accepted_range" in failure_of(failed)
    assert lab.prod()["environment"] == shown
    lab.ask("UPDATE raw.orders SET id = 10 WHERE id = 99")
    lab.shop.plan("--restate-model", "t.orders", at=None)
    launch(lab.shop, APPLY, digest=digest).succeeded()


@needs_previews
@pytest.mark.parametrize("is_changed", [False, *at_night(True)], ids=["added", "changed"])
def test_a_standalone_audit_is_evaluated_by_each_apply_that_adds_or_changes_it(lab: Lab, is_changed: bool) -> None:
    file = lab.shop.project / "audits" / "alone.sql"
    file.parent.mkdir(exist_ok=True)
    audit = "AUDIT (name alone, standalone true); SELECT * FROM t.orders WHERE amount > {least}"
    if is_changed:
        file.write_text(audit.format(least=100))
        lab.shop.plan(at=None)
    after_passed_preview(lab, lambda: file.write_text(audit.format(least=20)))

    applied = launch(lab.shop, APPLY, digest=planned(lab.shop)["digest"]).succeeded()

    assert not applied.checks["t/orders:alone"].passed


@needs_previews
def test_an_apply_that_fails_after_the_promotion_records_what_prod_shows(lab: Lab) -> None:
    """The next attempt finds nothing changed, so it would record no result of the audits."""
    config = lab.shop.project / "config.yaml"
    config.write_text(f"{config.read_text()}after_all: [SELECT x FROM raw.later]\n")
    soft = "audits (accepted_range_non_blocking(column := amount, max_v := 10))"
    lab.change(fresh=f"MODEL (name t.fresh, kind FULL, {soft}); SELECT 20 AS amount")
    digest = planned(lab.shop)["digest"]

    failed = launch(lab.shop, APPLY, digest=digest).failed()

    [audit] = [check for name, check in failed.checks.items() if "accepted_range" in name]
    assert not audit.passed
    assert "t/fresh" in failed.computed_outside
    lab.ask("CREATE TABLE raw.later AS SELECT 1 AS x")
    applied = launch(lab.shop, APPLY, digest=digest).succeeded()
    assert not applied.computed_outside
    assert not applied.checks


@pytest.mark.night(
    "unit/capabilities/plans/test_earlier_runs.py",
    "engine/test_preview_report.py::test_audits_of_a_preview_are_results_of_checks_after_the_apply",
)
@on_duckdb
def test_a_standalone_audit_is_a_result_of_the_attempt_that_finishes_its_plan(lab: Lab) -> None:
    """The attempt before has evaluated it, and failed in the promotion without a way back."""
    shown = (
        "MODEL (name t.fresh, kind FULL); SELECT {n} AS amount;\n"
        "ON_VIRTUAL_UPDATE_BEGIN;\nUPDATE raw.later SET x = 1;\nON_VIRTUAL_UPDATE_END;"
    )
    lab.ask("CREATE TABLE raw.later AS SELECT 1 AS x")
    lab.change(fresh=shown.format(n=20))
    lab.shop.plan(at=None)
    lab.change(fresh=shown.format(n=30))
    (lab.shop.project / "audits").mkdir(exist_ok=True)
    (lab.shop.project / "audits" / "alone.sql").write_text(
        "AUDIT (name alone, standalone true); SELECT * FROM t.fresh WHERE amount > 10"
    )
    digest = planned(lab.shop)["digest"]
    lab.ask("DROP TABLE raw.later")
    assert "could not be taken back" in failure_of(launch(lab.shop, APPLY, digest=digest).failed())
    lab.ask("CREATE TABLE raw.later AS SELECT 1 AS x")

    applied = launch(lab.shop, APPLY, digest=digest).succeeded()

    assert not applied.checks["t/fresh:alone"].passed


@on_duckdb
def test_an_audit_of_a_failed_attempt_is_a_result_after_the_next_one(lab: Lab) -> None:
    soft = "audits (accepted_range_non_blocking(column := amount, max_v := 10))"
    lab.change(
        fresh=f"MODEL (name t.fresh, kind FULL, {soft}); SELECT 20 AS amount",
        total="MODEL (name t.total, kind FULL); SELECT sum(amount * x) AS amount FROM t.fresh, raw.later",
    )
    digest = planned(lab.shop)["digest"]
    failed = launch(lab.shop, APPLY, digest=digest).failed()
    lab.ask("CREATE TABLE raw.later AS SELECT 1 AS x")

    applied = launch(lab.shop, APPLY, digest=digest).succeeded()

    [audit] = [check for name, check in applied.checks.items() if "accepted_range" in name]
    assert not audit.passed
    assert audit.metadata["sqlmesh/evaluated_in_run"].value == failed.run_id
