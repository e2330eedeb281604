"""The stored manifest: versioned JSON, replaced as a whole."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from . import wire
from .errors import DeclarationError
from .manifest import MANIFEST_VERSION, Manifest


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write it beside its place and move it there, so that a reader finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(wire.MANIFEST.dump_json(manifest))
    os.replace(file.name, path)


def read_manifest(path: Path) -> Manifest:
    """Read what `write_manifest` wrote.

    Raises:
        DeclarationError: The file is damaged or of another version of this package.
    """
    try:
        manifest = wire.MANIFEST.validate_json(path.read_bytes())
    except ValueError as error:
        raise DeclarationError(
            f"The stored description of the SQLMesh project, {path}, cannot be read: it is damaged or was "
            "written by another version of dg_sqlmesh_component. Write it anew: dg utils refresh-defs-state"
        ) from error
    if manifest.version != MANIFEST_VERSION:
        raise DeclarationError(
            f"The stored description of the SQLMesh project, {path}, has version {manifest.version}; this "
            f"dg_sqlmesh_component reads version {MANIFEST_VERSION}. Write it anew: dg utils refresh-defs-state"
        )
    return manifest
