"""The file of a report: it is written before the job does anything, and once more at the end."""

import json
from pathlib import Path

import dagster as dg
import pytest
from unit.capabilities.plans.plans import drops, plan, planned

from dg_sqlmesh_component.capabilities.plans.report import Planned, PlanReport
from dg_sqlmesh_component.capabilities.plans.report_file import begin_report, write_report

REPORT = PlanReport("prod")


def test_report_of_earlier_job_is_replaced_by_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.json"
    file.write_text('{"digest": "of the job before"}')
    monkeypatch.setenv("DG_SQLMESH_REPORT", str(file))
    begin_report(REPORT)
    report = json.loads(file.read_text())
    assert report["digest"] == ""
    assert [(refusal["kind"], refusal["message"][:27]) for refusal in report["refusals"]] == [
        ("error", "The job has not finished. I")
    ]


def test_report_that_cannot_be_written_at_the_end_is_an_error_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / "missing" / "report.json"))
    write_report(REPORT, dg.build_op_context().log)
    assert "ERROR" in (line := capsys.readouterr().err)
    assert "The report cannot be written" in line


@pytest.mark.parametrize(("name", "files"), [("a.md", ["a.md"]), ("a.json", ["a.json"]), ("a", ["a.json", "a.md"])])
def test_the_suffix_decides_the_format_and_without_one_there_are_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: list[str]
) -> None:
    monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / name))
    write_report(REPORT, dg.build_op_context().log)
    assert sorted(file.name for file in tmp_path.iterdir()) == files


COMMAND = """dg launch --job shop_apply --config-json '{"ops": {"shop_apply": {}}}'"""


@pytest.mark.parametrize(("losses", "digest", "command"), [(1, "d1", COMMAND), (1_000, "", None)])
def test_digest_and_command_are_left_out_if_no_comment_can_show_all_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: int, digest: str, command: str | None
) -> None:
    """CI would apply what nobody could read. The page of the run has them."""
    monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / "a"))
    lost = [planned(f"m{n}", f"t.m{n}", "changed", destructive=drops("amount")) for n in range(losses)]
    report = PlanReport("prod", prod=Planned(plan(*lost), digest="d1", apply_config={"ops": {"shop_apply": {}}}))
    write_report(report, dg.build_op_context().log)
    written = json.loads((tmp_path / "a.json").read_text())
    assert (written["digest"], written["command"], len(written["models"])) == (digest, command, losses)
    assert ("d1" in (tmp_path / "a.md").read_text()) == bool(digest)
    assert report.as_json().items() >= {"digest": "d1", "command": COMMAND}.items(), "for the page of the run"


def test_another_suffix_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DG_SQLMESH_REPORT", str(tmp_path / "a.txt"))
    with pytest.raises(dg.Failure, match=r"must end in \.md or \.json, or have no suffix"):
        begin_report(REPORT)


def test_no_report_is_written_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DG_SQLMESH_REPORT", raising=False)
    begin_report(REPORT)
