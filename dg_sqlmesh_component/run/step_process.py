"""Whether this process was started for a step of ours, known before anything is loaded.

The step needs SQLMesh's process, which takes seconds to import SQLMesh; what Dagster does before the step can run
beside it. Dagster does not say publicly what a process was started for. Where it cannot be told, nothing is lost but
those seconds. Held in place by tests/engine/test_steps.py.
"""

from __future__ import annotations

import multiprocessing
import re

from dagster._core.executor.multiprocess import MultiprocessExecutorChildProcessCommand


def is_step_of_this_process(op: str) -> bool:
    """Whether the multiprocess executor has started this process to run the op, or a part of it when it is split."""
    arguments = getattr(multiprocessing.current_process(), "_args", ())
    steps = [one.step_key for one in arguments if isinstance(one, MultiprocessExecutorChildProcessCommand)]
    return any(re.fullmatch(rf"{re.escape(op)}(_\d+)?", step) for step in steps)
