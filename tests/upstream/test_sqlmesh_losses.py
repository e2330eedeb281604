"""What a plan drops from existing tables: `migrations.py` predicts what SQLMesh does when it promotes."""

from pathlib import Path
from typing import Any

import pytest
from harness import CONFIG, OWN_MATERIALIZATION, at_night, rows_at_night
from mariadb import mariadb_server
from postgres import postgres_server
from sqlglot import exp
from sqlmesh import Context
from sqlmesh.core.plan import Plan, stages
from upstream.lossy_project import A, Project, lost_by

from dg_sqlmesh_component.capabilities.plans.worker.migrations import ExistingTable, migrated_snapshots
from dg_sqlmesh_component.protocol.errors import EnvironmentNotReadyError
from dg_sqlmesh_component.protocol.intervals import common

DEFAULT, IGNORE, ALLOW = "error", "ignore", "allow"


def model(
    columns: str, on_destructive_change: str = DEFAULT, *, name: str = "a", source: str = "", head: str = ""
) -> str:
    kind = (
        f"INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true, on_destructive_change {on_destructive_change})"
    )
    return f"MODEL (name t.{name}, kind {kind}{head}); SELECT CAST(@start_ds AS DATE) AS day, {columns} {source}"


def lost_days(plan: Plan) -> dict[str, float]:
    """How many days each changed model loses of those that prod has computed."""
    old = {new.node.name.split(".")[-1]: old.intervals for new, old in plan.context_diff.modified_snapshots.values()}
    return {
        name: sum(end - start for start, end in common(lost.own.intervals, old[name])) / 86_400_000
        for name, lost in lost_by(plan).items()
    }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = Project(tmp_path / "shop")
    monkeypatch.chdir(project.path)
    return project


Steps = tuple[str, ...]
CASES: dict[str, tuple[Steps, str, tuple[str, ...]]] = {
    "a column of the promoted definition": ((model("1 AS x, 2 AS y"),), model("1 AS x"), ("drops y",)),
    "a column that was dropped under ignore": (
        (model("1 AS x, 2 AS y", IGNORE), model("1 AS x", IGNORE)),
        model("1 AS x, 3 AS z"),
        ("drops y (not in the promoted definition)",),
    ),
    "a type that was changed under ignore": (
        (model("1.5::DOUBLE AS x", IGNORE), model("1::INT AS x", IGNORE)),
        model("1::INT AS x, 3 AS z"),
        ("drops x and adds it again as INT",),
    ),
    "nothing while ignore stays": ((model("1 AS x, 2 AS y", IGNORE),), model("1 AS x, 3 AS z", IGNORE), ()),
    "a column, with allow": (
        (model("1 AS x, 2 AS y", IGNORE), model("1 AS x", IGNORE)),
        model("1 AS x, 3 AS z", ALLOW),
        ("drops y (not in the promoted definition)",),
    ),
    "a column, although a type is unknown": (
        (model("list_distinct([1]) AS x, 2 AS y"),),
        model("list_distinct([1]) AS x"),
        ("drops y",),
    ),
    "a type, although another one is unknown": (
        (model("list_distinct([1]) AS x, 2 AS y"),),
        model("list_distinct([1]) AS x, 'a'::BLOB AS y"),
        ("drops y and adds it again as BLOB",),
    ),
    "the type of a model in another dialect": (
        (model("CAST(1 AS INT64) AS x", head=", dialect bigquery"),),
        model("CAST(1 AS FLOAT64) AS x", head=", dialect bigquery"),
        ("drops x and adds it again as DOUBLE",),
    ),
    "nothing of a quoted name in upper case": ((model('1 AS "X y"'),), model('1 AS "X y", 2 AS z'), ()),
    "nothing of an added column": ((model("1 AS x"),), model("1 AS x, 2 AS y"), ()),
}
BY_DAY = (
    "a column of the promoted definition",
    "a column that was dropped under ignore",
    "a type that was changed under ignore",
    "a type, although another one is unknown",
    "the type of a model in another dialect",
)
"""Of the kinds of changes, those that CI tries."""


@pytest.mark.parametrize(
    "case", [case if case in BY_DAY else pytest.param(case, marks=pytest.mark.night) for case in CASES]
)
def test_a_plan_names_what_sqlmesh_drops(project: Project, case: str) -> None:
    steps, edited, expected = CASES[case]
    for step in steps:
        project.apply(step)
    project.write(edited)

    assert project.losses() == ({A: expected} if expected else {})

    is_refused = bool(expected) and ALLOW not in edited
    assert ("destructive change" in project.apply_without_permission()) == is_refused


def test_a_column_that_somebody_added_to_the_table_of_an_indirectly_changed_model_is_named(project: Project) -> None:
    base = "MODEL (name t.base, kind VIEW); SELECT {value} AS x"
    project.write(base.format(value=1), "base")
    project.apply(model("x", source="FROM t.base"))
    project.query("ALTER TABLE {table} ADD COLUMN note TEXT")
    project.write(base.format(value=2), "base")

    assert project.losses() == {A: ("drops note (not in the promoted definition)",)}
    assert "drops column 'note'" in project.apply_without_permission()


def test_a_table_that_was_left_by_a_removed_model_is_compared(project: Project) -> None:
    """The version of a new forward-only model does not depend on its query."""
    project.apply(model("1 AS x, 2 AS y"))
    project.write("MODEL (name t.other, kind FULL); SELECT 1 AS x", "other")
    (project.path / "models" / "a.sql").unlink()
    with project.planned() as (plan, context):
        context.apply(plan)
    project.write(model("1 AS x"))

    assert project.losses() == {A: ("drops y (not in the promoted definition)",)}


def test_a_table_that_is_gone_loses_nothing(project: Project) -> None:
    project.apply(model("1 AS x, 2 AS y"))
    project.query("DROP TABLE {table}")
    project.write(model("1 AS x"))
    assert project.losses() == {}


def test_a_table_whose_columns_cannot_be_read_is_named(project: Project) -> None:
    project.apply(model("1 AS x, 2 AS y"))
    project.write(model("1 AS x"))
    with project.planned() as (plan, context):
        [snapshot] = plan.context_diff.snapshots.values()
        table = ExistingTable(
            snapshot, exp.to_table("t.dropped_meanwhile"), context.engine_adapter, context.state_reader
        )
        with pytest.raises(EnvironmentNotReadyError, match=r"of t\.a, and its columns cannot be read: .*not exist"):
            table.alterations(None)


def test_the_compared_tables_are_those_that_sqlmesh_migrates(project: Project) -> None:
    project.write("MODEL (name t.base, kind FULL); SELECT 1 AS x", "base")
    project.write(model("x", source="FROM t.base", name="b"), "b")
    project.write("MODEL (name t.total, kind FULL); SELECT count(*) AS rows FROM t.b", "total")
    project.apply(model("x", source="FROM t.base"))
    project.write("MODEL (name t.base, kind FULL); SELECT 2 AS x", "base")
    with project.planned() as (plan, context):
        found = stages.build_plan_stages(plan.to_evaluatable(), context.state_reader, context.default_catalog)
        [migrating] = [stage for stage in found if isinstance(stage, stages.MigrateSchemasStage)]
        assert {s.name for s in migrating.snapshots} == {
            s.name for s in migrated_snapshots(plan.context_diff.snapshots_by_name)
        }
        assert {s.node.name for s in migrating.snapshots} == {"t.a", "t.b", "t.base"}


def per_day(name: str, kind: str = "", head: str = "", x: int = 1) -> str:
    return f"""
    MODEL (name t.{name}, kind INCREMENTAL_BY_TIME_RANGE (time_column day{kind}){head});
    SELECT day::DATE AS day, {x} AS x FROM RANGE(DATE '2020-01-01', DATE '2040-01-01', INTERVAL 1 DAY) AS days(day)
    WHERE day BETWEEN @start_ds AND @end_ds
    """


def whole(name: str, kind: str = "FULL", head: str = "", x: int = 1) -> str:
    return f"MODEL (name t.{name}, kind {kind}{head}); SELECT CURRENT_DATE AS day, {x} AS x"


FORWARD_ONLY = ", forward_only true"
Lost = dict[str, tuple[str, str, int, int]]
LOST_DAYS: Lost = {
    "changed": (per_day("changed"), per_day("changed", x=2), 0, 6),
    "later_start": (per_day("later_start"), per_day("later_start", head=", start '2 days ago'", x=2), 4, 2),
    "earlier_end": (per_day("earlier_end"), per_day("earlier_end", head=", end '3 days ago'", x=2), 3, 3),
    "kept": (per_day("kept", FORWARD_ONLY), per_day("kept", FORWARD_ONLY, ", start '2 days ago'", 2), 0, 6),
    "kept_longer_cron": (
        per_day("kept_longer_cron", FORWARD_ONLY),
        per_day("kept_longer_cron", FORWARD_ONLY, ", cron '@yearly'"),
        0,
        6,
    ),
    "whole": (whole("whole"), whole("whole", head=", start '2 days ago'", x=2), 0, 1),
    "now_whole": (per_day("now_whole"), whole("now_whole", head=", start '2 days ago'"), 0, 1),
}
"""By model: the file before and after, the days that readers lose, and the rows that they see then."""

ALL_LOST: Lost = {
    "longer_cron": (per_day("longer_cron"), per_day("longer_cron", head=", cron '@yearly'"), 6, 0),
    "whole_longer_cron": (whole("whole_longer_cron"), whole("whole_longer_cron", head=", cron '@yearly'"), 6, 0),
    "now_view": (whole("now_view"), whole("now_view", "VIEW", ", cron '@yearly'"), 0, 1),
}
"""The same. If SQLMesh computes another model, it does not create these tables (`_create_tables_before_promotion`)."""


@pytest.mark.parametrize("models", [LOST_DAYS, *at_night(ALL_LOST)], ids=["some days", "all days"])
def test_a_plan_takes_the_days_from_readers_that_a_new_version_does_not_compute(project: Project, models: Lost) -> None:
    for name, (before, *_) in models.items():
        project.write(before, name)
    project.apply(whole("a"))
    for name, (_, after, *_) in models.items():
        project.write(after, name)
    with project.planned() as (plan, context):
        found = lost_days(plan)

        context.apply(plan)

        for name, (_, _, lost, rows) in models.items():
            assert found[name] == lost, name
            assert context.engine_adapter.fetchone(f"SELECT count(*) FROM t.{name}") == (rows,), name


QUERY = "SELECT id::INT AS id, value::TEXT AS value, day::DATE AS day FROM raw.kept"
CHANGED = QUERY.replace("id::INT", "-id::INT")
WITHIN, CHANGED_WITHIN = (f"{query} WHERE day BETWEEN @start_ds AND @end_ds" for query in (QUERY, CHANGED))
BY_COLUMN = "SCD_TYPE_2_BY_COLUMN (unique_key id, columns [value]{})"
BY_TIME = "SCD_TYPE_2_BY_TIME (unique_key id, updated_at_name day{})"
NEW_TABLE = ", forward_only false"
OF_ITSELF = f"SELECT id, value, day FROM ({QUERY} UNION SELECT id, value, day FROM t.of_itself) "
TYPES_OF_ITSELF = ", columns (id INT, value TEXT, day DATE)"
UNMANAGED = "INCREMENTAL_UNMANAGED (forward_only false{})"
OWN = "CUSTOM (materialization 'own'{})"
FINAL = ", disable_restatement true"


def of_kind(kind: str, query: str = QUERY, head: str = "") -> str:
    return f"MODEL (name t.{{name}}, kind {kind}{head}); {query}"


NOTHING, PAST, DAYS = "nothing", "rows that the source does not have any more", "days"
OfThePast = dict[str, tuple[str, str, str, bool]]
ROWS_OF_THE_PAST: OfThePast = {
    "by_column": (of_kind(BY_COLUMN.format(NEW_TABLE)), of_kind(BY_COLUMN.format(NEW_TABLE), CHANGED), PAST, False),
    "by_time": (of_kind(BY_TIME.format(NEW_TABLE)), of_kind(BY_TIME.format(NEW_TABLE), CHANGED), PAST, False),
    "restatable": (
        of_kind(BY_COLUMN.format(f"{NEW_TABLE}, disable_restatement false")),
        of_kind(BY_COLUMN.format(f"{NEW_TABLE}, disable_restatement false"), CHANGED),
        PAST,
        False,
    ),
    "in_place": (of_kind(BY_COLUMN.format("")), of_kind(BY_COLUMN.format(""), CHANGED), NOTHING, True),
    "of_another_kind": (
        of_kind(BY_TIME.format("")),
        of_kind("INCREMENTAL_BY_UNIQUE_KEY (unique_key id, forward_only true, on_destructive_change allow)"),
        NOTHING,
        True,
    ),
    "now_full": (of_kind(BY_COLUMN.format("")), of_kind("FULL"), PAST, False),
    "now_view": (of_kind(BY_COLUMN.format("")), of_kind("VIEW"), PAST, False),
    "of_itself": (
        of_kind("FULL", OF_ITSELF, TYPES_OF_ITSELF),
        of_kind("FULL", f"{OF_ITSELF} WHERE id < 9", TYPES_OF_ITSELF),
        PAST,
        False,
    ),
    "appended": (of_kind(UNMANAGED.format("")), of_kind(UNMANAGED.format(""), CHANGED), PAST, False),
    "final": (
        of_kind(f"INCREMENTAL_BY_TIME_RANGE (time_column day{FINAL})", WITHIN),
        of_kind("INCREMENTAL_BY_TIME_RANGE (time_column day)", CHANGED_WITHIN),
        PAST,
        False,
    ),
    "final_own": (of_kind(OWN.format(FINAL), WITHIN), of_kind("FULL"), PAST, False),
    # The other rows are not in the source any more, but their kind or the project says that SQLMesh may restate them.
    "own": (
        of_kind(OWN.format(""), WITHIN),
        of_kind(OWN.format(""), CHANGED_WITHIN, ", start '2 days ago'"),
        DAYS,
        False,
    ),
    "by_key": (of_kind("INCREMENTAL_BY_UNIQUE_KEY (unique_key day)"), of_kind("FULL"), NOTHING, False),
    "full": (of_kind("FULL"), of_kind("FULL", CHANGED), NOTHING, False),
}
"""By model: the file before and after, what readers lose, and whether they still see a row of the past."""

DEV_ONLY = "virtual_environment_mode: dev_only\n"
MODES: dict[str, tuple[OfThePast, str, str]] = {
    "full": (ROWS_OF_THE_PAST, "", ""),
    "dev_only": (
        {
            "in_place": (
                of_kind(BY_COLUMN.format(NEW_TABLE)),
                of_kind(BY_COLUMN.format(NEW_TABLE), CHANGED),
                NOTHING,
                True,
            ),
            "now_full": (of_kind(BY_TIME.format("")), of_kind("FULL"), PAST, False),
            "now_view": (of_kind(BY_TIME.format("")), of_kind("VIEW"), PAST, False),
        },
        DEV_ONLY,
        DEV_ONLY,
    ),
    "from full to dev_only": ({"same": (of_kind(BY_TIME.format("")),) * 2 + (PAST, False)}, "", DEV_ONLY),
    "from dev_only to full": ({"same": (of_kind(BY_TIME.format("")),) * 2 + (PAST, False)}, DEV_ONLY, ""),
}
"""By `virtual_environment_mode`: the models, and the configuration before and after."""


@pytest.mark.parametrize("mode", ["full", *at_night("dev_only", "from full to dev_only", "from dev_only to full")])
def test_a_new_table_loses_the_rows_that_nobody_can_compute_again(project: Project, mode: str) -> None:
    models, config, config_after = MODES[mode]
    (project.path / "config.yaml").write_text(CONFIG + config)
    (project.path / "materializations").mkdir()
    (project.path / "materializations" / "own.py").write_text(OWN_MATERIALIZATION)
    with project.planned() as (_, context):
        source = "SELECT 1 AS id, 'past' AS value, CURRENT_DATE - 5 AS day"
        context.engine_adapter.execute(f"CREATE SCHEMA raw; CREATE TABLE raw.kept AS {source}")
    for name, (before, *_) in models.items():
        project.write(before.format(name=name), name)
    with project.planned() as (_, context):
        context.plan("prod", execution_time="2 days ago", auto_apply=True, no_prompts=True, skip_tests=True)
        context.engine_adapter.execute("UPDATE raw.kept SET value = 'now', day = CURRENT_DATE - 2")
        context.run()
    for name, (_, after, *_) in models.items():
        project.write(after.format(name=name), name)
    (project.path / "config.yaml").write_text(CONFIG + config_after)
    with project.planned() as (plan, context):
        pasts = {name: past_rows(name, context) for name in models}
        found = {
            name: PAST if lost.own.of_past else DAYS if lost.own.intervals else NOTHING
            for name, lost in lost_by(plan).items()
        }

        context.apply(plan)

        assert pasts == {name: name != "full" for name in models}
        assert found == {name: lost for name, (_, _, lost, _) in models.items()}
        assert {name: past_rows(name, context) for name in models} == {
            name: is_past for name, (_, _, _, is_past) in models.items()
        }


def past_rows(name: str, context: Context) -> bool:
    return bool(context.engine_adapter.fetchall(f"SELECT 1 FROM t.{name} WHERE value = 'past'"))


# -- servers --------------------------------------------------------------------------------------

TYPES = (
    "CAST(1 AS INT) AS i, CAST(1 AS BIGINT) AS b, CAST(1 AS SMALLINT) AS s, CAST(1 AS DECIMAL(12, 3)) AS d, "
    "CAST('a' AS VARCHAR(9)) AS v, CAST('a' AS TEXT) AS t, CAST('a' AS CHAR(3)) AS c, CAST(1 AS DOUBLE) AS f, "
    "CAST('2026-01-01' AS TIMESTAMP) AS ts, TRUE AS yes, 1 + 1.5 AS sum, CAST(1 AS INT) AS \"Item no\""
)


@pytest.mark.parametrize(
    ("start", "options"), [(postgres_server, {"database": "losses"}), *rows_at_night((mariadb_server, {}))]
)
def test_names_of_types_on_a_server_are_no_changes(
    start: Any, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a type that may change is compared with the table: BIGINT of a definition is bigint(20) in MariaDB."""
    with start() as server:
        server.query("CREATE DATABASE losses")
        project = Project(tmp_path / "shop", server.config(**options))
        monkeypatch.chdir(project.path)
        project.apply(model(TYPES, IGNORE))
        project.write(model(TYPES + ", 1 AS added"))
        assert project.losses() == {}
        assert project.apply_without_permission() == ""
        project.write(model("1.5 AS i, " + TYPES.partition(", ")[2]))
        [found] = project.losses().values()
        dropped, changed = sorted(found)
        assert dropped == "drops added"
        assert changed.startswith("drops i and adds it again as ")
