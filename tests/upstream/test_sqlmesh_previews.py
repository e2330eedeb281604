"""Facts about SQLMesh's plans for other environments that previews depend on (ADR-0042)."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from harness import needs_previews
from sqlmesh import Context
from sqlmesh.core.engine_adapter import DuckDBEngineAdapter
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import SnapshotId, earliest_start_date
from sqlmesh.core.state_sync.common import ExpiredBatchRange
from sqlmesh.core.table_diff import TableDiff
from sqlmesh.utils.date import to_timestamp
from sqlmesh.utils.errors import NoChangesPlanError
from upstream.promoted import Project, built, shown

# No code of the package runs here, and a commit changes no version of SQLMesh.
pytestmark = [
    needs_previews,
    pytest.mark.night(
        "engine/test_previews.py", "engine/test_preview_diffs.py", "engine/test_interrupted_clean_ups.py"
    ),
]

DAILY = """
MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day{forward_only}));
SELECT @start_ds::DATE AS day, {x} AS x
"""
TOTAL = "MODEL (name t.total, kind FULL); SELECT count(*) + {x} AS days FROM t.daily"
DAILY_FQN, TOTAL_FQN = '"warehouse"."t"."daily"', '"warehouse"."t"."total"'


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A project whose models are promoted in prod, up to three days ago."""
    files = {"models/daily.sql": DAILY.format(x=1, forward_only=""), "models/total.sql": TOTAL.format(x=0)}
    with closing(Project(tmp_path / "shop", files, execution_time="3 days ago")) as project:
        yield project


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("12345678901234567::DECIMAL(20, 0)", "12345678901234568::DECIMAL(20, 0)"),
        ("12345678901234567::DECIMAL(20, 0)", "1.00::DECIMAL(18, 2)"),
        ("1::INT", "'b'::TEXT"),
    ],
)
def test_table_diff_counts_rows_as_equal_whose_long_decimals_or_types_differ(old: str, new: str) -> None:
    """So previews have queries of their own (ADR-0069)."""
    adapter = DuckDBEngineAdapter(duckdb.connect)
    for table, value in {"old": old, "new": new}.items():
        adapter.execute(f"CREATE TABLE {table} AS SELECT 1 AS id, {value} AS x")
    assert TableDiff(adapter, "old", "new", on=["id"]).row_diff().full_match_count == 1
    adapter.close()


def previewed(project: Project, **models: str) -> Context:
    """Apply a plan of changed files for environment `pr_1`. Return the context, which is open."""
    project.write(**models)
    context = project.load()
    context.apply(built(context, "pr_1"))
    return context


def rows(project: Project) -> int:
    context = project.load()
    (count,) = context.engine_adapter.fetchone("SELECT count(*) FROM t.daily") or (0,)
    context.close()
    return int(count)


@pytest.mark.parametrize(
    ("options", "is_narrowed"),
    [({"end": "today"}, False), ({"execution_time": "today"}, False), ({"run": True}, False), ({"end": "today"}, True)],
    ids=["end", "execution time", "run", "end of a narrowed plan"],
)
def test_some_options_let_a_plan_for_another_environment_write_to_tables_of_prod_unless_it_is_narrowed(
    project: Project, options: dict[str, Any], is_narrowed: bool
) -> None:
    """`serve_preview.py` uses none of them, and narrows the plan."""
    before = rows(project)
    project.write(total=TOTAL.format(x=1))
    context = project.load()
    plan = built(context, "pr_1", **options)
    context.apply(plan.copy(update={"models_to_backfill": {TOTAL_FQN}}) if is_narrowed else plan)
    context.close()
    assert (rows(project) == before) is is_narrowed


def test_one_forward_only_change_limits_all_models_unless_the_plan_has_a_start(project: Project) -> None:
    """`serve_preview.py` then passes the earliest start of all models."""
    project.write(daily=DAILY.format(x=1, forward_only=", forward_only true"))
    context = project.load()
    context.plan("prod", auto_apply=True, no_prompts=True)
    context.close()
    project.write(
        daily=DAILY.format(x=2, forward_only=", forward_only true"),
        other="MODEL (name t.other, kind INCREMENTAL_BY_TIME_RANGE (time_column day)); SELECT @start_ds::DATE AS day",
    )
    context = project.load()
    other = '"warehouse"."t"."other"'

    def intervals(plan: Plan) -> int:
        return sum(len(missing.intervals) for missing in plan.missing_intervals if missing.snapshot_id.name == other)

    limited = built(context, "pr_1", enable_preview=True)
    start = earliest_start_date(limited.context_diff.snapshots.values())
    options: dict[str, Any] = {"preview_start": "1 day ago", "preview_min_intervals": 1, "enable_preview": True}
    whole = built(context, "pr_1", start=start, **options)
    context.close()
    assert (intervals(limited), intervals(whole)) == (1, 3)
    assert whole.deployability_index.is_deployable(whole.context_diff.snapshots_by_name[other])


def test_a_plan_starts_at_its_first_missing_interval_and_its_environment_at_the_first_of_all(project: Project) -> None:
    """So `BesideRuns` starts where the environment does: a restatement may have taken older intervals since."""
    kind = "kind INCREMENTAL_BY_TIME_RANGE (time_column day)"
    project.write(other=f"MODEL (name t.other, {kind}, start '1 day ago'); SELECT @start_ds::DATE AS day")
    context = project.load()
    plan = built(context, "pr_1")
    first = min(node.intervals[0][0] for node in plan.snapshots.values() if node.intervals)
    context.close()
    assert to_timestamp(plan.environment.start_at) == first < to_timestamp(plan.start)


def test_a_new_environment_without_changes_is_an_error(project: Project) -> None:
    context = project.load()
    with pytest.raises(NoChangesPlanError):
        built(context, "pr_1")


def test_a_deleted_environment_leaves_its_versions_and_tables_until_they_expire(project: Project) -> None:
    """So `close.py` deletes them. `ignore_ttl` alone would delete those of everybody."""
    context = previewed(project, total=TOTAL.format(x=1))
    environment = shown(context, "pr_1")
    own = {info.snapshot_id for info in environment.snapshots if info.name == TOTAL_FQN}
    context.invalidate_environment("pr_1", sync=True)
    project.write(total=TOTAL.format(x=2))
    context.load()
    context.apply(built(context, "pr_2"))
    context.invalidate_environment("pr_2", sync=True)

    batch = context.state_sync.get_expired_snapshots(ignore_ttl=True, batch_range=ExpiredBatchRange.all_batch_range())

    assert batch is not None
    unused: set[SnapshotId] = set(batch.expired_snapshot_ids)
    assert own < unused, "the version of pr_2 is unused too"
    assert context.state_reader.get_snapshots(own).keys() == own


def test_deleting_versions_leaves_their_intervals(project: Project) -> None:
    """`worker/sqlmesh_internals.py` deletes those."""
    context = previewed(project, daily=DAILY.format(x=5, forward_only=""))
    environment = shown(context, "pr_1")
    own = {info.snapshot_id for info in environment.snapshots if info.name == DAILY_FQN}
    count = "SELECT count(*) FROM sqlmesh._intervals"
    before = context.engine_adapter.fetchone(count)
    context.state_sync.delete_snapshots(own)
    assert context.engine_adapter.fetchone(count) == before


def test_the_janitor_drops_tables_before_it_deletes_their_intervals(project: Project) -> None:
    """`worker/sqlmesh_internals.py` replaces `SnapshotEvaluator.cleanup`, so that an interruption loses no rows."""
    context = previewed(project, daily=DAILY.format(x=5, forward_only=""))
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


def test_a_plan_promotes_an_empty_table_if_the_table_is_gone_and_its_intervals_are_not(project: Project) -> None:
    """`missing_tables.py` removes such intervals."""
    context = previewed(project, daily=DAILY.format(x=5, forward_only=""))
    environment = shown(context, "pr_1")
    [table] = [info.table_name() for info in environment.snapshots if info.name == DAILY_FQN]
    context.engine_adapter.drop_table(table)
    context.apply(built(context, "prod"))
    context.close()
    assert rows(project) == 0


def test_an_environment_remembers_the_versions_before_those_of_an_unfinished_plan(project: Project) -> None:
    """`serve_preview.py` lets it remember versions of the commit before, which an interruption leaves."""
    project.write(total=TOTAL.format(x=1))
    context = project.load()
    plan = built(context, "pr_1")
    remembered = [info for info in plan.environment.snapshots if info.name == TOTAL_FQN]
    update = {"is_unfinalized_environment": True, "previous_finalized_snapshots": remembered}
    plan = built(context, "pr_1")
    context.apply(plan.copy(update={"context_diff": plan.context_diff.copy(update=update)}))

    environment = shown(context, "pr_1")
    assert environment.finalized_ts is not None
    assert environment.previous_finalized_snapshots == remembered


def test_a_version_has_the_time_at_which_an_environment_began_or_ceased_to_show_it(project: Project) -> None:
    """`close.py` keeps a version that prod has shown since the preview was made."""

    def altered_at(context: Context) -> int:
        [snapshot] = context.state_sync.state_sync.get_snapshots(own).values()
        return int(snapshot.updated_ts)

    context = previewed(project, total=TOTAL.format(x=1))
    environment = shown(context, "pr_1")
    assert environment.finalized_ts is not None
    own = [info.snapshot_id for info in environment.promoted_snapshots]
    assert altered_at(context) <= environment.finalized_ts
    context.apply(built(context, "prod"))
    promoted_at = altered_at(context)
    assert promoted_at > environment.finalized_ts

    project.write(total=TOTAL.format(x=0))
    context.load()
    context.apply(built(context, "prod"))

    assert altered_at(context) > promoted_at
