"""Whether a plan may be applied, and its report, by facts alone."""

import re
from dataclasses import replace
from typing import Any

import pytest
from unit.capabilities.plans.plans import ORDERS, drops, plan, planned, with_facts

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.digest import PARTS, digest_of
from dg_sqlmesh_component.capabilities.plans.gate import (
    Decision,
    Refusal,
    allowed_fqns,
    apply_config,
    headline,
    preview_refusals,
    refusals,
)
from dg_sqlmesh_component.capabilities.plans.report import Planned, PlanReport
from dg_sqlmesh_component.capabilities.plans.report_markdown import markdown

SALES = planned(
    '"db"."marts"."sales"', "marts.sales", "indirect", category="indirect_breaking", is_forward_only=True,
    destructive=drops("amount"), columns=drops("amount"), owner="ann",
)  # fmt: skip


DAY = ((0, 86_400_000),)


def kinds(built: msg.PlanBuilt, decision: Decision, budget: str | None = None) -> list[str]:
    return [refusal.kind for refusal in refusals(built, decision, "shop_apply", {}, budget)]


DIFFERENCES = {
    "models": "files of the project",
    "categories": "categories of the changes",
    "statements": "statements before or after all models",
    "requirements": "required Python packages",
    "settings": "settings of the environment",
    "selection": "`select`",
    "previous": "showed other versions",
}
"""By part of a digest, words of its meaning that no other meaning has."""


PREVIOUS_PARTS = ("previous models", "previous statements")


@pytest.mark.parametrize("part", [*PARTS, *PREVIOUS_PARTS])
def test_a_refusal_names_the_part_that_differs(part: str) -> None:
    approved = plan(ORDERS)
    others = [replace(approved, parts={**approved.parts, part: str(number)}) for number in range(4)]
    now = next(of for of in others if part in PREVIOUS_PARTS or digest_of(of)[13:19] != digest_of(approved)[13:19])

    [refusal] = refusals(now, Decision(digest_of(approved)), "shop_apply", {})

    has_moved = part.startswith("previous")
    assert (refusal.kind, refusal.models) == ("moved" if has_moved else "digest", ())
    moved = " Environment prod shows plan p1." if has_moved else ""
    assert refusal.message.endswith(f".{moved} Review the new plan, and apply it with its own digest.")
    assert digest_of(now) in refusal.message
    assert digest_of(approved) in refusal.message
    named = "previous" if part in PREVIOUS_PARTS else part
    assert [other for other, words in DIFFERENCES.items() if words in refusal.message] == [named]


def test_a_person_can_compare_digests() -> None:
    assert re.fullmatch("[a-z2-7]{24}", digest_of(plan(ORDERS)))


def test_a_part_whose_character_is_the_same_by_chance_is_not_approved() -> None:
    """A digest has one character of each part, to name it, and a hash of all of them."""
    approved = digest_of(plan(ORDERS))
    others = [replace(plan(ORDERS), parts={**plan(ORDERS).parts, "statements": str(number)}) for number in range(200)]
    found = [refusals(other, Decision(approved), "shop_apply", {}) for other in others]
    assert {refusal.kind for of in found for refusal in of} == {"digest"}
    assert sum("the digest does not tell which" in refusal.message for [refusal] in found) in range(1, 20)


def test_other_versions_of_other_selected_models_are_not_named_as_changes_of_files() -> None:
    approved = plan(ORDERS)
    now = replace(approved, parts={**approved.parts, **dict.fromkeys(("models", "categories", "selection"), "e" * 10)})
    [refusal] = refusals(now, Decision(digest_of(approved)), "shop_apply", {})
    assert [part for part, words in DIFFERENCES.items() if words in refusal.message] == ["selection"]


@pytest.mark.parametrize("text", ["latest", "1" * 24])
def test_a_text_that_is_no_digest_is_refused(text: str) -> None:
    [refusal] = refusals(plan(ORDERS), Decision(text), "shop_apply", {})
    message = f"`digest` in the run config is {text!r}, which is not a plan digest. Copy it from a plan."
    assert refusal == Refusal("digest", (), message)


def test_case_and_spaces_of_a_digest_do_not_count() -> None:
    assert kinds(plan(ORDERS), Decision(f" {digest_of(plan(ORDERS)).upper()}\n")) == []


def test_views_of_others_that_were_created_after_the_review_are_not_approved() -> None:
    reviewed, later = (plan(with_facts(ORDERS, dependents=views)) for views in (("bi.x", "bi.y"), ("bi.x", "bi.z")))
    found = refusals(reviewed, Decision(), "shop_apply", {})
    config: Any = apply_config(digest_of(reviewed), reviewed, Decision(), found, {})
    assert config["allow_drop_dependents"] == ["bi.x", "bi.y"]

    [refusal] = refusals(later, replace(Decision(), **config), "shop_apply", {})

    assert (refusal.kind, refusal.models) == ("drops_dependents", ("core.orders",))
    assert "with core.orders: bi.z. Nothing" in refusal.message


def test_a_name_in_the_run_config_that_the_plan_does_not_change_is_refused() -> None:
    built = plan(ORDERS)
    decision = Decision(digest_of(built), allow_destructive=("core.order", "y"), allow_revert=("x",))
    ends = "in the run config names {}, which the plan does not change. Remove it."
    assert refusals(built, decision, "shop_apply", {}) == [
        Refusal("unknown_model", ("core.order", "y"), f"`allow_destructive` {ends.format('core.order, y')}"),
        Refusal("unknown_model", ("x",), f"`allow_revert` {ends.format('x')}"),
    ]


def test_models_of_one_schema_and_name_in_two_catalogs_are_named_with_the_catalog() -> None:
    here = planned('"here"."s"."orders"', "s.orders", "changed", destructive=drops("a"))
    there = planned('"there"."s"."orders"', "there.s.orders", "changed", destructive=drops("b"))
    built = plan(here, there)
    both = Decision(digest_of(built), allow_destructive=("s.orders",))
    [_, ambiguous] = refusals(built, both, "shop_apply", {})
    assert ambiguous.kind == "ambiguous_model"
    assert "s.orders, which fits 2 models" in ambiguous.message
    assert "instead: 'here.s.orders', 'there.s.orders'." in ambiguous.message

    decision = Decision(digest_of(built), allow_destructive=("there.s.orders",))

    [refused] = refusals(built, decision, "shop_apply", {})
    assert refused.models == ("here.s.orders",), "its display name alone fits both"
    assert allowed_fqns(built, decision, {}) == (there.fqn,)


# -- each refusal ---------------------------------------------------------------------------------


def both(**more: Any) -> msg.PlanBuilt:
    """Return a plan that does the same to two models."""
    return plan(*(with_facts(model, destructive=(), **more) for model in (ORDERS, with_facts(SALES, intervals=1))))


READ = ("bi.x", "bi.y")
NAMES = ("core.orders", "marts.sales")
NOT_READY = {"loses": msg.LostRows(DAY, not_loaded=DAY), "waits_for": ('"db"."raw"."a"', '"db"."raw"."b"')}
PREVIEWED = ("t__pr_1.a", "t__pr_1.b")
OF_PREVIEW = dict.fromkeys(PREVIEWED, "pr_1")
REFUSALS = {
    "unfinished_plan": (
        plan(ORDERS, unfinished_plan_id="p0"),
        (),
        "Plan p0 has begun to change environment prod and has not finished. If it is still running, wait for it. If it "
        "was interrupted, finish it first: launch shop_apply with the deployment and the digest of that plan. Or take "
        "it back: launch shop_apply with `take_back: true`.",
    ),
    "unfinished_plan of others": (
        plan(ORDERS, unfinished_plan_id="p0", way_back_obstacles=("t.a has lost values of x", "t.b is replaced")),
        (),
        "Plan p0 has begun to change environment prod and has not finished. If it is still running, wait for it. If it "
        "was interrupted, finish it first: launch shop_apply with the deployment and the digest of that plan. It "
        "cannot be taken back: t.a has lost values of x; t.b is replaced.",
    ),
    "stale_branch": (
        both(takes_back=True, shows_again=0),
        NAMES,
        "This deployment's files have an older definition or older audits of core.orders, marts.sales. The plan would "
        "take back a newer change, which environment prod shows. Merge the newest main branch and plan again. To go "
        "back on purpose, name these models in `allow_revert` in the run config. Then prod brings back rows that "
        "SQLMesh computed earlier, most recently at this time: core.orders (1970-01-01T00:00:00Z), marts.sales "
        "(1970-01-01T00:00:00Z). The plan computes those again that were restated since, as far as SQLMesh's state "
        "tells. If you corrected others, restate them after the apply.",
    ),
    "destructive": (
        plan(SALES, replace(SALES, fqn='"db"."m"."costs"', name="m.costs"), with_facts(ORDERS, may_destroy=True)),
        ("marts.sales", "m.costs"),
        "The plan would remove data from tables that environment prod shows: marts.sales (drops amount); m.costs "
        "(drops amount). The values of these columns are lost. To apply it anyway, name these models in "
        "`allow_destructive` in the run config.",
    ),
    "additive": (
        both(refused_columns=("a", "b")),
        NAMES,
        "SQLMesh would fail, because the plan adds or widens columns that it cannot: core.orders (a, b); marts.sales "
        "(a, b). If the model has `on_additive_change: error`, set `allow`. If it is a SEED, add the columns to its "
        "table by hand.",
    ),
    "drops_dependents": (
        both(dependents=READ),
        NAMES,
        "The plan would drop views of others, because PostgreSQL drops what reads a view that SQLMesh replaces: with "
        "core.orders: bi.x, bi.y; with marts.sales: bi.x, bi.y. Nothing creates them again, so keep their "
        "definitions. To apply the plan anyway, name these views in `allow_drop_dependents` in the run config.",
    ),
    "drops_dependents of a preview": (
        plan(
            with_facts(ORDERS, dependents=("bi.x", *PREVIEWED)), views_of_environments=dict.fromkeys(PREVIEWED, "pr_1")
        ),
        NAMES[:1],
        "The plan would drop views of others, because PostgreSQL drops what reads a view that SQLMesh replaces: with "
        "core.orders: bi.x, t__pr_1.a, t__pr_1.b. Nothing creates bi.x again, so keep their definitions. t__pr_1.a, "
        "t__pr_1.b are views of SQLMesh's environment pr_1. If it is a preview, close it first, or accept the loss: "
        "its next preview creates its views again. To apply the plan anyway, name these views in "
        "`allow_drop_dependents` in the run config.",
    ),
    "has_dependents": (
        both(dependents=READ, is_dropped=True),
        NAMES,
        "The plan would fail partway through, because SQLMesh cannot remove a table or view that other views read: "
        "core.orders is read by bi.x, bi.y; marts.sales is read by bi.x, bi.y. Drop or change those views first.",
    ),
    "name_taken": (
        both(is_name_taken=True),
        NAMES,
        "The names of core.orders, marts.sales are taken: the database has other tables, views or types with these "
        "names. SQLMesh would replace them, with their rows, or fail partway through. Rename or drop them first. "
        "Queries that use them fail until the apply has succeeded.",
    ),
    "uncategorized": (
        plan(ORDERS, uncategorized=(ORDERS.fqn, '"db"."s"."gone"')),
        ("core.orders", '"db"."s"."gone"'),
        'SQLMesh cannot tell whether the change of core.orders, "db"."s"."gone" breaks models downstream. Set '
        "`auto_categorize_changes` in the SQLMesh project, or choose a category with `sqlmesh plan`:\n\n"
        "    sqlmesh plan prod",
    ),
    "lost_intervals": (
        both(loses=msg.LostRows(DAY)),
        NAMES,
        "Models would lose rows that environment prod shows: core.orders (rows of 1970-01-01); marts.sales (rows of "
        "1970-01-01). Neither the plan nor a run right after it computes these rows. Causes are a later `start` "
        "or none, an earlier `end`, a `cron` with longer intervals, a kind that shows only computed intervals, or a "
        "new table for a model whose rows cannot be computed again, such as `SCD_TYPE_2`: it has what the source has "
        "now. To apply it anyway, name these models in `allow_lost_intervals` in the run config.",
    ),
    "not_loaded": (
        both(**NOT_READY),
        NAMES,
        "Models would lose rows that they have now, because a source is not loaded: core.orders (rows of 1970-01-01 "
        "until db.raw.a, db.raw.b is loaded); marts.sales (rows of 1970-01-01 until db.raw.a, db.raw.b is loaded). The "
        "plan would not compute these ranges. Materialize the assets that load these tables, and launch this job "
        "again. To wait for other tables only, name those in `external_models.wait.tables` in defs.yaml.",
    ),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_each_refusal_names_its_models_the_loss_and_what_to_do(kind: str) -> None:
    built, models, message = REFUSALS[kind]
    assert refusals(built, Decision(), "shop_apply", {}) == [Refusal(kind.split()[0], models, message)]


def test_a_plan_over_the_budget_is_refused_unless_the_run_config_allows_it() -> None:
    message = "It costs 9. To apply it anyway, set `over_budget: true` in the run config."
    expected = [Refusal("over_budget", NAMES, message)]
    assert refusals(both(), Decision(), "shop_apply", {}, "It costs 9.") == expected
    assert refusals(both(), Decision(over_budget=True), "shop_apply", {}, "It costs 9.") == []


PENDING = {"core.late": 1, "core.raw": 3}
LATER = (
    "core.late (1 interval), core.raw (3 intervals)",
    "The preview does not need these intervals, which are later than its own. To preview anyway, set "
    "`allow_pending: true` in the run config.",
)
NEVER = (
    "The preview would be computed from incomplete data and count as complete, so `allow_pending` does not allow this."
)


@pytest.mark.parametrize(
    ("holes", "allow_pending", "models", "lacking", "reason"),
    [
        ({}, False, ("core.late", "core.raw"), *LATER),
        ({"core.raw": 2}, False, ("core.late", "core.raw"), LATER[0], NEVER),
        ({"core.raw": 2}, True, ("core.raw",), "core.raw (2 intervals)", NEVER),
    ],
    ids=["later than its own", "holes", "holes, which are never allowed"],
)
def test_a_preview_is_refused_if_models_upstream_lack_intervals(
    holes: dict[str, int], allow_pending: bool, models: tuple[str, ...], lacking: str, reason: str
) -> None:
    built = plan(ORDERS, pending_upstream=PENDING, holes_upstream=holes)
    found = preview_refusals(built, allow_pending=allow_pending, over_budget=False, budget="It costs 9.")
    run_prod = "Run prod first, from the deployment of prod."
    message = f"The preview would read models of prod that lack intervals: {lacking}. {run_prod} {reason}"
    over_budget = "It costs 9. To preview it anyway, set `over_budget: true` in the run config."
    assert found == [Refusal("pending_upstream", models, message), Refusal("over_budget", NAMES[:1], over_budget)]
    assert preview_refusals(plan(ORDERS), allow_pending=False, over_budget=True, budget="It costs 9.") == []


# -- the report ---------------------------------------------------------------------------------------


def report(*models: msg.PlannedModel, refused: tuple[Refusal, ...] = (), **more: Any) -> PlanReport:
    planned = Planned(plan(*models, **more), {ORDERS.fqn: 12.4}, refused, "d1", {"ops": {"shop_apply": {}}})
    return PlanReport("prod", prod=planned)


def test_json_has_the_documented_keys() -> None:
    found = report(ORDERS, refused=(Refusal("digest", ("m",), "No."),)).as_json()
    assert found.keys() >= {"digest", "environment", "models", "refusals", "diff"}
    [model] = found["models"]
    assert model.items() >= {
        "name": "core.orders", "change": "changed", "category": "breaking", "destructive": [], "intervals": 3,
        "waiting": 0,
        "seconds": 12.4,
    }.items()  # fmt: skip
    assert found["refusals"] == [{"kind": "digest", "models": ["m"], "message": "No."}]


def test_the_report_in_dagster_has_no_picture_and_the_run_config_for_the_launchpad() -> None:
    both = [ORDERS, with_facts(SALES, destructive=())]
    found = replace(report(*both), upstream={SALES.fqn: [ORDERS.fqn]})
    of_comment, of_page = markdown(found), markdown(found, in_dagster=True)
    assert ("graph LR" in of_comment, "graph LR" in of_page) == (True, False)
    assert ("dg launch" in of_comment, "dg launch" in of_page) == (True, False)
    assert "In the launchpad of shop_apply, paste:\n\n```yaml\nops:\n  shop_apply: {}\n```" in of_page


def test_a_model_that_is_only_computed_is_no_change() -> None:
    found = report(replace(ORDERS, change=None)).as_json()
    assert found["models"] == []
    nothing: dict[str, list[str]] = {"outdated": [], "left_outdated": []}
    assert found["catch_up"] == [{"name": "core.orders", "intervals": 3, "seconds": 12.4, **nothing}]


def test_missing_intervals_of_unchanged_models_have_a_heading_of_their_own() -> None:
    changed, missing = markdown(report(SALES, replace(ORDERS, change=None))).split("### Models")[1].split("\n### Unch")
    assert ("marts.sales" in changed, "core.orders" in changed) == (True, False)
    assert missing.startswith("anged models with missing intervals\n\n| Model |")
    assert ("marts.sales" in missing, "core.orders" in missing) == (False, True)


def test_markdown_begins_with_refusals_and_losses() -> None:
    removed = msg.PlannedModel('"db"."old"."gone"', "old.gone", "removed")
    text = markdown(report(SALES, removed, refused=(Refusal("destructive", (), "First.\n\n    second"),)))
    parts = text.split("\n\n")
    assert parts[0] == "## Plan for environment prod: 1 indirectly changed, 1 removed; nothing to compute."
    caution = "> [!CAUTION]\n> **Applying this plan would be refused (destructive).** First.\n>\n>     second"
    assert caution in text
    assert parts[1] == "**To decide:** 2 losses, 1 refusal."
    losses = text[text.index("> [!CAUTION]\n> **prod loses:**") : text.index("| Model |")]
    assert "`old.gone` is removed: queries that use it will fail." in losses
    gone = "the column and its values are gone, and queries that use it will fail."
    assert f"`marts.sales` drops amount: {gone}" in losses
    assert "NULL" not in losses
    assert "| drops amount: values are lost | nothing | ann |" in text
    assert "**forward-only**: the table that prod shows is changed in place" in text
    who = "**What to do:** CI or a person who may deploy to prod applies exactly this plan"
    assert f"{who} anyway:" in text
    assert f"{who}:" in markdown(report(ORDERS))
    of_preview = markdown(replace(report(ORDERS), is_preview=True))
    assert "**What to do:** after the merge, CI or a person who may deploy to prod applies" in of_preview


@pytest.mark.parametrize(
    ("are_all_computed", "intervals", "computes"),
    [
        (True, 0, "nothing; all rows after the next tick of @daily"),
        (False, 0, "nothing; existing rows stay"),
        (False, 3, "3 intervals, about 12 s; existing rows stay"),
    ],
)
def test_table_says_when_kept_rows_are_computed(are_all_computed: bool, intervals: int, computes: str) -> None:
    kept = with_facts(ORDERS, intervals=intervals, kept=msg.KeptRows("@daily", 0, are_all_computed))
    assert f"| {computes} |" in markdown(report(kept)).replace("@<!-- -->", "@")


def test_rows_that_the_next_run_computes_are_a_loss_until_then() -> None:
    text = markdown(report(with_facts(ORDERS, loses=msg.LostRows(DAY, until_run=DAY))))
    assert "**To decide:** 1 loss." in text
    assert "`core.orders` loses rows of 1970-01-01 until the next run." in text


def test_only_a_column_that_is_added_again_can_be_computed_again() -> None:
    text = markdown(report(with_facts(SALES, destructive=(msg.ColumnChange("amount", "TEXT", "INT"),))))
    assert "They are NULL until somebody computes them again." in text


def test_markdown_promises_an_old_version_only_if_versions_have_tables_of_their_own() -> None:
    lost = replace(ORDERS, columns=drops("id"))
    kept = "the old version stays until SQLMesh's janitor deletes it"
    assert f"`core.orders` drops id: queries that use the column will fail. The apply deletes no data: {kept}" in (
        markdown(report(lost))
    )
    text = markdown(report(with_facts(lost, was_shared=True)))
    assert "`core.orders` drops id: queries that use the column will fail. No old version stays:" in text
    assert kept not in text


def test_markdown_names_the_changes_that_a_selection_leaves_out() -> None:
    left_out: dict[str, msg.Change] = {"core.orders": "changed", "old.gone": "removed"}
    text = markdown(report(select=("b", "a+"), left_out=left_out))
    assert (
        "Of the models, only b, a+ is taken from the files. "
        "Changed and left out: core.orders (changed), old.gone (removed)." in text
    )
    assert "Changed and left out: nothing." in markdown(report(select=("tag:x",)))


def test_headline_and_json_have_changed_statements() -> None:
    changed = report(statements="before_all:\n+ GRANT")
    assert changed.as_json()["statements"] == "before_all:\n+ GRANT"
    text = markdown(changed)
    assert "no changed models, changed statements or requirements; nothing" in text
    assert "dg launch --job shop_apply" in text


def test_markdown_of_an_apply_says_that_nothing_was_computed() -> None:
    refused = replace(report(ORDERS, refused=(Refusal("digest", (), "No."),)), is_apply=True)
    assert "> **Refused: nothing was changed (digest).** No." in markdown(refused)


@pytest.mark.parametrize("kind", ["tests", "linter", "additive", "not_ready"])
def test_markdown_of_a_project_without_a_plan_says_that_nothing_was_changed(kind: str) -> None:
    text = markdown(PlanReport("prod", problems=[Refusal(kind, (), "No.")]))
    assert f"> **Refused: nothing was changed ({kind}).** No." in text


def test_markdown_has_the_command_and_the_differences_of_a_plan_that_may_be_applied() -> None:
    text = markdown(report(ORDERS, statements="after_all:\n+ GRANT"))
    assert "```diff\n-SELECT 1\n+SELECT 2\n```" in text
    assert "<summary>Statements and requirements</summary>" in text
    assert "| `core.orders` | changed (breaking) |  | 3 intervals, about 12 s |  |" in text
    assert "dg launch --job shop_apply" in text


def test_the_command_accepts_what_a_run_config_can_accept() -> None:
    accepted = [Refusal("destructive", ("a",), ""), Refusal("stale_branch", ("b",), ""), Refusal("over_budget", (), "")]
    digest = digest_of(plan())
    assert apply_config(digest, plan(), Decision(), accepted, {}) == {
        "digest": digest,
        "allow_destructive": ["a"],
        "allow_revert": ["b"],
        "over_budget": True,
    }
    assert apply_config(digest, plan(), Decision(), [], {}) == {"digest": digest}
    assert apply_config(digest, plan(), Decision(over_budget=True), [], {}) == {"digest": digest, "over_budget": True}
    assert apply_config(digest, plan(), Decision(), [Refusal("moved", (), "")], {}) is None


def test_headline_counts_changes_and_intervals() -> None:
    assert headline(plan()) == "Plan for environment prod: no changed models; nothing to compute."
    text = headline(plan(ORDERS, ORDERS, SALES, replace(SALES, change="metadata")))
    assert text.endswith(": 2 changed, 1 indirectly changed, 1 with changed metadata; 6 intervals to compute.")


NUMBERED = [replace(SALES, fqn=f'"db"."m"."n{number:02}"', name=f"m.n{number:02}") for number in range(25)]
GAPS = tuple((2 * day * 86_400_000, (2 * day + 1) * 86_400_000) for day in range(25))
CUT: dict[str | None, dict[str, Any]] = {
    "stale_branch": {"takes_back": True, "shows_again": 0},
    "name_taken": {"is_name_taken": True},
    "lost_intervals": {"loses": msg.LostRows(GAPS)},
    "not_loaded": {"loses": msg.LostRows(GAPS, not_loaded=GAPS), "waits_for": tuple(f"raw.t{i}" for i in range(25))},
    None: {"columns": None, "destructive": ()},
}


@pytest.mark.parametrize("kind", CUT)
def test_what_needs_a_decision_is_never_cut(kind: str | None) -> None:
    built = plan(*(with_facts(model, **{"destructive": (), **CUT[kind]}) for model in NUMBERED))
    found = refusals(built, Decision(), "shop_apply", {})
    assert [refusal.kind for refusal in found] == ([kind] if kind else [])
    text = markdown(PlanReport("prod", prod=Planned(built, refusals=found, digest="0-1")))
    start = text.split("###")[0]
    assert re.search(r"and \d+ more", start) is None
    assert all(model.name in start for model in NUMBERED)
