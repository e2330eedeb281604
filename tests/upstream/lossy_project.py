"""A SQLMesh project whose plans lose columns or rows."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from harness import CONFIG, write_project
from sqlmesh import Context
from sqlmesh.core.console import NoopConsole, set_console
from sqlmesh.core.plan import Plan
from sqlmesh.utils.errors import PlanError

from dg_sqlmesh_component.capabilities.plans.column_words import dropped
from dg_sqlmesh_component.capabilities.plans.worker.lost_rows import NO_LOSSES, Losses, lost_rows
from dg_sqlmesh_component.capabilities.plans.worker.migrations import alterations
from dg_sqlmesh_component.capabilities.plans.worker.shown_rows import changed_models
from dg_sqlmesh_component.worker.intervals.tables import upstream

A = '"warehouse"."t"."a"'


class Project:
    """A SQLMesh project without Dagster."""

    def __init__(self, path: Path, config: str = CONFIG) -> None:
        self.path = write_project(path, {}, config)
        (self.path / "models").mkdir(exist_ok=True)

    def write(self, text: str, name: str = "a") -> None:
        (self.path / "models" / f"{name}.sql").write_text(text)

    @contextmanager
    def planned(self) -> Iterator[tuple[Plan, Context]]:
        set_console(NoopConsole())
        with closing(Context(paths=[str(self.path)])) as context:
            yield context.plan_builder("prod", skip_tests=True, allow_destructive_models=["*"]).build(), context

    def apply(self, text: str) -> None:
        self.write(text)
        with self.planned() as (plan, context):
            context.apply(plan)

    def losses(self) -> dict[str, tuple[str, ...]]:
        with self.planned() as (plan, context):
            found = alterations(plan, plan.context_diff, context)
            return {fqn: tuple(map(dropped, of_table.drops)) for fqn, of_table in found.items() if of_table.drops}

    def apply_without_permission(self) -> str:
        """Apply as if nothing was allowed. Return SQLMesh's error, or no text if there is none."""
        with self.planned() as (plan, context):
            try:
                context.apply(plan.copy(update={"allow_destructive_models": set()}))
            except PlanError as error:
                return str(error)
        return ""

    def query(self, sql: str) -> None:
        with self.planned() as (_, context):
            table = next(s.table_name() for s in context.snapshots.values() if s.name == A)
            context.engine_adapter.execute(sql.format(table=table))


def lost_by(plan: Plan) -> dict[str, Losses]:
    """What each changed model loses, by name as in its file."""
    nodes, versions = plan.context_diff.snapshots_by_name, plan.context_diff.modified_snapshots
    missing = {of_model.snapshot_id.name: of_model.intervals for of_model in plan.missing_intervals}
    found = lost_rows(changed_models(versions, upstream(nodes), missing, {}, lambda _: (), lambda _: ()))
    return {new.node.name.split(".")[-1]: found.get(name, NO_LOSSES) for name, (new, _) in versions.items()}
