"""The documents say what the code does."""

from __future__ import annotations

import re

from harness import REPOSITORY

from dg_sqlmesh_component.run.outcomes import Outcome
from dg_sqlmesh_component.worker.__main__ import SQLMESH_FLOOR

README = (REPOSITORY / "README.md").read_text()


def test_the_outcome_table_in_the_readme_has_a_row_for_each_outcome_and_no_other() -> None:
    table = README.split("## Outcomes of a run")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [outcome.value for outcome in Outcome]


def test_the_floor_of_the_worker_is_that_of_the_package() -> None:
    assert f'"sqlmesh>={SQLMESH_FLOOR}"' in (REPOSITORY / "pyproject.toml").read_text()


def test_links_between_documents_lead_somewhere() -> None:
    for document in [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
