"""The cost of column lineage while a project is loaded: paired loads with and without it, as a ratio."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import generate

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol.messages import LoadRequest, OptionalContent
from dg_sqlmesh_component.worker_client.calls import load_project


def seconds(project: SQLMeshProject, include: Sequence[OptionalContent]) -> tuple[float, int, int]:
    start = time.perf_counter()
    manifest = load_project(project, LoadRequest(project.open_request, include=tuple(include))).manifest
    took = time.perf_counter() - start
    columns = sum(len(model.columns) for model in manifest.models)
    pairs = sum(len(parents) for model in manifest.models for parents in (model.column_lineage or {}).values())
    return took, columns, pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = SQLMeshProject(
            (generate.write(Path(folder) / "project", arguments.models, columns=arguments.columns),)
        )
        seconds(project, [])  # fills SQLMesh's own caches
        rounds = [(seconds(project, []), seconds(project, ["column_lineage"])) for _ in range(arguments.rounds)]
    ratios = [with_it[0] / without[0] for without, with_it in rounds]
    extra = [with_it[0] - without[0] for without, with_it in rounds]
    _, columns, pairs = rounds[0][1]
    print(f"{arguments.models} models, {columns} columns, {pairs} pairs of columns, {arguments.rounds} rounds")
    print(f"load without:     median {statistics.median(without[0] for without, _ in rounds):.2f} s")
    print(f"with / without:   median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"cost per column:  median {statistics.median(extra) / columns * 1000:.2f} ms")


if __name__ == "__main__":
    main()
