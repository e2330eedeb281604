"""Compare the tables of a preview with those of prod. Only counts leave the warehouse, no values.

Rows are matched by the model's grain, in one full join. SQLMesh's own `table_diff` is slower, needs a grain in every
model, and counts each pair of rows that share a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp
from sqlmesh.core.context import Context
from sqlmesh.core.engine_adapter import EngineAdapter
from sqlmesh.core.environment import Environment
from sqlmesh.core.plan import Plan
from sqlmesh.core.snapshot import Snapshot, SnapshotId
from sqlmesh.core.snapshot.definition import merge_intervals
from sqlmesh.utils.dag import DAG

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.intervals import subtract
from dg_sqlmesh_component.worker.coverage import is_incremental
from dg_sqlmesh_component.worker.sqlmesh_internals import ComputedRange, computed_ranges


@dataclass(frozen=True)
class Limits:
    """How to compare; as in `PreviewRequest`."""

    max_rows: int
    decimals: int


@dataclass(frozen=True)
class _Table:
    """A table of one side, as its engine describes it."""

    name: str
    columns: Mapping[str, exp.DataType]


def compare_environments(
    plan: Plan, prod: Environment, context: Context, limits: Limits
) -> Iterator[msg.ModelCompared]:
    """Compare each model for which the planned environment shows another table than prod, or that only one of them has.

    If the engine refuses a comparison, its result has the error.
    """
    snapshots, index = plan.context_diff.snapshots, plan.deployability_index
    context.state_sync.refresh_snapshot_intervals(snapshots.values())
    graph: DAG[SnapshotId] = DAG({s_id: set(snapshot.parents) for s_id, snapshot in snapshots.items()})
    previews = {
        s_id.name: snapshots[s_id] for s_id in graph.sorted if s_id in snapshots and _has_table(snapshots[s_id])
    }
    shown = {info.name: info for info in prod.snapshots if info.is_model and not info.is_symbolic}
    same = {
        name
        for name in previews.keys() & shown.keys()
        if previews[name].table_name(index.is_representative(previews[name])) == shown[name].table_name()
    }
    differing = [name for name in dict.fromkeys([*previews, *shown]) if name not in same]
    loaded = context.state_reader.get_snapshots([shown[name] for name in differing if name in shown])
    promoted = {snapshot.name: snapshot for snapshot in loaded.values()}
    recorded = computed_ranges(context)
    partial: set[str] = set()
    for name in differing:
        old, new = promoted.get(name), previews.get(name)
        adapter = context.engine_adapters[(new or promoted[name]).model_gateway or context.selected_gateway]
        model = _Model(old, new, is_own_table=new is not None and index.is_representative(new))
        if new is not None:
            upstream = {s_id.name for s_id in graph.upstream(new.snapshot_id)}
            model.reads_partial = tuple(previews[read].node.name for read in sorted(partial & upstream))
            model.recorded = recorded.get((name, new.dev_version, True), [])
        compared = model.compare(_Queries(adapter), limits)
        if not model.is_own_table and (compared.ranges or compared.is_partial or compared.only_its_time):
            partial.add(name)
        yield compared


@dataclass
class _Model:
    """A model in prod and in the preview; None in an environment that does not have it.

    Attributes:
        is_own_table: Whether the preview shows the table that prod will show.
        reads_partial: As in `ModelCompared`.
        recorded: What SQLMesh has recorded for a table that only the preview shows.
    """

    old: Snapshot | None
    new: Snapshot | None
    is_own_table: bool
    reads_partial: tuple[str, ...] = ()
    recorded: Sequence[ComputedRange] = ()

    def compare(self, queries: _Queries, limits: Limits) -> msg.ModelCompared:
        old, new = self.old, self.new
        either = new or old
        assert either is not None, "one of both has the model"
        compared = msg.ModelCompared(
            either.name,
            either.node.name,
            reads_partial=self.reads_partial,
            is_recomputed=new is not None and not self.is_own_table and (old is None or new.version != old.version),
        )
        try:
            before = _table(queries, old, is_deployable=True)
            after = _table(queries, new, is_deployable=self.is_own_table)
            if old is None or new is None or before is None or after is None:
                return _of_one_side(compared, queries, before, after)
            # SQLMesh's janitor merges these ranges with those that the preview has only copied from prod's record.
            is_known = self.is_own_table or not any(computed.is_merged for computed in self.recorded)
            computed = new.intervals
            if not self.is_own_table:
                computed = merge_intervals([computed.interval for computed in self.recorded])
            compared, conditions = _conditions(compared, (old, before), (new, after), computed, is_known=is_known)
            if conditions is None:  # nothing of it was computed
                return compared
            return _Comparison(queries, before, after, conditions, limits).of(compared, _keys(new))
        except Exception as error:  # noqa: BLE001  # any driver's; the step fails with it after all others are compared
            return replace(compared, error=type(error).__name__, query=queries.last)


def _has_table(snapshot: Snapshot) -> bool:
    return snapshot.is_model and not snapshot.is_symbolic


def _table(queries: _Queries, snapshot: Snapshot | None, *, is_deployable: bool) -> _Table | None:
    if snapshot is None:
        return None
    name = snapshot.table_name(is_deployable)
    return _Table(name, queries.columns(name))


class _Queries:
    """Queries of one row of counts. It keeps the last one, for an error."""

    def __init__(self, adapter: EngineAdapter) -> None:
        self._adapter = adapter
        self.dialect = adapter.dialect
        self.last: str | None = None

    def columns(self, table: str) -> Mapping[str, exp.DataType]:
        return self._adapter.columns(table)

    def integers(self, query: exp.Select) -> list[int]:
        self.last = query.sql(self.dialect)
        return [int(value or 0) for value in self._adapter.fetchone(query) or ()]


def _of_one_side(
    compared: msg.ModelCompared, queries: _Queries, before: _Table | None, after: _Table | None
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
    prod: tuple[Snapshot, _Table],
    preview: tuple[Snapshot, _Table],
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
        conditions = [exp.and_(column >= first.copy(), column <= last.copy()) for column in columns]
        return replace(compared, only_its_time=True), (conditions[0], conditions[1])
    ranges = tuple(subtract(computed, subtract(computed, old.intervals)))
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


def _keys(snapshot: Snapshot) -> tuple[str, ...]:
    """The columns of the model's first grain, or of its unique key."""
    model = snapshot.model
    for grain in (*model.grains, exp.Tuple(expressions=list(model.unique_key))):
        if names := tuple(column.name for column in grain.find_all(exp.Column)):
            return names
    return ()


_AS_TEXT = {exp.DataType.Type.JSON, exp.DataType.Type.XML, exp.DataType.Type.GEOMETRY, exp.DataType.Type.GEOGRAPHY}
"""Types whose values some engines cannot compare."""

_INTEGERS = exp.DataType.INTEGER_TYPES - {exp.DataType.Type.BIT}
_NUMBERS = exp.DataType.NUMERIC_TYPES - {exp.DataType.Type.BIT}

_HASH_DIGITS = 8


class _Comparison:
    """The queries that compare two tables."""

    def __init__(
        self,
        queries: _Queries,
        before: _Table,
        after: _Table,
        conditions: _Conditions,
        limits: Limits,
    ) -> None:
        self._queries = queries
        self._sides = ((before, conditions[0]), (after, conditions[1]))
        self._before, self._after = before.columns, after.columns
        self._limits = limits
        self._common = [name for name in before.columns if name in after.columns]
        self._by_small_name = {name.casefold(): name for name in self._common}

    def of(self, compared: msg.ModelCompared, keys: tuple[str, ...]) -> msg.ModelCompared:
        """The result, with these ranges."""
        counts = [self._queries.integers(self._counts(*side)) for side in self._sides]
        (rows_prod, *_), (rows, *_) = counts
        compared = replace(compared, rows=rows, rows_prod=rows_prod, schema=tuple(self._schema()))
        largest = max(rows, rows_prod)
        sample = None
        if largest > self._limits.max_rows:
            sample = self._limits.max_rows / largest
            filled = {name: (counts[1][i + 1], counts[0][i + 1]) for i, name in enumerate(self._common)}
            compared = replace(compared, filled=filled)
        problem = self._key_problem(keys, sample)
        keys = tuple(self._by_small_name.get(key.casefold(), key) for key in keys)
        if problem is None:
            return self._matched(replace(compared, keys=keys, sample=sample), keys)
        compared = replace(compared, key_problem=problem, keys=keys)
        return compared if sample is not None or not self._common else self._as_a_whole(compared)

    def _schema(self) -> Iterator[str]:
        dialect = self._queries.dialect
        for name, type_ in self._before.items():
            if name not in self._after:
                yield f"drops {name}"
            elif type_ != self._after[name]:
                yield f"changes {name} from {type_.sql(dialect)} to {self._after[name].sql(dialect)}"
        for name, type_ in self._after.items():
            if name not in self._before:
                yield f"adds {name} {type_.sql(dialect)}"

    def _value(self, name: str) -> exp.Expression:
        """A column of one side, such that it can be compared with the other side's."""
        old, new = self._before[name], self._after[name]
        column: exp.Expression = exp.column(name, quoted=True)
        if old.is_type(*_NUMBERS) and new.is_type(*_NUMBERS):
            are_integers = old.is_type(*_INTEGERS) and new.is_type(*_INTEGERS)
            return column if old == new or are_integers else exp.cast(column, "DOUBLE")
        return column if old == new and old.this not in _AS_TEXT else exp.cast(column, "TEXT")

    def _source(
        self,
        table: _Table,
        condition: exp.Expression | None,
        names: Sequence[str],
        start: str,
        sampled_by: exp.Expression | None,
    ) -> exp.Select:
        columns = [exp.alias_(self._value(name), f"{start}{i}") for i, name in enumerate(names)]
        query = exp.select(*columns).from_(exp.to_table(table.name))
        for filtered in (condition, sampled_by):
            query = query.where(filtered) if filtered is not None else query
        return query

    def _counts(self, table: _Table, condition: exp.Expression | None) -> exp.Select:
        columns = [exp.Count(this=exp.column(name, quoted=True)) for name in self._common]
        query = exp.select(exp.Count(this=exp.Star()), *columns).from_(exp.to_table(table.name))
        return query.where(condition) if condition is not None else query

    def _sampled_by(self, keys: Sequence[str], sample: float | None) -> exp.Expression | None:
        """The filter for a share of the keys. It takes the same keys on both sides, whatever their order."""
        if sample is None:
            return None
        texts = [exp.cast(self._value(key), "TEXT") for key in keys]
        hashed = exp.MD5(this=exp.func("CONCAT", *texts, exp.Literal.string("")))
        limit = f"{int(sample * 16**_HASH_DIGITS):0{_HASH_DIGITS}x}"
        return exp.func("SUBSTRING", hashed, exp.Literal.number(1), exp.Literal.number(_HASH_DIGITS)) < limit

    def _key_problem(self, keys: Sequence[str], sample: float | None) -> msg.KeyProblem | None:
        """Why rows cannot be matched by these columns. Rows that share a key would be counted in pairs."""
        if not self._common:
            return "no_columns"
        if not keys:
            return "no_grain"
        if not all(key.casefold() in self._by_small_name for key in keys):
            return "other_columns"
        keys = tuple(self._by_small_name[key.casefold()] for key in keys)  # SQLMesh keeps a grain as it is written
        names = [f"k{i}" for i in range(len(keys))]
        for table, condition in self._sides:
            source = self._source(table, condition, keys, "k", self._sampled_by(keys, sample))
            groups = (
                exp.select(*names, exp.alias_(exp.Count(this=exp.Star()), "n"))
                .from_(source.subquery("s"))
                .group_by(*names)
            )
            is_null = exp.or_(*(exp.column(name).is_(exp.null()) for name in names))
            repeated = _sum_if(exp.column("n") > 1)
            duplicates, nulls = self._queries.integers(
                exp.select(repeated, _sum_if(is_null)).from_(groups.subquery("g"))
            )
            if nulls:
                return "null_keys"
            if duplicates:
                return "duplicate_keys"
        return None

    def _matched(self, compared: msg.ModelCompared, keys: Sequence[str]) -> msg.ModelCompared:
        """Match rows by the key, in one full join."""
        names = [*keys, *(name for name in self._common if name not in keys)]
        filtered = self._sampled_by(keys, compared.sample)
        old, new = (
            self._source(table, condition, names, "c", filtered).select(exp.alias_(exp.Literal.number(1), "present"))
            for table, condition in self._sides
        )
        on = exp.and_(*(_of("o", f"c{i}").eq(_of("n", f"c{i}")) for i in range(len(keys))))
        in_old, in_new = (exp.not_(_of(side, "present").is_(exp.null())) for side in ("o", "n"))
        equal = [self._is_equal(names[i], i) for i in range(len(keys), len(names))]
        in_both = exp.and_(in_old, in_new)
        counts = [
            _sum_if(in_both),
            _sum_if(exp.not_(in_old)),
            _sum_if(exp.not_(in_new)),
            _sum_if(exp.and_(in_both, *equal)),
            *(_sum_if(exp.and_(in_both, is_equal)) for is_equal in equal),
        ]
        query = exp.select(*counts).from_(old.subquery("o")).join(new.subquery("n"), on=on, join_type="full")
        matched, added, removed, unchanged, *of_columns = self._queries.integers(query)
        shares = {name: n / matched for name, n in zip(names[len(keys) :], of_columns)} if matched else {}
        return replace(compared, added=added, removed=removed, changed=matched - unchanged, columns=shares)

    def _is_equal(self, name: str, position: int) -> exp.Expression:
        """The cheap comparisons come first: most values are equal."""
        old, new = _of("o", f"c{position}"), _of("n", f"c{position}")
        one, zero = exp.Literal.number(1), exp.Literal.number(0)
        equal = exp.case().when(old.eq(new), one).when(exp.and_(old.is_(exp.null()), new.is_(exp.null())), one)
        types = (self._before[name], self._after[name])
        if all(type_.is_type(*_NUMBERS) for type_ in types) and not all(type_.is_type(*_INTEGERS) for type_ in types):
            unit = exp.Literal.number(f"{10.0**-self._limits.decimals:.{self._limits.decimals}f}")
            # A difference of two decimals may be too large for a decimal.
            difference = exp.cast(old, "DOUBLE") - exp.cast(new, "DOUBLE")
            equal = equal.when(exp.Abs(this=exp.paren(difference)) < unit, one)
        return equal.else_(zero).eq(1)

    def _as_a_whole(self, compared: msg.ModelCompared) -> msg.ModelCompared:
        """Count the rows that one side has more often than the other, by all columns of both."""
        names = [f"c{i}" for i in range(len(self._common))]
        old, new = (
            self._source(table, condition, self._common, "c", None).select(exp.alias_(exp.Literal.number(sign), "side"))
            for (table, condition), sign in zip(self._sides, (-1, 1))
        )
        surplus = exp.alias_(exp.Sum(this=exp.column("side")), "surplus")
        groups = exp.select(surplus).from_(exp.union(old, new, distinct=False).subquery("u")).group_by(*names)
        column = exp.column("surplus")
        query = exp.select(_sum_if(column > 0, column), _sum_if(column < 0, -column)).from_(groups.subquery("g"))
        added, removed = self._queries.integers(query)
        return replace(compared, added=added, removed=removed)


def _of(side: str, column: str) -> exp.Column:
    return exp.column(column, table=side)


def _sum_if(condition: exp.Expression, value: exp.Expression | None = None) -> exp.Sum:
    one, zero = exp.Literal.number(1), exp.Literal.number(0)
    return exp.Sum(this=exp.case().when(condition, value if value is not None else one).else_(zero))
