"""Backfills of a job in tests: Dagster's backfill daemon requests the runs, and this process executes them."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import dagster as dg
from dagster._core.execution.api import execute_run
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._utils.hosted_user_process import recon_job_from_origin
from harness import RunRecord, Shop

IN_PROCESS = "import dagster as dg\n\ndefs = dg.Definitions(executor=dg.in_process_executor)\n"
PARTITION, BACKFILL = "dagster/partition", "dagster/backfill"


@dataclass
class Backfills:
    """A job's backfills in a workspace."""

    shop: Shop
    job: str
    workspace: WorkspaceProcessContext

    def launch(self, partitions: Sequence[str], *, from_failure: bool = False) -> str:
        """Request a backfill, as the job's page does. Return its id."""
        [location] = self.workspace.create_request_context().code_locations
        [repository] = location.get_repositories().values()
        backfill = PartitionBackfill(
            backfill_id=uuid4().hex[:8],
            status=BulkActionStatus.REQUESTED,
            from_failure=from_failure,
            tags={},
            backfill_timestamp=time.time(),
            partition_set_origin=repository.get_partition_set(f"{self.job}_partition_set").get_remote_origin(),
            partition_names=list(partitions),
        )
        self.shop.instance.add_backfill(backfill)
        self.tick()
        return backfill.backfill_id

    def tick(self) -> None:
        """Let the daemon look at the backfills once."""
        logger = logging.getLogger("backfills")
        errors = [error for error in execute_backfill_iteration(self.workspace, logger) if error is not None]
        assert not errors, errors

    def cancel(self, backfill: str) -> None:
        """Cancel a backfill, as its page does."""
        found = self.shop.instance.get_backfill(backfill)
        assert found is not None
        canceling = found.with_status(BulkActionStatus.CANCELING)  # type: ignore[no-untyped-call]
        self.shop.instance.update_backfill(canceling)
        self.tick()

    def queued(self) -> list[dg.DagsterRun]:
        """The runs that wait in the queue, in the order in which they were requested."""
        queued = self.shop.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]), ascending=True)
        return list(queued)

    def execute(self, runs: Sequence[dg.DagsterRun]) -> None:
        """Execute queued runs, one after the other."""
        instance = self.shop.instance
        for run in runs:
            starting = dg.DagsterEvent(dg.DagsterEventType.PIPELINE_STARTING.value, run.job_name)
            instance.report_dagster_event(starting, run.run_id)  # as the daemon of the queue does
            started = instance.get_run_by_id(run.run_id)
            assert started is not None
            assert started.job_code_origin is not None
            execute_run(recon_job_from_origin(started.job_code_origin), started, instance)

    def status_of(self, backfill: str) -> str:
        """The status of a backfill after the daemon has looked at it."""
        self.tick()
        found = self.shop.instance.get_backfill(backfill)
        assert found is not None
        return found.status.value

    def runs_of(self, backfill: str) -> dict[str, RunRecord]:
        """The runs of a backfill by partition."""
        runs = self.shop.instance.get_runs(dg.RunsFilter(tags={BACKFILL: backfill}), ascending=True)
        return {run.tags[PARTITION]: self.shop.run_record(run.run_id) for run in runs}

    def bars(self, backfill: str) -> dict[str, str]:
        """The status of each partition's run."""
        return {partition: run.status.value for partition, run in self.runs_of(backfill).items()}


@contextmanager
def backfills(shop: Shop, job: str) -> Iterator[Backfills]:
    """Load the code location of a shop, as the daemon does."""
    shop.add_module("executor", IN_PROCESS)
    shop.refresh()
    origin = LoadableTargetOrigin(executable_path=sys.executable, module_name=f"{shop.root.name}.definitions")
    target = InProcessWorkspaceLoadTarget(InProcessCodeLocationOrigin(origin, location_name=shop.root.name))
    with create_test_daemon_workspace_context(target, shop.instance) as workspace:
        yield Backfills(shop, job, workspace)
    (shop.root / shop.root.name / "defs" / "executor.py").unlink()
    shop.refresh()
