"""`dg dev` in its own processes, and GraphQL as the UI sends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import BIN, DagsterProject
from servers import free_port

LOCATION = "query { repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
LAUNCH = """
mutation L($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }
"""
RUN = "query R($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


@dataclass
class Server:
    url: str
    log: Path

    @cached_property
    def repository(self) -> dict[str, str]:
        """The selector of the repository."""
        [repository] = self.ask(LOCATION)["repositoriesOrError"]["nodes"]
        return {"repositoryName": repository["name"], "repositoryLocationName": repository["location"]["name"]}

    def ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            data = json.load(answer)
        assert "errors" not in data, data
        return data["data"]

    def launch(
        self, keys: Collection[str], run_config: dict[str, Any] | None = None, tags: dict[str, str] | None = None
    ) -> dict[str, str]:
        """Launch assets as the UI does. Return the run's id and its status at its end."""
        run_id = self.start(keys, run_config, tags)
        return {"id": run_id, "status": self.status_of(run_id)}

    def status_of(self, run_id: str) -> str:
        """The status of a run at its end."""
        deadline, status = time.monotonic() + 300, "STARTING"
        while time.monotonic() < deadline and status not in ("SUCCESS", "FAILURE", "CANCELED"):
            time.sleep(0.2)
            status = self.ask(RUN, id=run_id)["runOrError"]["status"]
        return status

    def start(
        self, keys: Collection[str], run_config: dict[str, Any] | None = None, tags: dict[str, str] | None = None
    ) -> str:
        """Launch assets as the UI does. Return the run's id."""
        params = {
            "selector": {
                **self.repository,
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [{"path": key.split("/")} for key in sorted(keys)],
            },
            "mode": "default",
            "runConfigData": json.dumps(run_config or {}),
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]},
        }
        launched = self.ask(LAUNCH, params=params)["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        run_id: str = launched["run"]["runId"]
        return run_id


def serve(dagster: DagsterProject, instance: str = "") -> Serving:
    """Run `dg dev` of a Dagster project until the block ends. `instance` is added to `dagster.yaml`."""
    folder = dagster.root.parent
    return Serving(BIN / "dg", dagster.root, create_home(folder, instance), folder / "server.log")


def create_home(folder: Path, instance: str = "") -> Path:
    """Create a Dagster home in a folder. `instance` is added to `dagster.yaml`."""
    home = folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\nnux: {{enabled: false}}\n{instance}")
    return home


class Serving:
    """`dg dev` on a free port, until the block ends. The commands next to `dg` are first on the PATH."""

    def __init__(self, dg: Path, root: Path, home: Path, log: Path) -> None:
        self.port = free_port()
        self.log = log.open("wb")
        self.process = subprocess.Popen(
            [dg, "dev", "--host", "127.0.0.1", "--port", str(self.port)],
            cwd=root,
            env={**os.environ, "DAGSTER_HOME": str(home), "PATH": f"{dg.parent}{os.pathsep}{os.environ['PATH']}"},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Server:
        url = f"http://127.0.0.1:{self.port}"
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            assert self.process.poll() is None, Path(self.log.name).read_text()
            try:
                with urllib.request.urlopen(f"{url}/server_info", timeout=5):
                    return Server(url, Path(self.log.name))
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.5)
        raise AssertionError(f"dg dev does not answer:\n{Path(self.log.name).read_text()}")

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            pass  # the test does not measure how fast Dagster's servers end
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.log.close()
