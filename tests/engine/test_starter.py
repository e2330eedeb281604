"""The starter project, without the command that scaffolds it."""

import shutil
from pathlib import Path

from harness import REPOSITORY, Shop, dagster_project, plan


def test_every_model_of_the_starter_is_executed(tmp_path: Path) -> None:
    project = shutil.copytree(REPOSITORY / "templates" / "starter", tmp_path / "starter")
    plan(project)
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": str(project)})
        record = Shop(dagster.root, dagster.instance, project).launch().succeeded()
    assert sorted(record.materializations) == [
        "core/daily_orders",
        "marts/revenue_by_country",
        "marts/revenue_by_product",
        "marts/weekly_revenue",
        "staging/orders",
    ]
