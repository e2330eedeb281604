"""The cost of loading definitions: our component with a stored manifest, and the same assets written by hand.

Of generated projects, or of a project of yours (`--project`), which is copied.

Each measurement is a process, from its start to the built repository, imports included. The assets written by hand are
a Python module with the same `AssetSpec`s and `AssetCheckSpec`s, in a Dagster project of the same layout. A bare
`Context` is a script that only loads the project with SQLMesh. SQLMesh's caches in the project's folder are warm, as
after any `sqlmesh` command, or cold, as in a fresh clone.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import by_hand
from lab import HERE, Lab, Measured, heading, in_dagster, measure, progress, ratio_row, row

STORED, HAND, BARE = "ours, with a manifest", "the same by hand", "a bare `Context`, caches warm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[1_000, 3_000])
    parser.add_argument("--audits", type=int, default=1)
    parser.add_argument("--python", action="store_true", help="Python models instead of SQL")
    parser.add_argument("--project", type=Path, help="a SQLMesh project instead of generated ones")
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, on a machine that others use")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    shape = {"audits": options.audits, "python": options.python}
    for models in options.models[:1] if options.project else options.models:
        with tempfile.TemporaryDirectory() as temporary:
            lab = Lab(Path(temporary).resolve(), models, planned=False, project=options.project, **shape)
            changed = files_to_change(lab.project, is_generated=options.project is None)
            table(lab, changed, options.rounds, of_cpu=options.cpu)
            sys.stdout.flush()


def files_to_change(project: Path, *, is_generated: bool) -> dict[str, Path]:
    """The files of models to change, by how a table names them."""
    files = sorted(path for path in (project / "models").rglob("*") if path.suffix in {".py", ".sql"})
    middle = files[len(files) // 2]
    if is_generated:
        return {"a model without downstream models": files[-1], "a model of the middle layer": middle}
    return {str(middle.relative_to(project)): middle}


def table(lab: Lab, changed_files: dict[str, Path], rounds: int, *, of_cpu: bool) -> None:
    ours = lab.ours()
    hand = lab.dagster_project("hand", {"project.py": by_hand.module(ours)})
    direct = lab.dagster_project("direct", lab.component_file())
    models = in_dagster("load", ours).printed["assets"]
    print(heading(f"{models} models, definitions, {rounds} rounds"))

    def cost(measured: Measured) -> float:
        return measured.cpu if of_cpu else measured.seconds

    def repository(root: Path) -> float:
        measured = in_dagster("load", root)
        assert measured.printed == {"assets": models, "sqlmesh": False}, measured.output
        return cost(measured)

    def bare() -> float:
        return cost(measure([sys.executable, HERE / "sqlmesh_alone.py", "load", lab.project], cwd=lab.project))

    def cold(measure_once: Callable[[], float]) -> float:
        shutil.rmtree(lab.project / ".cache", ignore_errors=True)  # Python models have none.
        return measure_once()

    def development(changed: Path | None = None) -> float:
        """A load of `dg dev`, after a change of one model's file."""
        if changed:
            comment = "#" if changed.suffix == ".py" else "--"
            changed.write_text(f"{changed.read_text()}{comment} Changed.\n")
        command: list[str | Path] = [sys.executable, HERE / "in_dagster.py", "load", ours]
        return cost(measure(command, cwd=ours, DAGSTER_HOME=str(ours / "home"), DAGSTER_IS_DEV_CLI="1"))

    warm_ups: tuple[Callable[[], float], ...] = (lambda: repository(hand), bare)
    for warm_up in warm_ups:
        warm_up()  # Python compiles the modules, SQLMesh fills its cache
    measured = []
    for _ in range(rounds):
        # The cold ones first, so that they leave the caches warm.
        cold_ones = {
            "a bare `Context`, caches cold": cold(bare),
            "ours, without a manifest, caches cold": cold(lambda: repository(direct)),
        }
        measured.append(
            {
                STORED: repository(ours),
                HAND: repository(hand),
                BARE: bare(),
                "ours, without a manifest, caches warm": repository(direct),
                **cold_ones,
                "ours in development, nothing changed": development(),
                **{f"ours in development, {what} changed": development(file) for what, file in changed_files.items()},
            }
        )
        progress(measured[-1])
    by_name = {name: [values[name] for values in measured] for name in measured[0]}
    for name, seconds in by_name.items():
        print(row(name, seconds, " s"))
    print(ratio_row(f"**{STORED} / {HAND}**", by_name[STORED], by_name[HAND]))
    for name, seconds in by_name.items():
        if name not in (HAND, BARE):
            print(ratio_row(f"{name} / {BARE}", seconds, by_name[BARE]))


if __name__ == "__main__":
    main()
