"""The cost of a tick of `schedule` and of `polling_sensor`: CPU seconds of their workers, and of `sqlmesh run`.

A round measures all once, with nothing pending and nothing to record; the ticks also with everything pending or
everything to record. `sqlmesh run` finds nothing to do, so it only reads the state too.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lab import Lab, heading, measure, progress, ratio_row, row

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker_client.calls import find_changes, find_pending, load_project

DAY = 86_400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder).resolve(), options.models, mixed=True, audits=1)
        project = SQLMeshProject(paths=(lab.project,))
        manifest = load_project(project, msg.LoadRequest(project.open_request)).manifest
        models = frozenset(model.fqn for model in manifest.models)
        run: list[str | Path] = [
            sys.executable,
            "-c",
            "from sqlmesh.cli.main import cli; cli()",
            "-p",
            lab.project,
            "run",
        ]
        measure(run, cwd=lab.project)  # computes the pending intervals since the plan

        everything = find_changes(project, "prod", msg.Records(), int(time.time() * 1000))

        def tick(expected: range, days: int) -> Callable[[], object]:
            def find() -> None:
                now = int((time.time() + days * DAY) * 1000)
                found = find_pending(project, msg.PendingRequest(project.open_request, "prod", models, now))
                assert len(found.pending) in expected, len(found.pending)

            return find

        def look(expected: range, up_to: int) -> Callable[[], object]:
            def find() -> None:
                recorded = msg.Records(
                    {model.fqn: msg.RecordedData(versions[model.fqn], up_to) for model in manifest.models}
                )
                found = find_changes(project, "prod", recorded, int(time.time() * 1000)).compared.unrecorded
                assert len(found) in expected, len(found)

            versions = {fqn: promoted.version for fqn, promoted in everything.promoted.items()}
            return find

        cases: dict[str, Callable[[], object]] = {
            "a tick, nothing pending": tick(range(1), 0),
            "a tick, everything pending": tick(range(options.models // 4, options.models + 1), 8),
            "a tick of the sensor, nothing to record": look(range(1), int(time.time() * 1000)),
            "a tick of the sensor, everything to record": look(range(options.models // 2, options.models + 1), 0),
            "`sqlmesh run`, nothing pending": lambda: measure(run, cwd=lab.project),
        }
        seconds: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(options.rounds):
            for case, action in cases.items():
                seconds[case].append(cpu_seconds(action))
            progress({case: values[-1] for case, values in seconds.items()})
    print(heading(f"{options.models} models, {options.rounds} rounds"))
    for case, values in seconds.items():
        print(row(case, values, " s of CPU"))
    nothing, _, unchanged, _, alone = seconds.values()
    print(ratio_row("a tick / `sqlmesh run`, nothing pending", nothing, alone))
    print(ratio_row("a tick of the sensor / `sqlmesh run`, nothing to do", unchanged, alone))


def cpu_seconds(action: Callable[[], object]) -> float:
    """CPU seconds of the processes that an action starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    action()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
