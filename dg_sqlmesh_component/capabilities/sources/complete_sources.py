"""For which instants a source is complete: the rule of docs/wait.md. Pure.

It is a function of the asset's definition, its loads, the results of its blocking checks, and the clock. A load is a
materialization.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from operator import attrgetter
from typing import NamedTuple

import dagster as dg

from dg_sqlmesh_component.capabilities.sources.partition_windows import (
    WindowsUntil,
    split_key,
    windows_by_key,
    windows_until,
)
from dg_sqlmesh_component.dagster_internals.assets import time_dimension
from dg_sqlmesh_component.protocol.graph import grouped
from dg_sqlmesh_component.protocol.intervals import merged, subtract
from dg_sqlmesh_component.protocol.messages import FOREVER, Interval


class Load(NamedTuple):
    """A materialization."""

    storage_id: int  # later loads have a greater one
    partition: str | None
    # When its run began, or when it was reported, in epoch milliseconds; None if its run was deleted.
    instant: int | None
    run_id: str = ""  # empty if it was reported
    complete_until: object | None = None  # the value of `sqlmesh/complete_until` as it is; None without

    @property
    def about(self) -> str | int:
        """What results of checks are about that are about it: its run, or it alone if it was reported."""
        return self.run_id or self.storage_id


class CheckStatus(Enum):
    """The result of a blocking check. `UNEVALUATED` was planned, and its run ended without a result."""

    PASSED = "passed"
    WARNED = "warned"
    FAILED = "failed"
    PLANNED = "planned"
    UNEVALUATED = "unevaluated"


_WITHOUT_RESULT = (CheckStatus.PLANNED, CheckStatus.UNEVALUATED)


class Target(NamedTuple):
    """The load that a check has looked at."""

    storage_id: int
    run_id: str


@dataclass(frozen=True)
class CheckResult:
    """A result of a blocking check, or its plan."""

    check: str
    run_id: str  # the run that has planned the check
    order: int  # later results have a greater one
    target: Target | None  # None without a result, and if the result names no load that Dagster knows
    partitions: frozenset[str] | None  # None if the check has none
    status: CheckStatus

    @property
    def about(self) -> str | int | None:
        """The run or the load to which the result applies, as `Load.about`; None if it names no load."""
        if self.status in _WITHOUT_RESULT:
            return self.run_id
        return (self.target.run_id or self.target.storage_id) if self.target else None


@dataclass(frozen=True)
class SourceHistory:
    """What the rule needs to know of an asset that loads a table."""

    partitions: dg.PartitionsDefinition[str] | None  # the definition of its partitions
    is_known: bool  # whether the code location defines or declares the asset. Otherwise, its partitions are not known.
    loads: Sequence[Load]  # those before the last one of a partition may be left out
    results: Sequence[CheckResult] = ()
    # The keys of each dynamic dimension, by its name.
    dynamic_keys: Mapping[str, Collection[str]] = field(default_factory=dict)
    lag: timedelta = timedelta(0)
    now: int = 0  # in epoch milliseconds


class Refusal(NamedTuple):
    """The check that refuses a load. Its result names no load if `is_of_all`: then it refuses each one."""

    check: str
    status: CheckStatus
    is_of_all: bool = False


@dataclass(frozen=True)
class Completeness:
    """The answer, and what explains it."""

    # The ranges for which the source is not complete, in order. The last one has no end (`FOREVER`).
    incomplete: tuple[Interval, ...]
    # The last load of each partition, of those that count.
    loads: Mapping[str | None, Load] = field(default_factory=dict)
    refusals: Mapping[str | None, Refusal] = field(default_factory=dict)  # the refused ones of them
    keys: Collection[str | None] = ()  # all partitions of an asset without time windows. Each of them must be loaded.
    has_earlier: bool = False  # whether it was materialized, but only before its partitions have changed


NOTHING: tuple[Interval, ...] = ((0, FOREVER),)
"""The incomplete ranges of a source that is complete for nothing."""


def completeness(source: SourceHistory) -> Completeness:
    """For which instants a source is complete."""
    fitting = _fitting(source)
    loads = {
        load.partition if source.is_known else None: load for load in sorted(fitting, key=attrgetter("storage_id"))
    }
    refusals = _refusals(source.results, loads)
    definition = source.partitions
    keys: Collection[str | None] = ()
    if not source.loads or has_two_time_dimensions(definition):
        incomplete = NOTHING
    elif definition is not None and time_dimension(definition) is not None:
        incomplete = _of_windows(source, definition, loads, refusals)
    else:
        keys = _keys(source)
        until = min((complete_until(loads.get(key), refusals.get(key), source.lag) for key in keys), default=0)
        incomplete = ((until, FOREVER),)
    return Completeness(incomplete, loads, refusals, keys, has_earlier=bool(source.loads) and not fitting)


def has_two_time_dimensions(definition: dg.PartitionsDefinition[str] | None) -> bool:
    """Whether both dimensions of the partitions are time windows."""
    return isinstance(definition, dg.MultiPartitionsDefinition) and all(
        isinstance(dimension.partitions_def, dg.TimeWindowPartitionsDefinition)
        for dimension in definition.partitions_defs
    )


# -- which loads count ----------------------------------------------------------------------------


def _fitting(source: SourceHistory) -> list[Load]:
    """The loads that fit the partitions of today. All that are older than one that does not are of earlier ones."""
    if not source.is_known:
        return list(source.loads)
    fits = _fits(source.partitions)
    changed = max((load.storage_id for load in source.loads if not fits(load.partition)), default=-1)
    return [load for load in source.loads if load.storage_id > changed]


def _fits(definition: dg.PartitionsDefinition[str] | None) -> Callable[[str | None], bool]:
    """Whether a load's partition may be one of a definition's.

    Any text may have been the key of a static or dynamic dimension: to remove a key does not change what others mean.
    A load without a partition says nothing about partitions.
    """
    if definition is None:
        return lambda partition: partition is None
    time = time_dimension(definition)
    windows = windows_by_key(time) if time else None
    if not isinstance(definition, dg.MultiPartitionsDefinition):
        return lambda key: key is None or windows is None or windows[key] is not None

    def fits_both(key: str | None) -> bool:
        parts = split_key(definition, key) if key is not None else None
        return key is None or (parts is not None and (windows is None or windows[parts[0]] is not None))

    return fits_both


# -- which loads are refused ----------------------------------------------------------------------


def _refusals(results: Sequence[CheckResult], loads: Mapping[str | None, Load]) -> dict[str | None, Refusal]:
    """The checks that refuse loads."""
    if not results:
        return {}
    refused_by = _refusal_of(results)
    return {key: refusal for key, load in loads.items() if (refusal := refused_by(load))}


def _refusal_of(results: Iterable[CheckResult]) -> Callable[[Load], Refusal | None]:
    """A function that finds the check that refuses a load; None if none does."""
    checks = grouped((result.check, result) for result in sorted(results, key=attrgetter("order")))
    for_all = [
        Refusal(check, CheckStatus.FAILED, is_of_all=True)
        for check, of_check in sorted(checks.items())
        if (last := next((r for r in reversed(of_check) if r.status not in _WITHOUT_RESULT), None))
        and last.target is None
        and last.status is CheckStatus.FAILED
    ]
    by_run: dict[str | int | None, dict[str, list[CheckResult]]] = defaultdict(lambda: defaultdict(list))
    for check, of_check in sorted(checks.items()):
        for result in of_check:
            by_run[result.about][check].append(result)

    def refused_by(load: Load) -> Refusal | None:
        if for_all:
            return for_all[0]
        for check, of_check in by_run.get(load.about, {}).items():
            newest = next((result for result in reversed(of_check) if _is_about(result, load)), None)
            if newest and newest.status in (CheckStatus.FAILED, *_WITHOUT_RESULT):
                return Refusal(check, newest.status)
        return None

    return refused_by


def _is_about(result: CheckResult, load: Load) -> bool:
    """Whether a result on a load's run is about the load. One without a result is about all loads of the run."""
    return result.status in _WITHOUT_RESULT or result.partitions is None or load.partition in result.partitions


# -- without time windows -------------------------------------------------------------------------


def _keys(source: SourceHistory) -> Collection[str | None]:
    """The partitions that must be loaded: all, or the asset itself if it has none."""
    definition = source.partitions
    if definition is None:
        return (None,)
    if isinstance(definition, dg.MultiPartitionsDefinition):
        first, second = (_keys_of(source, dimension.partitions_def) for dimension in definition.partitions_defs)
        return [f"{one}|{other}" for one in first for other in second]
    return [*_keys_of(source, definition)]


def _keys_of(source: SourceHistory, dimension: dg.PartitionsDefinition[str]) -> Collection[str]:
    if isinstance(dimension, dg.DynamicPartitionsDefinition) and dimension.name is not None:
        return source.dynamic_keys.get(dimension.name, ())
    return dimension.get_partition_keys()


def keys_of_other_dimension(source: SourceHistory) -> Collection[str] | None:
    """The keys of the dimension that is not time; None if there is none."""
    if not isinstance(source.partitions, dg.MultiPartitionsDefinition):
        return None
    time = time_dimension(source.partitions)
    [other] = [each.partitions_def for each in source.partitions.partitions_defs if each.partitions_def is not time]
    return _keys_of(source, other)


def complete_until(load: Load | None, refusal: Refusal | None, lag: timedelta) -> int:
    """The instant up to which an asset or partition without time windows is complete; 0 for nothing."""
    if load is None or refusal is not None:
        return 0
    if load.complete_until is not None:
        return stated_instant(load.complete_until) or 0
    return 0 if load.instant is None else max(0, load.instant - round(lag / timedelta(milliseconds=1)))


def stated_instant(value: object) -> int | None:
    """The instant that a loader states, in epoch milliseconds; None if it is no timestamp in seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return max(0, round(value * 1000)) if abs(value) * 1000 < FOREVER else None  # never with NaN


# -- with time windows ----------------------------------------------------------------------------


def _of_windows(
    source: SourceHistory,
    definition: dg.PartitionsDefinition[str],
    loads: Mapping[str | None, Load],
    refusals: Collection[str | None],
) -> tuple[Interval, ...]:
    """The incomplete ranges of an asset with one dimension of time windows."""
    time = time_dimension(definition)
    assert time is not None, "its partitions have time windows"
    windows = windows_until(time, source.now)
    whole = [load for key, load in loads.items() if key not in refusals]
    others = keys_of_other_dimension(source)
    if isinstance(definition, dg.MultiPartitionsDefinition) and others is not None:
        ends = _ends_of_all(definition, set(others), whole)
    else:
        ends = {load.partition or "": load.instant for load in whole if load.instant is not None}
    complete = merged([*_complete(windows, ends), *windows.excluded])
    return subtract([(windows.first, FOREVER)], complete)


def _ends_of_all(
    definition: dg.MultiPartitionsDefinition, others: Collection[str], loads: Iterable[Load]
) -> dict[str, int]:
    """By key of time, the earliest instant of the loads of all keys of the other dimension."""
    instants: dict[str, dict[str, int]] = defaultdict(dict)
    for load in loads:
        parts = split_key(definition, load.partition or "")
        if parts is not None and parts[1] in others and load.instant is not None:
            instants[parts[0]][parts[1]] = load.instant
    return {key: min(of.values()) for key, of in instants.items() if len(of) == len(others)}


def _complete(windows: WindowsUntil, instants: Mapping[str, int]) -> Iterator[Interval]:
    """The complete part of each window. A load before the end of a window cannot have all of its rows."""
    by_key, first, last = windows_by_key(windows.definition), windows.first, windows.last
    for key, instant in instants.items():
        window = by_key[key]
        if window is None or last is None or not first <= window[0] <= last or windows.excludes(window):
            continue  # the asset does not have this partition now
        if instant >= window[1]:
            yield window
        elif instant > window[0]:
            yield window[0], instant
