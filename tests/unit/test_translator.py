"""A project as Dagster sees it: models in, specs out, and the way back."""

from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.scenario import (
    EVERYTHING,
    audit,
    days,
    fqn,
    manifest,
    model,
    plain,
    project_assets,
    standalone,
    stored,
    translator,
)

from dg_sqlmesh_component.errors import DeclarationError, ProjectLoadError
from dg_sqlmesh_component.manifest import Model, split_fqn
from dg_sqlmesh_component.outcomes import AuditResult
from dg_sqlmesh_component.tag_convention import TagConvention
from dg_sqlmesh_component.translator import MAX_QUERY_CHARACTERS, STATUS_CHECK, ProjectAssets, Translator, sql_metadata

ORDERS_KEY = dg.AssetKey(["core", "orders"])
D1 = days(1, 1)


def spec(of: Model, *others: Model, convention: TagConvention | None = None) -> dg.AssetSpec:
    """The asset of a model in a project of these models."""
    return translator(of, *others, convention=convention).asset_spec(of)


def tagged(*tags: str, **overrides: Any) -> Model:
    return model("core.orders", tags=tags, **overrides)


def deps(of: Model, *others: Model) -> dict[str, dict[str, Any]]:
    """Keys that a model's asset depends on, with the metadata of each dependency."""
    return {dep.asset_key.to_user_string(): plain(dict(dep.metadata or {})) for dep in spec(of, *others).deps}


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("core.orders", ["core", "orders"]),
        ("warehouse.core.orders", ["core", "orders"]),
        ("core.Orders of-2026", ["core", "Orders of-2026"]),
        ("größe.注文", ["größe", "注文"]),
    ],
)
def test_the_key_is_schema_and_name_without_the_catalog(name: str, key: list[str]) -> None:
    assert spec(model(name)).key == dg.AssetKey(key)


@pytest.mark.parametrize(
    ("quoted", "parts"),
    [
        ('"db"."core"."orders"', ("db", "core", "orders")),
        ('"orders"', ("orders",)),
        ('"a.b"."c d"', ("a.b", "c d")),
        ('"say ""hi"""."orders"', ('say "hi"', "orders")),
        ('""', ("",)),
        ("orders_add_up", ()),
    ],
)
def test_a_quoted_name_is_taken_apart_at_its_quotes(quoted: str, parts: tuple[str, ...]) -> None:
    assert split_fqn(quoted) == parts


# -- dependencies ---------------------------------------------------------------------------------


def test_a_model_depends_on_the_models_it_reads() -> None:
    orders = model("core.orders", reads=["staging.orders", "staging.customers"])
    assert deps(orders, model("staging.orders"), model("staging.customers")) == {
        "staging/customers": {},
        "staging/orders": {},
    }


def test_a_dependency_goes_to_the_key_that_the_other_model_really_has() -> None:
    parent = model("staging.orders", tags=("dagster:key_prefix:shop/eu",))
    assert deps(model("core.orders", reads=["staging.orders"]), parent) == {"shop/eu/staging/orders": {}}


def test_a_model_that_is_not_selected_is_still_a_dependency() -> None:
    project = manifest(
        model("core.orders", reads=["staging.orders"]), model("staging.orders"), selected=["core.orders"]
    )
    assets = project_assets(project)
    assert [dep.asset_key for dep in assets.specs[fqn("core.orders")].deps] == [dg.AssetKey(["staging", "orders"])]
    assert set(assets.specs) == {fqn("core.orders")}


def test_lineage_passes_through_embedded_models() -> None:
    inner = model("core.inner", reads=["staging.orders", "raw.events"], kind="EMBEDDED")
    outer = model("core.outer", reads=["core.inner", "staging.customers"], kind="EMBEDDED")
    orders = model("core.orders", reads=["core.outer", "core.inner"])
    assert deps(orders, inner, outer, model("staging.orders"), model("staging.customers")) == {
        "raw/events": {"dagster/table_name": "db.raw.events"},
        "staging/customers": {},
        "staging/orders": {},
    }


def test_a_declared_external_table_is_a_dependency_that_names_its_table() -> None:
    events = model("raw.events", kind="EXTERNAL", table_name="lake.raw.events")
    assert deps(model("core.orders", reads=["raw.events"]), events) == {
        "raw/events": {"dagster/table_name": "lake.raw.events"}
    }


def test_a_declared_external_table_may_have_a_key_prefix() -> None:
    events = model("raw.events", kind="EXTERNAL", tags=("dagster:key_prefix:lake",))
    assert list(deps(model("core.orders", reads=["raw.events"]), events)) == ["lake/raw/events"]


@pytest.mark.parametrize(
    ("table", "key"),
    [("raw.events", "raw/events"), ("lake.raw.events", "raw/events"), ("events", "events")],
)
def test_a_table_that_no_model_declares_is_a_dependency_that_names_its_table(table: str, key: str) -> None:
    orders = model("core.orders", depends_on=(".".join(f'"{part}"' for part in table.split(".")),))
    assert deps(orders) == {key: {"dagster/table_name": table}}


def test_external_and_embedded_models_are_no_assets_of_ours() -> None:
    project = manifest(model("core.orders"), model("core.inner", kind="EMBEDDED"), model("raw.events", kind="EXTERNAL"))
    assert set(project_assets(project).specs) == {fqn("core.orders")}


# -- owners ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "email", "owners"),
    [
        (None, None, []),
        ("", None, []),
        ("bob", None, ["team:bob"]),
        ("data platform", None, ["team:data platform"]),
        ("team:data", None, ["team:data"]),
        ("bob@example.com", None, ["bob@example.com"]),
        ("bob", "bob@example.com", ["bob@example.com"]),
    ],
    ids=["nobody", "empty", "a name", "a name with a space", "a team", "an email", "a user whom SQLMesh knows"],
)
def test_the_owner_of_a_model_owns_the_asset(owner: str | None, email: str | None, owners: list[str]) -> None:
    assert list(spec(model(owner=owner, owner_email=email)).owners) == owners


@pytest.mark.parametrize(
    ("owner", "email"),
    [("bob@host.c", None), ("bob", "bob@localhost"), ("bob", "Bob <bob@example.com>"), ("team:", None)],
)
def test_no_owner_keeps_a_project_from_loading(owner: str, email: str | None) -> None:
    asset = spec(model(owner=owner, owner_email=email))
    assert plain(dict(asset.metadata))["sqlmesh/owner"] == owner


def test_owners_from_tags_stand_in_place_of_the_models() -> None:
    orders = tagged("dagster:owner:team:data", "dagster:owner:ann@example.com", owner="bob")
    assert list(spec(orders).owners) == ["team:data", "ann@example.com"]


# -- ordinary tags --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "key"),
    [
        ("finance", "finance"),
        ("pii:eu", "pii_eu"),
        ("@daily", "daily"),
        ("a  b / c", "a_b_c"),
        ("größe", "gr_e"),
        ("v1.2-rc", "v1.2-rc"),
        ("x" * 100, "x" * 63),
        ("dagsterish:x", "dagsterish_x"),
    ],
)
def test_an_ordinary_tag_is_made_to_fit(tag: str, key: str) -> None:
    assert spec(tagged(tag)).tags == {key: "", **kind_tags("sqlmesh", "duckdb")}


def kind_tags(*kinds: str) -> dict[str, str]:
    """How Dagster stores kinds."""
    return {f"dagster/kind/{kind}": "" for kind in kinds}


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.text().filter(lambda tag: tag.split(":")[0] != "dagster"), max_size=4))
def test_no_ordinary_tag_keeps_a_project_from_loading(tags: list[str]) -> None:
    assert spec(tagged(*tags)).key == ORDERS_KEY


def test_a_tag_that_is_only_the_prefix_is_an_ordinary_tag() -> None:
    assert "dagster" in spec(tagged("dagster")).tags


def test_an_ordinary_tag_without_a_letter_that_fits_leaves_nothing() -> None:
    assert spec(tagged("注文")).tags == kind_tags("sqlmesh", "duckdb")


# -- the tag convention ---------------------------------------------------------------------------


def test_a_tag_sets_the_group() -> None:
    assert spec(tagged("dagster:group_name:finance")).group_name == "finance"


def test_the_same_group_twice_is_one_group() -> None:
    assert spec(tagged("dagster:group_name:finance", "dagster:group_name:finance")).group_name == "finance"


@pytest.mark.parametrize(
    ("schema", "group"), [("core", "core"), ("core-2026 x", "core_2026_x"), ("größe", "gr_e"), ("注文", "_")]
)
def test_the_group_is_the_schema_made_to_fit(schema: str, group: str) -> None:
    assert spec(model(f"{schema}.orders")).group_name == group


def test_a_tag_adds_a_kind() -> None:
    assert spec(tagged("dagster:kind:table", "dagster:kind:pii")).kinds == {"sqlmesh", "duckdb", "table", "pii"}


@pytest.mark.parametrize(
    ("value", "key", "content"),
    [
        ("nightly", "nightly", ""),
        ("tier=1", "tier", "1"),
        ("acme/tier=", "acme/tier", ""),
        ("dagster/x=1", "dagster/x", "1"),
    ],
)
def test_a_tag_adds_a_dagster_tag(value: str, key: str, content: str) -> None:
    assert spec(tagged(f"dagster:tag:{value}")).tags[key] == content


def test_a_tag_of_the_convention_wins_over_an_ordinary_one() -> None:
    assert spec(tagged("tier", "dagster:tag:tier=1")).tags["tier"] == "1"


@pytest.mark.parametrize(("value", "key"), [("shop", ["shop"]), ("shop/eu", ["shop", "eu"]), ("shop:eu", ["shop:eu"])])
def test_a_tag_puts_names_in_front_of_the_key(value: str, key: list[str]) -> None:
    assert spec(tagged(f"dagster:key_prefix:{value}")).key == dg.AssetKey([*key, "core", "orders"])


def test_tags_of_the_convention_do_not_become_dagster_tags_too() -> None:
    said = tagged("dagster:group_name:finance", "dagster:owner:team:a", "dagster:key_prefix:shop", "dagster:kind:table")
    assert spec(said).tags == kind_tags("sqlmesh", "duckdb", "table")


@pytest.mark.parametrize(
    ("convention", "tags"),
    [
        (
            TagConvention("dg", "/"),
            ("dg/group_name/finance", "dg/key_prefix/shop/eu", "dg/owner/team:a/b", "dg/tag/acme/tier=1"),
        ),
        (
            TagConvention("to dagster", "->"),
            (
                "to dagster->group_name->finance",
                "to dagster->key_prefix->shop/eu",
                "to dagster->owner->team:a/b",
                "to dagster->tag->acme/tier=1",
            ),
        ),
        (
            TagConvention("dg:dagster", ":"),
            (
                "dg:dagster:group_name:finance",
                "dg:dagster:key_prefix:shop/eu",
                "dg:dagster:owner:team:a/b",
                "dg:dagster:tag:acme/tier=1",
            ),
        ),
    ],
    ids=[
        "a separator that values contain",
        "a prefix with a space, a separator of two characters",
        "a prefix that contains the separator",
    ],
)
def test_prefix_and_separator_may_be_others(convention: TagConvention, tags: tuple[str, ...]) -> None:
    asset = spec(tagged(*tags, "dagster:group_name:not-read"), convention=convention)
    assert asset.group_name == "finance"
    assert asset.key == dg.AssetKey(["shop", "eu", "core", "orders"])
    assert list(asset.owners) == ["team:a/b"]
    assert asset.tags == {"dagster_group_name_not-read": "", "acme/tier": "1", **kind_tags("sqlmesh", "duckdb")}


@pytest.mark.parametrize(("prefix", "separator"), [("", ":"), ("dagster", "")], ids=["prefix", "separator"])
def test_neither_prefix_nor_separator_may_be_empty(prefix: str, separator: str) -> None:
    with pytest.raises(DeclarationError, match=r"`tag_convention` in defs\.yaml needs a prefix and a separator"):
        TagConvention(prefix, separator)


REFUSED_TAGS = (
    (
        "dagster:colour:red",
        "there is no property 'colour'; the properties are group_name, owner, kind, tag and key_prefix.",
    ),
    ("dagster::red", "there is no property ''"),
    ("dagster:group_name", "it has no value; write it as dagster:group_name:<value>."),
    ("dagster:owner:", "it has no value; write it as dagster:owner:<value>."),
    ("dagster:kind:", "it has no value"),
    ("dagster:tag:", "it has no value"),
    ("dagster:key_prefix:", "it has no value"),
    ("dagster:group_name:a b", '"a b" is not a valid'),
    ("dagster:group_name:a:b", '"a:b" is not a valid'),
    ("dagster:owner:data_team", "Owner must be an email address or a team name prefixed with 'team:'"),
    ("dagster:owner:bob@localhost", "Owner must be an email address"),
    ("dagster:tag:a b", "Found invalid tag keys: ['a b']"),
    ("dagster:tag:=1", "Found invalid tag keys: ['']"),
    ("dagster:tag:tier=a:b", "Invalid tag value: a:b, for key: tier"),
    ("dagster:tag:tier=" + "x" * 64, "Must have <= 63 characters"),
    ("dagster:key_prefix:shop//eu", "a prefix is names joined by '/', none of them empty."),
    ("dagster:key_prefix:/", "a prefix is names joined by '/', none of them empty."),
)


@pytest.mark.parametrize(("tag", "rule"), REFUSED_TAGS, ids=[tag for tag, _ in REFUSED_TAGS])
def test_a_refused_tag_names_the_model_its_file_the_tag_and_the_rule(tag: str, rule: str) -> None:
    with pytest.raises(ProjectLoadError) as refusal:
        translator(tagged("dagster:kind:table", tag, path="/shop/models/orders.sql"))
    said = str(refusal.value)
    assert said.startswith(f"Model core.orders (/shop/models/orders.sql): tag {tag!r} cannot be used: ")
    assert rule in said


@pytest.mark.parametrize(
    ("first", "second", "rule"),
    [
        ("dagster:group_name:a", "dagster:group_name:b", "another tag has set the group to 'a' already."),
        ("dagster:key_prefix:a/b", "dagster:key_prefix:c", "another tag has set the prefix to 'a/b' already."),
    ],
)
def test_what_an_asset_has_once_is_not_said_twice(first: str, second: str, rule: str) -> None:
    with pytest.raises(ProjectLoadError) as refusal:
        translator(tagged(first, second))
    assert str(refusal.value) == f"Model core.orders (/shop/models/orders.sql): tag {second!r} cannot be used: {rule}"


def test_a_refused_tag_of_a_model_that_comes_from_no_file_says_so() -> None:
    with pytest.raises(ProjectLoadError, match=r"^Model core\.orders \(not from a file\): tag"):
        translator(tagged("dagster:owner:bob", path=None))


def test_too_many_kinds_name_the_model_its_file_and_the_rule() -> None:
    with pytest.raises(ProjectLoadError) as refusal:
        spec(tagged(*(f"dagster:kind:k{n}" for n in range(20))))
    assert str(refusal.value) == (
        "Model core.orders (/shop/models/orders.sql): Dagster refuses its asset: Assets can have at most ten kinds "
        "currently."
    )


# -- the asset ------------------------------------------------------------------------------------


def test_the_kinds_are_sqlmesh_and_the_engine() -> None:
    assert spec(model(engine="snowflake")).kinds == {"sqlmesh", "snowflake"}


def test_the_code_version_is_the_hash_of_what_determines_the_data() -> None:
    assert spec(model(data_hash="42", metadata_hash="7")).code_version == "42"


def test_the_description_is_the_models() -> None:
    assert spec(EVERYTHING).description == EVERYTHING.description
    assert spec(model()).description == "SQLMesh model core.orders (FULL)."


def test_columns_become_the_column_schema() -> None:
    schema = stored(dict(spec(EVERYTHING).metadata))["dagster/column_schema"].value
    assert [(column.name, column.type, column.description) for column in schema.columns] == [
        ("order_id", "INT", "Number of the order"),
        ("payload", "STRUCT<a INT>", None),
    ]


def test_the_file_of_the_model_is_its_code_reference() -> None:
    references = spec(model(path="/shop/models/orders.sql")).metadata["dagster/code_references"]
    assert [(one.file_path, one.line_number) for one in references.code_references] == [("/shop/models/orders.sql", 1)]


def test_everything_that_a_model_says_is_metadata_of_its_asset() -> None:
    metadata = plain({key: value for key, value in spec(EVERYTHING).metadata.items() if key.startswith("sqlmesh/")})
    assert metadata == {
        "sqlmesh/model": "core.orders",
        "sqlmesh/kind": "INCREMENTAL_BY_TIME_RANGE",
        "sqlmesh/source_type": "sql",
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
        "sqlmesh/dialect": "duckdb",
        "sqlmesh/gateway": "warehouse",
        "sqlmesh/project": "shop",
        "sqlmesh/owner": "bob",
        "sqlmesh/tags": "dagster:group_name:finance, pii:eu",
        "sqlmesh/signals": "files_arrived",
    }


def test_what_a_model_does_not_say_leaves_no_metadata() -> None:
    assert set(spec(model(path=None)).metadata) == {
        "sqlmesh/model",
        "sqlmesh/kind",
        "sqlmesh/source_type",
        "sqlmesh/cron",
        "sqlmesh/interval_unit",
        "sqlmesh/dialect",
        "dagster/table_name",
    }


def test_the_table_that_consumers_read_is_the_table_name() -> None:
    assert spec(model(table_name="db.core__dev.orders")).metadata["dagster/table_name"] == "db.core__dev.orders"


# -- collisions of keys ---------------------------------------------------------------------------


def test_two_models_on_one_key_name_both_files_and_the_way_out() -> None:
    project = manifest(model("a.core.orders", path="/shop/a.sql"), model("b.core.orders", path="/shop/b.sql"))
    with pytest.raises(ProjectLoadError) as refusal:
        project_assets(project)
    assert str(refusal.value) == (
        "Two models become the asset core/orders: Model a.core.orders (/shop/a.sql) and Model b.core.orders "
        "(/shop/b.sql). Give one of them another key, for instance with a tag 'dagster:key_prefix:<prefix>' in its "
        "MODEL block."
    )


def test_two_models_on_one_key_load_when_one_of_them_has_a_prefix() -> None:
    project = manifest(model("a.core.orders"), model("b.core.orders", tags=("dagster:key_prefix:b",)))
    assert set(project_assets(project).fqn_by_key) == {ORDERS_KEY, dg.AssetKey(["b", "core", "orders"])}


def test_two_models_on_one_key_load_when_one_of_them_is_not_selected() -> None:
    project = manifest(model("a.core.orders"), model("b.core.orders"), selected=["a.core.orders"])
    assert project_assets(project).fqn_by_key == {ORDERS_KEY: fqn("a.core.orders")}


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
@pytest.mark.parametrize("through_embedded", [True, False], ids=["through an embedded model", "directly"])
def test_an_external_table_on_the_key_of_a_model_is_refused(declared: bool, through_embedded: bool) -> None:
    reader = model("marts.revenue", reads=["core.inner" if through_embedded else "lake.core.orders"])
    inner = model("core.inner", reads=["lake.core.orders"], kind="EMBEDDED")
    table = [model("lake.core.orders", kind="EXTERNAL")] if declared else []
    with pytest.raises(ProjectLoadError) as refusal:
        project_assets(manifest(model("core.orders"), reader, inner, *table))
    assert str(refusal.value) == (
        'Model marts.revenue (/shop/models/revenue.sql) reads the external table "lake"."core"."orders", whose asset '
        "key core/orders is that of Model core.orders (/shop/models/orders.sql). Give the model another key, for "
        "instance with a tag 'dagster:key_prefix:<prefix>'."
    )


# -- checks ---------------------------------------------------------------------------------------


def checks_of(of: Model) -> dict[str, dg.AssetCheckSpec]:
    return {check.name: check for check in translator(of).check_specs(of, ORDERS_KEY)}


def test_every_model_has_the_status_check_and_one_for_each_audit() -> None:
    checks = checks_of(EVERYTHING)
    assert list(checks) == [STATUS_CHECK, "not_null", "forall"]
    assert {check.asset_key for check in checks.values()} == {ORDERS_KEY}
    assert list(checks_of(model())) == [STATUS_CHECK] == ["sqlmesh_execution_status"]


def test_only_a_blocking_audit_is_a_blocking_check() -> None:
    blocking = {name: check.blocking for name, check in checks_of(EVERYTHING).items()}
    assert blocking == {STATUS_CHECK: False, "not_null": True, "forall": False}


def test_a_check_says_everything_about_its_audit() -> None:
    check = checks_of(EVERYTHING)["not_null"]
    assert check.description == 'SQLMesh audit not_null with {"columns": "(order_id)"}.'
    assert plain(dict(check.metadata or {})) == {
        "sqlmesh/audit": "not_null",
        "sqlmesh/blocking": True,
        "sqlmesh/arguments": {"columns": "(order_id)"},
        "sqlmesh/query": "```sql\nSELECT * FROM @this_model WHERE not_null\n```",
        "sqlmesh/path": "/shop/audits/not_null.sql",
    }


def test_a_check_of_a_built_in_audit_has_no_empty_metadata() -> None:
    check = checks_of(model(audits=(audit("forall", query=None, path=None),)))["forall"]
    assert check.description == "SQLMesh audit forall."
    assert set(check.metadata or {}) == {"sqlmesh/audit", "sqlmesh/blocking"}


def test_an_audits_own_description_is_its_checks() -> None:
    assert checks_of(model(audits=(audit(description="No order without a number."),)))["not_null"].description == (
        "No order without a number."
    )


@pytest.mark.parametrize("characters", [1, MAX_QUERY_CHARACTERS])
def test_sql_within_the_bound_is_shown_whole(characters: int) -> None:
    assert sql_metadata("x" * characters).md_str == f"```sql\n{'x' * characters}\n```"


def test_sql_is_cut_at_the_bound_and_says_so() -> None:
    shown = sql_metadata("x" * MAX_QUERY_CHARACTERS + "yz").md_str
    note = f"-- cut here: {MAX_QUERY_CHARACTERS + 2} characters in all"
    assert shown == f"```sql\n{'x' * MAX_QUERY_CHARACTERS}\n{note}\n```"


# -- results and their checks ---------------------------------------------------------------------


def result(name: str, position: int = 0, **args: str) -> AuditResult:
    return AuditResult(name, position, args, True, 0, None, (D1,))


def matched(assets: ProjectAssets, node: str, *results: AuditResult) -> dict[str, AuditResult]:
    return {key.name: one for key, one in assets.check_of(node, results).items()}


TWICE = (
    audit("not_null", position=0, check_name="not_null_a", args={"columns": "a"}),
    audit("forall", position=1),
    audit("not_null", position=2, check_name="not_null_b", args={"columns": "b"}),
)


def test_results_go_to_the_checks_of_their_audits() -> None:
    assets = project_assets(manifest(EVERYTHING))
    not_null, forall = result("not_null", 0), result("forall", 1)
    assert matched(assets, EVERYTHING.fqn, forall, not_null) == {"not_null": not_null, "forall": forall}


def test_the_same_audit_twice_is_told_apart() -> None:
    a, b = result("not_null", 0, columns="a"), result("not_null", 2, columns="b")
    assets = project_assets(manifest(model(audits=TWICE)))
    assert matched(assets, fqn("core.orders"), b, a) == {"not_null_a": a, "not_null_b": b}


def test_the_promoted_model_may_have_its_audits_at_other_places() -> None:
    a, b = result("not_null", 5, columns="a"), result("not_null", 7, columns="b")
    assets = project_assets(manifest(model(audits=TWICE)))
    assert matched(assets, fqn("core.orders"), a, b) == {"not_null_a": a, "not_null_b": b}


def test_an_audit_that_only_the_promoted_model_has_is_left_out() -> None:
    a, b, third = (result("not_null", n, columns=column) for n, column in enumerate("abc"))
    assets = project_assets(manifest(model(audits=TWICE)))
    assert matched(assets, fqn("core.orders"), a, b, third, result("removed")) == {"not_null_a": a, "not_null_b": b}


@pytest.mark.parametrize(
    ("promoted", "checks"),
    [("ba", {"not_null_a": "a", "not_null_b": "b"}), ("b", {"not_null_b": "b"})],
    ids=["in another order", "only one of them"],
)
def test_a_result_goes_to_the_check_with_its_arguments(promoted: str, checks: dict[str, str]) -> None:
    assets = project_assets(manifest(model(audits=TWICE)))
    results = [result("not_null", n, columns=column) for n, column in enumerate(promoted)]
    found = matched(assets, fqn("core.orders"), *results)
    assert {name: one.args["columns"] for name, one in found.items()} == checks


# -- standalone audits ----------------------------------------------------------------------------


def test_a_standalone_audit_is_a_check_on_the_first_of_our_models_that_it_reads() -> None:
    add_up = standalone("orders_add_up", ["core.orders", "core.a_table_of_theirs", "marts.revenue"])
    project = manifest(model("core.orders"), model("marts.revenue"), standalone_audits=[add_up])
    assets = project_assets(project)
    key = dg.AssetCheckKey(ORDERS_KEY, "orders_add_up")
    assert assets.standalone_by_check == {key: "orders_add_up"}
    assert assets.standalone_audits == {"orders_add_up": add_up}
    assert assets.checks[key].blocking is False
    assert assets.check_of("orders_add_up", [result("orders_add_up")]) == {key: result("orders_add_up")}


def test_a_standalone_audit_of_no_model_of_ours_is_left_out() -> None:
    project = manifest(model("core.orders"), standalone_audits=[standalone("theirs", ["raw.events"])])
    assert (project_assets(project).standalone_audits, len(project_assets(project).checks)) == ({}, 1)


def test_a_standalone_audit_named_like_an_audit_of_its_model_has_a_check_of_its_own() -> None:
    project = manifest(
        model("core.orders", audits=(audit("not_null"),)), standalone_audits=[standalone("not_null", ["core.orders"])]
    )
    assets = project_assets(project)
    assert {key.name for key in assets.checks} == {STATUS_CHECK, "not_null", "not_null_standalone"}
    assert {key.name for key in assets.standalone_by_check} == {"not_null_standalone"}


def test_standalone_audits_with_like_names_have_a_check_each() -> None:
    alike = [standalone(name, ["core.orders"], check_name="not_null") for name in ("not null", "not-null", "not_null")]
    assets = project_assets(manifest(model("core.orders", audits=(audit("not_null"),)), standalone_audits=alike))
    assert {key.name: name for key, name in assets.standalone_by_check.items()} == {
        "not_null_standalone": "not null",
        "not_null_standalone_2": "not-null",
        "not_null_standalone_3": "not_null",
    }


def test_an_audit_named_like_the_status_check_has_a_check_of_its_own() -> None:
    assets = project_assets(manifest(model("core.orders", audits=(audit(STATUS_CHECK),))))
    assert {key.name for key in assets.checks} == {STATUS_CHECK, f"{STATUS_CHECK}_audit"}
    assert list(matched(assets, fqn("core.orders"), result(STATUS_CHECK))) == [f"{STATUS_CHECK}_audit"]


# -- the way back ---------------------------------------------------------------------------------


def test_keys_lead_back_to_sqlmeshs_names() -> None:
    assets = project_assets(manifest(model("core.orders"), model("marts.revenue")))
    assert {assets.key(node): node for node in assets.specs} == assets.fqn_by_key


def test_nodes_are_called_as_people_call_them() -> None:
    assets = project_assets(manifest(model("core.orders"), standalone_audits=[standalone("add_up", ["core.orders"])]))
    assert (assets.name(fqn("core.orders")), assets.name("add_up")) == ("core.orders", "add_up")


def test_a_spec_that_somebody_changed_is_the_one_that_counts() -> None:
    project = manifest(model("core.orders", audits=(audit(),)))
    translates = Translator(project, TagConvention())

    def ours(of: Model) -> dg.AssetSpec:
        return translates.asset_spec(of).replace_attributes(key=["ours", "orders"])

    assets = ProjectAssets.build(project, translates, ours, translates.check_specs)
    assert assets.fqn_by_key == {dg.AssetKey(["ours", "orders"]): fqn("core.orders")}
    assert {key.asset_key for key in assets.checks} == {dg.AssetKey(["ours", "orders"])}
    assert matched(assets, fqn("core.orders"), result("not_null")) == {"not_null": result("not_null")}


def test_only_the_data_hash_decides_about_the_code_version() -> None:
    versions = {spec(replace(EVERYTHING, description=text)).code_version for text in ("before", "after")}
    assert versions == {"1001"}


# -- names that others depend on ------------------------------------------------------------------


def test_models_follow_a_model_that_somebody_gave_another_key() -> None:
    project = manifest(model("core.orders"), model("marts.revenue", reads=["core.orders", "raw.events"]))
    translates = Translator(project, TagConvention())

    def ours(of: Model) -> dg.AssetSpec:
        return translates.asset_spec(of).replace_attributes(key=["ours", *translates.asset_key(of).path])

    assets = ProjectAssets.build(project, translates, ours, translates.check_specs)
    deps = {dep.asset_key.to_user_string() for dep in assets.specs[fqn("marts.revenue")].deps}
    assert deps == {"ours/core/orders", "raw/events"}


def test_two_tables_from_outside_with_one_short_name_stay_two() -> None:
    orders = model("core.orders", depends_on=('"lake"."raw"."events"', '"db"."raw"."events"', '"db"."raw"."other"'))
    assert {dep.asset_key.to_user_string(): dict(dep.metadata) for dep in spec(orders).deps} == {
        "lake/raw/events": {"dagster/table_name": "lake.raw.events"},
        "db/raw/events": {"dagster/table_name": "db.raw.events"},
        "raw/other": {"dagster/table_name": "db.raw.other"},
    }


def test_two_tags_that_disagree_are_refused() -> None:
    with pytest.raises(ProjectLoadError, match="another tag has set 'tier' to 'gold' already"):
        spec(tagged("dagster:tag:tier=gold", "dagster:tag:tier=silver"))


def test_sql_that_holds_a_fence_stays_one_block() -> None:
    assert sql_metadata("SELECT '```'").value == "````sql\nSELECT '```'\n````"


def test_parents_come_before_children() -> None:
    names = ["z.source", "a.middle", "b.last"]
    chain = [model(names[0]), model(names[1], reads=[names[0]]), model(names[2], reads=[names[1]])]
    assert project_assets(manifest(*chain)).parents_first == tuple(map(fqn, names))
