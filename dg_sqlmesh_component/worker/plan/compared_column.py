"""How the values of a column are compared if engines and types differ."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

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


@dataclass(frozen=True)
class ComparedColumn:
    """A column of both tables."""

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
        is_short = own.this == _Type.FLOAT and self.dialect in ("duckdb", "postgres")
        return exp.cast(exp.cast(value, "TEXT") if is_short else value, "DOUBLE")

    def text(self, own: exp.DataType) -> exp.Expression:
        """A text that is the same for values that are equal, whatever their types, and empty for NULL."""
        value = self.value(own)
        if self._is_exact and not self._are(INTEGERS):
            value = exp.cast(value, "DECIMAL(38, 0)")  # the text of equal decimals may differ in zeros
        return exp.func("COALESCE", exp.cast(value, "TEXT"), exp.Literal.string(""))

    def is_equal(self, old: exp.Expression, new: exp.Expression, decimals: int) -> exp.Case:
        """1 if both values are equal, else 0. The cheap comparisons come first: most values are equal."""
        one, zero = exp.Literal.number(1), exp.Literal.number(0)
        equal = exp.case().when(old.eq(new), one).when(exp.and_(old.is_(exp.null()), new.is_(exp.null())), one)
        if self._are(_NUMBERS) and not self._is_exact:
            unit = exp.Literal.number(f"{10.0**-decimals:.{decimals}f}")
            difference = exp.cast(old, "DOUBLE") - exp.cast(new, "DOUBLE")
            equal = equal.when(exp.Abs(this=exp.paren(difference)) < unit, one)
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


def _has(type_: exp.DataType, types: Collection[exp.DataType.Type]) -> bool:
    """Whether a type, or a type inside of it, is one of these."""
    return any(part.this in types for part in type_.find_all(exp.DataType))
