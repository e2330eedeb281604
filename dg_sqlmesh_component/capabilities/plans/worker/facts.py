"""The facts of a SQLMesh plan that a person or a rule decides by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from sqlmesh.core.context import Context
from sqlmesh.core.context_diff import ContextDiff
from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import Plan, SnapshotIntervals
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot
from sqlmesh.core.snapshot.definition import Interval, SnapshotDataVersion

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.worker.column_changes import column_changes
from dg_sqlmesh_component.capabilities.plans.worker.column_reads import column_reads
from dg_sqlmesh_component.capabilities.plans.worker.context import PlanContext
from dg_sqlmesh_component.capabilities.plans.worker.dependents import dependents, environments_of, taken_names
from dg_sqlmesh_component.capabilities.plans.worker.gained_rows import GainedRows, forgotten_in
from dg_sqlmesh_component.capabilities.plans.worker.lost_rows import (
    NO_LOSSES,
    ChangedModel,
    Losses,
    appended_again,
    lost_rows,
)
from dg_sqlmesh_component.capabilities.plans.worker.migrations import Alterations, alterations
from dg_sqlmesh_component.capabilities.plans.worker.plan_parts import plan_parts
from dg_sqlmesh_component.capabilities.plans.worker.shown_rows import changed_models, is_replaced, keeps_rows, next_due
from dg_sqlmesh_component.capabilities.plans.worker.way_back import obstacles
from dg_sqlmesh_component.protocol.graph import parents_first, reachable
from dg_sqlmesh_component.protocol.intervals import subtract
from dg_sqlmesh_component.worker.commands import sqlmesh_command
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.environment import has_one_table, has_table, is_table_of_its_name
from dg_sqlmesh_component.worker.intervals.availability import HeldBackBy
from dg_sqlmesh_component.worker.intervals.gained import LackingRows
from dg_sqlmesh_component.worker.intervals.held_back import held_back_from
from dg_sqlmesh_component.worker.intervals.tables import is_incremental, missing_now, single_intervals, upstream
from dg_sqlmesh_component.worker.observe.audits import audited
from dg_sqlmesh_component.worker.state_lock import is_file_locked, is_lockable


def plan_built(plan: Plan, context: PlanContext, gained: GainedRows | None = None) -> msg.PlanBuilt:
    """The facts of a plan. `gained` is what the tables had before it; None for a preview."""
    diff = plan.context_diff
    missing = plan.missing_intervals
    lacking = gained.of_plan(plan, missing) if gained is not None else LackingRows()
    stored = None if diff.is_new_environment else context.state_reader.get_environment(diff.environment)
    unfinished = diff.previous_plan_id if stored is not None and stored.finalized_ts is None else None
    # An unfinished plan has not stored its statements and required packages.
    has_others = unfinished is None and (diff.has_requirement_changes or diff.has_environment_statements_changes)
    shown = {info.snapshot_id for info in stored.snapshots} if stored is not None else None
    is_shown = shown == set(diff.snapshots) and not has_others
    changes = _since_finished(diff, context) if is_shown and unfinished else diff
    options = [word for selection in context.request.select for word in ("--select-model", selection)]
    with forgotten_in(plan, lacking):
        missing = plan.missing_intervals if lacking.again else missing
        models = tuple(_Models(plan, changes, stored, context, missing, lacking))
    views = (view for model in models for view in model.table.dependents or ())
    return msg.PlanBuilt(
        environment=diff.environment,
        plan_id=plan.plan_id,
        previous_plan_id=diff.previous_plan_id,
        parts=plan_parts(plan, context.request.select),
        models=models,
        uncategorized=tuple(snapshot.name for snapshot in plan.uncategorized),
        statements=_other_differences(plan),
        unfinished_plan_id=unfinished,
        way_back_obstacles=obstacles(stored, context) if stored is not None and unfinished and not plan.is_dev else (),
        resumes=is_shown,
        plan_command=sqlmesh_command(context.request.project, "plan", diff.environment, *options),
        unit_tests=context.tracker.unit_tests,
        reads=_reads(changes),
        select=context.request.select,
        left_out=context.left_out,
        runs_go_on=is_lockable(context) and not is_file_locked(context),
        views_of_environments=environments_of(views, context),
    )


def _since_finished(diff: ContextDiff, context: Context) -> ContextDiff:
    """What has changed since a plan has finished last.

    The environment shows the versions of an unfinished plan already, so SQLMesh itself finds no difference.
    """
    return ContextDiff.create(
        diff.environment,
        snapshots=diff.snapshots_by_name,
        create_from=diff.environment,
        state_reader=context.state_reader,
        ensure_finalized_snapshots=True,
    )


class _Models:
    """The models that a plan changes or computes.

    Args:
        diff: The changes since a plan has finished last.
        stored: The environment as it is now; None if the plan creates it.
        missing: The `missing_intervals` of the plan.
        lacking_rows: The models that lack rows because of the plan.
    """

    def __init__(
        self,
        plan: Plan,
        diff: ContextDiff,
        stored: Environment | None,
        context: PlanContext,
        missing: Sequence[SnapshotIntervals],
        lacking_rows: LackingRows,
    ) -> None:
        self._diff = diff
        self._lacking = lacking_rows
        self._context = context
        self._is_dev = plan.is_dev
        self._promoted_at = stored.finalized_ts if stored is not None else None
        self._index = plan.deployability_index
        # From this index, SQLMesh decides what it computes after the promotion. For prod, `self._index` is another one.
        # It is None in a preview, where nothing is computed then, and if the state's file is the lock: no run goes on.
        self._before_promotion = (
            None
            if plan.is_dev or is_file_locked(context)
            else DeployabilityIndex.create(plan.context_diff.snapshots, start=plan.start)
        )
        self._naming = plan.environment_naming_info
        self._projects = {config.project for config in context.configs.values()}
        self._missing = {of_model.snapshot_id: of_model.intervals for of_model in missing}
        lacking = {plan.context_diff.snapshots[s_id]: intervals for s_id, intervals in self._missing.items()}
        nodes, tables = plan.context_diff.snapshots_by_name, context.known.tables
        pending = {} if plan.is_dev else self._pending  # as `BesideRuns` holds back
        self._left = held_back_from(lacking, nodes, self._index, tables, pending, in_report=True)
        """By model with held-back intervals, those that the plan computes anyway, and what lacks the others."""
        self._altered = alterations(plan, diff, context)
        altered = [name for name, of_table in self._altered.items() if of_table.drops]
        self._dependents = dependents(plan, stored, altered, context)
        # A preview is made again at each commit, as if it was new. It has the views of the commit before.
        self._taken = taken_names(plan, context.state_reader.get_environment(diff.environment), context)

    def __iter__(self) -> Iterator[msg.PlannedModel]:
        """Parents before children, removed models last."""
        diff = self._diff
        nodes = diff.snapshots_by_name
        parents = upstream(nodes)
        kept: dict[str, str] = {}
        for name in parents_first(nodes, parents.__getitem__):
            snapshot = nodes[name]
            is_in_plan = change_of(diff, snapshot) or snapshot.snapshot_id in self._missing or name in self._altered
            is_in_plan = is_in_plan or name in self._lacking.left
            if not is_in_plan and not self._dependents.get(name) and name not in self._taken:
                continue
            model = self._left_behind(snapshot) or self._model(snapshot)
            if model.rows.kept is None:
                read = reachable(parents[name], parents.__getitem__) if kept else ()
                reads_kept = tuple(shown for fqn, shown in kept.items() if fqn in read)
                model = replace(model, rows=replace(model.rows, reads_kept=reads_kept))
            elif model.rows.kept.are_all_computed:
                kept[name] = model.name
            yield model
        removed = self._context.state_reader.get_snapshots(diff.removed_snapshots.values()).values()
        for snapshot in sorted(removed, key=lambda snapshot: snapshot.name):
            yield msg.PlannedModel(
                snapshot.name,
                display_name(snapshot.node, self._context),
                "removed",
                owner=snapshot.node.owner,
                table=msg.PlannedTable(
                    exists=has_table(snapshot),
                    was_shared=has_one_table(snapshot, is_dev=self._is_dev),
                    dependents=self._dependents.get(snapshot.name),
                ),
            )

    def _left_behind(self, snapshot: Snapshot) -> msg.PlannedModel | None:
        """The removed model, if a model has lost its table. SQLMesh neither replaces nor removes what shows it."""
        _, old = self._diff.modified_snapshots.get(snapshot.name, (None, None))
        if old is None or not has_table(old) or not snapshot.is_symbolic:
            return None
        losses = self._losses.get(snapshot.name, NO_LOSSES)
        is_read = any(snapshot.name in of_reader.causes for of_reader in self._losses.values())
        return msg.PlannedModel(
            snapshot.name,
            display_name(snapshot.node, self._context),
            "removed",
            # Its view stays, so only models that read it lose its rows.
            rows=msg.PlannedRows(loses=losses.own if is_read else msg.LostRows()),
            becomes=snapshot.model_kind_name.value,
            diff=_without_header(self._diff.text_diff(snapshot.name)),
            owner=snapshot.node.owner,
            table=msg.PlannedTable(was_shared=has_one_table(old, is_dev=self._is_dev)),
        )

    def _model(self, snapshot: Snapshot) -> msg.PlannedModel:
        diff, change, category = self._diff, change_of(self._diff, snapshot), snapshot.change_category
        _, old = diff.modified_snapshots.get(snapshot.name, (None, None))
        taken_back = old if old is not None and _takes_back(snapshot, old, self._context) else None
        columns, is_reordered = _columns(snapshot, old, change) if old is not None else ((), False)
        project = snapshot.node.project
        return msg.PlannedModel(
            fqn=snapshot.name,
            name=display_name(snapshot.node, self._context),
            change=change,
            category=category.name.lower() if change and category is not None else None,
            rows=self._rows(snapshot, old, taken_back),
            table=self._table(snapshot, old),
            is_forward_only=bool(change and snapshot.is_forward_only),
            columns=columns,
            is_reordered=is_reordered,
            diff=_without_header(diff.text_diff(snapshot.name)) if change in ("changed", "metadata") else "",
            takes_back=taken_back is not None,
            owner=snapshot.node.owner,
            other_project=project if project not in self._projects else None,
        )

    def _rows(self, snapshot: Snapshot, old: Snapshot | None, taken_back: Snapshot | None) -> msg.PlannedRows:
        all_missing = self._missing.get(snapshot.snapshot_id, [])
        missing, held_back_by = self._left.get(snapshot.name, (all_missing, HeldBackBy()))
        losses, tables = self._losses.get(snapshot.name, NO_LOSSES), held_back_by.tables
        if losses.own.not_loaded and not tables:
            _, tables = self._not_loaded[snapshot.name]
        nodes = self._diff.snapshots_by_name
        because_of = self._lacking.because_of.get(snapshot.name, ())
        return msg.PlannedRows(
            intervals=len(missing) if is_incremental(snapshot) else min(len(missing), 1),
            milliseconds=sum(end - start for start, end in missing),
            follows_promotion=self._follows_promotion(snapshot) and bool(missing),
            waiting=len(all_missing) - len(missing) if is_incremental(snapshot) else int(missing != all_missing),
            waits_for=tables,
            waits_for_models=tuple(display_name(nodes[fqn].node, self._context) for fqn in held_back_by.models),
            loses=losses.own,
            reads_lost=losses.read,
            loses_at=losses.at,
            loses_with=tuple(display_name(nodes[fqn].node, self._context) for fqn in losses.causes),
            outdated=self._lacking.again.get(snapshot.name, ()),
            outdated_for_good=self._lacking.left.get(snapshot.name, ()),
            because_of=tuple(display_name(nodes[fqn].node, self._context) for fqn in because_of),
            shows_again=self._shows_again(snapshot, taken_back, missing),
            # Other environments show a preview of a forward-only change, in a table of its own.
            kept=None if self._is_dev else _kept_rows(snapshot, self._rows_before(snapshot, old), missing),
            appended_again=appended_again(self._changed[snapshot.name], missing)
            if snapshot.name in self._changed
            else (),
            audited=audited(snapshot, self._index) if has_table(snapshot) else None,
        )

    def _table(self, snapshot: Snapshot, old: Snapshot | None) -> msg.PlannedTable:
        altered, is_dev = self._altered.get(snapshot.name, Alterations()), self._is_dev
        was_table = old is not None and is_table_of_its_name(old, is_dev=is_dev)
        return msg.PlannedTable(
            exists=has_table(snapshot),
            view=self._view(snapshot),
            is_shared=has_one_table(snapshot, is_dev=is_dev),
            was_shared=old is not None and has_one_table(old, is_dev=is_dev),
            destructive=altered.drops,
            may_destroy=snapshot.is_model and not snapshot.model.on_destructive_change.is_error,
            refused_columns=altered.refused,
            dependents=self._dependents.get(snapshot.name),
            is_dropped=was_table and not is_table_of_its_name(snapshot, is_dev=is_dev),
            is_name_taken=snapshot.name in self._taken,
        )

    def _rows_before(self, snapshot: Snapshot, old: Snapshot | None) -> Sequence[Interval]:
        """The intervals whose rows of another version the plan keeps, as far as it does not compute them."""
        if old is not None:
            return old.intervals if keeps_rows(snapshot, old) else ()
        is_new = snapshot.snapshot_id in self._diff.new_snapshots
        return snapshot.intervals if is_new else ()  # of a removed model that is added again with another definition

    @cached_property
    def _pending(self) -> Mapping[str, Sequence[Interval]]:
        """What a run would compute right after the plan, by name, also what the plan itself computes."""
        return missing_now(self._diff.snapshots_by_name)

    @cached_property
    def _not_loaded(self) -> Mapping[str, tuple[Sequence[Interval], tuple[str, ...]]]:
        """What a run would leave out of these, because tables are not loaded, by name, and these tables."""
        nodes = self._diff.snapshots_by_name
        pending = {nodes[name]: single_intervals(nodes[name], of) for name, of in self._pending.items()}
        left = held_back_from(pending, nodes, self._index, self._context.known.tables, in_report=True)
        return {name: (subtract(self._pending[name], of), by.tables) for name, (of, by) in left.items() if by.tables}

    @cached_property
    def _changed(self) -> Mapping[str, ChangedModel]:
        """What the plan does to models, by name, as far as the environment shows tables of prod."""
        diff, nodes = self._diff, self._diff.snapshots_by_name
        versions = {name: (new, old) for name, (new, old) in diff.modified_snapshots.items()}
        versions |= {s_id.name: (nodes[s_id.name], None) for s_id in diff.added}
        versions = {name: pair for name, pair in versions.items() if self._index.is_representative(pair[0])}
        missing, waiting = {}, {}
        for name, (snapshot, _) in versions.items():
            of_all = self._missing.get(snapshot.snapshot_id, [])
            missing[name], held_back_by = self._left.get(name, (of_all, HeldBackBy()))
            waiting[name] = subtract(of_all, missing[name]) if held_back_by.tables else ()
        return changed_models(
            versions,
            upstream(nodes),
            missing,
            waiting,
            lambda name: self._pending.get(name, ()),
            lambda name: self._not_loaded.get(name, ((), ()))[0],
        )

    @cached_property
    def _losses(self) -> Mapping[str, Losses]:
        """What the changed models lose, by name."""
        return lost_rows(self._changed)

    def _shows_again(
        self, snapshot: Snapshot, taken_back: Snapshot | None, missing: Sequence[msg.Interval]
    ) -> int | None:
        """When the rows of an earlier version were computed last, if the plan leaves some of them."""
        is_computed = bool(missing) and is_replaced(snapshot)
        computed_at = snapshot.last_altered_ts
        if not snapshot.is_materialized or snapshot.is_seed or not snapshot.intervals or is_computed or not computed_at:
            return None
        if taken_back is not None:
            return computed_at if snapshot.version != taken_back.version else None
        # A removed model was computed before the plan that removed it. Rows of a failed attempt are newer than prod.
        is_older = self._promoted_at is not None and computed_at < self._promoted_at
        return computed_at if is_older and not self._is_dev and snapshot.snapshot_id in self._diff.added else None

    def _follows_promotion(self, snapshot: Snapshot) -> bool:
        if self._before_promotion is None or snapshot.is_seed:
            return False
        return not self._before_promotion.is_representative(snapshot)

    def _view(self, snapshot: Snapshot) -> str:
        if not has_table(snapshot):
            return ""
        dialect = snapshot.model.dialect
        return snapshot.qualified_view_name.for_environment(self._naming, dialect=dialect)


def _reads(diff: ContextDiff) -> dict[str, msg.ColumnReads | None]:
    """What each model downstream of a changed or removed one reads."""
    nodes = diff.snapshots_by_name
    parents = upstream(nodes)
    affected = {name for name, node in nodes.items() if change_of(diff, node) in ("added", "changed")}
    reads = {}
    for name in parents_first(nodes, parents.__getitem__):
        if not affected.isdisjoint(parents[name]):
            affected.add(name)
            if nodes[name].is_model:
                reads[name] = column_reads(nodes[name].model)
    return reads


def change_of(diff: ContextDiff, snapshot: Snapshot) -> msg.Change | None:
    if snapshot.snapshot_id in diff.added:
        return "added"
    if diff.directly_modified(snapshot.name):
        return "changed"
    if diff.indirectly_modified(snapshot.name):
        return "indirect"
    return "metadata" if diff.metadata_updated(snapshot.name) else None


def _kept_rows(snapshot: Snapshot, before: Sequence[Interval], missing: Sequence[msg.Interval]) -> msg.KeptRows | None:
    """The rows of another definition in a table that the plan keeps; None if it computes them all, or need not.

    Args:
        before: As in `_rows_before`.
    """
    is_unaffected = snapshot.is_indirect_non_breaking or snapshot.is_metadata
    kept = () if (is_replaced(snapshot) and missing) or snapshot.is_seed else subtract(before, missing)
    if is_unaffected or not snapshot.is_materialized or not kept:
        return None
    return msg.KeptRows(snapshot.node.cron, next_due(snapshot, before), is_replaced(snapshot))


def _without_header(diff: str) -> str:
    """A unified diff from its first difference on. The lines before it would name files."""
    return diff[max(diff.find("@@"), 0) :]


def _columns(
    new: Snapshot, old: Snapshot, change: msg.Change | None
) -> tuple[tuple[msg.ColumnChange, ...] | None, bool]:
    """What consumers of the model's view see, and whether the columns have another order.

    Returns:
        None if the names are not known before the model is computed, as of `SELECT *` from a table that SQLMesh does
        not know.
    """
    if not new.is_model or change == "metadata":  # an audit has no columns
        return (), False
    before, after = old.model.columns_to_types, new.model.columns_to_types
    if not before or not after:
        return None, False
    keeps_table = new.version == old.version
    # A view of a table that keeps dropped columns shows them.
    keeps_dropped = keeps_table and new.model.on_destructive_change.is_ignore
    changes = column_changes(before, after, new.model.dialect)
    is_reordered = [name for name in before if name in after] != [name for name in after if name in before]
    return (
        tuple(column for column in changes if column.after is not None or not keeps_dropped),
        is_reordered and not (keeps_table and not new.is_view),  # an existing table is only altered
    )


def _takes_back(new: Snapshot, old: Snapshot, context: Context) -> bool:
    """Whether the files have an older definition of the node, or older audits, so that the promoted ones would be lost.

    The metadata of a model also contains the columns that it reads. So its own text is compared too: a model upstream
    that changes and gets its old columns again takes nothing back.
    """
    if _hashes(new) == _hashes(old):
        return False
    if _audits(new) != _audits(old):
        earlier = context.state_reader.get_snapshots([v.snapshot_id(old.name) for v in old.previous_versions])
        if _audits(new) in map(_audits, earlier.values()):
            return True
    is_older = _hashes(new) in map(_hashes, old.previous_versions)
    return is_older and new.node.render_definition(render_query=False) != old.node.render_definition(render_query=False)


def _audits(snapshot: Snapshot) -> str | None:
    return snapshot.model.audit_metadata_hash() if snapshot.is_model else None


def _hashes(version: Snapshot | SnapshotDataVersion) -> tuple[str, str]:
    """The hashes of a node's own definition, without those of the nodes that it reads."""
    return version.fingerprint.data_hash, version.fingerprint.metadata_hash


def _other_differences(plan: Plan) -> str:
    diff = plan.context_diff
    parts = [text.strip("\n") for _, text in diff.environment_statements_diff(include_python_env=True)]
    if diff.has_requirement_changes:
        parts.append(f"requirements:\n{diff.requirements_diff()}")
    return "\n\n".join(parts)
