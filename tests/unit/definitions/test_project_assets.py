"""The assets and checks of a project, and the way back to models and audits."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest
from unit.builders import (
    EVERYTHING,
    audit,
    days,
    external_models,
    fqn,
    manifest,
    model,
    plain,
    project_assets,
    standalone,
    stored,
    with_key_prefix,
)
from unit.calls import calls_of, growth

from dg_sqlmesh_component.config.attribute_types import TagConvention
from dg_sqlmesh_component.definitions.project_assets import ProjectAssets
from dg_sqlmesh_component.definitions.translator import STATUS_CHECK
from dg_sqlmesh_component.protocol.errors import ConfigurationError, ProjectLoadError
from dg_sqlmesh_component.protocol.manifest import Audit, Manifest, Model
from dg_sqlmesh_component.report.outcomes import AuditResult

ORDERS, STAGING = model("core.orders"), model("staging.orders")
READER = model("marts.revenue", reads=["core.orders"])
ORDERS_KEY = dg.AssetKey(["core", "orders"])
D1 = days(1, 1)
TABLE = "dagster/table_name"
Override = Callable[[dg.AssetSpec, Model], dg.AssetSpec]


def dependencies(assets: ProjectAssets, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return key and metadata of each dependency of a model's asset, by key."""
    deps = assets.specs[fqn(name)].deps
    return sorted((dep.asset_key.to_user_string(), plain(dict(dep.metadata or {}))) for dep in deps)


def deps(assets: ProjectAssets, name: str) -> set[str]:
    """Return the keys that a model's asset depends on."""
    return {key for key, _ in dependencies(assets, name)}


# -- assets ---------------------------------------------------------------------------------------


def test_only_selected_executable_models_are_assets_and_others_are_dependencies() -> None:
    models = [
        model("core.orders", reads=["staging.orders", "core.inner", "raw.events"]),
        STAGING,
        model("core.inner", kind="EMBEDDED"),
        model("raw.events", kind="EXTERNAL"),
    ]
    assets = project_assets(manifest(*models, selected=["core.orders", "core.inner", "raw.events"]))
    assert set(assets.specs) == {fqn("core.orders")}
    assert deps(assets, "core.orders") == {"staging/orders", "raw/events"}


def test_overridden_spec_decides_the_key_of_asset_and_checks() -> None:
    assets = project_assets(manifest(model("core.orders", audits=(audit(),))), asset=with_key_prefix("ours"))
    key = dg.AssetKey(["ours", "core", "orders"])
    assert assets.fqn_by_key == {key: fqn("core.orders")}
    assert {check.asset_key for check in assets.checks} == {key}
    assert results_by_check_name(assets, fqn("core.orders"), result("not_null")) == {"not_null": result("not_null")}


@pytest.mark.parametrize("kind", ["FULL", "VIEW", "SEED"])
def test_overridden_spec_is_kept_unchanged(kind: str) -> None:
    orders = model("core.orders", kind=kind, tags=("pii",), owner="bob", columns=EVERYTHING.columns)
    overridden: list[dg.AssetSpec] = []

    def override(spec: dg.AssetSpec, _: Model) -> dg.AssetSpec:
        overridden.append(spec.replace_attributes(automation_condition=dg.AutomationCondition.eager(), skippable=True))
        return overridden[-1]

    assert [*project_assets(manifest(orders), asset=override).specs.values()] == overridden


# -- dependencies ---------------------------------------------------------------------------------

OURS = with_key_prefix("ours")
SWAPPED = {"core.orders": ["core", "refunds"], "core.refunds": ["core", "orders"]}


def unchanged(spec: dg.AssetSpec, _: Model) -> dg.AssetSpec:
    return spec


def by_catalog(spec: dg.AssetSpec, model_: Model) -> dg.AssetSpec:
    """An overridden `get_asset_spec` that gives every asset its catalog."""
    return spec.replace_attributes(key=[model_.catalog or "none", model_.schema, model_.table])


def by_table(spec: dg.AssetSpec, model_: Model) -> dg.AssetSpec:
    """An overridden `get_asset_spec` that leaves the schema out."""
    return spec.replace_attributes(key=[model_.table])


def swapped(spec: dg.AssetSpec, model_: Model) -> dg.AssetSpec:
    return spec.replace_attributes(key=SWAPPED.get(model_.name, spec.key.path))


def first_alone(spec: dg.AssetSpec, model_: Model) -> dg.AssetSpec:
    return by_catalog(spec.replace_attributes(deps=[*spec.deps][:1]), model_)


def renamed(spec: dg.AssetSpec, _: Model) -> dg.AssetSpec:
    return spec.replace_attributes(deps=[dep._replace(metadata={TABLE: "ours"}) for dep in spec.deps])


PARENTS = [model(f"{catalog}.core.orders", table_name=f"{catalog}.core.orders") for catalog in "ab"]
PARENTS += [ORDERS, STAGING, model("core.refunds"), model("raw.declared", kind="EXTERNAL")]
INNER_ORDERS = model("core.inner", reads=["core.orders"], kind="EMBEDDED")
BOTH = "a.core.orders b.core.orders"

DEPENDENCIES: dict[str, tuple[str, str, Override, dict[str, str | None]]] = {
    "overridden key": ("core.orders", "core.orders", OURS, {"ours/core/orders": None}),
    "overridden key, through an embedded model": ("core.inner", "core.orders", OURS, {"ours/core/orders": None}),
    "overridden key, not selected": ("core.orders", "", OURS, {"ours/core/orders": "db.core.orders"}),
    "external table is not overridden": ("raw.events", "", OURS, {"raw/events": "db.raw.events"}),
    "external model is not overridden": ("raw.declared", "", OURS, {"raw/declared": "db.raw.declared"}),
    "swapped keys": ("core.orders", "core.orders core.refunds", swapped, {"core/refunds": None}),
    "removed dependency": ("core.orders staging.orders", "core.orders", first_alone, {"db/core/orders": None}),
    "table name of the override": ("raw.events", "", renamed, {"raw/events": "ours"}),
    "one default key, three models": (
        f"{BOTH} core.orders",
        f"{BOTH} core.orders",
        by_catalog,
        {"a/core/orders": None, "b/core/orders": None, "db/core/orders": None},
    ),
    "one default key, none selected": (
        BOTH,
        "",
        by_catalog,
        {"a/core/orders": "a.core.orders", "b/core/orders": "b.core.orders"},
    ),
    "one default key, one read": ("b.core.orders", f"{BOTH} core.orders", by_catalog, {"b/core/orders": None}),
    "one default key, model and external table": (
        "core.orders lake.core.orders",
        "core.orders",
        by_catalog,
        {"db/core/orders": None, "core/orders": "lake.core.orders"},
    ),
    "one final key, both read": (BOTH, "", unchanged, {"core/orders": None}),
    "one final key by the override": ("core.orders staging.orders", "", by_table, {"orders": None}),
}
"""What `marts.revenue` reads, the selected models, an override, and the table name of each dependency, by key."""


@pytest.mark.parametrize(("reads", "selected", "override", "expected"), DEPENDENCIES.values(), ids=DEPENDENCIES)
def test_dependencies_have_final_keys_and_name_the_tables_of_others(
    reads: str, selected: str, override: Override, expected: dict[str, str | None]
) -> None:
    models = [*PARENTS, model("marts.revenue", reads=reads.split()), *([INNER_ORDERS] if "inner" in reads else [])]
    project = manifest(*models, selected=["marts.revenue", *selected.split()])
    assets = project_assets(project, asset=override)
    assert dependencies(assets, "marts.revenue") == [
        (key, {TABLE: table} if table else {}) for key, table in sorted(expected.items())
    ]


@pytest.mark.parametrize(
    ("tables", "selected", "override", "key"),
    [
        (BOTH, "marts.revenue", unchanged, "core/orders"),
        (BOTH, "marts.revenue a.core.orders", unchanged, "core/orders"),
        ("core.orders staging.orders", "marts.revenue marts.other", by_table, "orders"),
    ],
    ids=["one default key", "one default key, and one is selected", "one final key"],
)
def test_key_of_two_tables_names_no_table_even_if_another_model_reads_the_other_one(
    tables: str, selected: str, override: Override, key: str
) -> None:
    readers = [model(name, reads=[table]) for name, table in zip(("marts.revenue", "marts.other"), tables.split())]
    assets = project_assets(manifest(*PARENTS, *readers, selected=selected.split()), asset=override)
    named = [dependencies(assets, reader.name) for reader in readers if reader.fqn in assets.specs]
    assert named == [[(key, {})]] * selected.count("marts")


def test_overridden_keys_do_not_apply_to_configured_external_tables() -> None:
    outside = external_models(key="lake/{{ external.name }}", keys={"rates": "dlt/rates"})
    reader = model("marts.revenue", reads=["raw.declared", "raw.events", "raw.rates"])
    assets = project_assets(manifest(*PARENTS, reader, selected=[reader.name]), outside=outside, asset=OURS)
    assert [key for key, _ in dependencies(assets, reader.name)] == ["dlt/rates", "lake/declared", "lake/events"]


@pytest.mark.parametrize(
    "properties",
    [
        {"partition_mapping": dg.LastPartitionMapping(), "metadata": {"why": "late rows"}},
        {"partition_mapping": dg.TimeWindowPartitionMapping(start_offset=-1)},
        {"metadata": {"why": "late rows"}},
        {"metadata": {TABLE: "db.core.orders", "why": "late rows"}},
    ],
    ids=lambda properties: " and ".join(properties),
)
def test_override_may_change_a_dependency_which_has_its_final_key_and_add_another(properties: dict[str, Any]) -> None:
    def override(spec: dg.AssetSpec, model_: Model) -> dg.AssetSpec:
        spec = OURS(spec, model_)
        changed = [dep._replace(**properties) for dep in spec.deps]
        return spec.replace_attributes(deps=[*changed, dg.AssetDep("other")]) if changed else spec

    assets = project_assets(manifest(ORDERS, READER), asset=override)
    assert list(assets.specs[fqn("marts.revenue")].deps) == [
        dg.AssetDep(ORDERS_KEY.with_prefix("ours"), **properties),
        dg.AssetDep("other"),
    ]


def test_override_may_change_the_metadata_of_each_dependency() -> None:
    why = {"why": "late rows"}

    def override(spec: dg.AssetSpec, model_: Model) -> dg.AssetSpec:
        return by_catalog(spec.replace_attributes(deps=[dep._replace(metadata=why) for dep in spec.deps]), model_)

    project = manifest(*PARENTS, model("marts.revenue", reads=["a.core.orders", "b.core.orders"]))
    deps = project_assets(project, asset=override).specs[fqn("marts.revenue")].deps
    assert [(dep.asset_key.path[0], dep.metadata) for dep in deps] == [("a", why), ("b", why)]


@pytest.mark.parametrize(
    ("name", "owner"),
    [("revenue", "core.orders"), ("orders", "marts.orders")],
    ids=["of another model", "of its reader"],
)
def test_unselected_model_with_the_key_of_an_asset_is_refused(name: str, owner: str) -> None:
    models = [ORDERS, STAGING, model(f"marts.{name}", reads=["staging.orders"])]
    with pytest.raises(ProjectLoadError) as refusal:
        project_assets(manifest(*models, selected=[f"marts.{name}", owner]), asset=by_table)
    assert str(refusal.value) == (
        f'Model marts.{name} (/shop/models/{name}.sql) reads "db"."staging"."orders", which is not selected and whose '
        f"asset key orders is that of Model {owner} (/shop/models/orders.sql). Give one of them another key, for "
        "instance with a tag 'dagster:key_prefix:<prefix>' in its MODEL block, or with `translation.key` in defs.yaml."
    )


def test_downstream_of_includes_indirect_models_and_standalone_audits() -> None:
    project = manifest(
        STAGING,
        model("core.inner", reads=["staging.orders"], kind="EMBEDDED"),
        model("core.orders", reads=["core.inner"]),
        READER,
        model("core.refunds"),
        standalone_audits=[standalone("add_up", ["core.orders"]), standalone("apart", ["core.refunds"])],
    )
    assets = project_assets(project)
    assert assets.downstream_of([]) == set()
    assert assets.downstream_of([fqn("marts.revenue")]) == set()
    below = {fqn("core.inner"), fqn("core.orders"), fqn("marts.revenue"), "add_up"}
    assert assets.downstream_of([fqn("staging.orders")]) == below


def test_read_beyond_lists_upstream_nodes_that_are_not_assets() -> None:
    project = manifest(
        model("core.left_out", reads=["raw.events"]),
        model("core.inner", reads=["core.left_out"], kind="EMBEDDED"),
        model("core.orders", reads=["core.inner"]),
        READER,
        selected=["core.orders", "marts.revenue"],
    )
    assets = project_assets(project)
    beyond = (fqn("core.inner"), fqn("core.left_out"), fqn("raw.events"))
    assert assets.upstream_outside_assets([fqn("core.orders"), fqn("marts.revenue")]) == {fqn("core.orders"): beyond}


# -- column lineage -------------------------------------------------------------------------------


def column_lineage(assets: ProjectAssets, name: str) -> dict[str, list[str]] | None:
    """Return the upstream columns of each column as `key:column`. None if there is no lineage."""
    metadata = stored(dict(assets.specs[fqn(name)].metadata))
    if "dagster/column_lineage" not in metadata:
        return None
    lineage = metadata["dagster/column_lineage"].value
    assert isinstance(lineage, dg.TableColumnLineage)
    return {
        column: [f"{column_dep.asset_key.to_user_string()}:{column_dep.column_name}" for column_dep in column_deps]
        for column, column_deps in lineage.deps_by_column.items()
    }


def reading(*pairs: str, **more: tuple[str, ...]) -> dict[str, Any]:
    """Return column lineage as pairs `schema.table:column`: for the column `total`, and by name for others."""
    return {
        "column_lineage": {
            column: tuple((fqn(pair.split(":")[0]), pair.split(":")[1]) for pair in made_of)
            for column, made_of in {"total": pairs, **more}.items()
        }
    }


REVENUE = model(
    "marts.revenue",
    reads=["core.orders", "core.inner", "raw.events"],
    **reading("core.orders:amount", "core.inner:rate", "raw.events:tax", day=("core.orders:day",), nothing=()),
)
INNER = model(
    "core.inner",
    reads=["core.deepest", "raw.rates"],
    kind="EMBEDDED",
    **reading(rate=("core.deepest:rate", "raw.rates:rate", "core.orders:amount")),
)
DEEPEST = model("core.deepest", reads=["core.orders"], kind="EMBEDDED", **reading(rate=("core.orders:currency",)))


LAKE = external_models(key="lake/{{ external.name }}", keys={"raw.rates": "dlt/rates"})
FROM_OURS = {
    "total": ["dlt/rates:rate", "lake/events:tax", "ours/core/orders:amount", "ours/core/orders:currency"],
    "day": ["ours/core/orders:day"],
}


@pytest.mark.parametrize(
    ("selected", "overridden", "expected"),
    [
        (
            ["core.orders", "marts.revenue"],
            {},
            {
                "total": ["core/orders:amount", "core/orders:currency", "raw/events:tax", "raw/rates:rate"],
                "day": ["core/orders:day"],
            },
        ),
        (["marts.revenue"], {"outside": LAKE, "asset": OURS}, FROM_OURS),
        (["core.orders", "marts.revenue"], {"outside": LAKE, "asset": OURS}, FROM_OURS),
    ],
    ids=["default keys", "overridden keys", "overridden keys, both selected"],
)
def test_column_lineage_passes_through_embedded_models_and_uses_final_keys(
    selected: list[str], overridden: dict[str, Any], expected: dict[str, list[str]]
) -> None:
    project = manifest(ORDERS, REVENUE, INNER, DEEPEST, selected=selected)
    assert column_lineage(project_assets(project, **overridden), "marts.revenue") == expected


UNTRACED = {"not requested": None, "untraced": {}, "of other columns": {"other": ()}}


@pytest.mark.parametrize("inner", UNTRACED.values(), ids=UNTRACED)
def test_column_untraced_in_an_embedded_model_has_no_lineage(inner: dict[str, Any] | None) -> None:
    embedded = model("core.inner", kind="EMBEDDED", column_lineage=inner)
    events = model("raw.events", kind="EXTERNAL", tags=("dagster:key_prefix:lake",))
    revenue = model("marts.revenue", reads=["core.inner"], **reading("core.inner:rate", day=("raw.events:day",)))
    lineage = column_lineage(project_assets(manifest(revenue, embedded, events)), "marts.revenue")
    assert lineage == {"day": ["lake/raw/events:day"]}


@pytest.mark.parametrize("lineage", [None, {}], ids=["not requested", "untraced"])
def test_model_without_lineage_has_no_lineage_metadata(lineage: dict[str, Any] | None) -> None:
    revenue = model("marts.revenue", column_lineage=lineage)
    assert column_lineage(project_assets(manifest(revenue)), "marts.revenue") is None


def test_overridden_column_lineage_is_kept() -> None:
    written_lineage = dg.TableColumnLineage({"total": [dg.TableColumnDep(asset_key=["ours"], column_name="x")]})
    assets = project_assets(
        manifest(REVENUE),
        asset=lambda spec, _: spec.merge_attributes(metadata={"dagster/column_lineage": written_lineage}),
    )
    assert column_lineage(assets, "marts.revenue") == {"total": ["ours:x"]}


# -- collisions of keys ---------------------------------------------------------------------------


def test_two_models_with_one_key_are_refused_with_both_files_and_a_fix() -> None:
    project = manifest(model("a.core.orders", path="/shop/a.sql"), model("b.core.orders", path="/shop/b.sql"))
    with pytest.raises(ProjectLoadError) as refusal:
        project_assets(project)
    assert str(refusal.value) == (
        "Two models become the asset core/orders: Model a.core.orders (/shop/a.sql) and Model b.core.orders "
        "(/shop/b.sql). Give one of them another key, for instance with a tag 'dagster:key_prefix:<prefix>' in its "
        "MODEL block, or with `translation.key` in defs.yaml."
    )


@pytest.mark.parametrize(
    ("convention", "advice"),
    [
        (TagConvention("dg", "/"), "for instance with a tag 'dg/key_prefix/<prefix>' in its MODEL block, or with"),
        (None, "Give one of them another key, with"),
    ],
)
def test_advice_for_models_with_one_key_follows_the_tag_convention(
    convention: TagConvention | None, advice: str
) -> None:
    project = manifest(model("a.core.orders"), model("b.core.orders"))
    with pytest.raises(ProjectLoadError) as refusal:
        project_assets(project, tag_convention=convention)
    assert f"{advice} `translation.key` in defs.yaml." in str(refusal.value)
    assert "dagster:" not in str(refusal.value)


def test_two_models_with_one_default_key_load_if_one_has_a_prefix_or_is_not_selected() -> None:
    project = manifest(model("a.core.orders"), model("b.core.orders", tags=("dagster:key_prefix:b",)))
    assert set(project_assets(project).fqn_by_key) == {ORDERS_KEY, dg.AssetKey(["b", "core", "orders"])}
    project = manifest(model("a.core.orders"), model("b.core.orders"), selected=["a.core.orders"])
    assert project_assets(project).fqn_by_key == {ORDERS_KEY: fqn("a.core.orders")}


LAKE_ORDERS = model("lake.core.orders", kind="EXTERNAL")
OF_LAKE = model("core.inner", reads=["lake.core.orders"], kind="EMBEDDED")


@pytest.mark.parametrize(
    ("table", "models", "attributes"),
    [
        ("lake.core.orders", [model("marts.revenue", reads=["lake.core.orders"])], {}),
        ("lake.core.orders", [model("marts.revenue", reads=["lake.core.orders"]), LAKE_ORDERS], {}),
        ("lake.core.orders", [model("marts.revenue", reads=["core.inner"]), OF_LAKE], {}),
        ("db.raw.orders", [model("marts.revenue", reads=["raw.orders"])], {"key": "core/{{ external.name }}"}),
        ("db.raw.orders", [model("marts.revenue", reads=["raw.orders"])], {"keys": {"raw.orders": "core/orders"}}),
    ],
    ids=["undeclared", "declared", "through an embedded model", "by the template", "by the map"],
)
def test_external_table_with_the_key_of_a_model_is_refused(
    table: str, models: list[Model], attributes: dict[str, Any]
) -> None:
    with pytest.raises(ProjectLoadError) as refusal:
        project_assets(manifest(ORDERS, *models), outside=external_models(**attributes))
    assert str(refusal.value) == (
        f"Model marts.revenue (/shop/models/revenue.sql) reads the external table {fqn(table)}, whose asset "
        "key core/orders is that of Model core.orders (/shop/models/orders.sql). Give the table another key with "
        "`external_models.keys` in defs.yaml, or the model, for instance with a tag 'dagster:key_prefix:<prefix>' in "
        "its MODEL block, or with `translation.key` in defs.yaml."
    )


def test_external_table_with_the_key_of_a_model_loads_if_given_another_key() -> None:
    project = manifest(ORDERS, model("marts.revenue", reads=["lake.core.orders", "core.orders"]))
    assets = project_assets(project, outside=external_models(keys={"lake.core.orders": "lake/orders"}))
    assert deps(assets, "marts.revenue") == {"core/orders", "lake/orders"}


def test_overridden_key_of_a_model_is_checked_for_collisions() -> None:
    project = manifest(ORDERS, model("marts.revenue", reads=["ours.core.orders"]))
    outside = external_models(key="{{ external.catalog }}/{{ external.schema }}/{{ external.name }}")
    assert deps(project_assets(project, outside=outside), "marts.revenue") == {"ours/core/orders"}
    with pytest.raises(ProjectLoadError, match=r"whose asset key ours/core/orders is that of Model core\.orders"):
        project_assets(project, outside=outside, asset=with_key_prefix("ours"))


# -- checks ---------------------------------------------------------------------------------------


def names(assets: ProjectAssets, name: str = "core.orders") -> list[str]:
    """Return the names of the checks on a model's asset, in order."""
    return [check.name for check in assets.checks if check.asset_key == assets.key(fqn(name))]


def nodes(assets: ProjectAssets) -> dict[str, str]:
    """Return the node of each audit's check, by the check's name."""
    return {check.name: node for check, node in assets.node_by_check.items() if check.name != STATUS_CHECK}


def test_model_has_the_status_check_and_one_check_for_each_audit() -> None:
    assets = project_assets(manifest(EVERYTHING, STAGING))
    assert names(assets) == [STATUS_CHECK, "not_null", "forall"]
    assert names(assets, "staging.orders") == [STATUS_CHECK]
    assert {key: spec.key for key, spec in assets.checks.items()} == {key: key for key in assets.checks}
    not_null, forall = dg.AssetCheckKey(ORDERS_KEY, "not_null"), dg.AssetCheckKey(ORDERS_KEY, "forall")
    assert assets.check_by_audit == {(EVERYTHING.fqn, 0): not_null, (EVERYTHING.fqn, 1): forall}
    assert assets.audit_checks == {EVERYTHING.fqn: [not_null, forall]}
    assert {check: assets.fqn_by_key[check.asset_key] for check in assets.checks} == assets.node_by_check


def test_audit_named_like_the_status_check_has_its_own_check() -> None:
    assets = project_assets(manifest(model("core.orders", audits=(audit(STATUS_CHECK),))))
    assert names(assets) == [STATUS_CHECK, f"{STATUS_CHECK}_audit"]
    assert list(results_by_check_name(assets, fqn("core.orders"), result(STATUS_CHECK))) == [f"{STATUS_CHECK}_audit"]


# -- overridden checks ----------------------------------------------------------------------------


def changed(
    name: str, changes: dict[str, Any] | None
) -> Callable[[dg.AssetCheckSpec, Audit], dg.AssetCheckSpec | None]:
    """Return an override that changes the check of the audit with this name, or leaves it out."""
    return lambda spec, of: spec if of.name != name else spec._replace(**changes) if changes else None


def test_renamed_check_still_belongs_to_its_audit() -> None:
    assets = project_assets(manifest(EVERYTHING), check=lambda spec, of: spec._replace(name=f"ours_{of.name}"))
    assert names(assets) == [STATUS_CHECK, "ours_not_null", "ours_forall"]
    assert nodes(assets) == {"ours_not_null": EVERYTHING.fqn, "ours_forall": EVERYTHING.fqn}
    assert results_by_check_name(assets, EVERYTHING.fqn, result("forall", 1)) == {"ours_forall": result("forall", 1)}


def test_audit_without_check_has_no_check_anywhere() -> None:
    assets = project_assets(manifest(EVERYTHING), check=changed("not_null", None))
    assert names(assets) == [STATUS_CHECK, "forall"]
    assert [check.name for check in assets.audit_checks[EVERYTHING.fqn]] == ["forall"]
    both = [result("not_null", 0, "(order_id)"), result("forall", 1)]
    assert results_by_check_name(assets, EVERYTHING.fqn, *both) == {"forall": both[1]}


PROJECT = manifest(
    model("core.orders", reads=["raw.events"], audits=(audit("not_null"), audit("forall", position=1))),
    model("raw.events", kind="EXTERNAL", audits=(audit("unique"),)),
    standalone_audits=[standalone("add_up", ["core.orders"])],
)
"""`core.orders` has checks for its own audits, those of an external model, and a standalone audit."""


@pytest.mark.parametrize("misplaced", ["not_null", "unique", "add_up"], ids=["own", "external", "standalone"])
def test_check_moved_to_another_asset_is_refused(misplaced: str) -> None:
    override = changed(misplaced, {"name": "moved", "asset_key": dg.AssetKey("theirs")})
    with pytest.raises(ConfigurationError) as refusal:
        project_assets(PROJECT, check=override)
    assert str(refusal.value) == (
        f"get_asset_check_spec puts the check 'moved' of the audit {misplaced} on the asset theirs; "
        "it belongs to core/orders."
    )


@pytest.mark.parametrize("name", ["not_null", STATUS_CHECK], ids=["that of another audit", "that of the status check"])
def test_check_renamed_to_a_taken_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        project_assets(PROJECT, check=changed("forall", {"name": name}))
    assert str(refusal.value) == (
        f"Two audits of core/orders have the check name {name!r}. Each check of an asset needs its own name. Return "
        "another name from get_asset_check_spec."
    )


# -- audits of external models --------------------------------------------------------------------


def audited(name: str, *audits: Audit) -> Model:
    """Return an external model with audits."""
    return model(name, kind="EXTERNAL", audits=audits or (audit(),))


def checks_of_other_nodes(project: Manifest) -> dict[str, tuple[str, str]]:
    """Return asset and node of each check whose node is not an asset, by the check's name."""
    assets = project_assets(project)
    found = {check: node for check, node in assets.node_by_check.items() if node not in assets.specs}
    return {check.name: (check.asset_key.to_user_string(), node) for check, node in found.items()}


def test_audits_of_an_external_model_are_checks_on_its_first_downstream_model() -> None:
    readers = [model(name, reads=["raw.events"]) for name in ("marts.revenue", "core.orders", "staging.orders")]
    project = manifest(*readers, audited("raw.events", audit(), audit("forall", position=1, blocking=False)))
    assets, events = project_assets(project), fqn("raw.events")
    checks = {check.name: assets.checks[check] for check in assets.audit_checks[events]}
    assert {name: check.blocking for name, check in checks.items()} == {
        "raw_events__not_null": True,
        "raw_events__forall": False,
    }
    assert checks_of_other_nodes(project) == dict.fromkeys(checks, ("core/orders", events))
    assert results_by_check_name(assets, events, result("forall", 1)) == {"raw_events__forall": result("forall", 1)}


EVENTS = audited("raw.events")
READERS = [model("core.orders", reads=["raw.events", "marts.revenue"]), model("marts.revenue", reads=["raw.events"])]
THROUGH_EMBEDDED = [
    model("core.orders", reads=["core.outer"]),
    model("core.outer", reads=["core.inner"], kind="EMBEDDED"),
    model("core.inner", reads=["raw.events"], kind="EMBEDDED"),
]


@pytest.mark.parametrize(
    ("project", "asset"),
    [
        (manifest(*READERS, EVENTS, selected=["core.orders"]), "core/orders"),
        (manifest(*READERS, EVENTS, selected=["core.orders", "marts.revenue"]), "marts/revenue"),
        (manifest(*THROUGH_EMBEDDED, EVENTS), "core/orders"),
        (manifest(*READERS, model("core.other"), EVENTS, selected=["core.other"]), None),
        (manifest(*READERS, model("raw.events", kind="EXTERNAL"), audited("raw.unread")), None),
    ],
    ids=["one of two readers", "both readers", "through embedded models", "no reader", "no audits, or no reader"],
)
def test_checks_of_external_model_are_on_a_selected_model_that_reads_it(project: Manifest, asset: str | None) -> None:
    expected = {"raw_events__not_null": (asset, EVENTS.fqn)} if asset else {}
    assert checks_of_other_nodes(project) == expected


def test_checks_of_other_nodes_do_not_rename_checks_of_the_model() -> None:
    own = (audit("raw_events__not_null"), audit("not_null", position=1))
    project = manifest(
        model("core.orders", reads=["raw.events", "lake.events"], audits=own),
        audited("raw.events"),
        audited("lake.events"),
        standalone_audits=[standalone("not_null", ["core.orders"])],
    )
    assets = project_assets(project)
    assert names(assets)[:3] == [STATUS_CHECK, "raw_events__not_null", "not_null"]
    for node, check in ((fqn("raw.events"), "raw_events__not_null_5eb895c8"), ("not_null", "not_null_b64e9560")):
        assert list(results_by_check_name(assets, node, result("not_null"))) == [check]
    assert checks_of_other_nodes(project) == {
        "lake_events__not_null": ("core/orders", fqn("lake.events")),
        "raw_events__not_null_5eb895c8": ("core/orders", fqn("raw.events")),
        "not_null_b64e9560": ("core/orders", "not_null"),
    }


@pytest.mark.parametrize(
    ("models", "externals"),
    [
        (["core.orders"], {"raw.events"}),
        (["core.orders", "marts.revenue"], {"raw.events", "raw.rates"}),
        (["core.other"], set()),
        ([], set()),
    ],
)
def test_external_models_are_audited_with_their_downstream_models(models: list[str], externals: set[str]) -> None:
    inner = model("core.inner", reads=["raw.rates"], kind="EMBEDDED")
    orders = model("core.orders", reads=["raw.events", "raw.plain"], audits=(audit(),))
    readers = [orders, model("marts.revenue", reads=["core.inner"])]
    tables = [audited("raw.events"), audited("raw.rates"), model("raw.plain", kind="EXTERNAL")]
    assets = project_assets(manifest(*readers, inner, model("core.other", reads=["core.orders"]), *tables))
    assert assets.external_models_with_audits(map(fqn, models)) == {*map(fqn, externals)}


# -- results and their checks ---------------------------------------------------------------------


def result(name: str, position: int = 0, args_hash: str = "") -> AuditResult:
    return AuditResult(name, position, args_hash, True, 0, None, (D1,))


def results_by_check_name(assets: ProjectAssets, node: str, *results: AuditResult) -> dict[str, AuditResult]:
    return {key.name: audit_result for key, audit_result in assets.checks_of_results(node, results).items()}


TWICE = (
    audit("not_null", position=0, check_name="not_null_a", args={"columns": "a"}),
    audit("forall", position=1),
    audit("not_null", position=2, check_name="not_null_b", args={"columns": "b"}),
)


A_AND_B = {"not_null_a": "a", "not_null_b": "b"}


@pytest.mark.parametrize(
    ("promoted", "expected"),
    [
        ({2: "b", 0: "a"}, A_AND_B),
        ({5: "a", 7: "b"}, A_AND_B),
        ({0: "b", 1: "a"}, A_AND_B),
        ({0: "b"}, {"not_null_b": "b"}),
        ({0: "x", 2: "b"}, {"not_null_b": "b"}),
        ({0: "a", 1: "b", 2: "c"}, A_AND_B),
    ],
    ids=["same", "moved", "swapped", "one of two", "other arguments", "one more"],
)
def test_results_match_audits_with_the_same_arguments(promoted: dict[int, str], expected: dict[str, str]) -> None:
    """`promoted` has the column of each use in the promoted model, by its position."""
    assets = project_assets(manifest(model(audits=TWICE)))
    results = [result("not_null", position, column) for position, column in promoted.items()]
    matched = results_by_check_name(assets, fqn("core.orders"), *results, result("removed"))
    assert {name: audit_result.args_hash for name, audit_result in matched.items()} == expected


# -- standalone audits ----------------------------------------------------------------------------


def test_standalone_audit_is_a_check_on_a_selected_model_that_it_reads() -> None:
    add_up = standalone("orders_add_up", ["core.orders", "core.a_table_of_theirs", "marts.revenue"])
    project = manifest(ORDERS, model("marts.revenue"), standalone_audits=[add_up])
    assets = project_assets(project)
    key = dg.AssetCheckKey(ORDERS_KEY, "orders_add_up")
    assert nodes(assets) == {"orders_add_up": "orders_add_up"}
    assert assets.standalone_audits == {"orders_add_up": add_up}
    assert assets.checks[key].blocking is False
    assert assets.checks_of_results("orders_add_up", [result("orders_add_up")]) == {key: result("orders_add_up")}


@pytest.mark.parametrize(
    ("unchecked", "readers"),
    [
        ((), {}),
        (("add_up",), {"add_up": "core.orders"}),
        (("add_up", "fresh"), {"add_up": "core.orders", "fresh": "marts.revenue"}),
        (("not_null",), {}),
    ],
    ids=["none of them", "one of them", "both", "a model's own audit"],
)
def test_standalone_audit_without_check_runs_with_a_parent(unchecked: tuple[str, ...], readers: dict[str, str]) -> None:
    project = manifest(
        model("core.orders", audits=(audit("not_null"),)),
        model("marts.revenue"),
        standalone_audits=[
            standalone("add_up", ["core.orders", "marts.revenue"]),
            standalone("fresh", ["core.a_table_of_theirs", "marts.revenue"]),
            standalone("theirs", ["raw.events"]),
        ],
    )
    assets = project_assets(project, check=lambda spec, of: None if of.name in unchecked else spec)
    assert assets.unchecked_standalone_audits == {name: fqn(reader) for name, reader in readers.items()}
    assert {*assets.standalone_audits} == {"add_up", "fresh"}
    assert {*nodes(assets).values()} == {fqn("core.orders"), "add_up", "fresh"} - {
        fqn("core.orders") if name == "not_null" else name for name in unchecked
    }


READ_IN_MANY_WAYS = (
    model("core.orders", reads=["raw.orders"]),
    model("core.customers", reads=["raw.customers"]),
    model("core.sides", reads=["raw.events"], kind="EMBEDDED"),
    model("core.all", reads=["core.orders", "core.sides"]),
    model("marts.revenue", reads=["core.all"]),
    model("raw.events", kind="EXTERNAL"),
)


@pytest.mark.parametrize(
    ("upstream_names", "carrier"),
    [
        (["core.orders"], "core.orders"),
        (["marts.revenue", "core.orders"], "marts.revenue"),
        (["core.all", "core.orders"], "core.all"),
        (["raw.events", "core.orders"], "core.orders"),
        (["raw.events"], "core.all"),
        (["raw.orders"], "core.orders"),
        (["core.sides"], "core.all"),
        (["raw.customers", "raw.orders"], "core.customers"),  # the first by name of equally deep models
        (["raw.nobody_reads_it"], None),
    ],
)
def test_standalone_audit_is_on_last_parent_or_first_downstream(upstream_names: list[str], carrier: str | None) -> None:
    project = manifest(*READ_IN_MANY_WAYS, standalone_audits=[standalone("add_up", upstream_names)])
    on = [check.asset_key.path for check, node in project_assets(project).node_by_check.items() if node == "add_up"]
    assert on == ([carrier.split(".")] if carrier else [])


def test_twice_as_many_models_and_standalone_audits_of_external_tables_cost_twice_as_much() -> None:
    def cost(size: int) -> int:
        models = [model(f"core.model_{number}", reads=[f"raw.table_{number}"]) for number in range(size)]
        audits = [standalone(f"audit_{number}", [f"raw.table_{number}"]) for number in range(size)]
        project = manifest(*models, standalone_audits=audits)
        return calls_of(lambda: project_assets(project))

    assert growth(cost, 50) < 2.2


def test_standalone_audit_of_models_of_another_component_has_no_check() -> None:
    """This also holds if it reads an external table that one of our models reads."""
    for upstream_names in (["core.all"], ["core.all", "raw.orders"]):
        project = manifest(
            *READ_IN_MANY_WAYS, selected=["core.orders"], standalone_audits=[standalone("theirs", upstream_names)]
        )
        assert (project_assets(project).standalone_audits, len(project_assets(project).checks)) == ({}, 1)


def test_standalone_audits_with_similar_names_have_one_check_each() -> None:
    alike = [standalone(name, ["core.orders"], check_name="not_null") for name in ("not null", "not-null", "not_null")]
    assets = project_assets(manifest(model("core.orders", audits=(audit("not_null"),)), standalone_audits=alike))
    assert nodes(assets) == {
        "not_null": fqn("core.orders"),
        "not_null_79511543": "not null",
        "not_null_2a93d711": "not-null",
        "not_null_b64e9560": "not_null",
    }


# -- from keys to models --------------------------------------------------------------------------


def test_nodes_have_readable_names_with_the_catalog_if_it_is_another() -> None:
    there = model("s.orders", fqn='"there"."s"."orders"', name_with_catalog="there.s.orders")
    audits = [standalone("add_up", ["s.orders"])]
    assets = project_assets(manifest(model("s.orders"), there, selected=["s.orders"], standalone_audits=audits))
    assert [assets.name(node) for node in (*assets.models, "add_up")] == ["s.orders", "there.s.orders", "add_up"]


def test_assets_are_in_topological_order() -> None:
    names = ["z.source", "a.middle", "b.last"]
    chain = [model(names[0]), model(names[1], reads=[names[0]]), model(names[2], reads=[names[1]])]
    assert project_assets(manifest(*chain)).parents_first == tuple(map(fqn, names))


def test_asset_with_partitions_is_refused() -> None:
    """Dagster would show the partition of a run as materialized, regardless of what SQLMesh computed."""

    def partitioned(spec: dg.AssetSpec, _: Model) -> dg.AssetSpec:
        return spec.replace_attributes(partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))

    with pytest.raises(ConfigurationError, match=r"Model core\.orders \(.*\) has a `partitions_def`\. SQLMesh itself"):
        project_assets(manifest(ORDERS), asset=partitioned)


def test_views_and_standalone_audits_show_the_rows_of_tables() -> None:
    view = model("marts.view", reads=["core.orders"], kind="VIEW")
    outer = model("marts.outer", reads=["marts.view", "staging.orders"], kind="VIEW")
    stored_rows = model("marts.stored", reads=["core.orders"], kind="VIEW", stores_rows=True)
    fresh = standalone("fresh", reads=["marts.outer"])
    assets = project_assets(manifest(ORDERS, STAGING, READER, view, outer, stored_rows, standalone_audits=[fresh]))
    assert assets.shown_tables(view.fqn) == {ORDERS.fqn}
    assert assets.shown_tables(outer.fqn) == {view.fqn, ORDERS.fqn, STAGING.fqn}
    assert assets.shown_tables("fresh") == {outer.fqn, view.fqn, ORDERS.fqn, STAGING.fqn}
    assert [assets.shown_tables(of.fqn) for of in (READER, stored_rows)] == [set(), set()]
