"""Run SQLMesh at an instant, and print which models it planned. Arguments: EPOCH_MILLISECONDS.

Run it in the folder of a project.
"""

import json
import sys

from sqlmesh import Context
from sqlmesh.core.console import NoopConsole


class PlannedModels(NoopConsole):
    """Keeps the models for which SQLMesh has planned batches."""

    def __init__(self) -> None:
        super().__init__()
        self.planned: list[str] = []

    def start_evaluation_progress(self, batched_intervals, *_, **__) -> None:  # type: ignore[no-untyped-def]
        self.planned = sorted(snapshot.name for snapshot in batched_intervals)


def main(now: str) -> None:
    context = Context(paths=["."], load=False)
    context.console = console = PlannedModels()
    context.run("prod", execution_time=int(now), skip_janitor=True)
    context.close()
    print(json.dumps(console.planned))


main(*sys.argv[1:])
