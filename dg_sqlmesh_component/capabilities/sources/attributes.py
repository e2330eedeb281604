"""The attributes `wait` and `late` of `external_models`."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal, TypeAlias

from dg_sqlmesh_component.config.durations import Duration, WrittenDuration
from dg_sqlmesh_component.config.external_tables import matches, matching_tables
from dg_sqlmesh_component.config.mappings import Attributes, described, described_text, mapping
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.formatting import block


@dataclass(frozen=True)
class Wait(Attributes, path="external_models.wait"):
    """Whether an interval is computed only if the assets that load its external tables are complete for it.

    Write true, or a mapping with options. By default, intervals are computed whether or not their sources are
    complete.
    """

    tables: Annotated[
        list[str] | None,
        described_text(
            "Wait for these external tables only: names or patterns, with or without a catalog. Default: those in "
            "`keys`, and those that an asset of the code location produces.",
            ["raw.*"],
        ),
    ] = None
    lag: Annotated[
        Duration,
        described(
            "Without partitions, data is complete up to the start of the last load, minus this: seconds, or text such "
            "as 30m. Default: 0.",
            "30m",
            1800,
            written_as=WrittenDuration,
        ),
    ] = timedelta(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tables == []:
            raise ConfigurationError(
                "`external_models.wait.tables` in defs.yaml is an empty list, so no interval would wait. Name a table, "
                "or remove `external_models.wait`."
            )

    def refuse_unknown(self, fqns: Collection[str]) -> None:
        """Raise a ConfigurationError if a pattern matches none of the external tables that models read."""
        matching_tables(self.tables or (), fqns, "external_models.wait.tables")

    def has(self, fqn: str) -> bool:
        """Whether to wait for a table if an asset makes it."""
        return self.tables is None or any(matches(fqn, pattern) for pattern in self.tables)


WaitAttribute: TypeAlias = Annotated[Wait | None, mapping(Wait, True, {"tables": ["raw.*"], "lag": "30m"})]

Late: TypeAlias = Literal["ignore", "warn", "restate"]
LateAttribute: TypeAlias = Annotated[
    Late,
    described(
        "What to do if a partition of an awaited table is loaded again after an interval of it was computed. warn: "
        "the check `sqlmesh_no_late_data` of each incremental model that read it warns until it is computed again. "
        "restate: as warn, and a tick requests that restatement. It needs `restate` and `schedule`. Default: "
        "ignore.",
        "warn",
    ),
]


def refuse_late(attributes: Any) -> None:
    """Refuse `external_models.late` if it lacks something.

    Raises:
        ConfigurationError: No table is awaited, or nothing requests the restatements.
    """
    external = attributes.external_models
    if problem := _problem_of_late(attributes):
        raise ConfigurationError(f"`external_models.late` in defs.yaml is {external.late}. {problem}")


def _problem_of_late(attributes: Any) -> str | None:
    late = attributes.external_models.late
    if late != "ignore" and attributes.external_models.wait is None:
        written = block("external_models:\n  wait: true")
        return f"It compares the tables that the models wait for. Set them as well:{written}"
    if late == "restate" and (not attributes.allows_restatements or getattr(attributes, "schedule", None) is None):
        written = block("restate: true\nschedule: true")
        return f"A tick of the schedule requests the restatements. Set both as well:{written}"
    return None
