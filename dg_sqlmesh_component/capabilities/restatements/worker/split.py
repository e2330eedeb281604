"""Decide which models of a restatement the steps of one run compute, if other assets split the run. Pure.

Each step plans the same restatement, of the models of all steps. SQLMesh adds models downstream and upstream of them.
Every model is computed in exactly one step: a selected model in its own, a model downstream in the last step that
restates a model upstream of it, a pending model upstream in the first step that reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from dg_sqlmesh_component.protocol.graph import reachable


@dataclass(frozen=True)
class Split:
    """The planned models by step.

    Attributes:
        here: Those that this step computes.
        later: Those that later steps of the run compute.
    """

    here: Set[str]
    later: Set[str]


def split(
    planned: Iterable[str],
    restated: Set[str],
    parents: Mapping[str, Iterable[str]],
    steps: tuple[Set[str], Set[str], Set[str]],
) -> Split:
    """Divide the planned models among the steps of a run.

    Args:
        restated: Those of them that are restated. The others are upstream of these, and only pending.
        parents: The parents of each node of the environment.
        steps: The selected models of earlier steps, of this step and of later steps.
    """
    earlier, here, later = steps
    found: dict[str, set[str]] = {"earlier": set(), "here": set(), "later": set()}
    upstream = {name: reachable([name], lambda of: parents.get(of, ())) for name in {*planned, *earlier, *here, *later}}

    def step_of(name: str) -> str:
        for step, selected in (("earlier", earlier), ("here", here), ("later", later)):
            if name in selected:
                return step
        if name not in restated:
            reads = {step: any(name in upstream[of] for of in selected) for step, selected in _by_step(steps)}
            return "earlier" if reads["earlier"] else "here" if reads["here"] or not reads["later"] else "later"
        reads = {step: not upstream[name].isdisjoint(selected & restated) for step, selected in _by_step(steps)}
        return "later" if reads["later"] else "here" if reads["here"] or not reads["earlier"] else "earlier"

    for name in planned:
        found[step_of(name)].add(name)
    return Split(found["here"], found["later"])


def _by_step(steps: tuple[Set[str], Set[str], Set[str]]) -> Iterable[tuple[str, Set[str]]]:
    return zip(("earlier", "here", "later"), steps, strict=True)
