"""What a step asks about data that was loaded late. `capabilities/sources` answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import dagster as dg

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.report.wording import Wording


class LoadComparison(Protocol):
    """The loads of models' sources that were not compared yet."""

    @property
    def loads(self) -> msg.Loads:
        """The new loads of each model's sources, and the ranges that are known as late."""

    def was_late(self, fqn: str) -> bool:
        """Whether the last result of a model's check names late ranges."""

    def result(
        self,
        wording: Wording,
        check: dg.AssetCheckKey,
        late: Sequence[msg.Interval],
        computed: Sequence[msg.Interval] | None = None,
        *,
        is_new: bool = False,
        before_start: Sequence[msg.Interval] = (),
    ) -> dg.AssetCheckResult:
        """The result of a model's check.

        Args:
            late: The ranges that are late, of the loads above.
            computed: The computed intervals of the model; None for those that it had at the last comparison.
            is_new: Whether the run has computed some of them.
            before_start: The ranges before the model's `start`, also others.
        """


class SourceLoads(Protocol):
    """The loads of the tables that models read, as Dagster has them at the moment of each question."""

    def compare(self, models: Collection[str], reads: Mapping[str, msg.PromotedReads] | None = None) -> LoadComparison:
        """Compare the loads of the models' sources. `reads` is what the promoted versions read."""

    def newest_awaited(self) -> dict[dg.AssetKey, int]:
        """The storage id of the newest load of each awaited table."""

    def result_of_plan(
        self,
        wording: Wording,
        check: dg.AssetCheckKey,
        reads: msg.PromotedReads,
        computed: Sequence[msg.Interval],
        newest: Mapping[dg.AssetKey, int],
    ) -> dg.AssetCheckResult | None:
        """The check of a model that a plan has computed; None if nothing was loaded since `newest`."""
