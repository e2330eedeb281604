"""Convert messages to lines of text and back. Both processes check them.

A line is the name of the message's class as `module:class`, a space, and its fields as JSON. A process imports the
messages of a capability only when it reads or writes one. It uses pydantic, which Dagster and SQLMesh both require
(ADR-0012).
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import WorkerError
from dg_sqlmesh_component.protocol.manifest import Manifest
from dg_sqlmesh_component.protocol.redaction import Redactor

_T = TypeVar("_T")

MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)

LOADING = "\0dg_sqlmesh: loads the configuration"
LOADED = "\0dg_sqlmesh: has loaded the configuration"
"""Lines in a worker's output. The project's configuration has printed the lines between them."""

PRINTED = "\0dg_sqlmesh: has printed everything"
"""The last line of a worker's output, printed before the last event. Events and output have separate pipes."""

CANCEL, CUT_OFF, RELEASE = b"cancel\n", b"cut off\n", b"release\n"
"""Commands to a worker: lines without fields. `worker_client/worker.py` says what they do."""


def encode(message: msg.Request | msg.Event | msg.Answer) -> bytes:
    """The message as one line, with its line break."""
    name = _name(type(message))
    adapter = _adapter(name)
    try:
        content = adapter.dump_json(message)
    except PydanticSerializationError:
        # Text that is not Unicode, such as a file name in other bytes: "?" replaces these characters.
        plain = adapter.dump_python(message)
        content = json.dumps(plain, ensure_ascii=False, default=list).encode("utf-8", "replace")
    return b"%s %s\n" % (name, content)


def decode(expected: type[_T], line: bytes, redactor: Redactor | None = None) -> _T:
    """The message of a line that `encode` wrote.

    Args:
        expected: `Request`, `Event`, or the class of an `Answer`.
        redactor: Hides secrets in the texts that `protocol/texts.py` marks.

    Raises:
        WorkerError: This version of the package does not write such lines.
    """
    first_word, _, content = line.rstrip(b"\n").partition(b" ")
    found = _message_type(first_word)
    if found is None or not issubclass(found, expected):
        raise WorkerError(_unreadable(f"it is no {expected.__name__}", line))
    try:
        message: _T = _adapter(first_word).validate_json(content, context=redactor)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, (found.__name__, *first["loc"])))
        raise WorkerError(_unreadable(f"{first['msg']} (at {where})", line)) from error
    return message


def name_of(line: bytes) -> str:
    """The command, or the class of the message. A line that is neither is `unreadable`: it may be a secret."""
    if line in (CANCEL, CUT_OFF, RELEASE):
        return line.decode().strip()
    found = _message_type(line.partition(b" ")[0])
    return "unreadable" if found is None else found.__name__


_PACKAGE = __name__.partition(".")[0]
_MESSAGE = re.compile(rb"(protocol\.messages\.[a-z_]+|capabilities\.[a-z_]+\.messages):([A-Za-z]+)")


def _name(message_type: type) -> bytes:
    module = message_type.__module__.partition(".")[2]
    return f"{module}:{message_type.__name__}".encode()


@cache
def _message_type(name: bytes) -> type | None:
    """The message of this name; None if there is none, or if its capability is not installed."""
    match = _MESSAGE.fullmatch(name)
    if match is None:
        return None
    module, cls = (part.decode() for part in match.groups())
    try:
        found = getattr(import_module(f"{_PACKAGE}.{module}"), cls, None)
    except ModuleNotFoundError:
        return None
    is_message = isinstance(found, type) and issubclass(found, (msg.Request, msg.Event, msg.Answer))
    return found if is_message else None


@cache
def _adapter(name: bytes) -> TypeAdapter[Any]:
    """Creating one takes milliseconds, and a process needs a few of them only."""
    message_type: Any = _message_type(name)
    return TypeAdapter(message_type)


def _unreadable(problem: str, line: bytes) -> str:
    shown = "The line contains secrets." if b"SecretsKnown" in line else f"The line begins with {line[:120]!r}."
    return (
        "This version of dg_sqlmesh_component cannot read a line between Dagster and SQLMesh's process: "
        f"{problem}. {shown} Component and worker must come from one installation of the package."
    )
