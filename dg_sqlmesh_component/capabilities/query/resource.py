"""A resource for assets of the user's own: queries through the gateway of a SQLMesh project."""

import os
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
from pydantic import Field

from dg_sqlmesh_component.capabilities.query.messages import QueryFinished, QueryRequest
from dg_sqlmesh_component.config.project import SQLMeshProject, is_project_folder, not_a_project_message
from dg_sqlmesh_component.protocol.errors import ConfigurationError, InstallationError
from dg_sqlmesh_component.worker_client.calls import answered


class SQLMeshResource(dg.ConfigurableResource[Any]):
    """Runs queries through the gateway of a SQLMesh project. It never plans, applies or computes models.

    ```python
    @dg.asset(deps=[dg.AssetKey(["marts", "revenue"])])
    def report(sqlmesh: SQLMeshResource) -> None:
        send(sqlmesh.fetchdf("SELECT * FROM marts.revenue"))
    ```
    """

    project: str = Field(description="The folder of the SQLMesh project. Relative paths start at the current folder.")
    gateway: str | None = Field(default=None, description="As `project.gateway` in defs.yaml.")
    config: str | None = Field(default=None, description="As `project.config` in defs.yaml.")
    python: str | None = Field(
        default=None, description="Python interpreter with SQLMesh: a command, or a path. Default: the current one."
    )
    env: dict[str, str] = Field(default_factory=dict, description="As `project.env` in defs.yaml.")

    def fetchdf(self, query: str) -> Any:
        """The rows of a query in the engine's dialect, as a DataFrame of pandas.

        SQLMesh runs in a process of its own, which takes about two seconds to start.

        Raises:
            SQLMeshComponentError: The query failed, or the project cannot be opened; the class says who must act.
        """
        folder, python = Path(self.project).expanduser().resolve(), self.python
        if not is_project_folder(folder):
            raise ConfigurationError(not_a_project_message(folder, "Correct `project` of the SQLMeshResource."))
        if python and os.sep in python:  # else SQLMesh's process would look for it from the project's folder
            python = os.path.abspath(os.path.expanduser(python))  # links stay, as a virtual environment's is one
        project = SQLMeshProject((folder,), self.gateway, config=self.config, python=python, env=self.env)
        with TemporaryDirectory() as temporary:
            file = Path(temporary) / "rows"
            answered(project, QueryRequest(project.open_request, query, str(file)), QueryFinished)
            try:
                return pickle.loads(file.read_bytes())  # our own process has written it
            except (ImportError, AttributeError) as error:
                raise InstallationError(
                    f"The rows that {python} has read cannot be loaded here: {error}. Install the same versions of "
                    "pandas and NumPy in that environment and in Dagster's."
                ) from error
