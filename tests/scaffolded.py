"""`dg` in a Dagster project, as a person types it, and what `dg scaffold defs` has written."""

from typing import Any

import yaml
from harness import BIN, DagsterProject, run

ONE_MODEL = {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"}


def dg(dagster: DagsterProject, *arguments: str, check: bool = True) -> tuple[int, str]:
    done = run([BIN / "dg", *arguments], cwd=dagster.root, check=check)
    return done.returncode, done.stdout + done.stderr


def read_defs_yaml(dagster: DagsterProject, name: str) -> Any:
    return yaml.safe_load((dagster.root / dagster.root.name / "defs" / name / "defs.yaml").read_text())


def commands_in(output: str) -> list[str]:
    """Return the indented lines, which are commands to copy."""
    return [line.strip() for line in output.splitlines() if line.startswith("    ")]
