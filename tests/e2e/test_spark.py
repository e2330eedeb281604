"""The Spark example on a real cluster: its README's commands, a model that fails, and a run that is canceled."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from example_projects import copy_example, readme_commands
from harness import BIN, REPOSITORY, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PLAN = "(cd sqlmesh_project && dg_sqlmesh plan --skip-backfill --auto-apply --no-prompts)"
LAUNCH = "dg launch --assets '*'"
MATERIALIZED = re.compile(r"Materialized value shop (\w+)")


def edit(root: Path, model: str, old: str, new: str) -> None:
    file = root / "sqlmesh_project" / "models" / f"{model}.sql"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


class Shell:
    """The README's commands in a copy of the example. `uv` installs this package's wheel."""

    def __init__(self, root: Path, wheels: Path) -> None:
        self.root = root
        kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
        self.environment = {**kept, "UV_FIND_LINKS": str(wheels), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        self.setup = readme_commands("spark")[:-1]

    def start(self, command: str, log: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["bash", "-c", "\n".join(["set -e", *self.setup, command])],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        log = self.root / "output.log"
        self.start(command, log).wait()
        return log.read_text()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    if not shutil.which("java"):
        pytest.skip("JAVA IS NOT INSTALLED, so nothing was tested on Spark: `apt-get install default-jre-headless`")
    folder = tmp_path_factory.mktemp("spark")
    run([sys.executable, "-m", "build", "--wheel", "--outdir", folder / "wheels", REPOSITORY], cwd=folder)
    return Shell(copy_example("spark", folder), folder / "wheels")


def active_applications() -> int:
    with urllib.request.urlopen("http://127.0.0.1:8099/json/", timeout=5) as answer:
        return len(json.load(answer)["activeapps"])


def wait_until(reached: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 240
    while not reached():
        assert time.monotonic() < deadline, log.read_text()[-6000:]
        time.sleep(0.5)


def test_readme_runs_the_project_on_the_cluster_with_few_events_of_output(shell: Shell) -> None:
    output = shell.run(readme_commands("spark")[-1])
    assert "RUN_SUCCESS" in output, output[-6000:]
    assert "Spark: 2 workers" in output
    assert MATERIALIZED.findall(output) == ["orders", "daily_revenue", "best_days"]
    assert output.count("[output]") < 10


def test_a_model_that_fails_on_the_cluster_blocks_what_reads_it(shell: Shell) -> None:
    right, wrong = "SUM(amount) AS revenue", "CAST(raise_error('the till is broken') AS DECIMAL(10, 2)) AS revenue"
    edit(shell.root, "daily_revenue", right, wrong)
    output = shell.run(f'python cluster.py bash -c "{PLAN} && {LAUNCH}"')
    edit(shell.root, "daily_revenue", wrong, right)
    assert "RUN_FAILURE" in output, output[-6000:]
    assert "the till is broken" in output
    assert "best_days" not in MATERIALIZED.findall(output)


def test_a_canceled_run_leaves_the_cluster(shell: Shell) -> None:
    edit(shell.root, "orders", "CAST(id AS INT) AS order_id", "CAST(id AS INT) AS order_id, @SLOW AS slept")
    edit(shell.root, "orders", "@SLOW", "REFLECT('java.lang.Thread', 'sleep', CAST(60000 AS BIGINT))")
    log, cluster_log = shell.root / "launch.log", shell.root / "cluster.log"
    cluster = shell.start("python cluster.py sleep 600", cluster_log)
    try:
        wait_until(lambda: "Spark: 2 workers" in cluster_log.read_text(), cluster_log)
        master = "export SPARK_MASTER=spark://127.0.0.1:7077"
        planned = shell.run(f"{master}; {PLAN}")
        assert "Virtual layer updated" in planned, planned[-6000:]
        launched = shell.start(f"{master}; exec {LAUNCH}", log)
        wait_until(lambda: "Running: shop.orders" in log.read_text(), log)
        assert active_applications() == 1
        launched.send_signal(signal.SIGINT)
        launched.wait(120)
        wait_until(lambda: active_applications() == 0, log)
    finally:
        os.killpg(cluster.pid, signal.SIGTERM)
        cluster.wait(60)
    assert MATERIALIZED.findall(log.read_text()) == []
    assert "The run was cancelled" in log.read_text(), log.read_text()[-6000:]
    assert "Interrupted: shop.orders" in log.read_text()
