"""Which errors are worth another attempt, and when it is made.

Dagster reads the annotations of the class as objects, so they must not be postponed.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import dagster as dg

from dg_sqlmesh_component.config.validation import require_at_least, take_declared_types
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import DeclarationError

_BACKOFFS = {"linear": dg.Backoff.LINEAR, "exponential": dg.Backoff.EXPONENTIAL}
_JITTERS = {"full": dg.Jitter.FULL, "plus_minus": dg.Jitter.PLUS_MINUS}


@dataclass
class Retries(dg.Resolvable):
    """Retries inside the step for transient errors. Only missing intervals are recomputed."""

    max_retries: Annotated[
        int, dg.Resolver.default(description="How many attempts may follow the first one.", examples=[3])
    ]
    delay: Annotated[
        float, dg.Resolver.default(description="Seconds before the next attempt. Default: 10.", examples=[30])
    ] = 10.0
    backoff: Annotated[
        Literal["linear", "exponential"] | None,
        dg.Resolver.default(
            description="How the delay grows with each attempt. Default: it stays the same.",
            examples=["exponential"],
        ),
    ] = None
    jitter: Annotated[
        Literal["full", "plus_minus"] | None,
        dg.Resolver.default(description="How the delay is varied by chance. Default: not at all.", examples=["full"]),
    ] = None
    transient_errors: Annotated[
        list[str],
        dg.Resolver.default(
            description="Regular expressions, matched against `<error class>: <message>`: errors to retry in addition "
            "to the known transient ones.",
            examples=[["WarehouseSuspended"]],
        ),
    ] = field(default_factory=list)
    persistent_errors: Annotated[
        list[str],
        dg.Resolver.default(
            description="Regular expressions of errors not to retry. They win over `transient_errors`.",
            examples=[["OutOfMemory"]],
        ),
    ] = field(default_factory=list)

    def __post_init__(self) -> None:
        take_declared_types(self, Retries, "execution.retries")
        require_at_least("execution.retries", self, max_retries=0, delay=0)
        for name in ("transient_errors", "persistent_errors"):
            for pattern in getattr(self, name):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise DeclarationError(
                        f"`execution.retries.{name}` in defs.yaml has {pattern!r}, which is no regular expression: "
                        f"{error}."
                    ) from error

    def delay_before(self, attempt: int) -> float:
        """Seconds before an attempt; the first retry is attempt 2."""
        policy = dg.RetryPolicy(
            max_retries=self.max_retries,
            delay=self.delay,
            backoff=_BACKOFFS[self.backoff] if self.backoff else None,
            jitter=_JITTERS[self.jitter] if self.jitter else None,
        )
        return policy.calculate_delay(attempt - 1)

    def classify(self, event: msg.Event) -> msg.Event:
        """The event, as this declaration sees its error."""
        if isinstance(event, msg.NodeFailed) and not event.failed_audits:
            said = _with_class(event.error_type, event.message)
            return replace(event, is_transient=self.is_transient(said, event.is_transient))
        if isinstance(event, msg.RequestFailed):
            said = _with_class(event.error, event.message)
            return replace(event, is_transient=self.is_transient(said, event.is_transient))
        return event

    def is_transient(self, said: str, known: bool) -> bool:
        """Whether an error is transient: `persistent_errors` first, then `transient_errors`, then what is known."""
        if any(re.search(pattern, said) for pattern in self.persistent_errors):
            return False
        return known or any(re.search(pattern, said) for pattern in self.transient_errors)


def _with_class(error: str, message: str) -> str:
    return message if message.startswith(f"{error}:") else f"{error}: {message}"
