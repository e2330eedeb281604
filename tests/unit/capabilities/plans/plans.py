"""Plans as the worker reports them."""

from dataclasses import fields, replace
from typing import Any

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.digest import PARTS


def with_facts(model: msg.PlannedModel, **facts: Any) -> msg.PlannedModel:
    """The model with other facts, of itself, its rows or its table."""
    parts = {}
    for part in ("rows", "table"):
        record = getattr(model, part)
        own = {field.name: facts.pop(field.name) for field in fields(record) if field.name in facts}
        parts[part] = replace(record, **own)
    return replace(model, **parts, **facts)


def planned(fqn: str, name: str, change: msg.Change = "changed", **facts: Any) -> msg.PlannedModel:
    return with_facts(msg.PlannedModel(fqn, name, change), **facts)


ORDERS = planned('"db"."core"."orders"', "core.orders", category="breaking", diff="-SELECT 1\n+SELECT 2", intervals=3)


def drops(name: str) -> tuple[msg.ColumnChange, ...]:
    return (msg.ColumnChange(name, "INT", None),)


def plan(*models: msg.PlannedModel, **more: Any) -> msg.PlanBuilt:
    names = (*PARTS, "previous models", "previous statements")
    parts = {part: f"{number:010}" for number, part in enumerate(names)}
    return msg.PlanBuilt("prod", "p2", "p1", parts, models, plan_command="sqlmesh plan prod", **more)
