"""The changes of plans in an environment: found between two ticks, and reported as observations. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

import dagster as dg
from pydantic import TypeAdapter

from dg_sqlmesh_component.capabilities.polling_sensor.messages import ChangesFound
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.history.records import record_metadata, record_of
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import block, listed, short_hash
from dg_sqlmesh_component.report.metadata import unapplied_change


@dataclass(frozen=True)
class LastPlan:
    """The plan at the previous tick. The sensor's cursor contains it."""

    environment: str
    plan_id: str
    unpromoted: tuple[str, ...]  # the models of the definitions that it had not promoted, by fqn
    models: str  # a hash of the models of the definitions: all their names would be a long cursor

    @classmethod
    def of(cls, environment: str, found: ChangesFound, assets: ProjectAssets) -> LastPlan:
        unpromoted = sorted(assets.specs.keys() - found.promoted.keys())
        return cls(environment, found.plan_id, tuple(unpromoted), short_hash(sorted(assets.specs)))


CURSOR = TypeAdapter(LastPlan)
"""Writes and reads the sensor's cursor."""


@dataclass(frozen=True)
class PlanChanges:
    """What plans have changed since the previous tick."""

    plan_id: str
    environment: str
    # `added`, `changed`, `changed upstream` or `removed`, by fqn. A model is `changed upstream` if only its version
    # differs, because a model upstream of it has changed.
    by_model: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def between(
        cls, before: LastPlan, found: ChangesFound, recorded: Mapping[str, msg.RecordedData | None]
    ) -> PlanChanges:
        """The changes of the models of which Dagster has these records: those of the definitions."""
        by_model = {}
        has_other_models = before.models != short_hash(sorted(recorded))
        for fqn, record in sorted(recorded.items()):
            promoted = found.promoted.get(fqn)
            # If the definitions have changed, a model without a record was most likely not in them.
            was_promoted = fqn not in before.unpromoted and not (has_other_models and record is None)
            if promoted is None:
                if was_promoted:
                    by_model[fqn] = "removed"
            elif not was_promoted:
                by_model[fqn] = "added"
            elif record and (record.data_hash, record.metadata_hash) != (promoted.data_hash, promoted.metadata_hash):
                by_model[fqn] = "changed"  # its own definition
            elif record and record.version != promoted.version:
                by_model[fqn] = "changed upstream"
        return cls(found.plan_id, before.environment, by_model)

    def named(self, change: str, assets: ProjectAssets) -> str:
        """The names of the models with this change."""
        return listed([assets.name(fqn) for fqn, found in self.by_model.items() if found == change])

    def sentence(self, assets: ProjectAssets) -> str:
        """What the plan has changed."""
        kinds = [f"{change}: {self.named(change, assets)}" for change in CHANGES if change in self.by_model.values()]
        return f"Plan {self.plan_id} was applied to environment {self.environment} ({'; '.join(kinds)})."

    def observations(
        self,
        assets: ProjectAssets,
        promoted: Mapping[str, msg.PromotedVersion],
        recorded: Mapping[str, msg.RecordedData | None],
        differs: str | None = None,
    ) -> Iterator[dg.AssetObservation]:
        """One observation of each changed model, with its record after this tick."""
        lists = {f"sqlmesh/models_{change.replace(' ', '_')}": self.named(change, assets) for change in CHANGES}
        for fqn, change in self.by_model.items():
            version, record = promoted.get(fqn), recorded.get(fqn)
            if version and record and record.version == version.version:
                record = record_of(version, record.up_to)  # so that a change of metadata is reported once
            unapplied = unapplied_change(assets, fqn, version) if version else None
            own = {
                "sqlmesh/plan_id": self.plan_id,
                "sqlmesh/plan_change": change,
                "sqlmesh/snapshot_version": version.version if version else None,
                "sqlmesh/unapplied_change": unapplied,
                **lists,
            }
            yield dg.AssetObservation(
                asset_key=assets.key(fqn),
                description=f"Plan {self.plan_id} has {CHANGES[change]} {assets.name(fqn)} in {self.environment}."
                + (f" {differs}" if differs else ""),
                metadata={
                    **{name: value for name, value in own.items() if value},
                    **record_metadata(self.environment, record),
                },
            )


CHANGES = {
    "added": "added",
    "changed": "changed",
    "changed upstream": "changed a model upstream of",
    "removed": "removed",
}
"""The kinds of changes, and what a plan has done."""


def difference(
    assets: ProjectAssets, promoted: Mapping[str, msg.PromotedVersion], environment: str, owned: Set[str]
) -> str | None:
    """How the definitions differ from the environment, and what to do; None if they do not."""
    kinds = {
        "not in the definitions": [fqn for fqn in promoted if fqn not in assets.models and fqn not in owned],
        "not promoted": [fqn for fqn in assets.specs if fqn not in promoted],
        "with another definition": [
            fqn for fqn, version in promoted.items() if fqn in assets.specs and unapplied_change(assets, fqn, version)
        ],
    }
    named = [f"{kind}: {listed(list(map(assets.name, fqns)))}" for kind, fqns in kinds.items() if fqns]
    if not named:
        return None
    return (
        f"The definitions differ from environment {environment} ({'; '.join(named)}). If the definitions are older, "
        'click "Reload definitions" in `dg dev`. In a deployment, refresh the manifest, and then reload them:'
        f"{block('dg utils refresh-defs-state')}"
    )
