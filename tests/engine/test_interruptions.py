"""If a worker dies, its models are `interrupted`. If a parent dies, its worker ends."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import dagster as dg
import pytest
from harness import REPOSITORY, NewShop, Shop, at_night, planned_shop, python_model, rows_at_night, wait_until
from servers import is_alive

from dg_sqlmesh_component.definitions.translator import STATUS_CHECK

DIE = """
if Path("die").exists():
    print("last words", flush=True)
    how = Path("die").read_text()
    if how == "segfault":
        import ctypes

        ctypes.string_at(0)
    elif how == "exit":
        os._exit(7)
    elif how == "sleep":
        Path("pid").write_text(str(os.getpid()))
        time.sleep(600)
    elif how == "sys.exit":
        sys.exit(3)
    elif how == "KeyboardInterrupt":
        raise KeyboardInterrupt
    elif how == "panic":
        raise BaseException("the driver panics")
    elif how == "another error":
        raise RuntimeError("the driver panics")
    else:
        os.kill(os.getpid(), int(how))
"""
FILES = {
    "models/first.sql": "MODEL (name t.first, kind FULL); SELECT 1 AS id",
    "models/bad.py": python_model("t.bad", "if Path('die').exists(): raise ValueError('bad data')"),
    "models/mortal.py": "import sys\n" + python_model("t.mortal", DIE, ["t.first"]),
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT id FROM t.mortal",
}


OTHER = "MODEL (name t.other, kind FULL); SELECT id FROM t.first"
"""It runs after `t.mortal`, or at the same time."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with planned_shop(tmp_path_factory.mktemp("interruptions"), FILES) as shop:
        yield shop


@pytest.mark.parametrize(
    ("death", "cause"),
    [
        ("exit", "ended during the request with exit status 7"),
        ("segfault", "was killed by signal 11 (SIGSEGV)"),
        ("9", "was killed by signal 9 (SIGKILL) (out of memory?)"),
    ],
)
def test_dead_worker_gives_interrupted_outcome_with_cause_and_last_output(shop: Shop, death: str, cause: str) -> None:
    (shop.project / "die").write_text(death)
    record = shop.launch("in_process")
    (shop.project / "die").unlink()
    assert record.status == dg.DagsterRunStatus.FAILURE
    assert record.status_of("t/mortal") == "interrupted"
    assert record.status_of("t/last") == "interrupted"
    assert record.status_of("t/bad") == "failed"
    # The first of these runs computes it. In later runs it is up to date, and this is reported before the worker dies.
    assert record.status_of("t/first") in ("executed", "up_to_date")
    [failure] = record.failures
    assert f"SQLMesh's process {cause}." in failure
    assert "last words" in failure
    assert "Running when it ended: t.mortal." in failure
    assert "Interrupted: t.mortal. SQLMesh's process ended before it was done." in failure
    assert "Not started: t.last. SQLMesh's process ended before it was done." in failure
    assert "ValueError: bad data" in failure
    assert record.description_of(f"t/last:{STATUS_CHECK}") == (
        "t.last was not started: SQLMesh's process ended before it was done."
    )
    assert set(record.materializations) <= {"t/first"}


@pytest.mark.advice("{} raised {}{}. Raise another error there instead.")
@pytest.mark.parametrize("concurrent_tasks", [1, 2])
@pytest.mark.parametrize(
    ("ends", "raised"),
    [
        ("sys.exit", "SystemExit(3), as `sys.exit` does"),
        *rows_at_night(
            ("KeyboardInterrupt", "KeyboardInterrupt()"),
            ("panic", "BaseException('the driver panics')"),
            ("another error", ""),
        ),
    ],
)
def test_model_that_ends_process_fails_alone(new_shop: NewShop, ends: str, raised: str, concurrent_tasks: int) -> None:
    shop = new_shop({**FILES, "models/other.sql": OTHER}, execution={"concurrent_tasks": concurrent_tasks})
    (shop.project / "die").write_text(ends)
    record = shop.launch("in_process")
    assert {name: record.status_of(f"t/{name}") for name in ("first", "bad", "mortal", "last", "other")} == {
        "first": "executed",
        "bad": "failed",
        "mortal": "failed",
        "last": "blocked",
        "other": "executed",
    }
    [failure] = record.failures
    assert "t.mortal (models/mortal.py) failed." in failure
    said = f"Its function execute raised {raised}. Raise another error there instead."
    assert (said if raised else "RuntimeError: the driver panics") in failure
    assert "ValueError: bad data" in failure
    assert "SIGINT" not in failure
    assert "bug" not in failure


def test_next_run_computes_interrupted_models_once(shop: Shop) -> None:
    (shop.project / "die").write_text("exit")
    shop.launch("in_process").failed()
    (shop.project / "die").unlink()
    before = shop.state()["intervals"]
    record = shop.launch("in_process").succeeded()
    after = shop.state()["intervals"]
    assert set(record.materializations) == {"t/bad", "t/mortal", "t/last"}
    assert {fqn.split('"')[-2] for fqn in after if after[fqn] > before[fqn]} == {"bad", "mortal", "last"}
    assert shop.launch("in_process").succeeded().materializations == {}


USES_LIBRARY = """
sys.path.insert(0, "libraries")
import native_library

native_library.read()
"""
LIBRARY = "import ctypes\n\n\ndef read():\n    {}\n"


@pytest.mark.advice("Upgrade that library, or report the crash.")
def test_next_run_succeeds_after_the_library_that_has_crashed_was_upgraded(new_shop: NewShop) -> None:
    files = {"models/uses.py": "import sys\n" + python_model("t.uses", USES_LIBRARY)}
    shop = new_shop({**files, "libraries/native_library.py": LIBRARY.format("pass")})
    (shop.project / "libraries" / "native_library.py").write_text(LIBRARY.format("ctypes.string_at(0)"))
    assert "has crashed. Upgrade that library, or report the crash." in shop.launch().failures[0]
    (shop.project / "libraries" / "native_library.py").write_text(LIBRARY.format("pass  # fixed"))
    assert set(shop.launch().succeeded().materializations) == {"t/uses"}


TOO_LARGE_TOGETHER = """
at_work = Path("{name}_is_at_work")
at_work.touch()
for _ in range(50 if Path("little memory").exists() else 0):
    if Path("{other}_is_at_work").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
at_work.unlink()
"""


@pytest.mark.advice("Then give it more memory, or set a lower `execution.concurrent_tasks` in defs.yaml.")
@pytest.mark.parametrize("remedy", ["more memory", *at_night("fewer tasks")])
def test_next_run_succeeds_with_more_memory_or_fewer_tasks(new_shop: NewShop, remedy: str) -> None:
    """In place of the kernel, a model sends the signal, if both are computed at the same time."""
    files = {
        f"models/{name}.py": python_model(f"t.{name}", TOO_LARGE_TOGETHER.format(name=name, other=other))
        for name, other in (("left", "right"), ("right", "left"))
    }
    shop = new_shop(files, execution={"concurrent_tasks": 2})
    (shop.project / "little memory").touch()
    [failure] = shop.launch().failures
    assert "If memory ran out, `dmesg` or the container's status (`OOMKilled`) shows it. Then give it more" in failure
    for at_work in shop.project.glob("*_is_at_work"):
        at_work.unlink()
    if remedy == "more memory":
        (shop.project / "little memory").unlink()
    else:
        shop.configure(execution={"concurrent_tasks": 1})
    assert set(shop.launch().succeeded().materializations) == {"t/left", "t/right"}


FORK = """
child = os.fork()
if child == 0:
    how = Path("fork").read_text() if Path("fork").exists() else "exit"
    if how == "raise":
        raise ValueError("in the fork")
    elif how == "exit":
        sys.exit(3)
else:
    Path("ended").write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""


@pytest.mark.parametrize("concurrent_tasks", [*at_night(1), 2])
@pytest.mark.parametrize(("how", "status"), [("exit", "3"), ("raise", "1")])
def test_fork_of_a_model_ends_alone(new_shop: NewShop, how: str, status: str, concurrent_tasks: int) -> None:
    files = {"models/forks.py": "import sys\n" + python_model("t.forks", FORK), "models/bad.py": FILES["models/bad.py"]}
    below = "MODEL (name t.below, kind FULL); SELECT id FROM t.forks"
    shop = new_shop({**files, "models/below.sql": below}, execution={"concurrent_tasks": concurrent_tasks})
    (shop.project / "fork").write_text(how)
    (shop.project / "die").touch()
    record = shop.launch("in_process")
    assert (shop.project / "ended").read_text() == status
    assert set(record.materializations) == {"t/forks", "t/below"}
    assert record.status_of("t/bad") == "failed"
    assert "SQLMesh in environment prod: 1 failed, 2 executed." in record.failures[0]


ODD = """
class Odd(Exception):
    def __str__(self):
        raise TypeError("no text")

if Path("die").exists():
    raise Odd
"""


def test_error_without_a_text_fails_its_model_alone(new_shop: NewShop) -> None:
    files = {"models/odd.py": python_model("t.odd", ODD), "models/bad.py": FILES["models/bad.py"]}
    shop = new_shop({**files, "models/fine.sql": "MODEL (name t.fine, kind FULL); SELECT 1 AS id"})
    (shop.project / "die").touch()
    record = shop.launch("in_process")
    assert set(record.materializations) == {"t/fine"}
    assert {record.status_of("t/odd"), record.status_of("t/bad")} == {"failed"}
    [failure] = record.failures
    assert "ValueError: bad data" in failure
    assert "Odd" in failure
    assert "after_all" not in failure


LONG = """
if Path("die").exists():
    raise ValueError("it starts" + 5_000_000 * "x" + "it ends")
"""


@pytest.mark.night(
    "unit/protocol/test_redaction.py::test_long_error_is_cut_in_the_middle_and_shows_no_part_of_a_secret",
    "test_dead_worker_gives_interrupted_outcome_with_cause_and_last_output",
)
def test_long_error_is_cut_in_the_middle(new_shop: NewShop) -> None:
    shop = new_shop({"models/long.py": python_model("t.long", LONG)})
    (shop.project / "die").touch()
    record = shop.launch("in_process")
    [failure] = record.failures
    assert "it starts" in failure
    assert re.search(r"\n    \[\d{7} characters left out]\n", failure)
    assert "it ends" in failure
    assert len(failure) < 12_000
    assert sum(len(dg.serialize_value(entry)) for entry in record.entries) < 200_000


PARENT_SCRIPT = """
import sys
from pathlib import Path
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.config.project import SQLMeshProject
from dg_sqlmesh_component.worker_client.calls import serving

project = SQLMeshProject((Path(sys.argv[1]),))
models = ('"warehouse"."t"."first"', '"warehouse"."t"."mortal"')
request = msg.EvaluationRequest(project.open_request, "prod", models, (), {}, int(sys.argv[2]), msg.AwaitedTables())
with serving(project, request) as worker:
    for event in worker:
        if isinstance(event, msg.StateLocked):
            worker.answer(msg.Records())
        elif isinstance(event, msg.EvaluationPlanned):
            worker.answer(msg.GoAhead())
"""


# More than ten seconds: a new process imports the package, and its worker imports SQLMesh.
@pytest.mark.night("engine/test_overlap.py::test_lock_of_killed_run_is_released")
def test_worker_ends_if_its_parent_is_killed(new_shop: NewShop) -> None:
    project = new_shop(FILES).project
    (project / "die").write_text("sleep")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT_SCRIPT, str(project), str(int(time.time() * 1000))], cwd=REPOSITORY
    )
    written = project / "pid"
    wait_until(lambda: written.exists() and bool(written.read_text()))
    worker = int(written.read_text())
    parent.kill()
    parent.wait()
    try:
        wait_until(lambda: not is_alive(worker))
    finally:
        if is_alive(worker):
            os.kill(worker, signal.SIGKILL)
