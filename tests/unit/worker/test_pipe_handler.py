"""Log records of the project's code, as log lines of the Dagster run."""

import logging
from typing import Any

import pytest

from dg_sqlmesh_component.worker.pipe import PipeHandler


class KeptLines:
    """Keeps the log lines that the worker would send."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def log(self, level: str, text: str, _logger: str) -> None:
        self.lines.append((level, text))


class WithoutText:
    def __str__(self) -> str:
        raise ValueError("no text")


def warning(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("shop", logging.WARNING, __file__, 1, message, arguments, None)


@pytest.mark.parametrize("argument", ["Monday", WithoutText()], ids=["no placeholder", "no text"])
def test_warning_that_cannot_be_formatted_is_printed_and_does_not_fail_the_model(
    argument: object, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe: Any = KeptLines()
    handler = PipeHandler(pipe)
    handler.handle(warning("No rows for" if argument == "Monday" else "No rows for %s", argument))
    printed = capsys.readouterr().err
    assert "--- Logging error ---" in printed
    assert "No rows for" in printed
    handler.handle(warning("No rows for %s", "Tuesday"))
    assert pipe.lines == [("warning", "No rows for Tuesday")]
