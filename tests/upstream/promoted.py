"""A SQLMesh project whose models are promoted in prod, without Dagster."""

from pathlib import Path
from typing import Any

from harness import CONFIG, write_project
from sqlmesh import Context
from sqlmesh.core.config import Config
from sqlmesh.core.config.loader import load_configs
from sqlmesh.core.console import NoopConsole, set_console
from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import Snapshot, SnapshotId


class Contexts:
    """A project in a folder, and the contexts that a test has opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: list[Context] = []

    def open(self, console: NoopConsole | None = None, *, load: bool = False, type_: type[Context] = Context) -> Any:
        """Open the project as our worker does."""
        context = type_(paths=[str(self.folder)], config=load_configs(None, Config, [str(self.folder)]), load=load)
        context.console = console or NoopConsole()
        self.opened.append(context)
        return context

    def close(self) -> None:
        while self.opened:
            self.opened.pop().close()


class Project(Contexts):
    """A project that is planned."""

    def __init__(
        self, path: Path, files: dict[str, str], console: type[NoopConsole] = NoopConsole, **plan: Any
    ) -> None:
        # SQLMesh uses the adapter of the same path again, so that of another test for a relative path.
        config = CONFIG.replace("warehouse.duckdb", str(path.parent / "warehouse.duckdb"))
        super().__init__(write_project(path, files, config))
        self.console = console
        self.load().plan("prod", auto_apply=True, no_prompts=True, **plan)
        self.close()

    def load(self) -> Context:
        set_console(self.console())
        return self.open(self.console(), load=True)

    def write(self, **models: str) -> None:
        for name, text in models.items():
            (self.folder / "models" / f"{name}.sql").write_text(text)


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
