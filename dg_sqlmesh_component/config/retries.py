"""Retries inside the step: which errors are retried, and after which delay."""

import re
from dataclasses import dataclass, field, replace
from typing import Annotated, TypeVar

from pydantic import NonNegativeFloat, NonNegativeInt

from dg_sqlmesh_component.config.mappings import Attributes, described, described_text
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError

_E = TypeVar("_E", bound=msg.Event)


@dataclass
class Retries(Attributes, path="execution.retries"):
    """Retries inside the step for transient errors, such as a lost connection.

    Write a number, or a mapping with delays and error patterns. Only missing intervals are recomputed. Errors in SQL
    and failing audits are never retried. Default: none.
    """

    max_retries: Annotated[NonNegativeInt, described("How many attempts may follow the first one.", 3)]
    delay: Annotated[
        NonNegativeFloat,
        described(
            "Seconds before the first retry. Each further one waits twice as long, up to 16 times. Default: 10.", 30
        ),
    ] = 10.0
    transient_errors: Annotated[
        list[str],
        described_text(
            "Regular expressions, matched against `<error class>: <message>`: errors to retry in addition to the known "
            "transient ones.",
            ["WarehouseSuspended"],
        ),
    ] = field(default_factory=list)
    persistent_errors: Annotated[
        list[str],
        described_text(
            "Regular expressions of errors not to retry. They override `transient_errors`.", ["OutOfMemory"]
        ),
    ] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("transient_errors", "persistent_errors"):
            for pattern in getattr(self, name):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ConfigurationError(
                        f"`execution.retries.{name}` in defs.yaml has {pattern!r}, which is not a regular expression: "
                        f"{error}."
                    ) from error

    def delay_before(self, attempt: int) -> float:
        """Seconds to wait before an attempt; the first retry is attempt 2."""
        return self.delay * 2.0 ** min(attempt - 2, 4)

    def classify(self, event: _E) -> _E:
        """The event; if it contains an error, `is_transient` is what these patterns make of it."""
        match event:
            case msg.NodeFailed(failed_audits=(), error_type=error_class) | msg.RequestFailed(error=error_class):
                error_text = event.message
                if not error_text.startswith(f"{error_class}:"):
                    error_text = f"{error_class}: {error_text}"
                return replace(event, is_transient=self.is_transient(error_text, event.is_transient))
        return event

    def is_transient(self, error_text: str, known: bool) -> bool:
        """Whether an error is transient. `known` is what the worker thinks. `persistent_errors` win."""
        if any(re.search(pattern, error_text) for pattern in self.persistent_errors):
            return False
        return known or any(re.search(pattern, error_text) for pattern in self.transient_errors)
