"""Which times of applies and previews the next one has to look back to, from the runs that Dagster has."""

from datetime import datetime, timezone

import dagster as dg
import time_machine

from dg_sqlmesh_component.history.active_runs import CHANGES_TAG, interrupted_changes, mark_as_computing


def at(hour: int) -> datetime:
    return datetime(2026, 2, 10, hour, tzinfo=timezone.utc)


def milliseconds(hour: int) -> int:
    return int(at(hour).timestamp() * 1000)


def change(instance: dg.DagsterInstance, hour: int, state: str, *, succeeds: bool, computes: bool = True) -> None:
    """A run that has begun at an hour, and has ended."""
    with time_machine.travel(at(hour), tick=False):
        run_id = instance.create_run_for_job(job, tags={CHANGES_TAG: state}).run_id
        instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, job.name), run_id)
        if computes:
            mark_as_computing(instance, run_id, state)
    end = dg.DagsterEventType.RUN_SUCCESS if succeeds else dg.DagsterEventType.RUN_FAILURE
    instance.report_dagster_event(dg.DagsterEvent(end.value, job.name), run_id)


@dg.job
def job() -> None:
    """Any job."""


def test_an_interrupted_change_lasts_until_the_next_one_of_the_same_state_begins() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        change(instance, 10, "shop_prod", succeeds=False)
        change(instance, 11, "shop_staging", succeeds=True)
        change(instance, 13, "shop_prod", succeeds=True)
        assert interrupted_changes(instance, "shop_prod", milliseconds(15)) == ((milliseconds(10), milliseconds(13)),)
        assert interrupted_changes(instance, "shop_staging", milliseconds(15)) == ()


def test_a_change_that_was_refused_before_it_computed_anything_was_not_interrupted() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        change(instance, 10, "shop_prod", succeeds=False, computes=False)
        assert interrupted_changes(instance, "shop_prod", milliseconds(12)) == ()


def test_a_change_that_was_interrupted_last_lasts_until_now() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        change(instance, 10, "shop_prod", succeeds=False)
        assert interrupted_changes(instance, "shop_prod", milliseconds(12)) == ((milliseconds(10), milliseconds(12)),)
