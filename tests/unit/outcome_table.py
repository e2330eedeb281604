"""The outcome table as data: SQLMesh's events, the outcome of the model, and the results that Dagster gets.

`run/test_ledger.py` checks that the events give the outcome. `report/test_results.py` checks that the outcome gives the
results.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from unit.builders import audit, day, days, fqn, manifest, model

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import as_sentence
from dg_sqlmesh_component.report.outcomes import AuditResult, NodeOutcome, Outcome
from dg_sqlmesh_component.run.ledger import Ledger

STAGING = fqn("staging.orders")
AFTER_STAGING = msg.HeldBack((msg.Cause("unselected", STAGING),))
ORDERS = fqn("core.orders")
PROMOTED = msg.PromotedVersion(version="3117", data_hash="1001", metadata_hash="2001")

SHOP = manifest(
    model("staging.orders"),
    model(
        "core.orders",
        reads=["staging.orders"],
        kind="INCREMENTAL_BY_TIME_RANGE",
        audits=(audit("not_null", args={"columns": "(id)"}), audit("recent", position=1, blocking=False)),
    ),
)
"""The project of the table. `core.orders` reads `staging.orders` and has a blocking and a non-blocking audit."""

Events = list[msg.Event]
"""The type of a list of different events, which mypy cannot infer."""

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


@dataclass(frozen=True)
class Reported:
    """What Dagster gets for an outcome.

    Attributes:
        sentence: Text of the log line and the observation.
        passed, severity: Result of the status check.
        metadata: In addition to `sqlmesh/status`.
        audits: Passed, severity and description of each audit's check, by the check's name.
    """

    sentence: str
    passed: bool
    severity: dg.AssetCheckSeverity
    metadata: Mapping[str, Any] = field(default_factory=dict)
    audits: Mapping[str, tuple[bool, dg.AssetCheckSeverity, str | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        title: The row as a sentence. It is the id of its tests.
        events: SQLMesh's events. The last event is missing if the worker died.
        worker_death: Why the events end without a last event. None if there is a last event.
        earlier: Events of a first attempt that left the model open, without its last event.
    """

    title: str
    events: tuple[msg.Event, ...]
    outcome: NodeOutcome
    reported: Reported
    worker_death: str | None = None
    earlier: tuple[msg.Event, ...] = ()

    @property
    def description_of_status_check(self) -> str:
        """The sentence, with the first line of the error. All of it is in the metadata."""
        sentence, errors = self.reported.sentence, self.outcome.errors
        without = sentence.removesuffix("".join(f"\n\n    {error}" for error in errors))
        has_error = without != sentence and self.outcome.outcome.rule.is_cause
        return f"{without} {as_sentence(errors[0])}" if has_error else without


def open_nodes(ledger: Ledger) -> frozenset[str]:
    """Requested nodes without an outcome: those that a pause settles if it keeps none."""
    return frozenset(outcome.fqn for outcome in deepcopy(ledger).pause(frozenset()))


def opened(*requested: str, missing: tuple[str, ...] = ()) -> msg.EnvironmentOpened:
    """Return the event of an environment that has promoted these models."""
    return msg.EnvironmentOpened("prod", dict.fromkeys(requested, PROMOTED), missing, "cd /shop && sqlmesh plan")


def batch(
    index: int,
    interval: msg.Interval,
    *,
    node: str = ORDERS,
    duration_ms: int | None = 5,
    rows: int | None = 10,
    bytes: int | None = 100,
) -> msg.BatchFinished:
    """Return the end of a batch. The batch failed if its duration is None."""
    return msg.BatchFinished(node, index, interval, duration_ms, rows, bytes)


def raised(index: int, interval: msg.Interval, *, node: str = ORDERS) -> msg.BatchFinished:
    """Return the event with which SQLMesh reports a batch that raised."""
    return batch(index, interval, node=node, duration_ms=None, rows=None, bytes=None)


def audited(
    name: str, interval: msg.Interval, failing_rows: int | None = 0, *, node: str = ORDERS, query: str = "SELECT 1"
) -> msg.AuditEvaluated:
    """Return one evaluation of an audit of `core.orders`."""
    position, blocking, args_hash = {"not_null": (0, True, "(id)"), "recent": (1, False, "")}[name]
    return msg.AuditEvaluated(node, name, position, args_hash, blocking, failing_rows, query, interval)


def audit_result(
    name: str, *intervals: msg.Interval, failing_rows: int = 0, query: str | None = "SELECT 1"
) -> AuditResult:
    """Return the combined result of evaluations that `audited` returns, each of which has failing rows or none."""
    position, blocking, args_hash = {"not_null": (0, True, "(id)"), "recent": (1, False, "")}[name]
    failed = intervals if failing_rows else ()
    shown = intervals[0] if failing_rows else None
    return AuditResult(name, position, args_hash, blocking, failing_rows, query, intervals, failed, shown=shown)


D1, D2, D3, D1_2 = days(1, 1), days(2, 2), days(3, 3), days(1, 2)
OPENED = opened(ORDERS)
TWO_BATCHES = msg.EvaluationPlanned({ORDERS: (D1, D2)})
ONE_BATCH = msg.EvaluationPlanned({ORDERS: (D1,)})
EMPTY_PLAN = msg.EvaluationPlanned({})
NO_BATCH = msg.EvaluationPlanned({ORDERS: ()})
SUCCEEDED = msg.EvaluationFinished("success")
FAILED = msg.EvaluationFinished("failure")
NOT_RUN = msg.EvaluationFinished("not_run")
NOTHING_TO_DO = msg.EvaluationFinished("nothing_to_do")
CANCELLED = msg.RequestFailed("EvaluationError", "The run was cancelled.")
CANNOT_CAST = "ConversionException: cannot cast 'x'"
CAST_FAILED = f"core.orders (models/orders.sql) failed for 2026-01-01.\n\n    {CANNOT_CAST}"
PARTLY_FAILED = (
    "core.orders (models/orders.sql) failed for 2026-01-02. 1 of 2 batches are computed and kept: 2026-01-01."
)
CAST_ERROR = {"errors": (CANNOT_CAST,), "needs_correction": True}
DIVISION = msg.NodeFailed(ORDERS, "ConversionException", CANNOT_CAST, ())
NOT_PROMOTED = (
    "Not promoted in environment prod, so not run. To promote the project's files:\n\n    cd /shop && sqlmesh plan"
    "\n\nIf its file was deleted, refresh the manifest, and then reload the definitions:\n\n"
    "    dg utils refresh-defs-state"
)
THREE_ROWS = "Audit not_null failed: 3 rows"
AUDITS = msg.NodeFailed(ORDERS, "NodeAuditsErrors", THREE_ROWS, ("not_null",))
AUDIT_ERROR = {"errors": (THREE_ROWS,), "failed_audits": ("not_null",), "needs_correction": True}
THREE_NULL, ONE_OLD = audited("not_null", D1, 3, query="SELECT 3"), audited("recent", D1, 1, query="SELECT 2")
KILLED = "SQLMesh's process was killed."
UNREPORTED = "SQLMesh ended the run without reporting an outcome for it."
NOT_DUE = "its cron '@daily' is not due"
IDLE = msg.NodeIdle(ORDERS, NOT_DUE, day(4), last_interval_end=day(3))
HELD_BACK = msg.NodeIdle(ORDERS, held_back=AFTER_STAGING)
PARTLY_HELD = msg.EvaluationPlanned({ORDERS: (D1,)}, {ORDERS: AFTER_STAGING})
NO_SIGNAL = msg.NodeIdle(
    ORDERS, held_back=msg.HeldBack((msg.Cause("signal", ORDERS, ("files_arrived", "bank_holiday")),))
)
NO_SIGNAL_UPSTREAM = msg.NodeIdle(ORDERS, held_back=msg.HeldBack((msg.Cause("signal", STAGING, ("landed",)),)))
ALL_COMPUTED = "all complete intervals are computed"
LOST = msg.NodeFailed(ORDERS, "OperationalError", "OperationalError: the connection was lost", (), is_transient=True)
NOTHING_DUE = "core.orders had nothing to do: its cron '@daily' is not due. Next due at 2026-01-04T00:00:00Z."
OF_REFUSED_ROWS = (
    f"{NOTHING_DUE} It may show rows that are old or refused: db.core.items (2026-01-02). Correct what has failed "
    "there, then launch a run of db.core.items without `start` and `end`: it computes these rows again."
)
AFTER_FAILURE = "core.orders was not executed, because a model upstream of it failed: staging.orders."
UNSELECTED = (
    "models upstream have pending intervals and are not part of this step: staging.orders. "
    "Select them too, with all models upstream of them"
)


SEVERITIES = {"not_null": ERROR, "recent": WARN}
"""The severity of each audit."""

COMPLETE = msg.IntervalCoverage(ORDERS, D1_2)
ONE_GAP = msg.IntervalCoverage(ORDERS, days(1, 1), (D2,), 1, 1, day(3))
COLUMNS = dg.TableSchema([dg.TableColumn("range"), dg.TableColumn("why")])
GAP = dg.TableRecord({"range": "2026-01-02", "why": "missing: a run computes it"})
MORE_GAPS = dg.TableRecord({"range": "and 2 newer gaps", "why": "missing"})
MANY_GAPS = msg.IntervalCoverage(ORDERS, days(1, 1), (D2,), 3, 5, day(3))


def code(text: str) -> str:
    """Return text as a block of code in Markdown."""
    return f"```\n{text}\n```"


def at(milliseconds: int) -> float:
    """Return epoch seconds, as in Dagster's metadata."""
    return milliseconds / 1000


# The first of two batches, and both: what the ledger knows of them, and their metadata.
FIRST = {"intervals": (D1,), "planned_batches": 2, "finished_batches": 1, "duration_ms": 5, "rows": 10, "bytes": 100}
FIRST_DAY = {
    "sqlmesh/intervals": "2026-01-01",
    "sqlmesh/computed_intervals": 1,
    "sqlmesh/seconds": 0.005,
    "sqlmesh/rows": 10,
    "sqlmesh/bytes": 100,
}
BOTH = {"intervals": (D1_2,), "planned_batches": 2, "finished_batches": 2, "duration_ms": 12, "rows": 30, "bytes": 300}
TWO_DAYS = "2026-01-01 to 2026-01-02 (2 days)"
BOTH_DAYS = {
    "sqlmesh/intervals": TWO_DAYS,
    "sqlmesh/computed_intervals": 2,
    "sqlmesh/batches": 2,
    "sqlmesh/seconds": 0.012,
    "sqlmesh/rows": 30,
    "sqlmesh/bytes": 300,
}


def outcome(kind: Outcome, **known: Any) -> NodeOutcome:
    return NodeOutcome(ORDERS, kind, PROMOTED, **known)


def passed(sentence: str, *more: Mapping[str, Any]) -> Reported:
    """Return what Dagster gets if the status check passes: the sentence, the metadata and the audits' checks."""
    return Reported(sentence, True, ERROR, *more)


def failed(sentence: str, *more: Mapping[str, Any]) -> Reported:
    return Reported(sentence, False, ERROR, *more)


def waits(sentence: str, metadata: Mapping[str, Any] | None = None) -> Reported:
    """Return what is reported for a model that waits, and whose audits have no earlier result."""
    return warned(sentence, metadata or {}, without_results(sentence))


def without_results(sentence: str) -> Mapping[str, Any]:
    """Return the checks of a model's audits if it was not executed and no run has evaluated them."""
    why = (
        f"Not evaluated: {sentence} No earlier result is repeated, because no run of Dagster has evaluated its audit. "
        "Execute this check alone to evaluate it."
    )
    return dict.fromkeys(SEVERITIES, (False, WARN, why))


def warned(sentence: str, *more: Mapping[str, Any]) -> Reported:
    return Reported(sentence, False, WARN, *more)


def both_audited(interval: msg.Interval) -> Events:
    return [audited(name, interval) for name in SEVERITIES]


def both_passed(interval: msg.Interval) -> tuple[AuditResult, ...]:
    return tuple(audit_result(name, interval) for name in SEVERITIES)


def both_checks(intervals: str) -> dict[str, tuple[bool, dg.AssetCheckSeverity, str | None]]:
    return {name: (True, severity, f"No failing rows in {intervals}.") for name, severity in SEVERITIES.items()}


ABOUT_IDLE = {"sqlmesh/reason": NOT_DUE, "sqlmesh/next_due": at(day(4)), "sqlmesh/computed_up_to": at(day(3))}

OUTCOME_TABLE = (
    Row(
        "executed: every planned batch finished with a duration",
        (
            OPENED,
            TWO_BATCHES,
            *both_audited(D1),
            batch(0, D1, duration_ms=5, rows=10, bytes=100),
            *both_audited(D2),
            COMPLETE,
            msg.TableComputed(ORDERS, 1_234),
            batch(1, D2, duration_ms=7, rows=20, bytes=200),
            SUCCEEDED,
        ),
        outcome(Outcome.EXECUTED, **BOTH, row_count=1_234, audits=both_passed(D1_2), coverage=COMPLETE),
        passed(
            f"core.orders was executed for {TWO_DAYS}.",
            {**BOTH_DAYS, "dagster/row_count": 1_234, "sqlmesh/coverage": TWO_DAYS},
            both_checks(TWO_DAYS),
        ),
    ),
    Row(
        "executed as far as what it reads: more is due, and a model upstream lacks it that is not selected",
        (OPENED, PARTLY_HELD, *both_audited(D1), batch(0, D1), SUCCEEDED),
        outcome(Outcome.EXECUTED, **{**FIRST, "planned_batches": 1}, audits=both_passed(D1), idle=HELD_BACK),
        passed(
            f"core.orders was executed for 2026-01-01. Its other intervals are waiting: {UNSELECTED}.",
            {**FIRST_DAY, "sqlmesh/waiting_for": UNSELECTED},
            both_checks("2026-01-01"),
        ),
    ),
    Row(
        "executed with a warning: the same, and a non-blocking audit failed",
        (OPENED, ONE_BATCH, audited("not_null", D1), ONE_OLD, batch(0, D1, rows=None, bytes=None), SUCCEEDED),
        outcome(
            Outcome.EXECUTED,
            **{**FIRST, "planned_batches": 1, "rows": None, "bytes": None},
            audits=(audit_result("not_null", D1), audit_result("recent", D1, failing_rows=1, query="SELECT 2")),
        ),
        passed(
            "core.orders was executed for 2026-01-01.",
            {"sqlmesh/intervals": "2026-01-01", "sqlmesh/computed_intervals": 1, "sqlmesh/seconds": 0.005},
            {
                "not_null": (True, ERROR, "No failing rows in 2026-01-01."),
                "recent": (False, WARN, "1 row failed in 2026-01-01."),
            },
        ),
    ),
    Row(
        "executed in the second attempt: the first one finished some batches, the second one the others",
        (
            OPENED,
            msg.EvaluationPlanned({ORDERS: (D2,)}),
            *both_audited(D2),
            msg.TableComputed(ORDERS, 30),
            batch(0, D2, duration_ms=7, rows=20, bytes=200),
            SUCCEEDED,
        ),
        outcome(Outcome.EXECUTED, **BOTH, row_count=30, audits=both_passed(D1_2), attempts=2),
        passed(
            f"core.orders was executed for {TWO_DAYS}.",
            {**BOTH_DAYS, "dagster/row_count": 30, "sqlmesh/attempts": 2},
            both_checks(TWO_DAYS),
        ),
        earlier=(OPENED, TWO_BATCHES, *both_audited(D1), batch(0, D1), audited("not_null", D2, 3), raised(1, D2), LOST),
    ),
    Row(
        "up to date: not planned, its cron is not due",
        (OPENED, EMPTY_PLAN, IDLE, NOTHING_TO_DO),
        outcome(Outcome.UP_TO_DATE, idle=IDLE),
        passed(NOTHING_DUE, ABOUT_IDLE, without_results(NOTHING_DUE)),
    ),
    Row(
        "up to date: a view of rows that are old or refused",
        (OPENED, EMPTY_PLAN, msg.UnacceptedRowsShown({ORDERS: {fqn("core.items"): (D2,)}}), IDLE, NOTHING_TO_DO),
        outcome(Outcome.UP_TO_DATE, idle=IDLE, unaccepted={fqn("core.items"): (D2,)}),
        warned(OF_REFUSED_ROWS, ABOUT_IDLE, without_results(OF_REFUSED_ROWS)),
    ),
    Row(
        "up to date: its data had no results of its audits, so they were evaluated",
        (
            OPENED,
            EMPTY_PLAN,
            IDLE,
            msg.NodesUpToDate((ORDERS,)),
            audited("not_null", D1_2),
            audited("recent", D1_2),
            NOTHING_TO_DO,
        ),
        outcome(Outcome.UP_TO_DATE, idle=IDLE, audits=both_passed(D1_2)),
        passed(NOTHING_DUE, ABOUT_IDLE, both_checks(TWO_DAYS)),
    ),
    Row(
        "waiting: planned without a ready interval, its own signals are not ready",
        (OPENED, NO_BATCH, MANY_GAPS, NO_SIGNAL, SUCCEEDED),
        outcome(Outcome.WAITING, idle=NO_SIGNAL, coverage=MANY_GAPS),
        waits(
            "core.orders is waiting: its signal files_arrived, bank_holiday has no interval ready.",
            {
                "sqlmesh/coverage": "2026-01-01",
                "sqlmesh/not_computed": dg.MetadataValue.table([GAP, MORE_GAPS], COLUMNS),
            },
        ),
    ),
    Row(
        "waiting: planned without a ready interval, a signal upstream is not ready",
        (OPENED, NO_BATCH, NO_SIGNAL_UPSTREAM, SUCCEEDED),
        outcome(Outcome.WAITING, idle=NO_SIGNAL_UPSTREAM),
        waits("core.orders is waiting: upstream model staging.orders is waiting for its signal landed."),
    ),
    Row(
        "waiting: planned without a ready interval, a model upstream is due and not selected",
        (OPENED, NO_BATCH, HELD_BACK, SUCCEEDED),
        outcome(Outcome.WAITING, idle=HELD_BACK),
        waits(f"core.orders is waiting: {UNSELECTED}."),
    ),
    Row(
        "waiting: planned without a ready interval, and no signal is known to be the reason",
        (OPENED, NO_BATCH, msg.NodeIdle(ORDERS), SUCCEEDED),
        outcome(Outcome.WAITING, idle=msg.NodeIdle(ORDERS)),
        waits("core.orders is waiting: none of its pending intervals is ready."),
    ),
    Row(
        "blocked: left out because something upstream failed",
        (OPENED, ONE_BATCH, msg.NodesBlocked({ORDERS: (STAGING,)}), FAILED),
        outcome(Outcome.BLOCKED, planned_batches=1, failed_upstream=(STAGING,)),
        warned(AFTER_FAILURE, {"sqlmesh/blocked_by": "staging.orders"}),
    ),
    Row(
        "blocked: the worker died, but not before SQLMesh had said so",
        (OPENED, ONE_BATCH, msg.NodesBlocked({ORDERS: (STAGING,)})),
        outcome(Outcome.BLOCKED, planned_batches=1, failed_upstream=(STAGING,)),
        warned(AFTER_FAILURE, {"sqlmesh/blocked_by": "staging.orders"}),
        worker_death=KILLED,
    ),
    Row(
        "failed: its batch ended without a duration and the failure list names it",
        (OPENED, ONE_BATCH, raised(0, D1), DIVISION, ONE_GAP, FAILED),
        outcome(Outcome.FAILED, not_computed=(D1,), planned_batches=1, coverage=ONE_GAP, **CAST_ERROR),
        failed(
            CAST_FAILED,
            {
                "sqlmesh/error": CANNOT_CAST,
                "sqlmesh/coverage": "2026-01-01",
                "sqlmesh/not_computed": dg.MetadataValue.table([GAP], COLUMNS),
            },
        ),
    ),
    Row(
        "failed in the second attempt: what the first one said is void",
        (OPENED, ONE_BATCH, raised(0, D1), DIVISION, FAILED),
        outcome(Outcome.FAILED, not_computed=(D1,), planned_batches=1, **CAST_ERROR, attempts=2),
        failed(CAST_FAILED, {"sqlmesh/error": CANNOT_CAST, "sqlmesh/attempts": 2}),
        earlier=(OPENED, ONE_BATCH, raised(0, D1), LOST),
    ),
    Row(
        "failed in the first attempt, and left out of the second: a plan has made due what it reads",
        (OPENED, NO_BATCH, HELD_BACK, SUCCEEDED),
        outcome(Outcome.FAILED, errors=(LOST.message,), idle=HELD_BACK, attempts=2),
        failed(
            f"core.orders (models/orders.sql) failed. A later attempt skipped it: {UNSELECTED}.\n\n    {LOST.message}",
            {"sqlmesh/error": LOST.message, "sqlmesh/attempts": 2},
        ),
        earlier=(OPENED, ONE_BATCH, raised(0, D1), LOST),
    ),
    Row(
        "failed: one batch failed an audit and another one raised, in the same words twice",
        (OPENED, TWO_BATCHES, raised(0, D1), raised(1, D2), DIVISION, DIVISION, AUDITS, FAILED),
        outcome(
            Outcome.FAILED,
            not_computed=(D1_2,),
            planned_batches=2,
            errors=(CANNOT_CAST, THREE_ROWS),
            failed_audits=("not_null",),
            needs_correction=True,
        ),
        failed(
            f"core.orders (models/orders.sql) failed for {TWO_DAYS}.\n\n    {CANNOT_CAST}\n\n    {THREE_ROWS}",
            {"sqlmesh/error": code(f"{CANNOT_CAST}\n{THREE_ROWS}"), "sqlmesh/failed_audits": "not_null"},
        ),
    ),
    Row(
        "audit failed: the cause is a blocking audit",
        (OPENED, ONE_BATCH, THREE_NULL, audited("recent", D1), raised(0, D1), AUDITS, FAILED),
        outcome(
            Outcome.AUDIT_FAILED,
            not_computed=(D1,),
            planned_batches=1,
            audits=(audit_result("not_null", D1, failing_rows=3, query="SELECT 3"), audit_result("recent", D1)),
            **AUDIT_ERROR,
        ),
        failed(
            "core.orders (models/orders.sql) failed its audit not_null (3 rows in 2026-01-01).",
            {"sqlmesh/error": THREE_ROWS, "sqlmesh/failed_audits": "not_null"},
            {
                "not_null": (False, ERROR, "3 rows failed in 2026-01-01."),
                "recent": (True, WARN, "No failing rows in 2026-01-01."),
            },
        ),
    ),
    Row(
        "partly executed: some batches finished, one failed",
        (OPENED, TWO_BATCHES, batch(0, D1), raised(1, D2), DIVISION, FAILED),
        outcome(Outcome.PARTLY_EXECUTED, **FIRST, not_computed=(D2,), **CAST_ERROR),
        failed(f"{PARTLY_FAILED}\n\n    {CANNOT_CAST}", {**FIRST_DAY, "sqlmesh/error": CANNOT_CAST}),
    ),
    Row(
        "partly executed: some batches finished, and the audit of the next one failed",
        (OPENED, TWO_BATCHES, batch(0, D1), audited("not_null", D2, 3), raised(1, D2), AUDITS, FAILED),
        outcome(
            Outcome.PARTLY_EXECUTED,
            **FIRST,
            not_computed=(D2,),
            audits=(audit_result("not_null", D2, failing_rows=3),),
            **AUDIT_ERROR,
        ),
        failed(
            f"{PARTLY_FAILED}\n\n    {THREE_ROWS}",
            {**FIRST_DAY, "sqlmesh/error": THREE_ROWS, "sqlmesh/failed_audits": "not_null"},
            {"not_null": (False, ERROR, "3 rows failed in 2026-01-02.")},
        ),
    ),
    Row(
        "interrupted: the worker died between two batches",
        (OPENED, TWO_BATCHES, batch(0, D1)),
        outcome(Outcome.INTERRUPTED, **FIRST, errors=(KILLED,)),
        failed(
            "core.orders was interrupted: SQLMesh's process was killed. Finished before that: 2026-01-01.",
            {**FIRST_DAY, "sqlmesh/error": KILLED},
        ),
        worker_death=KILLED,
    ),
    Row(
        "interrupted: the request failed as a whole while a batch ran",
        (OPENED, ONE_BATCH, msg.BatchStarted(ORDERS), CANCELLED),
        outcome(Outcome.INTERRUPTED, planned_batches=1, errors=(CANCELLED.message,), was_started=True),
        failed("core.orders was interrupted: The run was cancelled.", {"sqlmesh/error": CANCELLED.message}),
    ),
    Row(
        "interrupted: SQLMesh came to its end without a word about it",
        (OPENED, SUCCEEDED),
        outcome(Outcome.INTERRUPTED, errors=(UNREPORTED,)),
        warned(f"core.orders was not started: {UNREPORTED}", {"sqlmesh/error": UNREPORTED}),
    ),
    Row(
        "interrupted: a batch ended without a duration, and the failure list does not name it",
        (OPENED, ONE_BATCH, msg.BatchStarted(ORDERS), raised(0, D1), SUCCEEDED),
        outcome(Outcome.INTERRUPTED, planned_batches=1, errors=(UNREPORTED,), was_started=True),
        failed(f"core.orders was interrupted: {UNREPORTED}", {"sqlmesh/error": UNREPORTED}),
    ),
    Row(
        "interrupted: it was planned and not run, though SQLMesh also says that it had nothing to do",
        (OPENED, ONE_BATCH, msg.NodeIdle(ORDERS, ALL_COMPUTED), FAILED),
        outcome(Outcome.INTERRUPTED, planned_batches=1, errors=(UNREPORTED,)),
        warned(f"core.orders was not started: {UNREPORTED}", {"sqlmesh/error": UNREPORTED}),
    ),
    Row(
        "not in environment: in the project, not promoted",
        (opened(missing=(ORDERS,)), NOT_RUN),
        NodeOutcome(ORDERS, Outcome.NOT_IN_ENVIRONMENT, errors=(NOT_PROMOTED,)),
        failed(f"core.orders: {NOT_PROMOTED}", {"sqlmesh/error": code(NOT_PROMOTED)}),
    ),
)
