"""Make a copy of the repository without some capabilities: without their folders, tests and lines in the roots.

Capabilities that do not work without them are left out too.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness import REPOSITORY
from rooms import ROOTS, with_dependents


@dataclass
class Copy:
    """A copy of the package and its tests.

    Attributes:
        capabilities: Those that are left out.
        names: What the roots have imported from them, and the attributes that they had in `defs.yaml`.
    """

    root: Path
    capabilities: set[str]
    names: set[str]

    def unit_tests(self) -> list[str]:
        """The core's unit tests that do not mention what is left out, neither themselves nor in an imported module."""
        folders = rf"capabilities[./]({'|'.join(self.capabilities)})\b"
        mention = re.compile("|".join([folders, *(rf"(?<!\w){name}(?!\w)" for name in self.names)]))
        unit = self.root / "tests" / "unit"
        files = sorted(set(unit.glob("*/**/test_*.py")) - set((unit / "capabilities").rglob("*.py")))
        return [str(file.relative_to(self.root)) for file in files if not self._mentions(file, mention, set())]

    def _mentions(self, file: Path, mention: re.Pattern[str], seen: set[Path]) -> bool:
        if file in seen:
            return False
        seen.add(file)
        text = file.read_text()
        names = re.findall(r"^from ([\w.]+) import", text, re.MULTILINE)
        imported = [self.root / "tests" / f"{name.replace('.', '/')}.py" for name in names]
        others = [path for path in imported if path.is_file() and path.name not in ("harness.py", "builders.py")]
        has_all_attributes = "from unit.config.attributes import" in text
        return (
            has_all_attributes
            or bool(mention.search(text))
            or any(self._mentions(path, mention, seen) for path in others)
        )


def copy_without(capabilities: Iterable[str], root: Path) -> Copy:
    """Copy the repository into a new folder, without these capabilities."""
    shutil.copytree(REPOSITORY, root, ignore=shutil.ignore_patterns(".*", "__pycache__", "site", "dist"))
    package = root / "dg_sqlmesh_component"
    left_out = {name for capability in capabilities for name in with_dependents(capability)}
    for name in left_out:
        shutil.rmtree(package / "capabilities" / name)
        shutil.rmtree(root / "tests" / "unit" / "capabilities" / name, ignore_errors=True)
    names = {name for left in left_out for module in ROOTS for name in _without_lines_of(left, package / module)}
    return Copy(root, left_out, names)


def _without_lines_of(capability: str, module: Path) -> set[str]:
    """Remove the imports of a capability from a module, and each line that uses what they import."""
    lines = module.read_text().splitlines(keepends=True)
    imported: set[str] = set()
    for node in ast.walk(ast.parse("".join(lines))):
        if isinstance(node, ast.ImportFrom) and f".capabilities.{capability}." in f"{node.module}.":
            imported |= {alias.name for alias in node.names}
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    kept, names = [], set(imported)
    for line in lines:
        if imported and re.search(rf"\b({'|'.join(imported)})\b", line):
            if attribute := re.match(r"\s*(\w+): \w+ = ", line):  # of the class of all attributes
                names.add(f'"{attribute[1]}"')
        else:
            kept.append(line)
    module.write_text("".join(kept))
    return names
