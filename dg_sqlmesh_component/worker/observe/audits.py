"""Audits: send each result as an event, in a run (`record_audits`) or of nodes that do not run (`audit_alone`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from typing import Any

from sqlglot import exp
from sqlmesh.core.audit import StandaloneAudit
from sqlmesh.core.dialect import Jinja, MacroFunc, find_tables
from sqlmesh.core.engine_adapter import EngineAdapter
from sqlmesh.core.macros import RuntimeStage
from sqlmesh.core.scheduler import Scheduler
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotEvaluator
from sqlmesh.utils.date import now_timestamp, to_timestamp
from sqlmesh.utils.errors import SQLMeshError

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import EvaluationError
from dg_sqlmesh_component.protocol.manifest import pair_audits
from dg_sqlmesh_component.worker.explain import describe_error
from dg_sqlmesh_component.worker.intervals.coverage import Coverages
from dg_sqlmesh_component.worker.intervals.tables import altered_at, shown_version
from dg_sqlmesh_component.worker.observe.samples import key_columns, sample_of
from dg_sqlmesh_component.worker.pipe import Pipe
from dg_sqlmesh_component.worker.sql_text import arguments_hash, is_blocking
from dg_sqlmesh_component.worker.sqlmesh_internals import replace_audits


def has_audits(snapshot: Snapshot) -> bool:
    return snapshot.is_audit or bool(snapshot.model.audits)


def audited(snapshot: Snapshot, index: DeployabilityIndex) -> msg.AuditedData:
    """The version of the node's table in the environment, and a hash of its audits."""
    return msg.AuditedData(
        version=shown_version(snapshot, index),
        audits=snapshot.model.audit_metadata_hash() if snapshot.is_model else snapshot.fingerprint.metadata_hash,
    )


# -- audits of nodes that run -----------------------------------------------------------------------


def record_audits(evaluator: SnapshotEvaluator, sampling: msg.Sampling | None, pipe: Pipe) -> None:
    """Send each audit's result as soon as it exists. If a later audit raises, the earlier results are not lost."""
    running = threading.local()
    results = _Results(evaluator, sampling, pipe)

    def number_audits(audit_all: Callable[..., Any]) -> Callable[..., Any]:
        def audit_numbered(snapshot: Snapshot, **kwargs: Any) -> list[Any]:
            running.positions = count()
            try:
                return audit_all(snapshot, **kwargs)
            finally:
                running.positions = None

        return audit_numbered

    def send_result(audit_one: Callable[..., Any]) -> Callable[..., Any]:
        def audit_and_send(**kwargs: Any) -> Any:
            positions = getattr(running, "positions", None)
            if positions is None:  # `audit_alone` evaluates it and sends the result itself
                return audit_one(**kwargs)
            position = next(positions)
            given = {**kwargs, "audit_args": {**kwargs["audit_args"]}}  # SQLMesh removes `blocking`
            try:
                result = audit_one(**kwargs)
            except Exception as cause:
                if not pipe.is_cut_off:  # else the error is that its query was cancelled
                    pipe.send(results.not_evaluated(given, position, cause))
                raise
            pipe.send(results.evaluated(kwargs, position, result))
            return result

        return audit_and_send

    replace_audits(evaluator, number_audits, send_result)


@dataclass(frozen=True)
class _Results:
    """Makes events of audits' results. `given` has the arguments of SQLMesh's method that evaluated the audit."""

    evaluator: SnapshotEvaluator
    sampling: msg.Sampling | None
    pipe: Pipe

    def evaluated(self, given: Mapping[str, Any], position: int, result: Any) -> msg.AuditEvaluated:
        snapshot, index = given["snapshot"], given["deployability_index"] or DeployabilityIndex.all_deployable()
        adapter = self.evaluator.get_adapter(snapshot.model_gateway)
        dialect = adapter.dialect
        is_shown = index.is_deployable(snapshot) == index.is_representative(snapshot)
        is_only_about_node = is_shown and not _reads_others(snapshot, result.query, index, dialect)
        return msg.AuditEvaluated(
            fqn=snapshot.name,
            name=result.audit.name,
            position=position,
            args_hash=arguments_hash(result.audit_args or {}),
            blocking=result.blocking,
            failing_rows=None if result.skipped else result.count or 0,
            query=result.query.sql(dialect=dialect, pretty=True) if result.query is not None else None,
            interval=(to_timestamp(given["start"]), to_timestamp(given["end"])),
            of_whole_table=snapshot.is_model and snapshot.model.time_column is None,
            audited_data=audited(snapshot, index) if is_only_about_node else None,
            sample=self._sample(adapter, result, snapshot) if result.count else None,
        )

    def not_evaluated(self, given: Mapping[str, Any], position: int, cause: Exception) -> msg.AuditEvaluated:
        """The event about an audit that raised an error."""
        snapshot, audit = given["snapshot"], given["audit"]
        return msg.AuditEvaluated(
            fqn=snapshot.name,
            name=audit.name,
            position=position,
            args_hash=arguments_hash(given["audit_args"]),
            blocking=is_blocking(audit, given["audit_args"]),
            failing_rows=None,
            query=None,
            interval=(to_timestamp(given["start"]), to_timestamp(given["end"])),
            error=describe_error(cause),
        )

    def _sample(self, adapter: EngineAdapter, result: Any, snapshot: Snapshot) -> msg.Sample | None:
        if self.sampling is None:
            return None
        try:
            keys = key_columns(snapshot.model) if snapshot.is_model else ()
            return sample_of(adapter, result.query, self.sampling, keys)
        except Exception as error:  # noqa: BLE001  # any driver's: the audit's result does not depend on its sample
            text = f"The failing rows of the audit {result.audit.name} could not be read: {describe_error(error)}"
            self.pipe.log("warning", text)
            return None


def _reads_others(snapshot: Snapshot, query: exp.Expr | None, index: DeployabilityIndex, dialect: str) -> bool:
    """Whether an audit of a model reads other tables too. Its result may change when they do."""
    if query is None or not snapshot.is_model:
        return False
    own = exp.to_table(snapshot.table_name(index.is_deployable(snapshot)), dialect=dialect)
    ctes = {cte.alias for cte in query.find_all(exp.CTE)}
    tables = {(table.db, table.name) for table in query.find_all(exp.Table) if table.db or table.name not in ctes}
    return not tables <= {(own.db, own.name)}


# -- audits of nodes that do not run ----------------------------------------------------------------


def audit_alone(
    request: msg.EvaluationRequest,
    scheduler: Scheduler,
    coverages_of: Callable[[Mapping[str, Snapshot]], Coverages],
    pipe: Pipe,
) -> None:
    """Evaluate the requested audits over all computed intervals, as `sqlmesh audit` does, and no other audits."""
    snapshots = scheduler.snapshots_by_name
    # A restatement in this process has removed the intervals of the standalone audits that it left out.
    scheduler.state_sync.refresh_snapshot_intervals([snapshots[fqn] for fqn in request.audit_only if fqn in snapshots])
    coverages = coverages_of(snapshots)
    results = _Results(scheduler.snapshot_evaluator, request.sampling, pipe)
    given = {"snapshots": snapshots, "execution_time": request.execution_time}
    for fqn, uses in request.audit_only.items():
        if fqn not in snapshots:
            continue  # a plan has removed it since the environment was opened
        snapshot, at = snapshots[fqn], now_timestamp()
        error = _audit(snapshot, uses, coverages, given, results)
        if coverage := coverages.of(fqn):
            pipe.send(coverage)
        missing = sorted(chain(*coverages.missing(fqn)))
        pipe.send(msg.NodeAudited(fqn, tuple(missing), error, at, altered_at(snapshot, coverages.index)))


def audit_up_to_date(
    wanted: Mapping[str, tuple[msg.AuditUse, ...]],
    request: msg.EvaluationRequest,
    scheduler: Scheduler,
    coverages_of: Callable[[Mapping[str, Snapshot]], Coverages],
    pipe: Pipe,
) -> None:
    """Evaluate audits of nodes that had nothing to do, for example because a plan has computed them."""
    if not wanted:
        return
    snapshots = scheduler.snapshots_by_name
    coverages, results = coverages_of(snapshots), _Results(scheduler.snapshot_evaluator, request.sampling, pipe)
    given = {"snapshots": snapshots, "execution_time": request.execution_time}
    for fqn, uses in wanted.items():
        _audit(snapshots[fqn], uses, coverages, given, results)


def _audit(
    snapshot: Snapshot,
    uses: tuple[msg.AuditUse, ...],
    coverages: Coverages,
    given: Mapping[str, Any],
    results: _Results,
) -> str | None:
    """Send the results of a node's requested audits over all of its computed intervals. Returns why there are none."""
    positions, intervals = _positions(snapshot, uses), coverages.node(snapshot.name).filled
    if not positions:
        return None
    if not intervals:
        return "Nothing has been computed yet, so there is nothing to audit."
    given = {**given, **_of_shown_table(snapshot, (intervals[0][0], intervals[-1][1]), coverages.index)}
    for position in positions:
        if results.pipe.is_cancelled:
            raise EvaluationError("The evaluation of audits was cancelled.")
        results.pipe.send(_evaluate_alone(snapshot, position, given, results))
    return None


def audit_earlier_rows(
    fqn: str,
    uses: tuple[msg.AuditUse, ...],
    interval: msg.Interval,
    request: msg.EvaluationRequest,
    scheduler: Scheduler,
    index: DeployabilityIndex,
    pipe: Pipe,
) -> None:
    """Send the results of a node's requested audits over an interval, until the run is cancelled. From any thread."""
    snapshots = scheduler.snapshots_by_name
    snapshot, results = snapshots[fqn], _Results(scheduler.snapshot_evaluator, request.sampling, pipe)
    given = {"snapshots": snapshots, "execution_time": request.execution_time}
    given |= _of_shown_table(snapshot, interval, index)
    for position in _positions(snapshot, uses):
        event = None if pipe.is_cancelled else _evaluate_alone(snapshot, position, given, results)
        if event is not None and not pipe.is_cut_off:
            pipe.send(event)


def _of_shown_table(snapshot: Snapshot, interval: msg.Interval, index: DeployabilityIndex) -> dict[str, Any]:
    """Arguments for an audit of the table that the environment shows. A run audits the one that it has computed."""
    shown = index.with_deployable(snapshot) if index.is_representative(snapshot) else index
    return {"start": interval[0], "end": interval[1], "deployability_index": shown}


def _positions(snapshot: Snapshot, uses: tuple[msg.AuditUse, ...]) -> list[int]:
    """The positions of the requested audits among the promoted audits of the node."""
    promoted = [
        msg.AuditUse(audit.name, arguments_hash(args), position)
        for position, (audit, args) in enumerate(snapshot.node.audits_with_args)
    ]
    return sorted(match.position for use, match in pair_audits(uses, promoted) if use.is_requested)


def _evaluate_alone(
    snapshot: Snapshot, position: int, given: Mapping[str, Any], results: _Results
) -> msg.AuditEvaluated:
    """One audit's result. An error is part of the result, so that the other audits are still evaluated."""
    audit, args = snapshot.node.audits_with_args[position]
    given = {**given, "snapshot": snapshot}
    try:
        result = evaluate_one(results.evaluator, snapshot, position, given)
    except Exception as cause:  # noqa: BLE001  # any driver's error
        return results.not_evaluated({**given, "audit": audit, "audit_args": args}, position, cause)
    return results.evaluated(given, position, result)


def evaluate_one(evaluator: SnapshotEvaluator, snapshot: Snapshot, position: int, given: Mapping[str, Any]) -> Any:
    """SQLMesh's result of one audit of a node, without an event.

    Args:
        given: The other arguments of SQLMesh's method, with all snapshots of the environment.

    Raises:
        Exception: The engine's driver may raise any.
    """
    read = with_read(snapshot, position, given)
    given = {**given, "snapshot": _with_one_audit(snapshot, position), "snapshots": read}
    # Not `evaluator.audit`: `record_audits` may have replaced it, and would number this audit as the node's first.
    (result,) = SnapshotEvaluator.audit(evaluator, **given)
    return result


def _with_one_audit(snapshot: Snapshot, position: int) -> Snapshot:
    """The same model with only one of its audits, because SQLMesh evaluates all audits of a model or none."""
    if not snapshot.is_model:
        return snapshot
    model = snapshot.model
    audit, args = model.audits_with_args[position]
    name = model.audits[position][0] if position < len(model.audits) else audit.name
    definitions = {key: value for key, value in model.audit_definitions.items() if key == name}
    model_with_one = model.copy(update={"audits": [(name, args)], "audit_definitions": definitions})
    return snapshot.copy(update={"node": model_with_one})


# -- the snapshots that an audit reads ---------------------------------------------------------------


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
