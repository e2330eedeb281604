"""A macro that disturbs runs before a batch of a model."""

DISTURBED = """
import os
import time
from pathlib import Path

from sqlglot import exp
from sqlmesh import macro


@macro()
def disturbed(evaluator, name):
    flag = Path("disturb")
    if evaluator.runtime_stage == "evaluating" and flag.exists():
        model, batches, number, pid = flag.read_text().split()
        if model == name.this and int(batches) > 0:
            flag.write_text(f"{model} {int(batches) - 1} {number} {pid}")
        elif model == name.this:
            flag.unlink()
            if not int(number):
                raise RuntimeError("disturbed")
            os.kill(int(pid) or os.getpid(), int(number))
            time.sleep(1)  # the worker of a killed run learns it meanwhile
    return exp.true()
"""
"""Disturbs a run before a batch of a model: the model fails, or a process is killed. The file says which."""
