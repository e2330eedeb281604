"""A SQLMesh project whose models are promoted in prod, without Dagster."""

from pathlib import Path
from typing import Any

from harness import CONFIG, write_project
from sqlmesh import Context
from sqlmesh.core.console import NoopConsole, set_console
from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import Snapshot, SnapshotId


class Project:
    """A project and the contexts that a test has opened."""

    def __init__(
        self, path: Path, files: dict[str, str], console: type[NoopConsole] = NoopConsole, **plan: Any
    ) -> None:
        # SQLMesh uses the adapter of the same path again, so that of another test for a relative path.
        config = CONFIG.replace("warehouse.duckdb", str(path.parent / "warehouse.duckdb"))
        self.path, self.console = write_project(path, files, config), console
        self.opened: list[Context] = []
        self.open().plan("prod", auto_apply=True, no_prompts=True, **plan)
        self.close()

    def open(self) -> Context:
        set_console(self.console())
        context = Context(paths=[str(self.path)])
        context.console = self.console()
        self.opened.append(context)
        return context

    def close(self) -> None:
        while self.opened:
            self.opened.pop().close()

    def write(self, **models: str) -> None:
        for name, text in models.items():
            (self.path / "models" / f"{name}.sql").write_text(text)


def built(context: Context, environment: str = "prod", **options: Any) -> Plan:
    return context.plan_builder(environment, skip_tests=True, **options).build()


def shown(context: Context, environment: str = "prod") -> Environment:
    """The environment in the state, which must exist."""
    found = context.state_reader.get_environment(environment)
    assert found is not None
    return found


def stored(context: Context) -> dict[SnapshotId, Snapshot]:
    """The versions that prod shows."""
    return context.state_reader.get_snapshots(shown(context).snapshots)
