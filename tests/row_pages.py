"""What a run says about a model: its checks, the facts of its event, and the days that these name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
from harness import RunRecord
from row_projects import DAY, RowModel

STATUS = "sqlmesh_execution_status"
INTERVALS = "sqlmesh_intervals_complete"
LATE = "sqlmesh_no_late_data"
CHECKS = (STATUS, INTERVALS, LATE)
FACTS = ("not_computed", "outdated", "late", "waiting_for", "reason", "blocked_by", "failed_audits")
"""Metadata about rows that lack or are old (docs/metadata.md)."""
TIME = r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d)(?::\d\d)?)?"
RANGE = re.compile(rf"{TIME}(?: UTC)?'?(?: to |, end: '){TIME}")


@dataclass(frozen=True)
class Page:
    """What a run says about a model.

    Attributes:
        text: The sentences of checks that have not passed, and of the event, without those about computed ranges.
        checks: Whether each check has passed, by name.
        of_late: The sentences of `sqlmesh_no_late_data`, also if it has passed.
        says_nothing: Whether its coverage was not looked at, because SQLMesh's process died (docs/intervals.md).
    """

    text: str
    checks: Mapping[str, bool]
    of_late: str = ""
    says_nothing: bool = False

    @classmethod
    def of(cls, record: RunRecord, model: RowModel) -> Page:
        """Read what a run has recorded. Audits are left out: they say nothing about rows that are old or lack."""
        asset, texts, found, says_nothing = model.asset, [], {}, False
        for name, check in record.checks.items():
            if not name.startswith(f"{asset}:"):
                continue
            short = name.rsplit(":", 1)[1]
            found[short] = check.passed
            says_nothing |= short in CHECKS and "sqlmesh/not_evaluated" in check.metadata
            if short in CHECKS and not check.passed:
                texts.append(f"{short}: {check.description} {_facts(check.metadata)}")
        event = record.materializations.get(asset) or record.observations.get(asset)
        if event is not None:
            texts.append(_facts(event.metadata))
        texts += [failure for failure in record.failures if f"t.{model.name}" in failure]
        late = record.checks.get(f"{asset}:{LATE}")
        return cls(" | ".join(texts), found, str(late and late.description), says_nothing)

    @property
    def is_green(self) -> bool:
        return all(passed for name, passed in self.checks.items() if name in CHECKS)


def _facts(metadata: Mapping[str, dg.MetadataValue[Any]]) -> str:
    found = {name: metadata[f"sqlmesh/{name}"] for name in FACTS if f"sqlmesh/{name}" in metadata}
    return " ".join(f"{name}: {_shown(value)}" for name, value in found.items())


def _shown(value: dg.MetadataValue[Any]) -> object:
    return [record.data for record in value.records] if isinstance(value, dg.TableMetadataValue) else value.value


def named_days(text: str) -> set[date]:
    """The days that a text names, alone or within a range."""
    found = {date.fromisoformat(day) for day in re.findall(r"\d{4}-\d\d-\d\d", text)}
    for match in RANGE.finditer(text):
        first, last = (date.fromisoformat(match[number]) for number in (1, 3))
        found |= {first + DAY * number for number in range((last - first).days + 1)}
    return found
