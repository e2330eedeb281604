"""The job and the schedule of SQLMesh's janitor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import dagster as dg

from dg_sqlmesh_component.config.janitor import Janitor
from dg_sqlmesh_component.definitions.op import refuse_op_name, refuse_reserved_tags

Compute = Callable[[dg.OpExecutionContext], Iterator[dg.Output[None]]]


@dataclass(frozen=True)
class JanitorJob:
    """A job with one op, and its schedule.

    Attributes:
        component_op: The name of the component's op.

    Raises:
        ConfigurationError: The job would have a name that it cannot have.
    """

    configured: Janitor
    component_op: str

    def __post_init__(self) -> None:
        refuse_reserved_tags("janitor.tags", self.configured.tags)
        if self.configured.name is not None:
            refuse_op_name(self.configured.name, "janitor.name")

    @property
    def name(self) -> str:
        """The name of the job. Dagster allows no op of that name too."""
        return self.configured.name or f"{self.component_op.rstrip('_')}_janitor"

    @property
    def op_name(self) -> str:
        """The name of the job's op."""
        return f"{self.name}_op"

    def build(self, pool: str, compute: Compute) -> dg.Definitions:
        """The job and its schedule.

        Args:
            pool: The pool of the component's op. The janitor and the component's runs share its limit.
        """
        scope = "everything that has expired"
        if self.configured.environment:
            scope = f"environment {self.configured.environment}, if it has expired"
        description = f"Runs SQLMesh's janitor, which deletes {scope}. It waits until no run uses the SQLMesh state."

        def run_janitor(context: dg.OpExecutionContext) -> Iterator[dg.Output[None]]:
            yield from compute(context)

        # Dagster looks at the annotation itself to decide which kind of context to pass.
        run_janitor.__annotations__ = {"context": dg.OpExecutionContext}
        op = dg.op(name=self.op_name, description=description, pool=pool, out=dg.Out(dg.Nothing))(run_janitor)
        graph = dg.GraphDefinition(name=self.name, node_defs=[op], description=description)
        job = graph.to_job(tags=self.configured.tags)
        schedule = dg.ScheduleDefinition(
            job=job,
            cron_schedule=self.configured.cron,
            execution_timezone=self.configured.timezone,
            default_status=dg.DefaultScheduleStatus[self.configured.default_status],
        )
        return dg.Definitions(jobs=[job], schedules=[schedule])
