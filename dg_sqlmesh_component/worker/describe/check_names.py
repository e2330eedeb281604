"""Names of asset checks. Each depends on its own audit and arguments only, so that a check keeps its history."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from dg_sqlmesh_component.protocol.formatting import short_hash

MAX_LENGTH = 100

_COLUMNS = ("column", "columns")
"""Arguments that are told by their values; of the others the names are told too."""

_ITEM = r"""(?:\w+|\d+\.\d+|(?P<quote>['"`])\w+(?:[ -]\w+)*(?P=quote))"""
_PLAIN_NAME = re.compile(r"\w+", re.ASCII)
_PLAIN_ITEM = re.compile(_ITEM, re.ASCII)


def check_names(uses: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    """Name each use of an audit by one model, in order, so that all names differ.

    A name is that of the audit, then the columns, then the other arguments with their names, in alphabetical order:
    `not_null_item_id`, `accepted_range_price_max_v_10_min_v_1`. If that is too long, or holds something that a name
    cannot tell, such as an operator, a hash of the audit and its arguments stands at its end.

    Two things depend on the other uses. Equal uses are numbered. If two different uses have one name all the same, as
    `not_null` of the columns `a` and `b` and of the column `a_b`, all but one of them get the hash.
    """
    keys = [(len(args), audit, tuple(sorted(args.items()))) for audit, args in uses]
    plain = {key: _name(audit, args) for key, (audit, args) in zip(keys, uses, strict=True)}
    owners = {plain[key]: key for key in sorted(plain, reverse=True)}  # the one with the fewest arguments
    chosen = {key: name if owners[name] == key else _hashed(name, key[1], dict(key[2])) for key, name in plain.items()}
    names: list[str] = []
    for key in keys:
        name = chosen[key]
        names.append(_numbered(name, {*names, *chosen.values()}) if name in names else name)
    return names


def _name(audit: str, args: Mapping[str, str]) -> str:
    written = sorted(args.items(), key=lambda one: (one[0] not in _COLUMNS, one[0]))
    told = (_identifier(value if name in _COLUMNS else f"{name} {value}") for name, value in written)
    name = "_".join([_identifier(audit) or "audit", *filter(None, told)])
    is_told = _PLAIN_NAME.fullmatch(audit) and all(map(_is_plain, args.values()))
    return name if is_told and len(name) <= MAX_LENGTH else _hashed(name, audit, args)


def _is_plain(value: str) -> bool:
    """Whether a name can tell a value: it is a word, a number, a quoted text of words, or a list of such."""
    bare = value[1:-1] if (value[:1], value[-1:]) in (("(", ")"), ("[", "]")) else value
    return all(_PLAIN_ITEM.fullmatch(item.strip()) for item in bare.split(","))


def _hashed(name: str, audit: str, args: Mapping[str, str]) -> str:
    distinct = short_hash([audit, *(text for one in sorted(args.items()) for text in one)])
    return f"{name[: MAX_LENGTH - len(distinct) - 1].rstrip('_')}_{distinct}"


def _numbered(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _identifier(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")
