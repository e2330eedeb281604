"""The stored manifest: versioned JSON, replaced as a whole."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from dg_sqlmesh_component.protocol import wire
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.manifest import MANIFEST_VERSION, Manifest


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
