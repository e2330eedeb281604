"""PostgreSQL drops the views of others that read a view which SQLMesh replaces. No run does so, or unapproved plan."""

import dagster as dg
import pytest
from engine.plan_jobs import APPLY, PLAN, change, edit_config, failure_of, launch, planned, report_of
from engine.preview_lab import CLOSE, PREVIEW
from harness import CONFIG, NewShop, RunRecord, Shop, at_night, needs_previews
from postgres import Server

ORDERS = "MODEL (name t.orders, kind FULL{more}); SELECT 1 AS id, {amount} AS amount"
STOCK = "MODEL (name t.stock, kind FULL); SELECT 1 AS id"
SEEN = "MODEL (name t.seen, kind VIEW); SELECT id AS seen FROM t.stock"
OF_SEEN = "MODEL (name t.of_seen, kind VIEW); SELECT seen FROM t.seen"
OF_OTHERS = (
    "CREATE SCHEMA bi",
    'CREATE VIEW bi."Daily orders" AS SELECT amount FROM t.orders',
    'CREATE MATERIALIZED VIEW bi.months AS SELECT sum(amount) FROM bi."Daily orders"',
    "CREATE VIEW bi.stock AS SELECT id FROM t.stock",
)
DEPENDENTS = ["bi.Daily orders", "bi.months"]


def new_database(server: Server) -> str:
    """Create an empty database, and return the configuration of a project in it."""
    server.query("DROP DATABASE IF EXISTS shop WITH (FORCE)")
    server.query("CREATE DATABASE shop")
    return server.config("shop")


@pytest.fixture
def shop(new_shop: NewShop, server: Server) -> Shop:
    files = {"models/orders.sql": ORDERS.format(amount=2, more=""), "models/stock.sql": STOCK}
    shop = new_shop(files, new_database(server), deploy=True)
    for statement in OF_OTHERS:
        server.query(statement, "shop")
    return shop


def views(server: Server) -> set[str]:
    rows = server.query(
        "SELECT viewname FROM pg_views WHERE schemaname = 'bi' UNION SELECT matviewname FROM pg_matviews", "shop"
    )
    return {name for (name,) in rows}


@pytest.mark.advice("To apply the plan anyway, name these views in `allow_drop_dependents`")
def test_views_of_others_are_dropped_only_if_the_run_config_names_them(shop: Shop, server: Server) -> None:
    change(shop, orders=ORDERS.format(amount=3, more=""))
    report = planned(shop)
    assert [model["dependents"] for model in report["models"]] == [DEPENDENTS]
    [refusal] = report["refusals"]
    assert (refusal["kind"], refusal["models"]) == ("drops_dependents", ["t.orders"])
    assert "with t.orders: bi.Daily orders, bi.months. Nothing creates them again, so keep" in refusal["message"]
    assert "--job sqlmesh_shop_apply" in report["command"]
    assert '"allow_drop_dependents": ["bi.Daily orders", "bi.months"]' in report["command"]

    server.query("CREATE VIEW bi.late AS SELECT id FROM t.orders", "shop")
    refused = launch(shop, APPLY, digest=report["digest"], allow_drop_dependents=DEPENDENTS)
    assert "with t.orders: bi.late. Nothing" in failure_of(refused)
    assert views(server) == {"Daily orders", "late", "months", "stock"}
    server.query("DROP VIEW bi.late", "shop")

    launch(shop, APPLY, digest=report["digest"], allow_drop_dependents=DEPENDENTS).succeeded()
    assert server.query("SELECT amount FROM t.orders", "shop") == [(3,)]
    assert views(server) == {"stock"}, "SQLMesh #5954"


@pytest.mark.night(
    "test_views_of_others_are_dropped_only_if_the_run_config_names_them",
    "engine/test_previews.py::test_closing_a_preview_leaves_nothing_and_only_its_own",
)
@needs_previews
@pytest.mark.advice("If it is a preview, close it first, or accept the loss: its next preview creates its views again.")
def test_views_of_previews_are_named_with_their_environment_and_the_next_preview_creates_them_again(
    new_shop: NewShop, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preview of changed metadata shows the view of prod's version, and reading views without a change count too."""
    seen, owned = SEEN, "kind VIEW, owner {}".format
    files = {"models/stock.sql": STOCK, "models/seen.sql": seen, "models/of_seen.sql": OF_SEEN}
    preview = {"environment": "pr_{{ env.PULL_REQUEST }}"}
    shop = new_shop(files, new_database(server), deploy=True, preview=preview, planned_at=None)
    shop.plan(at=None)
    of_previews = "SELECT schemaname || '.' || viewname FROM pg_views WHERE schemaname LIKE 't\\_\\_pr%' ORDER BY 1"

    def previewed(pull_request: int, owner: str) -> None:
        monkeypatch.setenv("PULL_REQUEST", str(pull_request))
        change(shop, seen=seen.replace("kind VIEW", owned(owner)))
        launch(shop, PREVIEW).succeeded()

    previewed(1, "ann")
    server.query("CREATE SCHEMA bi; CREATE VIEW bi.seen AS SELECT seen FROM t.seen", "shop")
    report = planned(shop)

    views = ["t__pr_1.of_seen", "t__pr_1.seen"]
    found = {model["name"]: (model["change"], model["dependents"]) for model in report["models"]}
    assert found == {"t.seen": ("metadata", ["bi.seen", *views]), "t.of_seen": (None, views[:1])}
    [refusal] = report["refusals"]
    assert (
        "Nothing creates bi.seen again, so keep their definitions. t__pr_1.of_seen, t__pr_1.seen are views of "
        in (refusal["message"])
    )
    launch(shop, APPLY, digest=report["digest"], allow_drop_dependents=["bi.seen", *views]).succeeded()
    assert server.query(of_previews, "shop") == []
    previewed(1, "eve")
    assert server.query(of_previews, "shop") == [(view,) for view in views]
    launch(shop, CLOSE).succeeded()
    assert planned(shop)["refusals"] == [], "a preview that is closed has no views"


@pytest.mark.parametrize("after_all", ["SELECT 1", *at_night("SELECT no_such_function()")])
def test_grants_that_somebody_gave_by_hand_are_named_with_the_statements_that_give_them_again(
    shop: Shop, server: Server, after_all: str
) -> None:
    """Without those on a view that stays, and without one that the model itself gives again."""
    roles = ('DROP ROLE IF EXISTS reader, "BI tool"', "CREATE ROLE reader", 'CREATE ROLE "BI tool"')
    grants = (
        "GRANT SELECT ON t.orders TO reader;",
        'GRANT SELECT (amount) ON t.orders TO "BI tool" WITH GRANT OPTION;',
        "GRANT DELETE ON t.orders TO PUBLIC;",
        "GRANT SELECT ON t.stock TO reader;",
    )
    for statement in (*roles, *grants, "DROP SCHEMA bi CASCADE"):
        server.query(statement, "shop")
    virtual_update = "; ON_VIRTUAL_UPDATE_BEGIN; GRANT DELETE ON @this_model TO PUBLIC; ON_VIRTUAL_UPDATE_END"
    change(shop, orders=ORDERS.format(amount=3, more="") + virtual_update)

    edit_config(f"after_all: [{after_all}]\n")(shop)

    record = launch(shop, APPLY, digest=planned(shop)["digest"])

    text = record.log if record.status is dg.DagsterRunStatus.SUCCESS else failure_of(record)
    assert f"To give them again, execute: {grants[1]} {grants[0]}" in text
    lost = text.split("Views have lost grants")[1]
    assert "stock" not in lost
    assert "DELETE" not in lost


@pytest.mark.advice("that other views read: {}. Drop or change those views first.")
def test_a_view_that_others_read_cannot_be_removed(shop: Shop, server: Server) -> None:
    (shop.project / "models" / "orders.sql").unlink()
    report = planned(shop)
    [refusal] = report["refusals"]
    assert (refusal["kind"], refusal["models"]) == ("has_dependents", ["t.orders"])
    assert report["command"] is None
    assert "t.orders is read by bi.Daily orders, bi.months. Drop or change those views first." in refusal["message"]
    for view in ('bi."Daily orders" CASCADE', "bi.stock"):
        server.query(f"DROP VIEW {view}", "shop")
    assert planned(shop)["refusals"] == []


@pytest.mark.night("test_views_of_others_are_dropped_only_if_the_run_config_names_them")
def test_a_change_of_metadata_replaces_the_view_too(shop: Shop, server: Server) -> None:
    change(shop, orders=ORDERS.format(amount=2, more=", owner ann"))
    report = planned(shop)
    assert [(model["change"], model["dependents"]) for model in report["models"]] == [("metadata", DEPENDENTS)]
    launch(shop, APPLY, digest=report["digest"], allow_drop_dependents=DEPENDENTS)
    assert views(server) == {"stock"}


def test_tables_of_mode_dev_only_stay_so_only_their_removal_for_a_view_is_refused(
    new_shop: NewShop, server: Server
) -> None:
    """SQLMesh alters or fills such a table, and leaves the table of a removed model. It cannot drop one for a view."""
    orders = ORDERS.format(amount=2, more="")
    shown = orders.replace("orders", "shown").replace("FULL", "VIEW")
    config = f"{new_database(server)}virtual_environment_mode: dev_only\n"
    seen = "MODEL (name t.seen, kind VIEW); SELECT id FROM t.orders"
    files = {"models/orders.sql": orders, "models/stock.sql": STOCK, "models/shown.sql": shown, "models/seen.sql": seen}
    shop = new_shop(files, config, deploy=True)
    for statement in (*OF_OTHERS, "CREATE VIEW bi.shown AS SELECT id FROM t.shown"):
        server.query(statement, "shop")
    (shop.project / "models" / "stock.sql").unlink()
    change(shop, orders=ORDERS.format(amount=3, more=""), shown=shown.replace("2 AS", "3 AS"))

    report = planned(shop)
    launch(shop, APPLY, digest=report["digest"], allow_drop_dependents=["bi.shown"]).succeeded()

    found = {model["name"]: model["dependents"] for model in report["models"]}
    assert found == {"t.orders": None, "t.seen": [], "t.stock": None, "t.shown": ["bi.shown"]}
    assert [(refusal["kind"], refusal["models"]) for refusal in report["refusals"]] == [
        ("drops_dependents", ["t.shown"])
    ]
    assert views(server) == {"Daily orders", "months", "stock"}
    change(shop, orders=orders.replace("FULL", "VIEW"))
    [refusal] = planned(shop)["refusals"]
    assert (refusal["kind"], refusal["models"]) == ("has_dependents", ["t.orders"])
    assert "t.orders is read by bi.Daily orders, bi.months, t.seen. Drop or change those" in refusal["message"]


def test_views_of_other_environments_are_named_if_a_migration_replaces_a_view_that_keeps_its_version(
    shop: Shop, server: Server
) -> None:
    """SQLMesh replaces the view behind `t.seen`, which both environments show. It creates the views of prod again."""
    change(shop, seen=SEEN, last=SEEN.replace("seen", "last"), of_seen=OF_SEEN)
    shop.plan()
    shop.plan("dev", "--include-unmodified")
    server.query("CREATE VIEW bi.seen AS SELECT seen FROM t.seen", "shop")
    server.query("DROP VIEW bi.stock", "shop")
    change(shop, stock=STOCK.replace("AS id", "AS id, 2 AS more"))

    report = planned(shop)
    found = {model["name"]: model["dependents"] for model in report["models"]}
    dropped = sorted({view for views_of_others in found.values() for view in views_of_others})
    launch(shop, APPLY, digest=report["digest"], allow_drop_dependents=dropped).succeeded()
    of_dev = {name: f"t__dev.{name}" for name in ("seen", "last", "of_seen")}
    assert found == {
        "t.stock": [],
        "t.seen": ["bi.seen", of_dev["of_seen"], of_dev["seen"]],
        "t.last": [of_dev["last"]],
        "t.of_seen": [of_dev["of_seen"]],
    }
    shown = server.query("SELECT schemaname || '.' || viewname FROM pg_views", "shop")
    assert {name for (name,) in shown}.isdisjoint({"bi.seen", *of_dev.values()}), "they are gone"


BY_DAY = (
    "MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column day, forward_only true, "
    "on_destructive_change allow)); SELECT @start_ds::date AS day{columns}"
)
TABLE = "SELECT relname FROM pg_class WHERE relname LIKE 't__days__%' AND relkind = 'r' AND NOT relname LIKE '%dev'"


def test_a_view_of_the_table_is_dropped_with_its_column(new_shop: NewShop, server: Server) -> None:
    shop = new_shop({"models/days.sql": BY_DAY.format(columns=", 1 AS amount")}, new_database(server), deploy=True)
    [(table,)] = server.query(TABLE, "shop")
    server.query("CREATE SCHEMA bi", "shop")
    server.query(f'CREATE VIEW bi.amounts AS SELECT amount FROM sqlmesh__t."{table}"', "shop")
    change(shop, days=BY_DAY.format(columns=""))
    report = planned(shop)
    assert [model["dependents"] for model in report["models"]] == [["bi.amounts"]]
    launch(shop, APPLY, digest=report["digest"], allow_drop_dependents=["bi.amounts"]).succeeded()
    assert views(server) == set()


def test_other_engines_are_not_asked(new_shop: NewShop) -> None:
    shop = new_shop({"models/stock.sql": STOCK}, CONFIG, deploy=True)
    change(shop, stock=STOCK.replace("1", "2"))
    record = launch(shop, PLAN)
    assert [model["dependents"] for model in report_of(record)["models"]] == [None]


DAYS = "MODEL (name t.days, kind INCREMENTAL_BY_TIME_RANGE (time_column day)); SELECT @start_ds::date AS day"
READ_BY_VIEWS = {
    "days": DAYS,
    "newest": "MODEL (name t.newest, kind VIEW (materialized true)); SELECT max(day) AS day FROM t.days",
    "shown": "MODEL (name t.shown, kind VIEW); SELECT day FROM t.newest",
    "copied": "MODEL (name t.copied, kind FULL); SELECT day FROM t.newest",
    "keys": "MODEL (name t.keys, kind INCREMENTAL_BY_UNIQUE_KEY (unique_key day)); SELECT day FROM t.days",
}


def test_first_run_and_restatement_keep_views_that_read_a_materialized_view(new_shop: NewShop, server: Server) -> None:
    """SQLMesh creates a plain view for it, and would replace it by DROP ... CASCADE. The others would be gone."""
    files = {f"models/{name}.sql": text for name, text in READ_BY_VIEWS.items()}
    shop = new_shop(files, new_database(server), planned_at=None, restate=True)
    shop.plan("--skip-backfill")
    server.query("CREATE SCHEMA bi", "shop")
    for model in READ_BY_VIEWS:
        server.query(f"CREATE VIEW bi.{model} AS SELECT * FROM t.{model}", "shop")
    restate = {"sqlmesh_shop": {"restate": {"start": "2 days ago", "end": "1 day ago"}}}
    for config in ({}, restate):
        assets = ["t/days"] if config else ["t/days", "t/newest", "t/shown", "t/copied"]
        record = shop.launch(ops=config, assets=assets).succeeded()
        assert record.status_of("t/newest") == "executed"
        assert views(server) == READ_BY_VIEWS.keys()
        read = [
            server.query(f"SELECT max(day) FROM bi.{model}", "shop") for model in ("days", "newest", "shown", "copied")
        ]
        assert read == read[:1] * 4
        assert read != [[(None,)]] * 4


def test_a_view_in_place_of_a_table_is_refused_before_anything_changes(new_shop: NewShop, server: Server) -> None:
    """Of dbt, or of `dev_only`. SQLMesh's own plan fails after it has begun to change prod, also with its CLI."""
    of_server = new_database(server)
    server.query("CREATE SCHEMA t", "shop")
    server.query("CREATE TABLE t.orders AS SELECT 'of dbt' AS id", "shop")
    shop = new_shop({"models/stock.sql": STOCK, "models/seen.sql": SEEN}, planned_at=None, deploy=True)
    config = shop.project / "config.yaml"
    config.write_text(f"{of_server}virtual_environment_mode: dev_only\n")
    shop.plan()
    config.write_text(of_server)
    change(shop, orders=ORDERS.format(amount=3, more=""))

    report = planned(shop)
    [refusal] = report["refusals"]
    assert (refusal["kind"], refusal["models"]) == ("name_taken", ["t.orders", "t.stock"])
    assert "The names of t.orders, t.stock are taken" in refusal["message"]
    assert report["command"] is None
    assert "or fail partway through" in failure_of(launch(shop, APPLY, digest=report["digest"]))
    assert server.query("SELECT (SELECT id FROM t.orders), (SELECT id FROM t.stock)", "shop") == [("of dbt", 1)]

    for table in ("orders", "stock"):
        server.query(f"ALTER TABLE t.{table} RENAME TO {table}_before", "shop")
    launch(shop, APPLY, digest=planned(shop)["digest"]).succeeded()
    assert server.query("SELECT amount, seen FROM t.orders, t.seen", "shop") == [(3, 1)]


@pytest.mark.night(
    "test_a_view_in_place_of_a_table_is_refused_before_anything_changes",
    "engine/test_taken_back.py::test_name_that_is_too_long_is_refused_before_the_promotion",
)
@pytest.mark.advice("Rename the model.")
def test_names_of_types_are_taken_too_and_a_name_that_postgresql_would_cut_is_too_long(
    new_shop: NewShop, server: Server
) -> None:
    config = f"{new_database(server)}physical_table_naming_convention: hash_md5\n"
    shop = new_shop({"models/stock.sql": STOCK}, config, deploy=True)
    long = "x" * 63
    for statement in ("CREATE TYPE t.orders AS ENUM ('of others')", f"CREATE TABLE t.{long} AS SELECT 1 AS id"):
        server.query(statement, "shop")
    change(shop, orders=ORDERS.format(amount=3, more=""))

    [refusal] = planned(shop)["refusals"]

    assert (refusal["kind"], refusal["models"]) == ("name_taken", ["t.orders"])
    change(shop, long=STOCK.replace("stock", f"{long}more"))
    [failure] = launch(shop, PLAN).failures
    assert f"{long}more has 67 characters, and postgres allows 63. Rename the model." in failure
    change(shop, long=STOCK.replace("stock", "of_less_characters"))
    launch(shop, PLAN).succeeded()


@pytest.mark.advice("because PostgreSQL would drop {} too. Drop or change those views first.")
def test_the_janitor_drops_no_view_of_others_and_names_each_until_somebody_drops_it(
    new_shop: NewShop, server: Server
) -> None:
    """Views of SQLMesh's own are dropped with the table that they read."""
    files = {"models/stock.sql": STOCK, "models/seen.sql": SEEN, "models/other.sql": STOCK.replace("stock", "other")}
    shop = new_shop(files, f"{new_database(server)}snapshot_ttl: in 0 seconds\n", janitor=True)
    shop.plan("dev", "--include-unmodified")
    [(table,)] = server.query("SELECT relname FROM pg_class WHERE relname LIKE 't__stock%' AND relkind = 'r'", "shop")
    server.query("CREATE SCHEMA bi", "shop")
    server.query(f"CREATE VIEW bi.stock AS SELECT id FROM sqlmesh__t.{table}", "shop")
    server.query("CREATE VIEW bi.seen AS SELECT seen FROM t__dev.seen", "shop")
    change(shop, stock=STOCK.replace("1", "2"), other=files["models/other.sql"].replace("1", "2"))
    shop.plan()
    shop.sqlmesh("invalidate", "dev")
    job = shop.refresh().resolve_job_def("sqlmesh_shop_janitor")

    def clean_up() -> RunRecord:
        return shop.run_record(job.execute_in_process(instance=shop.instance, raise_on_error=False).run_id)

    for view, what in (("seen", "t__dev"), ("stock", table)):
        [failure] = clean_up().failures
        assert f"{what} was not dropped, because PostgreSQL would drop bi.{view} too. Drop or change" in failure
        server.query(f"DROP VIEW bi.{view}", "shop")
    clean_up().succeeded()

    kept = server.query("SELECT relname FROM pg_class WHERE relnamespace = 'sqlmesh__t'::regnamespace", "shop")
    assert len(kept) == 3, "the tables and the view of prod"
    assert (table,) not in kept


@pytest.mark.night(
    "engine/test_previews.py::test_closing_a_preview_leaves_nothing_and_only_its_own",
    "test_the_janitor_drops_no_view_of_others_and_names_each_until_somebody_drops_it",
)
def test_a_preview_is_closed_with_its_own_views(new_shop: NewShop, server: Server) -> None:
    """Its tables are dropped first. The environment is deleted last, so that closing it can be repeated."""
    files = {"models/stock.sql": STOCK, "models/seen.sql": SEEN}
    shop = new_shop(files, new_database(server), preview={"environment": "pr_1"})
    change(shop, stock=STOCK.replace("1", "2"))
    launch(shop, PREVIEW).succeeded()
    assert server.query("SELECT id FROM t__pr_1.stock", "shop") == [(2,)]
    change(shop, stock=STOCK.replace("1", "3"))
    launch(shop, PREVIEW).succeeded()  # the views of the commit before have these names
    assert server.query("SELECT id FROM t__pr_1.stock", "shop") == [(3,)]

    launch(shop, CLOSE).succeeded()

    assert server.query("SELECT viewname FROM pg_views WHERE schemaname LIKE '%pr_1'", "shop") == []
    assert server.query("SELECT id FROM t.stock", "shop") == [(1,)]
