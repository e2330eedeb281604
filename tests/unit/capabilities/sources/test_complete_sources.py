"""For which instants a source is complete, by data: each row of the tables in docs/wait.md has a case."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pytest
from harness import REPOSITORY

from dg_sqlmesh_component.capabilities.sources.awaited import why_incomplete
from dg_sqlmesh_component.capabilities.sources.complete_sources import (
    CheckResult,
    CheckStatus,
    Load,
    SourceHistory,
    Target,
    completeness,
)
from dg_sqlmesh_component.capabilities.sources.partition_windows import windows_of
from dg_sqlmesh_component.protocol.messages import FOREVER, Interval

HOUR = 3_600_000
DAYS = dg.DailyPartitionsDefinition("2026-11-01")
WEEKS = dg.WeeklyPartitionsDefinition("2026-11-01")
MONTHS = dg.MonthlyPartitionsDefinition("2026-11-01")
COUNTRIES = dg.StaticPartitionsDefinition(["de", "us"])
CUSTOMERS = dg.DynamicPartitionsDefinition(name="customers")
NEW_YORK = dg.DailyPartitionsDefinition("2026-11-01", timezone="America/New_York")
"""The clocks change on the first day, so it has 25 hours."""
BOTH = dg.MultiPartitionsDefinition({"day": DAYS, "country": COUNTRIES})
NO_TIME = dg.MultiPartitionsDefinition({"team": dg.StaticPartitionsDefinition(["a"]), "country": COUNTRIES})
TWO_DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-03")
BY_CUSTOMER = dg.MultiPartitionsDefinition({"day": DAYS, "customer": CUSTOMERS})
TWO_TIMES = dg.MultiPartitionsDefinition({"day": DAYS, "month": MONTHS})
WITHOUT_SECOND = dg.TimeWindowPartitionsDefinition(
    "2026-11-01", "%Y-%m-%d", cron_schedule="0 0 * * *", exclusions=[datetime(2026, 11, 2)]
)
WEEKDAYS = dg.TimeWindowPartitionsDefinition(
    "2026-11-05", "%Y-%m-%d", cron_schedule="0 0 * * *", exclusions=["0 0 * * 6", "0 0 * * 0"]
)


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp() * 1000)


NOW = at("2026-11-20")
LATER = at("2026-11-19")
FIRST = at("2026-11-01")
NOTHING = ((0, FOREVER),)


def load(number: int, partition: str | None = None, instant: int | None = LATER, **more: Any) -> Load:
    """Return a load of its own run."""
    return Load(number, partition, instant, more.pop("run", f"run {number}"), **more)


def result(order: int, status: str, of: Load | None = None, *partitions: str, run: str = "", check: str = "ok") -> Any:
    target = None if of is None else Target(of.storage_id, of.run_id)
    return CheckResult(check, run, order, target, frozenset(partitions) or None, CheckStatus(status))


def until(instant: int | str) -> tuple[Interval, ...]:
    return ((at(instant) if isinstance(instant, str) else instant, FOREVER),)


@dataclass(frozen=True)
class Case:
    """A source, the ranges for which it is not complete, and a part of the sentence."""

    partitions: dg.PartitionsDefinition[Any] | None
    loads: Sequence[Load]
    incomplete: Sequence[Interval]
    why: str
    results: Sequence[CheckResult]
    options: dict[str, Any]

    @property
    def history(self) -> SourceHistory:
        options = {"is_known": True, "now": NOW, **self.options}
        return SourceHistory(self.partitions, loads=self.loads, results=self.results, **options)


def case(of: Any, loads: Any, incomplete: Sequence[Interval], why: str, *results: Any, **options: Any) -> Case:
    return Case(of, loads, incomplete, why, results, options)


ONE, TWO, THREE = (load(number, f"2026-11-0{number}") for number in (1, 2, 3))
RUN = [load(number, f"2026-11-0{number}", run="backfill") for number in (1, 2, 3)]
DE, US = load(1, "de", at("2026-11-10")), load(2, "us", at("2026-11-12"))
STATED = load(1, complete_until=at("2026-11-10") // 1000)
LATER_DE = DE._replace(complete_until=at("2026-11-15") / 1000)
TO_FRIDAY = [load(0, "2026-11-05"), load(1, "2026-11-06")]
LOADED_THREE = until("2026-11-04")
FROM_START = until(FIRST)
WITHOUT_TWO = ((at("2026-11-02"), at("2026-11-03")), *LOADED_THREE)
REFUSED, PASSED = result(9, "failed", RUN[2]), result(9, "passed", RUN[0])
PLANNED, UNEVALUATED = (result(0, status, run="backfill") for status in ("planned", "unevaluated"))
BY_EVENTS = "has failed on a load whose run was deleted"
"""Only the events of a run say so: the case is in test_sources.py."""

CASES: dict[str, list[Case]] = {
    "no partitions": [
        case(None, [], NOTHING, "was never materialized: materialize it once"),
        case(None, [load(1)], until(LATER), "by a run that began 2026-11-19T00:00:00Z"),
        case(None, [load(1, run="")], until(LATER), "was loaded last at 2026-11-19T00:00:00Z"),
        case(None, [load(1)], until(LATER - HOUR), "lag is 1:00:00", lag=timedelta(hours=1)),
        # What the loader states counts without the lag.
        case(None, [STATED], until("2026-11-10"), "as its loader says", lag=timedelta(hours=1)),
        case(None, [load(1), load(2, instant=FIRST)], until(FIRST), "began 2026-11-01T00:00:00Z"),
    ],
    "static or dynamic partitions, or two dimensions without time": [
        case(COUNTRIES, [DE, US], until("2026-11-10"), "in partition de by a run that began 2026-11-10"),
        case(COUNTRIES, [DE], NOTHING, "has no materialization of us"),
        case(CUSTOMERS, [DE, US], until("2026-11-12"), "in partition us", dynamic_keys={"customers": ["us"]}),
        case(CUSTOMERS, [DE], NOTHING, "has no partitions"),
        case(NO_TIME, [load(1, "de|a"), load(2, "us|a", FIRST)], until(FIRST), "in partition us|a"),
        case(NO_TIME, [load(1, "de|a")], NOTHING, "has no materialization of us|a"),
        case(COUNTRIES, [LATER_DE, US], until("2026-11-12"), "in partition us by"),
    ],
    "time-window partitions": [
        case(DAYS, [ONE, TWO, THREE], LOADED_THREE, "has no materialization of 2026-11-17, 2026-11-18, 2026-11-19"),
        case(DAYS, [ONE, THREE], WITHOUT_TWO, "materialization of 2026-11-17"),
        case(
            DAYS,
            [ONE, TWO._replace(instant=at("2026-11-02T10:00")), THREE],
            ((at("2026-11-02T10:00"), at("2026-11-03")), *LOADED_THREE),
            "was loaded at 2026-11-02T10:00:00Z, before its window was over, in partition 2026-11-02, and has no",
        ),
        case(DAYS, [ONE._replace(instant=at("2026-10-30"))], FROM_START, "before its window was over"),
        case(DAYS, [ONE._replace(instant=at("2026-11-02"))], until("2026-11-02"), "has no materialization"),
        case(NEW_YORK, [ONE], until("2026-11-02T05:00"), "2026-11-18 and 14 earlier ones"),
        case(WITHOUT_SECOND, [ONE, THREE], LOADED_THREE, "2026-11-19"),
        # A weekend is complete up to Monday, whose partition does not exist before it is over.
        case(WEEKDAYS, TO_FRIDAY, until("2026-11-09"), "is complete until", now=at("2026-11-09T12:00")),
        case(WEEKDAYS, TO_FRIDAY, until("2026-11-09"), "2026-11-09", now=at("2026-11-10T12:00")),
        # Everything before the first window is complete, even if that window is in the future, or after the end.
        case(dg.DailyPartitionsDefinition("2026-12-24"), [load(1)], until("2026-12-24"), "has no partition yet"),
        case(dg.DailyPartitionsDefinition("2026-11-05", end_date="2026-11-05"), [load(1)], until("2026-11-05"), "yet"),
        case(DAYS, [load(1, "2026-11-20")], FROM_START, "2026-11-19"),  # this window is not over, so it is no partition
    ],
    "a time dimension and another one": [
        case(
            BOTH,
            [load(1, "de|2026-11-01"), load(2, "us|2026-11-01", at("2026-11-01T06:00"))],
            until("2026-11-01T06:00"),
            "before its window was over, in partition us|2026-11-01",
        ),
        case(BOTH, [load(1, "de|2026-11-01")], FROM_START, "2026-11-19"),
        case(BY_CUSTOMER, [load(1, "a|2026-11-01")], FROM_START, "2026-11-19"),
        # To remove a customer does not complete less of the others. Otherwise a model that reads the whole table would
        # wait until somebody loads all days again.
        case(
            BY_CUSTOMER,
            [load(1, "a|2026-11-01"), load(2, "b|2026-11-01")],
            until("2026-11-02"),
            "2026-11-19",
            dynamic_keys={"customers": {"a"}},
        ),
    ],
    "two time dimensions": [
        case(TWO_TIMES, [load(1, "2026-11-01|2026-11-01")], NOTHING, "has two dimensions of time windows")
    ],
    "no load yet": [case(of, [], NOTHING, "was never materialized") for of in (None, DAYS, BOTH, TWO_TIMES)],
    "of a partition": [
        case(DAYS, [ONE, load(9, "2026-11-01", at("2026-11-01T08:00"))], until("2026-11-01T08:00"), "before its window")
    ],
    "refused": [case(None, [load(1, instant=FIRST), load(2)], NOTHING, "its check ok", result(9, "failed", load(2)))],
    "without a partition": [case(DAYS, [ONE, load(9)], until("2026-11-02"), "2026-11-19")],
    "with a partition": [
        case(None, [load(1), load(9, "de")], NOTHING, "was not materialized since its partitions have changed"),
        case(None, [load(9, "de")], until(LATER), "by a run that began", is_known=False),
        case(TWO_DAYS, [ONE, TWO, THREE], until("2026-11-03"), "is complete until 2026-11-03"),
        case(dg.DailyPartitionsDefinition("2026-11-02"), [ONE, TWO], until("2026-11-03"), "2026-11-19"),
    ],
    "after the partitions of an asset have changed": [
        case(WEEKS, [load(1, "2026-11-08"), load(2, "2026-11-09")], FROM_START, "since its partitions have changed"),
        case(WEEKS, [load(2, "2026-11-09"), load(3, "2026-11-01")], until("2026-11-08"), "2026-11-08"),
        case(MONTHS, [ONE, TWO], FROM_START, "since its partitions have changed"),
        case(BOTH, [load(1, "de|2026-11-01"), load(2, "us|2026-11-01"), load(3, "2026-11-01")], FROM_START, "changed"),
        case(DAYS, [ONE, load(9, "2025-11-01"), load(10, "2026-12-24")], until("2026-11-02"), "2026-11-19"),
        case(
            WEEKDAYS,
            [load(1, "2026-11-05"), load(2, "2026-11-07")],
            ((at("2026-11-06"), at("2026-11-07")), (at("2026-11-09"), at("2026-11-14")), (at("2026-11-16"), FOREVER)),
            "2026-11-19",
        ),
        case(COUNTRIES, [DE, US, load(9, "fr")], until("2026-11-10"), "in partition de"),
    ],
    "of a deleted run": [
        case(None, [load(1, instant=None)], NOTHING, "was loaded last by a run that was deleted: materialize it again"),
        case(COUNTRIES, [DE._replace(instant=None), US], NOTHING, "in partition de by a run that was deleted"),
        case(DAYS, [ONE._replace(instant=None)], FROM_START, "by a run that was deleted, in partition 2026-11-01"),
    ],
    "has failed (a warning is no failure)": [
        case(DAYS, RUN, FROM_START, "check ok in partition 2026-11-01, 2026-11-02, 2026-11-03", REFUSED),
        case(DAYS, [ONE, TWO], until("2026-11-02"), "check ok in partition 2026-11-02", result(9, "failed", TWO)),
        case(None, [load(1), load(2)], until(LATER), "by a run that began", result(9, "failed", load(1))),
        case(COUNTRIES, [DE, US], NOTHING, "check ok in partition de", result(9, "failed", DE)),
        case(DAYS, RUN, LOADED_THREE, "no materialization", result(9, "warned", RUN[2])),
        case(DAYS, RUN, WITHOUT_TWO, "check ok in partition 2026-11-02", result(9, "failed", RUN[1], "2026-11-02")),
        case(
            DAYS,
            [*RUN[:2], load(9, "2026-11-03")],
            ((FIRST, at("2026-11-03")), *LOADED_THREE),
            "check ok in partition 2026-11-01, 2026-11-02",
            result(8, "failed", RUN[2]),
        ),
        case(
            DAYS,
            [ONE._replace(run_id=""), TWO._replace(run_id="")],
            until("2026-11-02"),
            "check ok in partition 2026-11-02",
            result(9, "failed", TWO._replace(run_id="")),
        ),
    ],
    "has passed later on one of these loads": [
        case(DAYS, RUN, LOADED_THREE, "no materialization", result(8, "failed", RUN[2]), PASSED),
        case(DAYS, RUN, FROM_START, "check ok", REFUSED, result(8, "passed", RUN[0])),
        case(DAYS, RUN, FROM_START, "check other in", result(8, "failed", RUN[2], check="other"), PASSED),
    ],
    "was planned in the run of the load, and has no result yet": [
        case(DAYS, RUN, FROM_START, "has no result of its check ok yet in partition", PLANNED),
        case(DAYS, RUN, FROM_START, "because the run has ended without one: execute the check", UNEVALUATED),
        case(DAYS, RUN, LOADED_THREE, "no mat", PLANNED, result(9, "passed", RUN[2])),
        case(DAYS, [ONE], until("2026-11-02"), "no materialization", result(9, "planned", run="another")),
        case(None, [load(1)], NOTHING, "has no result of its check ok yet", result(0, "planned", run="run 1")),
    ],
    "has failed, and its result names no materialization": [
        case(DAYS, RUN, FROM_START, "check ok, which names no materialization", result(9, "failed")),
        case(DAYS, RUN, LOADED_THREE, "no materialization", result(8, "failed"), result(9, "passed")),
        case(
            DAYS, RUN, FROM_START, "which names no materialization", result(8, "failed"), result(9, "planned", run="x")
        ),
        case(DAYS, RUN, LOADED_THREE, "no materialization", result(9, "passed")),
    ],
    BY_EVENTS: [],
}
"""By the first cell of a row."""


@pytest.mark.parametrize("case", [pytest.param(case, id=row) for row, cases in CASES.items() for case in cases])
def test_a_row_of_the_tables_in_the_docs_is_true(case: Case) -> None:
    found = completeness(case.history)
    assert found.incomplete == tuple(case.incomplete)
    assert case.why in why_incomplete(case.history, found)


def test_each_row_of_the_tables_in_the_docs_has_cases() -> None:
    rules = (REPOSITORY / "docs" / "wait.md").read_text().split("## Look up when a source is complete")[1]
    rows = re.findall(r"^\| (.+?) \|.*\n", rules, re.MULTILINE)
    headers = {"the asset has", "which load counts", "a blocking check"}
    assert [row for row in rows if row not in headers] == list(CASES)
    assert [row for row, cases in CASES.items() if not cases] == [BY_EVENTS]


@pytest.mark.parametrize(
    ("earlier", "partitions"),
    [
        ("2026-11-02", dg.HourlyPartitionsDefinition(start_date="2026-11-01-00:00")),
        ("2026-11-02", WEEKS),
        ("2026-11-02", MONTHS),
        ("2026-11-02", BOTH),
        ("2026-11-02|de", DAYS),
        ("de", DAYS),
    ],
)
def test_partitions_that_the_asset_had_before_have_no_window(
    earlier: str, partitions: dg.PartitionsDefinition[str]
) -> None:
    """Dagster finds a window for some of these keys: for a day, the week or month after it."""
    assert windows_of(partitions, [earlier]) == {}
    assert completeness(SourceHistory(partitions, True, [load(1, earlier)], now=NOW)).incomplete == FROM_START


@pytest.mark.parametrize(
    "value", ["2026-11-24", "1795000000", 1_795_000_000_000, float("nan"), float("inf"), {"at": 1}, True, "null"]
)
@pytest.mark.parametrize("partitions", [None, dg.StaticPartitionsDefinition(["de"])])
def test_a_stated_instant_that_is_no_timestamp_in_seconds_completes_nothing_and_is_named(
    value: object, partitions: dg.PartitionsDefinition[str] | None
) -> None:
    of = Load(1, "de" if partitions else None, LATER, "run", value)
    source = SourceHistory(partitions, True, [of], lag=timedelta(hours=1), now=NOW)
    found = completeness(source)
    assert found.incomplete == NOTHING
    where = " in partition de" if partitions else ""
    sentence = f"has {value!r} as `sqlmesh/complete_until`{where}, which is no timestamp in seconds"
    assert why_incomplete(source, found) == sentence


@pytest.mark.parametrize("key", ["", "0001-01-01", "9999-12-31", "2026-11-1", "x" * 1000, "\0", "|", "a|b|c"])
@pytest.mark.parametrize("partitions", [None, DAYS, WEEKS, MONTHS, COUNTRIES, CUSTOMERS, BOTH, NO_TIME, TWO_TIMES])
def test_no_key_of_a_partition_raises_an_error(partitions: dg.PartitionsDefinition[str] | None, key: str) -> None:
    """Anybody may report any text."""
    source = SourceHistory(partitions, True, [load(1, key)], now=NOW)
    found = completeness(source)
    assert found.incomplete[-1][1] == FOREVER
    assert why_incomplete(source, found)


def test_a_sentence_about_an_awaited_range_names_what_is_missing_in_it() -> None:
    hours = dg.HourlyPartitionsDefinition("2026-11-01-00:00")
    keys = [key for key in hours.get_partition_keys(datetime(2026, 11, 10)) if key != "2026-11-05-07:00"]
    source = SourceHistory(hours, True, [load(number, key) for number, key in enumerate(keys, 1)], now=NOW)
    assert why_incomplete(source, completeness(source)).startswith("has no materialization of 2026-11-19-21:00")
    awaited = (at("2026-11-05"), at("2026-11-06"))
    assert why_incomplete(source, completeness(source), [awaited]) == "has no materialization of 2026-11-05-07:00"
