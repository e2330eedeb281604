"""Advice of a refused plan: with what it says in the run config, the same plan is not refused."""

from dataclasses import replace
from typing import Any

import pytest
from unit.capabilities.plans.plans import ORDERS, drops, plan, planned, with_facts

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.digest import digest_of
from dg_sqlmesh_component.capabilities.plans.gate import Decision, preview_refusals, refusals

LOSES_COLUMN = with_facts(ORDERS, destructive=drops("amount"), columns=drops("amount"))
HERE, THERE = (
    planned(f'"{of}"."s"."orders"', name) for of, name in (("here", "s.orders"), ("there", "there.s.orders"))
)
TWINS = [with_facts(model, destructive=drops("a")) for model in (HERE, THERE)]


def refused(built: msg.PlanBuilt, **config: Any) -> list[str]:
    """Return the messages of the refusals of a plan with this run config."""
    decision = Decision(digest_of(built), **config)
    return [refusal.message for refusal in refusals(built, decision, "shop_apply", {}, None)]


def advised(part: str, built: msg.PlanBuilt, wrong: dict[str, Any], *accepted: dict[str, Any]) -> Any:
    """Return a row: a part of the advice, a plan, run config that is refused, and the advised run config."""
    return pytest.param(part, built, wrong, accepted, id=part)


@pytest.mark.parametrize(
    ("part", "built", "wrong", "accepted"),
    [
        advised(
            "name these models in `{}` in the run config.",
            plan(LOSES_COLUMN),
            {},
            {"allow_destructive": ("core.orders",)},
            {"allow_destructive": (ORDERS.fqn,)},
        ),
        advised(
            "To go back on purpose, {}",
            plan(with_facts(ORDERS, takes_back=True)),
            {},
            {"allow_revert": ("core.orders",)},
        ),
        advised(
            "name these views in `allow_drop_dependents` in the run config.",
            plan(with_facts(ORDERS, dependents=("bi.x", "bi.y"))),
            {"allow_drop_dependents": ("bi.x",)},
            {"allow_drop_dependents": ("bi.x", "bi.y")},
        ),
        advised(
            "` in the run config names {}, which the plan does not change. Remove it.",
            plan(ORDERS),
            {"allow_revert": ("x",)},
            {},
        ),
        advised(
            "which fits {} models. Write one of these instead: ",
            plan(*TWINS),
            {"allow_destructive": ("s.orders", "there.s.orders")},
            {"allow_destructive": ("here.s.orders", "there.s.orders")},
        ),
    ],
)
def test_what_a_refusal_says_to_accept_ends_it(
    part: str, built: msg.PlanBuilt, wrong: dict[str, Any], accepted: tuple[dict[str, Any], ...]
) -> None:
    assert any(all(of in message for of in part.split("{}")) for message in refused(built, **wrong))
    for config in accepted:
        assert refused(built, **config) == []


@pytest.mark.advice("{} To {} it anyway, set `over_budget: true` in the run config.")
def test_what_is_over_the_budget_is_planned_and_previewed_with_the_advised_run_config() -> None:
    built, over = plan(ORDERS), "It costs 9."

    def of_both(*, is_allowed: bool) -> list[str]:
        applied = refusals(built, Decision(over_budget=is_allowed), "shop_apply", {}, over)
        previewed = preview_refusals(built, allow_pending=False, over_budget=is_allowed, budget=over)
        return [refusal.message for refusal in (*applied, *previewed)]

    advice = "It costs 9. To {} it anyway, set `over_budget: true` in the run config."
    assert of_both(is_allowed=False) == [advice.format("apply"), advice.format("preview")]
    assert of_both(is_allowed=True) == []


@pytest.mark.advice("To preview anyway, set `allow_pending: true` in the run config.")
def test_a_preview_of_pending_models_is_computed_with_the_advised_run_config() -> None:
    built = plan(ORDERS, pending_upstream={"core.late": 1})
    [refusal] = preview_refusals(built, allow_pending=False, over_budget=False)
    assert refusal.message.endswith("To preview anyway, set `allow_pending: true` in the run config.")
    assert preview_refusals(built, allow_pending=True, over_budget=False) == []


@pytest.mark.advice("which is not a plan digest. Copy it from a plan.", "and apply it with its own digest.")
def test_a_plan_is_applied_with_its_own_digest() -> None:
    built = plan(ORDERS)
    other = replace(built, parts={**built.parts, "models": "e" * 10})
    for digest, advice in (("latest", "Copy it from a plan."), (digest_of(other), "apply it with its own digest.")):
        [refusal] = refusals(built, Decision(digest), "shop_apply", {})
        assert refusal.message.endswith(advice)
    assert refused(built) == []
