"""The sentences about the causes for which intervals of a model wait: one for each kind of cause. Pure.

Outcomes, failures, dry runs and ticks use them. `worker/intervals/causes.py` decides what the causes are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dg_sqlmesh_component.definitions.awaited import Source
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.formatting import counted, listed, ranges

MAX_CAUSES = 3
"""How many of the sources are named for which a model waits."""


@dataclass(frozen=True)
class CauseWording:
    """Describes causes.

    Attributes:
        sources: The awaited tables, by fqn.
        bounds: Those of `start`, `end` and `restate` that the run config has.
    """

    assets: ProjectAssets
    sources: Mapping[str, Source] = field(default_factory=dict)
    bounds: Sequence[str] = ()

    def text(self, fqn: str, held_back: msg.HeldBack, *, is_part: bool = False) -> str:
        """What a model waits for: clauses after "is waiting:", without the last full stop. They may end with advice.

        Args:
            is_part: Whether other intervals of it were ready.
        """
        sentences: Mapping[msg.CauseKind, Callable[[Sequence[msg.Cause]], Iterable[str]]] = {
            "failed": self._failed,
            "signal": lambda causes: self._signals(fqn, causes, is_part=is_part),
            "source": lambda causes: [self._sources(fqn, causes, held_back)],
            "own": self._own,
            "bounds": self._bounds,
            "not_computed": self._not_computed,
            "unselected": self._unselected,
        }
        clauses = [
            clause
            for kind, sentence in sentences.items()
            if (causes := [cause for cause in held_back.causes if cause.kind == kind])
            for clause in sentence(causes)
        ]
        return "; ".join(clauses)

    def _failed(self, causes: Sequence[msg.Cause]) -> Iterable[str]:
        yield f"a model upstream of it failed: {self._names(causes)}"

    def _signals(self, fqn: str, causes: Sequence[msg.Cause], *, is_part: bool) -> Iterator[str]:
        for cause in causes:
            signals = ", ".join(cause.signals)
            if cause.of != fqn:
                yield f"upstream model {self.assets.name(cause.of)} is waiting for its signal {signals}"
            elif is_part:
                yield f"its signal {signals} is not ready for them"
            else:
                yield f"its signal {signals} has no interval ready"

    def _sources(self, fqn: str, causes: Sequence[msg.Cause], held_back: msg.HeldBack) -> str:
        """Why the first awaited tables are not complete for what the model reads of them."""
        clauses = [self.sources[cause.of].sentence(held_back.reads) for cause in causes[:MAX_CAUSES]]
        if len(causes) > MAX_CAUSES:
            clauses.append(f"and {counted(len(causes) - MAX_CAUSES, 'more source')}")
        is_asked = any(cause.kind == "signal" and cause.of == fqn for cause in held_back.causes)
        unasked = () if is_asked else self.signals(fqn)
        return "; ".join(clauses) + (f", and its signal {', '.join(unasked)} was not evaluated" if unasked else "")

    def _own(self, causes: Sequence[msg.Cause]) -> Iterator[str]:
        advice = f". Launch a run of it without {self.named_bounds} first" if self.bounds else ""
        for cause in causes:
            yield (
                f"other intervals of it are pending{_notes(cause)}, outside of the range of this run, and SQLMesh has "
                f"to compute them before these or together with them{advice}"
            )

    def _bounds(self, causes: Sequence[msg.Cause]) -> Iterable[str]:
        yield (
            f"models upstream have pending intervals that this run leaves out: {self._names(causes)}. "
            f"Launch a run without {self.named_bounds}"
        )

    def _not_computed(self, causes: Sequence[msg.Cause]) -> Iterable[str]:
        yield (
            "models upstream have pending intervals that no step of this run has computed: "
            f"{self._names(causes)}. Their status checks have the reason"
        )

    def _unselected(self, causes: Sequence[msg.Cause]) -> Iterator[str]:
        known, ours = self.assets.models.keys(), self.assets.specs.keys()
        if causes_here := [cause for cause in causes if cause.of in ours]:
            yield (
                f"models upstream have pending intervals and are not part of this step: {self._names(causes_here)}. "
                "Select them too, with all models upstream of them"
            )
        if of_others := [cause for cause in causes if cause.of in known - ours]:
            yield (
                f"models upstream have pending intervals and are not in this component: {self._names(of_others)}. "
                "Run them with their own component or with `sqlmesh run`"
            )
        if unknown := [cause for cause in causes if cause.of not in known]:
            yield (
                f"models upstream have pending intervals and are not in the manifest: {self._names(unknown)}. If "
                "their files were deleted, promote the deletion with `sqlmesh plan`. If not, run them with their own "
                "component or with `sqlmesh run`"
            )

    def signals(self, fqn: str) -> Sequence[str]:
        """The signals of a model."""
        return self.assets.models[fqn].signals if fqn in self.assets.models else ()

    def _names(self, causes: Iterable[msg.Cause]) -> str:
        return listed([f"{self.assets.name(cause.of)}{_notes(cause)}" for cause in causes])

    @property
    def named_bounds(self) -> str:
        """The names of the bounds, as in a sentence."""
        return " and ".join(f"`{name}`" for name in self.bounds)


def _notes(cause: msg.Cause) -> str:
    """What else is known of a pending model, in parentheses; empty if nothing is."""
    notes = []
    if cause.refused:
        notes.append(f"its rows of {ranges(cause.refused)} are old or refused")
    if gap := [interval for interval in cause.gap if interval not in cause.refused]:
        notes.append(f"it lacks {ranges(gap)}, and has later rows")
    if cause.signals:
        notes.append(f"its signal {', '.join(cause.signals)} was not evaluated")
    return f" ({'; '.join(notes)})" if notes else ""
