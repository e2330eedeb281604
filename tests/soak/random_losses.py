"""Apply random plans with losses, and compare what the report has named with what prod has lost.

python tests/soak/random_losses.py --stories 100 --seed 1

Each model gets a random change: of its columns, kind, start, end or cron; it is removed, or goes back to an earlier
version, also after one day of the source was corrected. The plan is applied with the command of its report. Each
column, day, order and view that prod does not show any more must be in the report, and each lost interval of the report
must be gone. A row of an `SCD_TYPE_2` model that its source does not have any more must be there, or in the report. A
model without a change must show what it showed before. Some models stand in a second catalog, under the name of a model
in the first. Some read another model, and change with it. Their rows do not depend on its rows.
"""

import json
import random
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import duckdb
from databases import Servers
from engine.plan_jobs import APPLY, PLAN, launch, report_of, text_of
from harness import CONFIG, OWN_MATERIALIZATION, Shop, planned_shop
from stories import Told, tell

DAILY = "INCREMENTAL_BY_TIME_RANGE (time_column day)"
KEPT = "INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true{})"
HISTORY = "SCD_TYPE_2_BY_COLUMN (unique_key day, columns [amount]{})"
OWN = "CUSTOM (materialization 'own')"
COLUMNS = {
    '"Item no"': "1::INT",
    "label": "'x'::TEXT",
    "price": "1.5::DOUBLE",
    '"Größe"': "2",
    "unknown_type": "LIST_DISTINCT([1])",
}
CATALOGS = CONFIG.replace("database: warehouse.duckdb", "catalogs: {warehouse: warehouse.duckdb, other: other.duckdb}")
SOURCE = "SELECT CURRENT_DATE - range::INT AS day, 1 AS amount FROM RANGE(10)"
RAW = {"raw.days": SOURCE, "raw.corrected": SOURCE}
ANCHOR = "MODEL (name t.anchor, kind FULL); SELECT 1 AS x"
"""A project without a model that is computed has no assets."""


@dataclass(frozen=True)
class LossyModel:
    """A model of one row per day.

    Attributes:
        name: As in its file. Models of the catalog `other` have assets with a prefix.
        columns: By name, the expressions after `day` and `amount`, in order.
        reads: The name of another model, of which the query counts the rows; empty for none.
    """

    name: str
    kind: str
    columns: Mapping[str, str]
    factor: int = 1
    properties: str = ""
    reads: str = ""

    @property
    def text(self) -> str:
        columns = "".join(f", {expression} AS {name}" for name, expression in self.columns.items())
        is_by_day = "INCREMENTAL" in self.kind or self.kind == OWN
        conditions = ["day BETWEEN @start_ds AND @end_ds"] if is_by_day else []
        conditions += [f"(SELECT COUNT(*) FROM {self.reads}) >= 0"] if self.reads else []
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        source = "raw.corrected" if self.has_history else "raw.days"
        query = f"SELECT day::DATE AS day, (amount * {self.factor})::INT AS amount{columns} FROM {source}{where}"
        prefix = ", tags ('dagster:key_prefix:other')" if self.catalog == "other" else ""
        return f"MODEL (name {self.name}, kind {self.kind}{prefix}{self.properties}); {query}"

    @property
    def has_history(self) -> bool:
        return "SCD_TYPE_2" in self.kind

    @property
    def catalog(self) -> str:
        return "other" if self.name.startswith("other.") else "warehouse"

    @property
    def view(self) -> tuple[str, str]:
        """The catalog and the name of its view. DuckDB ignores case."""
        return self.catalog, self.name.split(".")[-1].strip('"').lower()


Shown = tuple[dict[str, str], list[tuple[Any, ...]]]
"""The types of the columns of a view, by name, and the rows."""


def random_model(rng: random.Random, number: int, before: LossyModel | None) -> LossyModel:
    mode = rng.choice(("", ", on_destructive_change allow", ", on_destructive_change ignore"))
    first, second = (f"t.m{number}", f"warehouse.t.m{number}", f't."M{number}"'), (f"other.t.m{number - 1}",)
    name = rng.choice(first + second * (number % 2))
    kinds = (DAILY, DAILY, KEPT.format(mode), "FULL", "VIEW", OWN, HISTORY.format(mode))
    kind = rng.choice((*kinds, HISTORY.format(f"{mode}, forward_only false")))
    # SQLMesh does not quote a column of an SCD_TYPE_2 model.
    names = [name for name in COLUMNS if " " not in name or "SCD_TYPE_2" not in kind]
    drawn = rng.sample(names, rng.randint(1, len(names)))
    reads = before.name if before is not None and rng.random() < 0.4 else ""
    return LossyModel(name, kind, {name: COLUMNS[name] for name in drawn}, reads=reads)


def texts_after(rng: random.Random, model: LossyModel) -> dict[str, str]:
    """The text of the model's file after each change; empty if there is no file."""
    columns = [*model.columns]
    other = replace(model, factor=model.factor + 1)
    drop = rng.choice(columns)
    return {
        "none": model.text,
        "described": replace(model, properties=", description 'more'").text,
        "values": other.text,
        "added": replace(model, columns={**model.columns, "more": "3::INT"}).text,
        "dropped": replace(model, columns={name: model.columns[name] for name in columns if name != drop}).text,
        "reordered": replace(model, columns={name: model.columns[name] for name in reversed(columns)}).text,
        "retyped": replace(model, columns={**model.columns, drop: "'y'::BLOB"}).text,
        "removed": "",
        "disabled": replace(model, properties=", enabled false").text,
        "embedded": replace(model, kind="EMBEDDED").text,
        "whole": replace(model, kind="FULL").text,
        "started": replace(other, properties=", start '5 days ago'").text,
        "ended": replace(other, properties=", end '5 days ago'").text,
        "yearly": replace(model, properties=", cron '@yearly'").text,
        "reverted": model.text,
        "added again": model.text,
    }


CHANGES = tuple(texts_after(random.Random(0), LossyModel("t.any", "FULL", {"x": "1"})))
OF_READ = tuple(change for change in CHANGES if change not in ("removed", "disabled", "added again"))
"""The changes of a model that another one reads."""


def try_story(seed: int, engine: str, folder: Path, servers: Servers) -> Told:
    """Plan a random project, change each model, apply the plan, and compare prod with the report.

    Raises:
        AssertionError: Prod has lost something that the report does not have, or the report has something else.
    """
    rng = random.Random(seed)
    models: list[LossyModel] = []
    for number in range(6):
        models.append(random_model(rng, number, models[-1] if models else None))
    read = {model.reads for model in models}
    changes = [rng.choice(OF_READ if model.name in read else CHANGES) for model in models]
    is_corrected = rng.random() < 0.7
    files = {_file(number): model.text for number, model in enumerate(models)}
    files |= {"models/anchor.sql": ANCHOR, "materializations/own.py": OWN_MATERIALIZATION}
    with planned_shop(folder, files, CATALOGS, RAW, deploy=True) as shop:
        if any(model.has_history for model in models):
            shop.query("UPDATE raw.corrected SET amount = 3 WHERE day = CURRENT_DATE - 5")
            shop.sqlmesh("run")
        _plan_between(shop, models, changes, is_corrected=is_corrected)
        before = [_shown(shop, model) for model in models]
        for number, (model, change) in enumerate(zip(models, changes)):
            _write(shop, number, texts_after(rng, model)[change])
        planned, report = _planned(shop)
        config = json.loads(shlex.split(report["command"])[-1])["ops"][APPLY]["config"] if report["command"] else {}
        if report["models"]:
            launch(shop, APPLY, **config).succeeded()
        lost = [
            _compare(shop, model, shown, report, change)
            for model, shown, change in zip(models, before, changes, strict=True)
        ]
        assert any(lost) <= ("nothing is lost" not in planned), (changes, planned)
    return Told(counts=Counter([*changes, *["models with losses"] * sum(lost)]))


def _file(number: int) -> str:
    return f"models/m{number}.sql"


def _write(shop: Shop, number: int, text: str) -> None:
    file = shop.project / _file(number)
    file.unlink(missing_ok=True)
    if text:
        file.write_text(text)


def _plan_between(shop: Shop, models: Sequence[LossyModel], changes: Sequence[str], *, is_corrected: bool) -> None:
    """Plan newer versions of the models that go back later, and restate a day of them whose source was corrected."""
    newer = [number for number, change in enumerate(changes) if change == "reverted"]
    gone = [number for number, change in enumerate(changes) if change == "added again"]
    if not newer and not gone:
        return
    for number in newer:
        _write(shop, number, replace(models[number], factor=5).text)
    for number in gone:
        _write(shop, number, "")
    # Without its cache, SQLMesh finds another type of `valid_from` in its state than in the files.
    shop.plan(*(f"--allow-destructive-model={'.t.'.join(m.view)}" for m in models if m.has_history), at=None)
    restated = [
        "{}.t.{}".format(*models[number].view)
        for number in newer
        if models[number].kind != "VIEW" and not models[number].has_history
    ]
    if is_corrected and restated:
        [(day,)] = shop.query("SELECT (CURRENT_DATE - 5)::TEXT")
        shop.query(f"UPDATE raw.days SET amount = 7 WHERE day = '{day}'")
        options = [part for name in restated for part in ("--restate-model", name)]
        shop.plan(*options, "-s", day, "-e", day, at=None)


def _shown(shop: Shop, model: LossyModel) -> Shown | None:
    """What the view of a model shows; None if there is no view."""
    catalog, view = model.view
    columns = _ask(
        shop,
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 't' "
        f"AND table_catalog = '{catalog}' AND lower(table_name) = '{view}' ORDER BY ordinal_position",
    )
    if not columns:
        return None
    rows = sorted(_ask(shop, f'SELECT * FROM {catalog}.t."{view}"'), key=str)
    return {name.lower(): type_ for name, type_ in columns}, rows


def _ask(shop: Shop, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(shop.project / "warehouse.duckdb")) as connection:
        connection.execute(f"ATTACH '{shop.project / 'other.duckdb'}' AS other")
        return connection.sql(sql).fetchall()


def _planned(shop: Shop) -> tuple[str, dict[str, Any]]:
    """The report as Markdown and as JSON."""
    record = launch(shop, PLAN).succeeded()
    return text_of(record), report_of(record)


def _compare(shop: Shop, model: LossyModel, before: Shown | None, report: Mapping[str, Any], change: str) -> bool:
    """Whether prod has lost something of a model."""
    reported = {LossyModel(planned["name"], "", {}).view: planned for planned in report["models"]}.get(model.view)
    after = _shown(shop, model)
    case = (change, model.text, before, after, reported)
    if reported is None or reported["change"] == "metadata":
        assert before == after, case
        return False
    if before is None:
        assert reported["change"] == "added", case
        assert reported["shows_again"] or _is_as_source(shop, model, after), case
        return False
    if reported["change"] == "removed":
        assert (after is None) == (reported["becomes"] is None), case
        return True
    assert after is not None, case
    effects = [effect.lower() for effect in (*(reported["columns"] or ()), *reported["destructive"])]
    is_lossy = _compare_columns(before[0], after[0], effects, case)
    days, days_after = ({str(row[_day(shown)]) for row in shown[1]} for shown in (before, after))
    named = [((start or "")[:10], (end or "9999")[:10]) for start, end in reported["lost_intervals"]]
    is_whole = model.kind in ("FULL", "VIEW")
    if model.has_history:
        assert reported["lost_rows"] or _amounts(before) <= _amounts(after), case
        return is_lossy or bool(reported["lost_rows"])
    for day in days - days_after:
        assert any(start <= day < end for start, end in named) or (is_whole and named), (*case, day)
    for start, end in named if not reported["loses_with"] else ():  # its rows do not depend on those of others
        assert not any(start <= day < end for day in days_after), case
    if change == "reverted":
        assert _is_as_source(shop, model, after), case
    return is_lossy or bool(named)


def _amounts(shown: Shown) -> set[tuple[Any, Any]]:
    """The amounts of each day, of all times."""
    amount = [*shown[0]].index("amount")
    return {(row[_day(shown)], row[amount]) for row in shown[1]}


def _day(shown: Shown) -> int:
    return [*shown[0]].index("day")


def _compare_columns(before: Mapping[str, str], after: Mapping[str, str], effects: Sequence[str], case: Any) -> bool:
    """Whether columns are lost."""
    for name in before.keys() - after.keys():
        assert any(effect.startswith(f"drops {name}") for effect in effects), case
    for name in before.keys() & after.keys():
        named = any(effect.startswith((f"changes {name} from", f"drops {name} and adds")) for effect in effects)
        assert named or before[name] == after[name] or name == "unknown_type", case
    # A column that is dropped and added again is the last one then.
    kept = {n for n in before.keys() & after.keys() if not any(e.startswith(f"drops {n} and adds") for e in effects)}
    in_order = [name for name in before if name in kept] == [name for name in after if name in kept]
    assert in_order or "changes the order of columns" in effects, case
    return bool(before.keys() - after.keys())


def _is_as_source(shop: Shop, model: LossyModel, after: Shown | None) -> bool:
    """Whether a table that SQLMesh computes day by day shows what the source has now."""
    if model.kind != DAILY or after is None:
        return model.kind != DAILY
    now = dict(shop.query("SELECT day, amount FROM raw.days"))
    amount = [*after[0]].index("amount")
    return all(row[amount] == now[row[_day(after)]] * model.factor for row in after[1])


if __name__ == "__main__":
    tell(__doc__, try_story)
