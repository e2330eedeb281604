"""The time of a preview of one changed model, of its deletion, and of a comparison of many rows.

Previews run in SQLMesh's process, as `<op>_preview` requests them, and as `sqlmesh plan pr_1` does. The comparison is
ours and SQLMesh's `table_diff`, of two tables of eight columns. The last column differs in two rows of a thousand.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from lab import Lab, heading, measure, progress, ratio_row, row

from dg_sqlmesh_component.capabilities.janitor.messages import JanitorFinished
from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.messages import ClosePreviewRequest
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.worker_client.calls import serving

COLUMNS = ", ".join(f"(i * {n + 3}) % 1000 + 0.5 AS c{n}" for n in range(6))
WIDE = """
MODEL (name t.wide, kind FULL, grain id);
SELECT i::BIGINT AS id, {columns}, CASE WHEN i % 1000 = {changed} THEN 'x' ELSE 'label ' || (i % 100) END AS label
FROM range(0, {rows}) AS r(i)
"""
CONFIG = """
gateways: {{local: {{connection: {{type: duckdb, database: '{folder}/warehouse.duckdb'}}}}}}
model_defaults: {{dialect: duckdb, start: 2026-01-01}}
disable_anonymized_analytics: true
"""
TABLE_DIFF = """
import time
from sqlmesh import Context
from sqlmesh.core.console import NoopConsole, set_console
set_console(NoopConsole())
context = Context(paths=["."])
since = time.perf_counter()
[diff] = context.table_diff("prod", "pr_1", select_models={"t.wide"}, decimals=6, show=False)
diff.schema_diff(), diff.row_diff()
print('{"seconds": %s}' % (time.perf_counter() - since))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1_000)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _many_models(Path(folder).resolve(), options.models, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        _many_rows(Path(folder).resolve(), options.rows, options.rounds)


def _many_models(folder: Path, models: int, rounds: int) -> None:
    names = ("our preview", "sqlmesh plan pr_1", "our deletion")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    lab = Lab(folder, models)
    project = SQLMeshProject(paths=(lab.project,))
    sqlmesh = [sys.executable, "-c", "from sqlmesh.cli.main import cli; cli()", "-p", str(lab.project)]
    model = lab.project / "models" / f"model_{models // 2:04d}.sql"
    original = model.read_text()
    for number in range(rounds):
        model.write_text(original.replace("AS c1", f"+ {2 * number + 1} AS c1", 1))
        seconds["our preview"].append(preview(project)[0])
        seconds["our deletion"].append(close(project))
        model.write_text(original.replace("AS c1", f"+ {2 * number + 2} AS c1", 1))
        planned = measure([*sqlmesh, "plan", "pr_1", "--no-prompts", "--auto-apply"], cwd=lab.project)
        seconds["sqlmesh plan pr_1"].append(planned.seconds)
        close(project)
        progress({name: values[-1] for name, values in seconds.items()})
    print(heading(f"{models} models, one changed, {rounds} rounds"))
    for name, values in seconds.items():
        print(row(name, values, " s"))
    print(ratio_row("our preview / `sqlmesh plan pr_1`", seconds["our preview"], seconds["sqlmesh plan pr_1"]))


def _many_rows(folder: Path, rows: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {"our comparison": [], "table_diff": []}
    (folder / "models").mkdir()
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder))
    model = folder / "models" / "wide.sql"
    model.write_text(WIDE.format(columns=COLUMNS, rows=rows, changed=1))
    sqlmesh = [sys.executable, "-c", "from sqlmesh.cli.main import cli; cli()", "plan", "--no-prompts", "--auto-apply"]
    measure(sqlmesh, cwd=folder)
    model.write_text(WIDE.format(columns=COLUMNS, rows=rows, changed=2))
    project = SQLMeshProject(paths=(folder,))
    preview(project)
    for _ in range(rounds):
        whole, compared = preview(project)
        [result] = compared
        assert (result.rows, result.added, result.removed) == (rows, 0, 0), result
        assert result.changed == 2 * rows // 1000, result
        seconds["our comparison"].append(whole)
        seconds["table_diff"].append(measure([sys.executable, "-c", TABLE_DIFF], cwd=folder).printed["seconds"])
        progress({name: values[-1] for name, values in seconds.items()})
    print(heading(f"{rows:,} rows of 8 columns, {rounds} rounds"))
    for name, values in seconds.items():
        print(row(name, values, " s"))
    print(ratio_row("our comparison / `table_diff`", seconds["our comparison"], seconds["table_diff"]))


def preview(project: SQLMeshProject) -> tuple[float, list[msg.ModelCompared]]:
    """Seconds from the plan of prod, or else from the start of the worker, to the last event; and the comparisons.

    If the preview is complete already, only the comparison is timed: it begins after the plan of prod.
    """
    since, compared, is_complete = time.perf_counter(), [], False
    with serving(project, msg.PreviewRequest(project.open_request, "pr_1", msg.AwaitedTables())) as worker:
        for event in worker:
            if isinstance(event, msg.PlanBuilt) and event.environment == "pr_1":
                is_complete = not event.models
                worker.answer(msg.PlanApproval((), msg.Records()))
            elif isinstance(event, msg.PlanBuilt):
                since = time.perf_counter() if is_complete else since
            elif isinstance(event, msg.ModelCompared):
                compared.append(event)
            elif isinstance(event, msg.RequestFailed):
                raise RuntimeError(event.message)
            elif isinstance(event, msg.EvaluationFinished):
                return time.perf_counter() - since, compared
    raise AssertionError("a worker that ends without a last event raises")


def close(project: SQLMeshProject) -> float:
    """Seconds from the start of the worker to its last event."""
    since = time.perf_counter()
    with serving(project, ClosePreviewRequest(project.open_request, "pr_1")) as worker:
        for event in worker:
            if isinstance(event, msg.RequestFailed):
                raise RuntimeError(event.message)
            if isinstance(event, JanitorFinished):
                assert event.environments == ("pr_1",)
                return time.perf_counter() - since
    raise AssertionError("a worker that ends without a last event raises")


if __name__ == "__main__":
    main()
