"""What a failed plan says: when it failed, what the environment shows, and what to do."""

import pytest

from dg_sqlmesh_component.capabilities.plans.worker.failed_plan import FailedPlan, Left

AGAIN = "correct the cause and launch this job again"
WAIT = "Runs wait until it is finished. If the files have to change, apply a new plan with `sqlmesh plan`. "
SAME = " with the same run config."
BETWEEN = "after it had begun to change environment prod, which is now between two plans. "
MAYBE = (
    "while it began to change the environment: environment prod may be between two plans, because SQLMesh's state does "
    "not answer any more. "
)


@pytest.mark.parametrize(
    ("failed", "text"),
    [
        (
            FailedPlan("prod", Left.NOTHING),
            f"failed before it was promoted: there is no environment prod yet. To finish it, {AGAIN}{SAME}",
        ),
        (
            FailedPlan("prod", Left.BEFORE, was_cancelled=True),
            "was cancelled before it was promoted: environment prod is as it was before.",
        ),
        (
            FailedPlan("prod", Left.EARLIER_PLAN_UNFINISHED),
            "failed before it was promoted: environment prod is still between two plans. "
            f"{WAIT}To finish it, {AGAIN}{SAME}",
        ),
        (
            FailedPlan("prod", Left.UNKNOWN, lost_values=["t.a (x)"], has_lost_values=None),
            f"failed {MAYBE}Values may be lost already: t.a (x). {WAIT}To finish it, {AGAIN}{SAME}",
        ),
        (
            FailedPlan("prod", Left.TAKEN_BACK, details=["Columns left behind: x of t.a."]),
            "failed while it was promoted, and was taken back: environment prod shows what it showed before. "
            f"Columns left behind: x of t.a. To apply it, {AGAIN}{SAME}",
        ),
        (
            FailedPlan("prod", Left.UNFINISHED, was_cancelled=True, lost_values=["t.a (x)"], has_lost_values=True),
            f"was cancelled {BETWEEN}Values are lost: t.a (x). {WAIT}To finish it, {AGAIN}{SAME}",
        ),
        (
            FailedPlan("pr_1", Left.UNFINISHED, is_preview=True),
            f"failed {BETWEEN.replace('prod', 'pr_1')}To finish it, {AGAIN}.",
        ),
        (
            FailedPlan("prod", Left.PROMOTED),
            f"failed after it was promoted: environment prod shows it. To finish it, {AGAIN}{SAME}",
        ),
    ],
    ids=lambda value: value.left.name if isinstance(value, FailedPlan) else "",
)
def test_a_failed_plan_says_what_the_environment_shows_and_what_to_do(failed: FailedPlan, text: str) -> None:
    assert " ".join(failed.sentences()) == f"The plan {text}"
