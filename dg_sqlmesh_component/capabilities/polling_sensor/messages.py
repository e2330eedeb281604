"""The messages of a tick of the sensor."""

from __future__ import annotations

from dataclasses import dataclass, field

from dg_sqlmesh_component.protocol.messages import (
    AwaitedTables,
    DataComparedWithRecords,
    LastEvent,
    PromotedVersion,
    Records,
    StateQuestion,
)


@dataclass(frozen=True, slots=True)
class ChangesRequest(StateQuestion):
    """Find data that Dagster has not recorded, and the promoted models. A sensor sends it at each tick."""

    SERVED_BY = "capabilities.polling_sensor.worker.changes:find_changes"
    records: Records
    tables: AwaitedTables
    now: int  # the instant for the interval coverage


@dataclass(frozen=True, slots=True)
class ChangesFound(LastEvent):
    """The answer to a `ChangesRequest`."""

    plan_id: str  # the last plan of the environment
    is_finalized: bool  # False if that plan is still updating the environment. Then nothing else is found.
    # The promoted models, without external and embedded ones.
    promoted: dict[str, PromotedVersion] = field(default_factory=dict)
    compared: DataComparedWithRecords = field(default_factory=DataComparedWithRecords)
