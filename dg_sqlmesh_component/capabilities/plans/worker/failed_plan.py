"""What a plan that failed or was cancelled leaves behind, and what to do, in sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from dg_sqlmesh_component.protocol.formatting import listed


class Left(Enum):
    """What the environment shows after the failure.

    Attributes:
        when: When the plan failed, with what the environment shows now; `{}` is the environment.
        is_unfinished: Whether the environment is, or may be, between two plans.
    """

    NOTHING = "before it was promoted: there is no environment {} yet", False
    BEFORE = "before it was promoted: environment {} is as it was before", False
    EARLIER_PLAN_UNFINISHED = "before it was promoted: environment {} is still between two plans", True
    UNKNOWN = (
        "while it began to change the environment: environment {} may be between two plans, because SQLMesh's state "
        "does not answer any more",
        True,
    )
    TAKEN_BACK = "while it was promoted, and was taken back: environment {} shows what it showed before", False
    UNFINISHED = "after it had begun to change environment {}, which is now between two plans", True
    PROMOTED = "after it was promoted: environment {} shows it", False

    def __init__(self, when: str, is_unfinished: bool) -> None:
        self.when = when
        self.is_unfinished = is_unfinished


@dataclass(frozen=True)
class FailedPlan:
    """A plan that failed or was cancelled.

    Attributes:
        left: What the environment shows.
        details: What a take-back leaves, or why the plan cannot be taken back, in sentences.
        lost_values: The models whose tables lose columns with their values, in words.
        has_lost_values: Whether they are lost; None if they may be.
    """

    environment: str
    left: Left
    is_preview: bool = False
    was_cancelled: bool = False
    details: Sequence[str] = ()
    lost_values: Sequence[str] = ()
    has_lost_values: bool | None = False

    def sentences(self) -> Iterator[str]:
        """When it failed, what the environment shows, which values are lost, and how to go on."""
        has_ended = "was cancelled" if self.was_cancelled else "failed"
        yield f"The plan {has_ended} {self.left.when.format(self.environment)}."
        yield from self.details
        if self.lost_values and self.has_lost_values is not False:
            are_lost = "are lost" if self.has_lost_values else "may be lost already"
            yield f"Values {are_lost}: {listed(self.lost_values)}."
        if self.left.is_unfinished and not self.is_preview:
            yield "Runs wait until it is finished. If the files have to change, apply a new plan with `sqlmesh plan`."
        if self.left.is_unfinished or not self.was_cancelled:
            same = "" if self.is_preview else " with the same run config"
            what = "apply" if self.left is Left.TAKEN_BACK else "finish"
            yield f"To {what} it, correct the cause and launch this job again{same}."
