"""What `dg scaffold defs dg_sqlmesh_component.SQLMeshProjectComponent` writes."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import dagster as dg
from pydantic import BaseModel, Field

from .bootstrap import sqlmesh_program
from .errors import DeclarationError
from .project import is_project_folder, what_is_no_project

STARTER_FOLDER = "sqlmesh_project"
"""Where `init` puts the starter project, below the Dagster project's root, unless `project_path` says otherwise."""


class SQLMeshScaffoldParams(BaseModel):
    """Parameters of the scaffolder, as flags or as JSON."""

    project_path: str | None = Field(
        default=None,
        description="Folder of the SQLMesh project, relative to where you stand. With `init`: where to create it.",
    )
    init: bool = Field(default=False, description="Also write a starter SQLMesh project on embedded DuckDB.")
    gateway: str | None = Field(default=None, description="Gateway to use.")
    environment: str | None = Field(default=None, description="Environment whose models are run.")


class SQLMeshProjectComponentScaffolder(dg.Scaffolder[SQLMeshScaffoldParams]):
    """Writes a `defs.yaml` that loads at once, and on request a starter SQLMesh project."""

    @classmethod
    def get_scaffold_params(cls) -> type[SQLMeshScaffoldParams]:
        """The parameters that `dg` offers."""
        return SQLMeshScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[SQLMeshScaffoldParams]) -> None:
        """Write the files.

        Raises:
            DeclarationError: The path is no SQLMesh project, or something would be overwritten; nothing is written.
        """
        try:
            project = self._project_folder(request)
        except DeclarationError:
            _remove_if_empty(request.target_path)  # dg created it just before
            raise
        if request.params.init:
            copy_starter(project)
            click.echo(f"Created a SQLMesh project at {project}.")
        here = request.target_path.parent if request.append else request.target_path
        path = Path(os.path.relpath(project, here.resolve())).as_posix()
        options = _options(request.params)
        metadata = {"include_metadata": ["row_count"]} if request.params.init else {}  # cheap on the starter's tables
        if request.scaffold_format == "python":
            (here / "component.py").write_text(_python_module(path, options, metadata), encoding="utf-8")
        else:
            dg.scaffold_component(request, {**_attributes(path, options), **metadata})
        gateway = ["--gateway", options["gateway"]] if "gateway" in options else []
        environment = [options["environment"]] if "environment" in options else []
        plan = shlex.join([sqlmesh_program(), *gateway, "plan", *environment])
        click.echo(f"Next: cd {shlex.quote(os.path.relpath(project))} && {plan}")

    def _project_folder(self, request: dg.ScaffoldRequest[SQLMeshScaffoldParams]) -> Path:
        params = request.params
        root = (request.project_root or Path.cwd()).resolve()
        for name in ("defs.yaml", "defs.yml", "component.yaml", "component.py"):
            if not request.append and (request.target_path / name).exists():
                raise DeclarationError(
                    f"{request.target_path / name} exists already and is not overwritten. Choose another name."
                )
        if params.init:
            folder = Path(params.project_path).resolve() if params.project_path else root / STARTER_FOLDER
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise DeclarationError(
                    f"{folder} exists already and is not overwritten. Leave out `init` to use what is there, "
                    "or choose another `project_path`."
                )
            return folder
        if not params.project_path:
            raise DeclarationError(
                "Say which SQLMesh project to use: --project-path <folder>, or --init true for a starter project."
            )
        # Relative to where the command was typed; Dagster's own scaffolders also accept the project's root.
        found = [base / params.project_path for base in (Path.cwd(), root)]
        for folder in found:
            if is_project_folder(folder):
                return folder.resolve()
        folder = found[0].resolve()
        wrong = what_is_no_project(folder) if folder.is_dir() else f"There is no folder {folder}."
        raise DeclarationError(f"{wrong} Nothing was written.")


def starter_folder() -> Path:
    """The starter project in this installation: inside the wheel's package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for templates in (here / "templates", here.parent / "templates"):
        if (templates / "starter").is_dir():
            return templates / "starter"
    raise DeclarationError(
        f"This installation of dg_sqlmesh_component lacks its templates (looked in {here / 'templates'}). Reinstall it."
    )


def copy_starter(destination: Path) -> None:
    """Copy the starter project; the destination must be empty or absent."""
    # In a clone, somebody may have run it where it stands.
    leftovers = shutil.ignore_patterns(".cache", "logs", "*.duckdb*")
    shutil.copytree(starter_folder(), destination, ignore=leftovers, dirs_exist_ok=True)


def _options(params: SQLMeshScaffoldParams) -> dict[str, str]:
    options = {"gateway": params.gateway, "environment": params.environment}
    return {name: value for name, value in options.items() if value}


def _attributes(path: str, options: dict[str, str]) -> dict[str, Any]:
    return {"project": {"path": path, **options} if options else path}


def _python_module(path: str, options: dict[str, str], metadata: dict[str, list[str]]) -> str:
    arguments = "".join(f", {name}={value!r}" for name, value in options.items())
    more = "".join(f", {name}={value!r}" for name, value in metadata.items())
    return f"""\
from pathlib import Path

import dagster as dg
from dg_sqlmesh_component import SQLMeshProject, SQLMeshProjectComponent

FOLDER = (Path(__file__).parent / {path!r}).resolve()


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> SQLMeshProjectComponent:
    return SQLMeshProjectComponent(project=SQLMeshProject((FOLDER,){arguments}){more})
"""


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
