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


OperationalError, ProgrammingError, IntegrityError, InternalError = (
    type(f"{name}Error", (DatabaseError,), {}) for name in ("Operational", "Programming", "Integrity", "Internal")
)


def named(name: str, *arguments: object, base: type[Exception] = Exception, **attributes: object) -> Exception:
    """Return an error of a class with this name, like that of a client library that is not installed here."""
    error: Exception = type(name, (base,), attributes)(*arguments)
    return error


def some_errors(*texts: str) -> list[Exception]:
    return [named("SomeError", text) for text in texts]


def error_raised_by(action: Callable[[], object]) -> Exception:
    """Return the error that an action raises."""
    with pytest.raises(Exception) as refused:
        action()
    return refused.value


# -- SQLSTATEs ------------------------------------------------------------------------------------

TRANSIENT_STATES = [
    *("08000", "08001", "08003", "08004", "08006", "08P01"),  # the connection
    *("40001", "40P01"),  # serialization failure, deadlock
    *("53000", "53100", "53200", "53300", "53400"),  # resources of the server
    *("55006", "55P03"),  # in use, locked
    *("57P01", "57P02", "57P03", "57P05"),  # shutdown, crash, start, idle session
    "HYT00",  # ODBC's timeout
]
PERSISTENT_STATES = [
    *("02000", "22012", "22P02", "23505", "40002"),  # data and constraints
    *("28000", "28P01", "3D000", "42501"),  # password, database, rights
    *("42601", "42703", "42P01"),  # syntax, unknown column or table
    *("55000", "57014", "57P04"),  # state of an object, cancelled query, dropped database
    *("P0001", "XX000"),  # raised in PL/pgSQL, internal error
]
STATES = [*((state, True) for state in TRANSIENT_STATES), *((state, False) for state in PERSISTENT_STATES)]


@pytest.mark.parametrize("base", [OperationalError, ProgrammingError, InternalError])
@pytest.mark.parametrize("attribute", ["sqlstate", "pgcode"])  # psycopg's and psycopg2's
@pytest.mark.parametrize(("state", "expected"), STATES)
def test_sqlstate_decides_in_any_error_class(state: str, expected: bool, attribute: str, base: type[Exception]) -> None:
    assert is_transient(named("SomeState", "whatever the server said", base=base, **{attribute: state})) is expected


@pytest.mark.parametrize("state", [None, "n/a", "", "140001", "400010", "0800", 40001])
@pytest.mark.parametrize("attribute", ["sqlstate", "pgcode"])
@pytest.mark.parametrize(("base", "expected"), [(OperationalError, True), (ProgrammingError, False)])
def test_class_decides_without_sqlstate(attribute: str, base: type[Exception], expected: bool, state: object) -> None:
    assert is_transient(named("SomeState", "whatever the driver said", base=base, **{attribute: state})) is expected


# -- classes and messages -------------------------------------------------------------------------

NO_STATE = "connection to server at '10.0.0.1', port 5432 failed: "

TRANSIENT = [
    # Python
    ConnectionResetError(104, "Connection reset by peer"),
    ConnectionRefusedError(111, "Connection refused"),
    ConnectionAbortedError(103, "Software caused connection abort"),
    BrokenPipeError(32, "Broken pipe"),
    TimeoutError("timed out"),
    TimeoutError(110, "Connection timed out"),
    asyncio.TimeoutError(),
    concurrent.futures.TimeoutError(),
    MemoryError(),
    http.client.RemoteDisconnected("Remote end closed connection without response"),
    BlockingIOError(11, "Resource temporarily unavailable"),
    socket.gaierror(-3, "Temporary failure in name resolution"),
    OSError(113, "No route to host"),
    # requests, urllib3
    requests.ConnectionError("Max retries exceeded"),
    requests.ConnectTimeout("timed out"),
    requests.ReadTimeout("Read timed out."),
    urllib3.exceptions.MaxRetryError(urllib3.HTTPConnectionPool("shop"), "/", None),
    named("ProtocolError", "('Connection aborted.', RemoteDisconnected('...'))"),
    # PostgreSQL's drivers, without a message of the server
    OperationalError("server closed the connection unexpectedly"),
    OperationalError(f"{NO_STATE}Connection refused"),
    OperationalError("could not translate host name: Try again"),
    InterfaceError("connection already closed"),
    # Redshift
    InterfaceError("BrokenPipe: server socket closed."),
    ProgrammingError({"S": "ERROR", "C": "XX000", "D": "Serializable isolation violation on table - 126483"}),
    ProgrammingError({"S": "ERROR", "C": "40001", "M": "whatever"}),
    # MySQL
    OperationalError(2006, "MySQL server has gone away"),
    OperationalError(2013, "Lost connection to MySQL server during query"),
    InternalError(1205, "Lock wait timeout exceeded; try restarting transaction"),
    InternalError(1213, "Deadlock found when trying to get lock"),
    # BigQuery
    named("ServiceUnavailable", "503 The service is currently unavailable."),
    named("TooManyRequests", "429 too much was asked of it"),
    named("InternalServerError", "500 An internal error occurred"),
    named("GatewayTimeout", "504"),
    named("BadGateway", "502"),
    named("DeadlineExceeded", "504 Deadline Exceeded"),
    named("RetryError", "Timeout of 600.0s exceeded"),
    named("Forbidden", "403 Quota exceeded: Your project exceeded quota for concurrent queries."),
    named("Forbidden", "403 Exceeded rate limits: too many table update operations"),
    named("BadRequest", "400 Could not serialize access to table shop:core.orders"),
    named("TransportError", "HTTPSConnectionPool"),
    # Databricks, Trino, Snowflake, ODBC
    named("RequestError", "Error during request to server", base=DatabaseError),
    named("ServerOperationError", "Files were added to the table by a concurrent update.", base=DatabaseError),
    named("Http503Error", "error 503: b'overloaded'"),
    named("ServiceUnavailableError", "HTTP 503: Service Unavailable", sqlstate="n/a"),
    named("OperationalError", "Failed to execute request: timed out", sqlstate="n/a"),
    OperationalError("08S01", "[08S01] [Microsoft] Communication link failure (0)"),
    ProgrammingError("40001", "[40001] [Microsoft] Transaction was chosen as victim"),
    # DuckDB, sqlite
    duckdb.IOException('Could not set lock on file "/a.duckdb": Conflicting lock is held in /bin/python (PID 7)'),
    duckdb.ConnectionException("Connection Error: Connection already closed!"),
    duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block"),
    duckdb.TransactionException("TransactionContext Error: Conflict on update!"),
    duckdb.HTTPException("HTTP Error: HTTP GET error on 'https://x/y' (HTTP 503)"),
    OperationalError("database is locked"),
    # Other drivers, recognized by the message
    *some_errors("Transaction conflict: try again", "FATAL: sorry, TOO MANY CONNECTIONS already"),
    *some_errors("ConcurrentModification: concurrent append", "there was a concurrent delete", "deadlock found"),
    *some_errors("the warehouse is temporarily unavailable", "HTTP 503 Service Unavailable", "Query ran out of memory"),
    *some_errors("the connection timed out", "the connection was lost", "Connection closed by the remote host"),
    *some_errors("('Connection aborted.', 'Connection reset by peer')", "[Errno 111] Connection refused"),
    *some_errors("connection already closed", "server closed the connection unexpectedly"),
    *some_errors('IO Error: Could not set lock on file "/shop/db.duckdb"'),
    *some_errors("429 Client Error: Too Many Requests for url", "[Errno 32] Broken pipe"),
]

PERSISTENT = [
    # Python
    ValueError("invalid literal for int()"),
    AssertionError("never"),
    KeyError("connection"),
    AttributeError("connection"),
    ZeroDivisionError("division by zero"),
    Exception(),
    RecursionError("maximum recursion depth exceeded"),
    PermissionError(13, "Permission denied", "/shop/db.duckdb"),
    FileNotFoundError(2, "No such file or directory", "/shop/db.duckdb"),
    IsADirectoryError(21, "Is a directory"),
    KeyboardInterrupt(),
    # requests
    requests.HTTPError("404 Client Error: Not Found for url"),
    requests.exceptions.MissingSchema("Invalid URL 'x': No scheme supplied."),
    # PostgreSQL's drivers, without a message of the server
    OperationalError(f'{NO_STATE}FATAL:  password authentication failed for user "ann"'),
    OperationalError(f'{NO_STATE}FATAL:  database "nope" does not exist'),
    OperationalError(f'{NO_STATE}FATAL:  role "ann" does not exist'),
    OperationalError("FATAL:  permission denied for database shop"),
    OperationalError("FATAL: no pg_hba.conf entry for host 10.0.0.1"),
    IntegrityError("duplicate key value violates unique constraint"),
    ProgrammingError('relation "nope" does not exist'),
    ProgrammingError({"S": "ERROR", "C": "XX000", "M": "assert"}),  # Redshift
    # MySQL
    OperationalError(1045, "Access denied for user 'ann'@'10.0.0.1' (using password: YES)"),
    OperationalError(1049, "Unknown database 'nope'"),
    OperationalError(1054, "Unknown column 'nope' in 'field list'"),
    OperationalError(1242, "Subquery returns more than 1 row"),
    ProgrammingError(1146, "Table 'shop.nope' doesn't exist"),
    # BigQuery
    named("Forbidden", "403 Access Denied: Table shop:core.orders"),
    named("NotFound", "404 Not found: Table shop:core.orders"),
    named("BadRequest", "400 Syntax error: Unexpected keyword FROM"),
    # Databricks, Trino, Snowflake, ODBC
    named("ServerOperationError", "[TABLE_OR_VIEW_NOT_FOUND] nope", base=DatabaseError),
    named("TrinoUserError", "line 1:8: Column 'nope' cannot be resolved", base=ProgrammingError),
    named("TrinoAuthError", "Error 401: Invalid credentials", base=OperationalError),
    named("DatabaseError", "250001 (08001): Incorrect username or password", sqlstate="08001"),
    ProgrammingError("42S02", "[42S02] Invalid object name 'nope'"),
    # DuckDB, sqlite
    duckdb.HTTPException("HTTP Error: HTTP GET error on 'https://x/y' (HTTP 404)"),
    OperationalError("no such table: nope"),
    # SQLMesh
    named("ConfigError", "The gateway is not in the config."),
    named("NodeAuditsErrors", "Audit not_null failed: 3 rows"),
]
ERRORS = [*((error, True) for error in TRANSIENT), *((error, False) for error in PERSISTENT)]


@pytest.mark.parametrize(("error", "expected"), ERRORS, ids=repr)
def test_known_transient_errors_are_transient_and_no_others(error: BaseException, expected: bool) -> None:
    assert is_transient(error) is expected


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
    ours = type("Ours", (type(name, (Exception,), {}),), {})
    assert is_transient(named("OursToo", base=ours))
    assert not is_transient(named(f"Not{name}", ""))


# -- DuckDB itself --------------------------------------------------------------------------------


def conflict_of_transactions() -> None:
    with duckdb.connect() as first, first.cursor() as second:
        first.execute("CREATE TABLE orders AS SELECT 1 AS id")
        for connection in (first, second):
            connection.execute("BEGIN")
        first.execute("UPDATE orders SET id = 2")
        second.execute("UPDATE orders SET id = 3")


def closed_connection() -> None:
    connection = duckdb.connect()
    connection.close()
    connection.execute("SELECT 1")


def out_of_memory() -> None:
    with duckdb.connect(config={"memory_limit": "1MB", "temp_directory": ""}) as connection:
        connection.execute("CREATE TABLE t AS SELECT md5(range::VARCHAR) FROM range(1000000)")


@pytest.mark.parametrize(
    ("provoked", "kind"),
    [
        (conflict_of_transactions, duckdb.TransactionException),
        (closed_connection, duckdb.ConnectionException),
        (out_of_memory, duckdb.OutOfMemoryException),
    ],
)
def test_transient_errors_of_duckdb_itself(provoked: Callable[[], None], kind: type[Exception]) -> None:
    error = error_raised_by(provoked)
    assert type(error) is kind
    assert is_transient(error)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("SELECT * FROM nope", duckdb.CatalogException),
        ("SELECT nope FROM range(3)", duckdb.BinderException),
        ("SELEC 1", duckdb.ParserException),
        ("SELECT 'x'::INT", duckdb.ConversionException),
        ("SELECT error('boom')", duckdb.InvalidInputException),
        ("ATTACH '/nope/nope.duckdb'", duckdb.IOException),
        ("SELECT * FROM read_csv('nope.csv', nope = 1)", duckdb.BinderException),
        ("SELECT * FROM read_csv('/nope/*.csv')", duckdb.IOException),
        ("SELECT deadlock FROM range(3)", duckdb.BinderException),
        ("SELECT 'out of memory'::INT", duckdb.ConversionException),
        ("BEGIN; BEGIN", duckdb.TransactionException),
        (f"ATTACH '{__file__}'", duckdb.IOException),
    ],
)
def test_persistent_errors_of_duckdb_itself(statement: str, kind: type[Exception]) -> None:
    with duckdb.connect() as connection:
        error = error_raised_by(lambda: connection.execute(statement))
    assert type(error) is kind
    assert not is_transient(error)


# -- chains ---------------------------------------------------------------------------------------


def chain(link: str, *errors: BaseException) -> BaseException:
    """Chain errors: each error has the next as its cause or context. Return the first."""
    for error, following in pairwise(errors):
        setattr(error, link, following)
    return errors[0]


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
@pytest.mark.parametrize("position", [0, 1, 2, 10])
@pytest.mark.parametrize(("decisive", "expected"), [(ConnectionResetError, True), (ZeroDivisionError, False)])
def test_classified_error_decides_a_chain(decisive: type[Exception], expected: bool, position: int, link: str) -> None:
    errors: list[BaseException] = [named("SQLMeshError", f"step {n} failed") for n in range(max(position, 2) + 1)]
    errors[position] = decisive("boom")
    assert is_transient(chain(link, *errors)) is expected


def test_explicit_cause_wins_over_context() -> None:
    error = chain("__context__", RuntimeError("the batch failed"), ConnectionResetError())
    assert is_transient(error)
    assert not is_transient(chain("__cause__", error, ZeroDivisionError("division by zero")))


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_cyclic_error_chain_is_walked_once(link: str, length: int) -> None:
    errors = [RuntimeError(f"error {n}") for n in range(length)]
    assert not is_transient(chain(link, *errors, errors[0]))
    assert is_transient(chain(link, TimeoutError(), *errors))


@pytest.mark.parametrize(
    ("head", "cause"),
    [
        (named("SomeState", base=ProgrammingError, sqlstate="42P01"), ConnectionResetError()),
        (OperationalError("cannot connect"), OperationalError('FATAL: password authentication failed for user "ann"')),
        (duckdb.TransactionException("Current transaction is aborted (please ROLLBACK)"), duckdb.BinderException("no")),
    ],
    ids=["SQL error after a lost connection", "unspecific wrapper", "error that follows an SQL error"],
)
@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_first_persistent_link_makes_the_chain_persistent(head: Exception, cause: Exception, link: str) -> None:
    assert not is_transient(chain(link, head, cause))


@pytest.mark.parametrize(("is_suppressed", "expected"), [(False, True), (True, False)])
def test_context_is_considered_unless_it_is_suppressed(is_suppressed: bool, expected: bool) -> None:
    def lose_connection() -> None:
        try:
            raise ConnectionResetError
        except OSError:
            if is_suppressed:
                raise ValueError("no such day") from None
            raise RuntimeError("the batch failed")  # noqa: B904  # implicitly

    assert is_transient(error_raised_by(lose_connection)) is expected
