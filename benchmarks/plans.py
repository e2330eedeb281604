"""The time or CPU of a plan in SQLMesh's process, as `<op>_plan` and `<op>_apply` request it, and of `sqlmesh plan`.

In each round, one model of the middle layer is changed twice. Both build the plan of the first change without applying
it. Then ours applies the first change, and `sqlmesh plan` the second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from lab import Lab, heading, measure, progress, ratio_row, row, spent_by

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.worker_client.calls import serving


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds of all processes, and not the time")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in ("our plan", "sqlmesh plan", "our apply", "sqlmesh apply")}
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder).resolve(), options.models)
        project = SQLMeshProject(paths=(lab.project,))
        sqlmesh = [sys.executable, "-c", "from sqlmesh.cli.main import cli; cli()", "-p", str(lab.project), "plan"]
        model = lab.project / "models" / f"model_{options.models // 2:04d}.sql"
        original = model.read_text()
        for number in range(options.rounds):
            model.write_text(original.replace("AS c1", f"+ {2 * number + 1} AS c1", 1))
            seconds["our plan"].append(spent_by(partial(ours, project, applies=False), cpu=options.cpu))
            # Without an answer to its last question, "Apply?", the command ends.
            asked = measure([*sqlmesh, "--no-prompts"], cwd=lab.project, check=False)
            assert "Apply - Backfill Tables" in asked.output, asked.output
            seconds["sqlmesh plan"].append(asked.cpu if options.cpu else asked.seconds)
            seconds["our apply"].append(spent_by(partial(ours, project, applies=True), cpu=options.cpu))
            model.write_text(original.replace("AS c1", f"+ {2 * number + 2} AS c1", 1))
            applied = measure([*sqlmesh, "--no-prompts", "--auto-apply"], cwd=lab.project)
            seconds["sqlmesh apply"].append(applied.cpu if options.cpu else applied.seconds)
            progress({name: values[-1] for name, values in seconds.items()})
    print(heading(f"{options.models} models, {options.rounds} rounds"))
    for name, values in seconds.items():
        print(row(name, values, " s of CPU" if options.cpu else " s"))
    print(ratio_row("our plan / `sqlmesh plan`", seconds["our plan"], seconds["sqlmesh plan"]))
    print(ratio_row("our apply / `sqlmesh plan --auto-apply`", seconds["our apply"], seconds["sqlmesh apply"]))


def ours(project: SQLMeshProject, *, applies: bool) -> None:
    """Build the plan of one change, and apply it if `applies`, up to the end of the worker."""
    with serving(
        project, msg.PlanRequest(project.open_request, "prod", msg.AwaitedTables(), applies=applies)
    ) as worker:
        for event in worker:
            if isinstance(event, msg.PlanBuilt):
                assert [model.change for model in event.models].count("changed") == 1
                if applies:
                    worker.answer(msg.PlanApproval((), msg.Records()))
            elif isinstance(event, msg.RequestFailed):
                raise RuntimeError(event.message)
            elif isinstance(event, msg.EvaluationFinished):
                return
    raise AssertionError("a worker that ends without a last event raises")


if __name__ == "__main__":
    main()
