"""Models without a `start`: SQLMesh takes their newest interval as the start, anew at each run."""

from typing import Any

import pytest
from harness import CONFIG, NewShop, Shop
from waiting import OP, day

TABLES = {"raw.days": f"SELECT DATE '{day(7)}' + i::INT AS day, 1 AS n FROM range(7) AS days(i)"}
MODELS = {
    "models/x.sql": "MODEL (name t.x, kind INCREMENTAL_BY_TIME_RANGE (time_column day)); "
    "SELECT day, n FROM raw.days WHERE day BETWEEN @start_ds AND @end_ds",
    "models/reader.sql": "MODEL (name t.reader, kind INCREMENTAL_BY_TIME_RANGE (time_column day)); "
    "SELECT day, n FROM t.x WHERE day BETWEEN @start_ds AND @end_ds",
    "models/full.sql": "MODEL (name t.full, kind FULL); SELECT count(*) AS n FROM raw.days",
}
START = "  start: 6 days ago\n"
CHECK = "t/x:sqlmesh_intervals_complete"


def shop_without_start(new_shop: NewShop) -> Shop:
    """Return a shop that lacks the last three days, and whose `start` a plan has removed."""
    shop = new_shop(MODELS, tables=TABLES, planned_at=f"{day(4)} 01:00", restate=True, intervals_check=True)
    change_config(shop, CONFIG.replace(START, ""))
    return shop


def change_config(shop: Shop, config: str) -> None:
    (shop.project / "config.yaml").write_text(config)
    shop.plan(at=None)


def restate(shop: Shop, start: int, end: int, *models: str) -> Any:
    return shop.launch(assets=[*models], ops={OP: {"restate": {"start": day(start), "end": day(end)}}})


def computed(shop: Shop) -> Any:
    return shop.query(
        "SELECT name, start_ts, end_ts FROM sqlmesh._intervals WHERE NOT is_removed AND NOT is_pending_restatement "
        "ORDER BY ALL"
    )


@pytest.mark.advice("set a `start`, for example in `model_defaults`, and apply a plan")
def test_a_restatement_that_no_run_would_compute_is_refused_and_forgets_nothing(new_shop: NewShop) -> None:
    shop = shop_without_start(new_shop)
    shop.launch().succeeded()
    before = computed(shop)

    for models, start, end in ((["t/x"], 5, 5), (["t/x", "t/reader"], 5, 1), (["t/full"], 5, 5), (["t/full"], 5, 1)):
        record = restate(shop, start, end, *models)
        assert "it has no `start`, so SQLMesh does not compute this range" in str(record.failures)
        assert computed(shop) == before
    for models, start, end in ((["t/x"], 1, 1), (["t/x", "t/full"], 5, 5)):
        restated = restate(shop, start, end, *models).succeeded()
        assert {restated.status_of(model) for model in ("t/reader", *models)} == {"executed"}
        change_config(shop, CONFIG)


@pytest.mark.advice("To have these rows, set a `start`, for example in `model_defaults`, and apply a plan")
def test_days_that_runs_have_skipped_are_a_warning_until_a_plan_computes_them(new_shop: NewShop) -> None:
    shop = shop_without_start(new_shop)

    check = shop.launch().succeeded().checks[CHECK]

    assert not check.passed
    assert check.description == (
        f"t.x has no gaps that a run computes in {day(6)} to {day(1)} (3 of 6 days). "
        f"No run computes {day(4)} to {day(2)} (3 days): t.x has no `start`, so a run computes only its newest "
        "interval. To have these rows, set a `start`, for example in `model_defaults`, and apply a plan."
    )
    change_config(shop, CONFIG)
    assert shop.launch().succeeded().checks[CHECK].passed
    assert shop.query("SELECT count(*) FROM t.x") == shop.query("SELECT count(*) FROM t.reader") == [(6,)]
