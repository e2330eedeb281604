"""A signal for the models of tests."""

IS_OPEN = """
from pathlib import Path

from sqlmesh import signal


@signal()
def is_open(batch):
    return not Path("closed").exists()
"""
"""It is ready unless the project has a file `closed`. The file is `signals/__init__.py`."""
