"""A sample of the rows that an audit has found: on its check, if `audits.sample_rows` asks for it, and masked."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from harness import ONE_EXECUTOR, NewShop, RunRecord, Shop, query
from postgres import postgres_server

SECRET = "planted-secret-value"
ROWS = (
    f"SELECT i::INT AS id, CASE WHEN i > 2 THEN 'ann{SECRET}@example.com' END AS email, "
    f"'Ann{SECRET}' AS first_name, '{SECRET}' AS api_token, 'x' || i AS note FROM range(1, 9) AS r(i)"
)
FILES = {
    "models/customers.sql": f"MODEL (name t.customers, kind FULL, audits (found, renamed)); {ROWS}",
    "audits/found.sql": "AUDIT (name found, blocking false); SELECT * FROM @this_model WHERE id <> 4",
    "audits/renamed.sql": "AUDIT (name renamed); SELECT upper(email) AS contact, id + 1 AS next_id FROM @this_model "
    "WHERE email IS NOT NULL ORDER BY id",
}
CHECK = "t/customers:found"
MASKED = {"sample_rows": 3, "mask": ["email", "*_name"]}


def failing_shop(new_shop: NewShop, files: dict[str, str], **options: Any) -> Shop:
    """Return a project whose audits fail in its first run: the plan has computed nothing."""
    shop: Shop = new_shop(files, planned_at=None, **options)
    shop.plan("--skip-backfill")
    return shop


def rows_of(record: RunRecord, check: str = CHECK) -> list[dict[str, Any]] | None:
    table = record.checks[check].metadata.get("sqlmesh/failing_rows")
    if table is None:
        return None
    assert isinstance(table, dg.TableMetadataValue)
    return [dict(row.data) for row in table.records]


def stored(record: RunRecord, root: Path) -> str:
    """Everything that Dagster has stored of a run, and every file that it or the component has written."""
    events = [repr(entry) for entry in record.instance.all_logs(record.run_id)]
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_relative_to(root / "shop")]
    home = Path(record.instance.root_directory)
    files += [path for path in home.rglob("*") if path.is_file()]
    return "\n".join([*events, *(path.read_bytes().decode(errors="replace") for path in files)])


def test_dates_and_decimals_of_a_sample_are_as_the_engine_prints_them(new_shop: NewShop) -> None:
    values = "DATE '2026-11-24' AS day, 10.50::DECIMAL(10, 2) AS price, TIMESTAMP '2026-11-24 05:06:07' AS at, 1 AS n"
    files = {
        "models/customers.sql": "MODEL (name t.customers, kind FULL, grain N, audits (found)); "
        f"SELECT {values}, 0.25::DOUBLE AS x",
        "audits/found.sql": "AUDIT (name found, blocking false); SELECT * FROM @this_model",
    }
    record = failing_shop(new_shop, files, audits={"sample_rows": 1}).launch()
    assert rows_of(record) == [
        {"day": "2026-11-24", "price": "10.50", "at": "2026-11-24 05:06:07", "n": "1", "x": "0.25"}
    ]
    table = record.checks[CHECK].metadata["sqlmesh/failing_rows"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [column.name for column in table.schema.columns] == ["n", "day", "price", "at", "x"], "the grain comes first"


@pytest.mark.attribute("audits.sample_rows")
@pytest.mark.attribute("audits.mask")
@pytest.mark.parametrize("executor", ONE_EXECUTOR)
def test_check_of_a_failed_audit_shows_bounded_rows_without_masked_values(new_shop: NewShop, executor: str) -> None:
    record = failing_shop(new_shop, FILES, audits=MASKED).launch(executor).failed()
    rows = rows_of(record)
    assert rows is not None
    assert len(rows) == 3
    assert [set(row) for row in rows] == [{"id", "email", "first_name", "api_token", "note"}] * 3
    for row in rows:
        assert row["email"] == ("***" if int(row["id"]) > 2 else "NULL")
        assert (row["first_name"], row["api_token"], row["note"]) == ("***", "***", f"x{row['id']}")
    assert record.checks[CHECK].metadata["sqlmesh/failing_row_count"].value == 7
    assert rows_of(record, "t/customers:renamed") == [{"contact": "***", "next_id": str(n)} for n in (4, 5, 6)]


def test_masked_value_is_in_no_record_of_dagster_and_no_log(new_shop: NewShop) -> None:
    model = FILES["models/customers.sql"].replace(ROWS, "SELECT * FROM raw.customers")
    files = {**FILES, "models/customers.sql": model}
    shop = failing_shop(new_shop, files, tables={"raw.customers": ROWS}, audits=MASKED)
    record = shop.launch()
    assert rows_of(record) is not None
    assert SECRET in str(query(shop.project, "SELECT * FROM raw.customers"))
    assert SECRET not in stored(record, shop.root)


@pytest.mark.attribute("audits.columns")
def test_only_the_named_columns_are_shown(new_shop: NewShop) -> None:
    record = failing_shop(new_shop, FILES, audits={"sample_rows": 1, "columns": ["ID", "no*"]}).launch()
    assert rows_of(record) == [{"id": "1", "note": "x1"}]
    assert rows_of(record, "t/customers:renamed") is None


def test_check_run_alone_shows_rows_too(new_shop: NewShop) -> None:
    model = FILES["models/customers.sql"].replace(", renamed", "")
    shop = failing_shop(new_shop, {**FILES, "models/customers.sql": model}, audits=MASKED)
    shop.launch()
    record = shop.launch(checks=[CHECK])
    assert len(rows_of(record) or ()) == 3


def test_without_the_attribute_only_the_number_of_rows_is_shown(new_shop: NewShop) -> None:
    record = failing_shop(new_shop, FILES).launch()
    assert rows_of(record) is None
    assert record.description_of(CHECK).startswith("7 rows failed")


def test_sample_that_the_engine_refuses_is_a_warning_and_other_audits_go_on(new_shop: NewShop) -> None:
    """PostgreSQL counts rows without a cast that fails, and refuses statements after an error of a transaction."""
    files = {
        "models/customers.sql": "MODEL (name t.customers, kind FULL, audits (broken, found)); "
        f"SELECT i::INT AS id, '{SECRET}' AS email, 'x' AS note FROM generate_series(1, 3) AS r(i)",
        "audits/broken.sql": "AUDIT (name broken, blocking false); SELECT note::INT AS number FROM @this_model",
        "audits/found.sql": "AUDIT (name found, blocking false); SELECT * FROM @this_model WHERE id > 1 ORDER BY id",
    }
    with postgres_server() as server:
        server.query("CREATE DATABASE samples")
        record = failing_shop(new_shop, files, config=server.config("samples"), audits=MASKED).launch().succeeded()
    assert rows_of(record, "t/customers:broken") is None
    assert record.description_of("t/customers:broken").startswith("3 rows failed")
    assert "The failing rows of the audit broken could not be read: " in record.log
    assert rows_of(record) == [{"id": str(n), "email": "***", "note": "x"} for n in (2, 3)]
