"""The result of the check for late data."""

from typing import Any

import dagster as dg
import pytest
from unit.builders import days, external_models, manifest, model, plain, project_assets

from dg_sqlmesh_component.capabilities.sources.late_check import Compared, late_data_result
from dg_sqlmesh_component.protocol.formatting import ranges
from dg_sqlmesh_component.report.wording import Wording

ORDERS = model("core.orders", reads=["raw.a"], kind="INCREMENTAL_BY_TIME_RANGE")
ASSETS = project_assets(manifest(ORDERS), outside=external_models(wait=True, late="warn"))
CHECK = dg.AssetCheckKey(dg.AssetKey(["core", "orders"]), "sqlmesh_no_late_data")


@pytest.mark.parametrize(
    ("late", "sources", "text"),
    [
        (
            (days(1, 2), days(4, 5)),
            (["raw/a"], []),
            "raw/a was loaded after core.orders was computed for 2026-01-01 to 2026-01-02 (2 days), 2026-01-04 to "
            "2026-01-05 (2 days). To read the new rows, launch a run of the model with "
            "`restate: {start: '2026-01-01', end: '2026-01-05'}` in the run config.",
        ),
        ((), (["raw/a"], []), "No partition of raw/a was loaded after core.orders was computed for it."),
        (
            (),
            ([], ["raw/b"]),
            "No asset with time-window partitions loads what core.orders reads. Not compared, because it has no "
            "time-window partitions: raw/b.",
        ),
    ],
    ids=["late", "not late", "not compared"],
)
def test_check_of_late_data_names_sources_and_the_range_to_restate(late: Any, sources: Any, text: str) -> None:
    compared = Compared(late=late)
    result = late_data_result(Wording(ASSETS, "prod"), CHECK, compared, sources)
    assert (result.passed, result.severity, result.description) == (not late, dg.AssetCheckSeverity.WARN, text)
    assert Compared.stored_in(result.metadata) == compared
    assert plain(dict(result.metadata)).get("sqlmesh/late") == (ranges(late) if late else None)
