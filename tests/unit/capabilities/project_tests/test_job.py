"""`test` in `defs.yaml`, the job that it makes, and what the job reports."""

from pathlib import Path

import dagster as dg
import pytest
from unit.builders import manifest, project_assets

from dg_sqlmesh_component import ProjectTests, SQLMeshProject
from dg_sqlmesh_component.capabilities.project_tests import messages as project_tests
from dg_sqlmesh_component.capabilities.project_tests.job import build_test_job, numbers, summary
from dg_sqlmesh_component.config.component_attributes import ComponentAttributes
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.protocol.errors import ConfigurationError


def built(configured: ProjectTests) -> dg.JobDefinition:
    attributes = ComponentAttributes(SQLMeshProject((Path("/shop"),)))
    settings = Settings(attributes, project_assets(manifest()), "sqlmesh_shop", "pool", "x", "x", frozenset())
    definitions = build_test_job(configured, settings)
    dg.Definitions.validate_loadable(definitions)
    return definitions.resolve_job_def("sqlmesh_shop_test")


@pytest.mark.attribute("test.tags")
def test_job_has_the_configured_tags_and_takes_no_pool_because_it_writes_nothing() -> None:
    job = built(ProjectTests(tags={"team": "data"}))
    assert job.tags["team"] == "data"
    assert [op.pool for op in job.all_node_defs if isinstance(op, dg.OpDefinition)] == [None]


def test_reserved_tag_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"`test\.tags` in defs\.yaml"):
        built(ProjectTests(tags={"sqlmesh/plan_id": "1"}))


@pytest.mark.parametrize(
    ("end", "sentences"),
    [
        (
            project_tests.TestsFinished(0, 0, (), 0, (), 0),
            "0 unit tests passed. The linter is off. To turn it on, set `linter: {enabled: true}` in SQLMesh's "
            "configuration.",
        ),
        (
            project_tests.TestsFinished(3, 0, (), 1, (), 0),
            "3 unit tests passed. The linter checked 1 model: 0 errors, 0 warnings.",
        ),
        (
            project_tests.TestsFinished(3, 1, ("query", "a CTE of the same test"), 2, ("x",), 1),
            "1 of 3 unit tests failed. The linter checked 2 models: 1 error, 1 warning.",
        ),
    ],
    ids=["nothing", "green", "red"],
)
def test_summary_counts_tests_and_not_their_differences(end: project_tests.TestsFinished, sentences: str) -> None:
    assert summary(end) == sentences
    assert numbers(end)["sqlmesh/failed_unit_tests"] == end.failed_tests
