"""The worker process: it reads one request, sends events and exits.

Exit status 0 means that the last event contains the result of the request, even if the request failed.
The check of the interpreter (`installation_problem`) needs only the standard library.
"""

from __future__ import annotations

import gc
import json
import logging
import re
import sys
import traceback
from dataclasses import replace
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from dg_sqlmesh_component.protocol.errors import EvaluationError, InstallationError, SQLMeshComponentError, WorkerError
from dg_sqlmesh_component.worker.own_bugs import own_bug
from dg_sqlmesh_component.worker.project_exits import as_exception

if TYPE_CHECKING:
    from collections.abc import Callable

    from dg_sqlmesh_component.protocol import messages as msg
    from dg_sqlmesh_component.worker.pipe import Pipe

_PACKAGE = "dg_sqlmesh_component"

PYTHON_FLOOR = (3, 10)
SQLMESH_FLOOR = "0.235.2"
"""The lowest version of SQLMesh that the worker supports. `pyproject.toml` has the same version, and the reasons."""


def main() -> None:
    """Serve one request."""
    gc.disable()  # while SQLMesh is imported: the import creates no garbage, and the search took a tenth of its time
    problem = installation_problem()
    if problem:
        failed = {"error": InstallationError.__name__, "message": problem}
        print("protocol.messages.events:RequestFailed", json.dumps(failed), flush=True)  # noqa: T201  # `Pipe` may not be importable here
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
    except Exception as error:  # noqa: BLE001  # the last line of defence: the parent receives the facts and raises them
        pipe.fail(WorkerError(own_bug(error) or f"The worker raised an unexpected error:\n{traceback.format_exc()}"))
    except BaseException as error:  # noqa: BLE001  # the project's code: the worker itself never raises such an error
        pipe.fail(EvaluationError(f"Code of the SQLMesh project ended SQLMesh's process: {as_exception(error)}"))


def _serve(pipe: Pipe) -> None:
    from dg_sqlmesh_component.protocol import messages as msg
    from dg_sqlmesh_component.worker.context import with_default_gateway
    from dg_sqlmesh_component.worker.sqlmesh_internals import prepare_process

    for served in (msg.EvaluationRequest, msg.LoadRequest):
        _function(served.SERVED_BY)  # imports SQLMesh: some seconds, in which the parent may still prepare its request
    prepare_process()
    gc.freeze()  # imported objects stay, and forked processes share them
    gc.set_threshold(50_000)  # snapshots are many objects, and few of them are garbage: a tick takes a fifth less
    gc.enable()
    request = pipe.receive(msg.Request)
    request = replace(request, project=with_default_gateway(request.project))
    serve = _function(request.SERVED_BY)
    if isinstance(request, msg.Question):
        pipe.begin()
        pipe.send(serve(request, pipe))
    else:
        serve(request, pipe)


def _function(place: str) -> Callable[[msg.Request, Pipe], Any]:
    """The function of a `Request.SERVED_BY`."""
    module, _, name = place.partition(":")
    function: Callable[[msg.Request, Pipe], Any] = getattr(import_module(f"{_PACKAGE}.{module}"), name)
    return function


def installation_problem() -> str | None:
    """Why this interpreter cannot run SQLMesh, in sentences; None if it can."""
    remedy = "or set `project.python` in defs.yaml, or `python` of the SQLMeshResource, to one that has it."
    if sys.version_info < PYTHON_FLOOR:
        return (
            f"The interpreter {sys.executable}, which should run SQLMesh, is Python {sys.version.split()[0]}; "
            f"at least {'.'.join(map(str, PYTHON_FLOOR))} is needed. Upgrade it, {remedy}"
        )
    install = f"Install it there (pip install 'sqlmesh>={SQLMESH_FLOOR}'), {remedy}"
    try:
        version = metadata.version("sqlmesh")
    except metadata.PackageNotFoundError:
        return f"SQLMesh is not installed for the interpreter {sys.executable}, which should run it. {install}"
    if _numbers(version) < _numbers(SQLMESH_FLOOR):
        return f"The interpreter {sys.executable} has SQLMesh {version}; at least {SQLMESH_FLOOR} is needed. {install}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


if __name__ == "__main__":
    main()
