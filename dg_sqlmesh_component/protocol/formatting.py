"""Text as a log, a web page or a name can hold it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from difflib import get_close_matches

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What a terminal takes for a colour or a move of its cursor."""


def without_colours(text: str) -> str:
    """A line as a terminal would show it, in one colour."""
    return _ANSI.sub("", text)


def plain(text: object) -> str:
    """Without colours and without blank edges."""
    return without_colours(str(text)).strip()


def block(text: str) -> str:
    """A command or an error behind a sentence, on lines of its own.

    Markdown shows them as code, with line breaks and signs as they are; in a terminal they can be copied.
    """
    lines = text.strip("\n").splitlines()
    return "\n\n" + "\n".join(f"    {line}".rstrip() for line in lines)


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """How many of something, for people: `1 row`, `2 rows`. `plural`: where it is not the noun with an s."""
    return f"1 {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


MAX_LISTED = 20
"""How many models a message names before it says how many more there are."""


def listed(items: Sequence[str], at_most: int = MAX_LISTED) -> str:
    """At most so many of them, and how many more there are."""
    more = [f"and {len(items) - at_most} more"] if len(items) > at_most else []
    return ", ".join([*items[:at_most], *more])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the names closest to a wrong one, else with the first ten there are; empty if there are none."""
    names = sorted(set(known))
    close = get_close_matches(name, names)
    if close:
        return f" Did you mean {' or '.join(close)}?"
    return f" Known: {listed(names, 10)}." if names else ""


def instant(milliseconds: int) -> str:
    """An instant in UTC, to the second."""
    moment = datetime.fromtimestamp(milliseconds / 1000, tz=timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def bare(fqn: str) -> str:
    """A model's name for people: SQLMesh's own has quotes around each part."""
    return fqn.replace('"', "")


def short_hash(parts: Iterable[str]) -> str:
    """Eight characters that tell these texts apart from others."""
    import hashlib

    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
