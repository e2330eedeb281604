"""The folders of a SQLMesh project, and how to open it."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.bootstrap import sqlmesh_program
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.redaction import SECRET_NAME

CONFIG_FILES = ("config.py", "config.yml", "config.yaml", "sqlmesh.yml", "sqlmesh.yaml")
"""SQLMesh reads a project's configuration from one of these. A folder without any is not a SQLMesh project."""


def is_project_folder(path: Path) -> bool:
    """True if SQLMesh finds a configuration in this folder."""
    return any(os.path.isfile(path / name) for name in CONFIG_FILES)


def _is_folder(path: Path) -> bool:
    """True if there is such a folder. Raises a ConfigurationError if this user may not search it."""
    try:
        os.stat(os.path.join(path, "."))
    except PermissionError:
        raise ConfigurationError(
            f"The user that runs Dagster has no permission to search the folder {path}, or one that contains it. Grant "
            "it read and search permission, or correct `project` in defs.yaml."
        ) from None
    except OSError:
        return False
    return True


def not_a_project_message(path: Path, remedy: str) -> str:
    """The error for a folder that is not a SQLMesh project. Its last line is the command that creates one there."""
    problem = f"{path} is not a SQLMesh project: it has none of {', '.join(CONFIG_FILES)}."
    is_dbt = os.path.isfile(path / "dbt_project.yml")
    create = "It is a dbt project. To add what SQLMesh needs:" if is_dbt else "To create a project there:"
    command = shlex.join([sqlmesh_program(), "init", *(["-t", "dbt"] if is_dbt else [])])
    return f"{problem} {remedy} {create}\n    cd {shlex.quote(str(path))} && {command}"


@dataclass(frozen=True)
class SQLMeshProject:
    """A SQLMesh project and how to open it.

    Attributes:
        paths: Absolute folders; more than one for a multi-repository project.
        gateway, environment, config: As on SQLMesh's command line; None for the project's own defaults.
        working_directory: Where SQLMesh runs; None: the first folder, as for a `sqlmesh` command in it.
        python: Interpreter that has SQLMesh; None: the one that runs Dagster.
        env: Environment variables for SQLMesh's process only.
        written_env: The templates in `env` as written: unlike values, they are the same in every deployment.
    """

    paths: tuple[Path, ...]
    gateway: str | None = None
    environment: str | None = None
    config: str | None = None
    working_directory: Path | None = None
    python: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    written_env: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for path in (*self.paths, *([self.working_directory] if self.working_directory else ())):
            try:
                str(path).encode()
            except UnicodeEncodeError:
                raise ConfigurationError(
                    f"`project` in defs.yaml leads to the folder {str(path)!a}, whose name is not UTF-8 in this "
                    "process. If it is UTF-8, set the environment variable PYTHONUTF8=1 for Dagster's processes. If "
                    "not, rename the folder."
                ) from None

    @property
    def name(self) -> str:
        """The first folder's name, which people use for the project."""
        return self.paths[0].name

    @property
    def open_request(self) -> msg.OpenProject:
        """The instructions for the worker."""
        return msg.OpenProject(
            paths=tuple(str(path) for path in self.paths),
            gateway=self.gateway,
            environment=self.environment,
            config=self.config,
            working_directory=str(self.working_directory) if self.working_directory else None,
        )

    def check_folders(self) -> None:
        """Refuse folders that are missing, closed or no SQLMesh projects, as far as possible without SQLMesh."""
        for path in self.paths:
            if not _is_folder(path):
                raise ConfigurationError(
                    f"There is no folder {path}. `project` in defs.yaml must be the folder of the SQLMesh project, "
                    "relative to that file."
                )
            if not is_project_folder(path):
                raise ConfigurationError(not_a_project_message(path, "Correct `project` in defs.yaml."))
        if self.working_directory is not None and not _is_folder(self.working_directory):
            raise ConfigurationError(
                f"There is no folder {self.working_directory}. Correct `project.working_directory` in defs.yaml."
            )

    @property
    def process_environment(self) -> dict[str, str]:
        """The environment variables of SQLMesh's process. It sends no usage events to SQLMesh's makers by default."""
        return {"SQLMESH__DISABLE_ANONYMIZED_ANALYTICS": "true", **os.environ, **self.env}


def variables_without_secrets(env: Mapping[str, str]) -> list[str]:
    """Variables as `name=value`, sorted; the values of secrets are left out."""
    return [f"{name}={'' if SECRET_NAME.search(name) else value}" for name, value in sorted(env.items())]
