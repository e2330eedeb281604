"""The attribute `preview`: the name of the environment, variables that are not set, and its mask."""

from dataclasses import replace

import pytest
from unit.builders import attributes, manifest, project_assets

from dg_sqlmesh_component import Preview, PreviewEnvironment, SQLMeshProjectComponent
from dg_sqlmesh_component.capabilities.plans.job import build_preview_jobs
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.protocol.errors import ConfigurationError

START = "project: {path: .}\npreview: "


@pytest.mark.parametrize(
    ("written", "variables", "expected"),
    [
        ("pr_{{ env.PULL_REQUEST }}", {"PULL_REQUEST": "12"}, PreviewEnvironment("pr_12")),
        ("{{ env.PULL_REQUEST }}", {"PULL_REQUEST": "12"}, PreviewEnvironment("12")),
        ("{{ env.BRANCH }}", {"BRANCH": "Feature/New-Prices"}, PreviewEnvironment("feature_new_prices")),
        ("{{ env.BRANCH }}", {"BRANCH": "2024_10"}, PreviewEnvironment("2024_10")),
        ("pr_{{ env.PULL_REQUEST }}", {}, PreviewEnvironment("", ("PULL_REQUEST",))),
        ("pr_{{ env.PULL_REQUEST }}", {"PULL_REQUEST": ""}, PreviewEnvironment("", ("PULL_REQUEST",))),
        ("pr_{{ env('PULL_REQUEST') }}", {}, PreviewEnvironment("", ("PULL_REQUEST",))),
        ("pr_{{ env('PULL_REQUEST', 'local') }}", {}, PreviewEnvironment("pr_local")),
        ("{{ env.A }}_{{ env.PULL_REQUEST }}", {}, PreviewEnvironment("", ("A",))),
        ("pr_{{ env.A or env.PULL_REQUEST }}", {"PULL_REQUEST": "12"}, PreviewEnvironment("pr_12")),
        ("pr_{{ env.A or env.PULL_REQUEST }}", {}, PreviewEnvironment("", ("A", "PULL_REQUEST"))),
        ("{{ env.A | default('local', true) }}", {"A": ""}, PreviewEnvironment("local")),
        ("{% if env.A %}{{ env.A }}{% else %}local{% endif %}", {}, PreviewEnvironment("local")),
        ("{{ env('A') or 'local' }}", {}, PreviewEnvironment("local")),
        ("{{ env.BRANCH[:4] }}", {"BRANCH": "feature"}, PreviewEnvironment("feat")),
        ("{{ env.BRANCH[:4] }}", {}, PreviewEnvironment("", ("BRANCH",))),
        ("pr_{{ env.A.split('/')[2] }}", {}, PreviewEnvironment("", ("A",))),
        ("pr_{{ env.A | int }}", {}, PreviewEnvironment("", ("A",))),
        ("{% if env.A %}pr_{{ env.A }}{% endif %}", {}, PreviewEnvironment("", ("A",))),
        ("review", {}, PreviewEnvironment("review")),
    ],
)
def test_environment_is_resolved_or_names_the_unset_variables(
    written: str, variables: dict[str, str], expected: PreviewEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PULL_REQUEST", "BRANCH", "A"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    component = SQLMeshProjectComponent.resolve_from_yaml(f'{START}{{environment: "{written}"}}')
    assert component.preview is not None
    assert component.preview.environment == expected


def test_an_unset_variable_is_named_only_when_the_name_is_needed() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        PreviewEnvironment("", ("PULL_REQUEST",)).required()
    assert "needs the environment variable PULL_REQUEST, which is not set here" in str(refusal.value)
    assert "Or write `environment` in the run config" in str(refusal.value)


@pytest.mark.parametrize(
    ("written", "name", "fits"),
    [
        ("pr_{{ env.PULL_REQUEST }}", "PR_14", True),
        ("pr_{{ env.PULL_REQUEST }}", "dev", False),
        ("{% if env.A %}pr_{{ env.A }}{% endif %}", "pr_14", True),
        ("review", "review", True),
        ("review", "pr_14", False),
    ],
)
def test_a_run_config_can_only_name_an_environment_that_the_template_could_give(
    written: str, name: str, fits: bool
) -> None:
    environment = PreviewEnvironment("", ("PULL_REQUEST",), written)
    if fits:
        assert environment.named(name) == name.lower()
        return
    with pytest.raises(ConfigurationError, match=r"does not fit `preview\.environment` in defs\.yaml"):
        environment.named(name)


@pytest.mark.parametrize("name", ["prod", "PROD", ""])
def test_prod_is_no_preview(name: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Preview(environment=name)  # type: ignore[arg-type]
    assert "A preview is an environment of its own" in str(refusal.value)


def test_the_components_own_environment_is_no_preview() -> None:
    assets = project_assets(replace(manifest(), environment="staging"))
    settings = Settings(attributes(), assets, "sqlmesh_shop", "pool", "x", "x", frozenset())
    build_preview_jobs(Preview(environment="pr_1"), settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"`preview\.environment` in defs\.yaml is staging, the environment"):
        build_preview_jobs(Preview(environment="Staging"), settings)  # type: ignore[arg-type]


def test_a_mask_needs_no_example_rows_because_it_also_hides_totals() -> None:
    assert Preview(environment="pr_1", mask=["salary"]).limits.mask == ("salary",)  # type: ignore[arg-type]
