"""Start PgBouncer before the PostgreSQL server of the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from postgres import Server

CONFIG = """
[databases]
* = host=127.0.0.1 port={server} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
"""


@contextmanager
def pgbouncer(server: Server, mode: str) -> Iterator[Server]:
    """Start PgBouncer with a `pool_mode`. Yield the server as it is behind it. Without PgBouncer, skip the test."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        pytest.skip(
            "PGBOUNCER IS NOT INSTALLED, so nothing was tested behind it: `make services` installs it on Debian"
        )
    # It refuses to run as root.
    as_user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if not os.geteuid() else {}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "pgbouncer.ini")
        settings.write_text(CONFIG.format(server=server.port, port=port, mode=mode))
        if as_user:
            shutil.chown(folder, "postgres")
        process = subprocess.Popen(
            [program, settings], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user
        )
        try:
            _wait_until_it_listens(port, process)
            yield Server(port, server.log)
        finally:
            process.terminate()
            process.wait(60)


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "PgBouncer did not start"
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("PgBouncer did not listen within a minute")
