"""Find out which process holds a DuckDB file (`holder_sentence`).

DuckDB's error contains the id of the process that holds the lock. On Linux, /proc has its command and start time. A
worker also shows its Dagster run, as the name of a file in memory, which ends with the process (`show_holder`).
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

from dg_sqlmesh_component.protocol.redaction import HIDDEN, SECRET_NAME, Redactor

COMMAND_CHARACTERS = 200
"""How much of a command line is shown. Words are never split: half of a secret would not be found and hidden."""

_LOCKED = re.compile(r'Could not set lock on file "(?P<file>[^"]+)"(?:.*\(PID (?P<pid>[1-9]\d*)\))?', re.DOTALL)
_LABEL = "dg_sqlmesh: "
_LEFT_OUT = "..."


def show_holder(holder: str) -> None:
    """From now on, other processes that wait for a file of this process can name its Dagster run. Linux only."""
    if sys.platform == "linux":
        os.memfd_create(f"{_LABEL}{holder}"[:200])  # open until the process ends


def is_locked(text: str) -> bool:
    """Whether an error of DuckDB means that another process holds a file."""
    return _LOCKED.search(text) is not None


def holder_sentence(text: str) -> str:
    """A sentence that names the file and its holder, from DuckDB's error."""
    locked = _LOCKED.search(text)
    if locked is None or locked["pid"] is None:
        return f"{text.rstrip('.')}."
    file, pid = Path(locked["file"]), int(locked["pid"])
    return f"{file} is held by {_holder(pid, file)}."


def _holder(pid: int, file: Path) -> str:
    process = Path(f"/proc/{pid}")
    try:
        who = _label(process, file) or f"`{command_line(_words(process))}`"
        return f"{who} (PID {pid}, started at {_started_at(process):%Y-%m-%d %H:%M:%S} UTC)"
    except (OSError, ValueError):  # it has ended, this is not Linux, or the id is of a process on another host
        return f"the process with PID {pid}"


def _label(process: Path, file: Path) -> str | None:
    """The label that `show_holder` gave a process; None for a process of others, or one that we may not inspect.

    Raises:
        ValueError: The process does not have the file open: the id is of a process on another host or in a container.
    """
    try:
        descriptors = list((process / "fd").iterdir())
    except PermissionError:
        return None
    label, has_file = None, False
    for descriptor in descriptors:
        with suppress(FileNotFoundError):  # closed meanwhile
            target = os.readlink(descriptor)
            if target.startswith(f"/memfd:{_LABEL}"):
                label = target.removeprefix(f"/memfd:{_LABEL}").removesuffix(" (deleted)")
            has_file = has_file or file.samefile(descriptor)
    if not has_file:
        raise ValueError
    return label


def _words(process: Path) -> list[str]:
    words = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
    if not words:
        raise ValueError
    return words


def command_line(words: Sequence[str]) -> str:
    """A command as a person would type it. Secrets are hidden, and words too long for a message are left out."""
    redactor = Redactor(os.environ)
    shown = [Path(words[0]).name if words[0].startswith("/") else words[0]]
    for option, word in pairwise(words):
        name, equals, _ = word.partition("=")
        if option.startswith("-") and "=" not in option and SECRET_NAME.search(option):
            word = HIDDEN
        elif equals and SECRET_NAME.search(name):
            word = f"{name}={HIDDEN}"
        else:
            word = redactor.text(shlex.quote(word))
        if not word.isprintable() or len(" ".join([*shown, word])) > COMMAND_CHARACTERS:
            word = _LEFT_OUT
        if word != _LEFT_OUT or shown[-1] != _LEFT_OUT:
            shown.append(word)
    return " ".join(shown)


def _started_at(process: Path) -> datetime:
    # The 22nd field is the start, in ticks since the machine started. The 2nd, in brackets, may contain blanks.
    ticks = int((process / "stat").read_text().rpartition(")")[2].split()[19])
    booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    return datetime.fromtimestamp(int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK"), tz=timezone.utc)
