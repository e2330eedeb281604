"""Which errors are transient. Error classes are built as real drivers build them."""

import asyncio
import concurrent.futures
import http.client
import socket
from collections.abc import Callable
from itertools import pairwise

import duckdb
import pytest
import requests
import urllib3

from dg_sqlmesh_component.worker.transient_errors import is_transient


class DatabaseError(Exception):
    """DB-API 2.0 defines these error classes, and every driver has its own copies."""


class InterfaceError(Exception): ...


class OperationalError(DatabaseError): ...


class ProgrammingError(DatabaseError): ...


class IntegrityError(DatabaseError): ...


class InternalError(DatabaseError): ...


def error_raised_by(action: Callable[[], object]) -> Exception:
    """Return the error that an action raises."""
    with pytest.raises(Exception) as refused:
        action()
    error: Exception = refused.value
    return error


def error_of_class(name: str, message: str, *bases: type[Exception]) -> Exception:
    """Return an error of a class with this name, like that of a client library that is not installed here."""
    error: Exception = type(name, bases or (Exception,), {})(message)
    return error


def error_with_sqlstate(name: str, message: str, state: str) -> Exception:
    """Return an error with a SQLSTATE. Snowflake's driver writes `n/a` if there is none."""
    error = error_of_class(name, message)
    error.sqlstate = state  # type: ignore[attr-defined]  # drivers define it
    return error


# -- PostgreSQL's states --------------------------------------------------------------------------

TRANSIENT_STATES = {
    "08000": "connection exception",
    "08001": "the client cannot establish the connection",
    "08003": "the connection does not exist",
    "08004": "the server rejected the connection",
    "08006": "connection failure",
    "08P01": "protocol violation",
    "40001": "serialization failure",
    "40P01": "deadlock detected",
    "53000": "insufficient resources",
    "53100": "disk full",
    "53200": "out of memory",
    "53300": "too many connections",
    "53400": "configuration limit exceeded",
    "55006": "object in use",
    "55P03": "lock not available",
    "57P01": "admin shutdown",
    "57P02": "crash shutdown",
    "57P03": "cannot connect now",
    "57P05": "the session was idle for too long",
    "HYT00": "ODBC's timeout",
}
PERSISTENT_STATES = {
    "02000": "no data",
    "22012": "division by zero",
    "22P02": "invalid text representation",
    "23505": "unique violation",
    "28000": "invalid authorization",
    "28P01": "invalid password",
    "3D000": "no such database",
    "40002": "integrity constraint violation at the end of a transaction",
    "42501": "insufficient privilege",
    "42601": "syntax error",
    "42703": "undefined column",
    "42P01": "undefined table",
    "55000": "object not in the prerequisite state",
    "57014": "query cancelled",
    "57P04": "the database was dropped",
    "P0001": "raised in PL/pgSQL",
    "XX000": "internal error",
}


def psycopg(state: str, base: type[Exception]) -> Exception:
    """Return an error like psycopg's, whose class has the SQLSTATE."""
    error: Exception = type("SomeState", (base,), {"sqlstate": state})("whatever the server said")
    return error


def psycopg2(state: str, base: type[Exception]) -> Exception:
    """Return an error like psycopg2's, which has the SQLSTATE of the server."""
    error: Exception = type("SomeState", (base,), {"pgcode": None})("whatever the server said")
    error.pgcode = state  # type: ignore[attr-defined]  # psycopg2 defines it
    return error


@pytest.mark.parametrize("base", [OperationalError, ProgrammingError, InternalError], ids=lambda item: item.__name__)
@pytest.mark.parametrize("driver", [psycopg, psycopg2], ids=lambda item: item.__name__)
@pytest.mark.parametrize(
    ("state", "expected"),
    [*((state, True) for state in TRANSIENT_STATES), *((state, False) for state in PERSISTENT_STATES)],
    ids=[f"{state} {says}" for state, says in (TRANSIENT_STATES | PERSISTENT_STATES).items()],
)
def test_sqlstate_decides_whatever_the_error_class(
    state: str, expected: bool, driver: Callable[[str, type[Exception]], Exception], base: type[Exception]
) -> None:
    assert is_transient(driver(state, base)) is expected


@pytest.mark.parametrize("state", [None, "n/a", "", "140001", "400010", "0800", 40001])
@pytest.mark.parametrize("name", ["sqlstate", "pgcode"])
@pytest.mark.parametrize(("base", "expected"), [(OperationalError, True), (ProgrammingError, False)])
def test_error_without_valid_sqlstate_is_classified_by_its_class(
    name: str, base: type[Exception], expected: bool, state: object
) -> None:
    assert is_transient(type("SomeState", (base,), {name: state})("whatever the driver said")) is expected


# -- classes and messages -------------------------------------------------------------------------

NO_STATE = "connection to server at '10.0.0.1', port 5432 failed: "

TRANSIENT: dict[str, Exception] = {
    # Python
    "a connection that was reset": ConnectionResetError(104, "Connection reset by peer"),
    "a connection that was refused": ConnectionRefusedError(111, "Connection refused"),
    "a connection that was aborted": ConnectionAbortedError(103, "Software caused connection abort"),
    "a broken pipe": BrokenPipeError(32, "Broken pipe"),
    "a timeout": TimeoutError("timed out"),
    "a timeout of the operating system": TimeoutError(110, "Connection timed out"),
    "asyncio's timeout": asyncio.TimeoutError(),
    "a future's timeout": concurrent.futures.TimeoutError(),
    "out of memory": MemoryError(),
    "a server that hung up": http.client.RemoteDisconnected("Remote end closed connection without response"),
    "a resource that is busy": BlockingIOError(11, "Resource temporarily unavailable"),
    # requests
    "requests cannot connect": requests.ConnectionError("Max retries exceeded"),
    "requests waited too long to connect": requests.ConnectTimeout("timed out"),
    "requests waited too long for an answer": requests.ReadTimeout("Read timed out."),
    "urllib3 has tried enough": urllib3.exceptions.MaxRetryError(urllib3.HTTPConnectionPool("shop"), "/", None),
    # PostgreSQL's drivers, without a message of the server
    "the server closed the connection": OperationalError("server closed the connection unexpectedly"),
    "the server refuses connections": OperationalError(f"{NO_STATE}Connection refused"),
    "the name of the server is not known now": OperationalError("could not translate host name: Try again"),
    "a connection that is closed": InterfaceError("connection already closed"),
    "Redshift hung up": InterfaceError("BrokenPipe: server socket closed."),
    # MySQL's
    "MySQL has gone away": OperationalError(2006, "MySQL server has gone away"),
    "MySQL was lost": OperationalError(2013, "Lost connection to MySQL server during query"),
    "MySQL waited for a lock": InternalError(1205, "Lock wait timeout exceeded; try restarting transaction"),
    "MySQL found a deadlock": InternalError(1213, "Deadlock found when trying to get lock"),
    # BigQuery's
    "BigQuery is not available": error_of_class("ServiceUnavailable", "503 The service is currently unavailable."),
    "BigQuery has had enough": error_of_class("TooManyRequests", "429 too much was asked of it"),
    "BigQuery has an error of its own": error_of_class("InternalServerError", "500 An internal error occurred"),
    "BigQuery's gateway waits": error_of_class("GatewayTimeout", "504"),
    "BigQuery's gateway fails": error_of_class("BadGateway", "502"),
    "BigQuery's deadline": error_of_class("DeadlineExceeded", "504 Deadline Exceeded"),
    "BigQuery's client has tried enough": error_of_class("RetryError", "Timeout of 600.0s exceeded"),
    "BigQuery's quota": error_of_class(
        "Forbidden", "403 Quota exceeded: Your project exceeded quota for concurrent queries."
    ),
    "BigQuery's rate limits": error_of_class("Forbidden", "403 Exceeded rate limits: too many table update operations"),
    "BigQuery updates a table twice": error_of_class(
        "BadRequest", "400 Could not serialize access to table shop:core.orders"
    ),
    "Google's transport": error_of_class("TransportError", "HTTPSConnectionPool"),
    # Databricks'
    "Databricks does not answer": error_of_class("RequestError", "Error during request to server", DatabaseError),
    "Databricks appends twice": error_of_class(
        "ServerOperationError",
        "[DELTA_CONCURRENT_APPEND] Files were added to the root of the table by a concurrent update.",
        DatabaseError,
    ),
    # DuckDB's
    "DuckDB's file is in use": duckdb.IOException(
        'IO Error: Could not set lock on file "/shop/db.duckdb": Conflicting lock is held in /bin/python (PID 7)'
    ),
    "DuckDB's connection is closed": duckdb.ConnectionException("Connection Error: Connection already closed!"),
    "DuckDB is out of memory": duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block"),
    "DuckDB's transactions conflict": duckdb.TransactionException("TransactionContext Error: Conflict on update!"),
    # Other drivers, recognized by the message
    "unknown driver: transactions conflict": error_of_class("SomeError", "Transaction conflict: try again"),
    "unknown driver has too many connections": error_of_class(
        "SomeError", "FATAL: sorry, TOO MANY CONNECTIONS already"
    ),
    "unknown driver appends concurrently": error_of_class("SomeError", "ConcurrentModification: concurrent append"),
    "unknown driver deletes concurrently": error_of_class("SomeError", "there was a concurrent delete"),
    "unknown driver is temporarily unavailable": error_of_class(
        "SomeError", "the warehouse is temporarily unavailable"
    ),
    "unknown driver: service is unavailable": error_of_class("SomeError", "HTTP 503 Service Unavailable"),
    "unknown driver is out of memory": error_of_class("SomeError", "Query ran out of memory"),
    "unknown driver: connection timed out": error_of_class("SomeError", "the connection timed out"),
    "unknown driver: connection was lost": error_of_class("SomeError", "the connection was lost"),
    "unknown driver: connection was closed": error_of_class("SomeError", "Connection closed by the remote host"),
    "unknown driver: connection was reset": error_of_class(
        "SomeError", "('Connection aborted.', 'Connection reset by peer')"
    ),
    "unknown driver: connection was refused": error_of_class("SomeError", "[Errno 111] Connection refused"),
    "unknown driver: connection is already closed": error_of_class("SomeError", "connection already closed"),
    "unknown driver: server closed the connection": error_of_class(
        "SomeError", "server closed the connection unexpectedly"
    ),
    "unknown driver: file is in use": error_of_class(
        "SomeError", 'IO Error: Could not set lock on file "/shop/db.duckdb"'
    ),
    "unknown driver had too many requests": error_of_class("SomeError", "429 Client Error: Too Many Requests for url"),
    "unknown driver: address is not known now": socket.gaierror(-3, "Temporary failure in name resolution"),
    "unknown driver: network is gone": OSError(113, "No route to host"),
    "unknown driver: sqlite file is in use": OperationalError("database is locked"),
    "unknown driver: HTTP server fails": error_of_class(
        "ProtocolError", "('Connection aborted.', RemoteDisconnected('...'))"
    ),
    "Trino is overloaded": error_of_class("Http503Error", "error 503: b'overloaded'"),
    "Snowflake is not there": error_with_sqlstate("ServiceUnavailableError", "HTTP 503: Service Unavailable", "n/a"),
    "Snowflake waited too long": error_with_sqlstate("OperationalError", "Failed to execute request: timed out", "n/a"),
    "Redshift cannot isolate": ProgrammingError(
        {"S": "ERROR", "C": "XX000", "M": "1023", "D": "Serializable isolation violation on table - 126483"}
    ),
    "Redshift cannot serialize": ProgrammingError({"S": "ERROR", "C": "40001", "M": "whatever"}),
    "ODBC lost the link": OperationalError("08S01", "[08S01] [Microsoft] Communication link failure (0)"),
    "ODBC was a deadlock's victim": ProgrammingError("40001", "[40001] [Microsoft] Transaction was chosen as victim"),
    "DuckDB's object store fails": duckdb.HTTPException("HTTP Error: HTTP GET error on 'https://x/y' (HTTP 503)"),
    "unknown driver: pipe is broken": error_of_class("SomeError", "[Errno 32] Broken pipe"),
}

PERSISTENT: dict[str, BaseException] = {
    # Python
    "a wrong value": ValueError("invalid literal for int()"),
    "a broken assertion": AssertionError("never"),
    "no such key": KeyError("connection"),
    "no such attribute": AttributeError("connection"),
    "a division by zero": ZeroDivisionError("division by zero"),
    "an error without a word": Exception(),
    "too deep": RecursionError("maximum recursion depth exceeded"),
    "a file that may not be read": PermissionError(13, "Permission denied", "/shop/db.duckdb"),
    "a file that is not there": FileNotFoundError(2, "No such file or directory", "/shop/db.duckdb"),
    "a folder": IsADirectoryError(21, "Is a directory"),
    "Ctrl-C": KeyboardInterrupt(),
    # requests
    "requests found nothing": requests.HTTPError("404 Client Error: Not Found for url"),
    "requests does not know where": requests.exceptions.MissingSchema("Invalid URL 'x': No scheme supplied."),
    # PostgreSQL's drivers, without a message of the server
    "PostgreSQL's wrong password": OperationalError(f'{NO_STATE}FATAL:  password authentication failed for user "ann"'),
    "PostgreSQL's missing database": OperationalError(f'{NO_STATE}FATAL:  database "nope" does not exist'),
    "PostgreSQL's missing role": OperationalError(f'{NO_STATE}FATAL:  role "ann" does not exist'),
    "PostgreSQL's missing rights": OperationalError("FATAL:  permission denied for database shop"),
    "PostgreSQL's constraint": IntegrityError("duplicate key value violates unique constraint"),
    "PostgreSQL's SQL": ProgrammingError('relation "nope" does not exist'),
    # MySQL's
    "MySQL's wrong password": OperationalError(1045, "Access denied for user 'ann'@'10.0.0.1' (using password: YES)"),
    "MySQL's missing database": OperationalError(1049, "Unknown database 'nope'"),
    "MySQL's missing table": ProgrammingError(1146, "Table 'shop.nope' doesn't exist"),
    # BigQuery's
    "BigQuery's missing rights": error_of_class("Forbidden", "403 Access Denied: Table shop:core.orders"),
    "BigQuery's missing table": error_of_class("NotFound", "404 Not found: Table shop:core.orders"),
    "BigQuery's SQL": error_of_class("BadRequest", "400 Syntax error: Unexpected keyword FROM"),
    # Databricks', Trino's
    "Databricks' missing table": error_of_class(
        "ServerOperationError", "[TABLE_OR_VIEW_NOT_FOUND] nope", DatabaseError
    ),
    "Trino's SQL": error_of_class("TrinoUserError", "line 1:8: Column 'nope' cannot be resolved", ProgrammingError),
    "Trino's wrong password": error_of_class("TrinoAuthError", "Error 401: Invalid credentials", OperationalError),
    # Other drivers, similar to connection errors
    "sqlite's missing table": OperationalError("no such table: nope"),
    "MySQL's missing column": OperationalError(1054, "Unknown column 'nope' in 'field list'"),
    "MySQL's two rows": OperationalError(1242, "Subquery returns more than 1 row"),
    "PostgreSQL does not let this host in": OperationalError("FATAL: no pg_hba.conf entry for host 10.0.0.1"),
    "Snowflake's wrong password": error_with_sqlstate(
        "DatabaseError", "250001 (08001): Incorrect username or password", "08001"
    ),
    "ODBC's missing table": ProgrammingError("42S02", "[42S02] Invalid object name 'nope'"),
    "DuckDB's missing object": duckdb.HTTPException("HTTP Error: HTTP GET error on 'https://x/y' (HTTP 404)"),
    "Redshift's own fault": ProgrammingError({"S": "ERROR", "C": "XX000", "M": "assert"}),
    # SQLMesh's
    "SQLMesh's configuration": error_of_class("ConfigError", "The gateway is not in the config."),
    "SQLMesh's audits": error_of_class("NodeAuditsErrors", "Audit not_null failed: 3 rows"),
}


@pytest.mark.parametrize("error", TRANSIENT.values(), ids=TRANSIENT)
def test_known_transient_errors_are_transient(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize("error", PERSISTENT.values(), ids=PERSISTENT)
def test_all_other_errors_are_persistent(error: BaseException) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize(
    "name",
    [
        "OperationalError",
        "ServiceUnavailable",
        "TimeoutError",
        "ConnectTimeout",
        "ConnectionException",
        "OutOfMemoryException",
    ],
)
def test_error_class_matches_by_the_name_of_any_ancestor(name: str) -> None:
    subclass = type("Ours", (type(name, (Exception,), {}),), {})
    assert is_transient(type("OursToo", (subclass,), {})())
    assert not is_transient(error_of_class(f"Not{name}", ""))


# -- DuckDB itself --------------------------------------------------------------------------------


def conflict() -> Exception:
    """Return the conflict of two transactions that update one row."""
    with duckdb.connect() as first, first.cursor() as second:
        first.execute("CREATE TABLE orders AS SELECT 1 AS id")
        for connection in (first, second):
            connection.execute("BEGIN")
        first.execute("UPDATE orders SET id = 2")
        return error_raised_by(lambda: second.execute("UPDATE orders SET id = 3"))


def closed() -> Exception:
    connection = duckdb.connect()
    connection.close()
    return error_raised_by(lambda: connection.execute("SELECT 1"))


def out_of_memory() -> Exception:
    with duckdb.connect(config={"memory_limit": "1MB", "temp_directory": ""}) as connection:
        return error_raised_by(
            lambda: connection.execute("CREATE TABLE t AS SELECT md5(range::VARCHAR) FROM range(1000000)")
        )


def executing(query: str) -> Callable[[], Exception]:
    def run() -> Exception:
        with duckdb.connect() as connection:
            return error_raised_by(lambda: connection.execute(query))

    return run


@pytest.mark.parametrize(
    ("provoked", "kind", "expected"),
    [
        (conflict, duckdb.TransactionException, True),
        (closed, duckdb.ConnectionException, True),
        (out_of_memory, duckdb.OutOfMemoryException, True),
        (executing("SELECT * FROM nope"), duckdb.CatalogException, False),
        (executing("SELECT nope FROM range(3)"), duckdb.BinderException, False),
        (executing("SELEC 1"), duckdb.ParserException, False),
        (executing("SELECT 'x'::INT"), duckdb.ConversionException, False),
        (executing("SELECT error('boom')"), duckdb.InvalidInputException, False),
        (executing("ATTACH '/nope/nope.duckdb'"), duckdb.IOException, False),
        (executing("SELECT * FROM read_csv('nope.csv', nope = 1)"), duckdb.BinderException, False),
        (executing("SELECT * FROM read_csv('/nope/*.csv')"), duckdb.IOException, False),
        (executing("SELECT deadlock FROM range(3)"), duckdb.BinderException, False),
        (executing("SELECT 'out of memory'::INT"), duckdb.ConversionException, False),
        (executing("BEGIN; BEGIN"), duckdb.TransactionException, False),
        (executing(f"ATTACH '{__file__}'"), duckdb.IOException, False),
    ],
    ids=[
        "conflict of transactions",
        "closed connection",
        "out of memory",
        "no such table",
        "no such column",
        "no SQL",
        "no number",
        "an error of the author's own",
        "no such folder",
        "no such option",
        "no such files",
        "a column called deadlock",
        "a value that sounds bad",
        "two transactions in one",
        "no database",
    ],
)
def test_real_duckdb_errors_are_classified(
    provoked: Callable[[], Exception], kind: type[Exception], expected: bool
) -> None:
    error = provoked()
    assert type(error) is kind
    assert is_transient(error) is expected


# -- chains ---------------------------------------------------------------------------------------


def chain(*errors: BaseException, link: str = "__cause__") -> BaseException:
    """Chain errors: each error has the next as its cause. Return the first."""
    for error, cause in pairwise(errors):
        setattr(error, link, cause)
    return errors[0]


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
@pytest.mark.parametrize("depth", [1, 2, 10])
@pytest.mark.parametrize(("cause", "expected"), [(ConnectionResetError, True), (ZeroDivisionError, False)])
def test_unclassified_error_is_classified_by_its_cause(
    cause: type[Exception], expected: bool, depth: int, link: str
) -> None:
    wrapped = chain(
        *(error_of_class("SQLMeshError", f"step {n} failed") for n in range(depth)), cause("boom"), link=link
    )
    assert is_transient(wrapped) is expected


def test_implicit_context_of_an_error_is_considered() -> None:
    def lose() -> None:
        try:
            raise ConnectionResetError(104, "Connection reset by peer")
        except OSError:
            raise RuntimeError("the batch failed")  # noqa: B904  # implicitly

    assert is_transient(error_raised_by(lose))


def test_explicit_cause_wins_over_context() -> None:
    error = RuntimeError("the batch failed")
    error.__context__ = ConnectionResetError(104, "Connection reset by peer")
    assert is_transient(error)
    error.__cause__ = ZeroDivisionError("division by zero")
    assert not is_transient(error)


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_cyclic_error_chain_is_walked_once(link: str, length: int) -> None:
    errors = [RuntimeError(f"error {n}") for n in range(length)]
    assert not is_transient(chain(*errors, errors[0], link=link))
    assert is_transient(chain(TimeoutError(), *errors, link=link))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_transient_link_makes_an_unclassified_chain_transient(place: int) -> None:
    errors: list[BaseException] = [RuntimeError("outer"), RuntimeError("middle"), RuntimeError("inner")]
    errors[place] = ConnectionResetError(104, "Connection reset by peer")
    assert is_transient(chain(*errors))


@pytest.mark.parametrize(
    ("head", "cause"),
    [
        (psycopg("42P01", ProgrammingError), ConnectionResetError()),
        (OperationalError("cannot connect"), OperationalError('FATAL: password authentication failed for user "ann"')),
        (duckdb.TransactionException("Current transaction is aborted (please ROLLBACK)"), duckdb.BinderException("no")),
    ],
    ids=["SQL error after a lost connection", "unspecific wrapper", "error that follows an SQL error"],
)
@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_first_persistent_link_makes_the_chain_persistent(head: Exception, cause: Exception, link: str) -> None:
    assert not is_transient(chain(head, cause, link=link))


def test_suppressed_context_is_ignored() -> None:
    def hide() -> None:
        try:
            raise ConnectionResetError
        except OSError:
            raise ValueError("no such day") from None

    assert not is_transient(error_raised_by(hide))
