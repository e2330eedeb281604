"""The attributes of `defs.yaml` for jobs about changes of files: `deploy` and `preview`."""

import re
from dataclasses import dataclass, field, replace
from typing import Annotated, TypeAlias

import dagster as dg
from dagster.components.resolved.errors import ResolutionException
from pydantic import Field, PositiveInt

from dg_sqlmesh_component.capabilities.plans.messages import DiffLimits
from dg_sqlmesh_component.config.attribute_types import SampledRows, Selection
from dg_sqlmesh_component.config.mappings import Attributes, Variables, as_text, described, described_text, mapping
from dg_sqlmesh_component.config.run_config import sanitized_environment
from dg_sqlmesh_component.config.scheduling import RunTags
from dg_sqlmesh_component.protocol.errors import ConfigurationError

PlannedSelection: TypeAlias = Annotated[
    Selection,
    described_text(
        "Models that are taken from the files, in SQLMesh's model selection language; a list is a union. All others "
        "stay as they are in prod. `select` in the run config replaces it. Default: all.",
        "tag:finance",
    ),
]


@dataclass
class Deploy(Attributes, path="deploy"):
    """Jobs that show and apply a plan: `<op>_plan` and `<op>_apply`, for example `sqlmesh_shop_plan`.

    `<op>_plan` shows what the files of this deployment would do to the environment, with a digest. `<op>_apply` applies
    the plan with an approved digest. Write true, or a mapping with options. Default: no such jobs.
    """

    select: PlannedSelection = None
    tags: RunTags = field(default_factory=dict)


@dataclass(frozen=True)
class PreviewEnvironment:
    """The environment of a pull request.

    Its name usually has a variable that only CI sets. Without it, the code location loads, and the jobs refuse.

    Attributes:
        name: As SQLMesh stores it; empty if variables are not set.
        unset: The variables that are not set, or empty.
        written: The name as it is written, perhaps with variables.
    """

    name: str
    unset: tuple[str, ...] = ()
    written: str = field(default="", compare=False)

    def required(self) -> str:
        """The name.

        Raises:
            ConfigurationError: A variable is not set.
        """
        if self.unset:
            names = " and ".join(self.unset)
            raise ConfigurationError(
                f"`preview.environment` in defs.yaml needs the environment variable {names}, which is not set here, or "
                "empty. Set it where this job is launched, for example to the number of the pull request. Or write "
                "`environment` in the run config, for example pr_14."
            )
        return self.name

    def named(self, name: str) -> str:
        """The name that a run config has, as SQLMesh stores it. Nobody may preview in an environment of somebody else.

        Raises:
            ConfigurationError: The variables of the template cannot give this name.
        """
        sanitized = _environment(name, "`environment` in the run config").name
        pattern = ".*".join(re.escape(sanitized_environment(part)) for part in _TEMPLATE.split(self.written))
        if not re.fullmatch(pattern, sanitized):
            raise ConfigurationError(
                f"`environment` in the run config is {name!r}, which does not fit `preview.environment` in defs.yaml: "
                f"{self.written!r}."
            )
        return sanitized


_TEMPLATE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}")


def _resolve(context: dg.ResolutionContext, written: str) -> PreviewEnvironment:
    variables = Variables(may_be_empty=False)
    try:
        name = str(as_text(context.with_scope(env=variables), written) or "")
    except (ResolutionException, ConfigurationError):
        if not variables.unset:
            raise
        name = ""
    if variables.unset and not name.strip():
        return PreviewEnvironment("", tuple(dict.fromkeys(variables.unset)), written)
    return replace(_environment(name), written=written)


def _environment(name: str, where: str = "`preview.environment` in defs.yaml") -> PreviewEnvironment:
    sanitized = sanitized_environment(name)
    if not name.strip() or sanitized == "prod":
        raise ConfigurationError(
            f"{where} is {name!r}. A preview is an environment of its own, which is made from prod. Write for example "
            '"pr_{{ env.PULL_REQUEST }}" in defs.yaml.'
        )
    return PreviewEnvironment(sanitized, written=name)


@dataclass
class PreviewDiff(Attributes, path="preview.diff"):
    """How a preview is compared with prod."""

    max_rows: Annotated[
        PositiveInt,
        described("A model with more rows is compared on a sample of its keys. Default: 10,000,000.", 1_000_000),
    ] = 10_000_000
    decimals: Annotated[
        Annotated[int, Field(ge=0, le=30)],
        described(
            "Numbers are equal if they differ by less than one unit of this decimal place and one of them is a float. "
            "Large sums of floats differ by more each time an engine adds them up. Default: 6.",
            2,
        ),
    ] = 6
    ignore: Annotated[
        list[str],
        described_text(
            "Columns that are not compared, because they always differ, in which `*` matches any characters. The "
            "report names them. Columns of the key are never ignored. Default: none.",
            ["*_loaded_at"],
        ),
    ] = field(default_factory=list)


@dataclass
class Preview(SampledRows, path="preview"):
    """Jobs for an environment of each pull request: `<op>_preview` and `<op>_preview_close`.

    `<op>_preview` creates or updates the environment from prod, and compares its models with prod.
    `<op>_preview_close` deletes it. They need SQLMesh 0.236.0. Default: no such jobs.
    """

    _of_rows = ("columns",)  # a mask also hides totals

    environment: Annotated[
        PreviewEnvironment,
        dg.Resolver(
            _resolve,
            model_field_type=str,
            inject_before_resolve=False,
            description="The name of the environment. If a variable in it is not set, only these jobs refuse.",
            examples=["pr_{{ env.PULL_REQUEST }}"],
        ),
    ]
    diff: Annotated[PreviewDiff, mapping(PreviewDiff, {"max_rows": 1_000_000, "ignore": ["*_loaded_at"]})] = field(
        default_factory=PreviewDiff
    )
    select: PlannedSelection = None
    tags: RunTags = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.environment, str):  # made in Python
            self.environment = _environment(self.environment)
        super().__post_init__()

    @property
    def limits(self) -> DiffLimits:
        """How to compare, as the worker needs it."""
        diff, mask = self.diff, tuple(self.mask)
        return DiffLimits(diff.max_rows, tuple(diff.ignore), self.sampling, mask, diff.decimals)


DeployAttribute: TypeAlias = Annotated[Deploy | None, mapping(Deploy, True, {"tags": {"team": "data"}})]
PreviewAttribute: TypeAlias = Annotated[
    Preview | None, mapping(Preview, {"environment": "pr_{{ env.PULL_REQUEST }}"}, is_optional=True)
]
