"""The digest of a plan: a hash of everything that a reviewer approves. Pure.

It is short enough to be compared by a person: `rhmgbm6el2q5pyn7ws3jd4xa`. After the hash of the plan, one character of
each part lets a refusal name the parts that differ. `worker/plan/plan_parts.py` hashes the parts of SQLMesh's plan.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterable

from dg_sqlmesh_component.protocol import messages as msg

PARTS = ("models", "categories", "statements", "requirements", "settings", "selection")
"""The parts of `PlanBuilt.parts` that say what the environment will show."""

PREVIOUS = "previous"
_PREVIOUS = ("previous models", "previous statements")
"""The parts of `PlanBuilt.parts` that say what the environment has shown. One hash covers both."""

ALLOW_LIST, UNKNOWN = "allow-list", "unknown"

MEANINGS = {
    "models": "the files of the project differ, so other versions of models would be promoted",
    "categories": "SQLMesh's categories of the changes differ",
    "statements": "the statements before or after all models differ",
    "requirements": "the versions of required Python packages differ",
    "settings": "the settings of the environment or of plans differ",
    "selection": "`select` in the run config differs, so other models are taken from the files",
    PREVIOUS: "the environment showed other versions, statements or required packages when a plan had finished last",
    ALLOW_LIST: "`allow_destructive` names other models than the plan's run config did",
    UNKNOWN: "one part of the plan, and the digest does not tell which",
}

_OF_PARTS, _OF_EACH, _OF_PREVIOUS, _OF_LIST = 9, len(PARTS), 5, 4
"""The numbers of characters, in this order. A character has 5 bits."""


def digest_of(plan: msg.PlanBuilt, allow_destructive: Collection[str]) -> str:
    """The digest of a plan: equal for two plans if a reviewer of one has approved all of the other."""
    parts = [plan.parts[part] for part in PARTS]
    each = "".join(_hash([part], 1) for part in parts)
    previous = _hash([plan.parts[part] for part in _PREVIOUS], _OF_PREVIOUS)
    return _hash(parts, _OF_PARTS) + each + previous + _hash_of_list(allow_destructive)


def without_allow_list(digest: str) -> str:
    """The digest of the same plan without an allow-list. It covers any: see `differing_parts`."""
    return digest[:-_OF_LIST] + _hash_of_list(())


def differing_parts(approved: str, digest: str) -> list[str] | None:
    """The parts by which a digest is not the approved one, as far as it tells, by `MEANINGS`; None if it is no digest.

    To name models in the run config is an approval too, so a digest without an allow-list covers one with any.
    """
    if len(approved := approved.strip()) != len(digest) or not approved.isalnum():
        return None
    were, are = _split(approved), _split(digest)
    found = [part for part, was, now in zip(PARTS, were[1], are[1], strict=True) if was != now]
    if were[0] != are[0] and not found:  # one of 32 pairs of hashes has the same first character
        found = [UNKNOWN]
    if were[2] != are[2]:
        found.append(PREVIOUS)
    if were[3] not in (are[3], _hash_of_list(())):
        found.append(ALLOW_LIST)
    return found


def _split(digest: str) -> tuple[str, str, str, str]:
    each, previous, of_list = _OF_PARTS, _OF_PARTS + _OF_EACH, _OF_PARTS + _OF_EACH + _OF_PREVIOUS
    return digest[:each], digest[each:previous], digest[previous:of_list], digest[of_list:]


def _hash_of_list(names: Collection[str]) -> str:
    return _hash(sorted(set(names)), _OF_LIST)


def _hash(values: Iterable[str], length: int) -> str:
    return base64.b32encode(hashlib.sha256("\0".join(values).encode()).digest()).decode().lower()[:length]
