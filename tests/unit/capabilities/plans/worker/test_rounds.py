"""When a plan has caught up with runs: what each round computes, and with which lock."""

from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st
from unit.builders import days

from dg_sqlmesh_component.capabilities.plans.worker.rounds import FREE_ROUNDS, LOCKED_ROUNDS, Rounds
from dg_sqlmesh_component.protocol.messages import Interval

Lacking = Mapping[str, Sequence[Interval]]
D1, D2 = days(1, 1), days(2, 2)


def told(*looks: tuple[Lacking, int, set[str]], keeps_lock: bool = False) -> list[tuple[Lacking, bool]]:
    """What each round computes, and whether it keeps the lock."""
    rounds = Rounds(keeps_lock=keeps_lock)
    return [(rounds.next(*look), rounds.keeps_lock) for look in looks]


def test_rounds_end_when_nothing_is_lacking() -> None:
    assert told(({"a": (D1,)}, 0, set()), ({}, 0, set())) == [({"a": (D1,)}, False), ({}, False)]


def test_what_was_tried_and_still_lacks_waits_for_signals() -> None:
    look = {"a": (D1,)}, 0, set[str]()
    assert told(look, look) == [({"a": (D1,)}, False), ({}, True)]


def test_what_waits_for_another_model_is_tried_once_more_with_the_lock() -> None:
    look = {"a": (D1,), "b": (D2,)}, 0, {"b"}
    assert told(look, look, look) == [({"a": (D1,), "b": (D2,)}, False), ({"b": (D2,)}, True), ({}, True)]


def test_with_the_lock_nothing_is_tried_twice() -> None:
    look = {"a": (D1,)}, 0, {"a"}
    assert told(look, look, keeps_lock=True) == [({"a": (D1,)}, True), ({}, True)]


def test_what_a_run_has_rewritten_meanwhile_is_computed_without_the_lock() -> None:
    assert told(({"a": (D1,)}, 0, set()), ({"a": (D1,)}, 1, set())) == [({"a": (D1,)}, False), ({"a": (D1,)}, False)]


def test_a_plan_without_end_stops_after_its_rounds_and_says_so() -> None:
    rounds = Rounds(keeps_lock=False)
    kept = []
    while rounds.next({"a": (D1,)}, rounds.number, set()):
        kept.append(rounds.keeps_lock)
    assert kept == [False] * FREE_ROUNDS + [True] * LOCKED_ROUNDS
    assert (rounds.has_reached_bound, rounds.number) == (True, FREE_ROUNDS + LOCKED_ROUNDS)


lackings = st.dictionaries(st.sampled_from("ab"), st.lists(st.sampled_from([D1, D2]), min_size=1).map(tuple))


@given(st.lists(st.tuples(lackings, st.integers(0, 1), st.sets(st.sampled_from("ab"))), min_size=20), st.booleans())
def test_rounds_end_and_the_lock_is_never_given_up_again(
    looks: list[tuple[Lacking, int, set[str]]], keeps_lock: bool
) -> None:
    computed = told(*looks, keeps_lock=keeps_lock)
    count = sum(bool(lacking) for lacking, _ in computed)
    assert count <= FREE_ROUNDS + LOCKED_ROUNDS
    kept = [is_kept for _, is_kept in computed]
    assert kept == sorted(kept)
    assert all(set(lacking) <= set(look[0]) for (lacking, _), look in zip(computed, looks, strict=True))
