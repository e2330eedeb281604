"""Which rows SQLMesh shows before and after a model gets another kind, and that the plan names those that are gone."""

from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlmesh import Context
from upstream.lossy_project import Project, lost_by

from dg_sqlmesh_component.capabilities.plans.worker.lost_rows import Losses

ALL = "SELECT id::INT AS id, day::DATE AS day FROM {source}"
RANGE = f"{ALL} WHERE day BETWEEN @start_ds AND @end_ds"
SINCE = f"{ALL} WHERE day >= @start_ds"
BY_TIME = "INCREMENTAL_BY_TIME_RANGE (time_column day){}"
BY_KEY = "INCREMENTAL_BY_UNIQUE_KEY (unique_key id)"
KINDS = {
    "full": ("FULL", ALL),
    "view": ("VIEW", ALL),
    "embedded": ("EMBEDDED", ALL),
    "scd": ("SCD_TYPE_2_BY_COLUMN (unique_key id, columns [day])", ALL),
    "time": (BY_TIME.format(""), RANGE),
    "time_without_filter": (BY_TIME.format(""), ALL),
    "time_from_later_on": (BY_TIME.format(", start '3 days ago'"), RANGE),
    "key": (BY_KEY, RANGE),
    "key_since": (BY_KEY, SINCE),
    "key_of_all": (BY_KEY, ALL),
    "partition": ("INCREMENTAL_BY_PARTITION, partitioned_by day", RANGE),
    "unmanaged": ("INCREMENTAL_UNMANAGED", RANGE),
}
SEED = "MODEL (name t.{name}, kind SEED (path '../seed.csv'), columns (id INT, day DATE))"
PYTHON = """
from sqlmesh import model
@model("t.{name}", kind="FULL", columns={{"id": "int", "day": "date"}})
def execute(context, **_):
    return context.fetchdf("SELECT id, day FROM raw.days")
"""

CHANGES = [
    *((before, after) for before in ("full", "view", "scd", "key_of_all") for after in KINDS if after != "embedded"),
    *(("embedded", after) for after in ("full", "time", "key", "time_from_later_on")),
    *((before, after) for before in ("seed", "python") for after in ("time", "key_of_all", "unmanaged")),
    *(("time", after) for after in ("full", "key", "key_since", "embedded")),
]
READERS = ("view", "full", "time", "key_of_all")
WITH_READERS = (("full", "time"), ("full", "time_from_later_on"), ("embedded", "time_from_later_on"), ("time", "full"))


def write(project: Project, name: str, kind: str, source: str = "raw.days") -> None:
    models = project.path / "models"
    for suffix in ("sql", "py"):
        (models / f"{name}.{suffix}").unlink(missing_ok=True)
    if kind == "python":
        (models / f"{name}.py").write_text(PYTHON.format(name=name))
    elif kind == "seed":
        project.write(SEED.format(name=name), name)
    else:
        head, query = KINDS[kind]
        project.write(f"MODEL (name t.{name}, kind {head}); {query.format(source=source)}", name)


def rows_of(context: Context, names: list[str]) -> dict[str, dict[int, date | None]]:
    """The rows of each model, by id."""
    return {name: dict(context.engine_adapter.fetchall(f"SELECT id, day FROM t.{name}")) for name in names}


def is_named(lost: Losses, day: date | None) -> bool:
    if day is None:
        return lost.own.without_time or lost.read.without_time
    instant = datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp() * 1000
    return any(start <= instant < end for start, end in (*lost.own.intervals, *lost.read.intervals))


def test_exactly_the_rows_that_another_kind_does_not_show_are_named_also_in_models_downstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows before the start, of six computed days, of today, of the future, and without a day."""
    project = Project(tmp_path / "shop")
    monkeypatch.chdir(project.path)
    today = datetime.now(timezone.utc).date()
    days = [*(today + timedelta(offset) for offset in (-20, -19, *range(-6, 1), 3)), None]
    (project.path / "seed.csv").write_text("\n".join(["id,day", *(f"{n},{day or ''}" for n, day in enumerate(days))]))
    readers = {
        f"{before}_to_{after}_{kind}": f"{before}_to_{after}" for before, after in WITH_READERS for kind in READERS
    }
    for before, after in CHANGES:
        write(project, f"{before}_to_{after}", before)
    for name, source in readers.items():
        write(project, name, name.removeprefix(f"{source}_"), f"t.{source}")
    with project.planned() as (_, context):
        values = ", ".join(f"({n}, {f'DATE {day.isoformat()!r}' if day else 'NULL'})" for n, day in enumerate(days))
        context.engine_adapter.execute("CREATE SCHEMA raw; CREATE TABLE raw.days (id INT, day DATE)")
        context.engine_adapter.execute(f"INSERT INTO raw.days VALUES {values}")
    with project.planned() as (plan, context):
        context.apply(plan)
        shown = [f"{before}_to_{after}" for before, after in CHANGES if "embedded" not in (before, after)]
        before_plan = rows_of(context, [*shown, *readers])
    for before, after in CHANGES:
        write(project, f"{before}_to_{after}", after)
    with project.planned() as (plan, context):
        losses = lost_by(plan)

        context.apply(plan)

        after_plan = rows_of(context, [*before_plan])
    gone = {name: before_plan[name].keys() - after_plan[name].keys() for name in before_plan}
    assert sum(map(len, gone.values())) > 100
    named = {
        name: {number for number, day in rows.items() if name in losses and is_named(losses[name], day)}
        for name, rows in before_plan.items()
    }
    assert named == gone
    assert {name for name, lost in losses.items() if lost.read} == {name for name in readers if gone[name]}
    assert all(losses[name].causes == (f'"warehouse"."t"."{readers[name]}"',) for name in readers if gone[name])
