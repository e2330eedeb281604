"""`virtual_environment_mode: dev_only`: prod keeps the rows of a changed model, and every report says until when."""

from datetime import datetime, timedelta, timezone

import pytest
from engine.plan_jobs import APPLY, launch
from engine.preview_lab import ENVIRONMENT, PREVIEW, RAW, Lab, diffs, report_of_last
from harness import CONFIG, NewShop, needs_previews, query

pytestmark = needs_previews

MODELS = {
    "models/full.sql": "MODEL (name t.full, kind FULL); SELECT id::INT AS id, {n} AS n FROM raw.orders",
    "models/days.sql": "MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column day)); "
    "SELECT day, id::INT AS id, {n} AS n FROM raw.orders WHERE day BETWEEN @start_ds::DATE AND @end_ds::DATE",
    "models/shown.sql": "MODEL (name t.shown, kind VIEW); SELECT id, n, {n} AS m FROM t.full",
    "models/total.sql": "MODEL (name t.total, kind FULL); SELECT sum(m)::INT AS m FROM t.shown",
    "models/listed.sql": "MODEL (name t.listed, kind SEED (path '../seeds/listed.csv'), columns (id INT));",
    "seeds/listed.csv": "id\n{n}\n",
}
NEW = {"models/added.sql": "MODEL (name t.added, kind FULL); SELECT max(m)::INT AS m FROM t.shown"}
KEPT = "Prod keeps its rows until a run after the next tick of its cron (`@daily`) computes them."
STAYS = "Prod keeps its rows: runs compute later intervals by the new definition."
OWN = "Prod will not get this table: it has its own, which an apply computes."
READS_KEPT = "Prod will have other rows at first: this model reads t.full, which keeps its rows."


def files(n: int) -> dict[str, str]:
    return {name: text.replace("{n}", str(n)) for name, text in MODELS.items()}


@pytest.fixture(params=["dev_only", "full"])
def lab(request: pytest.FixtureRequest, new_shop: NewShop, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A shop whose models all differ from prod, with one new model."""
    attributes = {"deploy": {}, "preview": {"environment": ENVIRONMENT}}
    config = f"{CONFIG}virtual_environment_mode: {request.param}\n"
    shop = new_shop(files(1), config=config, planned_at=None, **attributes)
    lab = Lab(shop, lambda sql: query(shop.project, sql), monkeypatch)
    lab.ask("CREATE SCHEMA raw")
    lab.ask(f"CREATE TABLE raw.orders AS {RAW}")
    shop.plan(at=None)
    shop.launch()
    for name, text in {**files(2), **NEW}.items():
        (shop.project / name).write_text(text)
    return lab


def rows_of_prod(lab: Lab) -> dict[str, int]:
    columns = {"full": "max(n)", "days": "max(n)", "shown": "max(n * m)", "total": "m", "listed": "id", "added": "m"}
    return {name: lab.ask(f"SELECT {column} FROM t.{name}")[0][0] for name, column in columns.items()}


@pytest.mark.advice("To compute others, restate them, unless the model has `disable_restatement`.")
@pytest.mark.parametrize("lab", ["dev_only"], indirect=True)
def test_a_preview_says_which_rows_prod_will_not_have_and_an_apply_until_when(lab: Lab) -> None:
    report = report_of_last(lab.job(PREVIEW))

    texts = (KEPT, STAYS, OWN, READS_KEPT)
    notes = {name: [text for text in texts if text in diff["note"]] for name, diff in diffs(report).items()}
    assert notes == {
        "t.full": [KEPT],
        "t.days": [STAYS],
        "t.shown": [READS_KEPT],
        "t.total": [KEPT],
        "t.listed": [OWN],
        "t.added": [OWN, READS_KEPT],
    }
    kept = {model["name"]: model["kept_rows"] for model in report["models"] if model["kept_rows"]}
    whole = {"cron": "@daily", "all": True}
    assert kept == {"t.full": whole, "t.days": {"cron": "@daily", "all": False}, "t.total": whole}

    record = launch(lab.shop, APPLY, digest=report["digest"]).succeeded()
    assert rows_of_prod(lab) == {"full": 1, "days": 1, "shown": 2, "total": 70, "listed": 2, "added": 2}
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    until = f"until the first run after {tomorrow:%Y-%m-%d}T00:00:00Z computes them."
    assert "Computed: 2 models." in record.log
    assert f"Prod keeps the existing rows of t.full, t.total {until}" in record.log
    assert "Prod keeps the existing rows of t.days: runs compute later intervals" in record.log
    assert set(record.computed_outside) == {"t/shown", "t/listed", "t/added"}
    assert set(record.observations) == {"t/full", "t/days", "t/total"}
    assert until in (record.observations["t/full"].description or "")

    lab.shop.configure(restate=True)
    days = {"sqlmesh_shop": {"restate": {"start": "1 week ago", "end": f"{tomorrow - timedelta(days=2):%Y-%m-%d}"}}}
    lab.shop.launch(assets=["t/days"], ops=days).succeeded()
    assert lab.ask("SELECT DISTINCT n FROM t.days WHERE day < CURRENT_DATE") == [(2,)]


@pytest.mark.night(
    "test_a_preview_says_which_rows_prod_will_not_have_and_an_apply_until_when",
    "engine/test_previews.py::test_applying_a_previewed_plan_by_its_digest_computes_nothing",
)
@pytest.mark.parametrize("lab", ["full"], indirect=True)
def test_in_the_other_mode_prod_has_the_rows_of_the_preview(lab: Lab) -> None:
    report = report_of_last(lab.job(PREVIEW))
    notes = [diff["note"] for diff in report["diff"]]
    assert not [note for note in notes if "Prod keeps" in note or "Prod will" in note]

    record = launch(lab.shop, APPLY, digest=report["digest"]).succeeded()
    assert rows_of_prod(lab) == {"full": 2, "days": 2, "shown": 4, "total": 140, "listed": 2, "added": 2}
    assert "keeps" not in record.log
    assert set(record.observations) == set()


@pytest.mark.parametrize("lab", ["dev_only"], indirect=True)
def test_closing_the_preview_of_a_new_model_keeps_what_has_its_name(lab: Lab) -> None:
    """In this mode the table of prod has the model's own name, and prod has not created it yet."""
    (lab.shop.project / "models/seen.sql").write_text("MODEL (name t.seen, kind VIEW); SELECT 1 AS x")
    lab.ask("CREATE TABLE t.added AS SELECT 'of somebody' AS x")
    lab.ask("CREATE VIEW t.seen AS SELECT x FROM t.added")
    lab.preview()

    lab.close()

    assert lab.ask("SELECT x FROM t.seen") == [("of somebody",)]
