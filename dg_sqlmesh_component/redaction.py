"""Keeps passwords and tokens out of whatever a person or a database may read.

Every text from SQLMesh's process passes through here: its log, its errors, the last words of one that died.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from . import events as e

HIDDEN = "***"

SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|pwd\b|secret|token|api_?key|private_?key|access_?key|credential|keyfile_json|dsn\b",
    re.IGNORECASE,
)
"""What a setting or an environment variable is called whose value nobody may read."""

_MINIMAL_LENGTH = 4
"""Shorter values would be found inside of ordinary words."""

_URL = re.compile(r"(?<=://)([^\s/:@]*):([^\s/@]+)@")
_ASSIGNED = re.compile(
    r"""(?ix) \b ( [\w-]* (?: passw(?:or)?d | passphrase | secret | token | api_?key | private_?key ) ) \b
        ( ["']? \s* [=:] \s* ) ( "[^"]*" | '[^']*' | [^\s,;&)}\]]+ )"""
)

_E = TypeVar("_E", bound=e.Event)


class Redactor:
    """Hides values that are known to be secret, and what looks like one: `://user:password@`, `password=...`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._known: set[str] = set()
        self.add(value for name, value in environment.items() if SECRET_NAME.search(name))

    def add(self, secrets: Iterable[str]) -> None:
        """Hide these from now on."""
        self._known |= {secret for secret in secrets if len(secret) >= _MINIMAL_LENGTH}

    def text(self, text: str) -> str:
        """The text without secrets."""
        for secret in sorted(self._known, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return _ASSIGNED.sub(rf"\1\2{HIDDEN}", _URL.sub(rf"\1:{HIDDEN}@", text))

    def event(self, event: _E) -> _E:
        """The event, with its texts for people without secrets."""
        if isinstance(event, e.LogLine):
            return replace(event, text=self.text(event.text))
        if isinstance(event, (e.NodeFailed, e.RequestFailed)):
            return replace(event, message=self.text(event.message))
        if isinstance(event, e.NodeAudited) and event.error is not None:
            return replace(event, error=self.text(event.error))
        return event
