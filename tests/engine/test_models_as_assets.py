"""Models of every kind become assets with their properties."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster.components.core.component_tree import ComponentTreeException
from harness import CONFIG, REPOSITORY, dagster_project, plan, query, sqlmesh, write_project

from dg_sqlmesh_component.protocol.errors import ConfigurationError

ZOO = {
    "external_models.yaml": """
- name: raw.orders
  description: Lands from elsewhere.
  columns: {id: int, placed_at: timestamp, note: text}
""",
    "seeds/colours.csv": "id,colour\n1,red\n",
    "models/colours.sql": """
MODEL (name zoo.colours, kind SEED (path '../seeds/colours.csv'), columns (id INT, colour TEXT));
""",
    "models/orders.sql": """
MODEL (
  name zoo.orders,
  kind INCREMENTAL_BY_TIME_RANGE (time_column placed_on /* local time */, lookback 2, batch_size 10),
  description 'One row per order.',
  owner ada,
  cron '0 6 * * *',
  start '2026-01-02',
  grain id,
  references (note),
  partitioned_by placed_on /* by day */,
  tags [finance, 'dagster:group_name:money', 'dagster:owner:team:ops', 'dagster:kind:iceberg',
        'dagster:tag:tier=a:b=c', 'needs work!'],
  column_descriptions (id = 'The order''s number.'),
  audits (not_null(columns := (id)))
);
SELECT id::INT AS id, placed_at::DATE AS placed_on, /* free text */ note::TEXT AS note
FROM raw.orders WHERE placed_at BETWEEN @start_ts AND @end_ts
""".replace("tier=a:b=c", "tier=gold"),
    "models/view.sql": "MODEL (name zoo.as_view, kind VIEW, owner 'team:data'); SELECT id FROM zoo.orders",
    "models/history.sql": """
MODEL (name zoo.history, kind SCD_TYPE_2_BY_COLUMN (unique_key id, columns [note]), owner 'bea@example.com');
SELECT id, note FROM zoo.orders
""",
    "models/unique.sql": """
MODEL (name zoo.by_key, kind INCREMENTAL_BY_UNIQUE_KEY (unique_key id), owner ada);
SELECT id, note FROM zoo.orders
""",
    "models/inner.sql": """
MODEL (name zoo.inner_part, kind EMBEDDED); SELECT id FROM zoo.orders JOIN raw.undeclared USING (id)
""",
    "models/outer.sql": "MODEL (name zoo.outer_part, kind FULL); SELECT id FROM zoo.inner_part",
    "models/blueprint.sql": """
MODEL (name @customer.spots, kind FULL, blueprints ((customer := acme), (customer := umbrella)));
SELECT @customer AS customer, id FROM zoo.colours
""",
    "audits/off.sql": "AUDIT (name switched_off, standalone true, skip true); SELECT id FROM zoo.orders",
    "models/three_parts.sql": "MODEL (name warehouse.far.away, kind FULL); SELECT 1 AS id",
    "models/upper.sql": "MODEL (name ZOO.UPPER_CASE, kind FULL); SELECT 1 AS id",
    "models/quoted.sql": 'MODEL (name zoo."With Space-and-dash.dot", kind FULL); SELECT 1 AS "Some Column"',
    "models/one_dash.sql": 'MODEL (name zoo."a-b", kind FULL); SELECT 1 AS id',
    "models/one_underscore.sql": "MODEL (name zoo.a_b, kind FULL); SELECT 1 AS id",
    "models/in_python.py": """
import typing as t
import pandas as pd
from sqlmesh import model

@model("zoo.in_python", kind="FULL", columns={"id": "int"}, column_descriptions={"id": "A number."},
       description="From Python.", depends_on=["zoo.colours"], tags=["dagster:key_prefix:lab/x"])
def execute(context, start, end, execution_time, **kwargs: t.Any) -> pd.DataFrame:
    return pd.DataFrame({"id": [1]})
""",
}
USERS = "\nusers:\n  - username: ada\n    email: ada@example.com\n"


@dataclass
class LoadedProject:
    project: Path
    definitions: dg.Definitions

    def spec(self, key: str) -> dg.AssetSpec:
        return next(spec for spec in self.definitions.resolve_all_asset_specs() if spec.key.to_user_string() == key)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedProject]:
    folder = tmp_path_factory.mktemp("shapes")
    project = write_project(folder / "zoo", ZOO, CONFIG + USERS)
    with dagster_project(folder) as dagster:
        dagster.add_component("zoo", {"project": str(project)})
        yield LoadedProject(project, dagster.refresh())


def test_every_kind_of_model_is_an_asset_named_by_schema_and_name(zoo: LoadedProject) -> None:
    keys = {spec.key.to_user_string() for spec in zoo.definitions.resolve_all_asset_specs() if "sqlmesh" in spec.kinds}
    assert keys == {
        "zoo/colours", "zoo/orders", "zoo/as_view", "zoo/history", "zoo/by_key", "zoo/outer_part", "acme/spots",
        "umbrella/spots", "far/away", "zoo/upper_case", "zoo/with space-and-dash.dot", "zoo/a-b", "zoo/a_b",
        "lab/x/zoo/in_python",
    }  # fmt: skip


def test_skipped_standalone_audit_has_no_check(zoo: LoadedProject) -> None:
    checks = {check.name for check in zoo.definitions.resolve_asset_graph().asset_check_keys}
    assert checks == {"sqlmesh_execution_status", "not_null_id"}


def test_external_and_undeclared_tables_are_only_upstream_dependencies(zoo: LoadedProject) -> None:
    orders, outer = zoo.spec("zoo/orders"), zoo.spec("zoo/outer_part")
    assert {dep.asset_key.to_user_string() for dep in orders.deps} == {"raw/orders"}
    assert {dep.asset_key.to_user_string() for dep in outer.deps} == {"zoo/orders", "raw/undeclared"}
    [dep] = orders.deps
    assert dep.metadata["dagster/table_name"] == "warehouse.raw.orders"


def test_properties_of_a_model_become_properties_of_its_asset(zoo: LoadedProject) -> None:
    spec = zoo.spec("zoo/orders")
    assert spec.description == "One row per order."
    assert spec.group_name == "money"
    assert spec.owners == ["team:ops"]
    assert spec.kinds == {"sqlmesh", "duckdb", "iceberg"}
    assert {key: value for key, value in spec.tags.items() if not key.startswith("dagster/")} == {
        "sqlmesh/kind": "incremental_by_time_range",
        "finance": "", "tier": "gold", "needs_work": "",
    }  # fmt: skip
    assert spec.code_version
    assert spec.metadata["dagster/table_name"] == "warehouse.zoo.orders"
    assert spec.metadata["dagster/column_schema"] == dg.TableSchema(
        columns=[
            dg.TableColumn("id", "INT", "The order's number."),
            dg.TableColumn("placed_on", "DATE"),
            dg.TableColumn("note", "TEXT"),
        ]
    )
    expected = {
        "cron": "0 6 * * *", "start": "2026-01-02",
        "grain": "id", "references": "note", "lookback": 2, "batch_size": 10, "owner": "ada",
        "interval_unit": "day",
    }  # fmt: skip
    assert {name: spec.metadata[f"sqlmesh/{name}"] for name in expected} == expected
    assert spec.metadata["sqlmesh/partitioned_by"] == "placed_on"
    assert spec.metadata["sqlmesh/time_column"] == "placed_on"


def test_owner_in_users_of_the_project_becomes_email(zoo: LoadedProject) -> None:
    assert [zoo.spec(key).owners for key in ("zoo/by_key", "zoo/history")] == [["ada@example.com"], ["bea@example.com"]]


MACRO_WITH_HELPER = """
from sqlmesh import macro
from shared_helper import VALUE


@macro()
def value(evaluator):
    return f"'{VALUE}'"
"""
TWIN_MODEL = "MODEL (name {name}.one, kind FULL); SELECT @value() AS helper, @VAR('from_env') AS from_env"


def _write_twin_project(folder: Path, name: str) -> Path:
    files = {
        "models/__init__.py": "",
        "models/one.sql": TWIN_MODEL.format(name=name),
        "macros/__init__.py": "",
        "macros/value.py": MACRO_WITH_HELPER,
        "shared_helper.py": f"VALUE = 'helper of {name}'\n",
        ".env": f"FROM_ENV=env of {name}\n",
    }
    return write_project(folder / name, files, CONFIG + "variables:\n  from_env: {{ env_var('FROM_ENV') }}\n")


# More than ten seconds: a host process of its own, and two plans that load other packages.
@pytest.mark.night(
    "engine/test_outcome_rows.py::test_worker_never_imports_dagster",
    "test_doors.py::test_loading_definitions_does_not_import_sqlmesh",
    "engine/test_defs_yaml.py::test_project_env_reaches_only_sqlmesh",
)
def test_two_components_with_same_file_and_package_names_do_not_collide(tmp_path: Path) -> None:
    """The host process has its own packages `models` and `macros` and its own FROM_ENV."""
    projects = [_write_twin_project(tmp_path, name) for name in ("left_shop", "right_shop")]
    for project in projects:
        plan(project)
    host = tmp_path / "host"
    for package in ("models", "macros"):
        (host / package).mkdir(parents=True)
        (host / package / "__init__.py").write_text("WHOSE = 'the host'\n")
    with dagster_project(tmp_path) as dagster:
        for project in projects:
            dagster.add_component(project.name, {"project": str(project)})
        script = (
            "import json, os, sys\n"
            f"sys.path.insert(0, {str(REPOSITORY / 'tests')!r})\n"
            "import models, macros, dagster as dg, harness\nfrom pathlib import Path\n"
            f"project = harness.DagsterProject(Path({str(dagster.root)!r}), dg.DagsterInstance.get())\n"
            "project.refresh(); record = project.launch('in_process')\n"
            "names = [name for name in sys.modules if name.split('.')[0] in ('sqlmesh', 'sqlglot')]\n"
            "print(json.dumps([sorted(record.materializations), record.failures, os.environ['FROM_ENV'], names]))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=host,
            env={**os.environ, "DAGSTER_HOME": str(dagster.instance.root_directory), "FROM_ENV": "env of the host"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        materialized, failures, from_env, sqlmesh_modules = json.loads(done.stdout.splitlines()[-1])
    assert not failures
    assert materialized == ["left_shop/one", "right_shop/one"]
    assert from_env == "env of the host"
    assert not sqlmesh_modules
    for project in projects:
        assert query(project, f"SELECT helper, from_env FROM {project.name}.one") == [
            (f"helper of {project.name}", f"env of {project.name}")
        ]
    assert not list(host.rglob("*.duckdb"))


def test_component_per_repository_on_shared_state_has_only_its_own_models(tmp_path: Path) -> None:
    """SQLMesh adds the models of the other repository from the state. The `project` of a model does not matter."""
    config = CONFIG.replace("warehouse.duckdb", str(tmp_path / "warehouse.duckdb"))
    models = {"core": "SELECT 1 AS id", "shop": "SELECT id FROM t.core"}
    projects = {
        name: write_project(
            tmp_path / name,
            {f"models/{name}.sql": f"MODEL (name t.{name}, kind FULL); {query}"},
            json.dumps({"project": name, **yaml.safe_load(config)}),
        )
        for name, query in models.items()
    }
    (projects["shop"] / "models/nameless.py").write_text(MODEL_WITHOUT_PROJECT)
    paths = [argument for project in projects.values() for argument in ("-p", str(project))]
    sqlmesh(projects["core"], *paths, "plan", "--auto-apply", "--no-prompts", "--execution-time", "3 days ago")
    with dagster_project(tmp_path) as dagster:
        for name, project in projects.items():
            dagster.add_component(name, {"project": str(project)})
        dagster.refresh()
        record = dagster.launch()
        assert record.step_keys == ["sqlmesh_core", "sqlmesh_shop"]
        events = record.events(dg.DagsterEventType.ASSET_MATERIALIZATION)
        assert {(event.asset_key.to_user_string(), event.step_key) for event in events} == {
            ("t/core", "sqlmesh_core"),
            ("t/shop", "sqlmesh_shop"),
            ("t/nameless", "sqlmesh_shop"),
        }
        # The plan of the other team changes no file of the shop.
        (projects["core"] / "models/core.sql").write_text("MODEL (name t.core, kind FULL); SELECT 1 AS id, 2 AS more")
        (projects["shop"] / "models/shop.sql").write_text("MODEL (name t.shop, kind FULL); SELECT * FROM t.core")
        assert columns_of(dagster.refresh(), "shop") == ["id"]
        sqlmesh(projects["core"], "plan", "--auto-apply", "--no-prompts")
        assert columns_of(dagster.refresh(), "shop") == ["id", "more"]


MODEL_WITHOUT_PROJECT = """
import pandas as pd
from sqlmesh import model


@model("t.nameless", kind="FULL", columns={"id": "int"}, project="")  # as in a dbt project, whatever its configuration
def execute(context, **_):
    return pd.DataFrame([{"id": 1}])
"""


def columns_of(definitions: dg.Definitions, model: str) -> list[str]:
    schema = definitions.resolve_asset_graph().get(dg.AssetKey(["t", model])).metadata["dagster/column_schema"]
    return [column.name for column in schema.columns]


def test_one_project_in_two_environments_needs_a_prefix_and_the_error_shows_it(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", {"models/one.sql": "MODEL (name t.one, kind FULL); SELECT 1 AS id"})
    environment = {"path": str(project), "environment": "dev"}
    with dagster_project(tmp_path) as dagster:
        dagster.add_component("shop", {"project": str(project)})
        dagster.add_component("shop_dev", {"project": environment})
        with pytest.raises(ComponentTreeException) as refused:
            dagster.refresh()
        assert isinstance(refused.value.__cause__, ConfigurationError)
        refusal = str(refused.value.__cause__)
        assert re.match(r"\S+defs/shop and \S+defs/shop_dev both make the asset t/one\.", refusal)
        [(_, prefix)] = yaml.safe_load(refusal.partition("defs.yaml:")[2]).items()
        dagster.add_component("shop_dev", {"project": environment, **prefix})
        keys = {key.to_user_string() for key in dagster.refresh().resolve_asset_graph().get_all_asset_keys()}
    assert keys == {"t/one", "dev/t/one"}
