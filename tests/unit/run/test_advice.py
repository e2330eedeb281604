"""Advice about the run config: what the error says to write is accepted."""

from collections.abc import Callable
from typing import Any

import pytest
from unit.builders import fqn, manifest, model, project_assets

from dg_sqlmesh_component.capabilities.plans.attributes import PreviewEnvironment
from dg_sqlmesh_component.config.run_config import (
    RestateConfig,
    SQLMeshRunConfig,
    chosen_environment,
    refuse_blank_bounds,
    refuse_options_without_effect,
)
from dg_sqlmesh_component.definitions.project_assets import key_of_model
from dg_sqlmesh_component.protocol.errors import SQLMeshComponentError

DAY = RestateConfig(start="2026-01-01", end="2026-01-01")


NAMES = project_assets(manifest(model("x.core.orders"), model("y.core.orders", tags=("dagster:key_prefix:y",))))


def options(*, environment: str = "prod", runs_models: bool = True, **config: Any) -> None:
    refuse_options_without_effect(SQLMeshRunConfig(**config), environment, runs_models=runs_models)


def advised(part: str, wrong: Callable[[], Any], *corrected: Callable[[], Any]) -> Any:
    """Return a row: a part of the advice, what is refused, and each correction that it names."""
    return pytest.param(part, wrong, corrected, id=part)


@pytest.mark.parametrize(
    ("part", "wrong", "corrected"),
    [
        advised(
            "To allow more, list them under `execution.environments` in defs.yaml.",
            lambda: chosen_environment(SQLMeshRunConfig(environment="dev"), "prod", []),
            lambda: chosen_environment(SQLMeshRunConfig(environment="dev"), "prod", ["dev"]),
        ),
        advised(
            "{}` in the run config is {}. Write a date, an instant or words such as '1 week ago'{}.",
            lambda: refuse_blank_bounds(SQLMeshRunConfig(start=" ")),
            *(
                lambda text=text: refuse_blank_bounds(SQLMeshRunConfig(start=text))
                for text in ("2026-01-01", "2026-01-01 12:00:00", "1 week ago")
            ),
        ),
        advised(
            ", or leave it out",
            lambda: refuse_blank_bounds(SQLMeshRunConfig(end="")),
            lambda: refuse_blank_bounds(SQLMeshRunConfig()),
        ),
        advised(
            "and this run is of {}. Leave skip_janitor out.",
            lambda: options(environment="dev", skip_janitor=False),
            lambda: options(environment="dev"),
        ),
        advised(
            "A restatement takes only its own start and end. Leave {} out.",
            lambda: options(restate=DAY, start="2026-01-01"),
            lambda: options(restate=DAY),
        ),
        advised(
            "Or write `environment` in the run config, for example pr_14.",
            lambda: PreviewEnvironment("", ("PULL_REQUEST",), "pr_{{ env.PULL_REQUEST }}").required(),
            lambda: PreviewEnvironment("", ("PULL_REQUEST",), "pr_{{ env.PULL_REQUEST }}").named("pr_14"),
        ),
        advised(
            "{} is the name of several models: {}. Write one of these instead.",
            lambda: key_of_model(NAMES, "core.orders"),
            lambda: key_of_model(NAMES, fqn("x.core.orders")),
            lambda: key_of_model(NAMES, fqn("y.core.orders")),
        ),
    ],
)
def test_what_the_error_says_to_write_is_accepted(
    part: str, wrong: Callable[[], Any], corrected: tuple[Callable[[], Any], ...]
) -> None:
    with pytest.raises(SQLMeshComponentError) as refusal:
        wrong()
    for of in part.split("{}"):
        assert of in str(refusal.value)
    for accepted in corrected:
        accepted()
