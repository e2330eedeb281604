"""Hide passwords and tokens in every text that a person or a database may read.

All texts from SQLMesh's process pass through here, in Dagster's process (`worker_client/worker.py`): log lines, errors,
queries, descriptions, and the last output of a process that died.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote

from dg_sqlmesh_component.protocol.formatting import counted, cut

HIDDEN = "***"

LONGEST_ERROR = 10_000
"""How many characters of an error are kept. An error is in several events: a longer one would fill the event log."""

LONGEST_QUERY = 10_000
"""How many characters of a query, or of `meta` of dbt, are kept."""

SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|(\b|_)(pass|sas|dsn|pw|pat|salt)\b|_pwd\b|secret|token|credential|keyfile_json|connection_?string"
    r"|(api|private|access|account|storage|shared|signing|encryption|master)_?key",
    re.IGNORECASE,
)
"""Names of settings and environment variables whose values are secret."""

_MINIMAL_LENGTH = 4
"""Shorter values occur in ordinary words."""

_MINIMAL_LENGTH_IN_SQL = 8
"""Shorter values occur in names of columns and tables. Secrets in SQL are rarely printed by mistake."""

_URL = re.compile(r"""(?<=://)([^\s/:@]*):([^\s/"'<>]+)@""")
_QUOTED_LINE = re.compile(
    rf"^(\s*[\w-]*(?:{SECRET_NAME.pattern})\s*:[ \t]*)\S.*(?=\n\s*\^)", re.IGNORECASE | re.MULTILINE
)
"""A line of a configuration in a parser's error, with a mark below it."""
_ASSIGNED = re.compile(
    r"""(?ix) \b ( [\w-]* (?: passw(?:or)?d | passphrase | _pass | _pwd | secret | token
        | (?: api | private | access | account | storage | shared ) _?key ) ) \b
        ( ["']? [ \t]* [=:] [ \t]* ) ( "[^"]*" | '[^']*' | [^\s,;&)}\]]+ )"""
)


def _forms(secret: str) -> Iterator[str]:
    """The forms in which a text may contain a secret. If it is not valid Unicode, the pipe replaces some bytes."""
    read = secret.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    sent = secret.encode("utf-8", "replace").decode()
    for form in (secret, read, sent):
        yield from (form, repr(form)[1:-1], json.dumps(form)[1:-1], quote(form, safe="", errors="surrogateescape"))
        yield from (form.replace("'", "''"), form.replace("'", r"\'"))  # in a string of SQL


def secrets_in(environment: Mapping[str, str]) -> Iterator[str]:
    """The values of environment variables with secret names."""
    return (value for name, value in environment.items() if SECRET_NAME.search(name))


class Redactor:
    """Hides known secrets, and texts that look like secrets: `://user:password@`, `password=...`.

    Args:
        environment: Environment variables. The values of those with secret names are hidden.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._known: set[str] = set()
        self.add(secrets_in(environment))

    def add(self, secrets: Iterable[str]) -> None:
        """Hide these from now on, also quoted for Python, JSON, SQL or a URL, and each line of a key by itself."""
        for secret in secrets:
            lines = {line.strip() for line in secret.splitlines() if not line.startswith("-----")}
            for part in {secret, secret.strip(), *lines}:
                self._known |= {form for form in _forms(part) if len(form) >= _MINIMAL_LENGTH}

    def text(self, text: str) -> str:
        """The text without secrets."""
        for secret in sorted(self._known, key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        text = _QUOTED_LINE.sub(rf"\1{HIDDEN}", text)
        return _ASSIGNED.sub(rf"\1\2{HIDDEN}", _URL.sub(rf"\1:{HIDDEN}@", text))

    def error(self, text: str) -> str:
        """The text of an error without secrets. Of a long one, the start and the end.

        Secrets are hidden before the text is cut, because half a secret would not be recognized.
        """
        if len(text) <= LONGEST_ERROR:
            return self.text(text)
        half = LONGEST_ERROR // 2
        start, end = self.text(text[: 2 * half])[:half], self.text(text[-2 * half :])[-half:]
        return f"{start}\n[{counted(len(text) - 2 * half, 'character')} left out]\n{end}"

    def sql(self, query: str) -> str:
        """A text of the project, such as a query, without the known secrets that a macro or variable has inserted."""
        query = _URL.sub(rf"\1:{HIDDEN}@", query)
        contained = (secret for secret in self._known if len(secret) >= _MINIMAL_LENGTH_IN_SQL and secret in query)
        for secret in sorted(contained, key=len, reverse=True):
            query = query.replace(secret, HIDDEN)
        return query

    def query(self, query: str) -> str:
        """The same, cut if it is long. It is cut last, because half a secret would not be recognized."""
        return cut(self.sql(query), LONGEST_QUERY)
