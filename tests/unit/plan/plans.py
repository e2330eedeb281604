"""Plans as the worker reports them."""

from typing import Any

from dg_sqlmesh_component.plan.digest import PARTS
from dg_sqlmesh_component.protocol import messages as msg

ORDERS = msg.PlannedModel(
    '"db"."core"."orders"', "core.orders", "changed", category="breaking", diff="-SELECT 1\n+SELECT 2", intervals=3
)


def drops(name: str) -> tuple[msg.ColumnChange, ...]:
    return (msg.ColumnChange(name, "INT", None),)


def plan(*models: msg.PlannedModel, **more: Any) -> msg.PlanBuilt:
    parts = {part: f"{number:010}" for number, part in enumerate(PARTS)}
    return msg.PlanBuilt("prod", "p2", "p1", parts, models, has_changes=True, plan_command="sqlmesh plan prod", **more)
