"""Which earlier runs an apply learns from: those of its own SQLMesh state, if one Dagster instance has several."""

from collections.abc import Iterator
from dataclasses import replace

import dagster as dg
import pytest
from unit.capabilities.plans.plans import ORDERS, with_facts

from dg_sqlmesh_component.capabilities.plans.earlier_runs import DIGEST_TAG, earlier_attempts, keep_audits, kept_audits
from dg_sqlmesh_component.history.active_runs import APPLIES_TAG, CHANGES_TAG, mark_as_computing
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.report.outcomes import AuditResult, NodeOutcome, Outcome

DATA = msg.AuditedData("1", "a")
AUDIT = AuditResult("not_null", 0, "0", blocking=True, failing_rows=0, query=None, intervals=(), audited_data=DATA)
AUDITED = NodeOutcome(ORDERS.fqn, Outcome.EXECUTED, None, audits=(AUDIT,), computed_until=1)
ROUNDS = [AUDITED, replace(AUDITED, computed_until=2)]


@dg.op
def preview(context: dg.OpExecutionContext) -> None:
    keep_audits(context, ROUNDS)


@dg.job
def shop_preview() -> None:
    preview()


@dg.op
def apply(context: dg.OpExecutionContext) -> None:
    mark_as_computing(context.instance, context.run_id, "shop")
    if "fails" in context.run.tags:
        raise dg.Failure


@dg.job
def shop_apply() -> None:
    apply()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def run(job: dg.JobDefinition, instance: dg.DagsterInstance, **tags: str) -> str:
    return job.execute_in_process(instance=instance, tags=tags, raise_on_error=False).run_id


def test_audits_of_a_preview_of_another_state_are_not_found(instance: dg.DagsterInstance) -> None:
    mine = run(shop_preview, instance, **{CHANGES_TAG: "shop_prod"})
    run(shop_preview, instance, **{CHANGES_TAG: "shop_staging"})
    found = kept_audits(instance, "shop_prod", [with_facts(ORDERS, audited=DATA)])
    assert {run_id for run_id, _ in found} == {mine}


def test_audits_of_all_previews_of_a_table_are_found_in_the_order_of_time(instance: dg.DagsterInstance) -> None:
    first, second = (run(shop_preview, instance, **{CHANGES_TAG: "shop_prod"}) for _ in range(2))
    found = kept_audits(instance, "shop_prod", [with_facts(ORDERS, audited=DATA)])
    assert [(run_id, outcome.evaluated_at) for run_id, outcome in found] == [
        (first, 1),
        (first, 2),
        (second, 1),
        (second, 2),
    ]


def test_a_success_in_another_state_does_not_hide_a_failed_attempt(instance: dg.DagsterInstance) -> None:
    failed = run(shop_apply, instance, fails="yes", **{DIGEST_TAG: "x", APPLIES_TAG: "shop_prod"})
    run(shop_apply, instance, **{DIGEST_TAG: "x", APPLIES_TAG: "shop_staging"})
    attempts = earlier_attempts(instance, "shop_apply", "shop_prod", "x", run_id="this run")
    assert [*attempts] == [failed]
