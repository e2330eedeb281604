"""One message of each type of the core. `unit/capabilities` has those of the capabilities, in a module each."""

from dataclasses import replace

from unit.builders import EVERYTHING, days, manifest, model, standalone

from dg_sqlmesh_component.protocol import messages as msg

PROJECT = msg.OpenProject(paths=("/shop", "/core"), gateway="local", environment=None, config=None)

D1, D2 = days(1, 1), days(2, 2)

RECORDS = msg.Records({"a": msg.RecordedData("1", D1[1], "2", "3"), "b": None})
TABLES = msg.AwaitedTables({"a": (D1, D2)}, {"b": msg.TablesRead("2", ("a",))}, are_all=False)

PROMOTED = msg.PromotedVersion(version="3117", data_hash="1001", metadata_hash="2001", table_name="db.core.orders")

ADD_UP = replace(PROMOTED, table_name=None)

HELD_BACK = msg.HeldBack((msg.Cause("signal", "b", ("landed",)), msg.Cause("bounds", "c", gap=(D2,))), (D1,))

EVENTS: tuple[msg.Event, ...] = (
    msg.ProjectLoaded(
        manifest(EVERYTHING, model("staging.orders"), standalone_audits=[standalone("add_up", ["core.orders"])])
    ),
    msg.OtherTablesFound(("a", "b")),
    msg.StateHeld("3f1c"),
    msg.StateLocked(),
    msg.DataComparedWithRecords((msg.ComputedData("a", PROMOTED, ((D1, D2[1]),)),)),
    msg.RestatementPlanned({"a": (D1, 1)}, ("a",), {"dev": 2}, "from a to b", only_pending=("b",), later=("c",)),
    msg.EnvironmentOpened("prod", {"a": PROMOTED, "add_up": ADD_UP}, ("b",), "cd /shop && sqlmesh plan"),
    msg.EvaluationPlanned(
        {"a": (D1, D2), "b": ()},
        {"a": HELD_BACK},
        earlier_rows={"a": msg.EarlierRows(msg.AuditedData("3117", "4001"), D2[0])},
    ),
    msg.AuditEvaluated("a", "not_null", 1, "2f1c2d5e", True, None, None, D1),
    msg.AuditEvaluated("a", "n", 0, "", True, 1, None, D1, sample=msg.Sample(("id", "x"), (("1", None),))),
    msg.BatchFinished("a", 0, D1, duration_ms=None, rows=10, bytes=None),
    msg.BatchStarted("a"),
    msg.QueriesNotCancelled({"a": "there is no way to cancel a query of the driver pymssql"}),
    msg.BatchesRunning({"a": (3, 12, 61.5)}, finished=2, planned=5),
    msg.TableComputed("a", 1_234),
    msg.NodeFailed("a", "NodeAuditsErrors", "Audit not_null failed", ("not_null",), is_transient=True),
    msg.NodesBlocked({"b": ("a",), "c": ()}),
    msg.NodeIdle("a", "its cron '@daily' is not due", D2[0]),
    msg.NodeIdle("a", held_back=HELD_BACK),
    msg.UnacceptedRowsShown({"b": {"a": (D1, D2)}}),
    msg.NodesUpToDate(("a", "b")),
    msg.IntervalCoverage("a", D1, (D1,), 21, 30, 5, (D2,), (D1,)),
    msg.NodeAudited("a", (D1, D2), None),
    msg.SecretsKnown(("hunter2", "")),
    msg.LogLine("warning", "text", "sqlmesh"),
    msg.EvaluationFinished("nothing_to_do"),
    msg.RequestFailed("EvaluationError", "The connection was lost.", is_transient=True),
)
"""One example of each event. An optional field is None in one example and set in another."""
