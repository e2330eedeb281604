"""Our component and the two other packages that run SQLMesh under Dagster, each in an environment of its own.

Definitions: a process from its start to the built repository. Runs: all models pending, in-process executor, from the
run's start to its end. The tables in the warehouse then show how many models were computed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab import HERE, Lab, Measured, heading, measure, progress, ratio_row, row

DG_SQLMESH = """
from dg_sqlmesh import sqlmesh_definitions_factory

defs_ = sqlmesh_definitions_factory(project_dir={project!r}, gateway="local", environment="prod")


def defs():
    return defs_
"""
DAGSTER_SQLMESH = """
import dagster as dg
from dagster_sqlmesh import SQLMeshContextConfig, SQLMeshResource, sqlmesh_assets

config = SQLMeshContextConfig(path={project!r}, gateway="local")


@sqlmesh_assets(environment="prod", config=config)
def project(context: dg.AssetExecutionContext, sqlmesh: SQLMeshResource):
    yield from sqlmesh.run(context, config=config, environment="prod")


def defs():
    return dg.Definitions(assets=[project], resources={{"sqlmesh": SQLMeshResource()}})
"""
COMPUTED = """
import duckdb, json
with duckdb.connect("warehouse.duckdb", read_only=True) as connection:
    [(computed,)] = connection.sql('''
        SELECT count(DISTINCT name) FROM sqlmesh._intervals WHERE NOT is_removed
        AND end_ts > (epoch(current_date) - 86400) * 1000
    ''').fetchall()
print(json.dumps({"computed": computed}))
"""


@dataclass
class Contender:
    """A package to measure: its Python environment, its Dagster project, and the working directory."""

    name: str
    python: Path
    root: Path
    folder: Path

    def measure(self, what: str) -> Measured:
        command: list[str | Path] = [self.python, HERE / "in_dagster.py", what, self.root]
        return measure(command, cwd=self.folder, check=False, DAGSTER_HOME=str(self.root / "home"))


def environment(folder: Path, package: str) -> Path:
    """The interpreter of an environment with this package. The environment is created if it is missing."""
    python = folder / package / "bin" / "python"
    if not python.exists():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "-q", "--python", sys.executable, folder / package], check=True)
        subprocess.run([*uv, "pip", "install", "-q", "--python", python, package, "duckdb<2"], check=True)
    return python


def contenders(lab: Lab, environments: Path) -> list[Contender]:
    found = [Contender("ours", Path(sys.executable), lab.ours(), lab.project)]
    for package, code in (("dg-sqlmesh", DG_SQLMESH), ("dagster-sqlmesh", DAGSTER_SQLMESH)):
        root = lab.dagster_project(package.replace("-", "_") + "_project", {})
        (root / root.name / "definitions.py").write_text(code.format(project=str(lab.project)))
        found.append(
            Contender(package, environment(environments, package), root, lab.project)
        )  # its database path is relative
    return found


def loads_table(lab: Lab, everybody: list[Contender], rounds: int) -> None:
    """Definitions: seconds of a whole process."""
    print(heading(f"{lab.models} models, {rounds} rounds: definitions"))
    loads: dict[str, list[float]] = {contender.name: [] for contender in everybody}
    for number in range(rounds + 1):
        for contender in everybody:
            measured = contender.measure("load")
            assert not measured.status, measured.output
            if number:  # in the first round, Python compiles the modules
                loads[contender.name].append(measured.seconds)
        progress({name: seconds[-1] for name, seconds in loads.items() if seconds})
    for name, seconds in loads.items():
        print(row(name, seconds, " s"))
        if name != "ours":
            print(ratio_row(f"ours / {name}", loads["ours"], seconds))
    sys.stdout.flush()


def runs_table(lab: Lab, everybody: list[Contender]) -> None:
    """One run with all models pending: its seconds, and its result."""
    print(f"\n### {lab.models} models, all pending, in-process executor\n")
    print("| package | seconds of the run | status in Dagster | materialized | computed |\n|---|---|---|---|---|")
    for contender in everybody:
        lab.restore()
        run = contender.measure("step")
        computed = measure([sys.executable, "-c", COMPUTED], cwd=lab.project).printed["computed"]
        if run.printed:
            green = "success" if run.printed["ok"] else "failure"
            materialized = run.printed["events"].get("ASSET_MATERIALIZATION", 0)
            print(f"| {contender.name} | {run.printed['run_seconds']:.1f} | {green} | {materialized} | {computed} |")
        else:
            print(f"| {contender.name} | | {run.output.strip().splitlines()[-1]} | 0 | {computed} |")
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[100])
    parser.add_argument("--audits", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loads-only", action="store_true", help="no runs: at 1,000 models they take long")
    parser.add_argument("--environments", type=Path, help="folder in which their environments are kept")
    options = parser.parse_args()
    for models in options.models:
        with tempfile.TemporaryDirectory() as folder:
            lab = Lab(Path(folder).resolve() / "lab", models, audits=options.audits)
            environments = options.environments or Path(folder) / "environments"
            everybody = contenders(lab, environments.resolve())
            loads_table(lab, everybody, options.rounds)
            if not options.loads_only:
                runs_table(lab, everybody)


if __name__ == "__main__":
    main()
