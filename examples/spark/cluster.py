"""A Spark master and two workers on this machine, while a command runs: python cluster.py COMMAND ..."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pyspark

HOST = "127.0.0.1"
PORT, WEB_PORT = 7077, 8099  # below 1024, Spark's web pages do not start, and the worker with them
SPARK = Path(pyspark.__file__).parent
WORKERS = 2


def start(name: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [SPARK / "bin" / "spark-class", f"org.apache.spark.deploy.{name}", *arguments],
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        env={**os.environ, "SPARK_HOME": str(SPARK), "PYSPARK_PYTHON": sys.executable},
    )


def registered_workers() -> int:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{WEB_PORT}/json/", timeout=5) as answer:
            return int(json.load(answer)["aliveworkers"])
    except OSError:  # it does not answer yet
        return 0


def main(command: list[str]) -> int:
    """Run the command while the cluster runs, and return its exit status."""
    data = Path(os.environ.setdefault("SPARK_DATA", "/tmp/spark_shop"))
    data.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        web = ("-h", HOST, "--webui-port")
        processes = [start("master.Master", "-p", str(PORT), *web, str(WEB_PORT), log=logs / "master.log")]
        stack.callback(lambda: [process.terminate() for process in processes])
        for number in range(1, WORKERS + 1):
            folder = ("-d", str(logs / f"worker{number}"), "-c", "1", "-m", "1g")
            address = (f"spark://{HOST}:{PORT}", *folder, *web, str(WEB_PORT + number))
            processes.append(start("worker.Worker", *address, log=logs / f"worker{number}.log"))
        deadline = time.monotonic() + 120
        # A job on a cluster without workers waits for ever.
        while registered_workers() < WORKERS:
            if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
                print(*(log.read_text()[-3000:] for log in logs.glob("*.log")), sep="\n", file=sys.stderr)
                return 1
            time.sleep(0.5)
        print(f"Spark: {WORKERS} workers at spark://{HOST}:{PORT}", flush=True)
        return subprocess.call(command, env={**os.environ, "SPARK_MASTER": f"spark://{HOST}:{PORT}"})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
