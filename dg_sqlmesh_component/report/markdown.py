"""Show text of a pull request in Markdown exactly as it was written. Nothing of it becomes markup. Pure.

Names, columns, owners, errors and diffs come from whoever writes the pull request. Without this, they could hide a loss
from its reviewer, or add lines to what CI reads.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

LIMIT = 60_000
"""The most characters of a report. GitHub accepts 65,536 in a comment."""

PAGE_LIMIT = 10 * LIMIT
"""The most characters of a report on Dagster's page, which has no limit of its own, except for what must not be cut."""

_SPLIT = "<!-- -->"

_MARKUP = re.compile(
    r"(?P<linked>[@#]|:(?=\S)|(?<=www)\.)"  # mentions, links and emojis, even if they are written as entities
    r"|[\\`*\[\]<>|~&$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_BEGINS_BLOCK = re.compile(r"^(?:[-+=]|\d(?=\d*[.)]))")
_SIMPLE = re.compile(r"[\w.](?:[\w .,:;=+*/@#-]*[\w.])?")


def literal(text: str) -> str:
    """The text for a sentence or a cell of a table, on one line."""
    return _MARKUP.sub(lambda found: found[0] + _SPLIT if found["linked"] else _entity(found[0]), _printable(text))


def code(text: str) -> str:
    """The text as code, on one line."""
    return f"`{text}`" if _SIMPLE.fullmatch(text) else f"<code>{literal(text)}</code>"


def paragraphs(text: str) -> str:
    """Sentences and indented blocks, as in an error: only the blocks become markup."""
    return "\n".join(_lines(text))


def _lines(text: str) -> Iterator[str]:
    may_be_block = False  # an indented line is code only after a blank line: else it belongs to the sentence before it
    for line in re.split(r"\r\n|\r|\n", text.strip(" \r\n")):
        words = line.strip(" ")
        is_block = may_be_block and line.startswith("    ") and bool(words)
        yield _printable(line) if is_block else _BEGINS_BLOCK.sub(lambda found: _entity(found[0]), literal(words))
        may_be_block = is_block or not words


def _printable(text: str) -> str:
    """The text with escapes instead of characters that nobody sees, such as line breaks."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _entity(char: str) -> str:
    return f"&#{ord(char)};"


def table_start(head: Sequence[str], numbers: Collection[str] = ()) -> str:
    """The head of a table. Its rows follow, each on a line. Columns with numbers are aligned to the right."""
    return f"{table_row(head)}\n{table_row(['---:' if name in numbers else '---' for name in head])}"


def table_row(cells: Sequence[str]) -> str:
    """A row of cells that are Markdown already."""
    return f"| {' | '.join(cells)} |"


def fitting(parts: Sequence[str], characters: int) -> Sequence[str]:
    """The first parts that fit into so many characters, with two between them."""
    for number, part in enumerate(parts):
        characters -= len(part) + 2
        if characters < 0:
            return parts[:number]
    return parts
