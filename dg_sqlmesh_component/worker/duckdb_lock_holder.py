"""Who holds a DuckDB file, as far as this machine knows.

DuckDB names the process that holds the lock. On Linux, /proc adds its command and when it started. A process of ours
also shows the Dagster run that it works for: as the name of a file in memory, which goes with the process.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

from dg_sqlmesh_component.protocol.redaction import HIDDEN, SECRET_NAME, Redactor

COMMAND_CHARACTERS = 200
"""How much of a command line is shown: whole words, since half of a secret would not be found and hidden."""

_LOCKED = re.compile(r'Could not set lock on file "(?P<file>[^"]+)"(?:.*\(PID (?P<pid>[1-9]\d*)\))?', re.DOTALL)
_LABEL = "dg_sqlmesh: "
_LEFT_OUT = "..."


def show_holder(holder: str) -> None:
    """From now on, whoever waits for a file of this process is told for whom it works. Linux only."""
    if sys.platform == "linux":
        os.memfd_create(f"{_LABEL}{holder}"[:200])  # open until the process ends


def is_locked(text: str) -> bool:
    """Whether DuckDB says that another process holds a file."""
    return _LOCKED.search(text) is not None


def who_holds(text: str) -> str:
    """Whom DuckDB's error is about, in a sentence."""
    locked = _LOCKED.search(text)
    if locked is None or locked["pid"] is None:
        return f"{text.rstrip('.')}."
    file, pid = Path(locked["file"]), int(locked["pid"])
    return f"{file} is held by {_described(pid, file)}."


def _described(pid: int, file: Path) -> str:
    process = Path(f"/proc/{pid}")
    try:
        who = _whom_it_works_for(process, file) or f"`{command_line(_words(process))}`"
        return f"{who} (PID {pid}, started at {_started_at(process):%Y-%m-%d %H:%M:%S} UTC)"
    except (OSError, ValueError):  # it has ended, this is not Linux, or the id is that of a process elsewhere
        return f"the process with PID {pid}"


def _whom_it_works_for(process: Path, file: Path) -> str | None:
    """What a process of ours shows; None for those of others, and for those that may not be looked into.

    Raises:
        ValueError: The process does not have the file open: the id is one of another host, or of another container.
    """
    try:
        descriptors = list((process / "fd").iterdir())
    except PermissionError:
        return None
    label = next((name for name in _names(descriptors) if name.startswith(f"/memfd:{_LABEL}")), None)
    if not any(map(file.samefile, _existing(descriptors))):
        raise ValueError
    return label and label.removeprefix(f"/memfd:{_LABEL}").removesuffix(" (deleted)")


def _names(descriptors: Sequence[Path]) -> Iterator[str]:
    for descriptor in descriptors:
        try:
            yield os.readlink(descriptor)
        except FileNotFoundError:
            continue  # closed meanwhile


def _existing(descriptors: Sequence[Path]) -> Iterator[Path]:
    return (descriptor for descriptor in descriptors if descriptor.exists())


def _words(process: Path) -> list[str]:
    words = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
    if not words:
        raise ValueError
    return words


def command_line(words: Sequence[str]) -> str:
    """A command as a person would type it, without secrets, and without words that are too long for a message."""
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
    # The command's name, in brackets, may hold blanks; the start is the 22nd field, in ticks since the machine started.
    ticks = int((process / "stat").read_text().rpartition(")")[2].split()[19])
    booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    return datetime.fromtimestamp(int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK"), tz=timezone.utc)
