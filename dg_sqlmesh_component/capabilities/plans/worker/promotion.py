"""How far a plan has come with the environment. If it fails there, it is taken back, or the failure says why not.

The state may be what has failed. So this process remembers it, and asks the state only if the failure came while the
environment was written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import EvaluatablePlan, Plan
from sqlmesh.core.plan.stages import (
    BackfillStage,
    EnvironmentRecordUpdateStage,
    FinalizeEnvironmentStage,
    MigrateSchemasStage,
    VirtualLayerUpdateStage,
)
from sqlmesh.core.snapshot.definition import Interval
from sqlmesh.utils.date import now_timestamp
from sqlmesh.utils.errors import CircuitBreakerError, ConflictingPlanError, PlanError

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.worker.context import PlanContext
from dg_sqlmesh_component.capabilities.plans.worker.failed_plan import FailedPlan, Left
from dg_sqlmesh_component.capabilities.plans.worker.way_back import WayBack, shown_before
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError, EvaluationError, LockLostError
from dg_sqlmesh_component.protocol.formatting import plain
from dg_sqlmesh_component.worker.environment import stored_environment
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.sqlmesh_internals import check_before_stages, finalize_with_settings, replace_visits
from dg_sqlmesh_component.worker.transient_errors import is_transient


class Reached(IntEnum):
    """What SQLMesh has done last, in the order of its stages."""

    BEFORE = 0
    WRITING = 1
    BEGUN = 2
    REPLACING = 3
    MIGRATED = 4
    FINISHED = 5


class Promotion:
    """One plan, while it is applied.

    Args:
        stored: The environment when the plan was built; None if the plan creates it.
        losses: The models whose existing tables lose columns, in words.
        interrupted: As in `PlanApproval`.
    """

    def __init__(
        self,
        plan: Plan,
        stored: Environment | None,
        context: PlanContext,
        losses: tuple[str, ...] = (),
        interrupted: Sequence[Interval] = (),
    ) -> None:
        self._plan = plan
        self._stored = stored
        self._context = context
        self._losses = losses
        self._times = [*interrupted, (now_timestamp(), sys.maxsize)]
        self._reached = Reached.BEFORE
        self._computed: set[str] = set()
        """The models, by fqn, that the plan has begun to compute after it had begun to promote."""

    def watch(self, evaluator: Any) -> None:
        """Note when SQLMesh's evaluator of plans changes the environment.

        Stop it before a stage if a lock is lost, and before the promotion also if the plan is cancelled.
        """
        write = evaluator.visit_environment_record_update_stage
        migrate = evaluator.visit_migrate_schemas_stage
        backfill = evaluator.visit_backfill_stage
        replace = evaluator.visit_virtual_layer_update_stage

        def visit_environment_record_update_stage(stage: EnvironmentRecordUpdateStage, plan: EvaluatablePlan) -> None:
            self._reached = Reached.WRITING
            kept = {} if self._stored is None else {"requirements": self._stored.requirements}
            environment = plan.environment.copy(update=kept)
            # The statements and packages of before are the only ones to go back to.
            write(stage, plan.copy(update={"environment": environment, "environment_statements": None}))
            self._reached = Reached.BEGUN

        def visit_migrate_schemas_stage(stage: MigrateSchemasStage, plan: EvaluatablePlan) -> None:
            self._reached = Reached.REPLACING
            migrate(stage, plan)
            self._reached = Reached.MIGRATED

        def visit_backfill_stage(stage: BackfillStage, plan: EvaluatablePlan) -> None:
            if self._reached is not Reached.BEFORE:
                self._computed |= {snapshot.name for snapshot in stage.snapshot_to_intervals}
            backfill(stage, plan)

        def visit_virtual_layer_update_stage(stage: VirtualLayerUpdateStage, plan: EvaluatablePlan) -> None:
            # A plan that has altered tables has come further already.
            self._reached = max(self._reached, Reached.REPLACING)
            replace(stage, plan)

        def visit_finalize_environment_stage(_: FinalizeEnvironmentStage, plan: EvaluatablePlan) -> None:
            finalize_with_settings(self._context, plan.environment, plan.environment_statements)
            self._reached = Reached.FINISHED

        replace_visits(
            evaluator,
            visit_environment_record_update_stage=visit_environment_record_update_stage,
            visit_migrate_schemas_stage=visit_migrate_schemas_stage,
            visit_backfill_stage=visit_backfill_stage,
            visit_virtual_layer_update_stage=visit_virtual_layer_update_stage,
            visit_finalize_environment_stage=visit_finalize_environment_stage,
        )
        check_before_stages(evaluator, self._check)

    def _check(self) -> None:
        tracker = self._context.tracker
        tracker.require_locks()
        if self._reached is Reached.BEFORE:  # after that, the environment is between two plans until the plan is done
            tracker.pipe.refuse_if_cancelled()

    @property
    def is_finished(self) -> bool:
        return self._reached is Reached.FINISHED

    @contextmanager
    def explained(self) -> Iterator[None]:
        """While the plan is applied, and what it has done is read.

        Raises:
            EnvironmentNotReadyError: Another plan has landed meanwhile.
            LockLostError: The plan was stopped, because a lock was lost.
            EvaluationError: The plan failed or was cancelled. Both say what the environment shows, and what to do.
        """
        tracker, environment = self._context.tracker, self._context.request.environment
        try:
            yield
        except (CircuitBreakerError, ConflictingPlanError) as error:
            raise EnvironmentNotReadyError(
                f"Another plan has changed environment {environment} since this one was built, so this one was "
                "stopped. The environment shows that other plan. Computed tables are kept. Build a new plan."
            ) from error
        except PlanError as error:
            if blocked := tracker.blocked_by(self._context.nodes):
                tracker.pipe.send(msg.NodesBlocked(blocked))
            # SQLMesh's own error has no text of its own if it has reported the failed models.
            reason = "" if tracker.failed or tracker.was_cancelled else f" {plain(error).rstrip('.')}."
            raise self._stopped or EvaluationError(self._after_failure() + reason) from error
        except EvaluationError as error:  # a lock is lost, or the plan was cancelled before a stage or while it waited
            tracker.was_cancelled = tracker.was_cancelled or tracker.lost_lock is None
            raise self._stopped or EvaluationError(self._after_failure()) from error
        except Exception as error:  # any driver's: of a view, or of a statement before or after all models
            reason = f" {describe_error(error).rstrip('.')}."
            failure = EvaluationError(self._after_failure() + reason, is_transient=is_transient(error))
            raise self._stopped or failure from error

    @property
    def _stopped(self) -> LockLostError | None:
        lost = self._context.tracker.lost_lock
        return lost and LockLostError(f"{self._after_failure()} {lost}", is_transient=True)

    def _after_failure(self) -> str:
        """What the environment shows, which values are lost, and how to finish the plan, in sentences."""
        has_begun = self._has_begun()
        is_preview = isinstance(self._context.request, msg.PreviewRequest)
        is_promoting = has_begun and not self.is_finished
        taken_back, details = self._taken_back() if is_promoting and not is_preview else (False, [])
        failed = FailedPlan(
            self._context.request.environment,
            self._left(has_begun, taken_back=taken_back),
            is_preview=is_preview,
            was_cancelled=self._context.tracker.was_cancelled,
            details=details,
            lost_values=self._losses,
            has_lost_values=False if has_begun is False or taken_back else self._reached >= Reached.MIGRATED or None,
        )
        return " ".join(failed.sentences())

    def _taken_back(self) -> tuple[bool, list[str]]:
        """Show again what the environment showed before the plan, if that is possible.

        Returns:
            Whether it does; and what stays, or why it does not, in sentences.
        """
        stored, context = self._stored, self._context
        try:
            context.tracker.require_locks()
            now = stored_environment(context.request.project, context.request.environment, context)
            is_first = stored is not None and stored.finalized_ts is not None  # else there were attempts before
            before = stored if is_first else shown_before(now)
            if before is None:
                return False, []
            way_back = WayBack(now, before, context)
            computed = self._computed if is_first else way_back.models
            if obstacles := list(way_back.obstacles(computed)):
                return False, [f"It cannot be taken back: {'; '.join(obstacles)}."]
            added = "; ".join(way_back.added_columns())
            way_back.take(self._times, has_replaced_views=self._reached >= Reached.REPLACING or not is_first)
        except LockLostError:
            return False, []
        except Exception as error:  # noqa: BLE001  # any driver's; the failure has the first one
            why = describe_error(error).rstrip(".")
            return False, [f"It could not be taken back: {why}. To try again, launch this job with `take_back: true`."]
        return True, [f"Columns left behind: {added}."] if added else []

    def _left(self, has_begun: bool | None, *, taken_back: bool) -> Left:
        if has_begun is None:
            return Left.UNKNOWN
        if has_begun:
            unless_finished = Left.TAKEN_BACK if taken_back else Left.UNFINISHED
            return Left.PROMOTED if self.is_finished else unless_finished
        if self._stored is None:
            return Left.NOTHING
        return Left.EARLIER_PLAN_UNFINISHED if self._stored.finalized_ts is None else Left.BEFORE

    def _has_begun(self) -> bool | None:
        """Whether the state has the plan as that of the environment; None if that is not known."""
        if self._reached is not Reached.WRITING:
            return self._reached > Reached.WRITING
        try:
            stored = self._context.state_reader.get_environment(self._context.request.environment)
        except Exception as error:  # noqa: BLE001  # any driver's; the failure has the first one
            self._context.tracker.pipe.log("warning", f"SQLMesh's state does not answer: {describe_error(error)}")
            return None
        return stored is not None and stored.plan_id == self._plan.plan_id
