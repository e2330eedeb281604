"""Store the manifest of a component, in place of loading the project."""

from dataclasses import replace

from dagster.components.core.component_tree import ComponentTree
from dagster.components.utils.project_paths import get_local_state_path
from harness import DagsterProject

from dg_sqlmesh_component import SQLMeshProjectComponent
from dg_sqlmesh_component.protocol.manifest import Manifest
from dg_sqlmesh_component.state.manifest_source import write_manifest


def store_manifest(dagster: DagsterProject, component: str, project: Manifest) -> None:
    """Store the manifest of a component, so that loading its definitions does not start SQLMesh."""
    loaded = ComponentTree.for_project(dagster.root / dagster.root.name).load_component(
        component, SQLMeshProjectComponent
    )
    key = loaded.defs_state_config.key
    write_manifest(replace(project, state_key=key), get_local_state_path(key, dagster.root))
