"""The translator turns SQLMesh models and audits into asset specs and check specs."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.builders import EVERYTHING, attributes, audit, external_models, manifest, model, plain, stored, translator

from dg_sqlmesh_component.config.attribute_types import NOT_OF_ONE_MODEL, TagConvention
from dg_sqlmesh_component.definitions.translator import STATUS_CHECK, Translator, sql_metadata
from dg_sqlmesh_component.protocol.errors import ConfigurationError, ProjectLoadError
from dg_sqlmesh_component.protocol.manifest import Model

ORDERS_KEY = dg.AssetKey(["core", "orders"])
TABLE = "dagster/table_name"


def spec(of: Model, *others: Model, **options: Any) -> dg.AssetSpec:
    """Return the asset spec of a model in a project of these models. `options` are those of `translator`."""
    return translator(of, *others, **options).asset_spec(of)


def tagged(*tags: str, **overrides: Any) -> Model:
    return model("core.orders", tags=tags, **overrides)


def deps(model_: Model, *others: Model, **options: Any) -> dict[str, dict[str, Any]]:
    """Return the metadata of each dependency of a model's asset, by key."""
    return metadata_by_key(spec(model_, *others, **options))


def metadata_by_key(asset: dg.AssetSpec) -> dict[str, dict[str, Any]]:
    return {dep.asset_key.to_user_string(): plain(dict(dep.metadata or {})) for dep in asset.deps}


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tags", "key"),
    [
        ("core.orders", (), ["core", "orders"]),
        ("warehouse.core.orders", (), ["core", "orders"]),
        ("core.Orders of-2026", (), ["core", "Orders of-2026"]),
        ("größe.注文", (), ["größe", "注文"]),
        ("core.orders", ("dagster:key_prefix:shop",), ["shop", "core", "orders"]),
        ("core.orders", ("dagster:key_prefix:shop/eu",), ["shop", "eu", "core", "orders"]),
        ("core.orders", ("dagster:key_prefix:shop:eu",), ["shop:eu", "core", "orders"]),
    ],
)
def test_asset_key_is_prefix_schema_and_name_without_catalog(name: str, tags: tuple[str, ...], key: list[str]) -> None:
    assert spec(model(name, tags=tags)).key == dg.AssetKey(key)


# -- dependencies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([model("staging.orders")], {"staging/orders": {}}),
        ([model("staging.orders", tags=("dagster:key_prefix:shop/eu",))], {"shop/eu/staging/orders": {}}),
        (
            [model("staging.orders", kind="EXTERNAL", table_name="lake.staging.orders")],
            {"staging/orders": {TABLE: "lake.staging.orders"}},
        ),
        (
            [model("staging.orders", kind="EXTERNAL", tags=("dagster:key_prefix:lake",))],
            {"lake/staging/orders": {TABLE: "db.staging.orders"}},
        ),
        (
            [
                model("staging.orders", reads=["core.inner", "staging.customers"], kind="EMBEDDED"),
                model("core.inner", reads=["staging.refunds", "raw.events"], kind="EMBEDDED"),
                model("staging.customers"),
                model("staging.refunds"),
            ],
            {"raw/events": {TABLE: "db.raw.events"}, "staging/customers": {}, "staging/refunds": {}},
        ),
    ],
    ids=["model", "model with a key prefix", "external model", "external model with a key prefix", "embedded models"],
)
def test_dependency_has_the_key_of_the_upstream_node_and_the_table_name_of_an_external_one(
    others: list[Model], expected: dict[str, dict[str, Any]]
) -> None:
    assert deps(model("core.orders", reads=["staging.orders"]), *others) == expected


def deps_if_selected_alone(*models: Model, **options: Any) -> dict[str, dict[str, Any]]:
    """Return the dependencies of the first model if only this model is selected."""
    default_translator = Translator(manifest(*models, selected=[models[0].name]), attributes(**options))
    return metadata_by_key(default_translator.asset_spec(models[0]))


LANDED = ["raw.events", "raw.clicks", "raw.views"]


KEYS_OF_LANDED: dict[str, tuple[dict[str, Any], dict[str, dict[str, str]]]] = {
    "default": ({}, {f"raw/{name}": {TABLE: f"db.raw.{name}"} for name in ("events", "clicks", "views")}),
    "key template": (
        {"key": "lake/{{ external.name }}"},
        {f"lake/{name}": {TABLE: f"db.raw.{name}"} for name in ("events", "clicks", "views")},
    ),
    "key template with one key for two tables": ({"key": "lake/{{ external.schema }}"}, {"lake/raw": {}}),
    "two tables mapped to one key": (
        {"keys": {"raw.events": "dlt/all", "raw.clicks": "dlt/all"}},
        {"dlt/all": {}, "raw/views": {TABLE: "db.raw.views"}},
    ),
    "mapped key equals a template key": (
        {"key": "lake/{{ external.name }}", "keys": {"raw.events": "lake/views"}},
        {"lake/views": {}, "lake/clicks": {TABLE: "db.raw.clicks"}},
    ),
}


@pytest.mark.parametrize(("attributes", "expected"), KEYS_OF_LANDED.values(), ids=KEYS_OF_LANDED)
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_external_tables_have_the_configured_key_and_a_table_name_unless_mapped(
    attributes: dict[str, Any], expected: dict[str, dict[str, str]], declared: bool
) -> None:
    tables = [model(name, kind="EXTERNAL") for name in LANDED] if declared else []
    assert deps(model("core.orders", reads=LANDED), *tables, external_models=external_models(**attributes)) == expected


@pytest.mark.parametrize(
    ("attributes", "key"),
    [
        ({}, "lake/raw/events"),
        ({"key": "template/{{ external.name }}"}, "template/events"),
        ({"key": "template/{{ external.name }}", "keys": {"raw.events": "map/events"}}, "map/events"),
    ],
    ids=["neither", "key template", "key template and keys"],
)
def test_keys_win_over_the_key_template_and_both_over_tags(attributes: dict[str, Any], key: str) -> None:
    events = model("raw.events", kind="EXTERNAL", tags=("dagster:key_prefix:lake",))
    orders = model("core.orders", reads=["raw.events"])
    assert list(deps(orders, events, external_models=external_models(**attributes))) == [key]


@pytest.mark.parametrize("through", ["an embedded model", "a model that is not selected"])
def test_table_read_only_by_unselected_models_may_be_mapped(through: str) -> None:
    kind = "EMBEDDED" if through == "an embedded model" else "FULL"
    upstream_model = model("core.other", reads=["raw.events"], kind=kind)
    outside = external_models(keys={"raw.events": "dlt/events"})
    expected = {"dlt/events": {}} if kind == "EMBEDDED" else {"core/other": {TABLE: "db.core.other"}}
    assert (
        deps_if_selected_alone(model("core.orders", reads=["core.other"]), upstream_model, external_models=outside)
        == expected
    )


def test_mapped_table_and_unselected_model_with_one_key_name_no_table() -> None:
    mapped = external_models(keys={"raw.mapped": "staging/orders"})
    orders = model("core.orders", reads=["staging.orders", "raw.mapped"])
    assert deps_if_selected_alone(orders, model("staging.orders"), external_models=mapped) == {"staging/orders": {}}


# -- owners ---------------------------------------------------------------------------------------


OWNERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "none": ({}, []),
    "empty": ({"owner": ""}, []),
    "a name": ({"owner": "bob"}, ["team:bob"]),
    "a name with a space": ({"owner": "data platform"}, ["team:data platform"]),
    "a team": ({"owner": "team:data"}, ["team:data"]),
    "an email": ({"owner": "bob@example.com"}, ["bob@example.com"]),
    "a user whom SQLMesh knows": ({"owner": "bob", "owner_email": "bob@example.com"}, ["bob@example.com"]),
    "tags replace the owner": (
        {"owner": "bob", "tags": ("dagster:owner:team:data", "dagster:owner:ann@example.com")},
        ["team:data", "ann@example.com"],
    ),
}


@pytest.mark.parametrize(("properties", "owners"), OWNERS.values(), ids=OWNERS)
def test_owner_of_the_model_owns_the_asset(properties: dict[str, Any], owners: list[str]) -> None:
    assert list(spec(model(**properties)).owners) == owners


@pytest.mark.parametrize(
    ("owner", "email"),
    [("bob@host.c", None), ("bob", "bob@localhost"), ("bob", "Bob <bob@example.com>"), ("team:", None)],
)
def test_any_owner_loads_and_is_shown(owner: str, email: str | None) -> None:
    asset = spec(model(owner=owner, owner_email=email))
    assert owner in str([*asset.owners, asset.metadata.get("sqlmesh/owner")])


# -- ordinary tags --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["finance"], {"finance": ""}),
        (["pii:eu"], {"pii_eu": ""}),
        (["@daily"], {"daily": ""}),
        (["a  b / c"], {"a_b_c": ""}),
        (["größe"], {"gr_e": ""}),
        (["v1.2-rc"], {"v1.2-rc": ""}),
        (["x" * 100], {"x" * 63: ""}),
        (["dagsterish:x"], {"dagsterish_x": ""}),
        (["dagster"], {"dagster": ""}),
        (["注文"], {}),
        (["tier=gold"], {"tier": "gold"}),
        (["tier = gold plated"], {"tier": "gold_plated"}),
        (["offset=-1", "a b=1"], {"offset": "-1", "a_b": "1"}),
        (["tier=a=b"], {"tier": "a_b"}),
        (["tier="], {"tier": ""}),
        (["=gold"], {"gold": ""}),
        (["tier=" + "x" * 100], {"tier": "x" * 63}),
        (["tier=gold", "tier=gold"], {"tier": "gold"}),
        (["tier=gold", "tier=silver", "owner=ann"], {"tier_gold": "", "tier_silver": "", "owner": "ann"}),
        (["tier", "tier=gold"], {"tier": "", "tier_gold": ""}),
        (["a b=1", "a:b=2"], {"a_b_1": "", "a_b_2": ""}),
    ],
    ids=str,
)
def test_ordinary_tag_is_sanitized_and_split_unless_key_is_repeated(tags: list[str], expected: dict[str, str]) -> None:
    assert spec(tagged(*tags)).tags == {**KIND_TAGS, **expected}


KIND_TAGS = {"sqlmesh/kind": "full", "dagster/kind/sqlmesh": "", "dagster/kind/duckdb": ""}
"""The tags of every DuckDB table: SQLMesh's model kind, and Dagster's kinds as Dagster stores them."""


@given(st.lists(st.text().filter(lambda tag: tag.split(":")[0] != "dagster"), max_size=4))
def test_any_ordinary_tag_loads(tags: list[str]) -> None:
    assert spec(tagged(*tags)).key == ORDERS_KEY


# -- the tag convention ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "group"), [("core", "core"), ("core-2026 x", "core_2026_x"), ("größe", "gr_e"), ("注文", "_")]
)
def test_default_group_is_the_sanitized_schema(schema: str, group: str) -> None:
    assert spec(model(f"{schema}.orders")).group_name == group


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["dagster:tag:nightly"], {"nightly": ""}),
        (["dagster:tag:tier=1"], {"tier": "1"}),
        (["dagster:tag:acme/tier="], {"acme/tier": ""}),
        (["dagster:tag:dagster/x=1"], {"dagster/x": "1"}),
        (["tier", "dagster:tag:tier=1"], {"tier": "1"}),
        (["tier=2", "dagster:tag:tier=1"], {"tier": "1"}),
        (["dagster:tag:sqlmesh/kind=ours"], {"sqlmesh/kind": "ours"}),
        (["dagster:group_name:finance", "dagster:owner:team:a", "dagster:key_prefix:shop"], {}),
        (["dagster:kind:table"], {"dagster/kind/table": ""}),
    ],
    ids=str,
)
def test_tag_tag_adds_a_dagster_tag_and_wins_over_others(tags: list[str], expected: dict[str, str]) -> None:
    assert spec(tagged(*tags)).tags == {**KIND_TAGS, **expected}


@pytest.mark.attribute("tag_convention.prefix", "tag_convention.separator")
@pytest.mark.parametrize(
    ("prefix", "separator"),
    [("dg", "/"), ("to dagster", "->"), ("dg", "_"), ("dagster", ":"), ("dg:dagster", "/"), ("a:b", ":")],
    ids=[
        "a separator that values contain",
        "a prefix with a blank, a separator of two characters",
        "a separator that names of properties contain",
        "the default",
        "a prefix with the usual separator",
        "a prefix that contains the separator",
    ],
)
def test_prefix_and_separator_of_tags_are_configurable(prefix: str, separator: str) -> None:
    properties = {"group_name": "finance", "key_prefix": "shop/e_u", "owner": "team:a/b", "tag": "acme/tier=1"}
    properties |= {"kind": "table", "freshness": "2h"}
    tags = [separator.join((prefix, name, value)) for name, value in properties.items()]
    asset = spec(tagged(*tags, "other:group_name:not-read"), tag_convention=TagConvention(prefix, separator))
    assert asset.group_name == "finance"
    assert asset.key == dg.AssetKey(["shop", "e_u", "core", "orders"])
    assert list(asset.owners) == ["team:a/b"]
    own = {"other_group_name_not-read": "", "acme/tier": "1", "dagster/kind/table": ""}
    assert asset.tags == {**KIND_TAGS, **own}
    assert asset.freshness_policy == dg.FreshnessPolicy.time_window(timedelta(hours=26))


def test_tags_of_another_prefix_or_separator_are_ordinary() -> None:
    asset = spec(
        tagged("dagster:group_name:a", "dg:group_name:b", "dgx/kind/c"), tag_convention=TagConvention("dg", "/")
    )
    assert (asset.group_name, asset.kinds) == ("core", {"sqlmesh", "duckdb"})
    ordinary = {"dagster_group_name_a": "", "dg_group_name_b": "", "dgx_kind_c": ""}
    assert asset.tags == {**KIND_TAGS, **ordinary}


def test_without_a_convention_no_tag_sets_a_property_or_is_refused() -> None:
    tags = ["dagster:group_name:finance", "dagster:kind:a b", "dagster:colour:red", "dagster:owner:bob", "dagster:"]
    asset = spec(tagged(*tags), tag_convention=None)
    assert (asset.group_name, list(asset.owners), asset.kinds) == ("core", [], {"sqlmesh", "duckdb"})
    ordinary = ("dagster_group_name_finance", "dagster_kind_a_b", "dagster_colour_red", "dagster_owner_bob", "dagster")
    assert asset.tags == {**KIND_TAGS, **dict.fromkeys(ordinary, "")}


@pytest.mark.parametrize(
    ("tag", "rule"),
    [
        ("dg/colour/red", "there is no property 'colour'; the properties are group_name, owner, kind, tag, key_prefix"),
        ("dg/group_name", "it has no value; write it as dg/group_name/<value>."),
        ("dg/retries/3", NOT_OF_ONE_MODEL["retries"]),
    ],
)
def test_error_of_a_tag_has_the_configured_prefix_and_separator(tag: str, rule: str) -> None:
    with pytest.raises(ProjectLoadError) as refusal:
        translator(tagged(tag, path="/shop/orders.sql"), tag_convention=TagConvention("dg", "/"))
    assert str(refusal.value).startswith(f"Model core.orders (/shop/orders.sql): tag {tag!r} cannot be used: {rule}")


REFUSED_TAGS = (
    (
        "dagster:colour:red",
        "there is no property 'colour'; the properties are group_name, owner, kind, tag, key_prefix and freshness.",
    ),
    ("dagster::red", "there is no property ''"),
    ("dagster:retries:3", "Set `execution.retries` in defs.yaml: the step retries missing intervals."),
    ("dagster:timeout:30m", "for example on PostgreSQL, before the query: SET LOCAL statement_timeout = '30min';"),
    ("dagster:pool:heavy", "Give the model a tag, and set a limit for it in defs.yaml: `execution.tag_concurrency_"),
    ("dagster:group_name", "it has no value; write it as dagster:group_name:<value>."),
    ("dagster:owner:", "it has no value; write it as dagster:owner:<value>."),
    ("dagster:kind:", "it has no value"),
    ("dagster:tag:", "it has no value"),
    ("dagster:key_prefix:", "it has no value"),
    ("dagster:group_name:a b", '"a b" is not a valid'),
    ("dagster:group_name:a:b", '"a:b" is not a valid'),
    (
        "dagster:owner:data_team",
        "Invalid owner 'data_team'. Owner must be an email address or a team name prefixed with 'team:'.",
    ),
    ("dagster:owner:bob@localhost", "Owner must be an email address"),
    ("dagster:tag:a b", "Found invalid tag keys: ['a b']"),
    ("dagster:tag:=1", "Found invalid tag keys: ['']"),
    ("dagster:tag:tier=a:b", "Invalid tag value: a:b, for key: tier"),
    ("dagster:tag:tier=" + "x" * 64, "Must have <= 63 characters"),
    ("dagster:key_prefix:shop//eu", "a prefix is names joined by '/', none of them empty."),
    ("dagster:key_prefix:/", "a prefix is names joined by '/', none of them empty."),
)


@pytest.mark.parametrize(("tag", "rule"), REFUSED_TAGS, ids=[tag for tag, _ in REFUSED_TAGS])
def test_invalid_tag_error_names_model_file_tag_and_rule(tag: str, rule: str) -> None:
    with pytest.raises(ProjectLoadError) as refusal:
        translator(tagged("dagster:kind:table", tag, path="/shop/models/orders.sql"))
    message = str(refusal.value)
    assert message.startswith(f"Model core.orders (/shop/models/orders.sql): tag {tag!r} cannot be used: ")
    assert rule in message
    assert "nobody" not in message, "of what it is, is said already"


@pytest.mark.parametrize(
    ("first", "second", "rule"),
    [
        ("dagster:group_name:a", "dagster:group_name:b", "another tag has set the group to 'a' already."),
        ("dagster:key_prefix:a/b", "dagster:key_prefix:c", "another tag has set the prefix to 'a/b' already."),
        ("dagster:tag:tier=gold", "dagster:tag:tier=silver", "another tag has set 'tier' to 'gold' already."),
    ],
)
def test_conflicting_single_value_tags_are_refused_also_of_a_model_without_file(
    first: str, second: str, rule: str
) -> None:
    with pytest.raises(ProjectLoadError) as refusal:
        translator(tagged(first, second, path=None))
    assert str(refusal.value) == f"Model core.orders (not from a file): tag {second!r} cannot be used: {rule}"


def test_too_many_kinds_error_names_model_file_and_rule() -> None:
    with pytest.raises(ProjectLoadError) as refusal:
        spec(tagged(*(f"dagster:kind:k{n}" for n in range(20))))
    assert str(refusal.value) == (
        "Model core.orders (/shop/models/orders.sql): Dagster refuses its asset: Assets can have at most ten kinds "
        "currently."
    )


# -- the asset ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "kinds"),
    [
        ({"engine": "snowflake"}, {"sqlmesh", "snowflake"}),
        ({"source_type": "sql"}, {"sqlmesh", "duckdb"}),
        ({"source_type": "seed"}, {"sqlmesh", "duckdb"}),
        ({"source_type": "python"}, {"sqlmesh", "duckdb", "python"}),
    ],
    ids=["another engine", "sql", "seed", "python"],
)
def test_kinds_are_sqlmesh_the_engine_and_python_for_python_models(properties: dict[str, str], kinds: set[str]) -> None:
    assert spec(model(**properties)).kinds == kinds


@pytest.mark.parametrize(
    ("properties", "options", "expected"),
    [
        ({"kind": "VIEW"}, {}, True),
        ({"kind": "VIEW"}, {"virtual_views": True}, True),
        ({"kind": "VIEW"}, {"virtual_views": False}, False),
        ({"kind": "VIEW", "stores_rows": True}, {}, False),
        ({"kind": "FULL"}, {}, False),
        ({"kind": "SEED"}, {}, False),
    ],
    ids=str,
)
def test_views_without_rows_of_their_own_are_virtual_assets_if_dagster_supports_them(
    properties: dict[str, Any], options: dict[str, bool], expected: bool
) -> None:
    asset = spec(model(**properties), **options)
    assert getattr(asset, "is_virtual", False) == (expected and hasattr(dg.AssetSpec, "is_virtual"))


@pytest.mark.parametrize(
    ("options", "storage_kind"), [({"include_metadata": ["storage_kind"]}, "snowflake"), ({}, None)]
)
def test_engine_is_the_storage_kind_if_configured(options: dict[str, list[str]], storage_kind: str | None) -> None:
    assert spec(model(engine="snowflake"), **options).metadata.get("dagster/storage_kind") == storage_kind


def test_code_version_is_the_data_hash() -> None:
    assert spec(model(data_hash="42", metadata_hash="7")).code_version == "42"


def test_columns_become_the_column_schema_with_their_sources() -> None:
    schema = stored(dict(spec(EVERYTHING).metadata))["dagster/column_schema"].value
    assert isinstance(schema, dg.TableSchema)
    assert [(column.name, column.type, column.description) for column in schema.columns] == [
        ("order_id", "INT", "Number of the order. From raw.events.order, staging.orders.id."),
        ("payload", "STRUCT<a INT>", None),
    ]


def test_file_of_the_model_is_its_code_reference() -> None:
    references = spec(model(path="/shop/models/orders.sql")).metadata["dagster/code_references"]
    assert [(reference.file_path, reference.line_number) for reference in references.code_references] == [
        ("/shop/models/orders.sql", 1)
    ]


def test_asset_metadata_has_the_properties_that_dagster_does_not_show_elsewhere() -> None:
    metadata = plain({key: value for key, value in spec(EVERYTHING).metadata.items() if key.startswith("sqlmesh/")})
    assert metadata == {
        "sqlmesh/cron": "@daily",
        "sqlmesh/cron_tz": "Europe/Berlin",
        "sqlmesh/interval_unit": "day",
        "sqlmesh/start": "2026-01-01",
        "sqlmesh/end": "2026-12-31",
        "sqlmesh/lookback": 2,
        "sqlmesh/batch_size": 30,
        "sqlmesh/time_column": "ordered_at",
        "sqlmesh/unique_key": "order_id",
        "sqlmesh/grain": "order_id",
        "sqlmesh/references": "customer_id",
        "sqlmesh/partitioned_by": "ordered_at",
        "sqlmesh/clustered_by": "customer_id",
        "sqlmesh/storage_format": "parquet",
        "sqlmesh/column_lineage_cut": "2 pairs of columns left out",
        "sqlmesh/gateway": "warehouse",
        "sqlmesh/project": "shop",
        "sqlmesh/signals": "files_arrived",
        "sqlmesh/source": "https://example.com/acme/shop/blob/c0ffee/models/orders.sql",
    }


def test_unset_model_properties_have_no_metadata() -> None:
    assert set(spec(model(path=None)).metadata) == {"sqlmesh/cron", "sqlmesh/interval_unit", TABLE}


def test_description_is_that_of_the_model_with_the_query_as_a_code_block_and_links_are_urls() -> None:
    asset = spec(EVERYTHING)
    sql = '```sql\nSELECT "id" AS "order_id" FROM "staging"."orders"\n```'
    assert asset.description == f"{EVERYTHING.description}\n\n{sql}"
    assert spec(replace(EVERYTHING, query=None)).description == EVERYTHING.description
    assert spec(model()).description == "SQLMesh model core.orders (FULL)."
    assert isinstance(stored(dict(asset.metadata))["sqlmesh/source"], dg.UrlMetadataValue)


# -- checks ---------------------------------------------------------------------------------------


def checks_of(of: Model) -> dict[str, dg.AssetCheckSpec]:
    """Return the checks of a model's audits, by name."""
    default_translator = translator(of)
    checks = [default_translator.audit_check_spec(of, audit_, ORDERS_KEY) for audit_ in of.audits]
    return {check.name: check for check in checks}


def test_check_is_on_the_given_asset() -> None:
    own = translator(EVERYTHING).own_check_specs(EVERYTHING, ORDERS_KEY)
    checks = [*checks_of(EVERYTHING).values(), *own]
    names = ["not_null", "forall", STATUS_CHECK]
    assert [(check.asset_key, check.name) for check in checks] == [(ORDERS_KEY, name) for name in names]
    assert STATUS_CHECK == "sqlmesh_execution_status"


def test_check_metadata_has_every_property_that_the_audit_has() -> None:
    check = checks_of(EVERYTHING)["not_null"]
    assert check.description == "SQLMesh audit not_null (columns := (order_id))."
    assert plain(dict(check.metadata or {})) == {
        "sqlmesh/audit": "not_null",
        "sqlmesh/blocking": True,
        "sqlmesh/arguments": {"columns": "(order_id)"},
        "sqlmesh/query": "```sql\nSELECT * FROM @this_model WHERE not_null\n```",
        "sqlmesh/path": "/shop/audits/not_null.sql",
    }
    built_in = checks_of(model(audits=(audit("forall", query=None, path=None),)))["forall"]
    assert set(built_in.metadata or {}) == {"sqlmesh/audit", "sqlmesh/blocking"}


QUERY = "\n\n```sql\nSELECT * FROM @this_model WHERE not_null\n```"


@pytest.mark.parametrize(
    ("of", "options", "description"),
    [
        (model(audits=(audit(),)), {}, "SQLMesh audit not_null."),
        (model(audits=(audit(description="No order."),)), {}, "No order."),
        (model(audits=(audit(),)), {"include_metadata": ["sql"]}, f"SQLMesh audit not_null.{QUERY}"),
        (
            model("raw.events", kind="EXTERNAL", audits=(audit(args={"columns": "a", "n": "1"}),)),
            {},
            "SQLMesh audit not_null (columns := a, n := 1) of the external model raw.events.",
        ),
    ],
    ids=["default", "of the audit", "with SQL", "of an external model"],
)
def test_check_description_is_that_of_the_audit_or_names_it(
    of: Model, options: dict[str, Any], description: str
) -> None:
    check = translator(of, **options).audit_check_spec(of, of.audits[0], ORDERS_KEY)
    assert check.description == description


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("events", "raw_events__not_null"),
        ("Events of-2026", "raw_Events_of_2026__not_null"),
        ("注文", "raw____not_null"),
    ],
)
def test_check_of_an_external_model_has_the_table_in_its_name(table: str, name: str) -> None:
    assert list(checks_of(model(f"raw.{table}", kind="EXTERNAL", audits=(audit(),)))) == [name]


@pytest.mark.parametrize(
    ("left_out", "notes"),
    [
        (0, (None, None)),
        (1, ("1 column left out", "1 pair of columns left out")),
        (7, ("7 columns left out", "7 pairs of columns left out")),
    ],
    ids=["whole", "one", "several"],
)
def test_cut_column_schema_and_column_lineage_have_a_note(left_out: int, notes: tuple[str | None, str | None]) -> None:
    metadata = spec(replace(EVERYTHING, columns_cut=left_out, column_lineage_cut=left_out)).metadata
    assert (metadata.get("sqlmesh/columns_cut"), metadata.get("sqlmesh/column_lineage_cut")) == notes


@pytest.mark.parametrize(
    ("reads", "tables"),
    [
        (('"lake"."raw"."events"', '"db"."raw"."events"', '"db"."raw"."other"'), "db.raw.events, lake.raw.events"),
        (('"raw"."events"', '"lake"."raw"."events"'), "raw.events, lake.raw.events"),
    ],
    ids=["two catalogs", "one without a catalog"],
)
def test_external_tables_with_one_default_key_are_refused_because_a_changed_key_loses_its_asset(
    reads: tuple[str, ...], tables: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        spec(model("core.orders", depends_on=reads))
    assert str(refused.value) == (
        f"Several external tables have the same asset key: raw/events ({tables}). Give all but one of them another "
        f"key in defs.yaml, for example:\n\n    external_models:\n      keys:\n        lake.raw.events: lake/raw/events"
    )


def test_sql_that_contains_a_code_fence_stays_one_block() -> None:
    assert sql_metadata("SELECT '```'").value == "````sql\nSELECT '```'\n````"
