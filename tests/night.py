"""Which tests CI leaves to `make nightly`, read from their marks."""

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parent
_MARKS = ("pytest.mark.night", "pytest.mark.slow")


def is_left_to_the_night(node: ast.AST, module: ast.Module) -> bool:
    """Whether a test or a class, or its whole module, has a mark of tests that CI leaves out.

    A parameter may have it for some of its values. CI runs such a test with the others.
    """
    marks = list(getattr(node, "decorator_list", ()))
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "pytestmark":
            marks += statement.value.elts if isinstance(statement.value, ast.List) else [statement.value]
    return any(ast.unparse(mark).startswith(_MARKS) for mark in marks)
