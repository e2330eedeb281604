"""The digest of a plan: a hash of everything that a reviewer approves. Pure.

It is short enough to be compared by a person: `rhmgbm6el2q5pyn7ws3jd4xa`. After the hash of the plan, one character of
each part lets a refusal name the parts that differ. `worker/plan_parts.py` hashes the parts of SQLMesh's plan.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from dg_sqlmesh_component.capabilities.plans import messages as msg

PARTS = ("models", "categories", "statements", "requirements", "settings", "selection")
"""The parts of `PlanBuilt.parts` that say what the environment will show."""

PREVIOUS = "previous"
_PREVIOUS = ("previous models", "previous statements")
"""The parts of `PlanBuilt.parts` that say what the environment has shown. One hash covers both."""

UNKNOWN = "unknown"

MEANINGS = {
    "models": "the files of the project differ, so other versions of models would be promoted",
    "categories": "SQLMesh's categories of the changes differ",
    "statements": "the statements before or after all models differ",
    "requirements": "the versions of required Python packages differ",
    "settings": "the settings of the environment or of plans differ",
    "selection": "`select` in the run config differs, so other models are taken from the files",
    PREVIOUS: "the environment showed other versions, statements or required packages when a plan had finished last",
    UNKNOWN: "one part of the plan, and the digest does not tell which",
}

_OF_PARTS, _OF_EACH, _OF_PREVIOUS = 13, len(PARTS), 5
"""The numbers of characters, in this order. A character has 5 bits."""

_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz234567")


def digest_of(plan: msg.PlanBuilt) -> str:
    """The digest of a plan: equal for two plans if a reviewer of one has approved all of the other."""
    parts = [plan.parts[part] for part in PARTS]
    each = "".join(_hash([part], 1) for part in parts)
    previous = _hash([plan.parts[part] for part in _PREVIOUS], _OF_PREVIOUS)
    return _hash(parts, _OF_PARTS) + each + previous


def differing_parts(approved: str, digest: str) -> list[str] | None:
    """The parts by which a digest is not the approved one, as far as it tells, by `MEANINGS`; None if it is not one.

    `allow_...` in the run config is no part: who names models there approves them.
    """
    if len(approved := approved.strip().lower()) != len(digest) or not _ALPHABET.issuperset(approved):
        return None
    were, are = _split(approved), _split(digest)
    found = [part for part, was, now in zip(PARTS, were[1], are[1], strict=True) if was != now]
    if were[0] != are[0] and not found:  # one of 32 pairs of hashes has the same first character
        found = [UNKNOWN]
    if were[2] != are[2]:
        found.append(PREVIOUS)
    return found


def _split(digest: str) -> tuple[str, str, str]:
    each, previous = _OF_PARTS, _OF_PARTS + _OF_EACH
    return digest[:each], digest[each:previous], digest[previous:]


def _hash(values: Iterable[str], length: int) -> str:
    return base64.b32encode(hashlib.sha256("\0".join(values).encode()).digest()).decode().lower()[:length]
