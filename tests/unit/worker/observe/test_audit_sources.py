"""An audit that is evaluated alone reads the same tables as with all snapshots of its environment."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from harness import CONFIG, write_project
from sqlmesh.core.console import NoopConsole
from sqlmesh.core.context import Context
from sqlmesh.core.snapshot import DeployabilityIndex, Snapshot, SnapshotEvaluator
from sqlmesh.utils.date import now_timestamp

from dg_sqlmesh_component.worker.observe.audits import evaluate_one, with_read

AUDITS = {
    "not_null(columns := (id))": "",
    "in_other": "other",
    "above(least := (SELECT min(id) FROM t.other))": "other",
    "in_embedded": "embedded below",
    "in_variable": "other",
    "in_unknown": "all",
    "in_columns": "all",
    "in_jinja": "all",
    "in_macro": "all",
    "above(least := (SELECT min(id) FROM @a_table()))": "all",
}
"""What each audit reads besides the model and its parent."""
OTHER_THAN = "SELECT * FROM @this_model WHERE id NOT IN (SELECT id FROM {})"
FILES = {
    "models/parent.sql": "MODEL (name t.parent, kind FULL); SELECT 1 AS id",
    "models/other.sql": "MODEL (name t.other, kind FULL); SELECT 2 AS id",
    "models/below.sql": "MODEL (name t.below, kind FULL); SELECT 3 AS id",
    "models/embedded.sql": "MODEL (name t.embedded, kind EMBEDDED); SELECT id FROM t.below",
    "models/unread.sql": "MODEL (name t.unread, kind FULL); SELECT 4 AS id",
    "models/model.sql": f"MODEL (name t.model, kind FULL, audits ({', '.join(AUDITS)})); SELECT id FROM t.parent",
    "audits/in_other.sql": "AUDIT (name in_other, blocking false); WITH found AS (SELECT id FROM t.other) "
    + OTHER_THAN.format("found"),
    "audits/above.sql": "AUDIT (name above, blocking false); SELECT * FROM @this_model WHERE id <= @least",
    "audits/in_embedded.sql": "AUDIT (name in_embedded, blocking false); " + OTHER_THAN.format("t.embedded"),
    "audits/in_variable.sql": "AUDIT (name in_variable, blocking false); " + OTHER_THAN.format("t.@{read_by_name}"),
    "audits/in_unknown.sql": "AUDIT (name in_unknown, blocking false); " + OTHER_THAN.format("raw.flags"),
    "audits/in_columns.sql": "AUDIT (name in_columns, blocking false); SELECT @STAR(t.other) FROM t.other",
    "audits/in_jinja.sql": "AUDIT (name in_jinja, blocking false); JINJA_QUERY_BEGIN; "
    "SELECT * FROM {{ resolve_table('t.other') }}; JINJA_END;",
    "audits/in_macro.sql": "AUDIT (name in_macro, blocking false); " + OTHER_THAN.format("@a_table()"),
    "audits/alone.sql": "AUDIT (name alone, standalone true, blocking false); "
    "SELECT * FROM t.embedded JOIN t.other USING (id)",
    "macros/__init__.py": "",
    "macros/tables.py": """
from sqlglot import exp
from sqlmesh import macro


@macro()
def a_table(evaluator):
    return exp.to_table(evaluator.resolve_table("t.other"))
""",
}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    folder = tmp_path_factory.mktemp("sources")
    config = CONFIG.replace("warehouse.duckdb", str(folder / "warehouse.duckdb"))
    context = Context(paths=[str(write_project(folder, FILES, config + "variables: {read_by_name: other}\n"))])
    context.console = NoopConsole()
    context.engine_adapter.execute("CREATE SCHEMA raw")
    context.engine_adapter.execute("CREATE TABLE raw.flags AS SELECT 1 AS id")
    # SQLMesh's own plan gives audits the parents only, and some of these audits fail so.
    context.plan(auto_apply=True, no_prompts=True, empty_backfill=True)
    yield context
    context.close()


def given(context: Context, snapshot: Snapshot) -> dict[str, Any]:
    return {
        "snapshot": snapshot,
        "snapshots": {found.name: found for found in context.snapshots.values()},
        "start": "2026-01-01",
        "end": "2026-01-02",
        "execution_time": now_timestamp(),
        "deployability_index": DeployabilityIndex.all_deployable(),
    }


def names_of(snapshots: Mapping[str, Snapshot]) -> set[str]:
    return {name.rpartition(".")[2].strip('"') for name in snapshots}


@pytest.mark.parametrize("position", range(len(AUDITS)), ids=list(AUDITS))
def test_an_audit_has_the_query_that_it_has_with_all_snapshots(context: Context, position: int) -> None:
    snapshot = context.get_snapshot("t.model", raise_if_missing=True)
    of_all = given(context, snapshot)
    expected = SnapshotEvaluator.audit(context.snapshot_evaluator, **of_all)[position]

    found = evaluate_one(context.snapshot_evaluator, snapshot, position, of_all)

    assert found.query == expected.query
    everything = names_of(of_all["snapshots"])
    reads = list(AUDITS.values())[position]
    expected_names = everything if reads == "all" else {"model", "parent", *reads.split()}
    assert names_of(with_read(snapshot, position, of_all)) == expected_names


def test_a_standalone_audit_has_the_query_that_it_has_with_all_snapshots(context: Context) -> None:
    [snapshot] = [found for found in context.snapshots.values() if found.is_audit]
    of_all = given(context, snapshot)
    [expected] = SnapshotEvaluator.audit(context.snapshot_evaluator, **of_all)

    found = evaluate_one(context.snapshot_evaluator, snapshot, 0, of_all)

    assert found.query == expected.query
    assert names_of(with_read(snapshot, 0, of_all)) == {"alone", "other", "embedded", "below"}
