"""Texts that may contain a password or a token: their fields are marked by these types, and `redaction` hides it.

Other texts of a message are names, hashes, paths, and sentences of this package. Standard library only.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Annotated


class Mark(Enum):
    """How `redaction` treats a text."""

    TEXT = auto()
    ERROR = auto()
    PROJECT_TEXT = auto()
    QUERY = auto()


Text = Annotated[str, Mark.TEXT]
"""Printed or logged text, or a value of the data: known secrets, and what looks like one."""

ErrorText = Annotated[str, Mark.ERROR]
"""The text of an error: the same. A long one is cut."""

ProjectText = Annotated[str, Mark.PROJECT_TEXT]
"""Text of the project: known secrets that a macro or a variable has inserted."""

Query = Annotated[str, Mark.QUERY]
"""SQL, or another long text of the project: the same. A long one is cut."""
