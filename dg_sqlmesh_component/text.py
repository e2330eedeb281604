"""Text as a log or a web page can show it."""

from __future__ import annotations

import re

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What a terminal takes for a colour or a move of its cursor."""


def without_colours(text: str) -> str:
    """A line as a terminal would show it, in one colour."""
    return _ANSI.sub("", text)


def plain(text: object) -> str:
    """Without colours and without blank edges."""
    return without_colours(str(text)).strip()
