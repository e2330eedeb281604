"""Make `import sqlglot` load source files, even if compiled modules are installed in the same folders.

`dagster-dbt` installs `sqlglotc`, sqlglot compiled by mypyc. SQLMesh subclasses sqlglot's classes,
which compiled classes do not allow: `import sqlmesh` ends in "interpreted classes cannot inherit from
compiled". The worker has a process of its own. If it ignores the compiled files before anything imports
sqlglot, SQLMesh works in the same Python environment (ADR-0010).
"""

from __future__ import annotations

import sys
from importlib.abc import PathEntryFinder
from importlib.machinery import BYTECODE_SUFFIXES, SOURCE_SUFFIXES, FileFinder, SourceFileLoader, SourcelessFileLoader
from importlib.util import find_spec
from pathlib import Path


def prefer_sqlglot_sources() -> None:
    """For the folders of the sqlglot package, install a finder that ignores extension modules."""
    spec = find_spec("sqlglot")
    roots = [Path(folder).resolve() for folder in (spec.submodule_search_locations or [])] if spec else []
    sources_only = FileFinder.path_hook((SourceFileLoader, SOURCE_SUFFIXES), (SourcelessFileLoader, BYTECODE_SUFFIXES))

    def find(path: str) -> PathEntryFinder:
        folder = Path(path).resolve()
        if any(folder.is_relative_to(root) for root in roots):
            return sources_only(path)
        raise ImportError(path)  # by this, Python knows to ask the next path hook

    sys.path_hooks.insert(0, find)
    sys.path_importer_cache.clear()
