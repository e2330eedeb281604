"""The estimate of a restatement, its refusals, and what a run reports about it."""

from __future__ import annotations

import pytest
from unit.builders import days

from dg_sqlmesh_component.config.run_config import (
    RestateConfig,
    SQLMeshRunConfig,
    refuse_options_without_effect,
    refuse_restatement,
)
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.worker.evaluate.restatement import estimated, refuse_large

DAY_MS = 86_400_000
TWO_DAYS = {"a": (days(1, 2), 2), "b": (days(1, 2), 2)}


def restatement(**more: object) -> msg.Restatement:
    return msg.Restatement("2026-01-01", "2026-01-02", **more)  # type: ignore[arg-type]


def test_estimate_is_in_proportion_to_the_recorded_range() -> None:
    costs = {
        "a": msg.RecordedCost(10_000, covered_ms=10 * DAY_MS, rows=100, bytes=1_000),  # two of ten days
        "b": msg.RecordedCost(5_000, covered_ms=None, rows=7),  # always computed as a whole
    }
    planned = estimated(restatement(costs=costs), TWO_DAYS, {"dev": 1})
    assert (planned.seconds, planned.rows, planned.bytes, planned.without_cost) == (7.0, 27, 200, ())


def test_models_without_a_record_are_named_and_left_out_of_the_estimate() -> None:
    planned = estimated(restatement(costs={"a": msg.RecordedCost(1_000, 2 * DAY_MS)}), TWO_DAYS, {})
    assert (planned.seconds, planned.rows, planned.bytes, planned.without_cost) == (1.0, None, None, ("b",))


def test_no_record_at_all_means_no_estimate() -> None:
    assert estimated(restatement(), TWO_DAYS, {}).seconds is None


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"max_intervals": 3}, "would compute 4 intervals of 2 models; `restate.max_intervals` in defs.yaml is 3"),
        ({"max_seconds": 0.5}, "would take about 1 seconds, .* `restate.max_seconds` in defs.yaml is 0.5"),
    ],
)
def test_restatement_beyond_a_limit_is_refused(limits: dict[str, object], error: str) -> None:
    costs = {"a": msg.RecordedCost(1_000, 2 * DAY_MS)}
    restate = restatement(costs=costs, **limits)
    with pytest.raises(ConfigurationError, match=error):
        refuse_large(restate, estimated(restate, TWO_DAYS, {}))


def test_restatement_at_its_limits_is_accepted() -> None:
    restate = restatement(costs={"a": msg.RecordedCost(1_000, 2 * DAY_MS)}, max_intervals=4, max_seconds=1.0)
    refuse_large(restate, estimated(restate, TWO_DAYS, {}))


RESTATE = RestateConfig(start="2026-01-01", end="2026-01-02")


def test_restatement_must_be_allowed() -> None:
    config = SQLMeshRunConfig(restate=RESTATE)
    refuse_restatement(config, is_allowed=True)
    with pytest.raises(ConfigurationError, match="allow_restate: true"):
        refuse_restatement(config, is_allowed=False)


def test_restatement_with_options_of_a_run_is_refused() -> None:
    config = SQLMeshRunConfig(restate=RESTATE, start="2026-01-01", ignore_cron=True)
    with pytest.raises(ConfigurationError, match="sets restate and ignore_cron and start"):
        refuse_options_without_effect(config, "prod", runs_models=True)


def test_restatement_of_checks_alone_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="sets restate, but only checks are selected"):
        refuse_options_without_effect(SQLMeshRunConfig(restate=RESTATE), "prod", runs_models=False)
