"""Where a component's manifest comes from.

Dagster asks for it in three ways: to store it (`dg utils refresh-defs-state`, and each load in development), to build
definitions from what is stored, and to build them where nothing is stored. Then the project is loaded directly, once
in a process, with a warning: there is never an empty set of assets because nobody stored a manifest.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dagster.components.utils.project_paths import get_local_state_path

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.dagster_internals import is_rebuilding_definitions
from dg_sqlmesh_component.protocol.errors import DeclarationError
from dg_sqlmesh_component.protocol.formatting import short_hash
from dg_sqlmesh_component.protocol.manifest import DEFAULT_LIMITS, AnsweredSelection, Limits, Manifest
from dg_sqlmesh_component.protocol.messages import Addition
from dg_sqlmesh_component.protocol.redaction import SECRET_NAME
from dg_sqlmesh_component.state.fingerprint import sources_of
from dg_sqlmesh_component.state.manifest_file import read_manifest, write_manifest
from dg_sqlmesh_component.worker_process.requests import load_manifest

_LOGGER = logging.getLogger("dg_sqlmesh_component")

LOADED_DIRECTLY: dict[str, Manifest] = {}
"""Manifests that this process has loaded because nothing was stored, by what they were made of.

One for the process: Dagster loads definitions several times in it, each time with a new component.
"""


@dataclass
class ManifestSource:
    """The manifest of one component: stored, loaded directly, or loaded because it cannot be stored.

    Attributes:
        select, exclude: Models to expose, in SQLMesh's model selection language.
        include: What the manifest holds beyond the usual.
        root: The root of the Dagster project; None where it is not known.
    """

    project: SQLMeshProject
    select: tuple[str, ...]
    exclude: tuple[str, ...]
    include: tuple[Addition, ...]
    limits: Limits
    root: Path | None

    def __post_init__(self) -> None:
        self._unstored: Manifest | None = None
        self._read_from: Path | None = None
        self._loaded_as: str | None = None

    @property
    def key(self) -> str:
        """Dagster's key of the manifest; it tells apart what leads to different manifests.

        It is the same wherever the code location lies: state that is stored in one folder is found in another.
        """
        project = self.project
        paths = list(map(self._relative, project.paths))
        parts = [paths[0], project.gateway, project.environment, project.config]
        label = re.sub(r"[^A-Za-z0-9_]+", "_", "_".join(part for part in parts if part)).strip("_")
        opened_by = [self._relative(place) for place in (project.python, project.working_directory) if place]
        variables = settings({**project.env, **project.written_env})
        distinct = short_hash([repr(parts), *paths, *opened_by, *self._question, *variables])
        return f"SQLMeshProjectComponent[{label}_{distinct}]"

    def _relative(self, path: str | Path) -> str:
        return os.path.relpath(path, self.root) if self.root else str(path)

    @property
    def _question(self) -> list[str]:
        """What the manifest depends on, apart from the project."""
        limits = [] if self.limits == DEFAULT_LIMITS else [str(self.limits)]
        return [*self.select, "-", *self.exclude, "-", *sorted(self.include), *limits]

    # -- storing ----------------------------------------------------------------------------------

    def store(self, path: Path, *, is_refresh: bool) -> None:
        """Load the project and store its manifest.

        Args:
            is_refresh: Whether a user asked for it. Else Dagster did, which does so in each load in development: the
                stored manifest stays if the project has not changed.

        Raises:
            DeclarationError: The file cannot be written, and a user asked for it.
        """
        sources = sources_of(self.project, self._question)
        before = self._stored_before(path)
        if is_refresh or sources is None or before is None or before.sources is None:
            manifest = self._load(selections=before.selections if before else ())
        elif before.sources == sources:
            return
        else:
            manifest = self._reload(before, sources.files_changed_since(before.sources))
        manifest = replace(manifest, sources=None if manifest.reads_state else sources, state_key=self.key)
        try:
            write_manifest(manifest, path)
        except OSError as error:
            problem = (
                f"The manifest of the SQLMesh project {self.project.name!r} cannot be stored in {path}: "
                f"{error.strerror}. Let the user who runs this write to that folder."
            )
            if is_refresh:
                raise DeclarationError(problem) from error
            _LOGGER.warning(f"{problem} Until then each process loads the project again.")
            self._unstored = manifest

    def _reload(self, before: Manifest, files: frozenset[str] | None) -> Manifest:
        """The manifest of a project in which these files of models have changed; None for anything."""
        whole = (
            self.select
            or self.exclude
            or before.selections
            or "links" in self.include
            or any(model.dbt for model in before.models)
        )
        if files is None or whole:
            return self._load(selections=before.selections)
        return self._load(before, files)

    def _stored_before(self, path: Path) -> Manifest | None:
        """The stored manifest; None where there is none that can be read."""
        try:
            return self._read(path)
        except DeclarationError:
            return None

    # -- reading ----------------------------------------------------------------------------------

    def read_or_load(self, path: Path | None, problem: str | None = None) -> Manifest:
        """The stored manifest; if there is none that can be read, a fresh one, and a warning that says what to do.

        Args:
            path: Where it is stored; None if Dagster has none.
            problem: Why it cannot be read, if that is known.
        """
        if self._unstored is not None:
            return self._unstored
        if path is not None:
            try:
                manifest = self._read(path).at(self.project.opening.paths)
            except DeclarationError as error:
                problem = str(error)
            else:
                self._read_from = path
                return manifest
        return self._load_directly(
            problem or f"There is no stored manifest of the SQLMesh project {self.project.name!r}."
        )

    def _load_directly(self, problem: str) -> Manifest:
        """A manifest that is not stored, which this process loads once."""
        sources = sources_of(self.project, self._question)
        made_of = f"{self.key} {self.project.opening!r}" if sources is None else repr(sources)
        manifest = LOADED_DIRECTLY.get(made_of)
        if manifest is None or ((sources is None or manifest.reads_state) and not is_rebuilding_definitions()):
            since = time.monotonic()
            manifest = LOADED_DIRECTLY[made_of] = self._load(selections=manifest.selections if manifest else ())
            _LOGGER.warning(
                f"{problem} SQLMesh loaded the project directly, in {time.monotonic() - since:.1f} seconds, as it "
                "will in every process. To load it once for all of them: dg utils refresh-defs-state"
            )
        self._loaded_as = made_of
        return manifest

    def why_unreachable(self, root: Path) -> str | None:
        """Why Dagster's folder for the manifest cannot be used, which it creates if it is missing; None if it can."""
        try:
            os.stat(get_local_state_path(self.key, root))
        except FileNotFoundError:
            return None
        except OSError as error:
            return (
                f"The stored manifest of the SQLMesh project {self.project.name!r} cannot be looked for in "
                f"{error.filename}: {error.strerror}. Let the user who runs this search that folder, or store the "
                "manifest where the image is built."
            )
        return None

    def _read(self, path: Path) -> Manifest:
        manifest = read_manifest(path)
        if manifest.state_key != self.key:
            raise DeclarationError(
                f"The stored manifest of the SQLMesh project, {path}, does not belong to this component, {self.key}, "
                f"but to {manifest.state_key or 'one that it does not name'}. Replace it: dg utils refresh-defs-state"
            )
        return manifest

    def _load(
        self,
        before: Manifest | None = None,
        files: frozenset[str] = frozenset(),
        selections: tuple[AnsweredSelection, ...] = (),
    ) -> Manifest:
        return load_manifest(
            self.project, self.select, self.exclude, self.include, self.limits, before, files, selections
        )

    # -- selections -------------------------------------------------------------------------------

    def keep_answer(self, manifest: Manifest, answered: AnsweredSelection) -> Manifest:
        """The manifest with SQLMesh's answer to a selection, which is kept, so that no later load asks for it.

        Args:
            manifest: What `read_or_load` has returned, perhaps with answers that were added since.
        """
        kept = replace(manifest, selections=(*manifest.selections, answered))
        if self._loaded_as is not None:
            LOADED_DIRECTLY[self._loaded_as] = kept
        elif self._read_from is not None:
            try:
                stored = self._read(self._read_from).at(manifest.paths)
                if replace(stored, selections=()) == replace(manifest, selections=()):
                    write_manifest(replace(stored, selections=(*stored.selections, answered)), self._read_from)
            except (DeclarationError, OSError) as error:
                _LOGGER.warning(
                    f"get_asset_selection(select={answered.select}, exclude={answered.exclude}) started SQLMesh, and "
                    f"its answer cannot be stored: {error}. Run `dg check defs` after `dg utils refresh-defs-state` "
                    "where the image is built. Until then every process starts SQLMesh for it."
                )
        return kept


def settings(env: Mapping[str, str]) -> list[str]:
    """Variables with their values, of which none may be a secret."""
    return [f"{name}={'' if SECRET_NAME.search(name) else value}" for name, value in sorted(env.items())]
