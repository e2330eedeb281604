"""Read the promoted models from the state: without loading the project, and without the lock of runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlmesh.core.environment import Environment
from sqlmesh.core.snapshot import SnapshotTableInfo

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError
from dg_sqlmesh_component.protocol.formatting import block
from dg_sqlmesh_component.worker.context import (
    ExistingStateContext,
    PipeConsole,
    closed_on_error,
    open_context,
    plan_command,
)
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sqlmesh_internals import read_snapshots_without_cache


@contextmanager
def environment_in_state(
    request: msg.PendingRequest | msg.ChangesRequest, pipe: Pipe
) -> Iterator[tuple[ExistingStateContext, Environment]]:
    """The project's context and the requested environment. At the end, the context is closed.

    Raises:
        EnvironmentNotReadyError: The environment does not exist.
        DatabaseInUseError: Another process has the DuckDB file of the state open.
    """
    read_snapshots_without_cache()
    project, name = request.project, request.environment
    context = open_context(project, PipeConsole(pipe), load=False, context_type=ExistingStateContext)
    with closed_on_error(context, project, name):
        environment = context.state_reader.get_environment(name)
        if environment is None:
            plan = plan_command(project, name, context, is_new=True)
            raise EnvironmentNotReadyError(
                f"Environment {name!r} does not exist in the SQLMesh state, so nothing can run. Create it:{block(plan)}"
            )
        yield context, environment
    context.close()


def promoted_version(info: SnapshotTableInfo, table_name: str | None = None) -> msg.PromotedVersion:
    """The promoted version of a node.

    Args:
        table_name: The table or view that consumers read in the environment.
    """
    return msg.PromotedVersion(
        version=info.version,
        data_hash=info.fingerprint.data_hash,
        metadata_hash=info.fingerprint.metadata_hash,
        table_name=table_name,
    )
