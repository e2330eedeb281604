"""Opening a project whose state is there but cannot be reached at that moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from harness import plan, write_project
from sqlmesh.core.context import Context

from dg_sqlmesh_component.worker.opening import SteadyContext

HOLD = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


@pytest.mark.parametrize(("context_type", "is_mistaken"), [(Context, True), (SteadyContext, False)])
def test_a_locked_state_is_not_taken_for_one_that_has_to_be_set_up(
    tmp_path: Path, context_type: type[Context], is_mistaken: bool
) -> None:
    project = write_project(tmp_path, {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"})
    plan(project)
    database = project / "warehouse.duckdb"
    config = (project / "config.yaml").read_text().replace("warehouse.duckdb", str(database))
    (project / "config.yaml").write_text(config)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        context = context_type(paths=str(project), load=False)
        asked: list[bool] = []
        new_state_sync = context._new_state_sync

        def watched() -> object:
            state_sync = new_state_sync()
            state_sync.migrate = lambda *_, **__: asked.append(True)  # type: ignore[method-assign]
            return state_sync

        context._new_state_sync = watched  # type: ignore[method-assign, assignment]
        with pytest.raises(Exception) as refused:
            _ = context.state_sync
        # Plain SQLMesh is about to set up a state that exists; if this ever changes, ours is no longer needed.
        assert bool(asked) is is_mistaken
        assert is_mistaken or isinstance(refused.value, duckdb.IOException)
    finally:
        holder.communicate()
