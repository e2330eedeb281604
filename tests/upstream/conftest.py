"""Reports a failure in this folder as a change of an upstream library."""

import sys
from collections.abc import Generator
from importlib import metadata
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLMesh load and render in the test process. A fork of it takes longer, and may crash in DuckDB."""
    if constants := sys.modules.get("sqlmesh.core.constants"):
        monkeypatch.setattr(constants, "MAX_FORK_WORKERS", 1)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, Any, None]:
    """Report the library, its version, the fact that is no longer true, and the decision that needs it."""
    report = (yield).get_result()
    if report.when == "call" and report.failed:
        library = item.path.stem.removeprefix("test_").partition("_")[0]
        fact = item.name.removeprefix("test_").replace("_", " ")
        supports = (item.function.__doc__ or "").strip()
        report.sections.append(
            (f"{library} {metadata.version(library)} changed", f"No longer true: {fact}\nNeeded for: {supports}")
        )
