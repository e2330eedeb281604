"""The digest of a plan: a hash of everything that a reviewer approves. Pure.

It has one field for each part, so that a refusal can name the parts that differ. `worker/plan/plan_parts.py` hashes the
parts of SQLMesh's plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

from dg_sqlmesh_component.protocol import messages as msg

PREVIOUS_MODELS, PREVIOUS_STATEMENTS, ALLOW_LIST = "previous models", "previous statements", "allow-list"

PARTS = (
    *("models", "categories", "statements", "requirements", "settings", "selection"),
    *(PREVIOUS_MODELS, PREVIOUS_STATEMENTS),
)
"""The parts of `PlanBuilt.parts`, in the order of the digest's fields. The allow-list is the last field."""

MEANINGS = {
    "models": "the files of the project differ, so other versions of models would be promoted",
    "categories": "SQLMesh's categories of the changes differ",
    "statements": "the statements before or after all models differ",
    "requirements": "the versions of required Python packages differ",
    "settings": "the settings of the environment or of plans differ",
    "selection": "`select` in the run config differs, so other models are taken from the files",
    PREVIOUS_MODELS: "the environment showed other versions when a plan had finished last",
    PREVIOUS_STATEMENTS: "the environment had other statements or required packages",
    ALLOW_LIST: "`allow_destructive` names other models than the plan's run config did",
}


def digest_of(plan: msg.PlanBuilt, allow_destructive: Collection[str]) -> str:
    """The digest of a plan: equal for two plans if a reviewer of one has approved all of the other."""
    return "-".join([*(plan.parts[part] for part in PARTS), _short_hash(sorted(set(allow_destructive)))])


def without_allow_list(digest: str) -> str:
    """The digest of the same plan without an allow-list. It covers any: see `differing_parts`."""
    return "-".join([*digest.split("-")[:-1], _short_hash(())])


def _short_hash(names: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:10]


def differing_parts(approved: str, digest: str) -> list[str] | None:
    """The parts, of `PARTS` and the allow-list, by which a digest is not the approved one; None if that is no digest.

    To name models in the run config is an approval too, so a digest without an allow-list covers one with any.
    """
    were, are = approved.strip().split("-"), digest.split("-")
    if len(were) != len(are):
        return None
    has_list = were[-1] != _short_hash(())
    compared = zip((*PARTS, ALLOW_LIST), were, are)
    return [part for part, was, now in compared if was != now and (part != ALLOW_LIST or has_list)]
