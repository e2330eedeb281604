"""The unfinished runs of a component's models, and the interrupted ones that have computed new versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise

import dagster as dg

from dg_sqlmesh_component.dagster_internals.steps import HIDDEN_TAGS, planned_assets
from dg_sqlmesh_component.definitions.op import NOT_SET, RESTATE_TAG
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import listed, short_hash

COMPUTING_SINCE_TAG = f"{HIDDEN_TAGS}sqlmesh_computing_since"
"""Tag of a run: when it has first taken a lock on a SQLMesh state."""

APPLIES_TAG = f"{HIDDEN_TAGS}sqlmesh_applies_plan_of"
"""Tag of a run that applies a plan: its component's `state_tag`. It has no assets, and may compute any model."""

CHANGES_TAG = f"{HIDDEN_TAGS}sqlmesh_computes_versions_of"
"""Tag of a run that applies a plan or computes a preview: its component's `changes_tag`."""

RESTATES_TAG = f"{HIDDEN_TAGS}sqlmesh_restates_models_of"
"""Tag of a run of a job that restates its partition: its component's `state_tag`. It has no assets."""

_MAX_CHANGES = 400

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class ActiveRun:
    """An unfinished run of some of the component's assets."""

    run_id: str
    assets: frozenset[dg.AssetKey]  # all assets of the run
    started_at: int | None  # epoch milliseconds; None if it has not started
    computes_all: bool  # whether it computes all intervals that are pending when it starts
    # The models that it computes, by fqn; None if they may be more than its assets, as in a restatement.
    models: frozenset[str] | None
    # When it has first taken a lock on a SQLMesh state, epoch milliseconds; None if it has not.
    computing_since: int | None
    is_change: bool = False  # whether it applies a plan. Runs go on meanwhile.
    is_backfill: bool = False  # whether it restates a partition. A backfill launches many of them at once.

    def covers(self, asset: dg.AssetKey, ticked_at: int) -> bool:
        """Whether it computes the pending intervals of a model whose cron ticked last at an instant."""
        is_in_time = self.started_at is None or ticked_at <= self.started_at
        return self.computes_all and asset in self.assets and is_in_time

    def has_computed(self, fqn: str, at: int) -> bool:
        """Whether data of a model that was computed at an instant may be its own, so that it will record the data."""
        is_since = self.computing_since is not None and self.computing_since <= at
        return is_since and (self.models is None or fqn in self.models)


def active_runs(instance: dg.DagsterInstance, settings: Settings) -> list[ActiveRun]:
    active, assets = [], settings.assets
    records = instance.get_run_records(dg.RunsFilter(statuses=_UNFINISHED))
    runs = [record.dagster_run for record in records]
    for record, run, planned in zip(records, runs, planned_assets(instance, runs)):
        tagged = run.tags.get(APPLIES_TAG), run.tags.get(RESTATES_TAG)
        if planned & assets.fqn_by_key.keys() or settings.state_tag in tagged:
            active.append(
                ActiveRun(
                    run.run_id,
                    frozenset(planned),
                    None if record.start_time is None else int(record.start_time * 1000),
                    # A run config may limit the intervals or name another environment.
                    computes_all=run.status is not dg.DagsterRunStatus.CANCELING and not run.run_config.get("ops"),
                    models=None
                    if APPLIES_TAG in run.tags or run.tags.get(RESTATE_TAG, NOT_SET) != NOT_SET
                    else frozenset(assets.fqn_by_key[key] for key in planned & assets.fqn_by_key.keys()),
                    computing_since=computing_since(record),
                    is_change=APPLIES_TAG in run.tags,
                    is_backfill=RESTATES_TAG in run.tags,
                )
            )
    return active


def mark_as_computing(instance: dg.DagsterInstance, run_id: str, state: str) -> int:
    """Give a run the tag, unless another step of it has, and that of the state (`changes_tag`) that it computes in.

    Return the present, in epoch milliseconds.
    """
    now = datetime.now(timezone.utc)
    record = instance.get_run_record_by_id(run_id)
    if record is not None:
        is_marked = computing_since(record) is not None
        since = {} if is_marked else {COMPUTING_SINCE_TAG: now.isoformat(timespec="milliseconds")}
        of_state = {} if state_tag(state) in record.dagster_run.tags else {state_tag(state): "true"}
        if tags := since | of_state:
            instance.add_run_tags(run_id, tags)
    return int(now.timestamp() * 1000)


def state_tag(state: str) -> str:
    """The tag of runs that have taken a lock on a state (`changes_tag`). A run may compute in several states."""
    return f"{HIDDEN_TAGS}sqlmesh_computes_in_{short_hash([state])}"


def computing_since(record: dg.RunRecord) -> int | None:
    """When a run has first taken a lock, epoch milliseconds; None if it has not.

    A run that was launched again has a copy of the first run's tag. It is older than the start of the run.
    """
    tag, start = record.dagster_run.tags.get(COMPUTING_SINCE_TAG), record.start_time
    since = None if tag is None else round(datetime.fromisoformat(tag).timestamp() * 1000)
    return since if since is not None and start is not None and since >= int(start * 1000) else None


def run_ids(runs: Sequence[ActiveRun]) -> str:
    return listed([run.run_id for run in runs])


def interrupted_changes(instance: dg.DagsterInstance, state: str, now: int) -> tuple[msg.Interval, ...]:
    """The times of applies and previews that have computed and not succeeded, epoch milliseconds, the oldest first.

    All environments of a state (`changes_tag`) count, because the next plan may promote a version that another one has
    computed. Other states do not: their applies and previews may run at the same time.

    An apply or a preview looks for intervals that runs have rewritten meanwhile before it ends. One that has failed,
    was cancelled or was killed may not have looked. The next one, which begins `now`, has to look as far back as that
    one began. One that Dagster still shows as running has ended too: there is one at a time. It has ended when the next
    one began.
    """
    began: list[tuple[int, bool]] = [(now, True)]
    for record in instance.get_run_records(dg.RunsFilter(tags={CHANGES_TAG: state}), limit=_MAX_CHANGES):
        since = computing_since(record)
        if since is not None and since < now:
            began.append((since, record.dagster_run.is_success))
    return tuple((begin, end) for (begin, is_success), (end, _) in pairwise(sorted(began)) if not is_success)
