"""Which step of a split run computes each model of a restatement."""

import pytest

from dg_sqlmesh_component.capabilities.restatements.worker.split import split

# source -> a -> (Python asset) -> b; c reads a and b; d reads a; e reads c; b2 reads pending
PARENTS = {"a": ["source"], "b": ["a", "pending"], "c": ["a", "b"], "d": ["a"], "e": ["c"]}
RESTATED = {"a", "b", "c", "d", "e"}


@pytest.mark.parametrize(
    ("steps", "here", "later"),
    [
        ((set(), {"a"}, {"b"}), {"a", "d", "source"}, {"b", "c", "e", "pending"}),
        (({"a"}, {"b"}, set()), {"b", "c", "e", "pending"}, set()),
        ((set(), {"a", "d"}, {"b", "e"}), {"a", "d", "source"}, {"b", "c", "e", "pending"}),
        (({"a"}, {"b"}, {"e"}), {"b", "c", "pending"}, {"e"}),
        (({"a", "b"}, {"e"}, set()), {"e"}, set()),
        ((set(), {"a"}, set()), {"a", "b", "c", "d", "e", "source", "pending"}, set()),
    ],
)
def test_each_model_belongs_to_one_step(steps: tuple[set[str], ...], here: set[str], later: set[str]) -> None:
    earlier, own, after = steps
    parts = split({*RESTATED, "source", "pending"}, RESTATED, PARENTS, (earlier, own, after))
    assert (parts.here, parts.later) == (here, later)
