"""Templates in defs.yaml: they read attributes of models, and a misspelt attribute is an error."""

import pytest
from dagster.components.resolved.context import ResolutionContext
from dagster.components.resolved.errors import ResolutionException
from unit.builders import model

from dg_sqlmesh_component.config.mappings import TemplateScope


def rendered(template: str) -> object:
    scope = TemplateScope("model", model("core.orders", tags=("finance",)))
    return ResolutionContext.default().with_scope(model=scope).resolve_value(template)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ model.name }}", "core.orders"),
        ("by_{{ model.schema }}", "by_core"),
        ("{{ 'finance' in model.tags }}", True),
        ("{{ model.owner or 'nobody' }}", "nobody"),
    ],
)
def test_template_reads_existing_attributes(template: str, expected: object) -> None:
    assert rendered(template) == expected


@pytest.mark.parametrize("template", ["{{ model.nmae }}", "by_{{ model.nmae }}", "{{ model.nmae | default('x') }}"])
def test_misspelt_attribute_in_template_is_an_error(template: str) -> None:
    with pytest.raises(ResolutionException, match="`model` has no attribute 'nmae' in a template"):
        rendered(template)
