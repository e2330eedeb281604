"""Each `dg` command of README and docs, typed in a project that has what the pages speak of.

The tutorial and the pages with a project of their own are executed by tests of their own, and so is `dg scaffold`.
`dg dev` serves until it is stopped: the tests in the browser start it.
"""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import BIN, REPOSITORY, needs_previews, run, sqlmesh

pytestmark = pytest.mark.slow

ELSEWHERE = ("tutorial.md", "from-dbt.md")
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "skills" / "dg-sqlmesh" / "SKILL.md",
    *(page for page in (REPOSITORY / "docs").glob("*.md") if page.name not in ELSEWHERE),
]
BASH = re.compile(r"^ *```bash\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
TYPED = sorted(
    {
        line.split("  #")[0].strip()
        for page in PAGES
        for block in BASH.findall(page.read_text())
        for line in block.splitlines()
        if re.match(r" *(\w+=\S+ )*dg (?!dev|scaffold)", line)
    }
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project `analytics` as `dg` creates it, with two components."""
    root = tmp_path_factory.mktemp("analytics")
    package = root / "src" / "analytics"
    of_shop = "\n  restate: true\n  janitor: true\n  deploy: true\n  test: true"
    of_shop += "\n  preview: {environment: 'pr_{{ env.PULL_REQUEST }}'}"
    for name, attributes in (("shop", of_shop), ("marketing", "")):
        models, defs = root / name / "models", package / "defs" / name
        models.mkdir(parents=True)
        defs.mkdir(parents=True)
        (root / name / "config.yaml").write_text(
            f"gateways: {{local: {{connection: {{type: duckdb, database: '{root}/{name}.duckdb'}}}}}}\n"
            "model_defaults: {dialect: duckdb, start: 2026-02-01}\n"
        )
        schema = "raw" if name == "shop" else name
        (models / "orders.sql").write_text(
            f"MODEL (name {schema}.orders, kind INCREMENTAL_BY_TIME_RANGE (time_column day), tags (finance));\n"
            "SELECT @start_date AS day, 1 AS amount"
        )
        (defs / "defs.yaml").write_text(
            "type: dg_sqlmesh_component.SQLMeshProjectComponent\n"
            f"attributes:\n  project: ../../../../{name}{attributes}\n"
        )
        sqlmesh(root / name, "plan", "--auto-apply", "--no-prompts")
    (package / "__init__.py").touch()
    example = REPOSITORY / "examples" / "jaffle_shop" / "jaffle_shop" / "definitions.py"
    (package / "definitions.py").write_text(example.read_text())
    (root / "pyproject.toml").write_text(
        '[project]\nname = "analytics"\nversion = "0.1"\n'
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "analytics"\n'
    )
    (root / "home").mkdir()
    return root


def test_pages_name_commands() -> None:
    assert {word for command in TYPED for word in command.split()} >= {"launch", "check", "utils"}


@pytest.mark.parametrize("command", TYPED)
def test_command_of_a_page_works(command: str, project: Path) -> None:
    words = shlex.split(command)
    prefix = ["env"]
    while "=" in words[0]:
        prefix.append(words.pop(0))
    done = run(
        [*prefix, BIN / words[0], *words[1:]],
        cwd=project,
        DAGSTER_HOME=str(project / "home"),
        PYTHONPATH=str(project / "src"),
    )
    if words[1] == "launch":
        assert "RUN_SUCCESS" in done.stdout + done.stderr


@pytest.mark.parametrize(("file", "steps"), [("github.yaml", "run"), ("gitlab.yaml", "script")])
def test_ci_plans_and_applies_the_same_digest(file: str, steps: str, project: Path, tmp_path: Path) -> None:
    """The commands of `examples/plans`, without `uv run`, and without those of the forge."""
    model = project / "shop" / "models" / f"of_{steps}.sql"
    model.write_text(f"MODEL (name raw.of_{steps}, kind FULL); SELECT 1 AS x")
    jobs = yaml.safe_load((REPOSITORY / "examples" / "plans" / file).read_text())
    jobs = jobs.get("jobs", jobs)
    planned, applied = (_commands(jobs[job], steps) for job in ("plan", "apply"))
    environment: dict[str, Any] = {
        "DAGSTER_HOME": str(project / "home"),
        "PYTHONPATH": str(project / "src"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "GITHUB_OUTPUT": str(tmp_path / "output"),
    }
    run(["bash", "-euc", planned], cwd=project, **environment)
    output = project / "digest.env" if steps == "script" else tmp_path / "output"
    digest = output.read_text().strip().partition("=")[2]
    assert digest == json.loads((project / "report.json").read_text())["digest"] != ""

    done = run(["bash", "-euc", applied], cwd=project, DIGEST=digest, **environment)

    assert "Applied: environment prod shows the plan." in done.stdout + done.stderr


@needs_previews
@pytest.mark.parametrize(("file", "steps"), [("github-previews.yaml", "run"), ("gitlab-previews.yaml", "script")])
def test_ci_previews_applies_posted_digest_and_closes(file: str, steps: str, project: Path, tmp_path: Path) -> None:
    """As the test above, without `gh` and `glab`: for GitLab, a person copies the digest from the report."""
    model = project / "shop" / "models" / f"previewed_by_{steps}.sql"
    model.write_text(f"MODEL (name raw.previewed_by_{steps}, kind FULL); SELECT 1 AS x")
    jobs = yaml.safe_load((REPOSITORY / "examples" / "plans" / file).read_text())
    jobs = jobs.get("jobs", jobs)
    previewed, applied, closed = (_commands(jobs[job], steps) for job in ("preview", "apply", "close"))
    environment: dict[str, Any] = {
        "DAGSTER_HOME": str(project / "home"),
        "PYTHONPATH": str(project / "src"),
        "PULL_REQUEST": "7",
    }
    run(["bash", "-euc", previewed], cwd=project, **environment)
    [digest] = re.findall(r"^Digest of this plan: `(.*)`$", (project / "report.md").read_text(), re.MULTILINE)
    if steps == "run":
        read, _, applied = applied.partition("\n")
        run(["bash", "-euc", read], cwd=project, GITHUB_ENV=str(tmp_path / "env"))
        assert (tmp_path / "env").read_text() == f"DIGEST={digest}\n"

    done = run(["bash", "-euc", applied], cwd=project, DIGEST=digest, **environment)
    assert "Applied: environment prod shows the plan. Computed: 0 models." in done.stdout + done.stderr
    done = run(["bash", "-euc", closed], cwd=project, **environment)
    assert "Deleted: 1 environment (pr_7)" in done.stdout + done.stderr


GH = """#!/bin/sh
case "$1" in api) cat artifacts_of_the_repository.json ;; *) cp "./$3.json" report.json ;; esac
"""
OURS, FORKS, OTHERS = (
    {"workflow_run": {"id": run, "repository_id": 1, "head_repository_id": repository, "head_sha": commit}}
    for run, repository, commit in ((10, 1, "abc"), (11, 2, "abc"), (12, 1, "def"))
)


@pytest.mark.parametrize(
    ("artifacts", "digest", "exported"),
    [
        ([OURS], "rhmgbm6el2q5pyn7ws3jd4xa", "DIGEST=rhmgbm6el2q5pyn7ws3jd4xa\n"),
        ([FORKS, OTHERS, OURS], "rhmgbm6el2q5pyn7ws3jd4xa", "DIGEST=rhmgbm6el2q5pyn7ws3jd4xa\n"),
        ([FORKS, OTHERS], "rhmgbm6el2q5pyn7ws3jd4xa", None),
        ([OURS], "rhmgbm6el2\nBASH_ENV=report.json", None),
        ([OURS], "", "DIGEST=\n"),  # the apply refuses it
    ],
)
def test_ci_exports_only_a_digest_from_a_run_of_this_repository(
    artifacts: list[Any], digest: str, exported: str | None, tmp_path: Path
) -> None:
    """A fork's pull request can upload an artifact of any name. Only the first run below is ours, of this commit."""
    (tmp_path / "artifacts_of_the_repository.json").write_text(json.dumps({"artifacts": artifacts}))
    (tmp_path / "10.json").write_text(json.dumps({"digest": digest}))
    for run_id in ("11", "12", "--name"):  # without an id, `gh` takes the newest artifact
        (tmp_path / f"{run_id}.json").write_text('{"digest": "bad"}')
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    jobs = yaml.safe_load((REPOSITORY / "examples" / "plans" / "github-previews.yaml").read_text())["jobs"]
    steps = [step["run"] for step in jobs["apply"]["steps"] if "run" in step]
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HEAD": "abc", "GH_REPO": "acme/shop", "GITHUB_ENV": "env"}

    done = subprocess.run(["bash", "-ec", "\n".join(steps[:-1])], cwd=tmp_path, env=env, check=False)

    assert (done.returncode == 0) == (exported is not None)
    written = tmp_path / "env"
    assert (written.read_text() if written.exists() else "") == (exported or "")


def _commands(job: dict[str, Any], steps: str) -> str:
    """The commands without the steps of the forge. Such a step must have none of `dg`: no test would execute it."""
    commands = job[steps] if steps in job else [step[steps] for step in job["steps"] if steps in step]
    of_forge = [command for command in commands if re.search(r"\bgh |glab", command)]
    assert not [command for command in of_forge if re.search(r"\bdg ", command)]
    return "\n".join(command.replace("uv run ", "") for command in commands if command not in of_forge)
