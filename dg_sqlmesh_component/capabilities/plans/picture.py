"""A picture of what a plan changes, as a Mermaid graph: GitHub and GitLab draw it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.affected import Affected, by_asset
from dg_sqlmesh_component.capabilities.plans.data_tables import without_key
from dg_sqlmesh_component.capabilities.plans.lost_rows import all_lost
from dg_sqlmesh_component.protocol.formatting import counted
from dg_sqlmesh_component.protocol.graph import reachable

MOST_NODES = 40

_CLASSES = {
    "changed": "fill:#fde68a,stroke:#b45309,color:#000",
    "indirect": "fill:#e5e7eb,stroke:#6b7280,color:#000",
    "lost": "fill:#fecaca,stroke:#b91c1c,color:#000",
    "affected": "fill:#bfdbfe,stroke:#1d4ed8,color:#000",
}


def mermaid(
    plan: msg.PlanBuilt,
    upstream: Mapping[str, Sequence[str]],
    compared: Sequence[msg.ModelCompared],
    affected: Mapping[str, Sequence[Affected]],
) -> str:
    """The changed models and the affected assets; empty without an arrow between two of them. `upstream` is by fqn."""
    changed = [model for model in plan.models if model.change not in (None, "metadata")]
    nodes = {model.fqn: number for number, model in enumerate(changed[:MOST_NODES])}
    differences = {of_model.fqn: of_model for of_model in compared}
    lines = [_node(f"m{nodes[m.fqn]}", _label(m, differences.get(m.fqn)), _class(m)) for m in changed if m.fqn in nodes]
    arrows = [
        f"m{nodes[parent]} --> m{number}" for fqn, number in nodes.items() for parent in _nearest(fqn, nodes, upstream)
    ]
    readers = _readers(nodes, upstream, affected)
    left_out = len(changed) - len(nodes) + max(len(nodes) + len(readers) - MOST_NODES, 0)
    for number, (asset, models) in enumerate(list(readers.items())[: MOST_NODES - len(nodes)]):
        lines.append(_node(f"a{number}", asset, "affected"))
        arrows += [f"m{nodes[fqn]} --> a{number}" for fqn in models]
    if not arrows:
        return ""
    more = [_node("more", f"{counted(left_out, 'further node')}", "indirect")] if left_out else []
    classes = [f"classDef {name} {style}" for name, style in _CLASSES.items()]
    return "\n".join(["graph LR", *(f"  {line}" for line in [*lines, *more, *arrows, *classes])])


def _nearest(fqn: str, nodes: Mapping[str, int], upstream: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The nearest upstream nodes of the picture: models between them are not in it."""
    between = reachable(
        [parent for parent in upstream.get(fqn, ()) if parent not in nodes],
        lambda node: [parent for parent in upstream.get(node, ()) if parent not in nodes],
    )
    parents = {parent for node in (fqn, *between) for parent in upstream.get(node, ())}
    yield from (node for node in nodes if node in parents)


def _readers(
    nodes: Mapping[str, int], upstream: Mapping[str, Sequence[str]], affected: Mapping[str, Sequence[Affected]]
) -> dict[str, list[str]]:
    """The affected assets, each with the models of the picture that no other such model is downstream of."""
    models = by_asset({fqn: affected.get(fqn, ()) for fqn in nodes})
    above = {fqn: reachable(upstream.get(fqn, ()), lambda node: upstream.get(node, ())) for fqn in nodes}
    return {
        asset: [fqn for fqn in fqns if not any(fqn in above[other] for other in fqns)] for asset, fqns in models.items()
    }


def _class(model: msg.PlannedModel) -> str:
    if model.change == "removed" or model.table.destructive or all_lost(model.rows):
        return "lost"
    return "indirect" if model.change == "indirect" else "changed"


def _label(model: msg.PlannedModel, compared: msg.ModelCompared | None) -> str:
    differences = ((compared.added, "+"), (compared.removed, "−"), (compared.changed, "±")) if compared else ()
    rows = " ".join(f"{sign}{number:,}" for number, sign in differences if number)
    no_key = without_key(compared, 1) if compared else ""
    return f"{model.name}\n{model.change}" + (f", rows {rows}{no_key}" if rows else "")


def _node(name: str, label: str, of_class: str) -> str:
    """A node. Its label shows foreign text: only letters, digits and harmless signs stay as they are."""
    lines = "<br/>".join(
        re.sub(r"[^\w ./,+±−-]", lambda sign: f"#{ord(sign[0])};", line) for line in label.split("\n", 1)
    )
    return f'{name}["{lines}"]:::{of_class}'
