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

from dg_sqlmesh_component.config.project import is_project_folder, not_a_project_message
from dg_sqlmesh_component.protocol.bootstrap import sqlmesh_program

STARTER_FOLDER = "sqlmesh_project"
"""The folder of the starter project in the Dagster project, if `init` has no `project_path`."""


class SQLMeshScaffoldParams(BaseModel, extra="forbid"):
    """Parameters of the scaffolder, as flags or as JSON.

    `dg` turns each property of the JSON schema into a click option with a value, `--<property>`, whatever its type.
    Click makes a flag of an option whose name includes its opposite. So the property `init` is named that way.
    """

    project_path: str | None = Field(
        default=None,
        description="Folder of the SQLMesh project, relative to the current folder. With `init`: where to create it.",
    )
    init: bool = Field(
        default=False,
        validation_alias=AliasChoices("init/--no-init", "init"),
        description="Create a starter SQLMesh project on embedded DuckDB too. In JSON: `init`.",
    )
    gateway: str | None = Field(default=None, description="Gateway to use.")
    environment: str | None = Field(default=None, description="Environment whose promoted models a run executes.")


class SQLMeshProjectComponentScaffolder(dg.Scaffolder[SQLMeshScaffoldParams]):
    """Writes a `defs.yaml` that loads without changes and, with `init`, a starter SQLMesh project."""

    @classmethod
    def get_scaffold_params(cls) -> type[SQLMeshScaffoldParams]:
        """The parameters of the `dg` command."""
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
            if request.target_path.is_dir() and not any(request.target_path.iterdir()):
                request.target_path.rmdir()  # dg created it just before
            raise
        if request.params.init:
            click.echo(f"Created a SQLMesh project at {project}.")
        folder = request.target_path.parent if request.append else request.target_path
        path = Path(os.path.relpath(project, folder.resolve())).as_posix()
        options = _options(request.params)
        if request.scaffold_format == "python":
            module = _python_module(path, options, is_new=request.params.init)
            (folder / "component.py").write_text(module, encoding="utf-8")
        else:
            dg.scaffold_component(request, _attributes(path, options, is_new=request.params.init))
        click.echo(_next_steps(project, options, is_new=request.params.init))

    def _project_folder(self, request: dg.ScaffoldRequest[SQLMeshScaffoldParams]) -> Path:
        params = request.params
        root = (request.project_root or Path.cwd()).resolve()
        if params.init:
            if params.gateway:
                raise click.UsageError(
                    "The starter project has one gateway, its default. Leave out --gateway. To use another project, "
                    "leave out --init, and name it with --project-path."
                )
            folder = Path(params.project_path).resolve() if params.project_path else root / STARTER_FOLDER
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise click.UsageError(
                    f"{folder} exists already and is not overwritten. To use the project in it, pass it as "
                    "--project-path and leave out --init. To create a starter project elsewhere, pass a new folder as "
                    "--project-path."
                )
            return folder
        if not params.project_path:
            raise click.UsageError(
                "Name the SQLMesh project with --project-path <folder>, or create a starter project with --init."
            )
        # Relative to the current folder or, as in Dagster's own scaffolders, to the root of the Dagster project.
        for base in (Path.cwd(), root):
            if is_project_folder(base / params.project_path):
                return (base / params.project_path).resolve()
        folder = Path(params.project_path).resolve()
        if folder.is_dir():
            raise click.UsageError(not_a_project_message(folder, "Nothing was written. Correct --project-path."))
        raise click.UsageError(f"There is no folder {folder}. Nothing was written. Correct --project-path.")


def starter_folder() -> Path:
    """The starter project of this installation: inside the package of a wheel, or next to it in a checkout."""
    package = Path(__file__).resolve().parents[2]
    for templates in (package / "templates", package.parent / "templates"):
        if (templates / "starter").is_dir():
            return templates / "starter"
    raise click.UsageError(
        f"This installation of dg_sqlmesh_component has no templates in {package / 'templates'}. Reinstall it."
    )


def copy_starter(destination: Path) -> None:
    """Copy the starter project; the destination must be empty or absent."""
    # Left by a run of the starter in a checkout, or by an installation of the wheel, which compiles Python models.
    leftovers = shutil.ignore_patterns(".cache", "logs", "*.duckdb*", "__pycache__", "*.pyc")
    shutil.copytree(starter_folder(), destination, ignore=leftovers, dirs_exist_ok=True)


def _options(params: SQLMeshScaffoldParams) -> dict[str, str]:
    options = {"gateway": params.gateway, "environment": params.environment}
    return {name: value for name, value in options.items() if value}


def _attributes(path: str, options: dict[str, str], *, is_new: bool) -> dict[str, Any]:
    # No other asset produces the starter's external table, and its tables are small enough to count their rows.
    starter = {"external_models": {"assets": True}, "include_metadata": ["row_count"]} if is_new else {}
    return {"project": {"path": path, **options} if options else path, **starter}


def _next_steps(project: Path, options: dict[str, str], *, is_new: bool) -> str:
    """The commands to run next, each on its own line, and their result. A new project cannot be in production yet."""
    here = Path.cwd().resolve()
    gateway = ["--gateway", options["gateway"]] if "gateway" in options else []
    environment = [options["environment"]] if "environment" in options else []
    # An existing project may have data: there, `--skip-backfill` would leave each changed model empty in prod.
    nothing_computed = ["--skip-backfill"] if is_new else []
    plan = shlex.join([sqlmesh_program(), *gateway, "plan", *environment, *nothing_computed])
    commands = [plan] if project == here else [_change_folder(project, here), plan, _change_folder(here, project)]
    plan_first = "Promote the models with a plan. It computes nothing; Dagster computes the models. Answer y:"
    after, result = [], "Every model turns green."
    if not is_new:
        plan_first = "If no plan was applied yet, promote the models with a plan, which computes them too. Answer y:"
        after = ["If the project is in production already, there is nothing to plan."]
        result += " Models that are already computed get one materialization each, labelled `sqlmesh/origin`."
    return "\n".join(
        [
            "",
            plan_first,
            *(f"    {command}" for command in commands),
            *after,
            "Then open the UI, filter by kind:sqlmesh and press Materialize all, or launch the run here:",
            *([] if os.environ.get("DAGSTER_HOME") else [_CREATE_DAGSTER_HOME]),
            "    dg dev",
            "    dg launch --assets 'kind:sqlmesh'",
            result,
        ]
    )


_CREATE_DAGSTER_HOME = (
    '    mkdir -p .dagster_home && export DAGSTER_HOME="$PWD/.dagster_home"   # Dagster keeps its runs there'
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
