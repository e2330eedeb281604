"""The log of a step stores a limited amount of SQLMesh's output."""

from collections.abc import Sequence

import dagster as dg
import pytest

from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.worker_client.output import WorkerOutput


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dg_sqlmesh_component.worker_client.output.MAX_EVENTS", 4)
    monkeypatch.setattr("dg_sqlmesh_component.worker_client.output.MAX_CHARACTERS", 100)


def logged(lines: Sequence[msg.LogLine]) -> list[tuple[str | int, str]]:
    """Return level and text of what the log of a step contains."""

    @dg.op
    def write(context: dg.OpExecutionContext) -> None:
        output = WorkerOutput(context.log)
        for line in lines:
            output.write(line)
        output.close()

    @dg.job
    def job() -> None:
        write()

    with dg.DagsterInstance.ephemeral() as instance:
        run = job.execute_in_process(instance=instance)
        return [(entry.level, entry.user_message) for entry in instance.all_logs(run.run_id) if not entry.dagster_event]


def line(level: msg.Level, text: str, source: str = "driver") -> msg.LogLine:
    return msg.LogLine(level, text, source)


def test_output_within_the_limits_is_logged_as_it_is() -> None:
    assert logged([line("info", "a\nb"), line("error", "c")]) == [(20, "[driver] a\nb"), (40, "[driver] c")]


def test_lines_over_the_limit_of_events_are_counted_and_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [text for _, text in logged([line("info", f"{number}\nmore") for number in range(9)])]
    assert texts[:4] == [f"[driver] {number}\nmore" for number in range(4)]
    assert texts[4].startswith("SQLMesh has printed or logged 24 characters in 4 events.")
    assert texts[5:] == ["This log leaves out 10 lines that SQLMesh printed or logged."]
    assert "[driver] 4\nmore\n[driver] 5\nmore\n" in capsys.readouterr().err


def test_lines_over_the_limit_of_characters_are_left_out() -> None:
    texts = [text for _, text in logged([line("info", "x" * 60) for _ in range(3)])]
    assert texts[:2] == [f"[driver] {'x' * 60}"] * 2
    assert texts[-1] == "This log leaves out 1 line that SQLMesh printed or logged."


def test_info_is_left_out_before_warnings_and_warnings_before_errors() -> None:
    levels: list[msg.Level] = ["info", "warning", "error"]
    texts = [text for _, text in logged([line(level, level) for _ in range(9) for level in levels])]
    stored = [text.removeprefix("[driver] ") for text in texts if text.startswith("[driver]")]
    assert stored == [*levels, "info", *["warning", "error"] * 2, *["error"] * 4]


def test_lines_of_the_worker_itself_are_stored_like_errors() -> None:
    waiting = line("info", "Waiting up to 60 seconds.", "dg_sqlmesh")
    texts = [text for _, text in logged([*[line("info", "x")] * 9, waiting])]
    assert "[dg_sqlmesh] Waiting up to 60 seconds." in texts
