"""Stories of models that wait. A person does literally what each sentence says, until the model is computed.

The person knows which models stand upstream of a model, and nothing else about the project.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from engine.signals import IS_OPEN
from harness import YEARLY_CRON, NewShop, RunRecord, Shop, rows_at_night
from waiting import DAILY, EMPTY, LOADER, OP, day, evaluate_tick, launch_request, load

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
        signals = re.findall(r"(its signal is_open (?:has|is not ready)|is waiting for its signal is_open)", text)
        if signals:
            (self.shop.project / "closed").unlink(missing_ok=True)
        return signals

    def _leave_out(self, text: str) -> list[str]:
        found = re.search(r"(?:Launch a run(?: of it)?|The first run) without ((?:`\w+`|and| )*)", text)
        left_out = re.findall(r"`(\w+)`", found[1]) if found else []
        self.config = {name: value for name, value in self.config.items() if name not in left_out}
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
        ((3,), {}, [f"{NOT_LOADED} {day(2)}, {day(1)}; {OF_DAYS}", f"{NOT_LOADED} {day(2)}, {day(1)}; {OF_SHOWN}"]),
        *rows_at_night(
            ((), {}, [f"load/orders was never materialized: materialize it once.{THROUGH_OTHERS}"]),
            ((3, 2, 1), {}, [OF_DAYS, OF_SHOWN]),
            ((), {"ignore_sources": True}, [OF_DAYS, OF_SHOWN]),
        ),
    ],
    ids=["a day is loaded", "nothing is loaded", "all is loaded", "sources are ignored"],
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


# -- what the run config leaves out --------------------------------------------------------------------

RESTATE = {"restate": {"start": day(5), "end": day(5)}}
LEFT_OUT = "models upstream have pending intervals that this run leaves out: t.days. Launch a run without"


@pytest.mark.advice("Launch a run without {}")
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"start": day(2), "end": day(2)}, [f"{LEFT_OUT} `start` and `end`.", f"{NOT_LOADED} {day(1)}."]),
        *rows_at_night(
            (
                {"start": day(1)},
                [f"{NOT_LOADED} {day(1)}. The first run without `start` after its sources are loaded "],
            ),
            (RESTATE, [f"{NOT_LOADED} {day(1)}; {LEFT_OUT} `restate`."]),
            (
                {"restate": {**RESTATE["restate"], "tables": ["raw.orders"]}},
                [f"{NOT_LOADED} {day(1)}; {LEFT_OUT} `restate`."],
            ),
        ),
    ],
    ids=["start and end", "start", "restate", "restate with tables"],
)
def test_a_run_of_all_models_names_the_bounds_that_leave_out_intervals(
    new_shop: NewShop, config: dict[str, Any], expected: list[str]
) -> None:
    """The last day is not loaded at first, which the same sentence says."""
    shop = loaded_shop(new_shop)
    load(shop, 3)
    load(shop, 2)
    wholes = ["t/total", "t/chained"] if "restate" in config else ["t/total", "t/chained", "t/history"]
    person = Person(shop, {*wholes, "t/days", "t/shown"}, config, loaded={day(3), day(2)})
    sentences = person.follow_until_computed(*wholes)
    assert [text for text in sentences if not any(map(text.startswith, expected))] == []
    assert shop.query("SELECT n FROM t.total") == shop.query("SELECT n FROM t.chained") == [(3,)]
    assert "t/history" not in wholes or shop.query("SELECT count(*) FROM t.history") == [(3,)]


AUDITED = {
    "models/days.sql": f"MODEL (name t.days, {BY_DAY}, audits (not_null(columns := (n)))); "
    f"SELECT day, n FROM ctl.source {WITHIN}",
    "models/total.sql": "MODEL (name t.total, kind FULL); SELECT sum(n) AS n FROM t.days",
}


@pytest.mark.night(
    "unit/worker/intervals/test_causes.py",
    "test_a_repeated_step_names_the_model_that_an_earlier_step_has_to_compute_again",
)
def test_a_whole_table_after_a_failed_day_of_a_backfill_names_the_refused_rows(new_shop: NewShop) -> None:
    source = {"ctl.source": "SELECT current_date - i::INT AS day, 1 AS n FROM range(1, 7) AS r(i)"}
    shop = new_shop(AUDITED, tables=source, restate=True)
    shop.launch().succeeded()
    shop.query(f"UPDATE ctl.source SET n = NULL WHERE day = '{day(3)}'")
    shop.launch(ops={OP: {"restate": {"start": day(3), "end": day(3)}}}).failed()
    later = shop.launch(ops={OP: {"restate": {"start": day(2), "end": day(2)}}}).succeeded()
    assert why_waiting(later, "t/total") == (
        f"models upstream have pending intervals that this run leaves out: t.days (its rows of {day(3)} are old or "
        "refused). Launch a run without `restate`."
    )
    [failure] = shop.launch().failed().failures
    assert "Correct the model or its data, then launch a run" in failure
    shop.query(f"UPDATE ctl.source SET n = 1 WHERE day = '{day(3)}'")
    assert shop.launch().succeeded().status_of("t/total") == "executed"
    assert shop.query("SELECT n FROM t.total") == [(6,)]


def test_a_whole_table_past_a_gap_names_it(new_shop: NewShop) -> None:
    """A run with `start` has left out a day, and computed the next one."""
    source = {"ctl.source": "SELECT current_date - i::INT AS day, 1 AS n FROM range(1, 7) AS r(i)"}
    shop = new_shop(AUDITED, tables=source, planned_at="3 days ago")
    shop.launch(assets=["t/days"], ops={OP: {"start": day(1)}}).succeeded()
    person = Person(shop, {"t/total"}, upstream={"t/total": ["t/days"], "t/days": []})
    assert person.follow_until_computed("t/total") == [
        f"{UNSELECTED}: t.days (it lacks {day(3)} to {day(2)} (2 days), and has later rows). {SELECT}."
    ]
    assert shop.query("SELECT n FROM t.total") == [(6,)]


@pytest.mark.night(
    "engine/test_late_data.py::test_a_tick_requests_pending_models_and_the_restatement_of_late_ranges",
    "unit/report/test_causes.py",
)
def test_a_restatement_that_a_tick_requests_names_the_source(new_shop: NewShop) -> None:
    """`late: restate`, by ticks alone: a day is loaded again, and the newest day is not loaded."""
    shop = loaded_shop(new_shop, external_models={"late": "restate"}, schedule={"cron": "@daily"})
    load(shop, 3)
    load(shop, 2)
    for request in evaluate_tick(shop).run_requests:
        launch_request(shop, request).succeeded()
    load(shop, 3)
    [late] = [request for request in evaluate_tick(shop).run_requests if "restate" in str(request.run_config)]
    restated = launch_request(shop, late).succeeded()
    assert restated.status_of("t/days") == "executed"
    assert why_waiting(restated, "t/total").startswith(f"{NOT_LOADED} {day(1)}")
    assert "Select" not in why_waiting(restated, "t/total")
    load(shop, 1)
    for request in evaluate_tick(shop).run_requests:
        computed = launch_request(shop, request).succeeded()
    assert computed.status_of("t/total") == "executed"
    assert shop.query("SELECT n FROM t.total") == [(4,)]


# -- signals -------------------------------------------------------------------------------------------

NOT_YESTERDAY = f"""
from sqlmesh import signal


@signal()
def is_open(batch):
    return [interval for interval in batch if str(interval[0].date()) != "{day(1)}"]
"""
OWN = f"MODEL (name t.own, {BY_DAY}, signals (is_open())); SELECT day, n FROM raw.orders {WITHIN}"
CLOSED = "its signal is_open has no interval ready"
CLOSED_UPSTREAM = "upstream model t.gated is waiting for its signal is_open"


def gated_shop(new_shop: NewShop, **options: Any) -> Shop:
    shop = loaded_shop(new_shop, {**GATED, "models/own.sql": OWN}, **options)
    (shop.project / "closed").touch()
    return shop


def test_a_closed_signal_and_a_source_are_both_named_by_a_run_and_a_tick(new_shop: NewShop) -> None:
    shop = gated_shop(new_shop, schedule={"cron": "@daily"})
    load(shop, 3)
    models = {*UPSTREAM_OF_GATED, "t/own"}
    ticked = str(evaluate_tick(shop).skip_message)
    person = Person(shop, models, upstream=UPSTREAM_OF_GATED, loaded={day(3)})
    sentences = person.follow_until_computed(*models)
    missing = f"{NOT_LOADED} {day(2)}, {day(1)}"
    for text, names in (
        (f"{CLOSED}; {missing}", "t.own"),
        (f"{CLOSED_UPSTREAM}; {missing}", "t.both"),
        (CLOSED, "t.gated"),
        (CLOSED_UPSTREAM, "t.below"),
    ):
        assert f"{text}." in sentences
        assert f"{names} ({text})" in ticked
    assert len(sentences) == 4
    assert shop.query("SELECT count(*) FROM t.both") == [(3,)]


@pytest.mark.night(
    "unit/worker/intervals/test_causes.py", "test_a_closed_signal_and_a_source_are_both_named_by_a_run_and_a_tick"
)
def test_a_restatement_names_the_signal_and_then_what_it_leaves_out(new_shop: NewShop) -> None:
    shop = gated_shop(new_shop)
    for ago in (3, 2, 1):
        load(shop, ago)
    person = Person(shop, {*UPSTREAM_OF_GATED}, {**RESTATE}, UPSTREAM_OF_GATED)
    sentences = person.follow_until_computed("t/both")
    assert sentences[0].startswith(CLOSED_UPSTREAM)
    assert "Launch a run without `restate`" in sentences[-1]
    assert shop.query("SELECT count(*) FROM t.both") == [(3,)]


def test_a_model_downstream_of_a_signal_says_what_its_other_intervals_wait_for(new_shop: NewShop) -> None:
    shop = loaded_shop(new_shop, {**GATED, "signals/__init__.py": NOT_YESTERDAY})
    record = shop.launch(assets=[*UPSTREAM_OF_GATED]).succeeded()
    others = "Its other intervals are waiting"
    executed = f"was executed for {day(3)} to {day(2)} (2 days). {others}"
    status = "sqlmesh_execution_status"
    assert f"{executed}: its signal is_open is not ready for them." in record.description_of(f"t/gated:{status}")
    assert f"{executed}: {CLOSED_UPSTREAM}." in record.description_of(f"t/below:{status}")


RAISES = IS_OPEN.replace(
    "    return", '    if Path("broken").exists():\n        raise ValueError("no bucket")\n    return'
)


@pytest.mark.night(
    "unit/worker/intervals/test_causes.py", "engine/test_errors.py::test_signal_that_raises_fails_its_model"
)
def test_a_signal_that_raises_is_found_by_doing_what_the_model_downstream_says(new_shop: NewShop) -> None:
    shop = loaded_shop(new_shop, {**GATED, "signals/__init__.py": RAISES})
    (shop.project / "broken").touch()
    person = Person(shop, {"t/below"}, upstream=UPSTREAM_OF_GATED)
    alone = why_waiting(person.launch().succeeded(), "t/below")
    assert alone == f"{UNSELECTED}: t.gated (its signal is_open was not evaluated). {SELECT}."
    person.follow(alone)
    failed = person.launch().failed()
    raised = "because the signal is_open of warehouse.t.gated raised an error. See the error of that model."
    assert raised in failed.description_of("t/below:sqlmesh_execution_status")
    assert raised in failed.failures[0]
    assert "no bucket" in failed.failures[0]
    assert failed.status_of("t/gated") == "failed"
    (shop.project / "broken").unlink()
    assert person.launch().succeeded().status_of("t/below") == "executed"


# -- a run in two steps --------------------------------------------------------------------------------

MIDDLE = 'import dagster as dg\n\n@dg.asset(key=["py", "middle"], deps=[["t", "plain"]])\ndef middle(): ...\n'
SPLIT = {
    **MODELS,
    "models/plain.sql": "MODEL (name t.plain, kind FULL); SELECT 1 AS n",
    "models/last.sql": "MODEL (name t.last, kind FULL); SELECT d.n FROM t.days AS d, py.middle AS m",
}


@pytest.mark.night(
    "unit/report/test_causes.py", "test_a_repeated_step_names_the_model_that_an_earlier_step_has_to_compute_again"
)
def test_the_second_step_of_a_run_names_the_source_of_the_first(new_shop: NewShop) -> None:
    external = {"keys": {"raw.orders": "load/orders"}, "wait": {"tables": ["raw.*"]}}
    tables = {**EMPTY, "py.middle": "SELECT 1 AS n"}
    shop = new_shop(SPLIT, tables=tables, planned_at="3 days ago", external_models=external)
    shop.add_module("loader", LOADER.format(partitions=DAILY.format(start=day(3)), arguments=", partitions_def=days"))
    shop.add_module("middle", MIDDLE)
    load(shop, 3)
    models = [*UPSTREAM, "t/plain", "py/middle", "t/last"]
    first = shop.launch("multiprocess", assets=models).succeeded()
    assert len([key for key in first.step_keys if "sqlmesh" in key]) == 2
    assert why_waiting(first, "t/last").startswith(f"{NOT_LOADED} {day(2)}, {day(1)}")
    assert "Select" not in why_waiting(first, "t/last")
    load(shop, 2)
    load(shop, 1)
    assert shop.launch("multiprocess", assets=models).succeeded().status_of("t/last") == "executed"
    assert shop.query("SELECT count(*) FROM t.last") == [(3,)]


REPEATED = {
    "models/days.sql": AUDITED["models/days.sql"],
    "models/plain.sql": SPLIT["models/plain.sql"],
    "models/last.sql": "MODEL (name t.last, kind FULL); "
    "SELECT d.n, CASE WHEN m.broken THEN error('down') END AS e FROM t.days AS d, py.middle AS m",
}


def test_a_repeated_step_names_the_model_that_an_earlier_step_has_to_compute_again(new_shop: NewShop) -> None:
    """Dagster repeats the second step alone. Meanwhile, a restatement has failed."""
    tables = {
        "ctl.source": "SELECT current_date - i::INT AS day, 1 AS n FROM range(1, 7) AS r(i)",
        "py.middle": "SELECT false AS broken",
    }
    shop = new_shop(REPEATED, tables=tables, planned_at="3 days ago", restate=True)
    shop.add_module("middle", MIDDLE)
    models = ["t/days", "t/plain", "py/middle", "t/last"]
    shop.query("UPDATE py.middle SET broken = true")
    failed = shop.launch(assets=models).failed()
    assert (failed.status_of("t/days"), failed.status_of("t/last")) == ("executed", "failed")
    shop.query("UPDATE py.middle SET broken = false")
    shop.query(f"UPDATE ctl.source SET n = NULL WHERE day = '{day(3)}'")
    refused = shop.launch(assets=["t/days"], ops={OP: {"restate": {"start": day(3), "end": day(3)}}}).failed()
    assert refused.status_of("t/days") == "audit_failed"

    repeated = shop.launch(assets=models, retry_of=failed.run_id).succeeded()
    assert repeated.status_of("t/days") is None
    assert why_waiting(repeated, "t/last") == (
        "models upstream have pending intervals that no step of this run has computed: t.days (its rows of "
        f"{day(3)} are old or refused). Their status checks have the reason."
    )
    shop.query("UPDATE ctl.source SET n = 1")
    assert shop.launch(assets=models).succeeded().status_of("t/last") == "executed"


@pytest.mark.night(
    "unit/worker/intervals/test_causes.py", "test_a_run_of_all_models_names_the_bounds_that_leave_out_intervals"
)
def test_a_restatement_names_a_model_upstream_that_needs_an_older_day_first(new_shop: NewShop) -> None:
    """The model upstream needs its older day first, and its source is not loaded for a later day."""
    keyed = "kind INCREMENTAL_BY_UNIQUE_KEY (unique_key day, batch_size 1)"
    models = {
        "models/keyed.sql": f"MODEL (name t.keyed, {keyed}); SELECT day, n FROM raw.orders {WITHIN}",
        "models/reader.sql": f"MODEL (name t.reader, {BY_DAY}); SELECT day, n FROM t.keyed {WITHIN}",
    }
    shop = loaded_shop(new_shop, models)
    for ago in (3, 2):
        load(shop, ago)
    config = {"restate": {"start": day(2), "end": day(2)}}
    record = shop.launch(assets=["t/reader"], ops={OP: config}).succeeded()
    assert f"{UNSELECTED}: t.keyed. Select them too" in why_waiting(record, "t/reader")
    shop.launch(assets=["t/keyed", "t/reader"]).succeeded()
    assert shop.query("SELECT count(*) FROM t.reader") == [(2,)]
