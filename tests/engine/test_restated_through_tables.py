"""A restatement that computes more days of a model than were asked for, and what reads it through a whole table."""

from typing import Any

import pytest
from harness import CONFIG, NewShop, Shop
from waiting import OP, day

BY_DAY = "INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1)"
SUMS = (
    f"MODEL (name t.sums, kind {BY_DAY}, columns (day DATE, n BIGINT)); "
    "SELECT d.day, (d.n + COALESCE((SELECT max_by(s.n, s.day) FROM t.sums AS s WHERE s.day < @start_ds), 0))::BIGINT n "
    "FROM raw.days AS d WHERE d.day BETWEEN @start_ds AND @end_ds"
)
KEYED = "MODEL (name t.sums, kind INCREMENTAL_BY_UNIQUE_KEY (unique_key day)); SELECT day, n FROM raw.days"
READER = f"MODEL (name t.reader, kind {BY_DAY}); SELECT day, n FROM t.mid WHERE day BETWEEN @start_ds AND @end_ds"
DAYS = {"raw.days": f"SELECT (DATE '{day(6)}' + i::INT)::DATE AS day, 1 AS n FROM range(6) AS days(i)"}


@pytest.mark.parametrize("between", ["FULL", "VIEW", "EMBEDDED"])
@pytest.mark.parametrize("source", [SUMS, KEYED], ids=["reads itself", "by key"])
def test_a_reader_is_restated_for_all_days_that_its_source_computes_again(
    new_shop: NewShop, source: str, between: str
) -> None:
    files = {
        "models/sums.sql": source,
        "models/mid.sql": f"MODEL (name t.mid, kind {between}); SELECT day, n FROM t.sums",
        "models/reader.sql": READER,
    }
    config = CONFIG.replace("6 days ago", f"'{day(6)}'")
    shop = new_shop(files, config, tables=DAYS, planned_at="now", restate=True, intervals_check=True)
    shop.query("UPDATE raw.days SET n = 10")

    record = shop.launch(assets=["t/sums"], ops={OP: {"restate": {"start": day(5), "end": day(4)}}}).succeeded()

    assert rows(shop, "reader") == rows(shop, "sums"), record.checks


def rows(shop: Shop, model: str) -> Any:
    return shop.query(f"SELECT day, n FROM t.{model} ORDER BY ALL")
