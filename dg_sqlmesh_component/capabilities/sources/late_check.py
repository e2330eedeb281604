"""The check for late data: which models have it, its result, and what the result remembers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pydantic import TypeAdapter

from dg_sqlmesh_component.config.component_attributes import ComponentAttributes
from dg_sqlmesh_component.definitions.translator import LATE_DATA_CHECK
from dg_sqlmesh_component.definitions.upstream import Upstream, tables_behind_views
from dg_sqlmesh_component.history.earlier_results import check_result
from dg_sqlmesh_component.history.stored_record import internal, internal_part
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import listed, ranges
from dg_sqlmesh_component.protocol.intervals import common, subtract
from dg_sqlmesh_component.protocol.manifest import Model
from dg_sqlmesh_component.report.intervals_check import before_start_sentence
from dg_sqlmesh_component.report.wording import Wording, restate_config

_NOTHING_READ = msg.PromotedReads("", ())


@dataclass(frozen=True)
class Compared:
    """The result of a comparison of a model with the loads of its sources. Later runs and ticks read its metadata."""

    newest: int = 0  # the storage id of the newest load that was compared
    late: tuple[msg.Interval, ...] = ()  # computed ranges whose source was loaded after they were computed
    at: int = 0  # nobody had computed these ranges again until then, epoch milliseconds
    # The version of the model that was compared, and the tables that it reads.
    reads: msg.PromotedReads = _NOTHING_READ
    # What the model had computed then. Loads of these ranges that are newer than `newest` came later.
    computed: tuple[msg.Interval, ...] = ()

    def reading(self, reads: msg.PromotedReads) -> Compared:
        """This comparison if the tables are the same. If the version reads others now, only its late ranges."""
        return self if self.reads == reads else Compared(late=self.late, at=self.at, reads=reads)

    @property
    def metadata(self) -> dict[str, Any]:
        return internal(compared_loads=_STORED.dump_python(self, mode="json"))

    @classmethod
    def stored_in(cls, metadata: Mapping[str, dg.MetadataValue]) -> Compared | None:
        value = internal_part(metadata, "compared_loads")
        return None if value is None else _STORED.validate_python(value)


_STORED = TypeAdapter(Compared)


def late_data_specs(
    attributes: ComponentAttributes, upstream: Upstream, model: Model, key: dg.AssetKey
) -> Iterator[dg.AssetCheckSpec]:
    """The check of an incremental model that reads an awaited table, unless `external_models.late` ignores it."""
    compares_loads = attributes.external_models.late != "ignore" and model.is_incremental
    tables = tables_behind_views(model, upstream.models) if compares_loads else set()
    if not tables.isdisjoint(upstream.awaited):  # this also refuses a name of `wait.tables` that no model reads
        text = "Warns if a partition of a source was loaded after the model was computed for it."
        yield dg.AssetCheckSpec(LATE_DATA_CHECK, asset=key, description=text)


def late_data_result(
    wording: Wording,
    check: dg.AssetCheckKey,
    compared: Compared,
    sources: tuple[Sequence[str], Sequence[str]],
    before_start: Sequence[msg.Interval] = (),
) -> dg.AssetCheckResult:
    """Whether a source was loaded after a model had read it.

    Args:
        sources: As in `LoadComparison.names_of`.
        before_start: The ranges before the model's `start`, also others.
    """
    name = wording.assets.name(wording.assets.node_by_check[check])
    with_windows, others = sources
    if compared.late:
        text = f"{listed(with_windows)} was loaded after {name} was computed for {ranges(compared.late)}."
        if restated := subtract(compared.late, before_start):
            config = restate_config(restated[0][0], restated[-1][1])
            text += f" To read the new rows, launch a run of the model with `{config}` in the run config."
        text += before_start_sentence(name, common(compared.late, before_start))
    elif with_windows:
        text = f"No partition of {listed(with_windows)} was loaded after {name} was computed for it."
    else:
        text = f"No asset with time-window partitions loads what {name} reads."
    if others:
        text += f" Not compared, because it has no time-window partitions: {listed(others)}."
    metadata = {**({"sqlmesh/late": ranges(compared.late)} if compared.late else {}), **compared.metadata}
    return check_result(check, not compared.late, dg.AssetCheckSeverity.WARN, text, metadata)
