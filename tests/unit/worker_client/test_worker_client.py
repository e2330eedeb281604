"""Whatever a worker sends, only errors of this package are raised. The workers are real processes."""

import random
import re
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from servers import is_alive
from unit.outcome_table import OUTCOME_TABLE

from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol import wire
from dg_sqlmesh_component.protocol.errors import SQLMeshComponentError, StoppedError, WorkerError
from dg_sqlmesh_component.report.outcomes import NodeOutcome
from dg_sqlmesh_component.run.ledger import Ledger
from dg_sqlmesh_component.worker_client.calls import serving
from dg_sqlmesh_component.worker_client.worker import LONGEST_LINE

FakeWorker = Callable[[str], SQLMeshProject]
"""Creates a project whose interpreter runs the given code."""

PROJECT = msg.OpenProject(("/shop",), None, None, None)
REQUEST = msg.EvaluationRequest(PROJECT, "prod", ('"a"',), (), {}, 0, msg.AwaitedTables())
LAST_EVENT = wire.encode(msg.EvaluationFinished("success"))
SENT = [event for row in OUTCOME_TABLE for event in row.events]
EVENTS = [wire.encode(event) for event in SENT if not isinstance(event, msg.EvaluationFinished | msg.RequestFailed)]


@pytest.fixture
def fake_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    (tmp_path / "config.yaml").write_text("")
    for name, seconds in (("FINISH_GRACE_SECONDS", 0.2), ("CUT_OFF_GRACE_SECONDS", 0.2), ("LAST_EVENTS_SECONDS", 0.5)):
        monkeypatch.setattr(f"dg_sqlmesh_component.worker_client.worker.{name}", seconds)

    def make(code: str) -> SQLMeshProject:
        program = tmp_path / "python"
        program.write_text(
            f"#!{sys.executable}\nimport os, sys, time\nout = sys.stdout.buffer\n{textwrap.dedent(code)}"
        )
        program.chmod(0o755)
        return SQLMeshProject((tmp_path,), python=str(program))

    return make


def events_from(project: SQLMeshProject) -> list[msg.Event]:
    with serving(project, REQUEST) as worker:
        return list(worker)


def writing(lines: Sequence[bytes]) -> str:
    return f"sys.stdin.readline()\nout.write({b''.join(lines)!r})\nout.flush()\n"


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("", id="nothing"),
        pytest.param("sys.exit(3)", id="exit"),
        pytest.param("os.close(1); os.close(2); time.sleep(60)", id="closes its pipes"),
        pytest.param("out.write(os.urandom(100_000))", id="noise"),
        pytest.param("out.write(b'{' * 1_000_000)", id="one endless line"),
        pytest.param("out.write(b'\\n' * 1000)", id="blank lines"),
        pytest.param("out.write(b'[]\\n')", id="a list"),
        pytest.param("out.write(b'BatchFinished {}\\n')", id="half an event"),
        pytest.param("out.write(b'OfAnotherVersion {}\\n')", id="an event of another version"),
        pytest.param("sys.stdin.close()", id="deaf"),
        pytest.param("os.fork(); os.fork()", id="forks"),
        pytest.param("os.fork() or (os.setsid(), time.sleep(60))", id="leaves a child behind"),
        *(pytest.param(writing([LAST_EVENT[:cut]]), id=f"cut {cut}") for cut in range(0, len(LAST_EVENT) - 1, 7)),
    ],
)
def test_worker_that_breaks_the_protocol_raises_worker_error(fake_worker: FakeWorker, code: str) -> None:
    with pytest.raises(WorkerError) as refused:
        events_from(fake_worker(code))
    assert len(str(refused.value)) < 5_000


def test_cancelled_worker_that_does_not_end_raises_stopped_error(fake_worker: FakeWorker) -> None:
    with serving(fake_worker("time.sleep(60)"), REQUEST) as worker:
        worker.cancel()
        with pytest.raises(StoppedError, match="did not end when it was asked to"):
            list(worker)


@pytest.mark.advice("Something terminated it, for example a host restart. Launch it again.")
@pytest.mark.parametrize(
    ("signal", "name", "advice"),
    [
        (9, "SIGKILL) (out of memory?)", "If memory ran out, `dmesg` or the container's status (`OOMKilled`) shows it"),
        (15, "SIGTERM)", "Something terminated it, for example a host restart. Launch it again."),
        (11, "SIGSEGV)", "A native library, such as the driver of a database, has crashed."),
    ],
)
def test_error_of_a_kill_names_signal_and_advice(fake_worker: FakeWorker, signal: int, name: str, advice: str) -> None:
    with pytest.raises(WorkerError) as died:
        events_from(fake_worker(f"os.kill(os.getpid(), {signal})"))
    assert str(died.value).startswith(f"SQLMesh's process was killed by signal {signal} ({name}. {advice}")
    assert str(died.value).endswith(" It printed nothing.")
    assert events_from(fake_worker(writing([LAST_EVENT]))) == [msg.EvaluationFinished("success")]


COUNTED = msg.TableComputed("a", 3)


def printing(*lines: str) -> str:
    return "".join(f"print({line!r}, file=sys.stderr, flush=True)\n" for line in lines)


def test_late_output_is_logged_before_the_last_event(fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output has its own pipe, so a long line may arrive later than the events after it."""
    monkeypatch.setattr("dg_sqlmesh_component.worker_client.worker.LAST_EVENTS_SECONDS", 60)
    late = f"{writing([LAST_EVENT])}time.sleep(0.2)\n{printing('late', wire.PRINTED)}"
    events = events_from(fake_worker(late))
    assert [type(event) for event in events] == [msg.LogLine, msg.EvaluationFinished]
    assert events[0] == msg.LogLine("info", "late", "output")


def test_thousands_of_lines_become_a_few_events(fake_worker: FakeWorker) -> None:
    lines = [f"line {number}" for number in range(7_700)]
    *logged, last = events_from(fake_worker(printing(*lines, wire.PRINTED) + writing([LAST_EVENT])))
    assert [line for event in logged if isinstance(event, msg.LogLine) for line in event.text.split("\n")] == lines
    assert len(logged) < 770
    assert last == msg.EvaluationFinished("success")


def test_log_line_does_not_move_past_another_event(fake_worker: FakeWorker) -> None:
    line = msg.LogLine("warning", "text", "driver")
    *events, _ = events_from(fake_worker(writing([*[wire.encode(line), wire.encode(COUNTED)] * 3, LAST_EVENT])))
    assert events == [line, COUNTED] * 3


def test_lines_before_a_broken_event_are_logged(fake_worker: FakeWorker) -> None:
    line = msg.LogLine("warning", "text", "driver")
    events: list[msg.Event] = []
    project = fake_worker(writing([wire.encode(line), b"[]\n"]))
    with serving(project, REQUEST) as worker, pytest.raises(WorkerError):
        events.extend(worker)
    assert events == [line]


LOADED = ("model", wire.LOADING, "configuration", "", wire.LOADED, "driver")
FAILED = wire.encode(msg.RequestFailed("ProjectLoadError", "No such table."))


def test_output_of_the_configuration_is_not_logged_but_all_other_output_is(fake_worker: FakeWorker) -> None:
    events = events_from(
        fake_worker(f"{printing(*LOADED)}\nsys.stderr.close(); os.close(2)\ntime.sleep(0.5)\n{writing([LAST_EVENT])}")
    )
    assert [event.text for event in events if isinstance(event, msg.LogLine)] == ["model\ndriver"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (LOADED, "No such table."),
        ((wire.LOADING, "one", "two"), "No such table.\nThe configuration printed before the error:\none\ntwo"),
        ((*LOADED, wire.LOADING, "again"), "No such table.\nThe configuration printed before the error:\nagain"),
        ((wire.LOADING,), "No such table."),
    ],
    ids=["loaded", "failed", "failed at the second load", "failed without output"],
)
def test_output_of_failing_config_is_in_error(fake_worker: FakeWorker, lines: Sequence[str], message: str) -> None:
    *_, last = events_from(fake_worker(printing(*lines) + writing([FAILED])))
    assert isinstance(last, msg.RequestFailed)
    assert last.message == message


def test_error_quotes_output_of_a_worker_that_dies_while_loading_the_configuration(fake_worker: FakeWorker) -> None:
    with pytest.raises(WorkerError, match=r"Its last lines:\nI am the configuration"):
        events_from(fake_worker(printing(wire.LOADING, "I am the configuration") + "os._exit(3)"))


def test_output_on_stderr_between_events_becomes_log_lines(fake_worker: FakeWorker) -> None:
    code = writing([]) + textwrap.dedent(f"""
        for line in {EVENTS[:20]!r}:
            sys.stderr.write("noise " * 50); sys.stderr.flush()
            out.write(line[:9]); out.flush()
            sys.stderr.write("more\\n"); sys.stderr.flush()
            out.write(line[9:]); out.flush()
        out.write({LAST_EVENT!r})
    """)
    events = events_from(fake_worker(code))
    assert events[-1] == msg.EvaluationFinished("success")
    assert len([event for event in events if getattr(event, "source", None) != "output"]) == 21


@pytest.mark.parametrize("distance", [10, 30])
def test_secret_is_redacted_before_a_long_line_is_cut(fake_worker: FakeWorker, distance: int) -> None:
    project = replace(fake_worker(""), env={"API_TOKEN": "correct-horse-battery"})
    line = "x" * (LONGEST_LINE - distance) + " correct-horse-battery " + "x" * LONGEST_LINE
    program = f"sys.stdin.readline()\nprint({line!r}, file=sys.stderr)\n"
    for code in (
        f"{program}sys.stderr.flush()\ntime.sleep(0.5)\nout.write({LAST_EVENT!r})\n",
        f"{program}sys.exit(3)\n",
    ):
        fake_worker(code)
        try:
            text = repr(events_from(project))
        except WorkerError as error:
            text = str(error)
        assert "x ***" in text
        assert "correct" not in text


def test_terminal_colours_are_removed_from_log_lines(fake_worker: FakeWorker) -> None:
    coloured = "\x1b[2K  \x1b[1;31mred\x1b[0m and \x1b[?25lplain\x1b[0m "
    line, _ = events_from(fake_worker(printing(coloured, wire.PRINTED) + writing([LAST_EVENT])))
    assert line == msg.LogLine("info", "  red and plain", "output")


@pytest.mark.parametrize("seed", range(20))
def test_random_events_settle_every_node_or_are_refused(fake_worker: FakeWorker, seed: int) -> None:
    generator = random.Random(seed)
    lines = [generator.choice(EVENTS) for _ in range(generator.randrange(60))]
    ledger = Ledger(['"db"."core"."orders"', '"db"."staging"."orders"'])
    settled = []
    try:
        for event in events_from(fake_worker(writing([*lines, LAST_EVENT]))):
            settled += ledger.feed(event)
    except SQLMeshComponentError:
        settled += ledger.close("the worker broke the protocol")
    first = [of.fqn for of in settled if isinstance(of, NodeOutcome) and not of.is_second_outcome]
    assert sorted(first) == ['"db"."core"."orders"', '"db"."staging"."orders"']


def test_worker_that_does_not_end_is_killed_with_its_children(fake_worker: FakeWorker, tmp_path: Path) -> None:
    code = writing([LAST_EVENT]) + "child = os.fork()\nopen('pids', 'a').write(f'{os.getpid()}\\n')\ntime.sleep(600)\n"
    assert events_from(fake_worker(code))[-1] == msg.EvaluationFinished("success")
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    deadline = time.monotonic() + 5
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)  # the system takes a moment to kill a process
    assert [pid for pid in pids if is_alive(pid)] == []


def test_worker_that_dies_at_once_does_not_hang_the_step(fake_worker: FakeWorker) -> None:
    """The pipes may be closed before we read them."""
    for _ in range(50):
        with pytest.raises(WorkerError):
            events_from(fake_worker("os._exit(0)"))


def shown_messages(stderr: str) -> list[tuple[str, str, int]]:
    """Direction, name and bytes of each line. Assert that all have the same worker, and the time of a message."""
    pattern = r"\[wire (\d+)\] +(\d+) ms  (to|from) worker +(.*?) +(\d+) bytes"
    matches = [re.fullmatch(pattern, line) for line in stderr.splitlines()]
    assert all(matches), stderr
    assert len({match[1] for match in matches if match}) == 1
    assert all(int(match[2]) < 60_000 for match in matches if match)
    return [(match[3], match[4], int(match[5])) for match in matches if match]


def test_every_message_of_a_request_is_shown_on_stderr_without_its_content(
    fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DG_SQLMESH_DEBUG", "1")
    secrets = wire.encode(msg.SecretsKnown(("correct-horse",)))
    text = wire.encode(msg.LogLine("warning", "correct-horse", "driver"))
    locked = wire.encode(msg.StateLocked())
    answer = msg.Records()
    code = f"{writing([secrets, text, locked])}sys.stdin.readline()\nout.write({LAST_EVENT!r})\n"
    with serving(fake_worker(code), REQUEST) as worker:
        for event in worker:
            if isinstance(event, msg.StateLocked):
                worker.answer(answer)
    stderr = capsys.readouterr().err
    assert shown_messages(stderr) == [
        ("to", "EvaluationRequest", len(wire.encode(REQUEST))),
        ("from", "SecretsKnown", len(secrets)),
        ("from", "LogLine", len(text)),
        ("from", "StateLocked", len(locked)),
        ("to", "Records", len(wire.encode(answer))),
        ("from", "EvaluationFinished", len(LAST_EVENT)),
        ("to", "release", len(wire.RELEASE)),
        ("to", "cancel", len(wire.CANCEL)),
    ]
    assert "correct" not in stderr


def test_line_that_is_no_message_is_shown_as_unreadable(
    fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DG_SQLMESH_DEBUG", "1")
    with pytest.raises(WorkerError):
        events_from(fake_worker(writing([b"hunter2\n"])))
    stderr = capsys.readouterr().err
    assert ("from", "unreadable", 8) in shown_messages(stderr)
    assert "hunter2" not in stderr


@pytest.mark.parametrize("value", [None, "", "0"])
def test_messages_are_not_shown_unless_somebody_asked_for_it(
    fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str | None
) -> None:
    monkeypatch.delenv("DG_SQLMESH_DEBUG", raising=False)
    if value is not None:
        monkeypatch.setenv("DG_SQLMESH_DEBUG", value)
    events_from(fake_worker(writing([LAST_EVENT])))
    assert capsys.readouterr().err == ""
