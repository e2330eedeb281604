"""What the jobs, the schedules and the sensor of a component know of it."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from dg_sqlmesh_component.config.component_attributes import ComponentAttributes
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.definitions.ports import CORE_ALONE, Ports
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol.messages import JobSettings


@dataclass(frozen=True)
class Settings:
    """A component with its assets."""

    attributes: ComponentAttributes  # those of `defs.yaml`
    assets: ProjectAssets
    op: str  # the name of the component's op. Names of jobs, schedules and the sensor begin with it.
    pool: str  # the concurrency pool of the op, and of jobs that write
    # Tags of runs that have more to tell than their assets do.
    state_tag: str  # equal for components of the same environment of the same state
    changes_tag: str  # equal for components of the same state
    # The models that are assets of any component of the code location, by fqn. While Dagster loads the code location,
    # components are still being added to it.
    owned: Set[str]
    ports: Ports = CORE_ALONE

    @property
    def project(self) -> SQLMeshProject:
        return self.attributes.project

    @property
    def environment(self) -> str:
        """The environment that the component declares."""
        return self.assets.manifest.environment

    def job(self, run_id: str) -> JobSettings:
        """What the requests of one Dagster run have in common."""
        execution = self.attributes.execution
        return JobSettings(
            run_id,
            execution.overlap_timeout,
            execution.concurrent_tasks,
            self.pool,
            execution.tag_concurrency_limits,
            "row_count" in self.attributes.include_metadata,
        )

    def job_name(self, what: str) -> str:
        """The name of one of the component's jobs, such as `sqlmesh_shop_plan` for `plan`."""
        return f"{self.op.rstrip('_')}_{what}"
