"""Format texts for logs, web pages and names."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Iterable, Sequence
from datetime import datetime, time, timedelta, timezone
from difflib import get_close_matches

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""Codes that change colours or move the cursor in a terminal."""


def without_colours(text: str) -> str:
    """The text without codes for a terminal."""
    return _ANSI.sub("", text)


def plain(text: object) -> str:
    """The text without colours, and without blanks at its ends. An error of the project's may have no text."""
    try:
        return without_colours(str(text)).strip()
    except Exception as error:  # noqa: BLE001  # `__str__` is code of the project
        return f"(it has no text: its __str__ raised {type(error).__name__})"


def fenced(text: str, language: str = "") -> str:
    """Text as a block of code in Markdown. The fence is longer than any within."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def block(text: str) -> str:
    """A command or an error on its own lines, to be appended to a sentence.

    Markdown shows indented lines as code: line breaks and special characters stay. In a terminal they can be copied.
    """
    lines = text.strip("\n").splitlines()
    return "\n\n" + "\n".join(f"    {line}".rstrip() for line in lines)


def plan_block(command: str) -> str:
    """The command that builds the plan which promotes something, as a block. A job of ours only shows the plan."""
    shows_only = "\n\nThis job applies nothing. Its report has the command that applies the plan."
    return block(command) + (shows_only if command.startswith("dg launch ") else "")


def cut(text: str, characters: int) -> str:
    """A text of at most so many characters, with a note at its end if it was cut."""
    if len(text) <= characters:
        return text
    note = f"\n-- cut here: {len(text)} characters in all"
    return text[: characters - len(note)] + note


def as_sentence(text: str) -> str:
    """The text, with a full stop if it has no end mark."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: `1 row`, `2 rows`. `plural` is for nouns whose plural is not formed with an s."""
    return f"1 {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def decimal_text(value: float, above: float = 0.0) -> str:
    """A number with the fewest decimals, at least one, that show that it is greater than another one: `1,234.5`."""
    decimals = next((digits for digits in range(1, 17) if round(value, digits) > above), 1)
    return f"{value:,.{decimals}f}"


MAX_LISTED = 20
"""Number of models that a message names before it counts the others."""


def listed(items: Sequence[str], at_most: int = MAX_LISTED) -> str:
    """At most so many items, separated by commas, and the number of the others."""
    more = [f"and {len(items) - at_most} more"] if len(items) > at_most else []
    return ", ".join([*items[:at_most], *more])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the known names closest to a wrong name, else with the first ten; empty if none are known."""
    names = sorted(set(known))
    if close := closest(name, names):
        return close
    return f" Known: {listed(names, 10)}." if names else ""


def closest(name: str, known: Sequence[str]) -> str:
    """A sentence with the known names closest to a wrong name; empty if none is close."""
    close = get_close_matches(name, known)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def utc_text(milliseconds: int) -> str:
    """An instant in UTC, to the second."""
    moment = datetime.fromtimestamp(milliseconds / 1000, tz=timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def instant_text(milliseconds: int) -> str:
    """An instant in UTC: a day, if it is the start of one."""
    moment = datetime.fromtimestamp(milliseconds / 1000, tz=timezone.utc)
    if moment.time() == time():
        return f"{moment:%Y-%m-%d}"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC" if moment.second else "%Y-%m-%d %H:%M UTC")


def duration_text(duration: timedelta) -> str:
    """A duration as `2:00:00`, `30 days` or `1 day, 2:00:00`."""
    return str(duration).removesuffix(", 0:00:00")


def in_column(text: str) -> str:
    """A sentence in short lines, for a table. Pages break the words of a table that is too wide, also models' names."""
    return textwrap.fill(text, 32, break_long_words=False, break_on_hyphens=False)


def unquoted(fqn: str) -> str:
    """A model's name without the quotes that SQLMesh puts around each part."""
    return fqn.replace('"', "")


def short_hash(parts: Iterable[str]) -> str:
    """Eight characters that differ for different texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def ranges(intervals: Iterable[tuple[int, int]], at_most: int | None = MAX_LISTED) -> str:
    """At most so many intervals, all if None, as text in UTC: whole days with the last one, others with their end."""
    texts = list(map(_range, intervals))
    return listed(texts, len(texts) if at_most is None else at_most)


def _range(interval: tuple[int, int]) -> str:
    start, end = (datetime.fromtimestamp(bound / 1000, timezone.utc) for bound in interval)
    if start.time() == end.time() == time():
        last, days = end - timedelta(days=1), (end - start).days
        return f"{start:%Y-%m-%d}" + (f" to {last:%Y-%m-%d} ({days} days)" if days > 1 else "")
    minutes = "%H:%M:%S" if start.second or end.second else "%H:%M"
    to = end.strftime(minutes if start.date() == end.date() else f"%Y-%m-%d {minutes}")
    return f"{start.strftime(f'%Y-%m-%d {minutes}')} to {to} UTC"
