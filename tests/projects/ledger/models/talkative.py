"""A Python model that says things, and tells what its process has imported."""

import logging
import os
import sys
import typing as t
from datetime import datetime

import pandas as pd
from sqlmesh import ExecutionContext, model


@model("t.talkative", kind="FULL", columns={"dagster_imported": "boolean", "pid": "bigint"})
def execute(
    context: ExecutionContext, start: datetime, end: datetime, execution_time: datetime, **kwargs: t.Any
) -> pd.DataFrame:
    print("said with print")
    print("said on stderr", file=sys.stderr)
    os.system("echo said by a subprocess")
    logging.getLogger("a.driver").warning("said by a logger")
    return pd.DataFrame({"dagster_imported": ["dagster" in sys.modules], "pid": [os.getpid()]})
