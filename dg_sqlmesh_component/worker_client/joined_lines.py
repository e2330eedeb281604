"""Joins log lines that arrive at nearly the same time. Pure: the caller passes the time.

Each line becomes an event of Dagster, and SQLite takes 7 ms to store one, however short it is.
"""

from __future__ import annotations

from dg_sqlmesh_component.protocol import messages as msg

MOMENT_SECONDS = 0.1
"""How long lines are collected, from the first of them."""

MOMENT_CHARACTERS = 10_000
"""After so many characters, the collected lines are not kept back any longer."""


class JoinedLines:
    """Collects the log lines of one moment. Lines of one level and one source become one text."""

    def __init__(self) -> None:
        self._texts: dict[tuple[msg.Level, str], list[str]] = {}
        self._characters = 0
        self._end = 0.0

    def add(self, line: msg.LogLine, now: float) -> list[msg.LogLine]:
        """Collect a line. Return the joined lines if the moment is over."""
        if not self._texts:
            self._end = now + MOMENT_SECONDS
        self._texts.setdefault((line.level, line.source), []).append(line.text)
        self._characters += len(line.text)
        return self.take() if now >= self._end or self._characters >= MOMENT_CHARACTERS else []

    def seconds_left(self, now: float) -> float | None:
        """How long to wait for further lines; None if no line is collected."""
        return max(self._end - now, 0.0) if self._texts else None

    def take(self) -> list[msg.LogLine]:
        """The joined lines, in the order of their first lines."""
        joined = [msg.LogLine(level, "\n".join(texts), source) for (level, source), texts in self._texts.items()]
        self._texts.clear()
        self._characters = 0
        return joined
