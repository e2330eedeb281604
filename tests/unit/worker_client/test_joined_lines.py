"""Log lines that arrive at nearly the same time become one event."""

import pytest

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker_client.output import MOMENT_CHARACTERS, MOMENT_SECONDS, JoinedLines


def output(text: str) -> msg.LogLine:
    return msg.LogLine("info", text, "output")


def warning(text: str) -> msg.LogLine:
    return msg.LogLine("warning", text, "a.driver")


def test_lines_of_one_moment_are_joined_by_level_and_source() -> None:
    lines = JoinedLines()
    for number in range(3):
        assert lines.add(output(f"row {number}"), now=5.0) == []
        assert lines.add(warning(f"warning {number}"), now=5.0) == []
    assert lines.take() == [output("row 0\nrow 1\nrow 2"), warning("warning 0\nwarning 1\nwarning 2")]
    assert lines.take() == []


def test_moment_begins_with_its_first_line() -> None:
    lines = JoinedLines()
    assert lines.seconds_left(now=1.0) is None
    lines.add(output("first"), now=4.0)
    lines.add(output("second"), now=4.0 + MOMENT_SECONDS / 2)
    assert lines.seconds_left(now=4.0) == pytest.approx(MOMENT_SECONDS)
    assert lines.seconds_left(now=9.0) == 0
    assert lines.add(output("third"), now=4.0 + 2 * MOMENT_SECONDS) == [output("first\nsecond\nthird")]
    assert lines.seconds_left(now=9.0) is None


def test_many_characters_end_the_moment() -> None:
    lines = JoinedLines()
    half = "x" * (MOMENT_CHARACTERS // 2)
    assert lines.add(output(half), now=5.0) == []
    assert lines.add(output(half), now=5.0) == [output(f"{half}\n{half}")]
    assert lines.add(output(half), now=5.0) == []
