"""What a plan does to a model, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.column_words import described, dropped
from dg_sqlmesh_component.capabilities.plans.lost_rows import all_lost, lost_text, rows_text
from dg_sqlmesh_component.protocol.formatting import counted, listed, ranges, unquoted, utc_text
from dg_sqlmesh_component.protocol.graph import grouped

_CHANGES = {
    "added": "added",
    "removed": "removed",
    "changed": "changed",
    "indirect": "changed upstream",
    "metadata": "metadata only",
    None: "not changed",
}


def change(model: msg.PlannedModel) -> str:
    """The change and SQLMesh's category, `changed (breaking, forward-only)`."""
    details = [model.category.replace("_", " ")] if model.category and model.change in ("changed", "indirect") else []
    details += ["forward-only"] if model.is_forward_only and model.change in ("changed", "indirect") else []
    details += [f"now {model.becomes}"] if model.becomes else []
    details += [f"project {model.other_project}"] if model.other_project else []
    return _CHANGES[model.change] + (f" ({', '.join(details)})" if details else "")


def columns_seen(model: msg.PlannedModel, changes: Sequence[msg.ColumnChange] | None) -> list[str] | None:
    """What consumers see of the columns, by the plan or as a preview has computed them; None if that is not known."""
    order = ["changes the order of columns"] if model.is_reordered else []
    return None if changes is None else [*map(described, changes), *order]


def effect(model: msg.PlannedModel, changes: Sequence[msg.ColumnChange] | None) -> str:
    """What consumers see, also of the rows. The arguments are those of `columns_seen`."""
    rows = [f"loses {lost_text(lost, model.rows.waits_for)}"] if (lost := all_lost(model.rows)) else []
    if model.table.destructive:
        return "; ".join([*(f"{dropped(column)}: values are lost" for column in model.table.destructive), *rows])
    columns = columns_seen(model, changes)
    return "; ".join([*(["columns are not known before it is computed"] if columns is None else columns), *rows])


def outdated(models: Iterable[msg.PlannedModel]) -> Iterator[str]:
    """Name the models without rows that a model upstream gains, and what corrects them."""
    models = list(models)
    if again := [_outdated(model, model.rows.outdated) for model in models if model.rows.outdated]:
        yield f"Outdated and computed again, because a model that they read gains rows: {'; '.join(again)}."
    if left := [_outdated(model, model.rows.outdated_for_good) for model in models if model.rows.outdated_for_good]:
        yield (
            f"Outdated and not computed again, although a model that they read gains rows: {'; '.join(left)}. SQLMesh "
            "cannot compute a part of such a model again, or must not (`disable_restatement`). After the apply, "
            "restate these models for these ranges. If a model has `disable_restatement`, first set it to false, and "
            "apply that plan."
        )


def appended_again(models: Iterable[msg.PlannedModel], *, advises: bool = False) -> Iterator[str]:
    """The models whose runs append rows that their tables may have already. `advises`: the plan is not applied yet."""
    if named := [f"{model.name} ({rows_text(rows)})" for model in models if (rows := model.rows.appended_again)]:
        text = (
            f"The tables of these models stay, and their runs append rows that the tables may have already: "
            f"{listed(named)}. These rows will be there twice."
        )
        advice = " To compute new tables instead, set `forward_only false` in the kinds of these models."
        yield text + (advice if advises else "")


def _outdated(model: msg.PlannedModel, intervals: Sequence[msg.Interval]) -> str:
    return f"{model.name} for {ranges(intervals, None)}, of {', '.join(model.rows.because_of)}"


def computes(model: msg.PlannedModel, seconds: float | None) -> str:
    estimate = f", about {seconds:.0f} s" if seconds is not None else ""
    computed = f"{counted(model.rows.intervals, 'interval')}{estimate}" if model.rows.intervals else "nothing"
    if model.rows.waiting:
        awaited = listed([*map(unquoted, model.rows.waits_for), *model.rows.waits_for_models])
        computed += f"; {counted(model.rows.waiting, 'interval')} left out, waiting for {awaited}"
    if model.rows.kept is None:
        return computed
    if model.rows.kept.are_all_computed:
        return f"{computed}; all rows after the next tick of {model.rows.kept.cron}"
    return f"{computed}; existing rows stay"


def _tables(fqns: Iterable[str]) -> str:
    return ", ".join(map(unquoted, fqns))


def left_out(models: Iterable[msg.PlannedModel]) -> Iterator[str]:
    """Name the models of which a plan has left out intervals."""
    waiting = [model for model in models if model.rows.waiting]
    if not_loaded := [model for model in waiting if model.rows.waits_for]:
        tables = _tables(sorted({table for model in not_loaded for table in model.rows.waits_for}))
        yield f"Left out, because {tables} is not loaded: {_counts(not_loaded)}. Runs compute it when it is."
    if not_computed := [model for model in waiting if not model.rows.waits_for]:
        lacking = listed(sorted({name for model in not_computed for name in model.rows.waits_for_models}))
        yield f"Left out, because {lacking} is not computed: {_counts(not_computed)}. The next run computes both."


def not_ready(left_out: msg.LeftOut | None) -> Iterator[str]:
    """Name what signals held back while a plan was applied, by model. SQLMesh asks them only then."""
    if left_out is None:
        return
    named = listed([f"{name} ({ranges(left)})" for name, left in sorted(left_out.intervals.items())])
    if left_out.rounds:
        why = f"signals have released more in each of {left_out.rounds} rounds, and a plan has no more"
        yield f"Left out, because {why}: {named}. The next run computes it."
    else:
        yield f"Left out, because signals are not ready: {named}. Runs compute it when they are."


def grants_to_give(statements: Sequence[str]) -> Iterator[str]:
    """Name the grants that views have lost."""
    if statements:
        given = " ".join(statements)
        yield f"Views have lost grants, because SQLMesh has replaced them. To give them again, execute: {given}"


def _counts(models: Iterable[msg.PlannedModel]) -> str:
    return listed([f"{model.name} ({counted(model.rows.waiting, 'interval')})" for model in models])


def not_selected(plan: msg.PlanBuilt) -> str:
    """Name the changes of the files that are no part of the plan; empty if it has no selection."""
    if not plan.select:
        return ""
    others = listed([f"{name} ({_CHANGES[kind]})" for name, kind in plan.left_out.items()])
    return (
        f"Of the models, only {', '.join(plan.select)} is taken from the files. Changed and left out: "
        f"{others or 'nothing'}."
    )


def kept_rows(models: Iterable[msg.PlannedModel], environment: str) -> Iterator[str]:
    """The models whose rows are those of another definition after the apply, and until when."""
    keeping = [(model.rows.kept, model.name) for model in models if model.rows.kept]
    names = grouped((kept.due if kept.are_all_computed else None, name) for kept, name in keeping)
    for due, named in names.items():
        start = f"{environment.capitalize()} keeps the existing rows of {listed(named)}"
        if due is None:
            yield (
                f"{start}: runs compute later intervals by the new definition. To compute others, restate them, unless "
                "the model has `disable_restatement`."
            )
        else:
            yield f"{start} until the first run after {utc_text(due)} computes them."


def between_two_plans(plan: msg.PlanBuilt) -> str:
    """That a plan would finish an interrupted one; empty if it does not."""
    if plan.unfinished_plan_id is None or not plan.resumes:
        return ""
    return (
        f"Environment {plan.environment} is between two plans: plan {plan.unfinished_plan_id} has begun to change it "
        "and has not finished. To finish it, apply this plan. "
    ) + (
        f"It cannot be taken back: {'; '.join(plan.way_back_obstacles)}."
        if plan.way_back_obstacles
        else "To take it back, launch the apply job with `take_back: true`."
    )


def why_runs_wait(plan: msg.PlanBuilt) -> str:
    """What of a plan stops the runs, besides the promotion; empty if nothing does, or if they wait for each plan."""
    shared = [model.name for model in plan.models if model.table.is_shared and model.change in ("changed", "indirect")]
    following = [model.name for model in plan.models if model.rows.follows_promotion]
    if not plan.runs_go_on or not (shared or following):
        return ""
    if shared:
        return f"Runs wait until the plan is applied, because all versions of {listed(shared)} share one table."
    return f"Runs wait while the plan computes {listed(following)}, which SQLMesh does after the promotion."


def caught_up(went_on: msg.ConcurrentRuns | None, models: Iterable[msg.PlannedModel]) -> Iterator[str]:
    """How long runs had to wait for a plan, and what it has computed because of them."""
    if went_on is None:
        return
    names = {model.fqn: model.name for model in models}
    yield f"Runs continued; they were held up for {went_on.seconds:.1f} s at most."
    for why, by_model in (
        ("Computed again, because runs rewrote the source meanwhile", went_on.rewritten),
        ("Computed as well, because runs computed it for the old versions meanwhile", went_on.newer),
    ):
        if by_model:
            named = [f"{names.get(fqn, fqn)} ({ranges(intervals)})" for fqn, intervals in sorted(by_model.items())]
            yield f"{why}: {listed(named)}."
    if went_on.while_compared:
        computed = listed(went_on.while_compared)
        yield f"Runs have computed {computed} while it was compared, so its differences may be theirs."
