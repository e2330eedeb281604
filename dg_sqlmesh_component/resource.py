"""A resource for assets of the user's own: queries through the gateway of a SQLMesh project."""

import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
from pydantic import Field

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol.messages import QueryFinished, QueryRequest
from dg_sqlmesh_component.worker_client.calls import answered


class SQLMeshResource(dg.ConfigurableResource[Any]):
    """Runs queries through the gateway of a SQLMesh project. It never plans, applies or computes models.

    ```python
    @dg.asset(deps=[dg.AssetKey(["marts", "revenue"])])
    def report(sqlmesh: SQLMeshResource) -> None:
        send(sqlmesh.fetchdf("SELECT * FROM marts.revenue"))
    ```
    """

    project: str = Field(description="The folder of the SQLMesh project.")
    gateway: str | None = Field(default=None, description="As `project.gateway` in defs.yaml.")
    config: str | None = Field(default=None, description="As `project.config` in defs.yaml.")
    python: str | None = Field(default=None, description="As `project.python` in defs.yaml.")
    env: dict[str, str] = Field(default_factory=dict, description="As `project.env` in defs.yaml.")

    def fetchdf(self, query: str) -> Any:
        """The rows of a query in the engine's dialect, as a DataFrame of pandas.

        SQLMesh runs in a process of its own, which takes about two seconds to start.

        Raises:
            SQLMeshComponentError: The query failed, or the project cannot be opened; the class says who must act.
        """
        folder = (Path(self.project).resolve(),)
        project = SQLMeshProject(folder, self.gateway, config=self.config, python=self.python, env=self.env)
        with TemporaryDirectory() as temporary:
            file = Path(temporary) / "rows"
            answered(project, QueryRequest(project.open_request, query, str(file)), QueryFinished)
            return pickle.loads(file.read_bytes())  # our own process has written it
