"""Types of the attributes in `defs.yaml`, and the functions that resolve them."""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import dagster as dg
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver
from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, StrictInt

from dg_sqlmesh_component.config.durations import Duration, WrittenDuration
from dg_sqlmesh_component.config.mappings import (
    Attributes,
    TemplateScope,
    described,
    described_text,
    mapping,
    not_a_mapping,
    unmatched,
)
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.config.retries import Retries
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.manifest import Audit, Model
from dg_sqlmesh_component.protocol.messages import Sampling

Selection: TypeAlias = str | list[str] | None


def selectors(selection: Selection) -> tuple[str, ...]:
    return (selection,) if isinstance(selection, str) else tuple(selection or ())


MetadataAddition: TypeAlias = Literal["column_lineage", "links", "row_count", "sql", "storage_kind"]


@dataclass
class SQLMeshProjectArgs(Attributes, path="project", secret={"env"}):
    """A SQLMesh project and how to open it: `project` in `defs.yaml`, if it is a mapping."""

    path: Annotated[
        str | list[str],
        described_text(
            "Folder of the SQLMesh project, relative to this file, or a list of folders for a "
            "multi-repository project.",
            "../../../shop",
            ["../../../core", "../../../marketing"],
        ),
    ]
    gateway: Annotated[
        str | None,
        described_text(
            "Gateway to use, as `sqlmesh --gateway`. Default: SQLMESH_GATEWAY, else the project's own.", "warehouse"
        ),
    ] = None
    environment: Annotated[
        str | None,
        described_text(
            "Environment whose promoted models a run executes. Default: the project's own default target environment, "
            "which is `prod` unless its configuration sets another.",
            "prod",
            "{{ env.SQLMESH_ENVIRONMENT }}",
        ),
    ] = None
    config: Annotated[
        str | None,
        described_text("Name of the configuration object in `config.py`, as `sqlmesh --config`.", "local_config"),
    ] = None
    working_directory: Annotated[
        str | None,
        described_text(
            "Folder in which SQLMesh runs, relative to this file. Relative paths in SQLMesh's configuration start "
            "there. Default: the (first) project folder, as for the `sqlmesh` command in it.",
            "../../..",
        ),
    ] = None
    python: Annotated[
        str | None,
        described_text(
            "Python interpreter with SQLMesh: a command, or a path relative to this file. It needs no Dagster. "
            "Default: the interpreter that runs Dagster.",
            "../../../.venv-sqlmesh/bin/python",
        ),
    ] = None
    env: Annotated[
        dict[str, str],
        described_text(
            "Environment variables for SQLMesh's process only, in addition to those of Dagster's process. Their values "
            "are never stored. If the file `.env` in the project's folder sets the same variable to another value, the "
            "file has priority, as for the `sqlmesh` command, and the log warns.",
            {"WAREHOUSE_PASSWORD": "{{ env.WAREHOUSE_PASSWORD }}"},
        ),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.environment and not self.environment.strip():
            raise ConfigurationError(f"`project.environment` in defs.yaml is {self.environment!r}. Write a name.")


def resolve_project(context: dg.ResolutionContext, model: Any) -> SQLMeshProject:
    """Resolve `project`. Its paths are relative to its `defs.yaml`."""
    args = (
        SQLMeshProjectArgs(path=context.resolve_value(model, as_type=str))
        if isinstance(model, str)
        else SQLMeshProjectArgs.resolve_from_model(context, model)
    )
    written_env = getattr(model, "env", None)
    written_env = written_env if isinstance(written_env, dict) else {}
    here = context.resolve_source_relative_path(".")

    def absolute(path: str) -> Path:
        return Path(os.path.normpath(here / Path(path).expanduser()))

    paths = [args.path] if isinstance(args.path, str) else args.path
    if not paths:
        raise ConfigurationError("`project.path` in defs.yaml is an empty list: it needs at least one folder.")
    python = args.python
    if python and Path(python).name != python:  # a path, and no command that is looked up in PATH
        # Links are not resolved: the interpreter of a virtual environment is a link to one without its packages.
        python = str(absolute(python))
    return SQLMeshProject(
        paths=tuple(absolute(path).resolve() for path in paths),
        gateway=args.gateway,
        environment=args.environment,
        config=args.config,
        working_directory=absolute(args.working_directory) if args.working_directory else None,
        python=python,
        env=args.env,
        written_env={name: str(written) for name, written in written_env.items() if "{{" in str(written)},
    )


_DAGSTER_RESOLVER = TranslationFnResolver[Model](lambda model: {"model": TemplateScope("model", model)})


def _resolve_translation(context: dg.ResolutionContext, model: Any) -> TranslationFn[Model] | None:
    if isinstance(model, str) and "{" not in model:  # no template, so it can never be a mapping
        raise not_a_mapping("translation", model, {"group_name": "{{ model.schema }}"})
    return None if model is None else _DAGSTER_RESOLVER.fn.callable(context, model)


TRANSLATION = dg.Resolver(
    _resolve_translation,
    model_field_type=_DAGSTER_RESOLVER.model_field_type | None,  # type: ignore[operator]
    inject_before_resolve=False,
    description="Attributes of all assets, as templates. `model` is the SQLMesh model (name, schema, table, kind, "
    "owner, tags, cron ...), `spec` the default asset spec. Applied after the tag convention and before an overridden "
    "`get_asset_spec`.",
    examples=[{"group_name": "{{ model.schema }}", "key_prefix": "shop", "tags": {"cron": "daily"}}],
)
"""Dagster's resolver, which accepts no description and no examples. Here null means no translation."""


@dataclass(kw_only=True)
class SampledRows(Attributes):
    """Whether rows are shown as examples, and which of their columns."""

    _of_rows: ClassVar[tuple[str, ...]] = ("columns", "mask")  # keys that do nothing without sampled rows

    sample_rows: Annotated[
        Annotated[int, Field(ge=0, le=20)],
        described(
            "How many rows are shown as examples: of those that an audit finds, or of those that a preview adds, "
            "removes and changes; at most 20 each. They are stored in Dagster's database. Default: 0, only numbers are "
            "shown.",
            5,
        ),
    ] = 0
    columns: Annotated[
        list[str],
        described_text(
            "Columns of the shown rows, in which `*` matches any characters. Default: all.", ["order_id", "*_at"]
        ),
    ] = field(default_factory=list)
    mask: Annotated[
        list[str],
        described_text(
            "Columns whose values are shown as ***, where `*` matches any characters; also expressions of these "
            "columns. Columns with names such as password or api_key are always masked. A preview "
            "shows no total, smallest or largest value of them. Default: none.",
            ["email", "*_name"],
        ),
    ] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        path = self.yaml_path
        for name in self._of_rows if not self.sample_rows else ():
            if getattr(self, name):
                raise ConfigurationError(
                    f"`{path}.{name}` in defs.yaml is about sampled rows, and there are none. Set "
                    f"`{path}.sample_rows`, or remove `{path}.{name}`."
                )

    @property
    def sampling(self) -> Sampling | None:
        """Which rows to show; None for none."""
        return Sampling(self.sample_rows, tuple(self.columns), tuple(self.mask)) if self.sample_rows else None


@dataclass
class Audits(SampledRows, path="audits"):
    """Which audits have a check, and whether a check shows failing rows. SQLMesh evaluates all audits."""

    checks: Annotated[
        Literal["all", "blocking", "none"] | list[str],
        described_text(
            "Audits that are asset checks. all; blocking: audits whose failure stops the model; none; or a list of "
            "audit names, in which `*` matches any characters. SQLMesh evaluates the other audits too: a failure shows "
            "in the step's failure or in the run's log. Default: all.",
            "blocking",
            ["not_null", "unique_*"],
        ),
    ] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_rows and self.checks in ("none", []):
            raise ConfigurationError(
                "`audits.sample_rows` in defs.yaml shows rows on asset checks, and with `audits.checks` no audit has "
                "one. Change `audits.checks`, or remove `audits.sample_rows`."
            )

    def has_check(self, audit: Audit) -> bool:
        """Whether the audit is an asset check."""
        if isinstance(self.checks, str):
            return self.checks == "all" or (self.checks == "blocking" and audit.blocking)
        return any(_matches(audit.name, pattern) for pattern in self.checks)

    def refuse_unmatched(self, names: Collection[str]) -> None:
        """Refuse a name that is not among `names`, those of all audits of the project."""
        for pattern in self.checks if isinstance(self.checks, list) else ():
            if not any(_matches(name, pattern) for name in names):
                raise unmatched("audits.checks", pattern, "no model of the project uses such an audit", names)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name.casefold(), pattern.casefold())


@dataclass
class IntervalsCheck(Attributes, path="intervals_check"):
    """Whether every incremental model has the check `sqlmesh_intervals_complete`.

    The check fails if an expected interval is not computed. Write true, or a mapping with a slack. Default: no such
    checks.
    """

    slack: Annotated[
        Duration,
        described(
            "How long an interval may be missing before the check fails, from the first tick of the model's cron after "
            "its end: seconds, or text such as 2h, 90m, 1 day or PT1H30M (ISO 8601). Default: 0.",
            "6h",
            3600,
            written_as=WrittenDuration,
        ),
    ] = timedelta(0)


@dataclass
class Freshness(Attributes, path="freshness"):
    """Freshness policy of each asset.

    An asset is stale if it was not materialized for longer than the longest time between two ticks of its cron, plus
    `slack`. Seeds, and models with an `end`, have none. Default: none.
    """

    slack: Annotated[
        Duration,
        described(
            "Grace period, added to the longest time between two ticks of the cron: seconds, or text such as 2h, "
            "90m, 1 day or PT1H30M (ISO 8601). Choose more than the time from a tick to the end of the run.",
            "2h",
            7200,
            written_as=WrittenDuration,
        ),
    ]


NOT_OF_ONE_MODEL = {
    "retries": "One step computes all models, so no model has its own. Set `execution.retries` in defs.yaml: the step "
    "retries missing intervals.",
    "timeout": "One process computes all models, and cannot stop one of them. Set a timeout of the engine in the "
    "model, for example on PostgreSQL, before the query: SET LOCAL statement_timeout = '30min';",
    "pool": "Dagster's pools count steps, and one step computes all models. Give the model a tag, and set a limit for "
    "it in defs.yaml: `execution.tag_concurrency_limits`.",
}
"""Why a setting of Dagster's steps cannot be one of a model, and what to do, by name."""


ASSET_PROPERTIES = ("group_name", "owner", "kind", "tag", "key_prefix", "freshness")
"""What a tag of a model can set of its asset."""


@dataclass(frozen=True)
class TagConvention(Attributes, path="tag_convention"):
    """Which tags of a SQLMesh model set properties of its asset: `<prefix><separator><property><separator><value>`.

    Properties: group_name, owner, kind, tag, key_prefix, freshness (the slack of the model's policy, such as 2h). Write
    false if no tag sets a property, or a mapping with other words. Default: tags such as `dagster:group_name:finance`.
    """

    prefix: Annotated[str, described_text("The beginning of such a tag. Default: dagster.", "dg")] = "dagster"
    separator: Annotated[
        str, described_text('The text between the parts of such a tag. The value may contain it. Default: ":".', "/")
    ] = ":"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, example in (("prefix", "dagster"), ("separator", '":"')):
            value = getattr(self, name)
            if not value.strip():
                raise ConfigurationError(
                    f"`tag_convention.{name}` in defs.yaml is {value!r}. Write a text, such as `{name}: {example}`. If "
                    "no tag sets a property, write `tag_convention: false`."
                )
        if self.prefix.endswith(self.separator):
            prefix = self.prefix.removesuffix(self.separator) or TagConvention.prefix
            raise ConfigurationError(
                f"`tag_convention.prefix` in defs.yaml is {self.prefix!r}, which ends with the separator "
                f"{self.separator!r}, so a tag would need it twice. Write `prefix: {prefix!r}` instead."
            )

    def tag(self, name: str, value: str) -> str:
        """The tag that sets a property to a value."""
        return self.separator.join((self.prefix, name, value))

    def split(self, tag: str) -> tuple[str, str] | None:
        """The property and its value, which may contain the separator; None for an ordinary tag."""
        start = f"{self.prefix}{self.separator}"
        if not tag.startswith(start):
            return None
        rest = tag.removeprefix(start)
        # A separator such as `_` is in some names.
        for name in (*ASSET_PROPERTIES, *NOT_OF_ONE_MODEL):
            if rest == name or rest.startswith(f"{name}{self.separator}"):
                return name, rest.removeprefix(name).removeprefix(self.separator)
        return rest.partition(self.separator)[0], rest.partition(self.separator)[2]


@dataclass
class Budget(Attributes, path="budget"):
    """The most that a run, a restatement, a preview or an apply may cost, as estimated from materializations.

    Above it, the run is refused before it computes anything, unless its run config has `over_budget: true`. Models
    without a record do not count. Default: no limit.
    """

    seconds: Annotated[PositiveFloat | None, described("Seconds of computation. Default: no limit.", 1800)] = None
    bytes: Annotated[
        PositiveFloat | None, described("Bytes, if the engine reports them. Default: no limit.", 1_000_000_000)
    ] = None

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Any:
        if not model.model_fields_set:
            raise ConfigurationError("`budget` in defs.yaml sets no limit. Write one, for example `seconds: 1800`.")
        return super().resolve_from_model(context, model)


@dataclass
class Execution(Attributes, path="execution"):
    """How SQLMesh runs."""

    concurrent_tasks: Annotated[
        PositiveInt | None,
        described("Batches that SQLMesh computes at once. Default: the setting of the project's connection.", 4),
    ] = None
    tag_concurrency_limits: Annotated[
        dict[str, PositiveInt],
        described(
            "By tag, how many batches of promoted models with it SQLMesh computes at once. Default: none.", {"heavy": 1}
        ),
    ] = field(default_factory=dict)
    environments: Annotated[
        list[str],
        described_text(
            "Environments that a run may name in its config instead of the one of this component. `*` matches any "
            "characters. Default: none.",
            ["dev", "pr_*"],
        ),
    ] = field(default_factory=list)
    overlap_timeout: Annotated[
        NonNegativeFloat,
        described(
            "Seconds that a run waits for another run on the same SQLMesh state, or for a DuckDB file that another "
            "process holds. Default: 3600.",
            600,
        ),
    ] = 3600.0
    environment_timeout: Annotated[
        NonNegativeInt,
        described(
            "Seconds that a run waits for a plan that is updating its environment; SQLMesh's own default is six hours. "
            "Default: 300.",
            60,
        ),
    ] = 300
    record_unchanged: Annotated[
        bool,
        described(
            "Whether to record an observation, with the reason, and the earlier audit results for models without "
            "pending intervals. false: only the run's log counts them. If the run has no other step, their checks are "
            "left out too and show as skipped, which makes large runs with little to do fast. Default: true.",
            False,
        ),
    ] = True
    retries: Annotated[
        Retries | None,
        mapping(Retries, 3, {"max_retries": 3, "delay": 30}, is_optional=True, shorthand=("max_retries", StrictInt)),
    ] = None

    def refuse_unmatched(self, tags: Collection[str]) -> None:
        """Refuse a limit for a tag that is not among `tags`, those of all models of the project."""
        for tag in self.tag_concurrency_limits:
            if tag not in tags:
                raise unmatched("execution.tag_concurrency_limits", tag, "no model of the project has that tag", tags)
