"""What a run would do with each model now, and why: the answer of a dry run. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import dagster as dg

from dg_sqlmesh_component.protocol.formatting import as_sentence, counted, in_column, utc_text
from dg_sqlmesh_component.report.metadata import unapplied_change
from dg_sqlmesh_component.report.outcomes import NodeOutcome, Outcome
from dg_sqlmesh_component.report.wording import Wording, computed_text


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a run would do with one node."""

    model: str
    outcome: str  # the outcome, if no batch and no audit fails that did not fail last time
    why: str
    intervals: str  # the range that it would compute, as in the metadata of a materialization
    batches: int
    seconds: float | None  # the estimate for the sum of the batches; None if Dagster has no record of the model
    # What differs between the manifest and the promoted version: "data", "metadata" or None.
    changed_locally: str | None


def predicted(
    wording: Wording,
    outcome: NodeOutcome,
    seconds: float | None,
    failed_audits: Sequence[str],
    blocked_by: Sequence[str],
) -> Prediction:
    """The prediction of one node, by its outcome if each planned batch finishes.

    `failed_audits` are its blocking audits that failed when they were last evaluated, `blocked_by` the nodes upstream
    that would be executed and have such audits.
    """
    reasons = [_why(wording, outcome)]
    kind = outcome.outcome
    if kind is Outcome.EXECUTED and failed_audits:
        reasons.append(f"The last time, its blocking audit failed: {', '.join(failed_audits)}.")
    if kind is Outcome.EXECUTED and blocked_by:
        kind = Outcome.BLOCKED
        reasons.insert(
            0,
            f"A blocking audit of {wording.names(blocked_by)} failed the last time. If it passes now, this model runs.",
        )
    change = unapplied_change(wording.assets, outcome.fqn, outcome.promoted) if outcome.promoted else None
    if change:
        reasons.append(f"The manifest has another version ({change} differs): the promoted version runs.")
    return Prediction(
        model=wording.assets.name(outcome.fqn),
        outcome=kind.value,
        why=" ".join(reasons),
        intervals=computed_text(wording.assets, outcome.fqn, outcome.intervals) if outcome.intervals else "",
        batches=outcome.finished_batches,
        seconds=None if seconds is None else round(seconds, 1),
        changed_locally=change,
    )


def _why(wording: Wording, outcome: NodeOutcome) -> str:
    match outcome.outcome:
        case Outcome.EXECUTED:
            text = computed_text(wording.assets, outcome.fqn, outcome.intervals)
            pending = f"{counted(outcome.finished_batches, 'batch', 'batches')} to compute: {text}."
            return pending + wording.others_waiting(outcome)
        case Outcome.UP_TO_DATE:
            due = f" Next due at {utc_text(outcome.idle.next_due)}." if outcome.idle.next_due else ""
            return as_sentence(f"Nothing to do: {outcome.idle.reason}") + due
        case Outcome.WAITING:
            return as_sentence(f"It waits: {wording.awaited(outcome)}")
        case Outcome.FAILED:  # refused: nothing has run that could fail
            return " ".join(outcome.errors)
        case _:
            return wording.summary(outcome)


def prediction_line(wording: Wording, predictions: Sequence[Prediction]) -> str:
    """How many models would have each outcome, and how long the run would compute."""
    numbers = Counter(prediction.outcome.replace("_", " ") for prediction in predictions)
    counts = ", ".join(f"{number} {outcome}" for outcome, number in numbers.most_common()) or "no model"
    known = [prediction.seconds for prediction in predictions if prediction.seconds is not None]
    unknown = sum(prediction.batches > 0 and prediction.seconds is None for prediction in predictions)
    estimate = f" About {sum(known):.0f} seconds of computation, as in earlier runs." if known else ""
    if estimate and unknown:
        estimate += f" Without a record, and not counted: {counted(unknown, 'model')}."
    outcomes = f"Outcomes of a run now: {counts}.{estimate}"
    return f"Dry run of environment {wording.environment}. {outcomes} Nothing was computed."


def prediction_log(line: str, predictions: Sequence[Prediction]) -> str:
    """The line, and one more for each model."""
    models = [
        f"    {prediction.model}: {prediction.outcome.replace('_', ' ')}. {prediction.why}"
        + (f" About {prediction.seconds:.0f} seconds." if prediction.seconds is not None else "")
        for prediction in predictions
    ]
    return "\n".join([line, *models])


def prediction_metadata(predictions: Sequence[Prediction]) -> dict[str, dg.MetadataValue]:
    """All predictions: the columns that people read as a table, and all fields as JSON."""
    if not predictions:
        return {}
    columns = [dg.TableColumn(name) for name in ("model", "outcome", "why")]
    schema = dg.TableSchema([*columns, dg.TableColumn("seconds", "float")])
    records = [
        dg.TableRecord({"model": it.model, "outcome": it.outcome, "why": in_column(it.why), "seconds": it.seconds})
        for it in predictions
    ]
    return {
        "sqlmesh/dry_run": dg.MetadataValue.table(records, schema),
        "sqlmesh/dry_run_json": dg.MetadataValue.json(list(map(asdict, predictions))),
    }
