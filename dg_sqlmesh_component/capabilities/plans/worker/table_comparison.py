"""Compare the tables of a preview with those of prod.

Only counts, sums and extremes leave the warehouse, and examples of rows if somebody asks for them.

Rows are matched by the model's grain, in one full join. SQLMesh's own `table_diff` is slower, needs a grain in every
model, and counts each pair of rows that share a key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from typing import Any

from sqlglot import exp
from sqlmesh.core.context import Context
from sqlmesh.core.engine_adapter import EngineAdapter
from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import Snapshot

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.worker.column_changes import column_changes
from dg_sqlmesh_component.capabilities.plans.worker.column_reads import clock_columns
from dg_sqlmesh_component.capabilities.plans.worker.table_comparison_queries import (
    IN_PROD,
    INTEGERS,
    UNTRIED,
    CountQueries,
    Table,
)
from dg_sqlmesh_component.protocol.graph import parents_first, reachable
from dg_sqlmesh_component.protocol.intervals import common, subtract
from dg_sqlmesh_component.worker.context import display_name
from dg_sqlmesh_component.worker.environment import has_table
from dg_sqlmesh_component.worker.intervals.tables import filled_intervals, is_incremental, knows_filled, upstream
from dg_sqlmesh_component.worker.observe.samples import is_masked, key_columns, matches, sample_of
from dg_sqlmesh_component.worker.own_bugs import own_bug
from dg_sqlmesh_component.worker.sqlmesh_internals import computed_ranges


def compare_environments(
    plan: Plan, prod: Environment, context: Context, limits: msg.DiffLimits
) -> Iterator[msg.ModelCompared]:
    """Compare each model for which the planned environment shows another table than prod, or that only one of them has.

    If the engine refuses a comparison, its result has the error.
    """
    nodes, index = plan.context_diff.snapshots_by_name, plan.deployability_index
    context.state_sync.refresh_snapshot_intervals(nodes.values())
    parents = upstream(nodes)
    previews = {name: nodes[name] for name in parents_first(nodes, parents.__getitem__) if has_table(nodes[name])}
    shown = {info.name: info for info in prod.snapshots if has_table(info)}
    same = {
        name
        for name in previews.keys() & shown.keys()
        if previews[name].table_name(index.is_representative(previews[name])) == shown[name].table_name()
    }
    differing = [name for name in dict.fromkeys([*previews, *shown]) if name not in same]
    loaded = context.state_reader.get_snapshots([shown[name] for name in differing if name in shown])
    promoted = {snapshot.name: snapshot for snapshot in loaded.values()}
    ranges = computed_ranges(context)
    parts: set[str] = set()
    clock: dict[str, frozenset[str]] = {}
    changed: set[str] = set()
    for name in differing:
        old, new = promoted.get(name), previews.get(name)
        either = new or promoted[name]
        adapter = context.engine_adapters[either.model_gateway or context.selected_gateway]
        display = display_name(either.node, context)
        is_own_table = new is not None and index.is_representative(new)
        model = ComparedModel(display, old, new, is_own_table=is_own_table, clock=clock, changed=changed)
        if new is not None:
            read = reachable(parents[name], parents.__getitem__) if parts else set()
            model.reads_partial = tuple(display_name(previews[part].node, context) for part in sorted(parts & read))
            model.computed = filled_intervals(new, index, ranges)
            model.is_known = knows_filled(new, index, ranges)
        compared = model.compare(Warehouse(adapter), limits)
        # What reads it has read a part too, so its differences are not those of the change alone.
        if not model.is_own_table and (compared.ranges or compared.is_partial or compared.only_its_time):
            parts.add(name)
        if not compared.clock and (compared.added, compared.removed, compared.changed or 0) != (0, 0, 0):
            changed.add(name)
        yield compared


@dataclass
class ComparedModel:
    """A model in prod and in the preview; None in an environment that does not have it."""

    name: str
    old: Snapshot | None
    new: Snapshot | None
    is_own_table: bool  # whether the preview shows the table that prod will show
    reads_partial: tuple[str, ...] = ()  # as in `ModelCompared`
    computed: Sequence[msg.Interval] = ()  # what SQLMesh has computed into the preview's table
    is_known: bool = True  # whether this is exact
    # By fqn, the `clock_columns` of models whose rows differ. `compare` adds this one: parents come first.
    clock: dict[str, frozenset[str]] = field(default_factory=dict)
    changed: Collection[str] = ()  # the models upstream whose rows differ by more than that, by fqn

    def compare(self, queries: Warehouse, limits: msg.DiffLimits) -> msg.ModelCompared:
        """Compare both tables, or count the rows of the only one."""
        old, new = self.old, self.new
        either = new or old
        assert either is not None, "one of both has the model"
        compared = msg.ModelCompared(
            either.name,
            self.name,
            reads_partial=self.reads_partial,
            is_recomputed=new is not None and not self.is_own_table and (old is None or new.version != old.version),
        )
        try:
            before = _table(queries, old, is_deployable=True)
            after = _table(queries, new, is_deployable=self.is_own_table)
            if old is None or new is None or before is None or after is None:
                return _of_one_side(compared, queries, before, after)
            compared, conditions = _conditions(
                compared, (old, before), (new, after), self.computed, is_known=self.is_known
            )
            if conditions is None:  # nothing of it was computed
                return compared
            before, after = (replace(side, condition=only) for side, only in zip((before, after), conditions))
            keys = key_columns(new.model)
            # A time that rows are matched or computed by is no time of the load.
            of_key = {key.casefold() for key in keys}
            both = [name for name in before.columns if name in after.columns]
            ignored = [name for name in both if matches(name, limits.ignore) and name.casefold() not in of_key]
            of_both = CountQueries(queries.dialect, before, after, ignored, limits.decimals)
            compared = replace(compared, ignored=tuple(ignored))
            return _Comparison(queries, of_both, limits, partial(self._clock, old, new)).of(compared, keys)
        except Exception as error:  # any driver's; the step fails with it after all others are compared
            if own_bug(error):
                raise
            return replace(compared, error=type(error).__name__, query=queries.last)

    def _clock(self, old: Snapshot, new: Snapshot) -> frozenset[str]:
        self.clock[new.name] = clock_columns(new.model, old.model, self.clock, self.changed)
        return self.clock[new.name]


def _table(queries: Warehouse, snapshot: Snapshot | None, *, is_deployable: bool) -> Table | None:
    if snapshot is None:
        return None
    name = snapshot.table_name(is_deployable)
    return Table(name, queries.columns(name))


class Warehouse:
    """Queries of one row of counts. It keeps the last one, for an error."""

    def __init__(self, adapter: EngineAdapter) -> None:
        self._adapter = adapter
        self.dialect = adapter.dialect
        self.last: str | None = None

    def columns(self, table: str) -> Mapping[str, exp.DataType]:
        """The columns, without the display widths of integers in MariaDB: `int(2)` and `int(11)` are one type."""
        columns = {name: type_.copy() for name, type_ in self._adapter.columns(table).items()}
        for type_ in columns.values():
            if type_.this in INTEGERS:
                type_.set("expressions", None)
        return columns

    def integers(self, query: exp.Select) -> list[int]:
        return [int(value or 0) for value in self.values(query)]

    def sample(self, query: exp.Select, sampling: msg.Sampling) -> msg.Sample | None:
        """Some rows of a query."""
        self.last = query.sql(self.dialect, identify=True)
        return sample_of(self._adapter, query, sampling)

    def values(self, query: exp.Select) -> Sequence[Any]:
        """The only row of a query."""
        # First: an error is reported with this query.
        self.last = query.sql(self.dialect, identify=True)
        return self._adapter.fetchone(query, quote_identifiers=True) or ()


def _of_one_side(
    compared: msg.ModelCompared, queries: Warehouse, before: Table | None, after: Table | None
) -> msg.ModelCompared:
    table = after or before
    assert table is not None, "one side has the model"
    rows = queries.integers(exp.select(exp.Count(this=exp.Star())).from_(exp.to_table(table.name)))[0]
    if after is not None:
        return replace(compared, rows=rows, added=rows, removed=0, changed=0)
    return replace(compared, rows_prod=rows, added=0, removed=rows, changed=0)


_Conditions = tuple[exp.Expression | None, exp.Expression | None]


def _conditions(
    compared: msg.ModelCompared,
    prod: tuple[Snapshot, Table],
    preview: tuple[Snapshot, Table],
    computed: Sequence[msg.Interval],
    *,
    is_known: bool,
) -> tuple[msg.ModelCompared, _Conditions | None]:
    """The result with what will be compared, and the filters of both tables; None if there is nothing to compare.

    Args:
        computed: What the preview's table has.
        is_known: Whether this is exact.
    """
    old, (new, after) = prod[0], preview
    if not is_incremental(new) or not is_incremental(old):
        return compared, (None, None)
    if is_known and not subtract(computed, old.intervals) and not subtract(old.intervals, computed):
        return compared, (None, None)
    if new.model.time_column is None or old.model.time_column is None:
        return replace(compared, is_partial=True), (None, None)
    columns = [exp.column(s.model.time_column.column.name, quoted=True) for s in (old, new) if s.model.time_column]
    if not is_known:
        first, last = (
            exp.select(bound(this=columns[1])).from_(exp.to_table(after.name)).subquery()
            for bound in (exp.Min, exp.Max)
        )
        conditions = [
            exp.or_(exp.and_(column >= first.copy(), column <= last.copy()), first.copy().is_(exp.null()))
            for column in columns  # an empty preview may lack all rows of prod
        ]
        return replace(compared, only_its_time=True), (conditions[0], conditions[1])
    ranges = common(computed, old.intervals)
    if not ranges:
        return replace(compared, is_partial=True), None
    filters = [
        exp.or_(
            *(
                exp.and_(
                    column >= snapshot.model.convert_to_time_column(start, dict(table.columns)),
                    column < snapshot.model.convert_to_time_column(end, dict(table.columns)),
                )
                for start, end in ranges
            )
        )
        for column, (snapshot, table) in zip(columns, (prod, preview))
    ]
    return replace(compared, ranges=ranges), (filters[0], filters[1])


def _amount(value: Any) -> msg.Amount | None:
    """The number. JSON has none that is not finite, so that is a text: `inf`, `-inf` or `nan`."""
    if value is None:
        return None
    number = float(value)
    return number if isfinite(number) else str(number)


@dataclass(frozen=True)
class _Comparison:
    """Compares two tables by the queries for them."""

    warehouse: Warehouse
    queries: CountQueries
    limits: msg.DiffLimits
    clock: Callable[[], frozenset[str]]  # it renders the model, so only models whose rows differ are asked

    def of(self, compared: msg.ModelCompared, keys: tuple[str, ...]) -> msg.ModelCompared:
        """The result, with these ranges."""
        queries = self.queries
        (rows_prod, prod), (rows, preview) = (self._amounts(side) for side in queries.sides)
        compared = replace(
            compared,
            rows=rows,
            rows_prod=rows_prod,
            schema=column_changes(queries.before.columns, queries.after.columns, queries.dialect),
            amounts={name: (preview[name], prod[name]) for name in queries.common},
        )
        largest = max(rows, rows_prod)
        sample = self.limits.max_rows / largest if largest > self.limits.max_rows else None
        by_small_name = {name.casefold(): name for name in queries.common}  # SQLMesh keeps a grain as it is written
        problem = self._key_problem(tuple(by_small_name.get(key.casefold()) for key in keys), sample)
        keys = tuple(by_small_name.get(key.casefold(), key) for key in keys)
        if problem is None:
            return self._matched(replace(compared, keys=keys, sample=sample), keys)
        compared = replace(compared, key_problem=problem, keys=keys)
        if sample is not None or problem in ("no_columns", "engine"):
            return compared
        added, removed = self.warehouse.integers(queries.surplus())
        compared = replace(compared, added=added, removed=removed)
        clock = self.clock() & queries.common.keys() if added or removed else frozenset()
        # If all columns are those of the clock, no column is left that may be equal.
        if not clock or len(clock) == len(queries.common) or any(self.warehouse.integers(queries.surplus(clock))):
            return compared
        return replace(compared, clock=tuple(sorted(clock)))

    def _amounts(self, side: Table) -> tuple[int, dict[str, msg.Amounts]]:
        """The rows of a table, and the amounts of each column of both."""
        rows, *values = self.warehouse.values(self.queries.values(side))
        names, numbers = list(self.queries.common), self.queries.amounts
        filled, aggregates = values[: len(names)], list(map(_amount, values[len(names) :]))
        of_number = {
            name: aggregates[3 * i : 3 * i + 3]
            for i, name in enumerate(numbers)
            # The smallest and the largest value are values of rows.
            if not is_masked(name, self.limits.mask)
        }
        return int(rows), {
            name: msg.Amounts(int(rows) - int(number), *of_number.get(name, ())) for name, number in zip(names, filled)
        }

    def _key_problem(self, keys: Sequence[str | None], sample: float | None) -> msg.KeyProblem | None:
        """Why rows cannot be matched by these columns. Rows that share a key would be counted in pairs.

        None among the `keys` is a column that not both tables have.
        """
        if not self.queries.common:
            return "no_columns"
        if self.queries.dialect in UNTRIED:
            return "engine"
        if not keys:
            return "no_grain"
        usable = [key for key in keys if key is not None]
        if len(usable) < len(keys):
            return "other_columns"
        for side in self.queries.sides:
            duplicates, nulls = self.warehouse.integers(self.queries.unusable_keys(side, usable, sample))
            if nulls:
                return "null_keys"
            if duplicates:
                return "duplicate_keys"
        return None

    def _matched(self, compared: msg.ModelCompared, keys: Sequence[str]) -> msg.ModelCompared:
        """Match rows by the key, in one full join."""
        query = self.queries.matched(keys, compared.sample)
        matched, added, removed, unchanged, *of_columns = self.warehouse.integers(query)
        names = [name for name in self.queries.common if name not in keys]
        shares = {name: n / matched for name, n in zip(names, of_columns)} if matched else {}
        compared = replace(compared, added=added, removed=removed, changed=matched - unchanged, columns=shares)
        differing = {name for name, equal in shares.items() if equal < 1}
        clock = self.clock() if differing or added or removed else frozenset()
        if differing and differing <= clock and not added and not removed:
            compared = replace(compared, clock=tuple(sorted(differing)))
        return replace(compared, examples=dict(self._examples(compared))) if self.limits.examples else compared

    def _examples(self, compared: msg.ModelCompared) -> Iterator[tuple[str, msg.Sample]]:
        """Some of the added, removed and changed rows. A changed row has the columns that differ, of both sides."""
        sampling, queries = self.limits.examples, self.queries
        assert sampling is not None, "somebody asked for examples"
        of_both = replace(sampling, columns=(*sampling.columns, *(f"{name}{IN_PROD}" for name in sampling.columns)))
        differing = [name for name, equal in compared.columns.items() if equal < 1]
        of_rows = compared.keys, compared.sample
        rows = {
            "added": (compared.added, partial(queries.only, queries.after, *of_rows)),
            "removed": (compared.removed, partial(queries.only, queries.before, *of_rows)),
            "changed": (compared.changed, partial(queries.changed, differing, *of_rows)),
        }
        for kind, (number, query) in rows.items():  # without columns that differ, `changed` has no query
            if number and (sample := self.warehouse.sample(query(), of_both)):
                yield kind, sample
