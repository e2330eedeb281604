"""Find the run of this instance that has computed data without a record on its asset.

An asset has no record if somebody has wiped it, or has changed its key, or if the run was killed. Also, environments
share tables: what a component of another environment has computed is recorded only on its own assets.

A run that has taken a lock on a state has a tag of it (`mark_as_computing`). The run has computed data if its own
events have a record of the data. They outlive a wiped asset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache

import dagster as dg

from dg_sqlmesh_component.dagster_internals.event_log import asset_events_of_run, wiped_at
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.history.active_runs import CHANGES_TAG, computing_since, state_tag
from dg_sqlmesh_component.history.records import OutsideData
from dg_sqlmesh_component.history.stored_record import StoredRecord, stored_record
from dg_sqlmesh_component.protocol.formatting import utc_text

_MAX_RUNS = 400
"""How many runs of a state are searched, the newest first."""


@dataclass(frozen=True)
class Origin:
    """The run that has last computed data without a record on its asset, as far as this instance knows."""

    run_id: str | None = None  # None: no run of this instance
    environment: str | None = None  # that of the run's record of this data; None if the run has none
    is_forgotten: bool = False  # whether a run may have computed it that Dagster does not have any more

    def clause(self, environment: str) -> str:
        """Who, for an asset of this environment: "computed outside of Dagster", but without the verb."""
        if self.run_id is None:
            deleted = ", or by a run that Dagster does not have any more" if self.is_forgotten else ""
            return f"outside of Dagster{deleted}"
        if self.environment is None:
            return f"while run {self.run_id} was in progress"
        place = "" if self.environment == environment else f" in environment {self.environment}"
        return f"by run {self.run_id}{place}"

    def is_again(self, environment: str) -> bool:
        """Whether the data was recorded before, in this environment."""
        return self.environment == environment

    def text(self, environment: str, computed_at: int) -> str:
        """Who and when, for an asset of this environment."""
        text = f"{self.clause(environment)}, at {utc_text(computed_at)}"
        return f"{text}. Recorded again: Dagster had no record of it" if self.is_again(environment) else text


OUTSIDE = Origin()


@dataclass(frozen=True)
class StateRun:
    """A run that has computed something in the state of a component."""

    run_id: str
    since: int  # when it has first taken the lock, epoch milliseconds
    until: int | None  # when it has ended; None if it has not
    has_all_records: bool  # whether it has a record of everything that it has computed

    def covers(self, at: int) -> bool:
        return self.since <= at and (self.until is None or at <= self.until)


def origins(instance: dg.DagsterInstance, settings: Settings, found: Sequence[OutsideData]) -> dict[str, Origin]:
    """Who has last computed this data, by fqn. Without intervals, nothing was computed, so it is left out."""
    computed = [data for data in found if data.intervals]
    if not computed:
        return {}
    times = [data.computed_at for data in computed]
    runs, oldest = _runs_of_state(instance, settings.changes_tag, min(times), max(times))

    @cache
    def records(run_id: str) -> list[StoredRecord]:
        events = asset_events_of_run(instance, run_id)
        return [record for event in events if (record := stored_record(event.metadata)) is not None]

    by_model = {data.fqn: origin_of(data, runs, records) for data in computed}
    unknown = {settings.assets.key(data.fqn): data for data in computed if by_model[data.fqn] is OUTSIDE}
    wiped = wiped_at(instance, list(unknown))
    forgotten = {of.fqn for key, of in unknown.items() if of.computed_at < max(oldest, wiped.get(key, 0) * 1000)}
    return {fqn: Origin(is_forgotten=True) if fqn in forgotten else origin for fqn, origin in by_model.items()}


def origin_of(data: OutsideData, runs: Sequence[StateRun], records: Callable[[str], Sequence[StoredRecord]]) -> Origin:
    """Who has computed the newest part of the data. `records` returns those in the events of a run."""
    at = data.computed_at
    covering = [run for run in runs if run.covers(at)]
    for run in covering:
        for record in records(run.run_id):
            if record.version == data.promoted.version and record.up_to >= at:
                return Origin(run.run_id, record.environment)
    return next((Origin(run.run_id) for run in covering if not run.has_all_records), OUTSIDE)


def _runs_of_state(instance: dg.DagsterInstance, state: str, first: int, last: int) -> tuple[list[StateRun], int]:
    """The runs of a state that may have computed something between two instants, the newest first.

    Also, the instant (epoch milliseconds) before which there may be more of them.
    """
    # Dagster's filters exclude the instants themselves.
    instants = [datetime.fromtimestamp(at / 1000, timezone.utc) for at in (first, last)]
    since, until = instants[0] - timedelta(seconds=1), instants[1] + timedelta(seconds=1)
    only = dg.RunsFilter(tags={state_tag(state): "true"}, updated_after=since, created_before=until)
    records = instance.get_run_records(only, limit=_MAX_RUNS)
    runs = []
    for record in records:
        began, run = computing_since(record), record.dagster_run
        if began is not None:
            ended = None if record.end_time is None else round(record.end_time * 1000)
            # A preview records nothing, and an apply records only the models that it promotes.
            runs.append(StateRun(run.run_id, began, ended, run.is_success and CHANGES_TAG not in run.tags))
    is_limited = len(records) == _MAX_RUNS
    return runs, round(records[-1].create_timestamp.timestamp() * 1000) if is_limited else 0
