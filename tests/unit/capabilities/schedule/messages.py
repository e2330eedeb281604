"""One message of each type."""

from unit.protocol.messages import D1, D2, HELD_BACK, PROJECT, TABLES

from dg_sqlmesh_component.capabilities.schedule.messages import PendingFound, PendingRequest
from dg_sqlmesh_component.protocol import messages as msg

MESSAGES = (
    PendingRequest(PROJECT, "prod", frozenset({"a", "b"}), D1[0], TABLES),
    PendingFound(
        {"a": D1[0]},
        (D2[0], "b"),
        {"c": HELD_BACK, "d": msg.HeldBack()},
        signal_error="Error: x",
        intervals={"a": (D1,)},
    ),
)
