"""Stories of models that wait. A person does literally what each sentence says, until the model is computed.

The person knows which models stand upstream of a model, and nothing else about the project.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from engine.signals import IS_OPEN
from harness import YEARLY_CRON, NewShop, RunRecord, Shop
from waiting import DAILY, EMPTY, LOADER, OP, day, load

BY_DAY = "kind INCREMENTAL_BY_TIME_RANGE (time_column day, batch_size 1)"
WITHIN = "WHERE day BETWEEN @start_ds AND @end_ds"
MODELS = {
    "models/days.sql": f"MODEL (name t.days, {BY_DAY}); SELECT day, n FROM raw.orders {WITHIN}",
    "models/shown.sql": "MODEL (name t.shown, kind VIEW); SELECT day, n FROM t.days",
    "models/renamed.sql": "MODEL (name t.renamed, kind EMBEDDED); SELECT day, n FROM t.shown",
    "models/total.sql": "MODEL (name t.total, kind FULL); SELECT sum(n) AS n FROM t.shown",
    "models/chained.sql": "MODEL (name t.chained, kind FULL); SELECT sum(n) AS n FROM t.renamed",
    "models/history.sql": "MODEL (name t.history, kind SCD_TYPE_2_BY_COLUMN (unique_key day, columns (n))); "
    "SELECT day, n FROM t.days",
    "models/next.sql": f"MODEL (name t.next, {BY_DAY}); SELECT day, n FROM t.renamed {WITHIN}",
}
UPSTREAM = {
    "t/days": [],
    "t/shown": ["t/days"],
    "t/total": ["t/shown"],
    "t/chained": ["t/shown"],
    "t/history": ["t/days"],
    "t/next": ["t/shown"],
}
GATED = {
    "signals/__init__.py": IS_OPEN,
    "models/gated.sql": f"MODEL (name t.gated, {BY_DAY}, signals (is_open())); SELECT @start_ds::DATE AS day, 1 AS n",
    "models/both.sql": "MODEL (name t.both, kind FULL); SELECT g.n FROM t.gated AS g JOIN raw.orders AS o USING (day)",
    "models/below.sql": f"MODEL (name t.below, {BY_DAY}); SELECT day, n FROM t.gated {WITHIN}",
}
UPSTREAM_OF_GATED = {"t/gated": [], "t/both": ["t/gated"], "t/below": ["t/gated"]}
NOT_LOADED = "load/orders has no materialization of"
UNSELECTED = "models upstream have pending intervals and are not part of this step"
LOADED = re.compile(r"load/orders has no materialization of ([\d, -]+\d)")


def loaded_shop(new_shop: NewShop, models: Mapping[str, str] = MODELS, **options: Any) -> Shop:
    """Return a shop whose source has three partitions, of days that are pending."""
    external = {"keys": {"raw.orders": "load/orders"}, "wait": True, **options.pop("external_models", {})}
    shop = new_shop(models, tables=EMPTY, planned_at="3 days ago", external_models=external, restate=True, **options)
    shop.add_module("loader", LOADER.format(partitions=DAILY.format(start=day(3)), arguments=", partitions_def=days"))
    return shop


@dataclass
class Person:
    """Somebody who reads why a model waits, and does what it says.

    Attributes:
        selection: The models of the next run.
        config: Its run config.
        read: The sentences so far.
        loaded: The days that the person has loaded.
    """

    shop: Shop
    selection: set[str]
    config: dict[str, Any] = field(default_factory=dict)
    upstream: Mapping[str, list[str]] = field(default_factory=lambda: UPSTREAM)
    read: list[str] = field(default_factory=list)
    loaded: set[str] = field(default_factory=set)

    def launch(self) -> RunRecord:
        return self.shop.launch(ops={OP: self.config}, assets=sorted(self.selection))

    def follow_until_computed(self, *models: str) -> list[str]:
        """Do what each sentence about these models says, and return them. None may come twice."""
        record = self.launch().succeeded()
        while texts := {why_waiting(record, model) for model in models} - {""}:
            for text in sorted(texts):
                self.follow(text)
            record = self.launch().succeeded()
        assert {record.status_of(model) for model in models} <= {"executed", "up_to_date"}, self.read
        return self.read

    def follow(self, text: str) -> None:
        assert text not in self.read, f"it did not help: {text}"
        self.read.append(text)
        steps = [*self._load(text), *self._open_signals(text), *self._leave_out(text), *self._select(text)]
        assert steps, f"it does not say what to do: {text}"

    def _load(self, text: str) -> list[str]:
        if "load/orders was never materialized: materialize it once" in text:
            load(self.shop, 3)
            return ["once"]
        days = [partition for found in LOADED.findall(text) for partition in found.split(", ")]
        for ago in (ago for ago in (3, 2, 1) if day(ago) in days and day(ago) not in self.loaded):
            load(self.shop, ago)
            self.loaded.add(day(ago))
        return days

    def _open_signals(self, text: str) -> list[str]:
        signals = re.findall(r"(its signal is_open (?:reports|is not ready)|waits for its signal is_open)", text)
        if signals:
            (self.shop.project / "closed").unlink()
        return signals

    def _leave_out(self, text: str) -> list[str]:
        found = re.search(r"Launch a run (?:of it )?without (.*?)(?: first)?\.?$", text)
        left_out = re.findall(r"`(\w+)`", found[1]) if found else []
        for name in left_out:
            del self.config[name]
        return left_out

    def _select(self, text: str) -> list[str]:
        """With all models upstream of them: these, and those of them."""
        unselected = re.search(r"not part of this step: (.*?)\. Select them too, with all models upstream", text)
        named = re.findall(r"t\.\w+", unselected[1]) if unselected else []
        models = {name.replace(".", "/") for name in named}
        if "launch a run of it with all models upstream of it" in text:
            models |= self.selection
        self.selection |= models.union(*(self._above(name) for name in models))
        return sorted(models)

    def _above(self, model: str) -> set[str]:
        return {name for parent in self.upstream[model] for name in (parent, *self._above(parent))}


def why_waiting(record: RunRecord, model: str) -> str:
    """What a model says of itself, or of its other intervals; empty if nothing waits."""
    text = record.description_of(f"{model}:sqlmesh_execution_status")
    found = re.search(r"(?:is waiting|intervals are waiting|computes it again): (.*)", text)
    return found[1] if found else ""


# -- models that the run does not select ---------------------------------------------------------------


LEAVES = ("t/total", "t/chained", "t/history", "t/next")
THROUGH_OTHERS = " When its sources are loaded, launch a run of it with all models upstream of it."
SELECT = "Select them too, with all models upstream of them"
OF_DAYS, OF_SHOWN = (f"{UNSELECTED}: t.{name}. {SELECT}." for name in ("days", "shown"))


@pytest.mark.advice(
    "Select them too, with all models upstream of them",
    " When its sources are loaded, launch a run of it with all models upstream of it.",
)
@pytest.mark.parametrize(
    ("loaded", "config", "expected"),
    [
        ((), {}, [f"load/orders was never materialized: materialize it once.{THROUGH_OTHERS}"]),
        ((3,), {}, [f"{NOT_LOADED} {day(2)}, {day(1)}; {OF_DAYS}", f"{NOT_LOADED} {day(2)}, {day(1)}; {OF_SHOWN}"]),
        ((3, 2, 1), {}, [OF_DAYS, OF_SHOWN]),
        ((), {"ignore_sources": True}, [OF_DAYS, OF_SHOWN]),
    ],
    ids=["nothing is loaded", "a day is loaded", "all is loaded", "sources are ignored"],
)
def test_models_without_those_upstream_say_what_helps(
    new_shop: NewShop, loaded: Collection[int], config: dict[str, Any], expected: list[str]
) -> None:
    """A run and a dry run of models whose sources are tables, views and embedded models."""
    shop = loaded_shop(new_shop)
    for ago in loaded:
        load(shop, ago)
    person = Person(shop, {*LEAVES}, config)
    predicted = shop.launch(ops={OP: {**config, "dry_run": True}}, assets=[*LEAVES]).succeeded()
    sentences = person.follow_until_computed(*LEAVES)
    assert sentences[: len(expected)] == expected
    assert expected[0].removesuffix(THROUGH_OTHERS).rstrip(".") in str(predicted.logged["sqlmesh/dry_run_json"])
    assert shop.query("SELECT n FROM t.total") == shop.query("SELECT n FROM t.chained") == [(None if config else 3,)]


@pytest.mark.advice("Run them with their own component or with `sqlmesh run`")
def test_a_model_outside_of_the_component_is_run_by_sqlmesh(new_shop: NewShop) -> None:
    files = {name: MODELS[name] for name in ("models/days.sql", "models/history.sql")}
    shop = new_shop(files, tables=EMPTY, planned_at="3 days ago", exclude=["t.days"])
    waits = shop.launch(assets=["t/history"]).succeeded()
    assert why_waiting(waits, "t/history") == (
        "models upstream have pending intervals and are not in this component: t.days. Run them with their own "
        "component or with `sqlmesh run`."
    )
    shop.sqlmesh("run", "--select-model", "t.days")
    assert shop.launch(assets=["t/history"]).succeeded().status_of("t/history") == "executed"


@pytest.mark.advice("are not in the manifest: {}. If their files were deleted, promote the deletion with")
def test_a_model_whose_file_was_deleted_is_removed_by_a_plan(new_shop: NewShop) -> None:
    shown = f"MODEL (name t.shown, kind VIEW, cron '{YEARLY_CRON}', start '2020-01-01'); SELECT day, n FROM t.days"
    files = {**{name: MODELS[name] for name in ("models/days.sql", "models/total.sql")}, "models/shown.sql": shown}
    shop = new_shop(files, tables=EMPTY, planned_at="3 days ago")
    (shop.project / "models" / "days.sql").unlink()
    (shop.project / "models" / "shown.sql").write_text(shown.replace("t.days", "raw.orders"))
    shop.refresh()
    waits = shop.launch(assets=["t/total"]).succeeded()
    assert "are not in the manifest: warehouse.t.days. If their files were deleted" in why_waiting(waits, "t/total")
    shop.query("INSERT INTO raw.orders SELECT current_date - 1, 7")
    shop.plan()
    assert shop.launch(assets=["t/total"]).succeeded().status_of("t/total") == "executed"
    assert shop.query("SELECT n FROM t.total") == [(7,)]
