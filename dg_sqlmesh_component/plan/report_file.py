"""The file that somebody asked for, to which the jobs for plans and previews write their report."""

from __future__ import annotations

import os
from dataclasses import replace

import dagster as dg

from dg_sqlmesh_component.plan.gate import Refusal
from dg_sqlmesh_component.plan.report import REPORT_VARIABLE, PlanReport
from dg_sqlmesh_component.protocol.errors import ConfigurationError

_UNFINISHED = Refusal(
    "error", (), "The job has not finished. If its run is not in progress, the run's page in Dagster says how it ended."
)


def begin_report(report: PlanReport) -> None:
    """Write that the job has not finished, so that nobody reads the report of an earlier job as this one's.

    Raises:
        dagster.Failure: The file cannot be written. The job must not do anything.
    """
    try:
        _write(replace(report, refusals=[_UNFINISHED]))
    except ConfigurationError as error:
        raise dg.Failure(f"{error} Nothing was done.", allow_retries=False) from None


def write_report(report: PlanReport, log: dg.DagsterLogManager) -> None:
    """Write the report. What the job has done stays done if that fails, for example because the disk is full."""
    try:
        _write(report)
    except ConfigurationError as error:
        log.error(str(error))


def _write(report: PlanReport) -> None:
    if path := os.environ.get(REPORT_VARIABLE):
        report.write(path)
