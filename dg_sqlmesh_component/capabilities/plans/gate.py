"""Whether a plan may be applied. Pure: it decides by the facts of the plan, and refuses before anything is computed.

Messages name all models and intervals, however many: nobody can approve what the message does not name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.digest import MEANINGS, PREVIOUS, differing_parts, digest_of
from dg_sqlmesh_component.capabilities.plans.findings import Finding, cannot_be_dropped, dropped_views, losses, named
from dg_sqlmesh_component.capabilities.plans.lost_rows import lost_text, refused
from dg_sqlmesh_component.protocol.formatting import block, counted, utc_text
from dg_sqlmesh_component.protocol.graph import grouped
from dg_sqlmesh_component.protocol.manifest import ModelNames


@dataclass(frozen=True)
class Refusal:
    """A reason not to apply a plan."""

    kind: str  # a kind of docs/plan-reference.md, "Look up a refusal"
    models: tuple[str, ...]  # the models that it is about
    message: str  # the problem and the next action, in sentences


@dataclass(frozen=True)
class Decision:
    """What a person or CI has decided: the run config of the job that plans or applies."""

    digest: str | None = None  # the approved plan; None if the job only plans
    allow_destructive: tuple[str, ...] = ()  # names of models whose tables may lose columns
    allow_revert: tuple[str, ...] = ()  # names of models that may go back to an older definition
    allow_drop_dependents: tuple[str, ...] = ()  # views of others that may be dropped, as the refusal names them
    allow_lost_intervals: tuple[str, ...] = ()  # names of models that may show fewer rows than before
    over_budget: bool = False  # whether the plan may cost more than `budget` in defs.yaml
    select: tuple[str, ...] = ()  # the selections of models that the plan takes from the files; empty for all

    @property
    def lists(self) -> dict[str, tuple[str, ...]]:
        """The lists of models, by option of the run config."""
        return {option: getattr(self, option) for option in _ACCEPTED_BY.values()}


_ACCEPTED_BY = {
    "destructive": "allow_destructive",
    "stale_branch": "allow_revert",
    "lost_intervals": "allow_lost_intervals",
}
"""By kind of refusal, the option of the run config that accepts its models."""


def refusals(
    plan: msg.PlanBuilt, decision: Decision, apply_job: str, project: Mapping[str, str], budget: str | None = None
) -> list[Refusal]:
    """Why the plan may not be applied; empty if it may.

    `project` has the display names of all its models, by fqn. `budget` says why the plan is over it; None if it is not.
    """
    names = _names(plan, project)
    return [
        *_other_digest(plan, decision),
        *_unfinished(plan, apply_job),
        *_takes_back(plan, decision, names),
        *_destructive(plan, decision, names),
        *_additive(plan),
        *_drops_dependents(plan, decision),
        *_has_dependents(plan),
        *_name_taken(plan),
        *_lost_intervals(plan, decision, names),
        *_uncategorized(plan),
        *_not_loaded(plan),
        *_wrong_names(plan, decision, names),
        *_over_budget(plan, budget, "apply", is_allowed=decision.over_budget),
    ]


def preview_refusals(
    plan: msg.PlanBuilt, *, allow_pending: bool, over_budget: bool, budget: str | None = None
) -> list[Refusal]:
    """Why a preview may not be computed; empty if it may. The arguments are its run config, and as in `refusals`."""
    found = [*_name_taken(plan), *_uncategorized(plan), *_not_loaded(plan)]
    lacking = plan.holes_upstream if allow_pending else plan.pending_upstream
    if lacking:
        models = ", ".join(f"{name} ({counted(number, 'interval')})" for name, number in lacking.items())
        message = (
            f"The preview would read models of prod that lack intervals: {models}. Run prod first, from the deployment "
            "of prod. "
        ) + (
            "The preview would be computed from incomplete data and count as complete, so `allow_pending` does not "
            "allow this."
            if plan.holes_upstream
            else "The preview does not need these intervals, which are later than its own. To preview anyway, "
            "set `allow_pending: true` in the run config."
        )
        found.append(Refusal("pending_upstream", tuple(lacking), message))
    found += _over_budget(plan, budget, "preview", is_allowed=over_budget)
    return found


def _over_budget(plan: msg.PlanBuilt, budget: str | None, verb: str, *, is_allowed: bool) -> Iterator[Refusal]:
    if budget is not None and not is_allowed:
        message = f"{budget} To {verb} it anyway, set `over_budget: true` in the run config."
        yield Refusal("over_budget", tuple(m.name for m in plan.models if m.rows.intervals), message)


def _other_digest(plan: msg.PlanBuilt, decision: Decision) -> Iterator[Refusal]:
    if decision.digest is None:
        return
    digest = digest_of(plan)
    differing = differing_parts(decision.digest, digest)
    if differing is None:
        message = f"`digest` in the run config is {decision.digest!r}, which is not a plan digest. Copy it from a plan."
        yield Refusal("digest", (), message)
        return
    if _has_finished(plan):  # the environment shows the approved versions and statements already
        differing = [part for part in differing if part != PREVIOUS]
    if differing:
        has_moved = PREVIOUS in differing
        # Other selected models are other versions too, so these parts say nothing about the files.
        left_out = {"models", "categories"} if "selection" in differing else set()
        reasons = "; ".join(MEANINGS[part] for part in differing if part not in left_out)
        message = (
            f"The approved plan has the digest {decision.digest}, and the plan that would be applied now has {digest}. "
            f"What differs: {reasons}."
            + (f" Environment {plan.environment} shows plan {plan.previous_plan_id}." if has_moved else "")
            + " Review the new plan, and apply it with its own digest."
        )
        yield Refusal("moved" if has_moved else "digest", (), message)


def _has_finished(plan: msg.PlanBuilt) -> bool:
    """Whether the environment shows exactly this plan, so that applying it computes missing intervals only."""
    return plan.resumes and plan.unfinished_plan_id is None


def _unfinished(plan: msg.PlanBuilt, apply_job: str) -> Iterator[Refusal]:
    if plan.unfinished_plan_id is not None and not plan.resumes:
        message = (
            f"Plan {plan.unfinished_plan_id} has begun to change environment {plan.environment} and has not finished. "
            f"If it is still running, wait for it. If it was interrupted, finish it first: launch {apply_job} with the "
            "deployment and the digest of that plan. "
        ) + (
            f"It cannot be taken back: {'; '.join(plan.way_back_obstacles)}."
            if plan.way_back_obstacles
            else f"Or take it back: launch {apply_job} with `take_back: true`."
        )
        yield Refusal("unfinished_plan", (), message)


def _takes_back(plan: msg.PlanBuilt, decision: Decision, names: ModelNames) -> Iterator[Refusal]:
    accepted = _named(decision.allow_revert, names)
    older = {names.to_write(m.fqn): m for m in plan.models if m.takes_back and m.fqn not in accepted}
    if older:
        message = (
            f"This deployment's files have an older definition or older audits of {', '.join(older)}. The plan would "
            f"take back a newer change, which environment {plan.environment} shows. Merge the newest main branch and "
            f"plan again. To go back on purpose, {_name_them('stale_branch')}"
        )
        if again := shown_again(older):
            message += f" Then {plan.environment} {again}"
        yield Refusal("stale_branch", tuple(older), message)


def shown_again(models: Mapping[str, msg.PlannedModel]) -> str:
    """What an environment does if a plan shows old rows of these models, by name; empty if of none."""
    again = [f"{name} ({utc_text(m.rows.shows_again)})" for name, m in models.items() if m.rows.shows_again is not None]
    if not again:
        return ""
    return (
        f"brings back rows that SQLMesh computed earlier, most recently at this time: {', '.join(again)}. The plan "
        "computes those again that were restated since, as far as SQLMesh's state tells. If you corrected others, "
        "restate them after the apply."
    )


def _destructive(plan: msg.PlanBuilt, decision: Decision, names: ModelNames) -> Iterator[Refusal]:
    refused = _not_accepted("destructive", plan, decision, names)
    if refused:
        message = (
            f"The plan would remove data from tables that environment {plan.environment} shows: "
            f"{_details(refused)}. The values of these columns are lost. To apply it anyway, "
            f"{_name_them('destructive')}"
        )
        yield Refusal("destructive", tuple(refused), message)


def _additive(plan: msg.PlanBuilt) -> Iterator[Refusal]:
    if refused := {
        model.name: ", ".join(model.table.refused_columns) for model in plan.models if model.table.refused_columns
    }:
        columns = "; ".join(f"{name} ({of_model})" for name, of_model in refused.items())
        message = (
            f"SQLMesh would fail, because the plan adds or widens columns that it cannot: {columns}. If the model has "
            "`on_additive_change: error`, set `allow`. If it is a SEED, add the columns to its table by hand."
        )
        yield Refusal("additive", tuple(refused), message)


def _drops_dependents(plan: msg.PlanBuilt, decision: Decision) -> Iterator[Refusal]:
    # Others may create views after the review, so an approval is of these views, and not of the model that they read.
    views = [(m, [v for v in dropped_views(m) if v not in decision.allow_drop_dependents]) for m in plan.models]
    if refused := [(model.name, of_model) for model, of_model in views if of_model]:
        details = "; ".join(f"with {name}: {', '.join(of_model)}" for name, of_model in refused)
        dropped = [view for _, of_model in refused for view in of_model]
        message = (
            "The plan would drop views of others, because PostgreSQL drops what reads a view that SQLMesh replaces: "
            f"{details}. {' '.join(_after_drop(plan, dropped))} To apply the plan anyway, name these views in "
            "`allow_drop_dependents` in the run config."
        )
        yield Refusal("drops_dependents", tuple(name for name, _ in refused), message)


def _after_drop(plan: msg.PlanBuilt, views: Sequence[str]) -> Iterator[str]:
    """What becomes of dropped views. Those of other environments, such as previews, are SQLMesh's own."""
    owners = grouped((plan.views_of_environments.get(view), view) for view in dict.fromkeys(views))
    if foreign := owners.pop(None, []):
        them = ", ".join(foreign) if owners else "them"
        yield f"Nothing creates {them} again, so keep their definitions."
    for environment, shown in sorted((name, of) for name, of in owners.items() if name is not None):
        yield (
            f"{', '.join(shown)} {'is a view' if len(shown) == 1 else 'are views'} of SQLMesh's environment "
            f"{environment}. If it is a preview, close it first, or accept the loss: its next preview creates its "
            "views again."
        )


def _has_dependents(plan: msg.PlanBuilt) -> Iterator[Refusal]:
    if fixed := [m for m in plan.models if m.table.dependents and cannot_be_dropped(m)]:
        details = "; ".join(f"{m.name} is read by {', '.join(m.table.dependents or ())}" for m in fixed)
        message = (
            "The plan would fail partway through, because SQLMesh cannot remove a table or view that other views read: "
            f"{details}. Drop or change those views first."
        )
        yield Refusal("has_dependents", tuple(m.name for m in fixed), message)


def _name_taken(plan: msg.PlanBuilt) -> Iterator[Refusal]:
    if models := tuple(m.name for m in plan.models if m.table.is_name_taken):
        message = (
            f"The names of {', '.join(models)} are taken: the database has other tables, views or types with these "
            "names. SQLMesh would replace them, with their rows, or fail partway through. Rename or drop them first. "
            "Queries that use them fail until the apply has succeeded."
        )
        yield Refusal("name_taken", models, message)


def _uncategorized(plan: msg.PlanBuilt) -> Iterator[Refusal]:
    if plan.uncategorized:
        names = {model.fqn: model.name for model in plan.models}
        models = tuple(names.get(fqn, fqn) for fqn in plan.uncategorized)
        message = (
            f"SQLMesh cannot tell whether the change of {', '.join(models)} breaks models downstream. Set "
            "`auto_categorize_changes` in the SQLMesh project, or choose a category with `sqlmesh plan`:"
            f"{block(plan.plan_command)}"
        )
        yield Refusal("uncategorized", models, message)


def _lost_intervals(plan: msg.PlanBuilt, decision: Decision, names: ModelNames) -> Iterator[Refusal]:
    lost = _not_accepted("lost_intervals", plan, decision, names)
    if lost:
        losing = {finding.subject for findings in lost.values() for finding in findings}
        readers = [
            f"{model.name} ({lost_text(read)})"
            for model in plan.models
            if (read := refused(model.rows.reads_lost)) and not losing.isdisjoint(model.rows.loses_with)
        ]
        message = (
            f"Models would lose rows that environment {plan.environment} shows: {_details(lost)}. "
            + (f"Models that show or read them lose rows too: {'; '.join(readers)}. " if readers else "")
            + "Neither the plan nor a run right after it computes these rows. Causes are a later `start` or none, an "
            "earlier `end`, a `cron` with longer intervals, a kind that shows only computed intervals, or a new table "
            "for a model whose rows cannot be computed again, such as `SCD_TYPE_2`: it has what the source has now. "
            f"To apply it anyway, {_name_them('lost_intervals')}"
        )
        yield Refusal("lost_intervals", tuple(lost), message)


def _not_loaded(plan: msg.PlanBuilt) -> Iterator[Refusal]:
    lost = [finding for finding in losses(plan) if finding.refusal == "not_loaded"]
    if lost:
        message = (
            f"Models would lose rows that they have now, because a source is not loaded: {'; '.join(named(lost))}. The "
            "plan would not compute these ranges. Materialize the assets that load these tables, and launch this job "
            "again. To wait for other tables only, name those in `external_models.wait.tables` in defs.yaml."
        )
        yield Refusal("not_loaded", tuple(dict.fromkeys(finding.subject for finding in lost)), message)


def _wrong_names(plan: msg.PlanBuilt, decision: Decision, names: ModelNames) -> Iterator[Refusal]:
    planned = {model.fqn for model in plan.models}
    for option, written in ({} if _has_finished(plan) else decision.lists).items():
        for name in written:
            if len(fitting := names.fitting(name)) > 1:
                message = (
                    f"`{option}` in the run config names {name}, which fits {len(fitting)} models. Write "
                    "one of these instead: " + ", ".join(f"'{names.to_write(fqn)}'" for fqn in fitting) + "."
                )
                yield Refusal("ambiguous_model", tuple(fitting), message)
        unknown = tuple(name for name in written if planned.isdisjoint(names.fitting(name)))
        if unknown and decision.digest is not None:
            message = (
                f"`{option}` in the run config names {', '.join(unknown)}, which the plan does not change. Remove it."
            )
            yield Refusal("unknown_model", unknown, message)


def _not_accepted(kind: str, plan: msg.PlanBuilt, decision: Decision, names: ModelNames) -> dict[str, list[Finding]]:
    """By the name to write in the run config, the losses of this kind of refusal that it does not accept."""
    accepted = _named(decision.lists[_ACCEPTED_BY[kind]], names)
    refused = [of for of in losses(plan) if of.refusal == kind and of.fqn not in accepted]
    return grouped((names.to_write(finding.fqn), finding) for finding in refused)


def _details(refused: Mapping[str, Iterable[Finding]]) -> str:
    """Each model, as the run config has to name it, with what it loses."""
    return "; ".join(f"{name} ({', '.join(finding.what for finding in of)})" for name, of in refused.items())


def _name_them(kind: str) -> str:
    return f"name these models in `{_ACCEPTED_BY[kind]}` in the run config."


def _names(plan: msg.PlanBuilt, project: Mapping[str, str]) -> ModelNames:
    """Finds models of the project, and those that the plan removes. A name may fit a model that stays as it is."""
    return ModelNames({**project, **{model.fqn: model.name for model in plan.models}})


def _named(written: Iterable[str], names: ModelNames) -> set[str]:
    """The models that a list of the run config names, by fqn. A name that fits several models names none."""
    return {fitting[0] for name in written if len(fitting := names.fitting(name)) == 1}


def allowed_fqns(plan: msg.PlanBuilt, decision: Decision, project: Mapping[str, str]) -> tuple[str, ...]:
    """The models whose tables may lose columns, by fqn. The arguments are those of `refusals`."""
    allowed = _named(decision.allow_destructive, _names(plan, project))
    return tuple(model.fqn for model in plan.models if model.fqn in allowed)


def apply_config(
    digest: str, plan: msg.PlanBuilt, decision: Decision, found: Sequence[Refusal], project: Mapping[str, str]
) -> dict[str, object] | None:
    """The run config with which the plan would be applied in spite of these refusals; None if there is none.

    It accepts what `decision` accepts, too. `project` is that of `refusals`.
    """
    fitting, planned = _names(plan, project).fitting, {model.fqn for model in plan.models}
    lists = {  # a name that the plan does not change would be refused
        option: [name for name in names if not planned.isdisjoint(fitting(name))]
        for option, names in decision.lists.items()
    }
    is_over_budget = decision.over_budget
    for refusal in found:
        if refusal.kind == "over_budget":
            is_over_budget = True
        elif refusal.kind in _ACCEPTED_BY:
            lists[_ACCEPTED_BY[refusal.kind]] += refusal.models
        # No option accepts the others: something has to be corrected first.
        elif refusal.kind != "drops_dependents":
            return None
    # All of them: the refusal leaves out those that the decision accepts already.
    lists["allow_drop_dependents"] = list(dict.fromkeys(view for model in plan.models for view in dropped_views(model)))
    config: dict[str, object] = {"digest": digest, **{option: names for option, names in lists.items() if names}}
    return {**config, "over_budget": True} if is_over_budget else config


def headline(plan: msg.PlanBuilt) -> str:
    """How many models the plan changes and computes, and whether it changes something else, in one line."""
    kinds = Counter(model.change for model in plan.models if model.change is not None)
    words = {"indirect": "indirectly changed", "metadata": "with changed metadata"}
    changes = ", ".join(f"{number} {words.get(kind, kind)}" for kind, number in kinds.items()) or "no changed models"
    changes += ", changed statements or requirements" if plan.statements else ""
    intervals = sum(model.rows.intervals for model in plan.models)
    work = counted(intervals, "interval") if intervals else "nothing"
    return f"Plan for environment {plan.environment}: {changes}; {work} to compute."
