"""Which columns differ between two definitions or tables."""

from __future__ import annotations

import pytest
from sqlglot import exp

from dg_sqlmesh_component.capabilities.plans.messages import ColumnChange
from dg_sqlmesh_component.capabilities.plans.worker.column_changes import column_changes

TEXT, VARCHAR = {"x": exp.DataType.build("text")}, {"x": exp.DataType.build("varchar")}


@pytest.mark.parametrize(
    ("dialect", "changes"), [("duckdb", ()), ("postgres", (ColumnChange("x", "TEXT", "VARCHAR"),))]
)
def test_type_changed_only_if_dialect_writes_it_differently(dialect: str, changes: tuple[ColumnChange, ...]) -> None:
    assert column_changes(TEXT, VARCHAR, dialect) == changes
