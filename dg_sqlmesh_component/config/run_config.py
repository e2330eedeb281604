"""What a run may be told in the launchpad.

Dagster reads the annotations of the class as objects, so they must not be postponed.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import dagster as dg
from pydantic import Field

from dg_sqlmesh_component.protocol.errors import DeclarationError


class SQLMeshRunConfig(dg.Config):
    """What a run may be told in the launchpad, or in the run config of a job or schedule.

    A run computes what is missing; none of these makes SQLMesh compute an interval again.
    """

    ignore_cron: bool = Field(
        default=False, description="Compute all complete intervals, even if the cron of a model is not due."
    )
    start: str | None = Field(
        default=None,
        description="Compute nothing before this: a date, an instant or words such as `1 week ago`, as "
        "`sqlmesh run --start`.",
    )
    end: str | None = Field(default=None, description="Compute nothing after this, as `sqlmesh run --end`.")
    environment: str | None = Field(
        default=None,
        description="Run this environment instead of the one in defs.yaml. It must be listed under "
        "`execution.environments`.",
    )
    skip_janitor: bool = Field(
        default=True,
        description="Whether to skip SQLMesh's janitor, which deletes expired tables before a run of prod.",
    )


def chosen_environment(config: SQLMeshRunConfig, declared: str, allowed: Sequence[str]) -> str:
    """The environment to run: the declared one, or one that is allowed.

    Raises:
        DeclarationError: The run names one that is not allowed.
    """
    asked_for = config.environment
    if asked_for is None or sanitized(asked_for) == declared:
        return declared
    if not any(fnmatchcase(asked_for, pattern) for pattern in allowed):
        names = ", ".join([declared, *allowed])
        raise DeclarationError(
            f"The run config asks for environment {asked_for!r}; allowed are: {names}. "
            "To allow more, list them under `execution.environments` in defs.yaml."
        )
    return sanitized(asked_for)


def sanitized(environment: str) -> str:
    """An environment's name as SQLMesh stores it. Held in place by tests/upstream."""
    return re.sub(r"\W", "_", environment).lower()


def refuse_what_does_nothing(config: SQLMeshRunConfig, environment: str, *, runs_models: bool) -> None:
    """Refuse run config that SQLMesh would ignore.

    Raises:
        DeclarationError: Saying which value, and why it would do nothing.
    """
    if not config.skip_janitor and environment != "prod":
        raise DeclarationError(
            "The run config sets skip_janitor to false, but SQLMesh runs its janitor only before a run of environment "
            f"prod, and this run is of {environment!r}. Leave skip_janitor out."
        )
    given = [name for name in ("ignore_cron", "start", "end") if getattr(config, name)]
    given += [] if config.skip_janitor else ["skip_janitor"]
    if given and not runs_models:
        raise DeclarationError(
            f"The run config sets {' and '.join(given)}, but only checks are selected, so no model is executed. "
            "Select the assets too, or leave it out."
        )


def config_of_run(
    run_config: Mapping[str, Any], step: str, op: str, resolved: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """The config of the run's SQLMesh op.

    Dagster splits the op into `<op>`, `<op>_2` ... where another asset stands between two models, and fills in the
    defaults of each. One run is one SQLMesh run, so what was said to the first of them holds for the others.

    Args:
        step: Name of this step's own part.
        resolved: What Dagster has resolved for this part: with defaults, and with variables looked up.
    """
    said = run_config.get("ops", {})
    if step in said or op not in said:
        return resolved or {}
    return {name: _looked_up(value) for name, value in (said[op].get("config") or {}).items()}


def _looked_up(value: Any) -> Any:
    """What Dagster has done only for the part that the config was given to."""
    is_variable = isinstance(value, Mapping) and set(value) == {"env"}
    return dg.EnvVar(value["env"]).get_value() if is_variable else value
