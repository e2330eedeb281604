"""Decide which rows an environment does not show any more after a plan: what is shown minus what will be shown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from dg_sqlmesh_component.capabilities.plans.messages import LostRows
from dg_sqlmesh_component.protocol.graph import parents_first
from dg_sqlmesh_component.protocol.intervals import ALL_TIME, common, merged, subtract
from dg_sqlmesh_component.protocol.messages import Interval

EARLIEST, LATEST = ALL_TIME

Shows = Literal["sources", "whole", "ranges"]
"""Which rows a model shows: all rows of its query, without a computation; all, once it is computed; or a range."""


@dataclass(frozen=True)
class ShownVersion:
    """A version of a model, as far as it decides which rows the environment shows.

    Attributes:
        computed: Its intervals. A view and an embedded model need none.
        limits: Asks SQLMesh, which renders a query for the answer, whether a range has no rows before its start, and
            none after its end. Of a query that does not use its range, it has all.
        appends: Whether each computation adds its rows, also to rows of the same interval.
        has_past: Whether it has rows that no computation brings back if the source has lost them.
    """

    shows: Shows
    computed: Sequence[Interval] = ()
    limits: Callable[[], tuple[bool, bool]] = lambda: (True, True)
    has_past: bool = False
    appends: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it shows no row, because nothing is computed."""
        return self.shows != "sources" and not self.computed

    def rows(self) -> tuple[tuple[Interval, ...], bool]:
        """The time of the rows, and whether rows without a time are shown, too."""
        if self.is_empty:
            return (), False
        from_start, to_end = self.limits() if self.shows == "ranges" else (False, False)
        if from_start and to_end:
            return merged(self.computed), False
        start = self.computed[0][0] if from_start else EARLIEST
        end = self.computed[-1][1] if to_end else LATEST
        return ((start, end),), not (from_start or to_end)


@dataclass(frozen=True)
class ChangedModel:
    """What a plan does to a model.

    Attributes:
        reads: The other changed models that it reads, by name.
        before: The version that the environment shows; None if it shows none.
        after: The version that it will show. Its intervals include those that the plan computes.
        keeps_rows: Whether the new version fills the table of the old one.
        replaced_at: If it keeps the table, and a computation replaces all its rows: the time of the next one, epoch
            milliseconds; 0 if the plan does it. None: the rows stay.
        is_redefined: Whether its own definition has changed, and not only that of a model upstream.
        is_computed: Whether the plan computes an interval of it.
        waiting: The intervals that the plan leaves out, because awaited tables are not complete for them.
        pending: Asks SQLMesh what a run would compute right after the plan.
        not_loaded: Asks which of these such a run would leave out, because awaited tables are not complete for them.
        computed_until: Up to when runs have computed it at an instant.
        first_due: If it is computed as a whole, and neither the plan nor the next run does it: when its first interval
            becomes due, epoch milliseconds. Else 0.
        end: The instant from which on runs compute nothing; None without an `end` of the model.
    """

    reads: Collection[str]
    before: ShownVersion | None
    after: ShownVersion
    keeps_rows: bool = False
    replaced_at: int | None = None
    is_redefined: bool = True
    is_computed: bool = True
    waiting: Sequence[Interval] = ()
    pending: Callable[[], Sequence[Interval]] = lambda: ()
    not_loaded: Callable[[], Sequence[Interval]] = lambda: ()
    computed_until: Callable[[int], int] = lambda at: at
    first_due: int = 0
    end: int | None = None


@dataclass(frozen=True)
class Losses:
    """What a model loses.

    Attributes:
        own: By its own change.
        read: Only because it shows or reads rows of other models that lose them.
        at: When it loses them, epoch milliseconds; 0: by the plan.
        causes: These models, by name.
    """

    own: LostRows
    read: LostRows
    causes: tuple[str, ...]
    at: int = 0


NO_LOSSES = Losses(LostRows(), LostRows(), ())


def appended_again(change: ChangedModel, missing: Sequence[Interval]) -> tuple[Interval, ...]:
    """The rows that a table which stays may have already, and that its new version appends once more.

    Args:
        missing: What the plan computes.
    """
    before = change.before
    if before is None or before.is_empty or before.appends or not (change.keeps_rows and change.after.appends):
        return ()
    shown, _ = before.rows()
    since = min(start for start, _ in [*missing, (before.computed[-1][1], LATEST)])
    return common(subtract(shown, before.computed), [(since, LATEST if change.end is None else change.end)])


def lost_rows(changes: Mapping[str, ChangedModel]) -> dict[str, Losses]:
    """What each changed model loses, by name. Models that lose nothing are left out."""
    found: dict[str, Losses] = {}
    handed_on: dict[str, _HandedOn] = {}
    for name in parents_first(changes, lambda name: changes[name].reads):
        change = changes[name]
        stays = change.keeps_rows and change.after.shows != "sources"
        own = LostRows() if stays else _own(change)
        of_parents = [handed_on[parent] for parent in change.reads if parent in handed_on]
        read = _without(_seen_by(change, of_parents), own)
        causes = {cause for of_parent in of_parents for cause in of_parent.causes} if read else set[str]()
        if own or read:
            lost, until = _together([own, read]), [change.computed_until, *(of.computed_until for of in of_parents)]
            empty_until = max([change.first_due, *(of.empty_until for of in of_parents)])
            handed_on[name] = _HandedOn(
                lost, {*causes, name} if own else causes, partial(_earliest, until), empty_until
            )
            if change.before is not None:
                found[name] = Losses(own, read, tuple(sorted(causes)), change.replaced_at or 0)
    return found


@dataclass(frozen=True)
class _HandedOn:
    """What a model hands on to those that read it: the rows that it loses, and as in `Losses` and `ChangedModel`.

    `empty_until`: The instant before which it, or a table that it shows, has no row at all; 0 if it has rows.
    """

    lost: LostRows
    causes: Collection[str]
    computed_until: Callable[[int], int]
    empty_until: int = 0

    def still_lost(self, at: int) -> LostRows:
        """Without the rows that runs have computed again at an instant."""
        lost = self.lost
        if at < self.empty_until:
            return lost
        back = [*lost.until_run, *common(lost.until_later_runs, [(EARLIEST, self.computed_until(at))])]
        left = subtract(lost.until_later_runs, back)
        return replace(lost, intervals=subtract(lost.intervals, back), until_run=(), until_later_runs=left)


def _earliest(of_models: Iterable[Callable[[int], int]], at: int) -> int:
    return min(until(at) for until in of_models)


def _own(change: ChangedModel) -> LostRows:
    before, after = change.before, change.after
    if before is None or before.is_empty:
        return LostRows()
    lost, without_time = _difference(before, change)

    def brought_back(by: Sequence[Interval]) -> tuple[Interval, ...]:
        return common(lost, by) if after.shows == "ranges" else lost if by else ()

    pending = change.pending() if lost else ()
    held_back = brought_back(change.not_loaded()) if pending else ()
    # Rows of a time for which the old version was not computed may be there, but nobody has promised them.
    promised = common(held_back, before.computed) if after.shows == "ranges" else held_back
    not_loaded = merged([*brought_back(change.waiting), *promised])
    until_run = subtract(brought_back(pending), [*held_back, *not_loaded])
    rest = subtract(lost, [*not_loaded, *until_run])
    until_later: tuple[Interval, ...] = ()
    if after.shows == "whole" and change.end is None:
        until_later = rest
    elif after.shows == "ranges" and (known := [*after.computed, *change.waiting, *pending]):
        after_known = (max(end for _, end in known), LATEST if change.end is None else change.end)
        until_later = common(rest, [*held_back, after_known])
    return LostRows(lost, not_loaded, until_run, until_later, without_time, of_past=before.has_past)


def _difference(before: ShownVersion, change: ChangedModel) -> tuple[tuple[Interval, ...], bool]:
    after = change.after
    is_alike = not change.is_redefined and before.shows == after.shows
    if is_alike and not subtract(before.computed, after.computed):
        return (), False
    shown, without_time = before.rows()
    will_be, with_time_missing = after.rows()
    # What SQLMesh has computed as a whole, at an earlier time, has the rows of that time.
    if after.shows == "whole" and after.computed and not change.is_computed and before.computed:
        end = after.computed[-1][1]
        will_be = will_be if end >= before.computed[-1][1] else ((EARLIEST, end),)
    is_empty_table = after.shows == "whole" and not after.computed
    return subtract(shown, will_be), without_time and not with_time_missing and not is_empty_table


def _seen_by(change: ChangedModel, of_parents: Sequence[_HandedOn]) -> LostRows:
    """The lost rows of other models that a model shows, or that runs would compute of it and find nothing."""
    at = change.replaced_at
    lost = _together(of_parent.still_lost(at) if at else of_parent.lost for of_parent in of_parents)
    version = change.before or change.after
    if not lost or version.is_empty:
        return LostRows()
    is_kept = change.keeps_rows and change.replaced_at is None
    if version.shows != "ranges":
        return LostRows() if is_kept and version.shows == "whole" else lost
    from_nothing = _computed_from_nothing(change, max(of.empty_until for of in of_parents))
    if is_kept and not from_nothing:
        return LostRows()
    shown, without_time = ((), False) if is_kept else version.rows()
    shown = merged([*shown, *from_nothing])
    until_later_runs = common(lost.until_later_runs, shown)
    if until_later_runs and change.after.shows == "ranges" and all(change.after.limits()):
        # A model that ticks before its source has computed these intervals without the rows. No run does it again.
        until_later_runs = subtract(until_later_runs, [*change.after.computed, *from_nothing])
    return replace(
        lost,
        intervals=common(lost.intervals, shown),
        not_loaded=common(lost.not_loaded, shown),
        until_run=common(lost.until_run, shown),
        until_later_runs=until_later_runs,
        without_time=lost.without_time and without_time,
    )


def _computed_from_nothing(change: ChangedModel, empty_until: int) -> tuple[Interval, ...]:
    """What runs compute of a model after a plan, as long as a table that it reads has no row."""
    computed = change.after.computed
    if not empty_until or not computed or change.after.shows != "ranges":
        return ()
    until = change.computed_until(empty_until - 1)
    return ((computed[-1][1], until),) if computed[-1][1] < until else ()


def _together(several: Iterable[LostRows]) -> LostRows:
    """All of these rows. If one model loses rows for longer than another, this is how long a reader lacks them."""
    several = list(several)
    intervals = merged(interval for lost in several for interval in lost.intervals)
    for_good = [interval for lost in several for interval in subtract(lost.intervals, _brought_back(lost))]
    later = subtract((interval for lost in several for interval in lost.until_later_runs), for_good)
    waiting = subtract((interval for lost in several for interval in lost.not_loaded), [*for_good, *later])
    return LostRows(
        intervals,
        waiting,
        subtract((interval for lost in several for interval in lost.until_run), [*for_good, *later, *waiting]),
        later,
        any(lost.without_time for lost in several),
        any(lost.of_past for lost in several),
    )


def _brought_back(lost: LostRows) -> list[Interval]:
    return [*lost.not_loaded, *lost.until_run, *lost.until_later_runs]


def _without(lost: LostRows, own: LostRows) -> LostRows:
    """The lost rows of others, without those that the model loses by its own change."""
    return LostRows(
        subtract(lost.intervals, own.intervals),
        subtract(lost.not_loaded, own.intervals),
        subtract(lost.until_run, own.intervals),
        subtract(lost.until_later_runs, own.intervals),
        lost.without_time and not own.without_time,
        lost.of_past and not own.of_past,
    )
