"""Facts about SQLMesh's plans that the plan gate depends on (ADR-0040)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import CONFIG, write_project
from sqlmesh import Context
from sqlmesh.core.console import NoopConsole, set_console
from sqlmesh.core.plan import Plan, stages
from sqlmesh.core.snapshot import Snapshot
from sqlmesh.utils.errors import CircuitBreakerError, ConflictingPlanError, PlanError

BASE = "MODEL (name t.base, kind VIEW); SELECT 1 AS id, 2.5::{type} AS amount"
DAILY = """
MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true));
SELECT @start_ds::DATE AS day, {columns} FROM t.base
"""
TOTAL = "MODEL (name t.total, kind FULL); SELECT count(*) AS days FROM t.daily"
DAILY_FQN, TOTAL_FQN = '"warehouse"."t"."daily"', '"warehouse"."t"."total"'


class Stages(NoopConsole):
    """Keeps the models that each stage of a plan computes."""

    def __init__(self) -> None:
        super().__init__()
        self.computed: list[set[str]] = []

    def start_evaluation_progress(self, batched_intervals: dict[Snapshot, Any], *_: Any, **__: Any) -> None:
        self.computed.append({snapshot.name for snapshot in batched_intervals})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose models are promoted in prod."""
    files = {
        "models/base.sql": BASE.format(type="DOUBLE"),
        "models/daily.sql": DAILY.format(columns="id, amount"),
        "models/total.sql": TOTAL,
    }
    project = write_project(tmp_path / "shop", files, CONFIG)
    monkeypatch.chdir(project)
    context = opened(project)
    context.plan("prod", auto_apply=True, no_prompts=True)
    context.close()
    return project


def opened(project: Path) -> Context:
    set_console(Stages())
    context = Context(paths=[str(project)])
    context.console = Stages()
    return context


def write(project: Path, name: str, text: str) -> None:
    (project / "models" / f"{name}.sql").write_text(text)


def built(context: Context, **options: Any) -> Plan:
    return context.plan_builder("prod", skip_tests=True, **options).build()


def test_a_direct_destructive_change_is_refused_without_a_name_unless_all_are_allowed(project: Path) -> None:
    """`worker/plan/context.py` builds with all of them allowed."""
    write(project, "daily", DAILY.format(columns="id"))
    context = opened(project)
    with pytest.raises(PlanError) as refusal:
        built(context)
    assert "daily" not in str(refusal.value)
    plan = built(context, allow_destructive_models=["*"])
    assert DAILY_FQN in plan.allow_destructive_models
    context.close()


def test_an_indirect_destructive_change_is_built_and_leaves_prod_unfinished(project: Path) -> None:
    """SQLMesh#5719. `worker/plan/migrations.py` compares the columns of indirectly changed models too."""
    write(project, "base", BASE.format(type="INT"))
    context = opened(project)
    plan = built(context)
    with pytest.raises(PlanError):
        context.apply(plan)
    environment = context.state_reader.get_environment("prod")
    assert environment is not None
    assert (environment.plan_id, environment.finalized_ts) == (plan.plan_id, None)
    assert not built(context).context_diff.has_snapshot_changes, "both show the same versions"
    assert built(context).context_diff.is_unfinalized_environment
    context.close()


def test_each_attempt_is_the_previous_plan_of_the_next_one_and_the_finished_versions_stay(project: Path) -> None:
    """`worker/plan/plan_parts.py` cannot compare the previous plan of an unfinished one."""
    write(project, "base", BASE.format(type="INT"))
    context = opened(project)
    finished = context.state_reader.get_environment("prod")
    assert finished is not None
    previous = finished.plan_id
    for _ in range(3):
        plan = built(context)
        with pytest.raises(PlanError):
            context.apply(plan)
        environment = context.state_reader.get_environment("prod")
        assert environment is not None
        assert (environment.plan_id, environment.previous_plan_id) == (plan.plan_id, previous)
        assert set(environment.previous_finalized_snapshots or ()) == set(finished.snapshots)
        assert built(context).context_diff.previous_finalized_snapshots == environment.previous_finalized_snapshots
        previous = plan.plan_id
    context.close()


def test_a_copy_of_a_plan_has_another_allow_list(project: Path) -> None:
    """`worker/plan/serve.py` applies with the approved models only."""
    context = opened(project)
    plan = built(context, allow_destructive_models=["*"])
    approved = plan.copy(update={"allow_destructive_models": {DAILY_FQN}})
    assert approved.to_evaluatable().allow_destructive_models == {DAILY_FQN}
    assert approved.plan_id == plan.plan_id
    context.close()


def test_models_downstream_of_forward_only_ones_are_computed_after_the_promotion(project: Path) -> None:
    """The circuit breaker has to accept the plan's own id, and the ledger two stages."""
    write(project, "base", BASE.format(type="DOUBLE").replace("2.5", "3.5"))
    context = opened(project)
    plan = built(context)
    shown: list[str] = []

    def breaker() -> bool:
        environment = context.state_reader.get_environment("prod")
        shown.append(environment.plan_id if environment else "")
        return False

    context.apply(plan, circuit_breaker=breaker)
    console = context.console
    assert isinstance(console, Stages)
    assert [TOTAL_FQN in stage for stage in console.computed] == [False, True]
    assert set(shown) == {plan.previous_plan_id, plan.plan_id}
    context.close()


def test_only_the_stage_of_the_promotion_tells_what_is_computed_before_it(project: Path) -> None:
    """Both stages of a backfill say that they are before the promotion."""
    write(project, "base", BASE.format(type="DOUBLE").replace("2.5", "3.5"))
    context = opened(project)
    plan = built(context).to_evaluatable()
    built_stages = stages.build_plan_stages(plan, context.state_reader, context.default_catalog)
    parts = (stages.BackfillStage, stages.EnvironmentRecordUpdateStage)
    before, promotion, after = (stage for stage in built_stages if isinstance(stage, parts))
    assert isinstance(before, stages.BackfillStage)
    assert isinstance(promotion, stages.EnvironmentRecordUpdateStage)
    assert isinstance(after, stages.BackfillStage)
    assert before.before_promote
    assert after.before_promote
    assert {node.name for node in before.snapshot_to_intervals} <= promotion.no_gaps_snapshot_names
    assert promotion.no_gaps_snapshot_names.isdisjoint(node.name for node in after.snapshot_to_intervals)
    context.close()


def test_the_circuit_breaker_stops_a_plan_before_it_is_promoted(project: Path) -> None:
    """`<op>_apply` stops if another plan lands while it computes."""
    write(project, "total", TOTAL.replace("count(*)", "count(*) + 1"))
    context = opened(project)
    plan = built(context)
    with pytest.raises(CircuitBreakerError):
        context.apply(plan, circuit_breaker=lambda: True)
    environment = context.state_reader.get_environment("prod")
    assert environment is not None
    assert environment.plan_id == plan.previous_plan_id
    context.close()


def test_a_plan_built_before_another_one_landed_raises_an_error_of_its_own(project: Path) -> None:
    write(project, "total", TOTAL.replace("count(*)", "count(*) + 1"))
    context = opened(project)
    plan, other = built(context), built(context)
    context.apply(other)
    with pytest.raises(ConflictingPlanError):
        context.apply(plan)
    context.close()


def test_equal_plans_have_different_ids_and_versions_keep_the_hashes_of_older_definitions(project: Path) -> None:
    """`worker/plan/plan_parts.py` hashes no id; `stale_branch` compares with `previous_versions`."""
    old = (project / "models" / "total.sql").read_text()
    write(project, "total", TOTAL.replace("count(*)", "count(*) + 1"))
    context = opened(project)
    assert built(context).plan_id != built(context).plan_id
    context.apply(built(context))
    context.close()
    write(project, "total", old)
    context = opened(project)
    new, promoted = built(context).context_diff.modified_snapshots[TOTAL_FQN]
    assert new.fingerprint.data_hash in {version.fingerprint.data_hash for version in promoted.previous_versions}
    context.close()


def test_a_selection_of_sqlmesh_itself_promotes_a_model_downstream_without_rows(project: Path) -> None:
    """So `worker/plan/selection.py` builds a plan of other files instead."""
    write(project, "base", BASE.format(type="INT"))
    context = opened(project)
    plan = built(context, select_models=["t.base"])
    assert plan.context_diff.indirectly_modified(TOTAL_FQN)
    assert TOTAL_FQN not in {of_model.snapshot_id.name for of_model in plan.missing_intervals}
    assert TOTAL_FQN in {of_model.snapshot_id.name for of_model in built(context).missing_intervals}
    context.close()
