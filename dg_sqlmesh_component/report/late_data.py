"""The check that shows whether a source was loaded after a model had read it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from dg_sqlmesh_component.history.late_loads import Compared
from dg_sqlmesh_component.protocol.formatting import listed, ranges
from dg_sqlmesh_component.report.wording import Wording, restate_config


def late_data_result(
    wording: Wording, check: dg.AssetCheckKey, compared: Compared, sources: tuple[Sequence[str], Sequence[str]]
) -> dg.AssetCheckResult:
    """The result after a comparison.

    Args:
        sources: The names of the assets that load what the model reads: with time windows, and without.
    """
    name = wording.assets.name(wording.assets.node_by_check[check])
    with_windows, others = sources
    if compared.late:
        text = (
            f"{listed(with_windows)} was loaded after {name} was computed for {ranges(compared.late)}. "
            "To read the new rows, launch a run of the model with "
            f"`{restate_config(compared.late[0][0], compared.late[-1][1])}` in the run config."
        )
    elif with_windows:
        text = f"No partition of {listed(with_windows)} was loaded after {name} was computed for it."
    else:
        text = f"No asset with time-window partitions loads what {name} reads."
    if others:
        text += f" Not compared, because it has no time-window partitions: {listed(others)}."
    return dg.AssetCheckResult(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=not compared.late,
        severity=dg.AssetCheckSeverity.WARN,
        description=text,
        metadata={**({"sqlmesh/late": ranges(compared.late)} if compared.late else {}), **compared.metadata},
    )
