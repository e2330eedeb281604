"""Where a component's manifest comes from.

Dagster asks for the manifest in three situations:

- to store it: `dg utils refresh-defs-state`, and each time `dg dev` loads definitions
- to build definitions from the stored manifest
- to build definitions while no manifest is stored

In the third situation the project is loaded directly, once per process and with a warning. A missing manifest never
leads to an empty set of assets.
"""

from __future__ import annotations

import logging
import os
import re
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dagster.components.utils.project_paths import get_local_state_path

from dg_sqlmesh_component.config.project import SQLMeshProject, variables_without_secrets
from dg_sqlmesh_component.dagster_internals.assets import is_rebuilding_definitions, serves_definitions
from dg_sqlmesh_component.protocol import wire
from dg_sqlmesh_component.protocol.errors import ConfigurationError, ProjectLoadError
from dg_sqlmesh_component.protocol.formatting import block, short_hash
from dg_sqlmesh_component.protocol.manifest import MANIFEST_VERSION, AnsweredSelection, Manifest
from dg_sqlmesh_component.protocol.messages import LoadRequest, OptionalContent
from dg_sqlmesh_component.state.fingerprint import fingerprint_of
from dg_sqlmesh_component.worker_client.calls import load_project

_LOGGER = logging.getLogger("dg_sqlmesh_component")

LOADED_IN_PROCESS: dict[str, Manifest] = {}
"""Manifests that this process has loaded because none was stored, by component and fingerprint.

It belongs to the process: Dagster loads definitions several times in it, each time with a new component.
"""


@dataclass
class ManifestSource:
    """The manifest of one component: read from Dagster's folder, or loaded by SQLMesh."""

    project: SQLMeshProject
    select: tuple[str, ...]
    exclude: tuple[str, ...]
    include: tuple[OptionalContent, ...]
    root: Path | None  # of the Dagster project; None if it is not known yet

    def __post_init__(self) -> None:
        self._unstored: Manifest | None = None
        self._read_from: Path | None = None
        self._loaded_as: str | None = None

    @property
    def key(self) -> str:
        """Dagster's key of the manifest. Components whose manifests may differ have different keys.

        The key contains paths relative to `root`: a manifest that is stored in one folder is found in another.
        """
        project = self.project
        paths = list(map(self._relative, project.paths))
        parts = [paths[0], project.gateway, project.environment, project.config]
        label = re.sub(r"[^A-Za-z0-9_]+", "_", "_".join(part for part in parts if part)).strip("_")
        opened_by = [self._relative(path) for path in (project.python, project.working_directory) if path]
        variables = variables_without_secrets({**project.env, **project.written_env})
        distinct = short_hash([repr(parts), *paths, *opened_by, *self._options, *variables])
        return f"SQLMeshProjectComponent[{label}_{distinct}]"

    def _relative(self, path: str | Path) -> str:
        # A command that is looked up in PATH is no path: it would be relative to the folder of this process.
        return os.path.relpath(path, self.root) if self.root and os.path.isabs(path) else str(path)

    @property
    def _options(self) -> list[str]:
        """The options of the component that change the manifest."""
        return [*self.select, "-", *self.exclude, "-", *sorted(self.include)]

    # -- storing ----------------------------------------------------------------------------------

    def store(self, path: Path, *, is_refresh: bool) -> None:
        """Load the project and store its manifest.

        Args:
            is_refresh: Whether a user asked for it. Otherwise Dagster did, as it does for each load in development:
                if the project has not changed, the stored manifest stays. `dg dev` also keeps it if the project
                cannot be loaded: an error in one file would empty the graph.

        Raises:
            ConfigurationError: The file cannot be written, and a user asked for it.
            ProjectLoadError: SQLMesh cannot load the project, and there is no stored manifest to keep.
        """
        sources = fingerprint_of(self.project, self._options)
        before: Manifest | None = None
        with suppress(ConfigurationError):  # a file that cannot be read is replaced
            before = self._read(path)
        changed_files = None
        if before and before.sources and sources and not is_refresh:
            if before.sources == sources and before.problem is None and not _has_git_answers(before):
                return
            changed_files = sources.files_changed_since(before.sources)
        try:
            manifest = self._load(before, changed_files)
            manifest = replace(manifest, sources=None if manifest.reads_state else sources, state_key=self.key)
        except ProjectLoadError as error:
            if before is None or is_refresh or not serves_definitions():
                raise
            manifest = replace(before, problem=str(error))
            _LOGGER.error(
                f"The SQLMesh project {self.project.name!r} cannot be loaded. Its assets stay as they were when it was "
                f"loaded the last time. Runs execute what the environment has promoted.{block(str(error))}"
            )
        try:
            write_manifest(manifest, path)
        except OSError as error:
            problem = (
                f"The manifest of the SQLMesh project {self.project.name!r} cannot be stored in {path}: "
                f"{error.strerror}. Give the user that runs Dagster write permission on that folder."
            )
            if is_refresh:
                raise ConfigurationError(problem) from error
            if manifest == before:  # files may not show each change, so it was loaded again
                return
            _LOGGER.warning(f"{problem} Until then each process loads the project again.")
            self._unstored = manifest

    def _load(self, before: Manifest | None, changed_files: frozenset[str] | None = None) -> Manifest:
        """Let SQLMesh load the project.

        Args:
            before: The previous manifest, whose selections are answered again.
            changed_files: The SQL files of models that have changed since `before`, if nothing else has: only their
                models and downstream models are loaded. None: everything is loaded.
        """
        selections = before.selections if before else ()
        needs_all_models = self.select or self.exclude or selections or "links" in self.include
        if before is None or changed_files is None or needs_all_models or any(model.dbt for model in before.models):
            before, changed_files = None, frozenset()
        models = before.models_changed_by(changed_files) if before else frozenset()
        request = LoadRequest(
            self.project.open_request,
            self.select,
            self.exclude,
            self.include,
            changed_files if models else frozenset(),
            models,
            selections,
        )
        loaded = load_project(self.project, request)
        return loaded.manifest if loaded.is_whole or before is None else before.with_models_of(loaded.manifest)

    # -- reading ----------------------------------------------------------------------------------

    def read_or_load(self, path: Path | None, problem: str | None = None) -> Manifest:
        """The stored manifest. If there is none, or it has a problem, load the project and warn with what to do."""
        if self._unstored is not None:
            return self._unstored
        if path is not None:
            try:
                manifest = self._read(path).at(self.project.open_request.paths)
            except ConfigurationError as error:
                problem = str(error)
            else:
                self._read_from = path
                return manifest
        return self._load_directly(
            problem or f"There is no stored manifest of the SQLMesh project {self.project.name!r}."
        )

    def _load_directly(self, problem: str) -> Manifest:
        """A manifest that is not stored, which this process loads once."""
        sources = fingerprint_of(self.project, self._options)
        loaded_as = f"{self.key} {self.project.open_request!r} {sources!r}"
        manifest = LOADED_IN_PROCESS.get(loaded_as)
        # Without a fingerprint, a change cannot be noticed. A rebuild of definitions must equal the first load.
        if manifest is None or ((sources is None or manifest.reads_state) and not is_rebuilding_definitions()):
            since = time.monotonic()
            manifest = LOADED_IN_PROCESS[loaded_as] = self._load(manifest)
            _LOGGER.warning(
                f"{problem}\nSQLMesh loaded the project directly, in {time.monotonic() - since:.1f} seconds, as it "
                "will in every process. To load it once for all of them: dg utils refresh-defs-state"
            )
        self._loaded_as = loaded_as
        return manifest

    def folder_problem(self, root: Path) -> str | None:
        """Why Dagster's folder for the manifest cannot be used; None if it can. Dagster creates a missing folder."""
        try:
            os.stat(get_local_state_path(self.key, root))
        except FileNotFoundError:
            return None
        except OSError as error:
            return (
                f"The stored manifest of the SQLMesh project {self.project.name!r} cannot be looked for in "
                f"{error.filename}: {error.strerror}. Give the user that runs Dagster search permission on that "
                "folder, or store the manifest when the image is built."
            )
        return None

    def _read(self, path: Path) -> Manifest:
        manifest = read_manifest(path)
        if manifest.state_key != self.key:  # a copied file, or a component with other options
            keys = f"Its key is {manifest.state_key or 'missing'}, and this component's key is {self.key}"
            raise unusable(path, f"belongs to another component. {keys}. Replace it")
        return manifest

    def answer(self, manifest: Manifest, select: tuple[str, ...], exclude: tuple[str, ...], asked_by: str) -> Manifest:
        """Let SQLMesh evaluate a new selection, and store its answer, so that no later load starts SQLMesh for it.

        Args:
            manifest: The one that `read_or_load` returned, perhaps with answers that were added since.
            asked_by: Where the selection is written, for messages.
        """
        request = LoadRequest(self.project.open_request, select, exclude, asked_by=asked_by)
        answered = AnsweredSelection(select, exclude, load_project(self.project, request).manifest.selected)
        with_answer = replace(manifest, selections=(*manifest.selections, answered))
        if self._loaded_as is not None:
            LOADED_IN_PROCESS[self._loaded_as] = with_answer
        elif self._read_from is not None:
            try:
                stored = self._read(self._read_from).at(manifest.paths)
                if replace(stored, selections=()) == replace(manifest, selections=()):
                    write_manifest(replace(stored, selections=(*stored.selections, answered)), self._read_from)
            except (ConfigurationError, OSError) as error:
                _LOGGER.warning(
                    f"A selection of {asked_by} started SQLMesh (select={select}, exclude={exclude}), and its answer "
                    f"cannot be stored: {error}. Run `dg check defs` after `dg utils refresh-defs-state` where the "
                    "image is built. Until then every process starts SQLMesh for it."
                )
        return with_answer


def _has_git_answers(manifest: Manifest) -> bool:
    """Whether it has answers to selections with `git:`, which can change although no file of the project has."""
    parts = (part for answered in manifest.selections for part in (*answered.select, *answered.exclude))
    return any("git:" in part for part in parts)


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a temporary file in the same folder and rename it, so that other processes find the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`: only its user may read its files, but one user builds an image and another runs it.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(wire.MANIFEST.dump_json(manifest))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_manifest(path: Path) -> Manifest:
    """Read the file that `write_manifest` wrote. The error for one that cannot be used names the command to run."""
    try:
        manifest = wire.MANIFEST.validate_json(path.read_bytes())
    except OSError as error:
        problem = f"cannot be read: {error.strerror}. Let the user who runs Dagster read it, or replace it"
        raise unusable(path, problem) from error
    except ValueError as error:
        problem = "cannot be read: it is damaged or was written by another version of dg_sqlmesh_component. Replace it"
        raise unusable(path, problem) from error
    if manifest.version != MANIFEST_VERSION:
        reads = f"this dg_sqlmesh_component reads version {MANIFEST_VERSION}"
        raise unusable(path, f"has version {manifest.version}; {reads}. Replace it")
    return manifest


def unusable(path: Path, problem: str) -> ConfigurationError:
    """The error for a stored manifest with a problem, which the command after it solves."""
    return ConfigurationError(
        f"The stored manifest of the SQLMesh project, {path}, {problem}: dg utils refresh-defs-state"
    )
