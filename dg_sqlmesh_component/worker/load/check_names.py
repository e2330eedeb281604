"""Names of asset checks. A name depends only on its audit and arguments, so that a check keeps its history."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain, count

from dg_sqlmesh_component.protocol.formatting import short_hash

MAX_LENGTH = 100

_COLUMNS = ("column", "columns")
"""Arguments whose values alone become part of a check name. Other arguments add their names too."""

_ITEM = r"""(?:\w+|\d+\.\d+|(?P<quote>['"`])\w+(?:[ -]\w+)*(?P=quote))"""
_PLAIN_NAME = re.compile(r"\w+", re.ASCII)
_PLAIN_ITEM = re.compile(_ITEM, re.ASCII)


def check_names(uses: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    """A distinct name for each audit of one model, in the given order.

    A name consists of the audit's name, the columns, then the other arguments with their names, in alphabetical order:
    `not_null_item_id`, `accepted_range_price_max_v_10_min_v_1`. If that is too long, or an argument contains characters
    that a name cannot contain, such as an operator, the name ends in a hash of the audit and its arguments.

    In two cases a name depends on the model's other audits. Equal uses are numbered. If two different uses get the same
    name (`not_null` of the columns `a` and `b`, and of the column `a_b`), all but one get the hash.

    Args:
        uses: The name and arguments of each audit.
    """
    keys = [(len(args), audit, tuple(sorted(args.items()))) for audit, args in uses]
    plain = {key: _name(audit, args) for key, (audit, args) in zip(keys, uses, strict=True)}
    # Later entries overwrite earlier ones: the use with the fewest arguments keeps the plain name.
    owners = {plain[key]: key for key in sorted(plain, reverse=True)}
    chosen = {key: name if owners[name] == key else _hashed(name, key[1], dict(key[2])) for key, name in plain.items()}
    names: list[str] = []
    for key in keys:
        name = chosen[key]
        names.append(_numbered(name, {*names, *chosen.values()}) if name in names else name)
    return names


def _name(audit: str, args: Mapping[str, str]) -> str:
    columns_first = sorted(args.items(), key=lambda item: (item[0] not in _COLUMNS, item[0]))
    parts = (_identifier(value if name in _COLUMNS else f"{name} {value}") for name, value in columns_first)
    is_plain = _PLAIN_NAME.fullmatch(audit)
    name = "_".join([audit if is_plain else _identifier(audit) or "audit", *filter(None, parts)])
    is_complete = is_plain and all(map(_is_plain, args.values()))
    return name if is_complete and len(name) <= MAX_LENGTH else _hashed(name, audit, args)


def _is_plain(value: str) -> bool:
    """Whether a name can show a value in full: a word, a number, a quoted text of words, or a list of these."""
    bare = value[1:-1] if (value[:1], value[-1:]) in (("(", ")"), ("[", "]")) else value
    return all(_PLAIN_ITEM.fullmatch(item.strip()) for item in bare.split(","))


def _hashed(name: str, audit: str, args: Mapping[str, str]) -> str:
    digest = short_hash([audit, *chain.from_iterable(sorted(args.items()))])
    return f"{name[: MAX_LENGTH - len(digest) - 1].rstrip('_')}_{digest}"


def _numbered(name: str, taken: set[str]) -> str:
    return next(numbered for number in count(2) if (numbered := f"{name}_{number}") not in taken)


def _identifier(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")
