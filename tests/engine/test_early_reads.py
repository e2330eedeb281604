"""A model that was computed before a table that it reads: its check warns until it is computed again."""

import dagster as dg
import pytest
from engine.hourly_rows import EARLY, HOURS, reader, rows, source
from engine.recorded_models import day
from harness import NewShop, RunRecord

CHECK = "t/r:sqlmesh_intervals_complete"


def is_warning(run: RunRecord, model: str = "r") -> bool:
    evaluation = run.succeeded().checks[f"t/{model}:sqlmesh_intervals_complete"]
    assert evaluation.passed or evaluation.severity is dg.AssetCheckSeverity.WARN
    return not evaluation.passed


@pytest.mark.advice("To read them, launch a run of {} with `{}` in the run config")
def test_a_model_that_a_shell_has_computed_before_its_source_warns_until_it_is_restated(new_shop: NewShop) -> None:
    """The janitor merges the times by which these intervals are found."""
    models = {
        "x": source("x", EARLY),
        "shown": "MODEL (name t.shown, kind VIEW); SELECT ts FROM t.x",
        "r": reader("r", "shown"),
        "new": reader("new", "shown"),
        "hourly": reader("hourly", "x", head=f"{EARLY}, cron '@hourly'"),
    }
    files = {f"models/{name}.sql": text for name, text in models.items()}
    shop = new_shop(files, tables=HOURS, intervals_check=True, restate=True)
    alone = ("--no-auto-upstream", "--select-model")
    shop.sqlmesh("run", *alone, "t.r")
    shop.sqlmesh("run", *alone, "t.new", "--end", day(2))  # the run computes another day
    first = shop.launch()
    assert is_warning(first), "before the source is computed in this run"
    assert is_warning(first, "new")
    assert not is_warning(first, "hourly"), "as in SQLMesh, it does not wait for the day of its source"
    lacks = {name: rows(shop, "x") - rows(shop, name) for name in ("r", "new")}
    assert lacks == {"r": 72, "new": 48}
    assert is_warning(shop.launch())
    shop.sqlmesh("janitor")
    again = shop.launch()
    assert is_warning(again)
    assert is_warning(again, "new")
    assert not is_warning(again, "hourly")
    text = again.description_of(CHECK)
    assert "t.r was computed for these ranges before a model that it reads, so it lacks rows. " in text
    start, end = text.partition("`restate: {start: '")[2].partition("'}`")[0].split("', end: '")

    config = {"sqlmesh_shop": {"restate": {"start": start, "end": end}}}
    restated = shop.launch(assets=["t/r"], ops=config)

    assert not is_warning(restated)
    assert rows(shop, "x") == rows(shop, "r")
    last = shop.launch()
    assert not is_warning(last)
    assert is_warning(last, "new")
    shop.sqlmesh("janitor")
    assert not is_warning(shop.launch())
