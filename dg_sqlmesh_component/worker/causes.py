"""Whether an error may be gone when the same thing is tried again.

The table of docs/reliability.md. What is not known to be transient counts as persistent: a retry of a
real failure costs time and hides nothing, but it never helps.
"""

from __future__ import annotations

import re

TRANSIENT_SQLSTATES = re.compile(
    r"08\w{3}"  # connection exceptions
    r"|40001|40P01"  # serialization failure, deadlock
    r"|53\w{3}"  # insufficient resources
    r"|55P03|55006"  # lock not available, object in use
    r"|57P0[1-3]"  # the server shuts down, crashes or starts up
)
"""Classes of errors by which PostgreSQL, Redshift and others say that it was the moment, not the statement."""

TRANSIENT_TYPES = {
    # Python's own
    "ConnectionError", "TimeoutError", "MemoryError",
    # DB-API drivers: what they raise when a connection breaks
    "InterfaceError", "OperationalError",
    # DuckDB
    "ConnectionException", "OutOfMemoryException", "TransactionException",
    # cloud clients
    "ServiceUnavailable", "TooManyRequests", "InternalServerError", "GatewayTimeout", "BadGateway", "DeadlineExceeded",
    "RetryError", "RequestError", "TransportError", "ConnectTimeout", "ReadTimeout",
}  # fmt: skip
"""Names of exception classes, anywhere in a class's ancestry."""

TRANSIENT_TEXTS = re.compile(
    r"could not set lock on file|connection (was )?(reset|refused|closed|lost|timed out|already closed)"
    r"|server closed the connection|broken pipe|deadlock|lock wait timeout|could not serialize"
    r"|concurrent (update|delete|append)|transaction conflict|too many (connections|requests)|rate limit|quota exceeded"
    r"|temporarily unavailable|service unavailable|out of memory",
    re.IGNORECASE,
)
"""What engines say in words only."""

PERSISTENT_TEXTS = re.compile(
    r"password authentication failed|access denied|permission denied|does not exist|no such file|unknown database",
    re.IGNORECASE,
)
"""What drivers raise as an `OperationalError` although trying again cannot help."""


def is_transient(error: BaseException) -> bool:
    """Whether the error, or what caused it, says that trying again may help."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if _says_transient(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _says_transient(error: BaseException) -> bool:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if isinstance(state, str):
        return TRANSIENT_SQLSTATES.fullmatch(state) is not None
    text = str(error)
    if PERSISTENT_TEXTS.search(text):
        return False
    names = {ancestor.__name__ for ancestor in type(error).__mro__}
    return bool(names & TRANSIENT_TYPES) or TRANSIENT_TEXTS.search(text) is not None
