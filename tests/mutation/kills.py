"""Find the unit tests that kill each mutant of some modules. mutmut makes the mutants.

python tests/mutation/kills.py dg_sqlmesh_component/run/ledger.py ... -- tests/unit/run ...

`.mutation/` gets a file for each module: for each mutant its line, and the tests that fail. Only code of functions is
mutated. Each mutant gets a fork of the process that has collected the tests, in which functions get its code.
"""

from __future__ import annotations

import ast
import gc
import importlib
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate, islice, zip_longest
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import libcst as cst
import pytest
from _pytest.runner import runtestprotocol
from libcst.metadata import MetadataWrapper, WhitespaceInclusivePositionProvider
from mutmut.mutation import file_mutation, mutators

EVERY = int(os.environ.get("EVERY", "1"))  # 3 tries each third mutant only
SECONDS = 30  # A mutant that takes more time of the processor does not end.
Line = tuple[str, int]
Send = Callable[[object], object]


def in_parentheses(node: Any) -> Any:
    return node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])


# mutmut leaves out conditions without an operator, calls for their effect, results, and functions with a decorator.
file_mutation.mutation_operators += [
    (cst.Expr, lambda node: [cst.Pass()] if isinstance(node.value, cst.Call) else []),
    (cst.If, lambda node: [node.with_changes(test=cst.UnaryOperation(cst.Not(), in_parentheses(node.test)))]),
    (cst.CompIf, lambda node: [node.with_changes(test=cst.Name("True"))]),
    (cst.Return, lambda node: [node.with_changes(value=cst.Name("None"))] if node.value else []),
    (cst.SimpleString, lambda node: islice(mutators.operator_string(node), 1)),  # one other text is enough
]
file_mutation.mutation_operators.remove((cst.BaseString, mutators.operator_string))
skips = file_mutation.MutationVisitor._skip_node_and_children
file_mutation.MutationVisitor._skip_node_and_children = lambda visitor, node: (
    not isinstance(node, cst.FunctionDef) and skips(visitor, node)
)


def codes(code: CodeType) -> Iterator[CodeType]:
    """The code of each function and method that is in no other function."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from [constant] if constant.co_flags & inspect.CO_NEWLOCALS else codes(constant)


def compiled(source: str, file: str) -> CodeType:
    return compile(source, file, "exec", dont_inherit=True)  # a module may evaluate its annotations, this one does not


def mutants(path: Path) -> Iterator[tuple[int, str, str]]:
    """The first line that differs, its new text, and the whole source of each mutant."""
    source = path.read_text()
    module, mutations, *_ = file_mutation.create_mutations(str(path), source)
    positions = MetadataWrapper(module, unsafe_skip_copy=True).resolve(WhitespaceInclusivePositionProvider)
    starts = [0, *accumulate(map(len, source.splitlines(keepends=True)))]
    for mutation in mutations:
        old, new, function = mutation.original_node, mutation.mutated_node, mutation.contained_by_top_level_function
        if not isinstance(function, cst.FunctionDef):
            continue
        if isinstance(old, cst.BaseCompoundStatement):  # its text does not have its indentation
            mutated = file_mutation.deep_replace(module, old, new).code
        else:  # faster
            start, end = (starts[at.line - 1] + at.column for at in (positions[old].start, positions[old].end))
            mutated = source[:start] + module.code_for_node(new) + source[end:]
        lines = zip_longest(source.splitlines(), mutated.splitlines(), fillvalue="")
        for number, (before, after) in enumerate(lines, 1):
            if before != after:
                yield number, after.strip(), mutated
                break


def in_fork(work: Callable[[Send], object], seconds: float = 0) -> list[Any]:
    """What work in another process sends, until it ends or has taken so many seconds of the processor."""
    read, write = os.pipe()
    if not (child := os.fork()):
        signal.setitimer(signal.ITIMER_PROF, seconds)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        status = 1
        try:
            work(lambda message: os.write(write, f"{json.dumps(message)}\n".encode()))
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as lines:
        sent = [json.loads(line) for line in lines]
    return [*sent, "no test: it did not end"] if os.waitpid(child, 0)[1] else sent


def fails(test: pytest.Item) -> bool:
    """Whether a test fails. A test without fixtures is only called, which is faster."""
    assert isinstance(test, pytest.Function)
    parameters = test.callspec.params if hasattr(test, "callspec") else {}
    if {*test.fixturenames} - {*parameters} - {"_servers", "request"}:
        return any(report.failed for report in runtestprotocol(test, nextitem=None, log=False))
    names = parameters.keys() & inspect.signature(test.obj).parameters.keys()
    try:
        test.obj(**{name: parameters[name] for name in names})
    except BaseException:  # noqa: BLE001
        return True
    return False


def lines_of(test: pytest.Item, files: set[str]) -> tuple[bool, list[Line]]:
    """Whether a test fails, and the lines of these files that it runs."""
    seen: set[Line] = set()

    def trace(frame: FrameType, *_: object) -> Any:
        if frame.f_code.co_filename in files:
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            return trace
        return None

    sys.settrace(trace)
    failed = fails(test)
    sys.settrace(None)
    return failed, sorted(seen)


class Mutation:
    """A plugin of pytest that runs the collected tests on each mutant."""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        modules = [importlib.import_module(".".join(path.with_suffix("").parts)) for path in PATHS]
        files = {str(module.__file__): path for module, path in zip(modules, PATHS)}
        functions = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
        functions = [function for function in functions if function.__code__.co_filename in files]
        gc.freeze()
        # A test with random input is slow. It runs only if no other test kills a mutant.
        drawn = [test for test in session.items if hasattr(getattr(test, "obj", None), "hypothesis")]
        others = [test for test in session.items if test not in drawn]
        traced = in_fork(lambda send: [send(lines_of(test, {*files})) for test in others])
        if failing := [test.nodeid for test, (failed, _) in zip(others, traced) if failed]:
            raise pytest.UsageError(f"These tests fail without a mutant: {failing}")
        for file, path in files.items():
            found = []
            original = [*codes(compiled(path.read_text(), file))]
            statements = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.stmt)]
            spans = [range(node.lineno, (node.end_lineno or 0) + 1) for node in statements]
            for line, text, source in islice(mutants(path), 0, None, EVERY):
                changed = codes(compiled(source, file))
                mutated = {old: new for old, new in zip(original, changed) if old != new}
                innermost = min((span for span in spans if line in span), key=lambda span: span.stop - span.start)
                statement = {(file, number) for number in innermost}
                run = [test for test, (_, lines) in zip(others, traced) if statement & {*map(tuple, lines)}]
                killers = in_fork(lambda send: kill(send, functions, mutated, run, drawn), SECONDS)  # noqa: B023
                found.append({"line": line, "text": text, "killed_by": killers})
            Path(".mutation").mkdir(exist_ok=True)
            Path(".mutation", f"{'.'.join(path.with_suffix('').parts[1:])}.json").write_text(
                json.dumps(found, indent=0)
            )
            survivors = [f"{path}:{mutant['line']}: {mutant['text']}" for mutant in found if not mutant["killed_by"]]
            print(f"{path}: {len(found) - len(survivors)} of {len(found)} mutants killed", *survivors, sep="\n")
        return True


def kill(send: Send, functions: list[FunctionType], mutated: Any, run: list[Any], drawn: list[Any]) -> None:
    """Send the names of the tests that kill a mutant."""
    for function in functions:
        if function.__code__ in mutated:
            function.__code__ = mutated[function.__code__]
    if not [send(test.nodeid) for test in run if fails(test)]:
        for test in drawn:
            if fails(test):
                send(test.nodeid)
                return


if __name__ == "__main__":
    at = sys.argv.index("--")
    PATHS = [*map(Path, sys.argv[1:at])]
    options = ["--hypothesis-profile=mutation", "--assert=plain", "--tb=native", "-q"]
    options += [f"-pno:{plugin}" for plugin in ("cacheprovider", "xdist", "timeout", "faulthandler")]
    sys.exit(pytest.main([*options, *sys.argv[at + 1 :]], plugins=[Mutation()]))
