"""Durations in `defs.yaml`, and `intervals_check`."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import pytest

from dg_sqlmesh_component.config.durations import duration
from dg_sqlmesh_component.config.intervals_check import IntervalsCheck, resolve_intervals_check
from dg_sqlmesh_component.protocol.errors import ConfigurationError


@pytest.mark.parametrize("written", [7200, 7200.0, "2h", " 2H ", "120m", "1h60m", "PT2H", "02:00:00", "7200s"])
def test_duration_is_seconds_or_text(written: object) -> None:
    assert duration("intervals_check.slack", written) == timedelta(hours=2)


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("soon", "Write seconds, or text such as 2h, 90m, 1 day or PT1H30M."),
        (True, "Write seconds"),
        ("-PT1H", "It must not be negative or longer than 366 days."),
        ("367 days", "It must not be negative"),
    ],
)
def test_other_values_are_refused(written: object, advice: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        duration("intervals_check.slack", written)
    assert str(refusal.value).startswith(f"`intervals_check.slack` in defs.yaml is {written!r}. {advice}")


@pytest.mark.parametrize(
    ("written", "check"), [(True, IntervalsCheck(timedelta(0))), (False, None), (None, None), ("{{ false }}", None)]
)
def test_intervals_check_is_on_or_off(written: object, check: IntervalsCheck | None) -> None:
    assert resolve_intervals_check(dg.ResolutionContext.default(), written) == check


def test_intervals_check_that_is_neither_is_refused() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        resolve_intervals_check(dg.ResolutionContext.default(), "6h")
    assert str(refusal.value) == (
        "`intervals_check` in defs.yaml is '6h'. Write true, false, or a mapping such as {slack: 6h}."
    )
