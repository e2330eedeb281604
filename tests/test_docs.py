"""The documents agree with the code."""

from __future__ import annotations

import re

from harness import REPOSITORY

from dg_sqlmesh_component.run.outcomes import Outcome
from dg_sqlmesh_component.worker.__main__ import SQLMESH_FLOOR

README = (REPOSITORY / "README.md").read_text()


def test_outcome_table_in_the_readme_lists_every_outcome() -> None:
    table = README.split("## Outcomes of a run")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [outcome.value for outcome in Outcome]


def test_minimum_sqlmesh_version_is_the_same_in_worker_and_pyproject() -> None:
    assert f'"sqlmesh>={SQLMESH_FLOOR}"' in (REPOSITORY / "pyproject.toml").read_text()


def test_links_between_documents_exist() -> None:
    for document in [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
