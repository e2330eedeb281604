"""On an instance as in production, each process is killed once, and a run is cancelled in each of Dagster's ways."""

from collections.abc import Iterator

import dagster as dg
import pytest
from production import Production, kill, production_instance

pytestmark = pytest.mark.slow

MODELS = ("t/days", "t/gate", "t/keyed", "t/latest")
FIRST = ("executed", "interrupted", "interrupted", "interrupted")
AGAIN = ("up_to_date", "interrupted", "interrupted", "interrupted")
LAST = ("up_to_date", "executed", "executed", "executed")
NOT_RECORDED = (None, None, None, None)


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    with production_instance(tmp_path_factory.mktemp("production")) as production:
        yield production


def check(production: Production, runs: list[str]) -> list[tuple[str | None, ...]]:
    """Check what must hold after each story. Return the outcomes of all models, by run."""
    records = [production.end_of(run_id) for run_id in runs]
    assert records[-1].status is dg.DagsterRunStatus.SUCCESS, production.logs()
    assert set(records[-1].materializations) == {"t/gate", "t/keyed", "t/latest", "report"}
    assert not production.differs_from_twin()
    assert production.false_outcomes(runs) == []
    production.wait_until_all_is_free()
    assert production.watch.longest("slot") < 60
    assert production.watch.longest("lock") < 60
    return [tuple(record.status_of(model) for model in MODELS) for record in records]


def test_retries_compute_the_rest_after_each_process_was_killed(production: Production) -> None:
    with production.closed_gate():
        runs = [production.launch()]
        for victim in ("worker", "step", "run"):
            production.wait_at_gate(runs[-1])
            kill(production.processes_of(runs[-1])[victim])
            assert production.end_of(runs[-1]).status is dg.DagsterRunStatus.FAILURE
            runs.append(production.retry_or_reexecute(runs[-1]))
        production.wait_at_gate(runs[-1])
        production.kill("daemon")
        queued = production.launch()
        production.terminate(queued, "SAFE_TERMINATE")
        assert production.end_of(queued).status is dg.DagsterRunStatus.CANCELED
        production.start("daemon")
        production.kill("code server")
        production.start("code server")
    assert check(production, runs) == [FIRST, NOT_RECORDED, AGAIN, LAST]


def test_runs_that_are_executed_again_compute_the_rest_after_each_way_to_cancel(production: Production) -> None:
    production.restore()
    with production.closed_gate():
        runs = [production.launch()]
        production.wait_at_gate(runs[-1])
        production.terminate(runs[-1], "SAFE_TERMINATE")
        assert production.end_of(runs[-1]).status is dg.DagsterRunStatus.CANCELED
        runs.append(production.reexecute(runs[-1], "ALL_STEPS"))
        production.wait_at_gate(runs[-1])
        production.terminate(runs[-1], "MARK_AS_CANCELED_IMMEDIATELY")
        assert production.status(runs[-1]) is dg.DagsterRunStatus.CANCELED
        runs.append(production.reexecute(runs[-1], "FROM_FAILURE"))
        production.wait_at_gate(runs[-1])
        production.shop.instance.add_run_tags(runs[-1], {"dagster/max_runtime": "1", "dagster/max_retries": "0"})
        assert production.end_of(runs[-1]).status is dg.DagsterRunStatus.FAILURE
        runs.append(production.reexecute(runs[-1], "FROM_ASSET_FAILURE"))
        production.wait_at_gate(runs[-1])
    assert check(production, runs) == [FIRST, AGAIN, AGAIN, LAST]
