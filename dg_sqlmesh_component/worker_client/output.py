"""Writes what SQLMesh's process prints and logs to a step's log, up to a limit."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import dagster as dg

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import counted

MAX_EVENTS = 1_000
MAX_CHARACTERS = 1_000_000
"""Once a step's log has so many events or characters of output, it stores no further output of the level info."""

_SHARES: dict[msg.Level, int] = {"info": 1, "warning": 2, "error": 3}
"""Warnings are stored up to twice the limit, errors up to three times: so no error is left out before another line."""

_OWN = "dg_sqlmesh"
"""The source of the worker's own lines. They are few."""


@dataclass
class WorkerOutput:
    """The output of SQLMesh's process in the log of one step. Lines over the limit go to the stderr of the step."""

    log: dg.DagsterLogManager
    _events: int = 0
    _characters: int = 0
    _left_out: int = 0

    def write(self, line: msg.LogLine) -> None:
        share = _SHARES["error" if line.source == _OWN else line.level]
        if self._events >= share * MAX_EVENTS or self._characters >= share * MAX_CHARACTERS:
            self._leave_out(line)
            return
        self._events += 1
        self._characters += len(line.text)
        self.log.log(level=line.level.upper(), msg=f"[{line.source}] {line.text}")

    def close(self) -> None:
        """Log how many lines were left out."""
        if self._left_out:
            self.log.warning(f"This log leaves out {counted(self._left_out, 'line')} that SQLMesh printed or logged.")

    def _leave_out(self, line: msg.LogLine) -> None:
        if not self._left_out:
            self.log.warning(
                f"SQLMesh has printed or logged {self._characters} characters in {counted(self._events, 'event')}. "
                "This log leaves out its further output, warnings and errors last. It is in the step's stderr."
            )
        self._left_out += line.text.count("\n") + 1
        sys.stderr.write(f"[{line.source}] {line.text}\n")
