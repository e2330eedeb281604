"""Count what a newcomer has to read: lines of each room, long classes, functions with many arguments, tests.

python benchmarks/weight.py [folder of another checkout]
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LONG_CLASS, MANY_ARGUMENTS = 200, 6


def lines_by_folder(root: Path, depth: int) -> Counter[str]:
    """Lines of Python files, by the first folders of their path."""
    lines: Counter[str] = Counter()
    for path in root.rglob("*.py"):
        folders = path.relative_to(root).parts[:-1][:depth]
        lines["/".join(folders) or "(top)"] += len(path.read_text().splitlines())
    return lines


def definitions(root: Path) -> Iterator[tuple[Path, ast.ClassDef | ast.FunctionDef]]:
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                yield path, node


def main() -> None:
    checkout = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])
    package, tests = checkout / "dg_sqlmesh_component", checkout / "tests"
    for root, depth in ((package, 2), (tests, 1)):
        lines = lines_by_folder(root, depth)
        print(f"{root.name}: {sum(lines.values())} lines")
        for folder, number in sorted(lines.items()):
            print(f"    {folder:20} {number:6}")
    mentions = {
        path.relative_to(package): len(found)
        for path in sorted(package.rglob("*.py"))
        if (found := re.findall(r"\bOutcome\.[A-Z]", path.read_text()))
    }
    print(f"modules that mention a member of Outcome: {len(mentions)}")
    for module, number in mentions.items():
        print(f"    {module}: {number}")
    for path, node in definitions(package):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if isinstance(node, ast.ClassDef) and length > LONG_CLASS:
            print(f"class of {length} lines: {path.relative_to(package)} {node.name}")
        elif isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            number = sum(argument.arg not in ("self", "cls") for argument in arguments)
            if number >= MANY_ARGUMENTS:
                print(f"function with {number} arguments: {path.relative_to(package)} {node.name}")


if __name__ == "__main__":
    main()
