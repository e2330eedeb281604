"""Decide whether an error is transient: whether a retry may succeed (`is_transient`).

The table in docs/engines.md shows the rules. An unknown error counts as persistent: a retry of a
real failure costs time and never helps, although it hides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dg_sqlmesh_component.protocol.formatting import plain

TRANSIENT_SQLSTATES = re.compile(
    r"08\w{3}"  # connection exceptions
    r"|40001|40P01"  # serialization failure, deadlock
    r"|53\w{3}"  # insufficient resources
    r"|55P03|55006"  # lock not available, object in use
    r"|57P0[1235]"  # the server shuts down, crashes, starts up or ends an idle session
    r"|HYT0\d"  # ODBC's timeouts
)
"""States of PostgreSQL, Redshift and others that mean: the moment was wrong, not the statement."""

SQLSTATE = re.compile(r"[0-9A-Z]{5}")
SAYS_NOTHING = "XX000"
"""The state of errors without a state of their own, such as Redshift's isolation violations."""

TRANSIENT_MYSQL_CODES = {1040, 1053, 1203, 1205, 1213, 2002, 2003, 2006, 2013, 2055}
"""Too many connections, shutdown, lock wait, deadlock, and the client's lost connections."""

TRANSIENT_TYPES = {
    # Python's own
    "ConnectionError", "TimeoutError", "MemoryError",
    # DuckDB
    "ConnectionException", "OutOfMemoryException",
    # cloud clients, HTTP
    "ServiceUnavailable", "ServiceUnavailableError", "TooManyRequests", "InternalServerError", "GatewayTimeout",
    "BadGateway", "DeadlineExceeded", "RetryError", "RequestError", "TransportError", "ConnectTimeout", "ReadTimeout",
    "ProtocolError", "MaxRetryError", "Http502Error", "Http503Error", "Http504Error",
}  # fmt: skip
"""Names of exception classes. A subclass counts too."""

CONNECTION_TYPES = {"InterfaceError", "OperationalError"}
"""DB-API drivers raise these if a connection breaks, and for much else. They count only if no other rule decides."""

STATEMENT_TYPES = {"ProgrammingError", "DataError", "IntegrityError", "NotSupportedError"}
"""DB-API's classes for errors in the statement or its data. Their text quotes both, so it proves nothing."""

WITHOUT_SERVER = ("duckdb", "_duckdb", "sqlite3")
"""Modules of drivers without a server, so without a connection to lose."""

TRANSIENT_TEXTS = re.compile(
    r"could not set lock on file|database is locked"
    r"|connection (was )?(reset|refused|closed|lost|aborted|timed out|already closed)|remote end closed"
    r"|server closed the connection|broken pipe|no route to host|network is unreachable|temporary failure"
    r"|deadlock|lock wait timeout|could not serialize|serializable isolation violation"
    r"|concurrent (update|delete|append)|transaction conflict|conflict on |too many (connections|requests)"
    r"|rate limit|quota exceeded|temporarily unavailable|service unavailable|out of memory"
    r"|\(HTTP (408|429|5\d\d)\)",
    re.IGNORECASE,
)
"""Transient errors that only their text tells."""

PERSISTENT_TEXTS = re.compile(
    r"authentication failed|access denied|permission denied|does not exist|unknown database|no pg_hba.conf entry"
    r"|no such (file|table|column)|invalid credentials|incorrect (username|password)|\(HTTP 4(0[^8]|[13-9]\d)\)",
    re.IGNORECASE,
)
"""Errors that drivers raise as connection errors, although a retry cannot help."""


def is_transient(error: BaseException) -> bool:
    """Whether a retry may succeed after this error.

    The first error in the chain of causes that matches a rule decides.
    """
    links = list(_chain(error))
    for link in links:
        verdict = _verdict(link)
        if verdict is not None:
            return verdict
    return any(_is_of_the_connection(link) for link in links)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _verdict(error: BaseException) -> bool | None:
    """Whether the error is transient; None if no rule matches."""
    text, names = plain(error), _names(error)
    if PERSISTENT_TEXTS.search(text):
        return False
    sounds_transient = TRANSIENT_TEXTS.search(text) is not None
    state = _sqlstate(error)
    if state is not None:
        return sounds_transient if state == SAYS_NOTHING else TRANSIENT_SQLSTATES.fullmatch(state) is not None
    if names & STATEMENT_TYPES:
        return False
    code = error.args[0] if error.args else None
    if isinstance(code, int) and "DatabaseError" in names:  # MySQL's drivers
        return code in TRANSIENT_MYSQL_CODES
    return True if sounds_transient or names & TRANSIENT_TYPES else None


def _is_of_the_connection(error: BaseException) -> bool:
    driver = type(error).__module__.partition(".")[0]
    return bool(_names(error) & CONNECTION_TYPES) and driver not in WITHOUT_SERVER


def _names(error: BaseException) -> set[str]:
    return {ancestor.__name__ for ancestor in type(error).__mro__}


def _sqlstate(error: BaseException) -> str | None:
    """The state that the server sent, from psycopg, psycopg2, Redshift or ODBC. Without one, drivers write anything."""
    candidates = [getattr(error, "sqlstate", None), getattr(error, "pgcode", None)]
    first = error.args[0] if error.args else None
    if isinstance(first, dict):
        candidates.append(first.get("C"))
    elif len(error.args) > 1 and any(character.isdigit() for character in str(first)):
        candidates.append(first)
    return next((state for state in candidates if isinstance(state, str) and SQLSTATE.fullmatch(state)), None)
