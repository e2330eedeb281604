"""Which upstream assets the tables from outside are."""

from typing import Any

import dagster as dg
import pytest
from dagster.components.resolved.errors import ResolutionException
from unit.scenario import external_models, model, translator

from dg_sqlmesh_component.config.external_models import ExternalModels, ExternalTable
from dg_sqlmesh_component.protocol.errors import DeclarationError

EVENTS, LAKE_EVENTS, CLICKS, BARE = '"db"."raw"."events"', '"lake"."raw"."events"', '"db"."raw"."Clicks"', '"rates"'
TABLES = (EVENTS, LAKE_EVENTS, CLICKS, BARE)


def path(key: dg.AssetKey) -> str:
    return key.to_user_string()


# -- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fqn", "table"),
    [
        ('"db"."raw"."events"', ExternalTable("db", "raw", "events", "db.raw.events")),
        ('"raw"."events"', ExternalTable("", "raw", "events", "raw.events")),
        ('"events"', ExternalTable("", "", "events", "events")),
        ('"host"."db"."raw"."events"', ExternalTable("db", "raw", "events", "host.db.raw.events")),
        ('"db"."x y"."a.b"', ExternalTable("db", "x y", "a.b", "db.x y.a.b")),
    ],
)
def test_a_table_has_up_to_three_parts_and_its_whole_name(fqn: str, table: ExternalTable) -> None:
    assert ExternalTable.of(fqn) == table


# -- the template ---------------------------------------------------------------------------------


def rendered(template: str, fqn: str, **scope: Any) -> dg.AssetKey:
    context = dg.ResolutionContext.default().with_scope(**scope)
    key = ExternalModels.resolve_from_model(context, ExternalModels.model()(key=template)).key
    assert key is not None
    return key(ExternalTable.of(fqn))


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("landing/{{ external.schema }}/{{ external.name }}", ["landing", "raw", "events"]),
        ("{{ external.catalog }}/{{ external.table_name }}", ["lake", "lake.raw.events"]),
        ("{{ external.name | upper }}", ["EVENTS"]),
        ("all", ["all"]),
    ],
)
def test_a_template_makes_the_key_of_a_table(template: str, key: list[str]) -> None:
    assert rendered(template, LAKE_EVENTS) == dg.AssetKey(key)


def test_a_template_is_rendered_for_each_table() -> None:
    key = external_models(key="landing/{{ external.name }}").key
    assert key is not None
    assert [path(key(ExternalTable.of(fqn))) for fqn in TABLES] == [
        "landing/events",
        "landing/events",
        "landing/Clicks",
        "landing/rates",
    ]


def test_a_template_may_call_a_function_that_gives_a_key() -> None:
    key = rendered("{{ landed(external) }}", EVENTS, landed=lambda table: dg.AssetKey([table.schema, "a/b"]))
    assert key == dg.AssetKey(["raw", "a/b"])


@pytest.mark.parametrize(
    ("template", "fqn", "text", "table"),
    [
        ("{{ external.catalog }}/{{ external.name }}", '"raw"."events"', "'/events'", "raw.events"),
        ("x/{{ external.schema }}/{{ external.name }}", '"rates"', "'x//rates'", "rates"),
        ("{{ external.catalog }}", '"rates"', "''", "rates"),
    ],
    ids=["no catalog", "no schema", "nothing"],
)
def test_a_key_with_an_empty_part_is_refused(template: str, fqn: str, text: str, table: str) -> None:
    with pytest.raises(DeclarationError) as refusal:
        rendered(template, fqn)
    assert str(refusal.value) == (
        f"`external_models.key` in defs.yaml, applied to the table {table}, gives the asset key {text}, which has an "
        "empty part. The template knows external.catalog (empty if the engine has none), external.schema, "
        "external.name and external.table_name."
    )


def test_a_function_that_gives_a_key_with_an_empty_part_is_refused_too() -> None:
    with pytest.raises(DeclarationError, match="which has an empty part"):
        rendered("{{ landed() }}", EVENTS, landed=lambda: dg.AssetKey(["raw", ""]))


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("{{ nope }}", "'nope'"),
        ("{{ external.name }", "unexpected '}'"),
        ("{{ external.name | nope }}", "No filter named 'nope'"),
        ("landing/{{ external.schem }}_{{ external.name }}", "`external` has no attribute 'schem' in a template. Did"),
    ],
    ids=["no such name", "no template", "no such filter", "no such attribute"],
)
def test_a_template_that_cannot_be_rendered_is_refused_with_the_table_and_the_cause(template: str, cause: str) -> None:
    with pytest.raises(DeclarationError) as refusal:
        rendered(template, EVENTS)
    start = "`external_models.key` in defs.yaml, applied to the table db.raw.events, cannot be rendered: "
    assert str(refusal.value).startswith(start)
    assert cause in str(refusal.value)


def test_without_a_word_there_is_neither_template_nor_map() -> None:
    assert external_models() == ExternalModels() == ExternalModels(key=None, keys={})


# -- the map --------------------------------------------------------------------------------------


def mapped(*names: str, tables: tuple[str, ...] = TABLES) -> dict[str, str]:
    """The keys of tables when each of these names is given one that is called like it."""
    keys = external_models(keys={name: f"ours/{name}" for name in names}).mapped(tables)
    return {fqn: path(key) for fqn, key in keys.items()}


@pytest.mark.parametrize(
    ("name", "fqn"),
    [
        ("db.raw.events", EVENTS),
        ("lake.raw.events", LAKE_EVENTS),
        ("raw.Clicks", CLICKS),
        ("raw.clicks", CLICKS),
        ("DB.RAW.CLICKS", CLICKS),
        ('"db"."raw"."Clicks"', CLICKS),
        ("clicks", CLICKS),
        ("rates", BARE),
    ],
)
def test_a_table_is_named_with_or_without_its_catalog_in_any_case(name: str, fqn: str) -> None:
    assert mapped(name) == {fqn: f"ours/{name}"}


DOTTED, BARE_EVENTS = '"db"."x y"."a.b"', '"raw"."events"'


@pytest.mark.parametrize("name", ["x y.a.b", "db.x y.a.b", '"x y"."a.b"', "a.b", "A.B"])
def test_a_table_whose_name_has_a_dot_is_named_as_it_is_written(name: str) -> None:
    assert mapped(name, tables=(*TABLES, DOTTED)) == {DOTTED: f"ours/{name}"}


@pytest.mark.parametrize(
    ("names", "fqns"),
    [
        (("raw.events",), {BARE_EVENTS}),
        (("lake.raw.events",), {LAKE_EVENTS}),
        (("RAW.Events", "lake.raw.events"), {BARE_EVENTS, LAKE_EVENTS}),
    ],
    ids=["its whole name", "the other one", "each of them"],
)
def test_the_whole_name_of_one_table_is_not_the_end_of_anothers(names: tuple[str, ...], fqns: set[str]) -> None:
    assert {*mapped(*names, tables=(BARE_EVENTS, LAKE_EVENTS, EVENTS))} == fqns


def test_the_end_of_a_name_begins_at_one_of_its_parts() -> None:
    with pytest.raises(DeclarationError, match=r"names 'vents', but no model reads an external table of that name"):
        mapped("vents")


def test_tables_that_the_map_does_not_name_are_left_out() -> None:
    assert mapped() == {}
    assert {*mapped("db.raw.events", "rates")} == {EVENTS, BARE}


def test_several_tables_may_belong_to_one_asset() -> None:
    both = external_models(keys={"db.raw.events": "dlt/all", "lake.raw.events": "dlt/all"}).mapped(TABLES)
    assert {fqn: path(key) for fqn, key in both.items()} == {EVENTS: "dlt/all", LAKE_EVENTS: "dlt/all"}


@pytest.mark.parametrize(
    ("said", "key"),
    [("dlt/events", ["dlt", "events"]), ("{{ lake }}/events", ["lake", "events"]), ("{{ landed() }}", ["raw", "a/b"])],
    ids=["text", "a template that gives text", "a template that gives a key"],
)
def test_a_key_of_the_map_may_be_a_template(said: str, key: list[str]) -> None:
    context = dg.ResolutionContext.default().with_scope(lake="lake", landed=lambda: dg.AssetKey(["raw", "a/b"]))
    outside = ExternalModels.resolve_from_model(context, ExternalModels.model()(keys={"rates": said}))
    assert outside.mapped(TABLES) == {BARE: dg.AssetKey(key)}


@pytest.mark.parametrize("key", ["dlt//events", "/events", "dlt/", ""])
def test_a_key_of_the_map_with_an_empty_part_is_refused_while_it_is_read(key: str) -> None:
    with pytest.raises(ResolutionException) as refusal:
        external_models(keys={"raw.events": key})
    assert (
        f"DeclarationError: `external_models.keys` in defs.yaml, at 'raw.events', gives the asset key {key!r}, "
        "which has an empty part."
    ) in str(refusal.value)


START = "`external_models.keys` in defs.yaml names "


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("raw.clcks", "Did you mean raw.Clicks or db.raw.Clicks?"),
        ("lake.raw.clicks", "Did you mean raw.Clicks or db.raw.Clicks or lake.raw.events?"),
        ("zzz", "Known: db.raw.Clicks, db.raw.events, lake.raw.events, rates, raw.Clicks, raw.events."),
    ],
    ids=["like one of them", "in another catalog", "like none of them"],
)
def test_a_name_of_no_table_is_refused_with_those_it_may_mean(name: str, advice: str) -> None:
    with pytest.raises(DeclarationError) as refusal:
        mapped(name)
    assert str(refusal.value) == (f"{START}{name!r}, but no model reads an external table of that name. {advice}")


def test_only_some_of_many_tables_are_suggested() -> None:
    with pytest.raises(DeclarationError) as refusal:
        mapped("zzz", tables=tuple(f'"raw"."t{n:03}"' for n in range(100)))
    assert str(refusal.value).endswith(", ".join(f"raw.t{n:03}" for n in range(10)) + ", and 90 more.")


def test_a_name_is_refused_where_nothing_is_read_from_outside() -> None:
    with pytest.raises(DeclarationError) as refusal:
        mapped("raw.events", tables=())
    assert str(refusal.value) == (
        f"{START}'raw.events', but no model reads an external table of that name. The project has none."
    )


@pytest.mark.parametrize("name", ["raw.events", "events", "RAW.Events"])
def test_a_name_of_several_tables_is_refused_with_all_of_them(name: str) -> None:
    with pytest.raises(DeclarationError) as refusal:
        mapped(name)
    assert str(refusal.value) == (
        f"{START}{name!r}, which is more than one table: db.raw.events, lake.raw.events. Write out the catalog."
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [("raw.clicks", "db.raw.clicks"), ("db.raw.clicks", "CLICKS")],
    ids=["short, then whole", "whole, then short"],
)
def test_a_table_that_is_named_twice_is_refused_even_with_one_key(first: str, second: str) -> None:
    with pytest.raises(DeclarationError) as refusal:
        external_models(keys={first: "dlt/clicks", second: "dlt/clicks"}).mapped(TABLES)
    assert str(refusal.value) == f"{START}the table db.raw.Clicks twice, once as {second!r}."


@pytest.mark.parametrize("kind", ["FULL", "EMBEDDED"])
def test_a_model_of_sqlmeshs_is_no_table_from_outside(kind: str) -> None:
    models = [model("core.orders", reads=["staging.orders"]), model("staging.orders", kind=kind)]
    with pytest.raises(
        DeclarationError, match=r"names 'staging\.orders', but no model reads an external table of that name"
    ):
        translator(*models, external_models=external_models(keys={"staging.orders": "dlt/orders"}))


def test_an_external_model_that_nothing_reads_is_no_table_of_the_map() -> None:
    unread = model("raw.events", kind="EXTERNAL")
    with pytest.raises(DeclarationError, match="The project has none"):
        translator(unread, external_models=external_models(keys={"raw.events": "dlt/events"}))
