"""The SQL that compares the rows of two tables: queries that count, or select examples.

Which of them are sent, and the condition on time that limits both tables: `table_comparison.py`.

Each that counts is one SELECT of sums in every dialect: sqlglot rewrites a full join for MySQL as a UNION, which is
inside of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

_Type = exp.DataType.Type

INTEGERS = exp.DataType.INTEGER_TYPES - {_Type.BIT}
_NUMBERS = exp.DataType.NUMERIC_TYPES - {_Type.BIT}
_MONEY = {_Type.MONEY, _Type.SMALLMONEY}
"""Numbers that PostgreSQL does not cast to floats."""

_FLOATS = {_Type.FLOAT, _Type.DOUBLE, _Type.UDOUBLE}

_AS_TEXT = {_Type.JSON, _Type.XML, _Type.GEOMETRY, _Type.GEOGRAPHY, _Type.MAP, _Type.VARIANT}
"""Types whose values some engines cannot compare."""

_TEXTS = exp.DataType.TEXT_TYPES | {_Type.TINYTEXT, _Type.MEDIUMTEXT, _Type.LONGTEXT}

IN_PROD = " in prod"
"""The end of the name of a column of prod, in rows of both."""

_HASH_DIGITS = 8
UNTRIED = ("athena", "bigquery", "fabric", "trino", "tsql")
"""Dialects that need SQL of their own to match rows, which no test can execute. So rows are only counted."""


@dataclass(frozen=True)
class Table:
    """A table of one side, as its engine describes it."""

    name: str
    columns: Mapping[str, exp.DataType]
    condition: exp.Expression | None = None  # The rows that are compared. None is all of them.


@dataclass(frozen=True)
class ComparedColumn:
    """A column of both tables, and how its values are compared if engines and types differ."""

    name: str
    old: exp.DataType  # its type in prod
    new: exp.DataType  # its type in the preview
    dialect: str

    def value(self, own: exp.DataType) -> exp.Expression:
        """The column of the side that has it as this type, such that it can be compared with the other side's.

        Engines compare exact numbers of different types exactly, or refuse. A cast to a common type would round them.
        """
        column = exp.column(self.name, quoted=True)
        if self._are(_NUMBERS):
            return column if self._is_exact or self.old == self.new else self._number(column, own)
        if self._are(_TEXTS):
            return self._with_case(column)
        if self.old == self.new and not _has(own, _AS_TEXT):
            return column
        return self._with_case(exp.cast(column, "TEXT"))

    def amounts(self, own: exp.DataType) -> list[exp.Expression]:
        """The sum, minimum and maximum on one side, as floats: no sum of integers is too large for one."""
        column = exp.column(self.name, quoted=True)
        # The texts of 5 million values take DuckDB 3 s, and sums of one type can be compared without them.
        value = exp.cast(column, "DOUBLE") if self.old == self.new else self._number(column, own)
        ends = (self._number(aggregate(this=column.copy()), own) for aggregate in (exp.Min, exp.Max))
        return [exp.Sum(this=value), *ends]

    def _number(self, value: exp.Expression, own: exp.DataType) -> exp.Expression:
        """A value of the side that has it as this type, as a float. A REAL 0.1 is 0.1, and not 0.10000000149."""
        # MySQL prints 6 digits of it, so not all of them.
        is_short = own.this == _Type.FLOAT and self.dialect in ("clickhouse", "duckdb", "postgres", "spark")
        return exp.cast(exp.cast(value, "TEXT") if is_short else value, "DOUBLE")

    def text(self, own: exp.DataType) -> exp.Expression:
        """A text that is the same for values that are equal, whatever their types, and empty for NULL."""
        value = self.value(own)
        if self._is_exact and not self._are(INTEGERS):
            value = exp.cast(value, "DECIMAL(38, 0)")  # the text of equal decimals may differ in zeros
        return exp.func("COALESCE", exp.cast(value, "TEXT"), exp.Literal.string(""))

    def is_equal(self, old: exp.Expression, new: exp.Expression, decimals: int) -> exp.Case:
        """1 if both values are equal, else 0. The cheap comparisons come first: most values are equal.

        Args:
            decimals: Floats that differ by less than one unit of this decimal place are equal.
        """
        one, zero = exp.Literal.number(1), exp.Literal.number(0)
        equal = exp.case().when(old.eq(new), one).when(exp.and_(old.is_(exp.null()), new.is_(exp.null())), one)
        if self._are(_NUMBERS) and not self._is_exact:
            difference = exp.Abs(this=exp.paren(exp.cast(old, "DOUBLE") - exp.cast(new, "DOUBLE")))
            # A float of the same rows may differ in its last digits, for example a sum in another order.
            unit = exp.Literal.number(f"{10.0**-decimals:.{decimals}f}")
            equal = equal.when(difference < unit, one)
        return equal.else_(zero)

    def _with_case(self, text: exp.Expression) -> exp.Expression:
        """For MySQL, `a` and `A` are equal, unless a table has another collation."""
        return exp.cast(exp.cast(text, "TEXT"), "BINARY") if self.dialect == "mysql" else text

    @property
    def is_amount(self) -> bool:
        """Whether the values on both sides can be summed."""
        return self._are(_NUMBERS - _MONEY)

    @property
    def _is_exact(self) -> bool:
        return self._are(_NUMBERS - _FLOATS)

    def _are(self, types: Collection[exp.DataType.Type]) -> bool:
        return self.old.this in types and self.new.this in types


@dataclass
class CountQueries:
    """The queries for two tables."""

    dialect: str
    before: Table  # the table of prod
    after: Table  # the table of the preview
    ignored: Collection[str] = ()  # columns that are not compared
    decimals: int = 6  # floats that differ by less than one unit of this decimal place are equal
    common: dict[str, ComparedColumn] = field(init=False)  # the compared columns of both, by name

    def __post_init__(self) -> None:
        old, new = self.before.columns, self.after.columns
        self.common = {
            name: ComparedColumn(name, type_, new[name], self.dialect)
            for name, type_ in old.items()
            if name in new and name not in self.ignored
        }

    @property
    def sides(self) -> tuple[Table, Table]:
        return self.before, self.after

    @property
    def amounts(self) -> list[str]:
        """The columns of both that are numbers."""
        return [name for name, column in self.common.items() if column.is_amount]

    def values(self, side: Table) -> exp.Select:
        """The rows of a table; for each column of both, its values; then sum, minimum and maximum of each amount."""
        values = [exp.Count(this=exp.column(name, quoted=True)) for name in self.common]
        for name in self.amounts:
            values += self.common[name].amounts(side.columns[name])
        query = exp.select(exp.Count(this=exp.Star()), *values).from_(exp.to_table(side.name))
        return query.where(side.condition) if side.condition is not None else query

    def unusable_keys(self, side: Table, keys: Sequence[str], sample: float | None) -> exp.Select:
        """The keys that several rows of a table share, and the keys with NULL."""
        names = [f"k{i}" for i in range(len(keys))]
        groups = (
            exp.select(*names, exp.alias_(exp.Count(this=exp.Star()), "n"))
            .from_(self._source(side, keys, "k", sample, keys).subquery("s"))
            .group_by(*names)
        )
        is_null = exp.or_(*(exp.column(name).is_(exp.null()) for name in names))
        return exp.select(_sum_if(exp.column("n") > 1), _sum_if(is_null)).from_(groups.subquery("g"))

    def matched(self, keys: Sequence[str], sample: float | None) -> exp.Select:
        """Rows of both, added rows, removed rows, equal rows; then the matched rows in which each column is equal.

        The flags are 0 or 1 and never NULL. ClickHouse has defaults in place of NULL in the rows of one side only.
        """
        others = [name for name in self.common if name not in keys]
        names = [*keys, *others]
        old, new = (
            self._source(side, names, "c", sample, keys).select(exp.alias_(exp.Literal.number(1), "present"))
            for side in self.sides
        )
        if self.dialect == "mysql":
            # MariaDB joins by nested loops, unless a limit makes it store both sides, with an index of the key.
            old, new = old.limit(2**63 - 1), new.limit(2**63 - 1)
        on = exp.and_(*(_of("o", f"c{i}").eq(_of("n", f"c{i}")) for i in range(len(keys))))
        zero = exp.Literal.number(0)
        flags = [exp.alias_(exp.func("COALESCE", _of(side, "present"), zero), f"in_{side}") for side in ("o", "n")]
        for i, name in enumerate(others, len(keys)):
            flags.append(
                exp.alias_(self.common[name].is_equal(_of("o", f"c{i}"), _of("n", f"c{i}"), self.decimals), f"e{i}")
            )
        rows = exp.select(*flags).from_(old.subquery("o")).join(new.subquery("n"), on=on, join_type="full")
        in_both = exp.and_(exp.column("in_o").eq(1), exp.column("in_n").eq(1))
        equal = [exp.column(f"e{i}").eq(1) for i in range(len(keys), len(names))]
        counts = [
            _sum_if(in_both),
            _sum_if(exp.column("in_o").eq(0)),
            _sum_if(exp.column("in_n").eq(0)),
            _sum_if(exp.and_(in_both, *equal)),
            *(_sum_if(exp.and_(in_both, is_equal)) for is_equal in equal),
        ]
        return exp.select(*counts).from_(rows.subquery("f"))

    def only(self, side: Table, keys: Sequence[str], sample: float | None) -> exp.Select:
        """The rows with a key that only this side has."""
        other = self.before if side is self.after else self.after
        names = [*keys, *(name for name in self.common if name not in keys)]
        own, others = (
            self._source(table, columns, "c", sample, keys).select(exp.alias_(exp.Literal.number(1), "present"))
            for table, columns in ((side, names), (other, keys))
        )
        on = exp.and_(*(_of("n", f"c{i}").eq(_of("o", f"c{i}")) for i in range(len(keys))))
        selected = [exp.alias_(_of("n", f"c{i}"), name, quoted=True) for i, name in enumerate(names)]
        is_alone = exp.func("COALESCE", _of("o", "present"), exp.Literal.number(0)).eq(0)
        rows = exp.select(*selected).from_(own.subquery("n")).join(others.subquery("o"), on=on, join_type="left")
        return rows.where(is_alone)

    def changed(self, differing: Sequence[str], keys: Sequence[str], sample: float | None) -> exp.Select:
        """The rows of both that differ: the key, and each of these columns of the preview and of prod."""
        names = [*keys, *differing]
        old, new = (self._source(side, names, "c", sample, keys) for side in self.sides)
        on = exp.and_(*(_of("o", f"c{i}").eq(_of("n", f"c{i}")) for i in range(len(keys))))
        selected = [exp.alias_(_of("n", f"c{i}"), name, quoted=True) for i, name in enumerate(keys)]
        equal = []
        for i, name in enumerate(differing, len(keys)):
            selected += [
                exp.alias_(_of("n", f"c{i}"), name, quoted=True),
                exp.alias_(_of("o", f"c{i}"), f"{name}{IN_PROD}", quoted=True),
            ]
            equal.append(self.common[name].is_equal(_of("o", f"c{i}"), _of("n", f"c{i}"), self.decimals).eq(1))
        some = exp.case().when(exp.and_(*equal), exp.Literal.number(1)).else_(exp.Literal.number(0)).eq(0)
        rows = exp.select(*selected).from_(old.subquery("o")).join(new.subquery("n"), on=on, join_type="inner")
        return rows.where(some)

    def surplus(self, without: Collection[str] = ()) -> exp.Select:
        """The rows that the preview has more often than prod, and those that prod has more often, by all columns.

        `without` are columns that do not count.
        """
        n, o = _ROWS
        groups = self._rows_of([name for name in self.common if name not in without])
        return exp.select(_sum_if(n > o, n - o), _sum_if(o > n, o - n)).from_(groups)

    def _rows_of(self, names: Sequence[str]) -> exp.Subquery:
        """The values of columns (`c` and a number) with their rows in the preview (`rows_n`) and in prod (`rows_o`)."""
        old, new = (
            self._source(side, names, "c").select(
                exp.alias_(exp.Literal.number(n), "n"), exp.alias_(exp.Literal.number(1 - n), "o")
            )
            for n, side in enumerate(self.sides)
        )
        columns = [f"c{i}" for i in range(len(names))]
        rows = (exp.alias_(exp.cast(exp.Sum(this=exp.column(side)), "BIGINT"), f"rows_{side}") for side in "no")
        union = exp.union(old, new, distinct=False).subquery("u")
        return exp.select(*columns, *rows).from_(union).group_by(*columns).subquery("g")

    def _source(
        self, side: Table, names: Sequence[str], start: str, sample: float | None = None, keys: Sequence[str] = ()
    ) -> exp.Select:
        """The compared rows and columns of a table, with the names `start` and a number."""
        columns = [
            exp.alias_(self.common[name].value(side.columns[name]), f"{start}{i}") for i, name in enumerate(names)
        ]
        query = exp.select(*columns).from_(exp.to_table(side.name))
        conditions = (side.condition, self._sampled_by(side, keys, sample) if sample is not None else None)
        for condition in conditions:
            query = query.where(condition) if condition is not None else query
        return query

    def _sampled_by(self, side: Table, keys: Sequence[str], sample: float) -> exp.Expression:
        """The filter for a share of the keys, the same keys on both sides, whatever their order. It takes all NULLs."""
        texts = [self.common[key].text(side.columns[key]) for key in keys]
        hashed: exp.Expression = exp.MD5(this=exp.func("CONCAT", *texts, exp.Literal.string("")))
        limit = f"{int(sample * 16**_HASH_DIGITS):0{_HASH_DIGITS}x}"
        is_taken = exp.func("SUBSTRING", hashed, exp.Literal.number(1), exp.Literal.number(_HASH_DIGITS)) < limit
        return exp.or_(is_taken, *(exp.column(key, quoted=True).is_(exp.null()) for key in keys))


_ROWS = exp.column("rows_n"), exp.column("rows_o")


def _of(side: str, column: str) -> exp.Column:
    return exp.column(column, table=side)


def _sum_if(condition: exp.Expression, value: exp.Expression | None = None) -> exp.Sum:
    one, zero = exp.Literal.number(1), exp.Literal.number(0)
    return exp.Sum(this=exp.case().when(condition, value if value is not None else one).else_(zero))


def _has(type_: exp.DataType, types: Collection[exp.DataType.Type]) -> bool:
    """Whether a type, or a type inside of it, is one of these."""
    return any(part.this in types for part in type_.find_all(exp.DataType))
