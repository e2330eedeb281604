"""Drawn projects of SQL and Python models, read by Python and dbt assets: no asset that reads a change is missed."""

import random
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
from harness import CONFIG, write_project
from hypothesis import settings
from sqlmesh.core.context import Context  # noqa: TID251  # real models, as the worker has them
from unit.builders import manifest, model, project_assets
from unit.capabilities.plans.plans import plan

from dg_sqlmesh_component.capabilities.plans import messages as msg
from dg_sqlmesh_component.capabilities.plans.affected import Affected, affected_assets, lineage_in
from dg_sqlmesh_component.capabilities.plans.worker.column_reads import column_reads

DRAWN = settings().max_examples // 5
"""How many projects: each is loaded by SQLMesh."""
COLUMNS = ("c0", "c1", "c2", "c3", "c4")
PYTHON = """
from sqlmesh import model

@model("t.{name}", columns={{"k": "int"}}, kind="FULL", depends_on=["t.{parent}"])
def execute(context, **kwargs): ...
"""


@dataclass
class Node:
    """A drawn model.

    Attributes:
        columns: The columns of `base` that each column is made of; None if that cannot be known.
        rows: The columns of `base` that decide which rows there are.
    """

    name: str
    text: str
    parents: tuple[str, ...]
    columns: dict[str, frozenset[str] | None]
    rows: frozenset[str] | None

    def read_by(self, column: str) -> frozenset[str] | None:
        own = self.columns[column]
        return None if own is None or self.rows is None else own | self.rows


@dataclass
class Project:
    """A drawn project: models, and by asset, the model and the columns that it reads; None for a Python asset."""

    nodes: dict[str, Node] = field(default_factory=dict)
    assets: dict[str, tuple[str, tuple[str, ...] | None]] = field(default_factory=dict)
    changed: tuple[str, ...] = ()


def _union(sets: list[frozenset[str] | None]) -> frozenset[str] | None:
    return None if None in sets else frozenset().union(*[s for s in sets if s is not None])


def drawn_project(rng: random.Random) -> Project:
    selected = ", ".join(f"{number} AS {name}" for number, name in enumerate(COLUMNS))
    text = f"MODEL (name t.base, kind FULL); SELECT {selected}"
    base = Node("base", text, (), {column: frozenset({column}) for column in COLUMNS}, frozenset())
    project = Project({"base": base})
    for number in range(rng.randint(2, 5)):
        parent, name = rng.choice(list(project.nodes.values())), f"m{number}"
        kind = rng.choice(["sql", "sql", "sql", "star", "cte", "join", "union", "group", "python"])
        if kind == "python":
            text = PYTHON.format(name=name, parent=parent.name)
            project.nodes[name] = Node(name, text, (parent.name,), {"k": None}, None)
        else:
            project.nodes[name] = _drawn_sql(rng, project, name, parent, kind)
    for number in range(rng.randint(3, 6)):
        read = rng.choice(list(project.nodes.values()))
        columns = tuple(rng.sample(sorted(read.columns), min(len(read.columns), rng.randint(1, 2))))
        project.assets[f"a{number}"] = (read.name, columns if rng.random() < 0.8 else None)
    project.changed = tuple(rng.sample(COLUMNS, rng.randint(1, 2)))
    return project


def _drawn_sql(rng: random.Random, project: Project, name: str, parent: Node, kind: str) -> Node:
    names, start = sorted(parent.columns), f"MODEL (name t.{name}, kind FULL); "
    if kind == "star":
        query = f"SELECT * FROM t.{parent.name}"
        return Node(name, start + query, (parent.name,), dict(parent.columns), parent.rows)
    picks = [[rng.choice(names) for _ in range(rng.randint(1, 2))] for _ in range(rng.randint(1, 3))]
    columns = {f"o{i}": _union([parent.columns[c] for c in pick]) for i, pick in enumerate(picks)}
    selected = ", ".join(f"{' + '.join(f'p.{c}' for c in pick)} AS o{i}" for i, pick in enumerate(picks))
    rows, source = parent.rows, "p" if kind == "cte" else f"t.{parent.name} AS p"
    other, decides = rng.choice(list(project.nodes.values())), rng.choice(names)
    query = f"SELECT {selected} FROM {source}"
    if kind == "join":
        key = rng.choice(sorted(other.columns))
        query += f" JOIN t.{other.name} AS q ON p.{decides} = q.{key}"
        rows = _union([rows, parent.columns[decides], other.read_by(key)])
    elif kind == "group":
        query = f"SELECT max(p.{names[0]}) AS o0 FROM {source} GROUP BY p.{decides}"
        columns, rows = {"o0": parent.columns[names[0]]}, _union([rows, parent.columns[decides]])
    elif rng.random() < 0.5:
        query += f" WHERE p.{decides} > 0"
        rows = _union([rows, parent.columns[decides]])
    if kind == "cte":
        query = f"WITH p AS (SELECT {', '.join(names)} FROM t.{parent.name}) {query}"
    if kind == "union":
        of_other = sorted(other.columns)
        positions = [of_other[i % len(of_other)] for i in range(len(picks))]
        query += f" UNION ALL SELECT {', '.join(positions)} FROM t.{other.name}"
        columns = {f"o{i}": _union([columns[f"o{i}"], other.columns[c]]) for i, c in enumerate(positions)}
        rows = _union([rows, other.rows])
    parents = (parent.name, other.name) if kind in ("join", "union") else (parent.name,)
    return Node(name, start + query, tuple(dict.fromkeys(parents)), columns, rows)


def affected(project: Project, folder: Path) -> dict[str, Affected]:
    """What the report says, with what SQLMesh's models read and a real asset graph."""
    files = {
        f"models/{node.name}.{'py' if node.text.startswith(chr(10)) else 'sql'}": node.text
        for node in project.nodes.values()
    }
    context = Context(paths=[write_project(folder / "shop", files, CONFIG)])
    fqns = {loaded.name.removeprefix("t."): loaded.fqn for loaded in context.models.values()}
    reads = {loaded.fqn: column_reads(loaded) for loaded in context.models.values()}
    [catalog] = {fqn.split('"')[1] for fqn in fqns.values()}
    models = [
        model(f"{catalog}.t.{node.name}", [f"{catalog}.t.{parent}" for parent in node.parents])
        for node in project.nodes.values()
    ]
    assets = project_assets(manifest(*models))
    specs = [dg.AssetSpec(spec.key, deps=spec.deps) for spec in assets.specs.values()]
    for name, (read, columns) in project.assets.items():
        key = dg.AssetKey(["t", read])
        deps = {f"own_{c}": [dg.TableColumnDep(asset_key=key, column_name=c)] for c in columns or ()}
        metadata = {"dagster/column_lineage": dg.TableColumnLineage(deps_by_column=deps)} if columns else {}
        specs.append(dg.AssetSpec(name, deps=[key], metadata=metadata))
    graph = dg.Definitions(assets=specs).get_repository_def().asset_graph
    base = msg.PlannedModel(fqns["base"], "t.base", "changed", "breaking")
    shares = {column: 0.5 if column in project.changed else 1.0 for column in COLUMNS}
    compared = msg.ModelCompared(fqns["base"], "t.base", 5, 5, 0, 0, 3, shares)
    found = affected_assets(
        plan(base, reads=reads), [compared], assets, graph, lambda key: lineage_in(graph.get(key).metadata)
    )
    return {asset.asset: asset for asset in found[fqns["base"]]}


def below(project: Project, name: str) -> bool:
    """Whether a model is downstream of `base`, or `base` itself."""
    return name == "base" or any(below(project, parent) for parent in project.nodes[name].parents)


def test_no_asset_that_reads_a_change_is_missed_and_no_other_one_is_named(tmp_path: Path) -> None:
    read_a_change = 0
    for seed in range(DRAWN):
        project = drawn_project(random.Random(seed))
        found = affected(project, tmp_path / str(seed))
        for name, (read, columns) in project.assets.items():
            node = project.nodes[read]
            traced = _union([node.read_by(column) for column in columns]) if columns else None
            said = found[name].columns if below(project, read) else ()
            if traced is None:  # a Python model or asset is on the way: what it reads is not known
                assert said in (None, ()), (seed, name)
            else:
                assert said == tuple(sorted(traced & set(project.changed))), (seed, name, node.text)
                read_a_change += bool(said)
    assert read_a_change > DRAWN
