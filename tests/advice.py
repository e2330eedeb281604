"""The texts of the package that advise something, and the tests that do what they say.

A text advises if a sentence, or a part of it after a comma or a colon, begins with an imperative. "Run {} has"
and "Plan {} was" name a run and a plan. Docstrings and the descriptions of attributes are no advice: a page is read
before something has happened. SQL neither.

A test that reaches the state, does literally what the text says and sees what it promises is marked with
`@pytest.mark.advice("a part of the text", ...)`, or is a row of a table: `advised("a part of the text", ...)`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NOT_REACHED = {
    "The run that holds SQLMesh's state cannot be named": "SQL Server runs on no machine of the tests. The statement "
    "is that of its documentation; tests/unit/worker/test_lock_session.py answers as it does."
}
"""The texts that no test can follow, by a part of the text, with the reason."""

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "dg_sqlmesh_component"
WITHOUT_STORY = Path(__file__).with_name("advice_without_story.txt")

_VERBS = [
    "add",
    "allow",
    "answer",
    "apply",
    "ask",
    "call",
    "cancel",
    "change",
    "check",
    "choose",
    "close",
    "compute",
    "configure",
    "copy",
    "correct",
    "create",
    "declare",
    "delete",
    "drop",
    "edit",
    "enable",
    "end",
    "execute",
    "filter",
    "finish",
    "fix",
    "give",
    "grant",
    "ignore",
    "increase",
    "install",
    "keep",
    "launch",
    "leave",
    "let",
    "limit",
    "list",
    "load",
    "lower",
    "make",
    "map",
    "materialize",
    "merge",
    "migrate",
    "move",
    "name",
    "open",
    "pass",
    "plan",
    "point",
    "press",
    "promote",
    "put",
    "raise",
    "refresh",
    "reload",
    "remove",
    "rename",
    "repeat",
    "replace",
    "report",
    "restart",
    "restate",
    "restore",
    "review",
    "run",
    "select",
    "set",
    "skip",
    "start",
    "state",
    "stop",
    "try",
    "turn",
    "type",
    "unset",
    "upgrade",
    "use",
    "wait",
    "write",
]
_IMPERATIVE = re.compile(
    r"(?:^|[.:;?)] |, |\n|\b(?:and|or|then|first|once) )(?:then |first )?(?!run \{\}$)"
    rf"(?:{'|'.join(f'[{verb[0].upper()}{verb[0]}]{verb[1:]}' for verb in _VERBS)})"
    r"(?= (?!of\b|is\b|has\b|are\b|for environment\b|after \{\}|application\b"
    r"|\{\} (?:is|was|has|of|applies|could not|cannot)\b))"
)


@dataclass(frozen=True, order=True)
class Advice:
    """A text that advises something.

    Attributes:
        module: Its file, relative to the package.
        text: The text. `{}` stands for each value that is filled in.
    """

    module: str
    text: str

    def __str__(self) -> str:
        return f"{self.module}: {self.text}".replace("\n", "\\n")


def all_advice() -> set[Advice]:
    """Return the texts of the package that advise something."""
    modules = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    return {
        Advice(path.relative_to(PACKAGE).as_posix(), text)
        for path, tree in modules.items()
        for text in _texts(tree)
        if _advises(text)
    }


def _advises(text: str) -> bool:
    return " " in text.strip() and not text.isupper() and bool(_IMPERATIVE.search(text))


def _texts(tree: ast.AST) -> Iterator[str]:
    """Yield each text of a module, except docstrings and descriptions of attributes."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue  # a docstring
        if isinstance(child, ast.Call) and ast.unparse(child.func).startswith("described"):
            continue
        if isinstance(child, ast.keyword) and child.arg in ("description", "help"):
            continue
        if isinstance(child, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in child.values)
            for part in child.values:
                if isinstance(part, ast.FormattedValue):
                    yield from _texts(part)
        elif isinstance(child, ast.Constant):
            if isinstance(child.value, str):
                yield child.value
        else:
            yield from _texts(child)


def stories() -> dict[str, list[str]]:
    """Return the parts of texts that tests name as theirs, with the files of these tests."""
    found: dict[str, list[str]] = {}
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func)
            parts = call.args if name == "pytest.mark.advice" else call.args[:1] if name == "advised" else ()
            for part in parts:
                found.setdefault(ast.literal_eval(part), []).append(path.name)
    return found
