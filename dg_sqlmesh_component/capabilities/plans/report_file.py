"""The file that somebody asked for, to which the jobs for plans and previews write their report."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import dagster as dg

from dg_sqlmesh_component.capabilities.plans.gate import Refusal
from dg_sqlmesh_component.capabilities.plans.report import PlanReport
from dg_sqlmesh_component.capabilities.plans.report_markdown import is_reviewable, markdown
from dg_sqlmesh_component.protocol.errors import ConfigurationError

REPORT_VARIABLE = "DG_SQLMESH_REPORT"
"""Environment variable: the file to which a job writes its report, in the format of its suffix. Without one: two."""

_UNFINISHED = Refusal(
    "error", (), "The job has not finished. If its run is not in progress, the run's page in Dagster says how it ended."
)


def begin_report(report: PlanReport) -> None:
    """Write that the job has not finished, so that nobody reads the report of an earlier job as this one's.

    Raises:
        dagster.Failure: The file cannot be written. The job must not do anything.
    """
    try:
        _write(replace(report, problems=[_UNFINISHED]))
    except ConfigurationError as error:
        raise dg.Failure(f"{error} Nothing was done.", allow_retries=False) from None


def write_report(report: PlanReport, log: dg.DagsterLogManager) -> None:
    """Write the report. What the job has done stays done if that fails, for example because the disk is full."""
    try:
        _write(report)
    except ConfigurationError as error:
        log.error(str(error))


def _write(report: PlanReport) -> None:
    """Write the report, if somebody asked for it.

    Raises:
        ConfigurationError: The file has another suffix, or cannot be written.
    """
    if not (path := os.environ.get(REPORT_VARIABLE)):
        return
    file = Path(path)
    if file.suffix not in (".md", ".json", ""):
        raise ConfigurationError(
            f"The environment variable {REPORT_VARIABLE} names {path}. The name must end in .md or .json, or have no "
            "suffix: then both files are written."
        )
    try:
        if file.suffix != ".json":
            file.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
        if file.suffix != ".md":
            # Without them, CI cannot apply what nobody could read. The page of the run has them.
            hidden = {} if is_reviewable(report) else {"digest": "", "command": None}
            text = json.dumps({**report.as_json(), **hidden}, indent=2) + "\n"
            file.with_suffix(".json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"The report cannot be written to {path}, which the environment variable {REPORT_VARIABLE} names: "
            f"{error.strerror}."
        ) from error
