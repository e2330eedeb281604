"""The asset keys of external tables."""

from typing import Any

import dagster as dg
import pytest
from dagster.components.resolved.errors import ResolutionException
from unit.builders import external_models, model, translator

from dg_sqlmesh_component.capabilities.sources.attributes import Wait
from dg_sqlmesh_component.config.external_models import ExternalModels
from dg_sqlmesh_component.config.external_tables import ExternalTable, matching_tables
from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.manifest import Model

EVENTS, LAKE_EVENTS, CLICKS, BARE = '"db"."raw"."events"', '"lake"."raw"."events"', '"db"."raw"."Clicks"', '"rates"'
DOTTED, BARE_EVENTS = '"db"."x y"."a.b"', '"raw"."events"'
TABLES = (EVENTS, LAKE_EVENTS, CLICKS, BARE)


def as_text(key: dg.AssetKey) -> str:
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
def test_external_table_has_up_to_three_parts_and_a_full_name(fqn: str, table: ExternalTable) -> None:
    assert ExternalTable.of(fqn) == table


# -- the key template -----------------------------------------------------------------------------


def rendered_key(template: str, fqn: str, **scope: Any) -> dg.AssetKey:
    context = dg.ResolutionContext.default().with_scope(**scope)
    resolved: ExternalModels = ExternalModels.resolve_from_model(context, ExternalModels.model()(key=template))
    assert resolved.key is not None
    return resolved.key(ExternalTable.of(fqn))


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("landing/{{ external.schema }}/{{ external.name }}", ["landing", "raw", "events"]),
        ("{{ external.catalog }}/{{ external.table_name }}", ["lake", "lake.raw.events"]),
        ("{{ external.name | upper }}", ["EVENTS"]),
        ("all", ["all"]),
        ("{{ landed(external) }}", ["raw", "a/b"]),  # a function that returns a key
    ],
)
def test_key_template_renders_the_asset_key(template: str, key: list[str]) -> None:
    rendered = rendered_key(template, LAKE_EVENTS, landed=lambda table: dg.AssetKey([table.schema, "a/b"]))
    assert rendered == dg.AssetKey(key)


@pytest.mark.parametrize(
    ("template", "fqn", "text", "table"),
    [
        ("{{ external.catalog }}/{{ external.name }}", '"raw"."events"', "'/events'", "raw.events"),
        ("x/{{ external.schema }}/{{ external.name }}", '"rates"', "'x//rates'", "rates"),
        ("{{ external.catalog }}", '"rates"', "''", "rates"),
    ],
    ids=["no catalog", "no schema", "nothing"],
)
def test_template_key_with_an_empty_part_is_refused(template: str, fqn: str, text: str, table: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        rendered_key(template, fqn)
    assert str(refusal.value) == (
        f"`external_models.key` in defs.yaml, applied to the table {table}, gives the asset key {text}, which has an "
        "empty part. The template knows external.catalog (empty if the engine has none), external.schema, "
        "external.name and external.table_name."
    )


def test_key_with_an_empty_part_returned_by_a_function_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="gives the asset key 'raw/', which has an empty part"):
        rendered_key("{{ landed() }}", EVENTS, landed=lambda: dg.AssetKey(["raw", ""]))


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
def test_template_error_names_the_table_and_the_cause(template: str, cause: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        rendered_key(template, EVENTS)
    start = "`external_models.key` in defs.yaml, applied to the table db.raw.events, cannot be rendered: "
    assert str(refusal.value).startswith(start)
    assert cause in str(refusal.value)


def test_default_has_neither_key_template_nor_keys() -> None:
    assert external_models() == ExternalModels() == ExternalModels(key=None, keys={})


# -- keys by table --------------------------------------------------------------------------------


def keys_by_table(*names: str, tables: tuple[str, ...] = TABLES) -> dict[str, str]:
    """Return the key of each table if `keys` maps each of these names to `ours/<name>`."""
    keys = external_models(keys={name: f"ours/{name}" for name in names}).mapped(tables)
    return {fqn: as_text(key) for fqn, key in keys.items()}


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
        *((name, DOTTED) for name in ("x y.a.b", "db.x y.a.b", '"x y"."a.b"', "a.b", "A.B")),
    ],
)
def test_keys_name_a_table_with_or_without_catalog_in_any_case(name: str, fqn: str) -> None:
    assert keys_by_table(name, tables=(*TABLES, DOTTED)) == {fqn: f"ours/{name}"}


@pytest.mark.parametrize(
    ("names", "fqns"),
    [
        (("raw.events",), {BARE_EVENTS}),
        (("lake.raw.events",), {LAKE_EVENTS}),
        (("RAW.Events", "lake.raw.events"), {BARE_EVENTS, LAKE_EVENTS}),
    ],
    ids=["full name without catalog", "full name with catalog", "both"],
)
def test_full_name_of_a_table_wins_over_the_suffix_of_another(names: tuple[str, ...], fqns: set[str]) -> None:
    assert {*keys_by_table(*names, tables=(BARE_EVENTS, LAKE_EVENTS, EVENTS))} == fqns


def test_keys_leave_out_other_tables_and_several_tables_may_have_one_asset_key() -> None:
    assert keys_by_table() == {}
    both = external_models(keys={"db.raw.events": "dlt/all", "lake.raw.events": "dlt/all"}).mapped(TABLES)
    assert {fqn: as_text(key) for fqn, key in both.items()} == {EVENTS: "dlt/all", LAKE_EVENTS: "dlt/all"}


@pytest.mark.parametrize(
    ("value", "key"),
    [("dlt/events", ["dlt", "events"]), ("{{ lake }}/events", ["lake", "events"]), ("{{ landed() }}", ["raw", "a/b"])],
    ids=["text", "a template that gives text", "a template that gives a key"],
)
def test_value_in_keys_may_be_a_template(value: str, key: list[str]) -> None:
    context = dg.ResolutionContext.default().with_scope(lake="lake", landed=lambda: dg.AssetKey(["raw", "a/b"]))
    outside = ExternalModels.resolve_from_model(context, ExternalModels.model()(keys={"rates": value}))
    assert outside.mapped(TABLES) == {BARE: dg.AssetKey(key)}


@pytest.mark.parametrize("key", ["dlt//events", "/events", "dlt/", ""])
def test_value_in_keys_with_an_empty_part_is_refused_at_load(key: str) -> None:
    with pytest.raises(ResolutionException) as refusal:
        external_models(keys={"raw.events": key})
    assert (
        f"ConfigurationError: `external_models.keys` in defs.yaml, at 'raw.events', gives the asset key {key!r}, "
        "which has an empty part."
    ) in str(refusal.value)


START = "`external_models.keys` in defs.yaml names "


@pytest.mark.parametrize(
    ("name", "tables", "advice"),
    [
        ("vents", TABLES, "Did you mean raw.events?"),
        ("raw.clcks", TABLES, "Did you mean raw.Clicks or db.raw.Clicks?"),
        ("lake.raw.clicks", TABLES, "Did you mean raw.Clicks or db.raw.Clicks or lake.raw.events?"),
        ("zzz", TABLES, "Known: db.raw.Clicks, db.raw.events, lake.raw.events, rates, raw.Clicks, raw.events."),
        ("raw.events", (), "The project has none."),
    ],
    ids=["the end of a name", "similar to a table", "in another catalog", "similar to none", "no tables"],
)
def test_unknown_table_in_keys_is_refused_with_suggestions(name: str, tables: tuple[str, ...], advice: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        keys_by_table(name, tables=tables)
    assert str(refusal.value) == (f"{START}{name!r}, but no model reads an external table of that name. {advice}")


def test_suggestions_for_an_unknown_table_are_limited() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        keys_by_table("zzz", tables=tuple(f'"raw"."t{n:03}"' for n in range(100)))
    assert str(refusal.value).endswith(", ".join(f"raw.t{n:03}" for n in range(10)) + ", and 90 more.")


@pytest.mark.parametrize("name", ["raw.events", "events", "RAW.Events"])
def test_ambiguous_name_in_keys_is_refused_with_all_matches(name: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        keys_by_table(name)
    assert str(refusal.value) == (
        f"{START}{name!r}, which is more than one table: db.raw.events, lake.raw.events. Write out the catalog."
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [("raw.clicks", "db.raw.clicks"), ("db.raw.clicks", "CLICKS")],
    ids=["short, then whole", "whole, then short"],
)
def test_table_named_twice_in_keys_is_refused(first: str, second: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        external_models(keys={first: "dlt/clicks", second: "dlt/clicks"}).mapped(TABLES)
    assert str(refusal.value) == f"{START}the table db.raw.Clicks twice, once as {second!r}."


@pytest.mark.parametrize(
    "other",
    [model("staging.orders"), model("staging.orders", kind="EMBEDDED"), model("staging.orders", kind="EXTERNAL")],
    ids=["computed", "embedded", "external, which no model reads"],
)
def test_keys_refuse_models_that_are_no_external_tables_of_a_model(other: Model) -> None:
    orders = model("core.orders", reads=[] if other.is_external else ["staging.orders"])
    with pytest.raises(ConfigurationError, match=r"names 'staging\.orders', but no model .* The project has none"):
        translator(orders, other, external_models=external_models(keys={"staging.orders": "dlt/orders"}))


ORDERS, ITEMS, OTHER = '"db"."raw"."orders"', '"db"."raw"."Items"', '"db"."other"."orders"'


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["raw.orders"], [ORDERS]),
        (["DB.Raw.Orders"], [ORDERS]),
        (['"raw"."items"'], [ITEMS]),
        (["orders"], [ORDERS, OTHER]),
        (["*.orders", "raw.*"], [ORDERS, OTHER, ITEMS]),
        (["db.*"], [ORDERS, ITEMS, OTHER]),
        ([], []),
    ],
)
def test_tables_match_a_name_or_pattern_with_or_without_catalog_and_quotes(
    patterns: list[str], found: list[str]
) -> None:
    tables = [ORDERS, ITEMS, OTHER]
    assert matching_tables(patterns, tables, "restate.jobs") == found
    assert [table for table in tables if Wait(tables=patterns or None).has(table)] == sorted(
        found or tables, key=tables.index
    )


def test_a_pattern_that_matches_no_table_is_refused_with_similar_names() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Wait(tables=["raw.*", "raw.order"]).refuse_unknown([ORDERS, OTHER])
    assert str(refusal.value) == (
        "`external_models.wait.tables` in defs.yaml names 'raw.order', but no model reads an external table of that "
        "name. Did you mean raw.orders or other.orders?"
    )
    Wait(tables=["raw.*"]).refuse_unknown([ORDERS, OTHER])
    Wait().refuse_unknown([])
