"""One message of each type."""

from unit.protocol.messages import D1, PROJECT, TABLES

from dg_sqlmesh_component.capabilities.plans import messages as msg

MESSAGES = (
    msg.ClosePreviewRequest(PROJECT, "pr_1", job=msg.JobSettings("c0ffee")),
    msg.TakeBackRequest(PROJECT, "prod", plans=frozenset({"p1"}), interrupted=(D1,)),
    msg.PreviewRequest(PROJECT, "pr_1", TABLES, diff=msg.DiffLimits(max_rows=5, decimals=2)),
    msg.PlanRequest(
        PROJECT, "prod", TABLES, applies=True, job=msg.JobSettings("c0ffee", 2.5), sampling=msg.Sampling(5)
    ),
    msg.PlanBuilt(
        "prod",
        "p2",
        "p1",
        {"models": "ab12"},
        (
            msg.PlannedModel(
                '"t"."a"',
                "t.a",
                "changed",
                "breaking",
                msg.PlannedRows(intervals=2),
                msg.PlannedTable(destructive=(msg.ColumnChange("x", "INT", None),)),
            ),
        ),
    ),
    msg.ModelCompared(
        "a", "t.a", 5, 6, 1, 2, 0, {"x": 0.5}, (msg.ColumnChange("y", None, "INT"),), ("id",), None, (D1,), sample=0.5
    ),
    msg.ModelCompared("a", "t.a", key_problem="no_grain", error="x", query="SELECT 1"),
    msg.ModelCompared("a", "t.a", amounts={"x": (msg.Amounts(1, 2.0, 0.0, 2.0), msg.Amounts(0))}),
    msg.LeftOut({"t.a": (D1,)}, rounds=6),
    msg.GrantsLost(("GRANT SELECT ON t.a TO b;",)),
    msg.ConcurrentRuns(0.5, {'"w"."t"."a"': ((0, 1),)}, {}, ("t.a",)),
    msg.AuditsCompared("a", "t.a", (msg.ComparedAudit("few", {"n": "1"}, True, 3, None, "x"),)),
)
