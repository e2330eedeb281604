"""A plan that changes the environment during a run."""

import time

import dagster as dg
import pytest
from harness import NewShop, version_of, wait_until
from postgres import postgres_server

WAITING_QUERY = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted"
MODEL = "MODEL (name t.{name}, kind FULL, start '{start}'); SELECT 1 AS id, {pause} AS paused {source}"


@pytest.mark.parametrize("is_removed", [False, True], ids=["models changed", "a model removed"])
def test_plan_during_run_restarts_sqlmesh_and_each_computed_version_is_recorded_once(
    new_shop: NewShop, is_removed: bool
) -> None:
    start = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 6 * 86400))
    today = time.strftime("%Y-%m-%d", time.gmtime())
    pause = f"CASE WHEN @execution_ds >= '{today}' THEN pg_advisory_xact_lock(7)::text ELSE '' END"
    with postgres_server() as server:
        server.query("CREATE DATABASE landing")
        files = {
            "models/first.sql": MODEL.format(name="first", start=start, pause="''", source=""),
            "models/slow.sql": MODEL.format(name="slow", start=start, pause=pause, source="FROM t.first"),
            "models/last.sql": MODEL.format(name="last", start=start, pause="''", source="FROM t.slow"),
        }
        shop = new_shop(files, server.config("landing"))
        if not is_removed:  # the run begins before it is promoted
            new = MODEL.format(name="new", start=start, pause="''", source="FROM t.last")
            (shop.project / "models" / "new.sql").write_text(new)
        before = shop.state()["intervals"]
        with server.advisory_lock(7, "landing"):  # t.slow waits for this lock until the plan is applied
            process = shop.start()
            wait_until(lambda: bool(server.query(WAITING_QUERY)), process)
            if is_removed:
                (shop.project / "models" / "last.sql").unlink()
            else:
                for name, source in {"first": "", "last": "FROM t.slow"}.items():
                    changed = MODEL.format(name=name, start=start, pause="'changed'", source=source)
                    (shop.project / "models" / f"{name}.sql").write_text(changed)
            shop.plan()
        run_id = process.communicate(timeout=200)[0].split()[-1]
        stored = shop.state()
        after = stored["intervals"]
        record = shop.run_record(run_id)
        assert "A plan changed the environment during the run: SQLMesh starts over" in record.log
        if is_removed:
            assert record.status == dg.DagsterRunStatus.FAILURE
            assert record.status_of("t/last") == "not_in_environment"
            assert set(record.materializations) == {"t/first", "t/slow"}
            return
        assert record.status == dg.DagsterRunStatus.SUCCESS, record.failures
        events = record.events(dg.DagsterEventType.ASSET_MATERIALIZATION)
        recorded = [event.event_specific_data.materialization for event in events]
        names = [materialization.asset_key.path[-1] for materialization in recorded]
        assert names == ["first", "slow", "first", "slow", "last", "new"], "t.first was executed before the plan"
        assert len(set(map(version_of, recorded))) == 6
        for name, materialization in zip(names[2:], recorded[2:]):
            fqn = f'"landing"."t"."{name}"'
            assert version_of(materialization) == stored["versions"][fqn], "the version that ran, not that at the start"
            assert (materialization.tags or {})["dagster/code_version"] == stored["data_hashes"][fqn]
        assert all(after[fqn] > before.get(fqn, 0) for fqn in after)
        assert server.query("SELECT paused FROM t.last", "landing") == [("changed",)]


@pytest.mark.advice("To restate them too, launch the same restatement again.")
def test_a_restatement_during_which_a_plan_promotes_other_versions_asks_for_another_one(new_shop: NewShop) -> None:
    start, end, today = (time.strftime("%Y-%m-%d", time.gmtime(time.time() - days * 86400)) for days in (6, 1, 0))
    pause = f"CASE WHEN @execution_ds >= '{today}' THEN pg_advisory_xact_lock(7)::text ELSE '' END"
    with postgres_server() as server:
        server.query("CREATE DATABASE landing")
        files = {"models/slow.sql": MODEL.format(name="slow", start=start, pause=pause, source="")}
        shop = new_shop(files, server.config("landing"), restate=True)
        with server.advisory_lock(7, "landing"):  # t.slow waits for this lock until the plan is applied
            process = shop.start(ops={"sqlmesh_shop": {"restate": {"start": start, "end": end}}})
            wait_until(lambda: bool(server.query(WAITING_QUERY)), process)
            changed = MODEL.format(name="slow", start=start, pause="'changed'", source="")
            (shop.project / "models" / "slow.sql").write_text(changed)
            shop.plan()
        record = shop.run_record(process.communicate(timeout=200)[0].split()[-1])
        [failure] = record.failed().failures
        assert "deployed new versions of 1 models" in failure
        assert "launch the same restatement again" in failure
        assert "named no model that failed" not in failure
        assert record.status_of("t/slow") == "executed"
        again = shop.launch(ops={"sqlmesh_shop": {"restate": {"start": start, "end": end}}}).succeeded()
        assert again.status_of("t/slow") == "executed"
