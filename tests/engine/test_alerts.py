"""The sensors of docs/alerts.md post what a run has found, and nothing twice."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import pytest
from harness import REPOSITORY, NewShop, RunRecord, Shop

FILES = {
    "models/orders.sql": "MODEL (name t.orders, kind FULL, audits (not_null(columns := (id), blocking := false))); "
    "SELECT id FROM ctl.orders",
    "models/paid.sql": "MODEL (name t.paid, kind FULL, tags ('dagster:tag:team=finance'), "
    "audits (not_null(columns := (id)))); SELECT id FROM ctl.paid",
    "models/cast.sql": "MODEL (name t.cast, kind FULL, owner ann); SELECT id::INT AS id FROM ctl.text",
}
TABLES = {"ctl.orders": "SELECT 1 AS id", "ctl.text": "SELECT '1' AS id", "ctl.paid": "SELECT 1 AS id"}


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a webhook has received."""
    texts: list[str] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = HTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("ALERTS_WEBHOOK", f"http://127.0.0.1:{server.server_port}/hook")
    yield texts
    server.shutdown()
    server.server_close()


def evaluate(shop: Shop, name: str, record: RunRecord, ended: dg.DagsterEventType) -> None:
    repository = shop.refresh().get_repository_def()
    sensor = repository.get_sensor_def(name)
    run = shop.instance.get_run_by_id(record.run_id)
    assert run is not None
    context = dg.build_run_status_sensor_context(
        name, record.events(ended)[0], shop.instance, run, repository_def=repository
    )
    sensor(context.for_run_failure() if ended is dg.DagsterEventType.RUN_FAILURE else context)


def test_a_failed_run_and_new_warnings_of_audits_are_posted_once(new_shop: NewShop, posted: list[str]) -> None:
    shop = new_shop(FILES, tables=TABLES, restate=True)
    [code] = re.findall(r"```python\n(# defs/alerts.py.*?)```", (REPOSITORY / "docs/alerts.md").read_text(), re.DOTALL)
    shop.add_module("alerts", code)
    shop.query("INSERT INTO ctl.orders VALUES (NULL)")

    warned = shop.launch().succeeded()
    evaluate(shop, "alert_failed_checks", warned, dg.DagsterEventType.RUN_SUCCESS)
    [text] = posted
    assert text.startswith(f"Run {warned.run_id} succeeded, and these checks failed:\nt/orders, not_null_id: ")

    evaluate(shop, "alert_failed_checks", shop.launch(), dg.DagsterEventType.RUN_SUCCESS)
    assert len(posted) == 1, "the second run has repeated the result"

    shop.query("INSERT INTO ctl.text VALUES ('x')")
    again = {"restate": {"start": "2 days ago", "end": "1 day ago"}}
    shop.query("INSERT INTO ctl.paid VALUES (NULL)")
    failed = shop.launch(ops={"sqlmesh_shop": again}, assets=["t/cast", "t/paid"]).failed()
    evaluate(shop, "alert_failed_run", failed, dg.DagsterEventType.RUN_FAILURE)
    assert "t.cast (models/cast.sql) failed." in posted[1]
    assert "Could not convert string 'x' to INT32" in posted[1]

    del posted[:]
    evaluate(shop, "alert_owners", failed, dg.DagsterEventType.RUN_FAILURE)
    assert {text.partition(": ")[0] for text in posted} == {"team:ann", "finance"}
    assert any(text.startswith("finance: t/paid, not_null_id: 1 row failed") for text in posted)
    assert any("Could not convert string 'x' to INT32" in text for text in posted if text.startswith("team:ann"))
