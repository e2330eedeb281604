"""One message of each type."""

from unit.protocol.messages import PROJECT

from dg_sqlmesh_component.capabilities.janitor.messages import JanitorFinished, JanitorRequest, ObjectDropped, StateSize
from dg_sqlmesh_component.protocol import messages as msg

MESSAGES = (
    JanitorRequest(PROJECT, job=msg.JobSettings("c0ffee", 2.5, 4)),
    ObjectDropped("db.core__dev"),
    JanitorFinished(("dev",), before=StateSize(9, 30), after=StateSize(8, 10)),
)
