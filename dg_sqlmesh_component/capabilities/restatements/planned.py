"""The words of a planned restatement, before SQLMesh computes anything. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from dg_sqlmesh_component.history.costs import RecordedCost
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import counted, decimal_text, listed
from dg_sqlmesh_component.report.wording import Wording, computed_text


def restatement_log(wording: Wording, planned: msg.RestatementPlanned, costs: Mapping[str, RecordedCost]) -> str:
    """The log line of a planned restatement: each model with its range, and what else it means. Costs are by fqn."""
    restated = {fqn: number for fqn, (_, number) in planned.ranges.items() if fqn not in planned.only_pending}
    lines = [
        f"This run restates {counted(len(restated), 'model')}, {counted(sum(restated.values()), 'interval')}. "
        f"{_estimate(wording, planned, costs)}",
        *(
            f"    {wording.assets.name(fqn)}: {range_} ({counted(number, 'interval')})"
            for fqn, (interval, number) in planned.ranges.items()
            for range_ in [computed_text(wording.assets, fqn, [interval])]
        ),
    ]
    downstream = [fqn for fqn in planned.added if fqn in restated]
    for models, why in (
        (downstream, "Not selected, but downstream of a restated model, so SQLMesh computes them again"),
        (planned.later, "Left to later steps of this run"),
        (planned.only_pending, "Not restated, but read by restated models, so SQLMesh computes pending intervals"),
    ):
        if models:
            lines.append(f"{why}: {listed(list(map(wording.assets.name, models)))}.")
    if planned.left_out:
        left_out = [f"{wording.assets.name(fqn)} ({why})" for fqn, why in planned.left_out.items()]
        lines.append(f"Left out: {listed(left_out)}.")
    if planned.environments:
        names = ", ".join(f"{name} ({counted(number, 'model')})" for name, number in planned.environments.items())
        lines.append(f"These environments lose the same intervals of their own versions: {names}.")
    return "\n".join(lines)


def restatement_metadata(
    wording: Wording, planned: msg.RestatementPlanned, costs: Mapping[str, RecordedCost]
) -> dict[str, dg.MetadataValue]:
    """The same as metadata of the step."""
    records = [
        dg.TableRecord(
            {
                "model": wording.assets.name(fqn),
                "range": computed_text(wording.assets, fqn, [interval]),
                "intervals": number,
                "selected": fqn not in planned.added,
            }
        )
        for fqn, (interval, number) in planned.ranges.items()
    ]
    metadata: dict[str, dg.MetadataValue] = {"sqlmesh/restated": dg.MetadataValue.table(records)}
    if estimate := RecordedCost.total(list(costs.values())):
        metadata["sqlmesh/estimated_seconds"] = dg.MetadataValue.float(estimate.seconds)
        for key, value in (("sqlmesh/estimated_rows", estimate.rows), ("sqlmesh/estimated_bytes", estimate.bytes)):
            if value is not None:
                metadata[key] = dg.MetadataValue.int(round(value))
    if planned.environments:
        metadata["sqlmesh/environments_without_intervals"] = dg.MetadataValue.json(planned.environments)
    return metadata


def _estimate(wording: Wording, planned: msg.RestatementPlanned, costs: Mapping[str, RecordedCost]) -> str:
    estimate = RecordedCost.total(list(costs.values()))
    if estimate is None:
        return "Dagster has no record of an earlier computation, so there is no estimate."
    parts = [f"{decimal_text(estimate.seconds)} seconds of computation"]
    for value, noun in ((estimate.rows, "row"), (estimate.bytes, "byte")):
        if value is not None:
            parts.append(counted(round(value), noun))
    text = f"Estimate, from earlier runs: {', '.join(parts)}."
    if without := sorted(planned.ranges.keys() - costs.keys()):
        names = listed(list(map(wording.assets.name, without)))
        text += f" It leaves out {names}, without an earlier record."
    return text
