"""A Dagster component for SQLMesh projects. This module has only the public names."""

from dagster_shared.libraries import DagsterLibraryRegistry

from dg_sqlmesh_component.capabilities.janitor.attributes import Janitor as Janitor
from dg_sqlmesh_component.capabilities.plans.attributes import Deploy as Deploy
from dg_sqlmesh_component.capabilities.plans.attributes import Preview as Preview
from dg_sqlmesh_component.capabilities.plans.attributes import PreviewDiff as PreviewDiff
from dg_sqlmesh_component.capabilities.plans.attributes import PreviewEnvironment as PreviewEnvironment
from dg_sqlmesh_component.capabilities.polling_sensor.attributes import PollingSensor as PollingSensor
from dg_sqlmesh_component.capabilities.project_tests.attributes import ProjectTests as ProjectTests
from dg_sqlmesh_component.capabilities.query.resource import SQLMeshResource as SQLMeshResource
from dg_sqlmesh_component.capabilities.restatements.attributes import Restate as Restate
from dg_sqlmesh_component.capabilities.restatements.attributes import RestateJob as RestateJob
from dg_sqlmesh_component.capabilities.schedule.attributes import Schedule as Schedule
from dg_sqlmesh_component.capabilities.sources.attributes import Wait as Wait
from dg_sqlmesh_component.component import SQLMeshProjectComponent as SQLMeshProjectComponent
from dg_sqlmesh_component.config.attribute_types import Audits as Audits
from dg_sqlmesh_component.config.attribute_types import Budget as Budget
from dg_sqlmesh_component.config.attribute_types import Execution as Execution
from dg_sqlmesh_component.config.attribute_types import Freshness as Freshness
from dg_sqlmesh_component.config.attribute_types import IntervalsCheck as IntervalsCheck
from dg_sqlmesh_component.config.attribute_types import TagConvention as TagConvention
from dg_sqlmesh_component.config.external_models import ExternalModels as ExternalModels
from dg_sqlmesh_component.config.project import SQLMeshProject as SQLMeshProject
from dg_sqlmesh_component.config.retries import Retries as Retries
from dg_sqlmesh_component.config.run_config import SQLMeshRunConfig as SQLMeshRunConfig
from dg_sqlmesh_component.protocol.errors import SQLMeshComponentError as SQLMeshComponentError
from dg_sqlmesh_component.version import __version__ as __version__

DagsterLibraryRegistry.register("dg-sqlmesh-component", __version__, is_dagster_package=False)
