"""Hide passwords and tokens in every text that a person or a database may read.

All texts from SQLMesh's process pass through here: log lines, errors, queries, descriptions, and the last output of a
process that died.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar
from urllib.parse import quote

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import WorkerError
from dg_sqlmesh_component.protocol.formatting import counted, cut
from dg_sqlmesh_component.protocol.manifest import DEFAULT_LIMITS, Audit, DbtNode, Model, StandaloneAudit

HIDDEN = "***"

LONGEST_ERROR = 10_000
"""How many characters of an error are kept. An error is in several events: a longer one would fill the event log."""

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

_WITHOUT_SECRETS = (
    msg.ChangesFound,
    msg.StateHeld,
    msg.StateLocked,
    msg.DataComparedWithRecords,
    msg.RestatementPlanned,
    msg.EnvironmentOpened,
    msg.EvaluationPlanned,
    msg.BatchFinished,
    msg.BatchStarted,
    msg.BatchesRunning,
    msg.RowsCounted,
    msg.NodesBlocked,
    msg.NodeUpToDate,
    msg.NodeWaiting,
    msg.IntervalCoverage,
    msg.ObjectDropped,
    msg.JanitorFinished,
    msg.EvaluationFinished,
)
"""Events of names, numbers, instants and texts of this package: no text of the project, of a driver or of a query."""

_E = TypeVar("_E", bound=msg.Event)


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
        characters: Longer queries and `meta` of dbt are cut. They are cut after their secrets are hidden, because half
            a secret would not be recognized.
    """

    def __init__(self, environment: Mapping[str, str], characters: int = DEFAULT_LIMITS.characters) -> None:
        self._known: set[str] = set()
        self._characters = characters
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

    def sql(self, query: str | None) -> str | None:
        """A text of the project, such as a query, without the known secrets that a macro or variable has inserted."""
        if query is None:
            return None
        query = _URL.sub(rf"\1:{HIDDEN}@", query)
        contained = (secret for secret in self._known if len(secret) >= _MINIMAL_LENGTH_IN_SQL and secret in query)
        for secret in sorted(contained, key=len, reverse=True):
            query = query.replace(secret, HIDDEN)
        return query

    def _cut_sql(self, query: str | None) -> str | None:
        redacted = self.sql(query)
        return redacted and cut(redacted, self._characters)

    def _args(self, args: Mapping[str, str]) -> dict[str, str]:
        return {name: self.sql(value) or "" for name, value in args.items()}

    def _sample(self, sample: msg.Sample) -> msg.Sample:
        return replace(sample, rows=tuple(tuple(value and self.text(value) for value in row) for row in sample.rows))

    def _audit(self, audit: Audit) -> Audit:
        query, description = self._cut_sql(audit.query), self.sql(audit.description)
        return replace(audit, query=query, description=description, args=self._args(audit.args))

    def _dbt(self, node: DbtNode | None) -> DbtNode | None:
        return node and replace(node, meta=self._cut_sql(node.meta))

    def _model(self, model: Model) -> Model:
        # Owner and tags stay: asset keys and groups are made of them, and a password may be a word like `postgres`.
        return replace(
            model,
            query=self._cut_sql(model.query),
            description=self.sql(model.description),
            columns=tuple(replace(column, description=self.sql(column.description)) for column in model.columns),
            audits=tuple(map(self._audit, model.audits)),
            dbt=self._dbt(model.dbt),
        )

    def _standalone_audit(self, node: StandaloneAudit) -> StandaloneAudit:
        return replace(node, audit=self._audit(node.audit), dbt=self._dbt(node.dbt))

    def event(self, event: _E) -> _E:
        """The event without secrets in its texts.

        Raises:
            WorkerError: No rule says which texts of this type of event may contain secrets.
        """
        if isinstance(event, msg.LogLine):
            return replace(event, text=self.text(event.text))
        if isinstance(event, (msg.NodeFailed, msg.RequestFailed)):
            return replace(event, message=self.error(event.message))
        if isinstance(event, msg.QueriesNotCancelled):
            return replace(event, reasons={fqn: self.error(reason) for fqn, reason in event.reasons.items()})
        if isinstance(event, msg.PendingFound):
            return replace(event, signal_error=event.signal_error and self.error(event.signal_error))
        if isinstance(event, msg.NodeAudited):
            return replace(event, error=event.error and self.error(event.error))
        if isinstance(event, msg.AuditEvaluated):
            return replace(
                event,
                error=event.error and self.error(event.error),
                query=self._cut_sql(event.query),
                args=self._args(event.args),
                sample=event.sample and self._sample(event.sample),
            )
        if isinstance(event, msg.ProjectLoaded):
            manifest = replace(
                event.manifest,
                models=tuple(map(self._model, event.manifest.models)),
                standalone_audits=tuple(map(self._standalone_audit, event.manifest.standalone_audits)),
            )
            return replace(event, manifest=manifest)
        if isinstance(event, msg.PlanBuilt):
            models = tuple(replace(model, diff=self._cut_sql(model.diff) or "") for model in event.models)
            return replace(event, models=models, statements=self._cut_sql(event.statements) or "")
        if isinstance(event, msg.ModelCompared):
            return replace(event, query=self._cut_sql(event.query))
        if isinstance(event, _WITHOUT_SECRETS):
            return event
        raise WorkerError(f"No rule hides secrets in events of the type {type(event).__name__}, so it was not read.")
