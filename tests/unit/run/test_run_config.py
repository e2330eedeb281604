"""The run config: environments, refused options, split ops and run tags."""

from typing import Any

import pytest
from unit.builders import fqn

from dg_sqlmesh_component.config.run_config import (
    RestateConfig,
    SQLMeshRunConfig,
    chosen_environment,
    config_of_run,
    refuse_blank_bounds,
    refuse_options_without_effect,
    refuse_restatement,
    sanitized_environment,
)
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.run.request import run_tags

EVERYTHING: dict[str, Any] = {
    "ignore_cron": True,
    "start": "2026-01-01",
    "end": "yesterday",
    "environment": "dev",
    "skip_janitor": False,
    "dry_run": True,
}
"""Every option, none with its default."""

RESTATE = RestateConfig(start="2026-01-01", end="2026-01-02")


def test_default_run_config() -> None:
    assert SQLMeshRunConfig().model_dump() == {
        "ignore_cron": False,
        "start": None,
        "end": None,
        "environment": None,
        "skip_janitor": True,
        "dry_run": False,
        "over_budget": False,
        "ignore_sources": False,
        "restate": None,
    }


# -- the environment ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked_for", "allowed", "environment"),
    [
        (None, [], "prod"),
        (None, ["*"], "prod"),
        ("prod", [], "prod"),
        ("dev", ["dev"], "dev"),
        ("dev", ["pr_*", "dev"], "dev"),
        ("pr_17", ["pr_*"], "pr_17"),
        ("pr_", ["pr_*"], "pr_"),
        ("dev_2", ["dev_[0-9]"], "dev_2"),
        ("anything", ["*"], "anything"),
        ("PROD", [], "prod"),
        ("pr-17", ["pr-*"], "pr_17"),
        ("Dev Ann", ["Dev *"], "dev_ann"),
    ],
)
def test_environment_is_declared_or_allowed(asked_for: str | None, allowed: list[str], environment: str) -> None:
    assert chosen_environment(SQLMeshRunConfig(environment=asked_for), "prod", allowed) == environment


NOT_ALLOWED = {
    "none is allowed": ("dev", [], "prod"),
    "only others are allowed": ("dev", ["dev_*", "pr_*"], "prod, dev_*, pr_*"),
    "ends like an allowed one": ("my_dev", ["dev"], "prod, dev"),
    "starts like an allowed one": ("dev_2", ["dev"], "prod, dev"),
    "in another case": ("PR_17", ["pr_*"], "prod, pr_*"),
    "in other characters": ("pr-17", ["pr_*"], "prod, pr_*"),
    "almost the declared one": ("prod ", ["dev"], "prod, dev"),
    "empty name": ("", ["dev"], "prod, dev"),
}


@pytest.mark.parametrize(("asked_for", "allowed", "names"), NOT_ALLOWED.values(), ids=NOT_ALLOWED)
def test_environment_that_is_not_allowed_is_refused(asked_for: str, allowed: list[str], names: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        chosen_environment(SQLMeshRunConfig(environment=asked_for), "prod", allowed)
    assert str(refusal.value) == (
        f"The run config asks for environment {asked_for!r}; allowed are: {names}. "
        "To allow more, list them under `execution.environments` in defs.yaml."
    )


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("prod", "prod"),
        ("DEV_2", "dev_2"),
        ("pr-17", "pr_17"),
        ("ann's dev/2", "ann_s_dev_2"),
        ("größe", "größe"),
        (" dev ", "_dev_"),
        ("a - b", "a___b"),
        ("", ""),
    ],
)
def test_environment_name_is_sanitized_like_sqlmesh(name: str, stored: str) -> None:
    assert sanitized_environment(name) == stored == sanitized_environment(stored)


# -- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", ["", " ", "\n"])
@pytest.mark.parametrize(
    ("option", "remedy"),
    [("start", ", or leave it out."), ("end", ", or leave it out."), ("restate.start", "."), ("restate.end", ".")],
)
def test_blank_bound_is_refused_with_its_option(option: str, blank: str, remedy: str) -> None:
    name = option.rpartition(".")[2]
    restate = {"start": "2026-01-01", "end": "2026-01-02", name: blank}
    config = SQLMeshRunConfig(**{"restate": restate} if "." in option else {name: blank})
    with pytest.raises(ConfigurationError) as refusal:
        refuse_blank_bounds(config)
    assert str(refusal.value) == (
        f"`{option}` in the run config is {blank!r}. Write a date, an instant or words such as '1 week ago'{remedy}"
    )


# -- options without effect -----------------------------------------------------------------------


@pytest.mark.parametrize("runs_models", [True, False])
def test_skip_janitor_false_is_refused_outside_of_prod(runs_models: bool) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        refuse_options_without_effect(SQLMeshRunConfig(skip_janitor=False), "dev", runs_models=runs_models)
    assert str(refusal.value) == (
        "The run config sets skip_janitor to false, but SQLMesh runs its janitor only before a run of environment "
        "prod, and this run is of 'dev'. Leave skip_janitor out."
    )


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"ignore_cron": True}, "ignore_cron"),
        ({"start": "2026-01-01"}, "start"),
        ({"end": "yesterday"}, "end"),
        ({"skip_janitor": False}, "skip_janitor"),
        ({"over_budget": True}, "over_budget"),
        (EVERYTHING, "ignore_cron and start and end and skip_janitor and dry_run"),
        ({"restate": RESTATE}, "restate"),
    ],
    ids=["ignore_cron", "start", "end", "skip_janitor", "over_budget", "everything", "restate"],
)
def test_options_for_models_are_refused_if_only_checks_are_selected(options: dict[str, Any], names: str) -> None:
    config = SQLMeshRunConfig(**options)
    with pytest.raises(ConfigurationError) as refusal:
        refuse_options_without_effect(config, "prod", runs_models=False)
    assert str(refusal.value) == (
        f"The run config sets {names}, but only checks are selected, so no model is executed. "
        "Select the assets too, or leave it out."
    )
    refuse_options_without_effect(config, "prod", runs_models=True)


def test_restatement_must_be_allowed_and_takes_no_options_of_a_run() -> None:
    config = SQLMeshRunConfig(restate=RESTATE, start="2026-01-01", ignore_cron=True)
    refuse_restatement(config, is_allowed=True)
    with pytest.raises(ConfigurationError, match="restate: true"):
        refuse_restatement(config, is_allowed=False)
    with pytest.raises(ConfigurationError, match="sets restate and ignore_cron and start"):
        refuse_options_without_effect(config, "prod", runs_models=True)


@pytest.mark.parametrize("options", [{}, {"environment": "dev"}], ids=["nothing", "an environment"])
@pytest.mark.parametrize("environment", ["prod", "dev"])
def test_environment_is_accepted_if_only_checks_are_selected(options: dict[str, Any], environment: str) -> None:
    refuse_options_without_effect(SQLMeshRunConfig(**options), environment, runs_models=False)


# -- a run of several steps -----------------------------------------------------------------------

RESOLVED = {**SQLMeshRunConfig().model_dump(), "start": "resolved"}
"""The config that Dagster gives to a part of the op: with defaults and with variables resolved."""


def run_config_for(**parts: dict[str, Any]) -> dict[str, Any]:
    """Return run config for parts of the op `shop`."""
    return {"ops": {part: {"config": config} for part, config in parts.items()}}


CONFIG_OF_PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "to the first part": (run_config_for(shop={"start": "a"}), {"start": "a"}),
    "to this part": (run_config_for(shop_2={"start": "b"}), RESOLVED),
    "to each": (run_config_for(shop={"start": "a"}, shop_2={"start": "b"}), RESOLVED),
    "to the first part, and an empty one to this part": (run_config_for(shop={"start": "a"}, shop_2={}), RESOLVED),
    "an empty one to the first part": (run_config_for(shop={}), {}),
    "an op without config": ({"ops": {"shop": {}}}, {}),
    "to the first part and to a third": (run_config_for(shop={"start": "a"}, shop_3={"start": "c"}), {"start": "a"}),
    "to another op": (run_config_for(theirs={"start": "a"}), RESOLVED),
    "no op": ({"ops": {}}, RESOLVED),
    "something else": ({"execution": {}}, RESOLVED),
    "nothing": ({}, RESOLVED),
}


@pytest.mark.parametrize(("run_config", "second"), CONFIG_OF_PARTS.values(), ids=CONFIG_OF_PARTS)
def test_config_of_the_first_part_applies_to_parts_without_config(
    run_config: dict[str, Any], second: dict[str, Any]
) -> None:
    assert config_of_run(run_config, "shop", "shop", RESOLVED) == RESOLVED
    assert config_of_run(run_config, "shop_2", "shop", RESOLVED) == second


@pytest.mark.parametrize("run_config", [{}, run_config_for(shop_2={})], ids=["nothing", "nothing to this part"])
def test_op_without_config_has_an_empty_config(run_config: dict[str, Any]) -> None:
    assert config_of_run(run_config, "shop_2", "shop", None) == {}


def test_environment_variables_are_resolved_for_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("START", "2026-01-01")
    run_config = run_config_for(shop={"start": {"env": "START"}, "end": "yesterday"})
    assert config_of_run(run_config, "shop_2", "shop", {}) == {"start": "2026-01-01", "end": "yesterday"}


# -- tags of the run ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ({}, {}),
        ({"ignore_cron": True}, {"sqlmesh/ignore_cron": "true"}),
        (
            {
                "start": "2026-01-01",
                "end": "yesterday",
                "skip_janitor": False,
                "job": msg.JobSettings(concurrent_tasks=4),
            },
            {"sqlmesh/start": "2026-01-01", "sqlmesh/end": "yesterday", "sqlmesh/skip_janitor": "false"},
        ),
    ],
    ids=["nothing", "ignore_cron", "the rest"],
)
def test_run_config_is_written_to_run_tags(options: dict[str, Any], tags: dict[str, str]) -> None:
    project = msg.OpenProject(("/shop",), None, None, None)
    request = msg.EvaluationRequest(project, "dev", (fqn("core.orders"),), (), {}, 0, msg.AwaitedTables(), **options)
    assert run_tags(request, ()) == {"sqlmesh/environment": "dev", **tags}
