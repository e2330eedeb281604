"""Durations in `defs.yaml`."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dg_sqlmesh_component.config.durations import duration
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
