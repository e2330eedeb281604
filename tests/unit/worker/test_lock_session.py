"""A session that holds a lock notices its end without a query."""

from __future__ import annotations

import time

from postgres import postgres_server

from dg_sqlmesh_component.worker.state_lock import Session


def test_a_session_that_somebody_ends_is_noticed_and_a_message_about_settings_is_not_its_end() -> None:
    import psycopg2

    with postgres_server() as server:
        server.query("CREATE DATABASE sessions")
        connection = psycopg2.connect(host="127.0.0.1", port=server.port, user="postgres", dbname="sessions")
        pid, session = connection.info.backend_pid, Session(connection)
        asked_before = server.query(f"SELECT query FROM pg_stat_activity WHERE pid = {pid}")
        assert session.is_open()
        assert server.query(f"SELECT query FROM pg_stat_activity WHERE pid = {pid}") == asked_before, "it asks nothing"
        server.query("ALTER DATABASE sessions SET DateStyle = 'German'")
        server.query("ALTER SYSTEM SET DateStyle = 'German'")
        server.query("SELECT pg_reload_conf()")  # PostgreSQL tells its clients about some settings
        server.query("ALTER SYSTEM RESET DateStyle")
        time.sleep(0.2)
        assert session.is_open()

        server.query(f"SELECT pg_terminate_backend({pid}, 5000)")

        time.sleep(0.1)
        assert not session.is_open()
        assert not session.is_open(), "it does not open again"
        server.query("SELECT pg_reload_conf()")
