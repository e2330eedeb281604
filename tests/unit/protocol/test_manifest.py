"""The manifest: names, changed models, moved projects."""

from dataclasses import replace

import pytest
from unit.builders import audit, fqn, manifest, model, standalone

from dg_sqlmesh_component.protocol.manifest import split_fqn


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
def test_split_fqn_splits_a_quoted_name(quoted: str, parts: tuple[str, ...]) -> None:
    assert split_fqn(quoted) == parts


SHOP = manifest(
    model("core.orders", reads=["raw.orders"], path="/shop/models/orders.sql"),
    model("core.lines", reads=["raw.lines"], path="/shop/models/lines.sql"),
    model("marts.revenue", reads=["core.orders", "core.lines"], path="/shop/models/revenue.sql"),
    model("marts.report", reads=["marts.revenue"], path="/shop/models/report.sql"),
    model("blue.a", path="/shop/models/blue.sql"),
    model("blue.b", path="/shop/models/blue.sql"),
    model("raw.orders", path="/shop/external_models.yaml", kind="EXTERNAL"),
)


@pytest.mark.parametrize(
    ("files", "changed"),
    [
        (["orders"], ["core.orders", "marts.revenue", "marts.report"]),
        (["report"], ["marts.report"]),
        (["lines", "report"], ["core.lines", "marts.revenue", "marts.report"]),
        (["blue"], ["blue.a", "blue.b"]),
        ([], []),
        (["unknown"], []),
        (["orders", "unknown"], []),
    ],
    ids=str,
)
def test_changed_file_affects_its_models_and_their_downstream_models(files: list[str], changed: list[str]) -> None:
    assert SHOP.models_changed_by({f"/shop/models/{file}.sql" for file in files}) == set(map(fqn, changed))


def test_reloaded_models_keep_their_positions() -> None:
    changed = [replace(SHOP.models[index], description="new") for index in (3, 1)]
    reloaded = replace(manifest(*changed), gateway="other")
    merged = SHOP.with_models_of(reloaded)
    assert [model.fqn for model in merged.models] == [model.fqn for model in SHOP.models]
    assert [model.description == "new" for model in merged.models] == [index in (1, 3) for index in range(7)]
    assert (merged.selected, merged.gateway) == (SHOP.selected, "other")


def test_manifest_moved_to_other_folders_changes_only_file_paths() -> None:
    original = replace(
        manifest(
            model("core.orders", path="/shop/models/orders.sql", audits=(audit(path="/shop/audits/a.sql"),)),
            model("core.lines", path="/more/models/lines.sql"),
            model("core.shopping", path="/shopping/models/shopping.sql"),
            model("core.elsewhere", path=None),
            standalone_audits=[standalone("add_up", ["core.orders"])],
        ),
        paths=("/shop", "/more"),
    )
    moved = original.at(("/there", "/shop"))
    assert moved.paths == ("/there", "/shop")
    assert {model.name: model.path for model in moved.models} == {
        "core.orders": "/there/models/orders.sql",
        "core.lines": "/shop/models/lines.sql",
        "core.shopping": "/shopping/models/shopping.sql",
        "core.elsewhere": None,
    }
    assert [audit.path for model in moved.models for audit in model.audits] == ["/there/audits/a.sql"]
    [moved_audit], [original_audit] = (project.standalone_audits for project in (moved, original))
    assert (
        (moved_audit.audit.path or "").replace("/there/", "/shop/")
        == original_audit.audit.path
        != moved_audit.audit.path
    )
    assert moved.at(original.paths) == original
    assert original.at(original.paths) is original
