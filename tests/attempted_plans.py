"""Draw the projects of tests/soak/random_attempts.py, and changes of them."""

import random
from collections.abc import Callable
from dataclasses import replace

from story_projects import Audit, Model, Project

KINDS = ("days", "days", "kept", "full", "full", "view", "keyed", "history")
"""A `kept` model has days, and is forward-only."""
BATCHED = ("days", "keyed")
"""The kinds with a `batch_size`. SQLMesh refuses one of the others."""


def draw_project(rng: random.Random) -> Project:
    project = Project({}, before_all=(1,) if rng.random() < 0.5 else (), after_all=(1,) if rng.random() < 0.7 else ())
    for number in range(rng.randint(3, 6)):
        project = project.with_model(draw_model(rng, project, f"m{number}"))
    if rng.random() < 0.2:
        project = draw_standalone(rng, project)
    return project


def draw_standalone(rng: random.Random, project: Project) -> Project:
    name = rng.choice(list(project.models))
    number = len(project.standalone) + rng.randint(1, 99)
    return replace(project, standalone={**project.standalone, name: Audit(f"alone_{name}_{number}", False, 60)})


def draw_model(rng: random.Random, project: Project, name: str) -> Model:
    drawn = "seed" if project.models and rng.random() < 0.15 else rng.choice(KINDS)
    kind = drawn.replace("kept", "days")
    # Rows of a SCD_TYPE_2 model have its own columns, and a seed has no column of time: nobody reads them here.
    read = [f"t.{model.name}" for model in project.models.values() if model.kind != "history"]
    reads = {"history": "src.a", "seed": ""}.get(kind, rng.choice([*read, "src.a"]))
    audits = tuple(draw_audit(rng, name) for _ in range(rng.choice((0, 0, 1))))
    return Model(
        name,
        kind,
        (reads,),
        shift=rng.randint(0, 9) if kind != "seed" else 0,
        columns=int(kind != "seed" and rng.random() < 0.2),
        batch_size=rng.choice((0, 1, 2)) if kind in BATCHED else 0,
        forward_only=True if drawn == "kept" else None,
        audits=audits,
        statements=(rng.randint(0, 1), 1, rng.randint(0, 1)),
        values=tuple(rng.randint(1, 99) for _ in range(3)) if kind == "seed" else (),
    )


def draw_audit(rng: random.Random, name: str) -> Audit:
    is_blocking = rng.random() < 0.7
    return Audit(f"audit_{name}_{rng.randint(1, 999)}", is_blocking, 1_000_000 if is_blocking else 60)


# -- a change --------------------------------------------------------------------------------------


def draw_change(rng: random.Random, project: Project) -> tuple[Project, list[str]]:
    """Change one to three things. Return the new project, and what has changed."""
    changed: list[str] = []
    for _ in range(rng.choice((1, 2, 2, 3, 4))):
        what = rng.choice(list(CHANGES))
        project, name = CHANGES[what](rng, project)
        changed.append(f"{what} {name}".strip())
    return project, changed


def _some(rng: random.Random, project: Project, *but: str) -> Model:
    models = [model for model in project.models.values() if model.kind not in but]
    return rng.choice(models or [draw_model(rng, project, f"m{len(project.models)}")])


def _expression(rng: random.Random, project: Project) -> tuple[Project, str]:
    model = _some(rng, project)
    if model.kind == "seed":
        return project.with_model(replace(model, values=(*model.values[1:], rng.randint(1, 99)))), model.name
    changed = replace(model, shift=model.shift + rng.randint(1, 9))
    return project.with_model(replace(changed, tested=None if model.tested is None else changed.shift)), model.name


def _column(rng: random.Random, project: Project) -> tuple[Project, str]:
    model = _some(rng, project, "seed")
    if model.kind == "seed":
        return _expression(rng, project)
    return project.with_model(replace(model, columns=1 - model.columns)), model.name


def _new_model(rng: random.Random, project: Project) -> tuple[Project, str]:
    number = max([int(name[1:]) for name in project.models], default=0) + 1
    return project.with_model(model := draw_model(rng, project, f"m{number}")), model.name


def _removed_model(rng: random.Random, project: Project) -> tuple[Project, str]:
    if not (leaves := project.leaves()) or len(project.models) < 3:
        return _new_model(rng, project)
    leaf = rng.choice(leaves)
    return project.without(leaf.name), leaf.name


def _new_audit(rng: random.Random, project: Project) -> tuple[Project, str]:
    model = _some(rng, project)
    return project.with_model(replace(model, audits=(*model.audits, draw_audit(rng, model.name)))), model.name


def _new_standalone(rng: random.Random, project: Project) -> tuple[Project, str]:
    return draw_standalone(rng, project), ""


def _statement(rng: random.Random, project: Project) -> tuple[Project, str]:
    model, place = _some(rng, project, "seed"), rng.choice((0, 1, 2, 2))
    statements = [number + (place == index) for index, number in enumerate(model.statements)]
    return project.with_model(replace(model, statements=(statements[0], statements[1], statements[2]))), model.name


def _all_statements(rng: random.Random, project: Project) -> tuple[Project, str]:
    if rng.random() < 0.4:
        return replace(project, before_all=(*project.before_all, len(project.before_all) + 1)), "before"
    return replace(project, after_all=(*project.after_all, len(project.after_all) + 1)), "after"


def _owner(rng: random.Random, project: Project) -> tuple[Project, str]:
    model = _some(rng, project)
    return project.with_model(replace(model, owner=f"eve{rng.randint(1, 99)}")), model.name


def _kind(rng: random.Random, project: Project) -> tuple[Project, str]:
    model = _some(rng, project, "seed", "history")
    if model.kind in ("seed", "history") or model.forward_only:
        return _expression(rng, project)
    kind = rng.choice([kind for kind in ("days", "full", "view", "keyed") if kind != model.kind])
    batch_size = model.batch_size if kind in BATCHED else 0
    return project.with_model(replace(model, kind=kind, batch_size=batch_size)), f"{model.name} to {kind}"


CHANGES: dict[str, Callable[[random.Random, Project], tuple[Project, str]]] = {
    "expression": _expression,
    "expression of": _expression,
    "column": _column,
    "new model": _new_model,
    "removed model": _removed_model,
    "new audit": _new_audit,
    "new audit of": _new_audit,
    "standalone audit": _new_standalone,
    "statement": _statement,
    "all statements": _all_statements,
    "owner": _owner,
    "kind": _kind,
}
