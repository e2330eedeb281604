"""Start PgBouncer before the PostgreSQL server of the tests."""

import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from postgres import Server
from servers import as_user, folder_of, free_port, running

CONFIG = """
[databases]
{databases}
* = host=127.0.0.1 port={server} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
"""


@contextmanager
def pgbouncer(server: Server, mode: str, databases: str = "") -> Iterator[Server]:
    """Start PgBouncer with a `pool_mode`. Yield the server as it is behind it. Without PgBouncer, skip the test.

    Args:
        databases: Lines of the section of databases that have a mode of their own.
    """
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        pytest.skip(
            "PGBOUNCER IS NOT INSTALLED, so nothing was tested behind it: `make services` installs it on Debian"
        )
    user, port = as_user("postgres", "postgres"), free_port()

    def listens() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    with folder_of("pgbouncer", user) as folder:
        settings = folder / "pgbouncer.ini"
        settings.write_text(CONFIG.format(server=server.port, port=port, mode=mode, databases=databases))
        with running([program, settings], folder, listens, signal.SIGTERM, **user):
            yield Server(port, server.log)
