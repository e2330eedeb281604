"""The run config of the SQLMesh op."""

import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import dagster as dg
from pydantic import Field

from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import block, did_you_mean, listed


class RestateConfig(dg.Config):
    """A range to compute again."""

    start: str = Field(description="The beginning of the range: a date, an instant or words such as `1 week ago`.")
    end: str = Field(description="The end of the range. If it is a date, that day is included.")
    tables: list[str] = Field(
        default=[],
        description="Restate only the selected models that read one of these external tables themselves: names or "
        "patterns, for example `raw.orders`. Default: all selected models.",
    )


class SQLMeshRunConfig(dg.Config):
    """Options of one run, from the launchpad or the run config of a job or schedule.

    A run computes pending intervals. To compute intervals again, set `restate`.
    """

    ignore_cron: bool = Field(
        default=False, description="Compute all complete intervals, even if the cron of a model is not due."
    )
    start: str | None = Field(
        default=None,
        description="The first interval to compute is the one that contains this: a date, an instant or words such as "
        "`1 week ago`, as `sqlmesh run --start`.",
    )
    end: str | None = Field(
        default=None,
        description="The last interval to compute is the one that contains this, as `sqlmesh run --end`. If it is a "
        "date, that day is included.",
    )
    environment: str | None = Field(
        default=None,
        description="Run this environment instead of the one in defs.yaml. It must be listed under "
        "`execution.environments`.",
    )
    skip_janitor: bool = Field(
        default=True,
        description="Whether to skip SQLMesh's janitor, which deletes expired tables before a run of prod.",
    )
    dry_run: bool = Field(
        default=False,
        description="Compute and record nothing. The step shows what a run with this config would do with each model "
        "now, and why.",
    )
    over_budget: bool = Field(
        default=False, description="Whether the run may cost more than `budget` in defs.yaml, as estimated."
    )
    ignore_sources: bool = Field(
        default=False,
        description="Whether to compute intervals although the assets that load their external tables are not complete "
        "(`external_models.wait` in defs.yaml).",
    )
    restate: RestateConfig | None = Field(
        default=None,
        description="Compute this range of the selected models again, and of the models downstream of them, instead of "
        "the pending intervals. It must be allowed: `restate` in defs.yaml.",
    )


def config_fields(schema: object) -> dict[str, dg.Field]:
    """The fields of the op's config, from `op_config_schema`.

    `restate` has no default, so the launchpad does not show it, and Dagster refuses an empty one. With a wrong
    indentation, the range below it would be the `start` and `end` of a run.
    """
    if schema is None:
        return {}
    if not (isinstance(schema, type) and issubclass(schema, SQLMeshRunConfig)):
        raise ConfigurationError(
            f"op_config_schema returned {schema!r}. It must be a property that returns a subclass of SQLMeshRunConfig, "
            "or None."
        )
    fields = dict(schema.to_fields_dict())  # a copy: Dagster shares the original
    fields["restate"] = dg.Field(
        RestateConfig.to_fields_dict(), is_required=False, description=fields["restate"].description
    )
    return fields


def run_config(values: Mapping[str, Any]) -> SQLMeshRunConfig:
    """The run config of an op's config. Fields that an overridden schema has added are left out."""
    return SQLMeshRunConfig(**{name: values[name] for name in SQLMeshRunConfig.model_fields if name in values})


def chosen_environment(config: SQLMeshRunConfig, declared: str, allowed: Sequence[str]) -> str:
    """The environment to run: the declared environment, or the one of the run config if a pattern allows it."""
    environment = config.environment
    if environment is None or sanitized_environment(environment) == declared:
        return declared
    if not any(fnmatchcase(environment, pattern) for pattern in allowed):
        names = ", ".join([declared, *allowed])
        raise ConfigurationError(
            f"The run config asks for environment {environment!r}; allowed are: {names}. "
            "To allow more, list them under `execution.environments` in defs.yaml."
        )
    return sanitized_environment(environment)


def sanitized_environment(environment: str) -> str:
    """An environment's name as SQLMesh stores it. A test in tests/upstream compares it with SQLMesh."""
    return re.sub(r"\W", "_", environment).lower()


def refuse_restatement(config: SQLMeshRunConfig, *, is_allowed: bool) -> None:
    """Refuse a restatement that is not allowed."""
    if config.restate is not None and not is_allowed:
        raise ConfigurationError(
            "The run config asks for a restatement, which defs.yaml does not allow. To allow it, set:"
            + block("restate: true")
        )


def refuse_blank_bounds(config: SQLMeshRunConfig) -> None:
    """Refuse blank text in `start` and `end`, for which SQLMesh would take the whole history."""
    for where, bounds in (("", config), ("restate.", config.restate)):
        for name in ("start", "end") if bounds is not None else ():
            text = getattr(bounds, name)
            if text is not None and not text.strip():
                raise ConfigurationError(
                    f"`{where}{name}` in the run config is {text!r}. Write a date, an instant or words such as "
                    f"'1 week ago'{'' if where else ', or leave it out'}."
                )


def refuse_options_without_effect(config: SQLMeshRunConfig, environment: str, *, runs_models: bool) -> None:
    """Refuse run config that SQLMesh would ignore."""
    if not config.skip_janitor and environment != "prod":
        raise ConfigurationError(
            "The run config sets skip_janitor to false, but SQLMesh runs its janitor only before a run of environment "
            f"prod, and this run is of {environment!r}. Leave skip_janitor out."
        )
    options = [name for name in ("ignore_cron", "start", "end") if getattr(config, name)]
    options += [] if config.skip_janitor else ["skip_janitor"]
    if config.restate is not None and options:
        raise ConfigurationError(
            f"The run config sets restate and {' and '.join(options)}. A restatement takes only its own start and "
            f"end. Leave {' and '.join(options)} out."
        )
    options += [name for name in ("restate", "dry_run", "over_budget") if getattr(config, name)]
    if options and not runs_models:
        raise ConfigurationError(
            f"The run config sets {' and '.join(options)}, but only checks are selected, so no model is executed. "
            "Select the assets too, or leave it out."
        )


def config_of_run(
    run_config: Mapping[str, Any], step: str, op: str, resolved: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """The config of the run's SQLMesh op.

    If another asset stands between two models, Dagster splits the op into `<op>`, `<op>_2` ... and gives each the
    defaults. One run is one SQLMesh run, so the config of the first part holds for the others too.

    Args:
        step: Name of this step's part of the op.
        resolved: The config that Dagster has resolved for this part: with defaults and values of variables.
    """
    configured = run_config.get("ops", {})
    if step in configured or op not in configured:
        return resolved or {}
    return {name: _resolved(value) for name, value in (configured[op].get("config") or {}).items()}


def refuse_config_of_other_ops(run_config: Mapping[str, Any], ops: Collection[str]) -> None:
    """Refuse a run config that names other ops only. Dagster ignores it, so what should be a dry run would compute."""
    configured = run_config.get("ops") or {}
    if configured and configured.keys().isdisjoint(ops):
        raise ConfigurationError(
            f"The run config configures {listed(sorted(configured))} under `ops`, and this run has no such op. Dagster "
            f"ignores it.{did_you_mean(min(configured), ops)} Correct the name, or leave it out."
        )


def _resolved(value: Any) -> Any:
    """The value of a variable. Dagster resolves variables only for the part that the config names."""
    is_variable = isinstance(value, Mapping) and set(value) == {"env"}
    return dg.EnvVar(value["env"]).get_value() if is_variable else value
