"""The tutorial, executed from an empty folder with the built wheel.

Its files are written, its commands typed. At each of its own pictures, a browser looks at what the picture shows.
"""

import os
import re
import shlex
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from harness import REPOSITORY, run

pytestmark = pytest.mark.slow

BLOCK = re.compile(
    r'(?:<!-- (?P<remark>.+?) -->\n)?```(?P<language>\w+)(?: title="(?P<title>.+?)")?\n(?P<text>.*?)\n```'
    r"|\(images/(?P<picture>tutorial-[\w-]+)\.png\)",
    re.DOTALL,
)
COUNT = shlex.join([sys.executable, str(REPOSITORY / "tests" / "see_tutorial.py"), "rows"])
SEE = shlex.join([sys.executable, str(REPOSITORY / "tests" / "see_tutorial.py")])


def script_of(page: str) -> str:
    """A shell script of a page: files are written where the page shows them, commands run in its order."""
    lines = ["set -e"]
    for block in BLOCK.finditer(page):
        remark, language, title, text = block.group("remark", "language", "title", "text")
        if picture := block["picture"]:
            lines.append(f"{SEE} {picture}")
        elif title:
            lines += [
                f"mkdir -p {shlex.quote(str(Path(title).parent))}",
                f"cat > {shlex.quote(title)} <<'END'\n{text}\nEND",
            ]
        elif language == "bash" and not (remark or "").startswith("not executed: "):
            # `set -e` has no effect within a condition.
            lines.append(f"{{ {text}\n}} && exit 9 || true" if remark == "fails" else text)
            lines.append(COUNT)
    return "\n".join(lines)


def changes_of_rows(output: str) -> list[str]:
    """The numbers of rows that prod has shown, as the output of the script has them after each command."""
    return [numbers for numbers, _ in groupby(re.findall(r"^rows in prod: (.+)$", output, re.MULTILINE))]


def test_tutorial_works_from_an_empty_folder_with_the_built_wheel(tmp_path: Path) -> None:
    dist, folder = tmp_path / "dist", tmp_path / "empty"
    folder.mkdir()
    run([sys.executable, "-m", "build", "--wheel", "--outdir", dist, REPOSITORY], cwd=tmp_path)
    variables = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    uv = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", script_of((REPOSITORY / "docs/tutorial.md").read_text())],
        cwd=folder,
        env={**variables, "UV_FIND_LINKS": str(dist), "PATH": f"{uv}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8_000:]
    first, rest = done.stdout.split("RUN_SUCCESS", 1)
    failed, corrected = rest.split("RUN_FAILURE", 1)
    for model in ("raw/orders", "shop/paid_orders", "shop/revenue"):
        for output, is_recorded in ((first, True), (failed, model == "raw/orders"), (corrected, True)):
            if output is corrected and model == "raw/orders":
                continue  # it has nothing to compute, unless an hour has begun meanwhile
            materialized = f"Materialized value {model.replace('/', ' ')}" in output
            assert materialized is is_recorded, (model, output[-4_000:])
    # Of orders, paid orders and revenue: promoted, computed, with the refund, and with the version that leaves it out.
    assert changes_of_rows(done.stdout) == ["0 0 0", "3 3 2", "4 4 2", "4 3 2"]
    assert "amount_is_positive" in failed
    assert "SQLMesh in environment prod: 3 executed." in first, "the page quotes it"
    assert "No restatement is needed, unless" in failed, "the page follows it"
    assert "RUN_SUCCESS" in corrected
    assert "bob@example.com" not in done.stdout
