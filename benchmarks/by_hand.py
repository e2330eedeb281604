"""The same assets and checks as handwritten Python without SQLMesh: the least that Dagster costs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import dagster as dg

MODULE = """
from collections import defaultdict
from pathlib import Path

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.events import AssetObservationData, StepMaterializationData
from dagster._serdes import deserialize_value

RESULTS = {results!r}


@dg.multi_asset(
    name="project",
    specs=[
        {specs},
    ],
    check_specs=[
        {checks},
    ],
    can_subset=True,
)
def project(context):
    events, runless = deserialize_value(Path(RESULTS).read_text(), list)
    outside = {{asset.asset_key: asset for asset in runless}}
    checks = defaultdict(list)
    for event in events:
        if isinstance(event, AssetCheckEvaluation):
            checks[event.asset_key].append(
                dg.AssetCheckResult(
                    passed=event.passed, asset_key=event.asset_key, check_name=event.check_name,
                    metadata=event.metadata, severity=event.severity, description=event.description,
                )
            )
    for event in events:
        if isinstance(event, StepMaterializationData):
            asset = event.materialization
            if asset.asset_key in outside:
                context.instance.report_runless_asset_event(outside[asset.asset_key])
            version = asset.tags["dagster/data_version"]
            tags = {{"dagster/code_version": asset.tags["dagster/code_version"]}}
            yield dg.MaterializeResult(
                asset_key=asset.asset_key, metadata=asset.metadata, tags=tags, data_version=dg.DataVersion(version),
                check_results=checks[asset.asset_key],
            )
        elif isinstance(event, AssetObservationData):
            yield event.asset_observation
            yield from checks[event.asset_observation.asset_key]
"""


def module(root: Path, results: Path | str = "") -> str:
    """A module with the assets of the Dagster project `root`. Its op records the events in `results` again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == root.name]:
        del sys.modules[name]  # it belongs to the project of another size
    sys.path.insert(0, str(root))
    try:
        definitions = importlib.import_module(f"{root.name}.definitions").defs()
    finally:
        sys.path.remove(str(root))
    [asset] = definitions.assets
    return MODULE.format(
        specs=",\n        ".join(map(spec_code, asset.specs)),
        checks=",\n        ".join(map(check_code, asset.check_specs)),
        results=str(results),
    )


def code(value: Any) -> str:
    """The Python expression of a value."""
    match value:
        case dg.AssetKey():
            return f"dg.AssetKey({list(value.path)!r})"
        case dg.AssetDep():
            more = f", metadata={code(dict(value.metadata))}" if value.metadata else ""
            return f"dg.AssetDep({code(value.asset_key)}{more})"
        case dg.TableSchema():
            columns = (
                f"dg.TableColumn(name={c.name!r}, type={c.type!r}, description={c.description!r})"
                for c in value.columns
            )
            return f"dg.TableSchema(columns=[{', '.join(columns)}])"
        case dg.TableSchemaMetadataValue():
            return code(value.schema)
        case dg.CodeReferencesMetadataValue():
            return f"dg.CodeReferencesMetadataValue(code_references=[{', '.join(map(code, value.code_references))}])"
        case dg.LocalFileCodeReference():
            return f"dg.LocalFileCodeReference(file_path={value.file_path!r}, line_number={value.line_number!r})"
        case dg.MetadataValue():
            return repr(value.value)
        case dict():
            return "{" + ", ".join(f"{key!r}: {code(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(code, value)) + "]"
        case _:
            assert value is None or isinstance(value, (str, int, float, bool)), value
            return repr(value)


def spec_code(spec: dg.AssetSpec) -> str:
    arguments = {
        "deps": list(spec.deps),
        "description": spec.description,
        "metadata": {key: value for key, value in spec.metadata.items() if key != "dagster/component_origin"},
        "group_name": spec.group_name,
        "code_version": spec.code_version,
        "owners": list(spec.owners),
        "tags": dict(spec.tags),
    }
    written = ", ".join(f"{name}={code(value)}" for name, value in arguments.items())
    return f"dg.AssetSpec({code(spec.key)}, {written})"


def check_code(check: dg.AssetCheckSpec) -> str:
    return (
        f"dg.AssetCheckSpec({check.name!r}, asset={code(check.asset_key)}, description={check.description!r}, "
        f"blocking={check.blocking!r}, metadata={code(dict(check.metadata or {}))})"
    )
