"""Keep what a tick needs of the snapshots of prod, so that the next tick does not read all of them from the state.

Reading a snapshot takes a millisecond: its code is most of it. A tick needs the name, version, kind, cron and parents
of a node, which never change. It also needs the computed intervals, and when the next automatic restatement is due. It
reads these from the state at each tick. So the first tick after a plan keeps the snapshots without their code, in
SQLMesh's cache of files. Code that a tick needs, of pending models with signals for example, is read from the state
(`read_code`), and so are models with an `auto_restatement_cron`. To render a snapshot without its code is an error.

Nothing is kept of another environment: which table a model shows depends on more than that. If an automatic restatement
is due, everything is read from the state: it removes more intervals of a model that reads itself.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlglot
import sqlmesh
from sqlmesh.core import constants as c
from sqlmesh.core.context import Context
from sqlmesh.core.environment import Environment
from sqlmesh.core.model import Model, PythonModel, SqlModel
from sqlmesh.core.model.common import ParsableSql
from sqlmesh.core.snapshot import Snapshot
from sqlmesh.utils.cache import FileCache
from sqlmesh.utils.jinja import JinjaMacroRegistry

_LOG = logging.getLogger(__name__)
_VERSIONS = f"{sqlmesh.__version__}_{sqlglot.__version__}_1"
"""A part of the file's name. Raise the last number if other fields are left out."""
_WITHOUT_CODE = ParsableSql(sql="@dg_sqlmesh_has_left_out_this_code()")
_STATEMENTS = ("pre_statements_", "post_statements_", "on_virtual_update_")
_LEFT_OUT: dict[str, Any] = {
    "audits": [],
    "audit_definitions": {},
    "columns_to_types_": None,
    "column_descriptions_": None,
    "description": None,
    "jinja_macros": JinjaMacroRegistry(),
    "mapping_schema": {},
    "python_env": {},
}
_NOT_KEPT: dict[str, Any] = {
    "intervals": [],
    "dev_intervals": [],
    "pending_restatement_intervals": [],
    "last_altered_ts": None,
    "dev_last_altered_ts": None,
    "previous_versions": (),
}


def read_snapshots(context: Context, environment: Environment, now: int) -> Collection[Snapshot]:
    """The snapshots of an environment with the intervals of the state; those of prod without their code.

    Args:
        now: The instant of the tick, epoch milliseconds.
    """
    if environment.name != c.PROD:
        return context.state_reader.get_snapshots(environment.snapshots).values()
    cache: FileCache[list[Snapshot]] = FileCache(context.cache_dir, prefix="dg_sqlmesh_tick")
    kept = cache.get(environment.plan_id, _VERSIONS)
    if kept is None:
        snapshots = context.state_reader.get_snapshots(environment.snapshots).values()
        try:
            cache.put(environment.plan_id, _VERSIONS, value=[_without_code(snapshot) for snapshot in snapshots])
        except OSError as error:
            _LOG.warning("SQLMesh's cache cannot be written to, so each tick reads all snapshots again: %s", error)
        return snapshots
    context.state_reader.refresh_snapshot_intervals(kept)
    restating = [snapshot for snapshot in kept if snapshot.is_model and snapshot.model.auto_restatement_cron]
    stored = _read(context, restating)
    if any(of.get_next_auto_restatement_interval(now) for of in stored.values()):
        return context.state_reader.get_snapshots(environment.snapshots).values()
    return [stored.get(snapshot, snapshot) for snapshot in kept]


def read_code(context: Context, snapshots: Iterable[Snapshot]) -> None:
    """Read the code of these snapshots from the state, if it was left out."""
    without = [snapshot for snapshot in snapshots if snapshot.is_model and _is_without_code(snapshot.model)]
    for snapshot, stored in _read(context, without).items():
        snapshot.node = stored.node


def _read(context: Context, snapshots: Sequence[Snapshot]) -> Mapping[Snapshot, Snapshot]:
    stored = context.state_reader.get_snapshots(snapshots) if snapshots else {}
    return {snapshot: stored[snapshot.snapshot_id] for snapshot in snapshots}


def _without_code(snapshot: Snapshot) -> Snapshot:
    node = snapshot.node
    if isinstance(node, SqlModel):
        code: dict[str, Any] = {"query_": _WITHOUT_CODE, **dict.fromkeys(_STATEMENTS)}
        node = node.copy(update={**_LEFT_OUT, **code})
    elif isinstance(node, PythonModel):
        node = node.copy(update=_LEFT_OUT)
    return snapshot.copy(update={"node": node, **_NOT_KEPT})


def _is_without_code(model: Model) -> bool:
    return not model.python_env if isinstance(model, PythonModel) else getattr(model, "query_", None) == _WITHOUT_CODE
