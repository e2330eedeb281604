"""What a waiting model names: the causes that can be acted on, in place of models that wait themselves."""

import pytest

from dg_sqlmesh_component.protocol.messages import HeldBackBy
from dg_sqlmesh_component.worker.intervals.availability import Left
from dg_sqlmesh_component.worker.intervals.causes import with_causes

READS = ((0, 3),)
WAITS_FOR_SOURCE: Left = ([], HeldBackBy(tables=("source",), intervals=READS))
CASES: dict[str, tuple[tuple[str, ...], dict[str, Left], set[str], HeldBackBy]] = {
    "a model that is not selected and can run": (("a",), {}, {"f"}, HeldBackBy(("a",), (), READS)),
    "a model of the run that has intervals beyond its bounds": (
        ("a",),
        {},
        {"f", "a"},
        HeldBackBy((), (), READS, ("a",)),
    ),
    "the source of a model that waits for it, selected": (
        ("a",),
        {"a": WAITS_FOR_SOURCE},
        {"f", "a"},
        HeldBackBy((), ("source",), READS),
    ),
    "the source of a model that waits for it, not selected": (
        ("a",),
        {"a": WAITS_FOR_SOURCE},
        {"f"},
        HeldBackBy((), ("source",), READS, through=("a",)),
    ),
    "a model that can run in part, and the source for the rest": (
        ("a",),
        {"a": ([(0, 1)], HeldBackBy(tables=("source",), intervals=((1, 3),)))},
        {"f"},
        HeldBackBy(("a",), ("source",), READS),
    ),
    "no source of intervals that are not read": (
        ("a",),
        {"a": ([(0, 3)], HeldBackBy(tables=("source",), intervals=((3, 4),)))},
        {"f"},
        HeldBackBy(("a",), (), READS),
    ),
    "the source two models upstream": (
        ("a",),
        {"a": ([], HeldBackBy(("b",), (), READS)), "b": WAITS_FOR_SOURCE},
        {"f"},
        HeldBackBy((), ("source",), READS, through=("a", "b")),
    ),
    "all causes": (("a", "b"), {"a": WAITS_FOR_SOURCE}, {"f"}, HeldBackBy(("b",), ("source",), READS, through=("a",))),
    "itself": (("f",), {}, {"f"}, HeldBackBy(("f",), (), READS)),
    "a model that only waits for its own older intervals": (
        ("a",),
        {"a": ([], HeldBackBy(("a",), (), READS))},
        {"f"},
        HeldBackBy(("a",), (), READS),
    ),
}


@pytest.mark.parametrize(("models", "if_all", "selected", "named"), CASES.values(), ids=CASES)
def test_a_waiting_model_names(
    models: tuple[str, ...], if_all: dict[str, Left], selected: set[str], named: HeldBackBy
) -> None:
    assert with_causes("f", HeldBackBy(models, (), READS), if_all, selected) == named
