"""Texts that may contain a password or a token: their fields are marked by these types, and decoding hides it.

Other texts of a message are names, hashes, paths, and sentences of this package. The module itself needs the
standard library only; pydantic imports the rest when it reads these types.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any


class Mark(Enum):
    """The method of `Redactor` that hides secrets in a text."""

    TEXT = "text"
    ERROR = "error"
    PROJECT_TEXT = "sql"
    QUERY = "query"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """What pydantic asks for. The context of decoding is a `Redactor`; None for a manifest that was stored."""
        from pydantic_core.core_schema import with_info_after_validator_function

        def hide(text: str, info: Any) -> str:
            return text if info.context is None else getattr(info.context, self.value)(text)

        return with_info_after_validator_function(hide, handler(source))


Text = Annotated[str, Mark.TEXT]
"""Printed or logged text, or a value of the data: known secrets, and what looks like one."""

ErrorText = Annotated[str, Mark.ERROR]
"""The text of an error: the same. A long one is cut."""

ProjectText = Annotated[str, Mark.PROJECT_TEXT]
"""Text of the project: known secrets that a macro or a variable has inserted."""

Query = Annotated[str, Mark.QUERY]
"""SQL, or another long text of the project: the same. A long one is cut."""
