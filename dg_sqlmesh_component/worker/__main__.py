"""The worker's protocol: one request in, events out, and exit.

Exit status 0 means that the last event says how the request ended, also when it ended badly.
Whether this interpreter can do the work is found out with the standard library alone.
"""

from __future__ import annotations

import gc
import json
import logging
import re
import sys
import traceback
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING

from dg_sqlmesh_component.protocol.errors import EvaluationError, InstallationError, SQLMeshComponentError, WorkerError

if TYPE_CHECKING:
    from dg_sqlmesh_component.worker.pipe import Pipe

PYTHON_FLOOR = (3, 10)
SQLMESH_FLOOR = "0.235.2"
"""The lowest SQLMesh that the worker drives; the same as in `pyproject.toml`, with the reasons there."""


def main() -> None:
    """Serve one request."""
    gc.disable()  # while SQLMesh is imported: what it makes is not garbage, and looking for some took a tenth of it
    problem = installation_problem()
    if problem:
        failed = {"type": "request_failed", "error": InstallationError.__name__, "message": problem}
        print(json.dumps(failed), flush=True)  # noqa: T201  # the pipe's other code may not be importable here
        return
    from dg_sqlmesh_component.worker.forked_processes import end_forks_with_this_process
    from dg_sqlmesh_component.worker.pipe import Pipe, PipeHandler
    from dg_sqlmesh_component.worker.sqlglot_sources import prefer_sqlglot_sources

    pipe = Pipe()
    pipe.listen()
    logging.getLogger().addHandler(PipeHandler(pipe))
    prefer_sqlglot_sources()
    end_forks_with_this_process()
    try:
        _serve(pipe)
    except SQLMeshComponentError as error:
        pipe.fail(error)
    except SystemExit as exit:
        pipe.fail(EvaluationError(_who_ended_it(exit)))
    except Exception:  # noqa: BLE001  # the last line of defence: the facts travel to the parent, which raises them
        pipe.fail(WorkerError(f"The worker raised an error that it does not know:\n{traceback.format_exc()}"))


def _who_ended_it(exit: SystemExit) -> str:
    """Where code called for the end of the process, which only the project's does."""
    frame = traceback.extract_tb(exit.__traceback__)[-1]
    return (
        f"Code of the SQLMesh project ended SQLMesh's process: {frame.filename}, line {frame.lineno}, in {frame.name}, "
        f"raised SystemExit({exit.code!r}), as `sys.exit` does. Raise another error there instead."
    )


def _serve(pipe: Pipe) -> None:
    from dg_sqlmesh_component.protocol.messages import DescribeRequest
    from dg_sqlmesh_component.worker.context import as_typed
    from dg_sqlmesh_component.worker.describe.project import (
        describe,  # SQLMesh: some seconds, in which the parent may still be preparing its request
    )
    from dg_sqlmesh_component.worker.evaluate.evaluation import evaluate

    gc.freeze()  # what is imported stays; processes forked from this one share it
    gc.enable()
    request = pipe.receive()
    request = replace(request, project=as_typed(request.project))
    if isinstance(request, DescribeRequest):
        pipe.begin()
        pipe.send(describe(request, pipe))
    else:
        evaluate(request, pipe)


def installation_problem() -> str | None:
    """Why this interpreter cannot run SQLMesh for us, in sentences; None when it can."""
    remedy = "or set `project.python` in defs.yaml to an interpreter that has it."
    if sys.version_info < PYTHON_FLOOR:
        return (
            f"The interpreter {sys.executable}, which is to run SQLMesh, is Python {sys.version.split()[0]}; "
            f"at least {'.'.join(map(str, PYTHON_FLOOR))} is needed. Upgrade it, {remedy}"
        )
    install = f"Install it there (pip install 'sqlmesh>={SQLMESH_FLOOR}'), {remedy}"
    try:
        found = metadata.version("sqlmesh")
    except metadata.PackageNotFoundError:
        return f"SQLMesh is not installed for the interpreter {sys.executable}, which is to run it. {install}"
    if _numbers(found) < _numbers(SQLMESH_FLOOR):
        return f"The interpreter {sys.executable} has SQLMesh {found}; at least {SQLMESH_FLOOR} is needed. {install}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


if __name__ == "__main__":
    main()
