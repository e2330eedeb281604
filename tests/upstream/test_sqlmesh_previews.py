"""Facts about SQLMesh's plans for other environments that previews depend on (ADR-0042)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import CONFIG, needs_previews, write_project
from sqlmesh import Context
from sqlmesh.core.console import NoopConsole, set_console
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import SnapshotId, earliest_start_date
from sqlmesh.core.state_sync.common import ExpiredBatchRange
from sqlmesh.utils.errors import NoChangesPlanError

pytestmark = needs_previews

DAILY = """
MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day{forward_only}));
SELECT @start_ds::DATE AS day, {x} AS x
"""
TOTAL = "MODEL (name t.total, kind FULL); SELECT count(*) + {x} AS days FROM t.daily"
DAILY_FQN, TOTAL_FQN = '"warehouse"."t"."daily"', '"warehouse"."t"."total"'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose models are promoted in prod, up to three days ago."""
    files = {"models/daily.sql": DAILY.format(x=1, forward_only=""), "models/total.sql": TOTAL.format(x=0)}
    # SQLMesh uses the adapter of the same path again, so that of another test for a relative path.
    config = CONFIG.replace("warehouse.duckdb", str(tmp_path / "warehouse.duckdb"))
    project = write_project(tmp_path / "shop", files, config)
    monkeypatch.chdir(project)
    context = opened(project)
    context.plan("prod", execution_time="3 days ago", auto_apply=True, no_prompts=True)
    context.close()
    return project


def opened(project: Path) -> Context:
    set_console(NoopConsole())
    return Context(paths=[str(project)])


def write(project: Path, **models: str) -> None:
    for name, text in models.items():
        (project / "models" / f"{name}.sql").write_text(text)


def built(context: Context, environment: str = "pr_1", **options: Any) -> Plan:
    return context.plan_builder(environment, skip_tests=True, **options).build()


def rows(project: Path) -> int:
    context = opened(project)
    (count,) = context.engine_adapter.fetchone("SELECT count(*) FROM t.daily") or (0,)
    context.close()
    return int(count)


@pytest.mark.parametrize("option", ["end", "execution_time", "run"])
def test_some_options_let_a_plan_for_another_environment_write_to_tables_of_prod(project: Path, option: str) -> None:
    """`worker/plan/preview.py` uses none of them, and narrows the plan."""
    before = rows(project)
    write(project, total=TOTAL.format(x=1))
    value: Any = True if option == "run" else "today"
    context = opened(project)
    context.apply(built(context, **{option: value}))
    context.close()
    assert rows(project) > before


def test_a_narrowed_plan_writes_to_no_table_of_prod(project: Path) -> None:
    before = rows(project)
    write(project, total=TOTAL.format(x=1))
    context = opened(project)
    plan = built(context, end="today")
    assert DAILY_FQN in {snapshot.name for snapshot in plan.context_diff.snapshots.values()}
    assert plan.is_selected_for_backfill(DAILY_FQN)
    context.apply(plan.copy(update={"models_to_backfill": {TOTAL_FQN}}))
    context.close()
    assert rows(project) == before


def test_one_forward_only_change_limits_all_models_unless_the_plan_has_a_start(project: Path) -> None:
    """`worker/plan/preview.py` then passes the earliest start of all models."""
    write(project, daily=DAILY.format(x=1, forward_only=", forward_only true"))
    context = opened(project)
    context.plan("prod", auto_apply=True, no_prompts=True)
    context.close()
    write(
        project,
        daily=DAILY.format(x=2, forward_only=", forward_only true"),
        other="MODEL (name t.other, kind INCREMENTAL_BY_TIME_RANGE (time_column day)); SELECT @start_ds::DATE AS day",
    )
    context = opened(project)
    other = '"warehouse"."t"."other"'

    def intervals(plan: Plan) -> int:
        return sum(len(missing.intervals) for missing in plan.missing_intervals if missing.snapshot_id.name == other)

    limited = built(context, enable_preview=True)
    start = earliest_start_date(limited.context_diff.snapshots.values())
    options: dict[str, Any] = {"preview_start": "1 day ago", "preview_min_intervals": 1, "enable_preview": True}
    whole = built(context, start=start, **options)
    context.close()
    assert (intervals(limited), intervals(whole)) == (1, 3)
    assert whole.deployability_index.is_deployable(whole.context_diff.snapshots_by_name[other])


def test_a_new_environment_without_changes_is_an_error(project: Path) -> None:
    context = opened(project)
    with pytest.raises(NoChangesPlanError):
        built(context)
    context.close()


def test_a_deleted_environment_leaves_its_versions_and_tables_until_they_expire(project: Path) -> None:
    """So `worker/plan/close.py` deletes them. `ignore_ttl` alone would delete those of everybody."""
    write(project, total=TOTAL.format(x=1))
    context = opened(project)
    context.apply(built(context))
    environment = context.state_reader.get_environment("pr_1")
    assert environment is not None
    own = {info.snapshot_id for info in environment.snapshots if info.name == TOTAL_FQN}
    context.invalidate_environment("pr_1", sync=True)
    write(project, total=TOTAL.format(x=2))
    context.load()
    context.apply(built(context, "pr_2"))
    context.invalidate_environment("pr_2", sync=True)

    batch = context.state_sync.get_expired_snapshots(ignore_ttl=True, batch_range=ExpiredBatchRange.all_batch_range())

    assert batch is not None
    unused: set[SnapshotId] = set(batch.expired_snapshot_ids)
    assert own < unused, "the version of pr_2 is unused too"
    assert context.state_reader.get_snapshots(own).keys() == own
    context.close()


def test_deleting_versions_leaves_their_intervals(project: Path) -> None:
    """`worker/sqlmesh_internals.py` deletes those."""
    write(project, daily=DAILY.format(x=5, forward_only=""))
    context = opened(project)
    context.apply(built(context))
    environment = context.state_reader.get_environment("pr_1")
    assert environment is not None
    own = {info.snapshot_id for info in environment.snapshots if info.name == DAILY_FQN}
    count = "SELECT count(*) FROM sqlmesh._intervals"
    before = context.engine_adapter.fetchone(count)
    context.state_sync.delete_snapshots(own)
    assert context.engine_adapter.fetchone(count) == before
    context.close()


def test_the_janitor_drops_tables_before_it_deletes_their_intervals(project: Path) -> None:
    """`worker/sqlmesh_internals.py` replaces `SnapshotEvaluator.cleanup`, so that an interruption loses no rows."""
    write(project, daily=DAILY.format(x=5, forward_only=""))
    context = opened(project)
    context.apply(built(context))
    context.invalidate_environment("pr_1", sync=True)
    count = "SELECT count(*) FROM sqlmesh._intervals"
    before = context.engine_adapter.fetchone(count)
    during: list[Any] = []
    cleanup = context.snapshot_evaluator.cleanup

    def watched(target_snapshots: Any, **options: Any) -> None:
        assert any(task.snapshot.name == DAILY_FQN for task in target_snapshots)
        during.append(context.engine_adapter.fetchone(count))
        cleanup(target_snapshots, **options)

    context.snapshot_evaluator.cleanup = watched
    context.run_janitor(ignore_ttl=True)

    assert during == [before]
    assert context.engine_adapter.fetchone(count) != before
    context.close()


def test_a_plan_promotes_an_empty_table_if_the_table_is_gone_and_its_intervals_are_not(project: Path) -> None:
    """`worker/plan/missing_tables.py` removes such intervals."""
    write(project, daily=DAILY.format(x=5, forward_only=""))
    context = opened(project)
    context.apply(built(context))
    environment = context.state_reader.get_environment("pr_1")
    assert environment is not None
    [table] = [info.table_name() for info in environment.snapshots if info.name == DAILY_FQN]
    context.engine_adapter.drop_table(table)
    context.apply(built(context, "prod"))
    context.close()
    assert rows(project) == 0


def test_an_environment_remembers_the_versions_before_those_of_an_unfinished_plan(project: Path) -> None:
    """`worker/plan/preview.py` lets it remember the versions of the commit before, which an interruption leaves."""
    write(project, total=TOTAL.format(x=1))
    context = opened(project)
    plan = built(context)
    remembered = [info for info in plan.environment.snapshots if info.name == TOTAL_FQN]
    update = {"is_unfinalized_environment": True, "previous_finalized_snapshots": remembered}
    plan = built(context)
    context.apply(plan.copy(update={"context_diff": plan.context_diff.copy(update=update)}))

    environment = context.state_reader.get_environment("pr_1")

    assert environment is not None
    assert environment.finalized_ts is not None
    assert environment.previous_finalized_snapshots == remembered
    context.close()


def test_a_version_has_the_time_at_which_an_environment_began_or_ceased_to_show_it(project: Path) -> None:
    """`worker/plan/close.py` keeps a version that prod has shown since the preview was made."""

    def altered_at(context: Context) -> int:
        [snapshot] = context.state_sync.state_sync.get_snapshots(own).values()
        return int(snapshot.updated_ts)

    write(project, total=TOTAL.format(x=1))
    context = opened(project)
    context.apply(built(context))
    environment = context.state_reader.get_environment("pr_1")
    assert environment is not None
    assert environment.finalized_ts is not None
    own = [info.snapshot_id for info in environment.promoted_snapshots]
    assert altered_at(context) <= environment.finalized_ts
    context.apply(built(context, "prod"))
    promoted_at = altered_at(context)
    assert promoted_at > environment.finalized_ts

    write(project, total=TOTAL.format(x=0))
    context.load()
    context.apply(built(context, "prod"))

    assert altered_at(context) > promoted_at
    context.close()
