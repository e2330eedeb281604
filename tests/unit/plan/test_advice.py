"""Advice of a refused plan: with what it says in the run config, the same plan is not refused."""

from typing import Any

import pytest
from unit.plan.plans import ORDERS, drops, plan, planned, with_facts

from dg_sqlmesh_component.plan.digest import digest_of
from dg_sqlmesh_component.plan.gate import Decision, refusals
from dg_sqlmesh_component.protocol import messages as msg

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
            "which fits {} models. Write the one that you mean, as here: ",
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
