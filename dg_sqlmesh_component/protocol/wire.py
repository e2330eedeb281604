"""Convert messages to lines of JSON and back. Both processes check them.

It uses pydantic, which Dagster and SQLMesh both require (ADR-0012).
"""

from __future__ import annotations

import json
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from dg_sqlmesh_component.protocol.errors import WorkerError
from dg_sqlmesh_component.protocol.manifest import Manifest
from dg_sqlmesh_component.protocol.messages import Event, Records, Request

_T = TypeVar("_T")

REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])
RECORDS: TypeAdapter[Records] = TypeAdapter(Records)
MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)

LOADING = "\0dg_sqlmesh: loads the configuration"
LOADED = "\0dg_sqlmesh: has loaded the configuration"
"""Lines in a worker's output. The project's configuration has printed the lines between them."""

PRINTED = "\0dg_sqlmesh: has printed everything"
"""The last line of a worker's output, printed before the last event. Events and output have separate pipes."""


def encode(adapter: TypeAdapter[_T], value: _T) -> bytes:
    """The value as one line of JSON, with its line break."""
    try:
        return adapter.dump_json(value) + b"\n"
    except PydanticSerializationError:
        # Text that is not Unicode, such as a file name in other bytes: "?" replaces these characters.
        text = json.dumps(adapter.dump_python(value), ensure_ascii=False)
        return text.encode("utf-8", "replace") + b"\n"


def decode(adapter: TypeAdapter[_T], line: bytes) -> _T:
    """The value of a line that `encode` wrote.

    Raises:
        WorkerError: This version of the package does not write such lines.
    """
    try:
        return adapter.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the line"
        shown = "The line contains secrets." if b"secrets_known" in line else f"The line begins with {line[:120]!r}."
        raise WorkerError(
            "This version of dg_sqlmesh_component cannot read a line between Dagster and SQLMesh's process: "
            f"{first['msg']} (at {where}). {shown} "
            "Component and worker must come from one installation of the package."
        ) from error
