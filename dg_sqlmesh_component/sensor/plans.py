"""The changes of plans in an environment: found between two ticks, and reported as observations. Pure."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

import dagster as dg

from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import block, listed
from dg_sqlmesh_component.run.metadata import unapplied_change


@dataclass(frozen=True)
class Promotion:
    """The promoted models at one tick. The sensor's cursor contains it.

    Attributes:
        models: The version, data hash and metadata hash of each model, by fqn.
    """

    environment: str
    plan_id: str
    models: Mapping[str, tuple[str, str, str]]

    @classmethod
    def of(cls, environment: str, found: msg.ChangesFound) -> Promotion:
        models = {
            fqn: (promoted.version, promoted.data_hash, promoted.metadata_hash)
            for fqn, promoted in found.promoted.items()
        }
        return cls(environment, found.plan_id, models)

    def cursor(self) -> str:
        """The text that `from_cursor` reads. Compressed, because Dagster stores it with each tick."""
        packed = base64.b64encode(zlib.compress(json.dumps(self.models).encode()))
        return json.dumps({"environment": self.environment, "plan_id": self.plan_id, "models": packed.decode()})

    @classmethod
    def from_cursor(cls, cursor: str) -> Promotion:
        """The promotion in a cursor.

        Raises:
            ValueError: The cursor is no text of `cursor`.
        """
        try:
            stored = json.loads(cursor)
            models = json.loads(zlib.decompress(base64.b64decode(stored["models"])))
            hashes = {fqn: (str(version), str(data), str(text)) for fqn, (version, data, text) in models.items()}
            return cls(stored["environment"], stored["plan_id"], hashes)
        except (KeyError, TypeError, AttributeError, zlib.error) as error:
            raise ValueError(f"{cursor[:60]!r} is no cursor of this sensor") from error


@dataclass(frozen=True)
class PlanChanges:
    """The changes between two promotions.

    Attributes:
        by_model: `added`, `changed`, `changed upstream` or `removed`, by fqn. A model is `changed upstream` if only its
            version differs, because a model upstream of it has changed.
    """

    plan_id: str
    environment: str
    by_model: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def between(cls, before: Promotion, after: Promotion) -> PlanChanges:
        by_model = {fqn: "added" for fqn in after.models if fqn not in before.models}
        by_model |= {fqn: "removed" for fqn in before.models if fqn not in after.models}
        for fqn, (version, *hashes) in after.models.items():
            earlier = before.models.get(fqn)
            if earlier is not None and earlier != (version, *hashes):
                by_model[fqn] = "changed" if list(earlier[1:]) != hashes else "changed upstream"
        return cls(after.plan_id, after.environment, dict(sorted(by_model.items())))

    def named(self, change: str, assets: ProjectAssets) -> str:
        """The names of the models with this change."""
        return listed([assets.name(fqn) for fqn, found in self.by_model.items() if found == change])

    def sentence(self, assets: ProjectAssets) -> str:
        """What the plan has changed."""
        kinds = [f"{change}: {self.named(change, assets)}" for change in CHANGES if change in self.by_model.values()]
        return f"Plan {self.plan_id} was applied to environment {self.environment} ({'; '.join(kinds)})."

    def observations(
        self, assets: ProjectAssets, promoted: Mapping[str, msg.PromotedVersion], differs: str | None = None
    ) -> Iterator[dg.AssetObservation]:
        """One observation of each changed model that is an asset.

        Args:
            differs: How the definitions differ from the environment.
        """
        lists = {f"sqlmesh/models_{change.replace(' ', '_')}": self.named(change, assets) for change in CHANGES}
        for fqn, change in self.by_model.items():
            if fqn not in assets.specs:
                continue
            version = promoted.get(fqn)
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
                metadata={name: value for name, value in own.items() if value},
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
    """How the definitions differ from the environment, and what to do; None if they do not.

    Args:
        owned: The models of all components of the code location, by fqn.
    """
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
