"""A run reads and renders the queries of the models that it computes, and of no others."""

import shutil
from pathlib import Path

import dagster as dg
import pytest
from harness import (
    PYTHON_CONFIG,
    YEARLY_CRON,
    NewShop,
    RunRecord,
    Shop,
    at_night,
    plan,
    planned_shop,
    python_model,
    query,
    rows_at_night,
    sqlmesh,
)

COUNTING = f"""{PYTHON_CONFIG}
from sqlmesh.core.renderer import QueryRenderer

render = QueryRenderer.render


def counted(renderer, *args, **kwargs):
    with open("rendered", "a") as file:
        print(renderer._model_fqn, file=file)  # None for an audit
    return render(renderer, *args, **kwargs)


QueryRenderer.render = counted
"""
YEARLY = f"cron '{YEARLY_CRON}', start '2 years ago'"
FILES = {
    "config.py": COUNTING,
    "models/daily.sql": "MODEL (name t.daily, kind INCREMENTAL_BY_TIME_RANGE (time_column day), audits (not_null("
    "columns := (id)))); SELECT 1 AS id, @start_ds::DATE AS day",
    "models/whole.sql": f"MODEL (name t.whole, kind FULL, {YEARLY}); SELECT count(*) AS n FROM t.daily",
    "models/shown.sql": f"MODEL (name t.shown, kind VIEW, {YEARLY}, audits (not_null(columns := (n)))); "
    "SELECT whole.n, other.n AS of_other FROM t.whole CROSS JOIN raw.other",
    "models/adding.sql": "MODEL (name t.adding, kind INCREMENTAL_BY_UNIQUE_KEY (unique_key n)); SELECT n FROM t.whole",
    "models/itself.sql": "MODEL (name t.itself, kind INCREMENTAL_BY_TIME_RANGE (time_column day), depends_on "
    "[t.daily, t.itself], columns (id INT, day DATE)); SELECT 1 AS id, @start_ds::DATE AS day",
}


def rendered(shop: Shop) -> set[str]:
    """The models whose queries were rendered since the last call."""
    file = shop.project / "rendered"
    if not file.exists():
        return set()
    names = {line.split('"')[-2] for line in file.read_text().splitlines() if line != "None"}
    file.unlink()
    return names


def test_an_idle_run_renders_no_query_and_a_run_of_one_model_renders_that_one(new_shop: NewShop) -> None:
    shop = new_shop(FILES, tables={"raw.other": "SELECT 1 AS n"})
    shop.refresh()
    rendered(shop)
    one = shop.launch(assets=["t/daily"])
    assert set(one.materializations) == {"t/daily"}, one.failures
    assert rendered(shop) == {"daily"}
    rest = shop.launch()
    assert set(rest.materializations) == {"t/adding", "t/itself"}, rest.failures
    assert rendered(shop) == {"adding", "itself"}
    idle = shop.launch().succeeded()
    assert {idle.status_of(f"t/{name}") for name in ("daily", "whole", "shown", "adding")} == {"up_to_date"}
    assert rendered(shop) == set()


SEED = {
    "models/colours.sql": "MODEL (name t.colours, kind SEED (path '../seeds/colours.csv'), columns (id INT))",
    "seeds/colours.csv": "id\n1\n2\n",
}


@pytest.mark.parametrize(
    ("has_table", "has_cache"), [(True, False), *rows_at_night((True, True), (False, True), (False, False))]
)
def test_a_pending_seed_is_loaded_as_by_sqlmesh(tmp_path: Path, has_table: bool, has_cache: bool) -> None:
    """The state does not have the rows of a seed, and SQLMesh's cache of files has them."""

    def pending(shop: Shop) -> None:
        [(table,)] = query(shop.project, "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 't__colours__%'")
        query(shop.project, "DELETE FROM sqlmesh._intervals")
        if not has_table:
            query(shop.project, f'DROP TABLE sqlmesh__t."{table}" CASCADE')
        if not has_cache:
            shutil.rmtree(shop.project / ".cache")

    def loaded(shop: Shop) -> bool:
        return bool(shop.state()["intervals"]['"warehouse"."t"."colours"'])

    with planned_shop(tmp_path, SEED, planned_at=None) as shop:
        plan(shop.project, at=None)
        pending(shop)
        sqlmesh(shop.project, "run", check=False)
        loads = loaded(shop)
        shop.refresh()
    with planned_shop(tmp_path / "ours", SEED, planned_at=None) as ours:
        ours.refresh()
        plan(ours.project, at=None)
        pending(ours)
        run = ours.launch()
        assert loaded(ours) == loads == (has_table or has_cache)
    assert run.status is (dg.DagsterRunStatus.SUCCESS if loads else dg.DagsterRunStatus.FAILURE)
    assert loads or "Seed model 't.colours' is not hydrated" in run.failures[0]


FAILING = {
    "macros/__init__.py": "from pathlib import Path\nfrom sqlmesh import macro\n\n\n@macro()\ndef number(evaluator):\n"
    "    if Path('fail').exists():\n        raise ValueError('no number today')\n    return 1\n",
    "signals/__init__.py": "from pathlib import Path\nfrom sqlmesh import signal\n\n\n@signal()\ndef ready(batch):\n"
    "    if Path('fail_signal').exists():\n        raise ValueError('no signal today')\n    return True\n",
    "models/failing.sql": "MODEL (name t.failing, kind FULL); SELECT @number() AS id",
    "models/gated.sql": "MODEL (name t.gated, kind FULL, signals (ready())); SELECT 1 AS id",
    "models/python.py": python_model("t.python", "if Path('fail').exists():\n    raise ValueError('no rows today')"),
}


@pytest.mark.parametrize("is_warm", [True, False])
@pytest.mark.parametrize("part", ["macro", *at_night("signal")])
def test_error_of_macro_or_signal_is_that_of_sqlmesh_warm_or_cold(new_shop: NewShop, is_warm: bool, part: str) -> None:
    shop = new_shop(FAILING)
    shop.launch(assets=["t/gated" if part == "macro" else "t/failing"])  # with a cache
    (shop.project / ("fail" if part == "macro" else "fail_signal")).touch()
    if not is_warm:
        shutil.rmtree(shop.project / ".cache", ignore_errors=True)
    run: RunRecord = shop.launch()
    assert run.status is dg.DagsterRunStatus.FAILURE
    text = "\n".join([*run.failures, run.log])
    assert f"no {'number' if part == 'macro' else 'signal'} today" in text
    if is_warm or part == "signal":
        assert f"t.{'failing' if part == 'macro' else 'gated'}" in run.failures[0]
    else:  # SQLMesh renders the query before it begins with a model
        reason = "ValueError: no number today\n\nFailed to resolve macros for"
        assert run.failures[0].startswith(f"SQLMesh ended the run with an error: {reason}")
    if is_warm and part == "macro":  # SQLMesh's own texts have the reason at their end
        for model, file, reason in (("failing", "sql", "no number today"), ("python", "py", "no rows today")):
            status = run.description_of(f"t/{model}:sqlmesh_execution_status")
            assert status == f"t.{model} (models/{model}.{file}) failed. ValueError: {reason}."
