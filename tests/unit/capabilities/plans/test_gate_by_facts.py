"""Random plans and decisions: what is refused, accepted and written into the run config, compared with plain rules.

The rules were written from docs/ and the descriptions of the records alone, without a look at the functions.
Where the package does what docs/ do not say, the rule follows the package, and a comment begins with DIFFERENCE.
"""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st
from unit.capabilities.plans.plans import drops, plan, planned, with_facts

from dg_sqlmesh_component.capabilities.plans import gate
from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.digest import PARTS, differing_parts, digest_of
from dg_sqlmesh_component.capabilities.plans.lost_rows import refused
from dg_sqlmesh_component.protocol.intervals import merged, subtract

EXAMPLES = 2 * settings().max_examples
HOUR = 3_600_000
JOB = "sqlmesh_shop_apply"
NAMES = ("orders", "Orders", "Straße", "a.b", 'say ""hi')
POOL = [(*catalog, schema, name) for catalog in (["db"], ["d.b"], []) for schema in ("t", "T", "x y") for name in NAMES]
# "`allow_...` and `over_budget` are options of the run config". The tables name options for these kinds only.
OPTIONS = {"destructive": "allow_destructive", "stale_branch": "allow_revert", "lost_intervals": "allow_lost_intervals"}
ACCEPTABLE = {*OPTIONS, "drops_dependents", "over_budget"}
VIEWS = ("bi.daily", "bi.weekly")
Found = dict[str, set[str]]  # by kind of refusal, the models by fqn; unknown names as written
Content = tuple[int, ...]  # of the parts of a digest


def quoted(part: str) -> str:
    return '"' + part.replace('"', '""') + '"'


def parts_of(written: str) -> tuple[str, ...]:
    return tuple(part.casefold() for part in next(csv.reader([written.replace("`", '"')], delimiter=".")))


def hours(intervals: Iterable[msg.Interval]) -> set[int]:
    return {hour for start, end in intervals for hour in range(start // HOUR, end // HOUR)}


def starts(intervals: Iterable[msg.Interval]) -> list[str]:
    days_and_hours = [divmod(start // HOUR, 24) for start, _ in intervals]
    return [f"1970-01-{day + 1:02}" + f" {hour:02}:00" * (hour > 0) for day, hour in days_and_hours]


def lost(model: msg.PlannedModel) -> set[int]:
    """The hours that neither the next run nor the load of a source brings back."""
    rows = model.rows.loses
    return hours(rows.intervals) - hours(rows.until_run) - hours(rows.not_loaded)


def is_lost(model: msg.PlannedModel) -> bool:
    return bool(lost(model)) or model.rows.loses.without_time or model.rows.loses.of_past


def fails_half_way(model: msg.PlannedModel) -> bool:
    # "removes a view that other views read, or makes a `dev_only` table a view"
    return model.change == "removed" or model.table.is_dropped


def dropped(model: msg.PlannedModel) -> tuple[str, ...]:
    # "views of others that PostgreSQL may drop": SQLMesh fails before it drops them if it removes what they read.
    return () if fails_half_way(model) else model.table.dependents or ()


class Drawn:
    """A project with awkward names, a plan of it, and what a person may write about it."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        self.may_fail, self.is_careful = self.likely(0.3), self.likely(0.6)
        pool = rng.sample(POOL, len(POOL) if self.likely(0.02) else rng.randint(1, 7))
        self.parts = {".".join(map(quoted, parts)): parts for parts in pool} | {"audit": ("audit",)}
        names: dict[str, str] = {}
        for fqn in self.parts:
            # "Models of one schema and name in two catalogs differ in it"
            while (name := self.written(fqn, in_full=self.parts[fqn][0] == "d.b")) in names.values():
                pass
            names[fqn] = name
        models = tuple(self.model(fqn, name) for fqn, name in names.items() if self.likely(0.7))
        self.planned = {model.fqn for model in models}
        gone = {model.fqn for model in models if model.change == "removed" and not model.becomes}
        self.project = {fqn: name for fqn, name in names.items() if fqn not in gone and self.likely(0.9)}
        self.known = self.project.keys() | self.planned
        resumes = self.likely(0.3)
        begun = "p0" if self.likely(0.4 if resumes else 0.1 * self.may_fail) else None
        self.is_shown = resumes and begun is None
        uncategorized = tuple(model.fqn for model in models if self.may_fail and self.likely(0.1))
        self.plan = plan(*models, unfinished_plan_id=begun, resumes=resumes, uncategorized=uncategorized)
        self.budget = rng.choice((None, "It costs more."))
        lists = {option: tuple(self.names()) for option in OPTIONS.values()}
        lists["allow_drop_dependents"] = tuple(view for view in (*VIEWS, "bi.gone") if self.likely(0.4))
        digest = rng.choice((None, digest_of(self.plan)))
        self.decision = gate.Decision(digest, over_budget=self.likely(0.5), **lists)

    def likely(self, probability: float) -> bool:
        return self.rng.random() < probability

    def written(self, fqn: str, *, in_full: bool = False) -> str:
        """A name that fits the model: without the catalog, without quotes, or in another case."""
        parts = self.parts[fqn] if in_full or self.likely(0.4) else self.parts[fqn][-2:]
        is_bare = self.likely(0.7)
        name = ".".join(part if part.isalpha() and is_bare else quoted(part) for part in parts)
        name = name.replace('"', "`") if '""' not in name and self.likely(0.2) else name
        return name.upper() if self.likely(0.3) else name

    def names(self) -> Iterable[str]:
        for fqn in self.parts:
            if self.likely(0.4):
                yield fqn if self.is_careful or self.likely(0.5) else self.written(fqn)
        if self.likely(0.02):
            yield "core.nobody"

    def model(self, fqn: str, name: str) -> msg.PlannedModel:
        rng, fails = self.rng, self.may_fail
        change: msg.Change | None = rng.choice((None, *get_args(msg.Change), "changed"))
        becomes = "EMBEDDED" if change == "removed" and self.likely(0.3) else ""
        found: dict[str, list[msg.Interval]] = defaultdict(list)
        for hour in range(rng.choice((0, 0, 8, 8, 100))):
            later = "until_later_runs"
            kind = rng.choice(("kept", "intervals", later, "until_run", "not_loaded" if fails else "kept"))
            for fact in {kind, "intervals"} if kind != "kept" else ():
                found[fact].append((hour * HOUR, (hour + 1) * HOUR))
        facts: dict[str, Any] = {
            "loses": msg.LostRows(
                **{fact: merged(intervals) for fact, intervals in found.items()},
                without_time=self.likely(0.1),
                of_past=self.likely(0.1),
            ),
            "intervals": rng.choice((0, 0, 7)),
            "destructive": drops("paid") + drops("due") if self.likely(0.3) else (),
            "may_destroy": self.likely(0.3),
            "takes_back": change in ("changed", "metadata") and self.likely(0.4),
            "is_dropped": fails and self.likely(0.2),
            "is_name_taken": fails and self.likely(0.1),
            "refused_columns": ("tax",) if fails and self.likely(0.1) else (),
        }
        if not becomes and (change != "removed" or fails):
            facts["dependents"] = rng.choice((None, None, (), VIEWS))
        return with_facts(msg.PlannedModel(fqn, name, change, becomes=becomes), **facts)

    def fitting(self, written: str) -> set[str]:
        # "Case and quotes do not count, and you can omit the catalog." An fqn fits that model only.
        # DIFFERENCE: the package also fits a table's name without its schema. Nothing here writes one.
        fits = {fqn for fqn in self.known if parts_of(written) in (parts_of(fqn), parts_of(fqn)[-2:])}
        return {written} if written in self.known else fits

    def named(self, option: str, decision: gate.Decision) -> set[str]:
        # "Each name in the lists must fit exactly one model."
        return {fqn for name in decision.lists[option] if len(fits := self.fitting(name)) == 1 for fqn in fits}

    def rule(self) -> Found:
        """By kind, what must be refused."""
        is_refused: dict[str, Callable[[msg.PlannedModel], Any]] = {
            "destructive": lambda model: model.table.destructive and not model.table.may_destroy,
            "stale_branch": lambda model: model.takes_back,
            "drops_dependents": lambda model: set(dropped(model)) - {*self.decision.allow_drop_dependents},
            "has_dependents": lambda model: model.table.dependents and fails_half_way(model),
            "lost_intervals": is_lost,
            "not_loaded": lambda model: model.rows.loses.not_loaded,
            "name_taken": lambda model: model.table.is_name_taken,
            "additive": lambda model: model.table.refused_columns,
            "uncategorized": lambda model: model.fqn in self.plan.uncategorized,
        }
        found: Found = {kind: {of.fqn for of in self.plan.models if rule(of)} for kind, rule in is_refused.items()}
        for kind, option in OPTIONS.items():
            found[kind] -= self.named(option, self.decision)
        # A plan that prod shows changes nothing any more, and is launched "again with the same run config".
        # DIFFERENCE: docs do not say that names that fit several models are not refused then.
        names = [name for of in self.decision.lists.values() for name in of if not self.is_shown]
        found["ambiguous_model"] = {fqn for of in map(self.fitting, names) if len(of) > 1 for fqn in of}
        # DIFFERENCE: docs do not say that only an apply refuses them, nor that the plan may only compute a model.
        is_apply = self.decision.digest is not None
        found["unknown_model"] = {name for name in names if is_apply and not self.fitting(name) & self.planned}
        found = {kind: of for kind, of in found.items() if of}
        if self.budget is not None and not self.decision.over_budget:
            found["over_budget"] = set()
        if self.plan.unfinished_plan_id is not None and not self.plan.resumes:
            found["unfinished_plan"] = set()
        return found

    def refusals(self, decision: gate.Decision) -> list[gate.Refusal]:
        return gate.refusals(self.plan, decision, JOB, self.project, self.budget)

    def found(self, refused: Iterable[gate.Refusal]) -> Found:
        """By kind, what was refused. A name that is for the run config fits exactly one model."""
        found: Found = defaultdict(set)
        shown = {model.name: {model.fqn} for model in self.plan.models}
        for refusal in refused:
            fits = found[refusal.kind]
            for name in refusal.models if refusal.kind != "over_budget" else ():
                if refusal.kind in (*OPTIONS, "ambiguous_model"):
                    assert len(self.fitting(name)) == 1
                    fits |= self.fitting(name)
                else:
                    fits |= shown[name] if refusal.kind not in ("unknown_model", "pending_upstream") else {name}
        return dict(found)


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_exactly_what_nobody_has_named_is_refused(seed: int) -> None:
    drawn = Drawn(seed)
    found = drawn.found(drawn.refusals(drawn.decision))
    assert found == drawn.rule()
    # The order of models, a name that is written twice, and an unrelated model do not matter.
    drawn.plan = replace(drawn.plan, models=drawn.plan.models[::-1])
    drawn.project = {'"db"."far"."away"': "far.away", **dict(reversed(drawn.project.items()))}
    shuffled: dict[str, Any] = {option: (*names[::-1], *names[:1]) for option, names in drawn.decision.lists.items()}
    assert drawn.found(drawn.refusals(replace(drawn.decision, **shuffled))) == found


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_messages_name_all_that_is_lost_and_how_to_accept_it(seed: int) -> None:
    drawn = Drawn(seed)
    models = {model.fqn: model for model in drawn.plan.models}
    assert all(hours(refused(model.rows.loses).intervals) == lost(model) for model in models.values())
    for refusal in drawn.refusals(gate.Decision()):
        assert all(name in refusal.message for name in refusal.models if refusal.kind != "over_budget")
        options = OPTIONS | {"drops_dependents": "allow_drop_dependents"}
        assert refusal.kind not in options or f"`{options[refusal.kind]}`" in refusal.message
        for fqn in drawn.found([refusal])[refusal.kind]:
            rows = models[fqn].rows.loses
            texts: dict[str, Iterable[str]] = {
                "destructive": ("paid", "due"),
                "drops_dependents": VIEWS,
                "has_dependents": VIEWS,
                "additive": ("tax",),
                "lost_intervals": [
                    *starts(subtract(refused(rows).intervals, rows.until_later_runs)),
                    *starts(rows.until_later_runs),
                    *["without a time"] * rows.without_time,
                    *["does not have any more"] * rows.of_past,
                ],
                "not_loaded": starts(rows.not_loaded),
            }
            assert all(text in refusal.message for text in texts.get(refusal.kind, ())), refusal
    text = gate.headline(drawn.plan)
    for change in ("added", "removed", "changed"):
        count = sum(model.change == change for model in models.values())
        assert (f" {count} {change}" in text) == bool(count)
    assert f" {sum(model.rows.intervals for model in models.values()) or 'nothing'} " in text
    assert text != gate.headline(replace(drawn.plan, statements="-a"))
    assert "\n" not in text


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_the_run_config_of_the_report_accepts_exactly_what_was_refused(seed: int) -> None:
    drawn = Drawn(seed)
    before, refused = drawn.decision, drawn.refusals(drawn.decision)
    found = drawn.found(refused)
    digest = before.digest or digest_of(drawn.plan)
    config: Any = gate.apply_config(digest, drawn.plan, before, refused, drawn.project)
    assert (config is None) == bool(found.keys() - ACCEPTABLE)
    if config is not None:
        then = gate.Decision(**config)
        assert drawn.refusals(then) == []
        assert gate.apply_config(then.digest or "", drawn.plan, then, [], drawn.project) == config
        assert then.over_budget == (before.over_budget or "over_budget" in found)
        views = [view for model in drawn.plan.models for view in dropped(model)]
        assert sorted(then.allow_drop_dependents) == sorted({*views})
        for kind, option in OPTIONS.items():
            accepted = drawn.named(option, then)
            assert drawn.is_shown or all(len(drawn.fitting(name)) == 1 for name in then.lists[option])
            assert accepted - drawn.named(option, before) == found.get(kind, set())
        assert set(gate.allowed_fqns(drawn.plan, then, drawn.project)) == drawn.named("allow_destructive", then)


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_a_preview_is_refused_for_what_would_make_it_wrong(seed: int) -> None:
    drawn = Drawn(seed)
    pending = {name: 3 for name in ("u.orders", "u.days") if drawn.likely(0.4)}
    holes = {name: 2 for name in pending if drawn.likely(0.4)}
    shown = replace(drawn.plan, environment="pr_12", pending_upstream=pending, holes_upstream=holes)
    allowed, accepted = drawn.likely(0.5), drawn.decision.over_budget
    found = gate.preview_refusals(shown, allow_pending=allowed, over_budget=accepted, budget=drawn.budget)
    # "Previews are refused too." DIFFERENCE: docs do not say it of `name_taken`, and they say of `additive` that
    # "plans and previews have these kinds", but the package refuses `name_taken`, and not `additive`.
    kinds = ("not_loaded", "uncategorized", "over_budget", "name_taken")
    by_rule = {kind: of for kind, of in drawn.rule().items() if kind in kinds}
    # "`allow_pending` accepts only intervals that are later than those of the preview."
    upstream = set(holes if allowed else pending)
    assert drawn.found(found) == by_rule | ({"pending_upstream": upstream} if upstream else {})


def built(files: Content, finished: Content, begun: Content | None, **ids: Any) -> msg.PlanBuilt:
    """The plan of these files for an environment with a finished plan, and perhaps one that was interrupted."""
    parts = dict(zip(PARTS, map(str, files), strict=True))
    parts |= {"previous models": str(finished[0]), "previous statements": str(finished[2:4])}
    ids |= {"unfinished_plan_id": None if begun is None else "p0", "resumes": files == (begun or finished)}
    changed = (planned('"d"."t"."a"', "t.a"), planned('"d"."t"."b"', "t.b"))
    return replace(plan(*(() if begun is None and files == finished else changed)), parts=parts, **ids)


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_a_digest_is_valid_until_another_plan_is_applied_or_the_files_change(seed: int) -> None:
    rng = Random(seed)

    def content() -> Content:
        return tuple(rng.choice((0, 0, 0, 0, 1)) for _ in PARTS)

    reviewed, before, begun = content(), content(), None
    files, finished = reviewed, before
    approved = digest_of(built(files, finished, begun))
    for step in range(6):
        match rng.choice(("run", "begins", "begins", "finishes", "finishes", "taken back", "files")):
            case "begins":
                begun = begun or rng.choice((files, content()))
            case "finishes":
                finished, begun = begun or rng.choice((files, content())), None
            case "taken back":
                begun = None
            case "files":
                files = rng.choice((reviewed, content()))
        now = built(files, finished, begun, plan_id=f"p{step}", previous_plan_id=f"q{step}")
        names = rng.choice(((), ("t.a",), ("t.a", "t.b", "t.a")))
        is_moved = (finished[0], finished[2:4]) != (before[0], before[2:4])
        by_rule = {"unfinished_plan"} if begun not in (None, files) else set()
        # DIFFERENCE: docs do not say which kind it is if the files differ too.
        # "If the environment shows the approved versions and no plan is unfinished, these are not compared"
        if is_moved and not (begun is None and finished == files):
            by_rule.add("moved")
        elif files != reviewed:
            by_rule.add("digest")
        decision = gate.Decision(approved, allow_destructive=names)
        assert {refusal.kind for refusal in gate.refusals(now, decision, JOB, {})} == by_rule
        wrong = replace(decision, digest=rng.choice(("", "approved", approved[:-1], approved[::-1])))
        assert {refusal.kind for refusal in gate.refusals(now, wrong, JOB, {})} & {"digest", "moved"}


@settings(max_examples=2 * EXAMPLES)
@given(st.integers(0, 2**32))
def test_digests_differ_by_each_part_and_name_only_what_differs(seed: int) -> None:
    rng = Random(seed)
    one, at = rng.choices(("", "a", "aa"), k=8), rng.randint(0, 6)
    two = [*one[:at], *rng.choice((one[at : at + 2][::-1], [str(seed), one[at + 1]])), *one[at + 2 :]]
    parts = [dict(zip((*PARTS, "previous models", "previous statements"), of, strict=True)) for of in (one, two)]
    digests = [digest_of(replace(plan(), parts=of)) for of in parts]
    assert (digests[0] == digests[1]) == (one == two)
    named = {*(differing_parts(*digests) or ())}
    assert bool(named) == (one != two)
    assert named - {"unknown"} <= {part.split()[0] for part in parts[0] if parts[0][part] != parts[1][part]}
