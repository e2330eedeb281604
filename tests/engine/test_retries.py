"""Retries inside the step: models with transient errors run again, and finished models do not."""

from datetime import datetime, timedelta, timezone

import dagster as dg
import pytest
from harness import CONFIG, NewShop, Shop, python_model

BREAK_ONCE = """
with open("attempts", "a") as attempts:
    attempts.write(".")
for fault in ("lose_connection", "kill"):
    if Path(fault).exists():
        Path(fault).unlink()
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ConnectionError("the connection was lost")
"""
FILES = {
    "models/fine.sql": "MODEL (name t.fine, kind FULL); SELECT 1 AS id",
    "models/flaky.py": python_model("t.flaky", BREAK_ONCE, ["t.fine"]),
    "models/below_flaky.sql": "MODEL (name t.below_flaky, kind FULL); SELECT id FROM t.flaky",
    "models/broken.sql": "MODEL (name t.broken, kind FULL, start '2026-01-01'); "
    "SELECT CASE WHEN @execution_ds > '{today}' THEN error('boom') ELSE '' END AS never",
    "models/below_both.sql": "MODEL (name t.below_both, kind FULL); SELECT f.id FROM t.flaky AS f, t.broken",
}
HEALTHY_MODELS = ["t/fine", "t/flaky", "t/below_flaky"]


@pytest.fixture
def flaky(new_shop: NewShop) -> Shop:
    two_days_ago = f"{datetime.now(timezone.utc) - timedelta(days=2):%Y-%m-%d}"
    files = {**FILES, "models/broken.sql": FILES["models/broken.sql"].format(today=two_days_ago)}
    shop = new_shop(files, execution={"retries": {"max_retries": 2, "delay": 0.1}})
    (shop.project / "attempts").unlink()
    return shop


@pytest.mark.attribute("execution.retries", "execution.retries.max_retries", "execution.retries.delay")
def test_retry_computes_only_models_with_transient_errors_and_their_downstream_models(flaky: Shop) -> None:
    (flaky.project / "lose_connection").touch()
    before = flaky.state()["intervals"]
    record = flaky.launch("multiprocess")
    after = flaky.state()["intervals"]
    assert {asset: record.status_of(asset) for asset in ["t/broken", "t/below_both"]} == {
        "t/broken": "failed",
        "t/below_both": "blocked",
    }
    assert set(record.materializations) == set(HEALTHY_MODELS)
    healthy = {f'"warehouse"."t"."{asset[2:]}"' for asset in HEALTHY_MODELS}
    assert {fqn for fqn in after if after[fqn] != before[fqn]} == healthy
    attempts = {asset: record.materializations[asset].metadata.get("sqlmesh/attempts") for asset in HEALTHY_MODELS}
    numbers = {asset: number and number.value for asset, number in attempts.items()}
    assert numbers == {"t/fine": None, "t/flaky": 2, "t/below_flaky": 2}
    assert (flaky.project / "attempts").read_text() == ".."
    assert "Attempt 2 of 3 starts in 0.1 seconds" in record.log
    assert "Attempt 3" not in record.log  # no transient error is left, and the persistent error is not retried
    [failure] = record.failures
    assert "1 failed, 1 blocked, 3 executed" in failure
    assert "boom" in failure


def test_retry_after_killed_worker_computes_the_rest(flaky: Shop) -> None:
    (flaky.project / "kill").touch()
    record = flaky.launch("in_process", assets=HEALTHY_MODELS).succeeded()
    assert set(record.materializations) == set(HEALTHY_MODELS)
    assert "sqlmesh/attempts" not in record.materializations["t/fine"].metadata
    assert (flaky.project / "attempts").read_text() == ".."
    assert "SIGKILL" in record.log


@pytest.mark.parametrize(
    ("fails_at", "is_fine"), [("once.", True), ("once%", False)], ids=["first attempt fails", "every attempt fails"]
)
def test_retry_runs_failed_after_all_statement_again(new_shop: NewShop, fails_at: str, is_fine: bool) -> None:
    statement = f"SELECT CASE WHEN content LIKE '{fails_at}' THEN error('too early') END FROM read_text('attempts')"
    files = {name: FILES[name] for name in ("models/fine.sql", "models/flaky.py")}
    shop = new_shop(
        files, f"{CONFIG}\nafter_all:\n  - {statement}\n", execution={"retries": {"max_retries": 2, "delay": 0}}
    )
    (shop.project / "attempts").write_text("once")
    (shop.project / "lose_connection").touch()
    record = shop.launch()
    assert (record.status == dg.DagsterRunStatus.SUCCESS) is is_fine, record.failures
    assert set(record.materializations) == {"t/fine", "t/flaky"}
    assert (
        "starts in 0.0 seconds, because of transient errors. It computes the pending intervals of t.flaky."
        in record.log
    )
    assert is_fine or "too early" in record.failures[0]


def test_selected_checks_are_evaluated_although_after_all_statement_failed(new_shop: NewShop) -> None:
    files = {
        "models/fine.sql": "MODEL (name t.fine, kind FULL); SELECT 1 AS id",
        "models/audited.sql": "MODEL (name t.audited, kind FULL, audits (not_null(columns := (id)))); SELECT 1 AS id",
    }
    sql = "SELECT CASE WHEN count(*) > 0 THEN error('too late') END FROM glob('is_late')"
    shop = new_shop(files, f"{CONFIG}\nafter_all:\n  - {sql}\n", execution={"retries": {"max_retries": 1, "delay": 0}})
    (shop.project / "is_late").touch()
    record = shop.launch(assets=["t/fine"], checks=["t/audited:not_null_id"]).failed()
    assert "too late" in record.failures[0]
    assert record.checks["t/audited:not_null_id"].passed


def test_transient_error_fails_at_once_without_retries(flaky: Shop) -> None:
    flaky.configure()
    (flaky.project / "lose_connection").touch()
    record = flaky.launch("in_process", assets=HEALTHY_MODELS).failed()
    assert (record.status_of("t/flaky"), record.status_of("t/below_flaky")) == ("failed", "blocked")
    second = flaky.launch("in_process", assets=HEALTHY_MODELS)
    assert (second.status_of("t/fine"), set(second.materializations)) == ("up_to_date", {"t/flaky", "t/below_flaky"})
