"""The commands in the README of examples/with_wait, in an environment with dlt and dbt."""

import re
import shlex
from pathlib import Path

import pytest
from dev_server import create_home
from example_projects import assets_and_checks_in_readme, copy_example, readme_commands, run_readme_plan
from harness import query
from package_environment import run_in_environment

pytestmark = pytest.mark.slow


def test_commands_do_what_readme_says(dlt_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(create_home(tmp_path)))
    monkeypatch.setenv("DLT_DATA_DIR", str(tmp_path / "dlt"))
    root = copy_example("with_wait", tmp_path)
    *load, plan, compute, everything, _ = readme_commands("with_wait")

    def launch(command: str) -> str:
        output = run_in_environment(dlt_environment, root, *shlex.split(command))
        assert "RUN_SUCCESS" in output
        return output

    def days() -> list[str]:
        sold = query(root / "sqlmesh_project", "SELECT DISTINCT sold_on FROM museum.daily_sales ORDER BY 1")
        return [str(day) for (day,) in sold]

    for command in load:
        launch(command)
    assert " plan " in plan
    run_readme_plan("with_wait", root, dlt_environment)
    assert days() == []
    computed = launch(compute)
    assert "Its other intervals are waiting: dlt_tickets_sold has no materialization of" in computed
    assert days() == ["2026-11-01", "2026-11-02", "2026-11-03"]

    last = launch(everything)
    assert days() == ["2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04"]
    keys = re.findall(r"ASSET_MATERIALIZATION - Materialized value (.+)\.$", last, re.MULTILINE)
    materialized = [key.replace(" ", "/") for key in keys]
    assert materialized[2:] == ["museum/daily_sales", "dashboard"]
    assets, _ = assets_and_checks_in_readme("with_wait")
    assert set(materialized) == set(assets) - {"tickets_sold"}, "dagster-dlt adds the source, which has no table"
    assert assets["museum/daily_sales"][1] == {"dlt_tickets_sold", "exhibitions"}
