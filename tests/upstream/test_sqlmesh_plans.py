"""Facts about SQLMesh's plans that the plan gate depends on (ADR-0040)."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlmesh.core.console import NoopConsole
from sqlmesh.core.plan import stages
from sqlmesh.core.snapshot import Snapshot
from sqlmesh.utils.errors import CircuitBreakerError, ConflictingPlanError, PlanError
from upstream.promoted import Project, built, shown

# No code of the package runs here, and a commit changes no version of SQLMesh.
pytestmark = pytest.mark.night(
    "engine/test_plan_gate.py", "engine/test_unfinished_plans.py", "upstream/test_sqlmesh_internals.py"
)

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
def project(tmp_path: Path) -> Iterator[Project]:
    files = {
        "models/base.sql": BASE.format(type="DOUBLE"),
        "models/daily.sql": DAILY.format(columns="id, amount"),
        "models/total.sql": TOTAL,
    }
    with closing(Project(tmp_path / "shop", files, Stages)) as project:
        yield project


def test_a_direct_destructive_change_is_refused_without_a_name_unless_all_are_allowed(project: Project) -> None:
    """`context.py` builds with all of them allowed, and applies a copy with the approved models only."""
    project.write(daily=DAILY.format(columns="id"))
    context = project.load()
    with pytest.raises(PlanError) as refusal:
        built(context)
    assert "daily" not in str(refusal.value)
    plan = built(context, allow_destructive_models=["*"])
    assert DAILY_FQN in plan.allow_destructive_models
    approved = plan.copy(update={"allow_destructive_models": {TOTAL_FQN}})
    assert approved.to_evaluatable().allow_destructive_models == {TOTAL_FQN}
    assert approved.plan_id == plan.plan_id


def test_an_indirect_destructive_change_is_built_and_each_attempt_leaves_prod_unfinished(project: Project) -> None:
    """SQLMesh#5719. `migrations.py` compares the columns of indirectly changed models too.

    Each attempt is the previous plan of the next one, and the finished versions stay: `plan_parts.py`
    cannot compare the previous plan of an unfinished one.
    """
    project.write(base=BASE.format(type="INT"))
    context = project.load()
    finished = shown(context)
    previous = finished.plan_id
    for _ in range(3):
        plan = built(context)
        with pytest.raises(PlanError):
            context.apply(plan)
        environment = shown(context)
        of_plan = (environment.plan_id, environment.previous_plan_id, environment.finalized_ts)
        assert of_plan == (plan.plan_id, previous, None)
        assert set(environment.previous_finalized_snapshots or ()) == set(finished.snapshots)
        diff = built(context).context_diff
        assert not diff.has_snapshot_changes, "both show the same versions"
        assert diff.is_unfinalized_environment
        assert diff.previous_finalized_snapshots == environment.previous_finalized_snapshots
        previous = plan.plan_id


def test_models_downstream_of_forward_only_ones_are_computed_after_the_promotion(project: Project) -> None:
    """The circuit breaker has to accept the plan's own id, and the ledger two stages."""
    project.write(base=BASE.format(type="DOUBLE").replace("2.5", "3.5"))
    context = project.load()
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


def test_only_the_stage_of_the_promotion_tells_what_is_computed_before_it(project: Project) -> None:
    """Both stages of a backfill say that they are before the promotion."""
    project.write(base=BASE.format(type="DOUBLE").replace("2.5", "3.5"))
    context = project.load()
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


def test_the_circuit_breaker_stops_a_plan_before_it_is_promoted(project: Project) -> None:
    """`<op>_apply` stops if another plan lands while it computes."""
    project.write(total=TOTAL.replace("count(*)", "count(*) + 1"))
    context = project.load()
    plan = built(context)
    with pytest.raises(CircuitBreakerError):
        context.apply(plan, circuit_breaker=lambda: True)
    environment = shown(context)
    assert environment.plan_id == plan.previous_plan_id


def test_a_plan_built_before_another_one_landed_raises_an_error_of_its_own(project: Project) -> None:
    project.write(total=TOTAL.replace("count(*)", "count(*) + 1"))
    context = project.load()
    plan, other = built(context), built(context)
    context.apply(other)
    with pytest.raises(ConflictingPlanError):
        context.apply(plan)


def test_equal_plans_have_different_ids_and_versions_keep_the_hashes_of_older_definitions(project: Project) -> None:
    """`plan_parts.py` hashes no id; `stale_branch` compares with `previous_versions`."""
    old = (project.folder / "models" / "total.sql").read_text()
    project.write(total=TOTAL.replace("count(*)", "count(*) + 1"))
    context = project.load()
    assert built(context).plan_id != built(context).plan_id
    context.apply(built(context))
    context.close()
    project.write(total=old)
    context = project.load()
    new, promoted = built(context).context_diff.modified_snapshots[TOTAL_FQN]
    assert new.fingerprint.data_hash in {version.fingerprint.data_hash for version in promoted.previous_versions}


def test_a_selection_of_sqlmesh_itself_promotes_a_model_downstream_without_rows(project: Project) -> None:
    """So `selection.py` builds a plan of other files instead."""
    project.write(base=BASE.format(type="INT"))
    context = project.load()
    plan = built(context, select_models=["t.base"])
    assert plan.context_diff.indirectly_modified(TOTAL_FQN)
    assert TOTAL_FQN not in {of_model.snapshot_id.name for of_model in plan.missing_intervals}
    assert TOTAL_FQN in {of_model.snapshot_id.name for of_model in built(context).missing_intervals}
