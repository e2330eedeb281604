"""Makes `import sqlglot` read its source files where compiled twins stand beside them.

`dagster-dbt` brings along `sqlglotc`, sqlglot compiled by mypyc. SQLMesh subclasses sqlglot's classes,
which compiled ones do not allow: `import sqlmesh` ends in "interpreted classes cannot inherit from
compiled". In a process of our own, before anything has imported sqlglot, the compiled files can be
passed over, and SQLMesh then works in the very same environment (ADR-0010).
"""

from __future__ import annotations

import sys
from importlib.abc import PathEntryFinder
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    SOURCE_SUFFIXES,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from importlib.util import find_spec
from pathlib import Path


def prefer_sqlglot_sources() -> None:
    """Answer for the folders of the sqlglot package with a finder that knows no extension modules."""
    spec = find_spec("sqlglot")
    roots = [Path(folder).resolve() for folder in (spec.submodule_search_locations or [])] if spec else []
    sources_only = FileFinder.path_hook((SourceFileLoader, SOURCE_SUFFIXES), (SourcelessFileLoader, BYTECODE_SUFFIXES))

    def find(path: str) -> PathEntryFinder:
        folder = Path(path).resolve()
        if any(folder == root or root in folder.parents for root in roots):
            return sources_only(path)
        raise ImportError(path)  # how a path hook says that another one should answer

    sys.path_hooks.insert(0, find)
    sys.path_importer_cache.clear()
