"""The cost of a tick of `schedule` and of `polling_sensor`: CPU seconds of their workers, and of `sqlmesh run`.

A round measures all once, with nothing pending and nothing to record; the ticks also with everything pending or
everything to record. `sqlmesh run` finds nothing to do, so it only reads the state too. The first tick after a plan
reads all snapshots. The next ticks read those that the first one has kept.

Above 1,000 models, a project of 1,000 is planned, and each row of its state is copied under other names: planning more
takes hours. `sqlmesh run` and the sensor are then left out with `--ticks-only`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
from lab import Lab, heading, measure, progress, ratio_row, row, spent_by

from dg_sqlmesh_component.capabilities.polling_sensor.messages import ChangesFound, ChangesRequest
from dg_sqlmesh_component.capabilities.schedule.messages import PendingFound, PendingRequest
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker_client.calls import answered, load_project

DAY = 86_400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ticks-only", action="store_true")
    options = parser.parse_args()
    planned = min(options.models, 1_000)
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder).resolve(), planned, mixed=True, audits=1, days=15)
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
        models |= copied_models(lab.project / "warehouse.duckdb", options.models // planned - 1)

        everything = _find_changes(project, msg.Records())

        def tick(expected: range, days: int, *, is_first: bool = False) -> Callable[[], object]:
            def find() -> None:
                if is_first:
                    shutil.rmtree(lab.project / ".cache" / "dg_sqlmesh_tick", ignore_errors=True)
                now = int((time.time() + days * DAY) * 1000)
                request = PendingRequest(project.open_request, "prod", models, now, msg.AwaitedTables())
                found = answered(project, request, PendingFound)
                assert len(found.pending) in expected, len(found.pending)

            return find

        def look(expected: range, up_to: int) -> Callable[[], object]:
            def find() -> None:
                recorded = msg.Records(
                    {model.fqn: msg.RecordedData(versions[model.fqn], up_to) for model in manifest.models}
                )
                found = _find_changes(project, recorded).compared.unrecorded
                assert len(found) in expected, len(found)

            versions = {fqn: promoted.version for fqn, promoted in everything.promoted.items()}
            return find

        cases: dict[str, Callable[[], object]] = {
            "the first tick after a plan, nothing pending": tick(range(1), 0, is_first=True),
            "a tick, nothing pending": tick(range(1), 0),
            "a tick, everything pending": tick(range(options.models // 4, options.models + 1), 8),
            "a tick of the sensor, nothing to record": look(range(1), int(time.time() * 1000)),
            "a tick of the sensor, everything to record": look(range(options.models // 2, options.models + 1), 0),
            "`sqlmesh run`, nothing pending": lambda: measure(run, cwd=lab.project),
        }
        if options.ticks_only:
            cases = {case: action for case, action in cases.items() if "pending" in case and "tick" in case}
        seconds: dict[str, list[float]] = {case: [] for case in cases}
        for _ in range(options.rounds):
            for case, action in cases.items():
                seconds[case].append(spent_by(action, cpu=True))
            progress({case: values[-1] for case, values in seconds.items()})
    print(heading(f"{options.models} models, {options.rounds} rounds"))
    for case, values in seconds.items():
        print(row(case, values, " s of CPU"))
    if options.ticks_only:
        return
    _, nothing, _, unchanged, _, alone = seconds.values()
    print(ratio_row("a tick / `sqlmesh run`, nothing pending", nothing, alone))
    print(ratio_row("a tick of the sensor / `sqlmesh run`, nothing to do", unchanged, alone))


def _find_changes(project: SQLMeshProject, records: msg.Records) -> ChangesFound:
    now = int(time.time() * 1000)
    request = ChangesRequest(project.open_request, "prod", records, msg.AwaitedTables(), now)
    return answered(project, request, ChangesFound)


def copied_models(database: Path, copies: int) -> set[str]:
    """Copy each model in SQLMesh's state so often, under names of its own. Return these names."""
    with duckdb.connect(str(database)) as connection:
        names = [name for (name,) in connection.sql("SELECT name FROM sqlmesh._snapshots").fetchall()]
        found = connection.sql("SELECT snapshots FROM sqlmesh._environments WHERE name = 'prod'").fetchone()
        assert found is not None
        in_environment = json.loads(found[0])
        for copy in range(1, copies + 1):
            for table, texts in (("_snapshots", ("name", "snapshot")), ("_intervals", ("id", "name"))):
                renamed = ", ".join(f"replace({text}, 'layer_', 'copy{copy}_') AS {text}" for text in texts)
                rows = f"SELECT * REPLACE ({renamed}) FROM sqlmesh.{table} WHERE name LIKE '%layer!_%' ESCAPE '!'"
                connection.execute(f"INSERT INTO sqlmesh.{table} {rows}")
            in_environment += json.loads(found[0].replace("layer_", f"copy{copy}_"))
        update = "UPDATE sqlmesh._environments SET snapshots = ? WHERE name = 'prod'"
        connection.execute(update, [json.dumps(in_environment)])
    return {name.replace("layer_", f"copy{copy}_") for name in names for copy in range(1, copies + 1)}


if __name__ == "__main__":
    main()
