"""One message of each type."""

from unit.protocol.messages import D1, D2, PROJECT, PROMOTED, RECORDS, TABLES

from dg_sqlmesh_component.capabilities.polling_sensor.messages import ChangesFound, ChangesRequest
from dg_sqlmesh_component.protocol import messages as msg

MESSAGES = (
    ChangesRequest(PROJECT, "prod", RECORDS, TABLES, now=D2[1]),
    ChangesFound(
        "c0ffee",
        is_finalized=True,
        promoted={"a": PROMOTED},
        compared=msg.DataComparedWithRecords(
            (
                msg.ComputedData("a", PROMOTED, ((D1, D2[1]),), msg.IntervalCoverage("a", D1)),
                msg.ComputedData("b", PROMOTED, ((D1, D2[1]),), None),
            )
        ),
    ),
)
