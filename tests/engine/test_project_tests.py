"""The job of `test: true`: SQLMesh's unit tests and linter on the project's files, without a SQLMesh state."""

from contextlib import closing
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from harness import CONFIG, HAS_PREVIEWS, DagsterProject, RunRecord, dagster_project, write_project

JOB = "sqlmesh_shop_test"
# For a project with a name, SQLMesh adds the models of other projects from the state, if it may read it.
LINTER = f"{CONFIG}project: shop\nlinter:\n  enabled: true\n  rules: [noselectstar]\n  warn_rules: [nomissingaudits]\n"
MODELS = {
    "models/base.sql": "MODEL (name t.base, kind FULL, owner ann); SELECT 1 AS id, 2 AS amount",
    "models/total.sql": "MODEL (name t.total, kind FULL); SELECT sum(amount)::INT AS amount FROM t.base",
    "tests/test_total.yaml": """
        test_total:
          model: t.total
          inputs: {t.base: [{id: 1, amount: 2}, {id: 2, amount: 3}]}
          outputs: {query: [{amount: 5}]}
        test_of_one_row:
          model: t.total
          inputs: {t.base: [{id: 1, amount: 2}]}
          outputs: {query: [{amount: 2}]}
    """,
}
BROKEN_RULE = '''
from sqlmesh.core.linter.rule import Rule


class Broken(Rule):
    """Raises an error."""

    def check_model(self, model):
        raise RuntimeError("the rule is broken")
'''


def run_tests(dagster: DagsterProject, job: dg.JobDefinition) -> RunRecord:
    return dagster.run_record(job.execute_in_process(instance=dagster.instance, raise_on_error=False).run_id)


@pytest.mark.advice("To turn it on, set `linter: {enabled: true}` in SQLMesh's configuration.")
@pytest.mark.attribute("test")
def test_unit_tests_and_linter_run_without_a_plan_and_fail_with_the_differences(tmp_path: Path) -> None:
    project = write_project(tmp_path / "shop", MODELS)
    with dagster_project(tmp_path / "dagster") as dagster:
        dagster.add_component("shop", {"project": str(project), "test": True})
        job = dagster.refresh().resolve_job_def(JOB)
        passed = run_tests(dagster, job).succeeded()
        assert "2 unit tests passed. The linter is off." in passed.log
        assert passed.job_metadata == {
            "unit_tests": 2,
            "failed_unit_tests": 0,
            "linted_models": 0,
            "lint_errors": 0,
            "lint_warnings": 0,
        }

        write_project(project, {"models/total.sql": "MODEL (name t.total, kind FULL); SELECT * FROM t.base"}, LINTER)
        (project / "tests/test_total.yaml").write_text(
            "test_total:\n  model: t.total\n  inputs: {t.base: [{id: 1, amount: 2}]}\n"
            "  outputs: {query: [{id: 1, amount: 7}]}\n"
        )
        failed = run_tests(dagster, job)
        [failure] = failed.failures
        assert failure.startswith("1 of 1 unit test failed. The linter checked 2 models: 1 error, 2 warnings.")
        assert "The unit test test_total (" in failure
        assert "exp act\n    0      7   2" in failure
        assert "t.total: noselectstar: " in failure
        assert "t.total: nomissingaudits: " in failed.log
        assert failed.job_metadata["failed_unit_tests"] == failed.job_metadata["lint_errors"] == 1

        write_project(project, {"linter/broken.py": BROKEN_RULE}, LINTER.replace("[noselectstar]", "[broken]"))
        [broken] = run_tests(dagster, job).failures
        assert "SQLMesh cannot execute its tests and linter: RuntimeError: the rule is broken" in broken

        (project / "models/total.sql").write_text("MODEL (name t.total, kind FULL); SELEC 1")
        [refused] = run_tests(dagster, job).failures
        assert "SQLMesh cannot load the project at" in refused
    if HAS_PREVIEWS:  # SQLMesh 0.235 reads the state of a project with a name
        with closing(duckdb.connect(str(project / "warehouse.duckdb"))) as database:
            assert database.sql("SELECT * FROM information_schema.tables").fetchall() == []
