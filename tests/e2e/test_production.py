"""The production example, without Docker: what its Dockerfile and its compose file say, executed one by one.

Each instruction of the Dockerfile is executed as an unprivileged user in an empty folder. Then each service is a
process of another user, with the environment that the files give it and nothing else, on one PostgreSQL server.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import postgres
import pytest
import yaml
from dagster_ui import Site, browser_page
from dev_server import LOCATION, RUN, Server
from harness import BIN, REPOSITORY, run
from servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

EXAMPLE = REPOSITORY / "examples" / "production"
DOWNLOADS = {
    name: value
    for name, value in os.environ.items()
    if re.match("(PIP|UV|SSL|REQUESTS|HTTPS?|NO|ALL)_", name, re.IGNORECASE)
}
"""How this machine downloads packages. While an image is built, Docker's settings say it."""
IS_ROOT = os.geteuid() == 0
BUILDER = 10002
"""The user that owns the image's files, as root does in an image."""
CODE, WEBSERVER = "4000", "3000"
"""The ports of the compose file."""
RUNS = """
query { runsOrError(limit: 10) { ... on Runs { results { runId status tags { key value }
  assetMaterializations { assetKey { path } } } } } }
"""
TERMINATE = """
mutation T($id: String!) { terminateRun(runId: $id, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) { __typename } }
"""


def as_user(uid: int) -> dict[str, Any]:
    return {"user": uid, "group": uid, "extra_groups": []} if IS_ROOT else {}


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    for line in re.sub(r"\\\n", " ", dockerfile).splitlines():
        if line and not line.startswith("#"):
            instruction, _, rest = line.partition(" ")
            yield instruction, rest.strip()


@dataclass
class Image:
    """A folder in place of a container image.

    Attributes:
        root: In place of `/`.
        names: Folders, hosts and ports of the files, each with the one that is used here.
    """

    root: Path
    names: dict[str, str]
    folder: Path = field(init=False)
    user: int = BUILDER

    def __post_init__(self) -> None:
        self.folder = self.root
        self.environment = {
            "HOME": str(self.root / "home"),
            "PATH": f"{self.root}/base/bin{os.pathsep}{os.defpath}",
            "TMPDIR": str(self.root / "tmp"),
        }

    def here(self, text: str) -> str:
        names = "|".join(map(re.escape, self.names))
        return re.sub(rf"(?<![\w.-])({names})(?!\w)", lambda name: self.names[name[0]], text)

    def build(self, wheels: Path) -> None:
        for instruction, rest in instructions((EXAMPLE / "Dockerfile").read_text()):
            getattr(self, f"_{instruction.lower()}")(rest, **{**DOWNLOADS, "UV_FIND_LINKS": str(wheels)})

    def _from(self, image: str, **_: str) -> None:
        assert image.startswith("python:")

    def _workdir(self, folder: str, **_: str) -> None:
        self.folder = Path(self.here(folder))
        self.execute(["mkdir", "-p", str(self.folder)], {}, cwd=self.root)

    def _env(self, assignment: str, **_: str) -> None:
        name, value = assignment.split("=", 1)
        self.environment[name] = self.here(value).replace(f"${name}", self.environment.get(name, ""))

    def _user(self, user: str, **_: str) -> None:
        self.user = int(user.partition(":")[0])

    def _copy(self, words: str, **_: str) -> None:
        *patterns, target = words.split()
        for source in [path for pattern in patterns for path in EXAMPLE.glob(pattern)]:
            copied = self.folder / (source.name if target == "./" else target)
            if source.is_dir():
                shutil.copytree(source, copied, ignore=shutil.ignore_patterns("__pycache__", ".*", "logs"))
            else:
                shutil.copy(source, copied)
            for path in [copied, *copied.rglob("*")]:
                if path.suffix == ".yaml":
                    path.write_text(self.here(path.read_text()))
                if IS_ROOT:
                    os.chown(path, BUILDER, BUILDER)

    def _run(self, command: str, **variables: str) -> None:
        self.execute(["bash", "-c", self.here(command)], variables)

    def execute(self, command: list[str], variables: dict[str, str], cwd: Path | None = None) -> str:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **as_user(self.user),
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout}"
        return done.stdout

    def files(self) -> dict[str, int]:
        """The project's files, each with the time of its last change."""
        return {str(path): path.lstat().st_mtime_ns for path in self.folder.rglob("*")}


@dataclass
class Services:
    """The services of the compose file, in the image."""

    image: Image
    variables: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment_of(self, service: dict[str, Any]) -> dict[str, str]:
        given = {name: self.image.here(value) for name, value in service["environment"].items()}
        return {**self.image.environment, **given, **self.variables}

    def command_of(self, name: str) -> tuple[list[str], dict[str, str]]:
        service = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["services"][name]
        return shlex.split(self.image.here(service["command"])), self.environment_of(service)

    def finish(self, name: str) -> str:
        """Run a service to its end, as `docker compose run --rm` does. Return its output."""
        command, variables = self.command_of(name)
        return self.image.execute(command, variables)

    def start(self, name: str) -> None:
        command, variables = self.command_of(name)
        with self.log_of(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                command,
                cwd=self.image.folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **as_user(self.image.user),
            )

    def replace(self, name: str) -> None:
        """Replace a container as `docker compose up` does.

        Its first process is asked to end. After 10 seconds, or when it has ended, all others are killed.
        """
        old = self.running[name]
        inside = descendants(old.pid)
        old.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            old.wait(10)
        for pid in [old.pid, *inside]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        old.wait()
        self.start(name)

    def log_of(self, name: str) -> Path:
        return self.image.root / f"{name}.log"

    def logs(self) -> str:
        return "\n".join(f"== {name}\n{self.log_of(name).read_text()[-6_000:]}" for name in self.running)

    def stop(self) -> None:
        for process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def wait_for(self, found: Callable[[], Any], seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            dead = [name for name, process in self.running.items() if process.poll() is not None]
            assert not dead, f"{dead} ended:\n{self.logs()}"
            with contextlib.suppress(urllib.error.URLError, TimeoutError, ConnectionError):
                if answer := found():
                    return answer
            time.sleep(1)
        raise AssertionError(self.logs())


def descendants(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children = [int(child) for child, parent in map(str.split, listed.splitlines()) if int(parent) == pid]
    return children + [other for child in children for other in descendants(child)]


def base_python() -> str:
    """An interpreter that the unprivileged user can execute."""
    ours: str = sys._base_executable  # type: ignore[attr-defined]
    for candidate in (ours, shutil.which("python3", path=os.defpath) or ours):
        with contextlib.suppress(PermissionError):
            check = "import sys; sys.exit(sys.version_info < (3, 10))"
            if subprocess.run([candidate, "-c", check], cwd="/", **as_user(BUILDER)).returncode == 0:
                return candidate
    pytest.skip("NO PYTHON 3.10 THAT AN UNPRIVILEGED USER CAN EXECUTE, so the production example was not tested")


def is_loaded(server: Server) -> bool:
    return bool(server.ask(LOCATION)["repositoriesOrError"]["nodes"])


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Server]:
    with postgres.new_postgres_server() as server:
        configs = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["configs"]
        for statement in configs["databases"]["content"].split(";")[:-1]:
            server.query(statement)
        yield server


@pytest.fixture(scope="module")
def services(database: postgres.Server) -> Iterator[Services]:
    root = Path(tempfile.mkdtemp(prefix="dg_sqlmesh_production_"))
    for name, mode in (("", 0o755), ("home", 0o755), ("tmp", 0o1777), ("wheels", 0o755)):
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(mode)
        if IS_ROOT and name != "tmp":
            os.chown(root / name, BUILDER, BUILDER)
    run([sys.executable, "-m", "build", "--wheel", "--outdir", root / "wheels", REPOSITORY], cwd=root)
    names = {"/app": f"{root}/app", "/var/lib/dagster": f"{root}/var/lib/dagster", "/tmp": f"{root}/tmp"}
    names |= {"0.0.0.0": "127.0.0.1", CODE: str(free_port()), WEBSERVER: str(free_port())}
    image = Image(root, names)
    variables = {"CODE_HOST": "127.0.0.1", "POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(database.port)}
    services = Services(image, {**variables, "POSTGRES_PASSWORD": "any"})
    try:
        image.execute([str(BIN / "uv"), "venv", "--python", base_python(), "base"], DOWNLOADS)
        image.execute([str(BIN / "uv"), "pip", "install", "--python", "base", "pip"], DOWNLOADS)
        image.build(root / "wheels")
        yield services
    finally:
        services.stop()
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def server(services: Services) -> Server:
    """The web server, after the plan and with all services running."""
    assert "Virtual layer updated" in services.finish("plan")
    for name in ("code", "daemon", "webserver"):
        services.start(name)
    server = Server(f"http://127.0.0.1:{services.image.names[WEBSERVER]}", services.log_of("webserver"))
    services.wait_for(lambda: is_loaded(server), 300)
    return server


def test_a_scheduled_run_of_the_built_image_reads_its_project_only(services: Services, server: Server) -> None:
    before = services.image.files()

    def finished() -> Any:
        runs = server.ask(RUNS)["runsOrError"]["results"]
        return [found for found in runs if found["status"] in ("SUCCESS", "FAILURE", "CANCELED")]

    launched = services.wait_for(finished, 600)[0]
    assert launched["status"] == "SUCCESS", services.logs()
    tags = {tag["key"]: tag["value"] for tag in launched["tags"]}
    assert tags["dagster/schedule_name"] == "sqlmesh_shop_schedule"
    recorded = {"/".join(event["assetKey"]["path"]) for event in launched["assetMaterializations"]}
    assert recorded == {"shop/orders", "shop/revenue"}
    assert services.image.files() == before
    with browser_page() as page:
        site = Site(page, server)
        site.open(f"runs/{launched['runId']}")
        site.sees("sqlmesh_shop_schedule", "RUN_SUCCESS", "2 executed")
        site.picture("deployed-run")


def test_a_run_that_ended_with_its_container_counts_as_started_until_it_is_terminated(
    services: Services, server: Server, database: postgres.Server
) -> None:
    [(table,)] = database.query(
        "SELECT MAX(schemaname || '.' || tablename) FROM pg_tables WHERE tablename LIKE 'shop__orders__%'", "warehouse"
    )
    database.query("DELETE FROM sqlmesh._intervals", "sqlmesh_state")  # everything is pending
    with database.session("warehouse") as cursor:
        cursor.connection.autocommit = False
        cursor.execute(f"LOCK TABLE {table}")
        run_id = server.start(["shop/orders", "shop/revenue"])
        services.wait_for(lambda: database.query("SELECT COUNT(*) FROM pg_locks WHERE NOT granted")[0][0], 120)
        updates = services.log_of("webserver").read_text().count("LOCATION_UPDATED")
        services.replace("code")
        cursor.connection.rollback()
    services.wait_for(lambda: services.log_of("webserver").read_text().count("LOCATION_UPDATED") > updates, 120)
    assert server.ask(RUN, id=run_id)["runOrError"]["status"] == "STARTED"
    server.ask(TERMINATE, id=run_id)
    again = server.launch(["shop/orders", "shop/revenue"])
    assert again["status"] == "SUCCESS", services.logs()


def test_workflow_calls_services_that_the_compose_file_has() -> None:
    services = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["services"]
    workflow = (EXAMPLE / ".github" / "workflows" / "deploy.yaml").read_text()
    called = re.findall(r"docker compose (?:build|run|up)(?: --[\w-]+(?: \d+)?)* ?(\w*)", workflow)
    assert {name for name in called if name} <= set(services)
    assert "plan" in called


def test_no_service_needs_a_file_of_the_checkout_on_the_host() -> None:
    """The workflow deploys to another host. Docker would mount an empty folder there: the checkout is on the runner."""
    services = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["services"]
    mounted = {volume.split(":")[0] for service in services.values() for volume in service["volumes"]}
    assert mounted == {"postgres", "dagster"}, "names of volumes, no paths"
