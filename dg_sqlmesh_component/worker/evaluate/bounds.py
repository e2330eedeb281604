"""`start` and `end` of the run config, as SQLMesh resolves them."""

from __future__ import annotations

from sqlmesh.utils.date import is_date, to_datetime, to_timestamp

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import utc_text

_DAY = 24 * 60 * 60 * 1000


def resolved_range(request: msg.EvaluationRequest) -> str:
    """The range of the run or restatement as text, `from <instant> to <instant>`; empty without `start` and `end`.

    Raises:
        ConfigurationError: SQLMesh cannot parse them, or the range is empty.
    """
    wanted = request.restate or request
    bounds = {}
    for name, text in (("start", wanted.start), ("end", wanted.end)):
        if text is None:
            continue
        try:
            bounds[name] = to_timestamp(text, relative_base=to_datetime(request.execution_time))
        except Exception as error:  # dateparser's errors are of many classes
            raise ConfigurationError(
                f"SQLMesh cannot parse {name} {text!r} of the run config as a date or time. "
                "Write a date, an instant or words such as '1 week ago'."
            ) from error
    if len(bounds) == 2 and bounds["start"] > bounds["end"]:
        raise ConfigurationError(
            f"In the run config, start {wanted.start!r} ({utc_text(bounds['start'])}) is after end {wanted.end!r} "
            f"({utc_text(bounds['end'])}), so nothing would be computed. Correct one of them."
        )
    if wanted.end is not None and is_date(wanted.end):  # SQLMesh includes that day
        bounds["end"] += _DAY
    return " ".join(
        f"{word} {utc_text(bounds[name])}" for word, name in (("from", "start"), ("to", "end")) if name in bounds
    )
