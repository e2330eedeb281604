"""Random histories of a model with one audit: what its check shows, compared with a simulated table.

The oracle was written from docs/ and the descriptions of the data alone, without a look at the rule. It keeps the rows
of each hour and evaluates the audit itself. So it knows which hours the reported results were about, whether these have
bad rows now, and whether anything has altered the table or the audit since the last evaluation.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from typing import Any

import dagster as dg
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.builders import HOUR, audit, day, manifest, model, project_assets
from unit.outcome_table import ALL_COMPUTED, ERROR, ORDERS, WARN

from dg_sqlmesh_component.history.earlier_results import NOT_EVALUATED, EarlierResult, data_in
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.intervals import merged
from dg_sqlmesh_component.report.checks import Checks
from dg_sqlmesh_component.report.outcomes import AuditOnlyOutcome, AuditResult, NodeOutcome, Outcome
from dg_sqlmesh_component.report.wording import Wording

Hours = set[int]
Reported = NodeOutcome | AuditOnlyOutcome
CHECK = dg.AssetCheckKey(dg.AssetKey(["core", "orders"]), "not_null")
END, MINUTE, FIRST = 7, 60_000, day(1)
OTHER = {"prod": "dev", "dev": "prod"}


@cache
def wording(is_whole: bool, is_blocking: bool, environment: str) -> Wording:
    kind = "FULL" if is_whole else "INCREMENTAL_BY_TIME_RANGE"
    orders = model("core.orders", kind=kind, audits=(audit("not_null", blocking=is_blocking),))
    return Wording(project_assets(manifest(orders)), environment)


def ranges(of: Iterable[int]) -> tuple[msg.Interval, ...]:
    return merged((FIRST + hour * HOUR, FIRST + (hour + 1) * HOUR) for hour in of)


def in_ranges(of: Hours) -> list[Hours]:
    return [{hour for hour in of if start <= FIRST + hour * HOUR < end} for start, end in ranges(of)]


@dataclass
class Table:
    """A version of the model: its rows, and SQLMesh's state of it."""

    version: str
    rows: dict[int, int] = field(default_factory=dict)  # by hour, the definitions of the audit that it fails, as bits
    computed: Hours = field(default_factory=set)
    altered_at: int | None = None


@dataclass
class Known:
    """The last evaluation in an environment, and what it and earlier ones have found in the same table."""

    about: tuple[msg.AuditedData, int | None] = msg.AuditedData("", ""), None
    claimed: Hours = field(default_factory=set)  # the hours that were audited and that nobody else has written since
    failed: Hours = field(default_factory=set)  # the hours that have failed, and have not passed since
    origin: tuple[str, float] = "", 0  # its run and time
    has_failed: bool = False  # whether the model has failed in that run or in a later one
    result: tuple[bool, object] | None = None


@dataclass
class Report:
    """The result of the check after one run, and what the oracle knows."""

    node: Reported
    idle: msg.NodeIdle | None  # only if the model waits or is up to date
    is_declared: bool  # whether the run was one of the declared environment
    result: dg.AssetCheckResult | None
    is_repeated: bool
    last: Known | None  # the last evaluation, if the data and the audit have not changed since
    untrue: Hours  # the hours that reported results are about, and that are bad now
    now: Known | None  # the evaluation of this run


class World:
    def __init__(self, seed: int, is_whole: bool, is_blocking: bool) -> None:
        self.rng, self.now, self.versions = Random(seed), day(2), 0
        self.is_whole, self.is_blocking, self.due = is_whole, is_blocking, self.rng.randint(1, END)
        self.known, self.earlier = {"prod": Known(), "dev": Known()}, dict[str, EarlierResult]()
        self.shown = dict.fromkeys(OTHER, self._new_table())  # both environments show the same table at first
        self.definition = dict.fromkeys(OTHER, 0)  # of the audit; an odd number looks for other rows

    def happens(self) -> Report | None:
        rng, kind = self.rng, self.rng.random()
        self.now += rng.randint(1, 3) * MINUTE
        self.due = min(END, self.due + (rng.random() < 0.2))
        environment = self.environment = rng.choices(("prod", "dev"), (5, 1))[0]
        if kind < 0.07:  # a plan promotes a new version, or that of the other environment
            self.shown[environment] = rng.choice([self.shown[OTHER[environment]], self._new_table()])
        elif kind < 0.12:  # a plan changes this audit, or another one of the model
            self.definition[environment] += rng.choice((1, 2))
        elif kind < 0.2:
            self._alter(self.shown[environment])
        self.table, definition = self.shown[environment], self.definition[environment]
        self.data, self.bit = msg.AuditedData(self.table.version, f"a{definition}"), 1 + definition % 2
        self.promoted = msg.PromotedVersion(self.table.version, "1001", "2001")
        if kind < 0.2:
            return None
        return self._report(*(self._run() if kind < 0.55 else self._alone() if kind < 0.67 else self._idle()))

    def _new_table(self) -> Table:
        self.versions += 1
        table = Table(f"v{self.versions}")
        if self.rng.random() < 0.6:
            self._alter(table, set(range(self.due)))
            table.altered_at = self.now - self.rng.randint(0, 30) * MINUTE  # the plan promotes it later
        return table

    def _alter(self, table: Table, hours: Hours | None = None) -> None:
        """A plan or a shell computes hours, none that fail a blocking audit: SQLMesh's state would not show them."""
        hours = hours or self._some()
        self._write(table, hours, None, may_be_bad=not self.is_blocking)
        table.computed |= hours
        table.altered_at = self.now

    def _some(self) -> Hours:
        start = self.rng.randrange(self.due)
        return set(range(self.due) if self.is_whole else range(start, min(start + self.rng.randint(1, 3), self.due)))

    def _write(self, table: Table, hours: Hours, auditor: str | None, may_be_bad: bool = True) -> None:
        table.rows |= {hour: self.rng.choice((0, 0, 0, 1, 2, 3)) * may_be_bad for hour in hours}
        for environment, known in self.known.items():
            if environment != auditor and known.about[0].version == table.version:
                known.claimed -= hours

    def _bad(self, hours: Iterable[int]) -> Hours:
        return {hour for hour in hours if self.table.rows.get(hour, 0) & self.bit}

    def _audit(self, batches: list[Hours], error: str | None = None) -> tuple[AuditResult, ...]:
        audited = {hour for batch in batches for hour in batch}
        failed = batches if error else [batch for batch in batches if self._bad(batch)]
        rows, of_failed = 0 if error else len(self._bad(audited)), ranges(hour for batch in failed for hour in batch)
        found = rows, "SELECT 1", ranges(audited), of_failed, self.is_whole, self.data, error
        return (AuditResult("not_null", 0, "", self.is_blocking, *found, shown=of_failed[0] if rows else None),)

    def _audit_all(self) -> tuple[tuple[AuditResult, ...], list[Hours]]:
        """All computed hours, or the whole table. Sometimes the evaluation raises an error."""
        batches = [set(self.table.rows)] if self.is_whole else in_ranges(self.table.computed)
        return self._audit(batches, "division by zero" if self.rng.random() < 0.1 else None), batches

    def _run(self) -> tuple[Reported, list[Hours]]:
        """Pending hours are computed, or others are restated. If one fails, others may not be started."""
        table, done, audited = self.table, set[int](), list[Hours]()
        hours = set(range(self.due)) - table.computed
        if not hours or self.rng.random() < 0.3:
            hours = self._some()
            table.computed -= hours
        if self.is_whole:
            hours = set(range(self.due))
        is_single = not self.is_whole and self.rng.random() < 0.5
        for batch in [{hour} for hour in sorted(hours)] if is_single else in_ranges(hours):
            # An error before the audit. State does not show these rows, so a model that waits then may repeat a result.
            if self.rng.random() < 0.1:
                self._write(table, batch, None)
                break
            audited.append(batch)
            self._write(table, batch, self.environment)
            if not (self.is_blocking and self._bad(batch)):
                done |= batch
                table.altered_at = self.now
            elif self.rng.random() < 0.5:
                break
        table.computed |= done
        failed = Outcome.PARTLY_EXECUTED if done else Outcome.AUDIT_FAILED if audited else Outcome.FAILED
        outcome = Outcome.EXECUTED if done == hours else failed
        by = ("not_null",) if self.is_blocking and any(map(self._bad, audited)) else ()
        node = NodeOutcome(ORDERS, outcome, self.promoted, ranges(done), ranges(hours - done), failed_audits=by)
        audits = self._audit(audited) if audited else ()
        return replace(node, was_started=True, computed_until=self.now + 1, audits=audits), audited

    def _alone(self) -> tuple[Reported, list[Hours]]:
        audits, batches = self._audit_all() if self.table.computed else ((), [])
        missing, error = ranges(set(range(self.due)) - self.table.computed), None if audits else "Never computed."
        return AuditOnlyOutcome(ORDERS, audits, missing, error, None, self.now, self.table.altered_at), batches

    def _idle(self) -> tuple[Reported, list[Hours]]:
        """The model waits, or has nothing to do, also because the run's `start` and `end` leave out pending hours."""
        computed = self.table.computed
        waits = computed < set(range(self.due)) and self.rng.random() < 0.8
        causes = (msg.Cause("signal", ORDERS, ("files_arrived",)),) if waits else ()
        idle = msg.NodeIdle(ORDERS, None if waits else ALL_COMPUTED, held_back=msg.HeldBack(causes))
        end = ranges(computed)[-1][1] if computed else None
        idle = replace(idle, last_interval_end=end, audited_data=self.data, altered_at=self.table.altered_at)
        node = NodeOutcome(ORDERS, Outcome.WAITING if waits else Outcome.UP_TO_DATE, self.promoted, idle=idle)
        result = self._result(node)
        if waits or not computed or (result and NOT_EVALUATED not in result.metadata and self.rng.random() < 0.9):
            return node, []
        audits, batches = self._audit_all()
        return replace(node, audits=audits), batches

    def _result(self, node: Reported) -> dg.AssetCheckResult | None:
        # The result of the other environment, only to see that it is not repeated.
        of_other = None if node.audits else self.earlier.get(OTHER[self.environment])
        checks = Checks(wording(self.is_whole, self.is_blocking, self.environment), self.now)
        return checks.result(CHECK, node, self.earlier.get(self.environment, of_other))

    def _report(self, node: Reported, batches: list[Hours]) -> Report:
        table, known, about = self.table, self.known[self.environment], (self.data, self.table.altered_at)
        last, is_evaluated = known if known.about == about else None, any(not audit.error for audit in node.audits)
        self.now += MINUTE
        origin = f"run {self.now}", self.now / 1000
        if is_evaluated:
            audited = {hour for batch in batches for hour in batch}
            failed = {hour for batch in batches if self._bad(batch) for hour in batch}
            old = known if known.about[0].version == table.version and not self.is_whole else Known()
            claimed = audited | (old.claimed if old.about[0] == self.data else old.claimed & old.failed)
            known = self.known[self.environment] = Known(about, claimed, failed | (old.failed - audited), origin)
        known.has_failed |= isinstance(node, NodeOutcome) and node.outcome.is_failure
        if self.rng.random() < 0.15:  # somebody alters the table before the result is stored
            self._alter(table)
            if isinstance(node, AuditOnlyOutcome) and self.rng.random() < 0.5:
                node = replace(node, altered_at=table.altered_at)
        result = self._result(node)
        shown: dict[str, Any] = {key: value.value for key, value in result.metadata.items()} if result else {}
        if result and is_evaluated:
            known.result = result.passed, result.severity
        if result and NOT_EVALUATED not in shown:
            run, at = shown.get("sqlmesh/evaluated_in_run", origin[0]), shown.get("sqlmesh/evaluated_at", origin[1])
            what = result.passed, result.severity, run, at, data_in(result.metadata), result.metadata
            text = shown.get("sqlmesh/evaluated_result", str(result.description))
            self.earlier[self.environment] = EarlierResult(*what, text)
        idle = node.idle if isinstance(node, NodeOutcome) and node.outcome.rule.repeats else None
        untrue = self._bad(known.claimed if known.about[0].version == table.version else ())
        is_declared, is_repeated = self.environment == "prod", "sqlmesh/carried_over" in shown
        return Report(node, idle, is_declared, result, is_repeated, last, untrue, known if is_evaluated else None)


def reports(world: World) -> Iterator[Report]:
    return filter(None, (world.happens() for _ in range(12)))


def in_worlds(test: Callable[[World], None]) -> Callable[[], None]:
    worlds = st.builds(World, st.integers(0, 2**32), st.booleans(), st.booleans())
    return settings(max_examples=8 * settings().max_examples)(given(worlds)(test))


@in_worlds
def test_a_passed_check_is_true(world: World) -> None:
    for report in reports(world):
        if report.result and report.result.passed:
            assert report.now or report.is_repeated, report
            assert not report.untrue, report


@in_worlds
def test_an_idle_model_has_a_result_or_a_reason(world: World) -> None:
    for report in reports(world):
        if report.idle and report.is_declared:
            assert report.result, report
            if not report.now and not report.is_repeated:
                assert (report.result.passed, report.result.severity) == (False, WARN), report
                before, _, reason = str(report.result.description).partition("Not evaluated: ")
                assert (before, bool(reason)) == ("", True), report


@in_worlds
def test_a_check_passes_if_everything_that_failed_has_passed_since(world: World) -> None:
    for report in reports(world):
        if report.now and not report.now.failed:
            assert report.now.result == (True, ERROR if world.is_blocking else WARN), report


@in_worlds
def test_the_result_of_unchanged_data_is_repeated_with_its_run_and_time(world: World) -> None:
    for report in reports(world):
        if report.is_repeated and report.result:
            assert report.last, report
            assert report.idle, report
            assert not report.now, report
            assert (report.result.passed, report.result.severity) == report.last.result, report
            run, at = (report.result.metadata[f"sqlmesh/evaluated_{key}"].value for key in ("in_run", "at"))
            assert (run, at) == report.last.origin, report
        elif report.idle and report.is_declared and report.last and not report.node.audits:
            assert report.last.has_failed or not report.idle.last_interval_end, report
