"""Random graphs of models and other assets: what a tick requests, compared with each run that it could request.

The rules were written from docs/ and the descriptions of messages and arguments alone, without a look at the functions.
What the worker answers, and what a run would compute, is decided by the worker's own rule (`may_compute`).
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime, timedelta, timezone
from functools import partial
from random import Random
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.builders import HOUR, attributes, day, days, external_models, fqn, manifest, model, project_assets

from dg_sqlmesh_component.capabilities.restatements.attributes import Restate
from dg_sqlmesh_component.capabilities.schedule import ready
from dg_sqlmesh_component.capabilities.schedule.attributes import Schedule
from dg_sqlmesh_component.capabilities.schedule.messages import PendingFound, PendingRequest
from dg_sqlmesh_component.capabilities.sources.late_loads import source_loads
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.settings import Settings
from dg_sqlmesh_component.protocol import messages as msg
from dg_sqlmesh_component.protocol.intervals import common, merged
from dg_sqlmesh_component.worker.intervals.availability import HeldBackBy, Left, Node, may_compute

EXAMPLES = settings().max_examples
DAILY = dg.DailyPartitionsDefinition("2026-01-01")
FIRST = fqn("core.m0")
INCREMENTAL = "INCREMENTAL_BY_TIME_RANGE"


def settings_of(assets: ProjectAssets, **options: Any) -> Settings:
    return Settings(attributes(**options), assets, "sqlmesh_shop", "pool", "shop_1", "shop", frozenset(assets.specs))


def made_by(name: str, specs: Iterable[dg.AssetSpec]) -> dg.AssetsDefinition:
    return dg.multi_asset(specs=list(specs), name=name, can_subset=True)(lambda: None)


def split(interval: msg.Interval) -> list[msg.Interval]:
    return [days(of, of) for of in range(1, 6) if interval[0] <= day(of) < interval[1]]


def waits_for(*tables: str, reads: tuple[msg.Interval, ...]) -> msg.HeldBack:
    return msg.HeldBack(tuple(msg.Cause("source", table) for table in tables), reads)


class World:
    """Models (`core.*`) and assets of other components (`raw.*`) in one graph, and the days that each of them lacks."""

    def __init__(self, seed: int) -> None:
        rng = Random(seed)
        self.kind: dict[str, str] = {"core.m0": INCREMENTAL}
        self.reads: dict[str, list[str]] = {"core.m0": []}
        alternates = rng.random() < 0.6  # model, other asset, model, ...
        for number in range(1, rng.randint(2, 10)):
            is_model = number % 2 == 0 if alternates else rng.random() < 0.6 and len(self.models) < 6
            name = f"core.m{number}" if is_model else f"raw.o{number}"
            others = ("made", "made", "made", "made", "partitioned", "declared")
            self.kind[name] = rng.choice(("VIEW", "FULL", INCREMENTAL, INCREMENTAL) if is_model else others)
            newest = list(self.reads)[-rng.choice((1, 4)) :]
            self.reads[name] = rng.sample(newest, min(len(newest), rng.choice((0, 1, 1, 2, 2, 3))))
        read = {other for name in self.models for other in self.reads[name]}
        self.awaited = {other for other in self.others if other in read and rng.random() < 0.6}
        # LEFT OUT, because the tick may then leave out a model that would compute something: tables that lack different
        # days (`needed` has all of them, although one that is made is enough).
        lacked = rng.randint(1, 5)
        starts = (lacked, lacked, rng.randint(1, 5))
        self.pending = {name: days(rng.choice(starts), 5) for name in self.models if rng.random() < 0.7}
        self.unready = {name for name in self.pending if rng.random() < 0.1}
        self.lacks = {name: ((day(lacked), msg.FOREVER),) if rng.random() < 0.7 else () for name in self.awaited}
        self.signal_error = "broken" if rng.random() < 0.05 else None

    @property
    def models(self) -> list[str]:
        return [name for name in self.kind if name.startswith("core")]

    @property
    def others(self) -> list[str]:
        return [name for name in self.kind if name.startswith("raw")]

    def upstream(self, name: str) -> set[str]:
        return {name for read in self.reads[name] for name in (read, *self.upstream(read))}

    def made_between(self, models: Collection[str]) -> set[str]:
        """The assets of other components that a run of these models makes."""
        above = set().union(*map(self.upstream, models))
        made = {name for name in self.others if self.kind[name] == "made"}
        return {name for name in made & above if self.upstream(name) & {*models}}

    def left(self, requested: Mapping[str, list[msg.Interval]], complete: Set[str], lacked: Collection[str]) -> Any:
        """By the worker's rule, what these models compute in one run, if some tables are complete and models lack."""
        due = defaultdict(list, {name: split(of) for name, of in self.pending.items()})
        nodes = {
            fqn(name): Node(
                fqn(name),
                [fqn(of) for of in self.reads[name] if of in self.models],
                lambda: False,
                partial(due.__getitem__, name),
                awaits={fqn(of) for of in self.awaited.intersection(self.reads[name])},
                requested=requested.get(name),
                lacks=due[name] if name in lacked else (),
                shows_others=self.kind[name] == "VIEW",
                is_by_interval=self.kind[name] == INCREMENTAL,
            )
            for name in self.models
        }
        found = may_compute(nodes, {fqn(of): () if of in complete else lacks for of, lacks in self.lacks.items()})
        return {name: found.get(fqn(name), (of, HeldBackBy())) for name, of in requested.items()}

    def answer(self) -> PendingFound:
        due = {name: split(of) for name, of in self.pending.items() if name not in self.unready}
        if self.signal_error:
            every: dict[str, tuple[msg.Interval, ...]] = {fqn(name): (of,) for name, of in self.pending.items()}
            ticked = dict.fromkeys(every, day(6))
            return PendingFound(ticked, (day(7), FIRST), signal_error=self.signal_error, intervals=every)
        of_models: Mapping[str, Left] = self.left(due, self.made_between(self.models), self.pending.keys())
        found = {name: left for name, (left, _) in of_models.items() if left}
        waits = {name: waits_for(*by.tables, reads=by.intervals) for name, (left, by) in of_models.items() if not left}
        unready = {name: msg.HeldBack((msg.Cause("signal", fqn(name), ("unready",)),)) for name in self.unready}
        return PendingFound(
            {fqn(name): day(6) for name in found},
            (day(7), FIRST),
            {fqn(name): why for name, why in {**waits, **unready}.items()},
            {
                fqn(name): tuple(of for of in by.tables if of in {fqn(of) for of in self.made_between(self.models)})
                for name, (left, by) in self.left(found, set(), found).items()
                if not left
            },
            None,
            {fqn(name): tuple(merged(left)) or by.intervals for name, (left, by) in of_models.items()},
        )

    def is_good(self, run: Set[str]) -> bool:
        """Whether each of these models computes something in their run, and none from an old asset."""
        requested = {name: split(self.pending[name]) for name in run}
        computes = self.left(requested, self.made_between(run), self.pending.keys())
        # "If an asset of another component stands between a waiting model and another model, the tick requests
        # neither: the second model would be computed from an old asset." UNCLEAR: the page does not say what holds for
        # assets that no run of the schedule makes, with partitions or declared only. The model is requested then. Nor
        # does it say whether models without pending intervals may stand between too. They may here.
        waits = self.pending.keys() - run
        old = {name for name in self.others if self.kind[name] == "made" and self.upstream(name) & waits}
        return all(left and not self.upstream(name) & old for name, (left, _) in computes.items())

    def rule(self) -> set[str]:
        """The largest run in which no model waits. "If a signal raises an error, all pending models" are requested."""
        runs: list[set[str]] = [set()]
        for name in sorted(self.pending.keys() - self.unready):
            runs += [{*run, name} for run in runs]
        return set(self.pending) if self.signal_error else max(filter(self.is_good, runs), key=len)

    def causes(self, name: str, run: Collection[str]) -> set[str]:
        """What a model would wait for in this run: its signals, assets that it does not make, or models upstream."""
        answer, all_ready = self.answer(), [of for of in self.pending if fqn(of) in self.answer().pending]
        found, needed = answer.waiting.get(fqn(name), msg.HeldBack()).causes, {*answer.needed.get(fqn(name), ())}
        own = {cause.of for cause in found if cause.kind == "source"}
        own |= needed - {fqn(of) for of in self.made_between([*run, name])}
        causes = {of.replace('"db"."raw"."', "raw/").rstrip('"') for of in own}
        if len(found) > len(own):
            return {*causes, "its"}  # its signal
        # An asset that the run would make if the models upstream were ready may be the cause, or these models.
        is_upstream = not own or needed & own <= {fqn(of) for of in self.made_between(all_ready)}
        return causes | {"upstream"} if is_upstream and not answer.waiting.get(fqn(name)) else causes

    def tick(self) -> tuple[ready.Ready, PendingRequest]:
        """What a tick finds, and what it asks the worker."""
        external = external_models(**({"wait": {"tables": sorted(self.awaited)}} if self.awaited else {}))
        models = [model(name, reads=self.reads[name], kind=self.kind[name]) for name in self.models]
        assets, asked = project_assets(manifest(*models), outside=external), []

        def answered(_: object, request: PendingRequest, *__: object) -> PendingFound:
            asked.append(request)
            return self.answer()

        location = dg.Definitions([made_by("sqlmesh_shop", assets.specs.values()), *self.made_by_others()])
        context = dg.build_sensor_context(INSTANCE, repository_def=location.get_repository_def())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ready, "answered", answered)
            return ready.ready_models(context, settings_of(assets, external_models=external), day(6), {}), asked[0]

    def made_by_others(self) -> Iterator[dg.AssetsDefinition | dg.AssetSpec]:
        for name in self.others:
            spec = dg.AssetSpec(name.split("."), deps=[of.split(".") for of in self.reads[name]])
            if self.kind[name] == "partitioned":
                spec = spec.replace_attributes(partitions_def=DAILY)
            yield spec if self.kind[name] == "declared" else made_by(name.replace(".", "_"), [spec])


INSTANCE = dg.DagsterInstance.ephemeral()


@pytest.mark.attribute("external_models.wait.tables")
@settings(max_examples=2 * EXAMPLES)
@given(st.integers(0, 2**32))
def test_a_tick_requests_the_largest_run_in_which_no_model_waits_and_names_what_the_others_wait_for(seed: int) -> None:
    drawn = [World(seed + of) for of in range(1 + seed % 12)]
    world = max(drawn, key=lambda world: len(world.answer().needed))  # few worlds have models that need another asset
    found, request = world.tick()
    assert request.made_between == {fqn(name) for name in world.made_between(world.models) & world.awaited}
    run = world.rule()
    assert {name: since for name, (since, _) in found.pending.items()} == {fqn(name): day(6) for name in run}
    waits = world.pending.keys() - run
    if not waits:
        assert found.why_none == "No model has pending intervals. The next is core.m0, at 2026-01-07 00:00:00 UTC."
        return
    named = re.findall(r"(core[\w., ]+) \(([^)]*)\)", found.why_none)
    shown = {name: {of.split(" ")[0] for of in why.split("; ")} for names, why in named for name in names.split(", ")}
    assert shown.keys() == waits
    assert all(why <= world.causes(name, run) for name, why in shown.items()), found.why_none


class Late:
    """Models that read tables loaded by day, and their late ranges. Dagster's instance is real."""

    def __init__(self, rng: Random) -> None:
        self.rng, self.instance = rng, dg.DagsterInstance.ephemeral()
        self.tables = {f"core.m{of}": {*rng.sample(("raw.a", "raw.b", "raw.c"), rng.randint(1, 2))} for of in range(3)}
        models = [model(name, reads=sorted(of), kind=INCREMENTAL) for name, of in self.tables.items()]
        assets = project_assets(manifest(*models), outside=external_models(wait=True, late="warn"))
        restates = external_models(wait=True, late="restate")
        self.settings = settings_of(assets, external_models=restates, restate=Restate(), schedule=Schedule())
        loaded = [dg.AssetSpec(["raw", of], partitions_def=DAILY) for of in "abc"]
        location = dg.Definitions([made_by("sqlmesh_shop", assets.specs.values()), made_by("load", loaded)])
        self.location = location.get_repository_def()
        self.loads: list[tuple[str, msg.Interval]] = []
        self.requested: dict[tuple[msg.Interval, tuple[str, ...]], int] = {}  # the number of the loads before
        self.late: dict[str, Sequence[msg.Interval]] = {}

    def load(self) -> None:
        of, number = self.rng.choice("abc"), self.rng.randint(1, 5)
        self.instance.report_runless_asset_event(dg.AssetMaterialization(["raw", of], partition=f"2026-01-{number:02}"))
        self.loads.append((f"raw.{of}", days(number, number)))

    def changes(self) -> None:
        """Other ranges are late: whole days, or hours."""
        for name in self.tables:
            start = day(self.rng.randint(1, 4)) + self.rng.choice((0, 0, 0, 5 * HOUR))
            self.late[name] = ((start, start + self.rng.choice((24, 24, 48, 7)) * HOUR),)[: self.rng.randint(0, 1)]

    def expected(self) -> list[tuple[msg.Interval, tuple[str, ...]]]:
        """The late ranges that were not requested for these models since the last load of one of their tables.

        UNCLEAR: "If it fails or is refused, it is requested again only when the range is loaded again". Here it is also
        requested again for other models, such as those of a refused request that nobody has restated since.
        """
        by_range = defaultdict(list)
        for name, ranges in self.late.items():
            for of in ranges:
                by_range[of].append(name)
        return [(of, tuple(names)) for of, names in sorted(by_range.items()) if self.is_new(of, tuple(names))]

    def is_new(self, of: msg.Interval, names: tuple[str, ...]) -> bool:
        tables, since = {table for name in names for table in self.tables[name]}, self.requested.get((of, names))
        loads = self.loads[since:]
        return since is None or any(table in tables and common([of], [window]) for table, window in loads)

    def tick(self) -> list[dg.RunRequest]:
        source = source_loads(self.instance, self.location, self.settings)
        assert source is not None
        waiting_too = {fqn(name): ((day(1), day(9)),) for name in self.tables}
        found = ready.Ready({}, "", waiting_too, restatable={fqn(name): of for name, of in self.late.items()})
        return list(ready.restatements(self.instance, self.settings, source.compare(list(waiting_too)), found))

    def launch(self, request: dg.RunRequest, asked: tuple[msg.Interval, tuple[str, ...]]) -> None:
        """Store the run as Dagster's daemon does. Whether it has failed does not matter."""
        run_key = {"dagster/run_key": request.run_key or ""}
        status = self.rng.choice((dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS))
        self.instance.add_run(dg.DagsterRun("job", str(uuid4()), tags={**request.tags, **run_key}, status=status))
        self.requested[asked] = len(self.loads)


def restated(request: dg.RunRequest) -> tuple[msg.Interval, tuple[str, ...]]:
    """The range of a request, and its models. "A date as `end` includes that day.\""""
    bounds = request.run_config["ops"]["sqlmesh_shop"]["config"]["restate"]
    start, end = (datetime.fromisoformat(bounds[of]).replace(tzinfo=timezone.utc) for of in ("start", "end"))
    end += timedelta(days="T" not in bounds["end"] and " " not in bounds["end"])
    names = tuple(key.to_user_string().replace("/", ".") for key in request.asset_selection or ())
    return (round(start.timestamp() * 1000), round(end.timestamp() * 1000)), names


@settings(max_examples=EXAMPLES // 6)
@given(st.integers(0, 2**32))
def test_each_late_range_is_requested_once_oldest_first_and_again_only_after_another_load(seed: int) -> None:
    late = Late(Random(seed))
    for _ in range(10):
        late.rng.choice((late.load, late.load, late.changes))()
        expected, requests = late.expected(), late.tick()
        assert [restated(request) for request in requests] == expected
        if requests and late.rng.random() < 0.7:
            late.launch(requests[0], expected[0])
