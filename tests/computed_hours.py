"""What a database contains of SQLMesh's state: versions and intervals. It is read without SQLMesh's code.

Intervals are sets of hours, so that differences and unions are those of sets.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
from harness import query, version_of

HOUR = 3_600_000
Hours = frozenset[int]
"""Intervals, as the hours since 1970 that they contain."""
NONE: Hours = frozenset()
INTERVAL_ROWS = """
SELECT id, name, version, start_ts, end_ts, is_removed, is_compacted FROM sqlmesh._intervals
WHERE NOT is_dev AND NOT is_pending_restatement ORDER BY created_ts, is_removed
"""


@dataclass(frozen=True)
class State:
    """The promoted version of each model of schema t, and its intervals.

    Attributes:
        versions: The promoted versions.
        rows: The rows of `_intervals` of these versions, by id: hours, and whether a computation has written the row.
        computed: The hours that the state has as computed.
    """

    versions: dict[str, str]
    rows: dict[str, dict[str, tuple[Hours, bool]]]
    computed: dict[str, Hours]

    @classmethod
    def of(cls, project: Path) -> State:
        """Read the state in a project's DuckDB file."""
        return cls.read(partial(query, project))

    @classmethod
    def read(cls, ask: Callable[[str], list[tuple[Any, ...]]]) -> State:
        """Read the state in the database of `ask`, which runs SQL."""
        [(promoted,)] = ask("SELECT snapshots FROM sqlmesh._environments WHERE name = 'prod'")
        versions = {_name(snapshot["name"]): snapshot["version"] for snapshot in json.loads(promoted)}
        rows: dict[str, dict[str, tuple[Hours, bool]]] = {name: {} for name in versions}
        computed = dict.fromkeys(versions, NONE)
        for row, fqn, version, start, end, is_removed, is_compacted in ask(INTERVAL_ROWS):
            name, hours = _name(fqn), frozenset(range(start // HOUR, end // HOUR))
            if versions.get(name) == version:
                rows[name][row] = (hours, not is_removed and not is_compacted)
                computed[name] = computed[name] - hours if is_removed else computed[name] | hours
        return cls(versions, rows, computed)

    def computed_since(self, before: State) -> dict[str, Hours]:
        """The hours of each model that were computed after `before`, also those that were computed again."""
        found = {}
        for name, rows in self.rows.items():
            new = [hours for row, (hours, is_new) in rows.items() if is_new and row not in before.rows[name]]
            found[name] = NONE.union(*new)
        return {name: hours for name, hours in found.items() if hours}


def intervals_of(hours: Collection[int]) -> Iterator[tuple[int, int]]:
    """The first hour of each interval, and the one after its last."""
    starts = sorted(hour for hour in hours if hour - 1 not in hours)
    return zip(starts, sorted(hour + 1 for hour in hours if hour + 1 not in hours))


def text_of(hours: Collection[int]) -> str:
    """Hours as intervals, for a person."""
    return ", ".join(f"[{_text(start)}, {_text(end)})" for start, end in intervals_of(hours)) or "nothing"


def recorded_hours(metadata: Mapping[str, Any]) -> Hours | None:
    """The hours of `sqlmesh/intervals`. None if the text is cut, and of a model that is computed as a whole."""
    text = str(metadata["sqlmesh/intervals"].value) if "sqlmesh/intervals" in metadata else ""
    if " more" in text or text == "the whole table":
        return None
    return NONE.union(*[_hours(interval) for interval in text.split(", ")]) if text else NONE


def recorded_of(instance: dg.DagsterInstance, model: str, version: str) -> Counter[int]:
    """How often Dagster has recorded each hour of a version of a model of schema t, also of one computed in part."""
    recorded: Counter[int] = Counter()
    for fetch in (instance.fetch_materializations, instance.fetch_observations):
        for record in fetch(dg.AssetKey(["t", model]), limit=1000).records:
            event = record.asset_materialization or record.asset_observation
            if event and version_of(event) == version:
                recorded.update(recorded_hours(event.metadata) or ())
    return recorded


def _name(fqn: str) -> str:
    return fqn.split('"')[-2] if '"' in fqn else fqn  # a standalone audit has no schema


def _text(hour: int) -> str:
    return f"{datetime.fromtimestamp(hour * 3600, timezone.utc):%Y-%m-%dT%H}"


def _hours(interval: str) -> Hours:
    """The hours of a text like `2026-01-01`, `2026-01-01 to 2026-01-02 (2 days)` or `2026-01-01 05:00 to 07:00 UTC`."""
    first, _, last = interval.removesuffix(" UTC").partition(" (")[0].partition(" to ")
    if not interval.endswith(" UTC"):
        return frozenset(range(hour_of(first), hour_of(last or first) + 24))
    return frozenset(range(hour_of(first), hour_of(last if "-" in last else f"{first[:10]} {last}")))


def hour_of(text: str) -> int:
    """The hour since 1970 that begins at a time of UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()) // 3600
