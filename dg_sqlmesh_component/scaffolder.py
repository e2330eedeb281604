"""What `dg scaffold defs dg_sqlmesh_component.SQLMeshProjectComponent` writes."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import dagster as dg
from pydantic import AliasChoices, BaseModel, Field

from dg_sqlmesh_component.config.project import is_project_folder, missing_project
from dg_sqlmesh_component.protocol.bootstrap import sqlmesh_program

STARTER_FOLDER = "sqlmesh_project"
"""Where `init` puts the starter project, below the Dagster project's root, unless `project_path` says otherwise."""


class SQLMeshScaffoldParams(BaseModel):
    """Parameters of the scaffolder, as flags or as JSON.

    `dg` makes one click option of each property of the JSON schema, `--<property>` with a value, whatever its type.
    Click itself makes a flag of an option that is written with its opposite, so the property is named that way.
    """

    project_path: str | None = Field(
        default=None,
        description="Folder of the SQLMesh project, relative to where you stand. With `init`: where to create it.",
    )
    init: bool = Field(
        default=False,
        validation_alias=AliasChoices("init/--no-init", "init"),
        description="Also write a starter SQLMesh project on embedded DuckDB. In JSON: `init`.",
    )
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
            click.UsageError: The path is not a SQLMesh project, or a file would be overwritten. Nothing is written.
        """
        try:
            project = self._project_folder(request)
            if request.params.init:
                copy_starter(project)
        except click.UsageError:
            _remove_if_empty(request.target_path)  # dg created it just before
            raise
        if request.params.init:
            click.echo(f"Created a SQLMesh project at {project}.")
        here = request.target_path.parent if request.append else request.target_path
        path = Path(os.path.relpath(project, here.resolve())).as_posix()
        options = _options(request.params)
        if request.scaffold_format == "python":
            module = _python_module(path, options, is_new=request.params.init)
            (here / "component.py").write_text(module, encoding="utf-8")
        else:
            dg.scaffold_component(request, _attributes(path, options, is_new=request.params.init))
        click.echo(_next_steps(project, options, is_new=request.params.init))

    def _project_folder(self, request: dg.ScaffoldRequest[SQLMeshScaffoldParams]) -> Path:
        params = request.params
        root = (request.project_root or Path.cwd()).resolve()
        for name in ("defs.yaml", "defs.yml", "component.yaml", "component.py"):
            if not request.append and (request.target_path / name).exists():
                raise click.UsageError(
                    f"{request.target_path / name} exists already and is not overwritten. Choose another name."
                )
        if params.init:
            folder = Path(params.project_path).resolve() if params.project_path else root / STARTER_FOLDER
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise click.UsageError(
                    f"{folder} exists already and is not overwritten. To use the project in it, name it with "
                    "--project-path and leave out --init. To write a starter project elsewhere, name a new folder "
                    "with --project-path."
                )
            return folder
        if not params.project_path:
            raise click.UsageError(
                "Name the SQLMesh project with --project-path <folder>, or write a starter project with --init."
            )
        # Relative to where the command was typed; Dagster's own scaffolders also accept the project's root.
        found = [base / params.project_path for base in (Path.cwd(), root)]
        for folder in found:
            if is_project_folder(folder):
                return folder.resolve()
        folder = found[0].resolve()
        if folder.is_dir():
            raise click.UsageError(missing_project(folder, "Nothing was written. Correct --project-path."))
        raise click.UsageError(f"There is no folder {folder}. Nothing was written. Correct --project-path.")


def starter_folder() -> Path:
    """The starter project in this installation: inside the wheel's package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for templates in (here / "templates", here.parent / "templates"):
        if (templates / "starter").is_dir():
            return templates / "starter"
    raise click.UsageError(
        f"This installation of dg_sqlmesh_component lacks its templates (looked in {here / 'templates'}). Reinstall it."
    )


def copy_starter(destination: Path) -> None:
    """Copy the starter project; the destination must be empty or absent."""
    # In a clone, somebody may have run it in place; installing a wheel compiles its Python models.
    leftovers = shutil.ignore_patterns(".cache", "logs", "*.duckdb*", "__pycache__", "*.pyc")
    shutil.copytree(starter_folder(), destination, ignore=leftovers, dirs_exist_ok=True)


def _options(params: SQLMeshScaffoldParams) -> dict[str, str]:
    options = {"gateway": params.gateway, "environment": params.environment}
    return {name: value for name, value in options.items() if value}


def _attributes(path: str, options: dict[str, str], *, is_new: bool) -> dict[str, Any]:
    # Nothing in Dagster produces the table that the starter reads; to count the rows of its small tables costs nothing.
    starter = {"external_models": {"assets": True}, "include_metadata": ["row_count"]} if is_new else {}
    return {"project": {"path": path, **options} if options else path, **starter}


def _next_steps(project: Path, options: dict[str, str], *, is_new: bool) -> str:
    """What to type now, one command a line, and what the user will see.

    Args:
        is_new: Whether the project was written just now, so that nothing can be in production yet.
    """
    here = Path.cwd().resolve()
    gateway = ["--gateway", options["gateway"]] if "gateway" in options else []
    environment = [options["environment"]] if "environment" in options else []
    plan = shlex.join([sqlmesh_program(), *gateway, "plan", *environment, "--skip-backfill"])
    commands = [plan] if project == here else [_change_folder(project, here), plan, _change_folder(here, project)]
    promote = "Promote the models with a plan that leaves the computing to Dagster; answer y:"
    return "\n".join(
        [
            "",
            promote if is_new else f"If nothing was planned yet: {promote[0].lower()}{promote[1:]}",
            *(f"    {command}" for command in commands),
            *([] if is_new else ["If the project is in production already, there is nothing to plan."]),
            "Then open the UI and press Materialize all, or launch the run here:",
            *([] if os.environ.get("DAGSTER_HOME") else _KEEP_RUNS),
            "    dg dev",
            "    dg launch --assets '*'",
            "Every model turns green"
            + (
                "."
                if is_new
                else ". Models that are computed already get one materialization each, labelled `sqlmesh/origin`."
            ),
        ]
    )


_KEEP_RUNS = (
    '    mkdir -p .dagster_home && export DAGSTER_HOME="$PWD/.dagster_home"   # Dagster keeps its runs there',
)
"""Without DAGSTER_HOME, Dagster deletes its runs when the command ends."""


def _change_folder(to: Path, start: Path) -> str:
    return shlex.join(["cd", os.path.relpath(to, start)])


def _python_module(path: str, options: dict[str, str], *, is_new: bool) -> str:
    arguments = "".join(f", {name}={value!r}" for name, value in options.items())
    external = "ExternalModels, " if is_new else ""
    more = ', external_models=ExternalModels(assets=True), include_metadata=["row_count"]' if is_new else ""
    return f"""\
from pathlib import Path

import dagster as dg
from dg_sqlmesh_component import {external}SQLMeshProject, SQLMeshProjectComponent

FOLDER = (Path(__file__).parent / {path!r}).resolve()


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> SQLMeshProjectComponent:
    return SQLMeshProjectComponent(project=SQLMeshProject((FOLDER,){arguments}){more})
"""


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
