"""Count what a newcomer has to read: lines of code of each room, long classes, functions with many arguments, tests.

python benchmarks/weight.py [folder of another checkout]
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LONG_CLASS, MANY_ARGUMENTS = 200, 6


NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(text: str) -> int:
    """Lines that are neither empty nor only a comment or a text by itself, such as a docstring."""
    texts = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = (token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in NO_CODE)
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - texts)


def lines_by_folder(root: Path, depth: int) -> dict[str, tuple[int, int]]:
    """Lines of Python files and those with code, by the first folders of their path."""
    lines: Counter[str] = Counter()
    code: Counter[str] = Counter()
    for path in root.rglob("*.py"):
        folder = "/".join(path.relative_to(root).parts[:-1][:depth]) or "(top)"
        lines[folder] += len(path.read_text().splitlines())
        code[folder] += code_lines(path.read_text())
    return {folder: (lines[folder], code[folder]) for folder in sorted(lines)}


def lines_by_capability(package: Path) -> dict[str, tuple[int, int]]:
    """Lines of Python files and those with code, of the core and of each capability."""
    sums = {"core": (0, 0)}
    for folder, (number, code) in lines_by_folder(package, 2).items():
        name = folder.removeprefix("capabilities/") if folder.startswith("capabilities/") else "core"
        lines, of_code = sums.get(name, (0, 0))
        sums[name] = (lines + number, of_code + code)
    return sums


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
        number, code = map(sum, zip(*lines.values(), strict=True))
        print(f"{root.name}: {number} lines, {code} of them code")
        for folder, (number, code) in lines.items():
            print(f"    {folder:20} {number:6} {code:6}")
    print("the core, and each capability")
    for name, (number, code) in lines_by_capability(package).items():
        print(f"    {name:20} {number:6} {code:6}")
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
