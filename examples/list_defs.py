"""Writes what `dg list defs` says into the examples' READMEs: python examples/list_defs.py [--check] [example ...]

Takes the `dg` of the environment that runs it: dbt_flavoured and with_dbt need one that has dbt, with_wait one that has
dlt too. With `--check` nothing is written, and the exit status is 1 if a README is stale.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
COMMAND = ("dg", "list", "defs", "--columns", "key,group,deps,kinds")
COLUMNS = "120"  # as wide as a README is comfortably read; nothing is cut off

_BLOCK = re.compile(r"(<!-- begin list_defs.py -->\n```text\n)(.*?)(```\n<!-- end list_defs.py -->)", re.DOTALL)


def recorded(example: Path) -> str:
    """The block in an example's README."""
    block = _BLOCK.search((example / "README.md").read_text(encoding="utf-8"))
    if block is None:
        raise SystemExit(f"{example.name}/README.md has no place for the output of {COMMAND[0]}.")
    return block[2]


def listed(example: Path) -> str:
    """The block as it must be."""
    bin_ = Path(sys.executable).parent  # not resolved: a virtual environment's interpreter is a link
    path = f"{bin_}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(bin_ / COMMAND[0]), *COMMAND[1:]],
        cwd=example,
        env={**os.environ, "PATH": path, "COLUMNS": COLUMNS, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        check=True,
    )
    lines = [f"$ {' '.join(COMMAND)}", *(line.rstrip() for line in done.stdout.strip().splitlines())]
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> int:
    """Rewrite, or with `--check` compare; returns how many were stale."""
    names = [word for word in words if word != "--check"]
    stale = 0
    for readme in sorted(EXAMPLES.glob("*/README.md")):
        example = readme.parent
        if names and example.name not in names:
            continue
        block = listed(example)
        if block == recorded(example):
            continue
        stale += 1
        print(f"{example.name}/README.md {'is stale' if '--check' in words else 'was rewritten'}.")
        if "--check" not in words:
            text = readme.read_text(encoding="utf-8")
            readme.write_text(text.replace(recorded(example) + "```\n<!-- end", block + "```\n<!-- end"), "utf-8")
    return stale if "--check" in words else 0


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
