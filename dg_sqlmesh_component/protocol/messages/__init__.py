"""The messages between Dagster's process and the worker: one request to the worker, then events from it.

A step answers some of them: `StateLocked` with `Records`, `PlanBuilt` with a `PlanApproval`, `RestatementPlanned` and
`EvaluationPlanned` with `GoAhead`. The worker plans, and Dagster's process decides whether that is computed. Steps and
ticks answer `OtherTablesFound` with `AwaitedTables`.

Messages are frozen dataclasses of plain values, standard library only. `wire` converts them to lines of text.
Instants are epoch milliseconds in UTC, as in SQLMesh. `fqn` is SQLMesh's quoted name of a model, or the name of a
standalone audit: both are nodes of a run. "By model" and "by node" mean by fqn.
"""

from __future__ import annotations

from dg_sqlmesh_component.protocol.messages.events import *
from dg_sqlmesh_component.protocol.messages.requests import *
from dg_sqlmesh_component.protocol.messages.run import *
