"""The attribute `test`."""

from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

from dg_sqlmesh_component.config.mappings import Attributes, mapping
from dg_sqlmesh_component.config.scheduling import RunTags


@dataclass
class ProjectTests(Attributes, path="test"):
    """A job that runs SQLMesh's unit tests and linter on the files of this deployment: `<op>_test`.

    It fails with the differences. It needs no SQLMesh state and no environment. Write true, or a mapping with options.
    Default: no such job.
    """

    tags: RunTags = field(default_factory=dict)


ProjectTestsAttribute: TypeAlias = Annotated[
    ProjectTests | None, mapping(ProjectTests, True, {"tags": {"team": "data"}})
]
