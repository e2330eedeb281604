"""Reports of running nodes: soon after a start, and few in a long run. The clock is explicit."""

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker.observe.progress import FIRST_SECONDS, SHORTEST_PAUSE_SECONDS, Progress

DAYS = [(day, day + 1) for day in range(3)]


def report_times(progress: Progress, begin: int, end: int) -> list[int]:
    """Return the seconds at which there is a report, if a thread asks once in a second."""
    return [now for now in range(begin, end) if progress.report(float(now))]


def test_model_with_one_long_batch_is_reported_once() -> None:
    progress = Progress()
    progress.plan({"a": DAYS[:1], "b": DAYS[:3], "waiting": ()})
    progress.start("a", 100.0)
    assert progress.report(100.0 + FIRST_SECONDS / 2) is None
    assert progress.report(102.0) == msg.BatchesRunning({"a": (0, 1, 2.0)}, finished=0, planned=2)
    assert report_times(progress, 103, 30_000) == []


def test_report_has_finished_batches_and_the_time_since_the_first_one_started() -> None:
    progress = Progress()
    progress.plan({"a": DAYS[:1], "b": DAYS[:3]})
    progress.start("a", 100.0)
    progress.start("b", 100.0)
    assert progress.end("a", DAYS[0])
    assert not progress.end("b", DAYS[0])
    progress.start("b", 101.0)
    assert progress.report(101.5) == msg.BatchesRunning({"b": (1, 3, 1.5)}, finished=1, planned=2)
    assert progress.running == progress.unfinished == ("b",)


def test_later_start_is_reported_after_the_pause() -> None:
    progress = Progress()
    progress.plan({"a": DAYS[:1], "b": DAYS[:1]})
    progress.start("a", 0.0)
    assert report_times(progress, 0, 3) == [1]
    progress.start("b", 3.0)
    assert report_times(progress, 3, 100) == [1 + SHORTEST_PAUSE_SECONDS]


def test_nothing_is_reported_if_no_batch_runs() -> None:
    progress = Progress()
    assert report_times(progress, 0, 100) == []
    progress.plan({"a": DAYS[:2]})
    progress.start("a", 0.0)
    progress.end("a", DAYS[0])
    assert report_times(progress, 0, 100) == []


def test_day_with_a_batch_in_each_second_gives_less_than_two_hundred_reports() -> None:
    progress = Progress()
    progress.plan({"a": [DAYS[0]] * 24 * 3600})
    times = []
    for now in range(24 * 3600):
        progress.start("a", float(now))
        times += report_times(progress, now, now + 1)
        progress.end("a", DAYS[0])
    assert times[:3] == [1, 11, 21]
    assert len(times) < 200


def test_failed_batch_does_not_finish_its_model() -> None:
    progress = Progress()
    progress.plan({"a": DAYS[:1]})
    progress.start("a", 0.0)
    assert not progress.end("a", None)
    assert progress.running == ()
    assert progress.unfinished == ("a",)


def test_new_plan_forgets_finished_batches() -> None:
    progress = Progress()
    progress.plan({"a": DAYS[:1]})
    progress.start("a", 0.0)
    progress.end("a", DAYS[0])
    progress.plan({"a": DAYS[:2]})
    assert progress.unfinished == ("a",)
    progress.start("a", 5.0)
    assert progress.report(6.0) == msg.BatchesRunning({"a": (0, 2, 6.0)}, finished=0, planned=1)


def test_batches_of_a_later_stage_are_added_to_those_that_have_finished() -> None:
    progress = Progress()
    progress.add({"a": DAYS[:1], "b": DAYS[:1]})
    progress.start("a", 0.0)
    assert progress.end("a", DAYS[0])
    progress.add({"a": DAYS[:2]})
    assert progress.unfinished == ("a", "b")
    progress.start("a", 5.0)
    assert progress.report(6.0) == msg.BatchesRunning({"a": (1, 3, 6.0)}, finished=0, planned=2)
    assert [progress.end("a", day) for day in DAYS[:2]] == [False, True]
