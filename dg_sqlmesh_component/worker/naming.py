"""Names of asset checks: an audit's own name where that tells it apart, else with its arguments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

MAX_LENGTH = 100


def check_names(uses: Sequence[tuple[str, dict[str, str]]]) -> list[str]:
    """Name each use of an audit by one model, in order, so that all names differ.

    An audit that stands once keeps its name. One that stands twice gets its arguments appended, so
    that reordering the audits of a model does not rename the checks; uses that still do not differ
    are numbered.
    """
    often = Counter(_identifier(name) for name, _ in uses)
    names: list[str] = []
    for audit_name, args in uses:
        name = _identifier(audit_name)
        if often[name] > 1:
            name = "_".join([name, *(_identifier(value) for value in args.values())])[:MAX_LENGTH]
        names.append(_numbered(name, {*names, *(often.keys() - {name})}))
    return names


def _numbered(name: str, taken: set[str]) -> str:
    numbered, number = name, 1
    while numbered in taken:
        number += 1
        numbered = f"{name}_{number}"
    return numbered


def _identifier(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "audit"
