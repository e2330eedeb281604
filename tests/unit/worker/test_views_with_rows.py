"""Which views have rows of their own."""

import pytest
from sqlmesh.core.model import FullKind, ViewKind

from dg_sqlmesh_component.worker.load.project import stores_rows


@pytest.mark.parametrize(
    ("engine", "expected"),
    [("databricks", True), ("starrocks", True), ("bigquery", False), ("risingwave", False), ("duckdb", False)],
)
def test_materialized_view_has_rows_of_its_own_if_its_engine_refreshes_it(engine: str, expected: bool) -> None:
    assert stores_rows(ViewKind(materialized=True), engine) is expected
    assert not stores_rows(ViewKind(), engine)
    assert not stores_rows(FullKind(), engine)
