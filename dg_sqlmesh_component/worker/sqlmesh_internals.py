"""Every private interface of SQLMesh that the worker uses, and every method of SQLMesh's that it replaces.

Each has its reason here, and a test in tests/upstream/test_sqlmesh_internals.py that fails when SQLMesh changes what
we depend on. No other module of the worker reaches into SQLMesh's objects (ruff's SLF001).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sqlmesh.core.audit import StandaloneAudit
from sqlmesh.core.context import Context
from sqlmesh.core.engine_adapter import EngineAdapter
from sqlmesh.core.loader import LoadedProject
from sqlmesh.core.model import Model
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.selector import NativeSelector
from sqlmesh.core.snapshot import SnapshotEvaluator

# -- loading a project ----------------------------------------------------------------------------


def file_of(definition: Model | StandaloneAudit | Any) -> Path | None:
    """The file that defines a model or an audit; SQLMesh has no public name for it."""
    return definition._path


def watch_loaders(context: Context, loaded: Callable[[LoadedProject], None]) -> None:
    """Be told what each loader of a context has read from the project's files.

    A context has models of other projects too, from the state. Nothing public tells which those are.
    """

    def watched(load: Callable[..., LoadedProject]) -> Callable[..., LoadedProject]:
        def load_and_tell(*args: Any, **kwargs: Any) -> LoadedProject:
            project = load(*args, **kwargs)
            loaded(project)
            return project

        return load_and_tell

    for loader in context._loaders:
        loader.load = watched(loader.load)


def selector_of(context: Context) -> NativeSelector:
    """What reads SQLMesh's selection language. The context's own opens the state, which loading must not touch."""
    return NativeSelector(
        None,  # the state is only read for `git:` selections' removed models
        models=context._models,
        context_path=context.path,
        dag=context.dag,
        default_catalog=context.default_catalog,
        dialect=context.default_dialect,
        cache_dir=context.cache_dir,
    )


# -- running --------------------------------------------------------------------------------------


def replace_run(scheduler: Scheduler, replacement: Callable[..., Any]) -> None:
    """Have `Context.run` call this instead of the scheduler's `run`, which it calls again when a plan has landed."""
    scheduler.run = replacement


def replace_intervals(
    scheduler: Scheduler, merged_missing_intervals: Callable[..., Any], batch_intervals: Callable[..., Any]
) -> None:
    """Have the scheduler ask these for what is missing, and for the batches of what it runs.

    Of what runs, it is the only place where intervals can be held back after SQLMesh has found and before it has
    batched them.
    """
    scheduler.merged_missing_intervals = merged_missing_intervals
    scheduler.batch_intervals = batch_intervals


def replace_audits(
    evaluator: SnapshotEvaluator,
    audit_all: Callable[[Callable[..., Any]], Callable[..., Any]],
    audit_one: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Wrap the evaluation of all audits of a node, and of each one, once for an evaluator.

    SQLMesh returns the results of a node's audits together, when none has raised. A restarted run brings the same
    evaluator again.

    Args:
        audit_all: Given SQLMesh's `audit`, returns what replaces it.
        audit_one: Given SQLMesh's `_audit`, returns what replaces it.
    """
    if getattr(evaluator, "_is_watched_by_dg_sqlmesh", False):
        return
    evaluator._is_watched_by_dg_sqlmesh = True
    evaluator.audit, evaluator._audit = audit_all(evaluator.audit), audit_one(evaluator._audit)


def open_connections(adapters: Iterable[EngineAdapter]) -> list[Any]:
    """Every open cursor and connection of every thread, to cancel what they execute; SQLMesh cannot cancel queries."""
    found: dict[int, Any] = {}
    for adapter in adapters:
        pool = vars(adapter._connection_pool)
        single = [pool.get("_cursor"), pool.get("_connection")]
        of_threads = [*pool.get("_thread_cursors", {}).values(), *pool.get("_thread_connections", {}).values()]
        found |= {id(handle): handle for handle in [*single, *of_threads] if handle is not None}
    return list(found.values())
