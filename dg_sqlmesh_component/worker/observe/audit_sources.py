"""The snapshots that one audit reads. SQLMesh names the tables of all that it is given, each time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Any

from sqlmesh.core.audit import StandaloneAudit
from sqlmesh.core.dialect import Jinja, MacroFunc, find_tables
from sqlmesh.core.macros import RuntimeStage
from sqlmesh.core.snapshot import Snapshot
from sqlmesh.utils.errors import SQLMeshError


def with_read(snapshot: Snapshot, position: int, given: Mapping[str, Any]) -> Mapping[str, Snapshot]:
    """The node, its parents, and the models that one of its audits reads; all snapshots if these are not certain.

    Args:
        position: That of the audit among the node's audits.
        given: The other arguments of `SnapshotEvaluator.audit`, with all snapshots by name.
    """
    snapshots: Mapping[str, Snapshot] = given["snapshots"]
    audited = _tables(snapshot, position, given)
    if audited is None or not audited <= snapshots.keys():  # a name may be another model's in another dialect
        return snapshots
    nodes = [snapshot, *(snapshots[name] for name in audited)]
    # The parents of an embedded model are what its query reads, in the place of its table.
    parents = {parent.name for node in nodes for parent in node.parents}
    return {name: snapshots[name] for name in chain((node.name for node in nodes), parents) if name in snapshots}


def _tables(snapshot: Snapshot, position: int, given: Mapping[str, Any]) -> set[str] | None:
    """The names of the tables in an audit's query; `None` if code of the project may look at any table."""
    node = snapshot.node
    audit, args = node.audits_with_args[position]
    texts = [audit.query, *audit.macro_definitions, *audit.defaults.values(), *args.values()]
    macros = {macro.name.lower() for text in texts for macro in text.find_all(MacroFunc)}
    if isinstance(audit.query, Jinja) or not macros.isdisjoint(node.python_env):
        return None
    values = {name: value for name, value in args.items() if name != "blocking"}
    values.update({name: given[name] for name in ("start", "end", "execution_time") if name in given})
    is_alone = isinstance(node, StandaloneAudit)
    render = node.render_audit_query if is_alone else partial(node.render_audit_query, audit)
    try:
        query = render(runtime_stage=RuntimeStage.AUDITING, **values)
    except SQLMeshError:  # a macro of SQLMesh asks for the columns of another model
        return None
    return find_tables(query, node.default_catalog, audit.dialect or node.dialect)
