"""`dg scaffold defs`, run like a user does, and the files that it creates."""

import re
from typing import Any

import pytest
from harness import COMPONENT, DagsterProject, write_project
from scaffolded import ONE_MODEL, dg, read_defs_yaml


def test_flags_write_the_same_yaml_as_json_params(dagster: DagsterProject) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--project-path", "shop", "--environment", "dev")
    assert read_defs_yaml(dagster, "shop")["attributes"] == {"project": {"path": "../../../shop", "environment": "dev"}}


def test_init_works_with_json_params(dagster: DagsterProject) -> None:
    dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--json-params", '{"init": true, "project_path": "shop"}')
    assert (dagster.root / "shop" / "config.yaml").is_file()
    assert read_defs_yaml(dagster, "shop")["attributes"] == {
        "project": "../../../shop",
        "external_models": {"assets": True},
        "include_metadata": ["row_count"],
    }


def advised(part: str, wrong: list[str], *corrected: list[str], marks: Any = ()) -> Any:
    """Return a row: a part of the advice, arguments that are refused, and arguments of each correction."""
    return pytest.param(part, wrong, corrected, id=part, marks=marks)


SHOP = ["--project-path", "shop"]


# Each `dg` command starts Python and imports Dagster.
@pytest.mark.parametrize(
    ("part", "wrong", "corrected"),
    [
        advised(
            "There is no folder {}. Nothing was written. Correct --project-path.",
            ["x", "--project-path", "nowhere"],
            ["x", *SHOP],
        ),
        advised(
            "Nothing was written. Correct --project-path.",
            ["x", "--project-path", "."],
            ["x", *SHOP],
            marks=pytest.mark.night,
        ),
        advised(
            "Name the SQLMesh project with --project-path <folder>, or create a starter project with --init.",
            ["x"],
            ["x", *SHOP],
            ["y", "--init"],
        ),
        advised(
            "Leave out --gateway. To use another project, leave out --init, and name it with --project-path.",
            ["x", "--init", "--gateway", "local"],
            ["x", "--init"],
            ["y", "--gateway", "local", *SHOP],
            marks=pytest.mark.night,
        ),
        advised(
            "To use the project in it, pass it as --project-path and leave out --init. To create a starter project "
            "elsewhere, pass a new folder as --project-path.",
            ["x", "--init", *SHOP],
            ["x", *SHOP],
            ["y", "--init", "--project-path", "new"],
            marks=pytest.mark.night,
        ),
    ],
)
def test_wrong_flag_is_refused_and_nothing_is_written_until_the_advice_is_followed(
    dagster: DagsterProject, part: str, wrong: list[str], corrected: list[list[str]]
) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    folder = dagster.root / dagster.root.name / "defs"
    code, output = dg(dagster, "scaffold", "defs", COMPONENT, *wrong, check=False)
    assert code == 2
    for of in part.split("{}"):
        assert of in output.split("\nError: ")[1]
    assert "Traceback" not in output
    assert not (folder / "x").exists()
    for arguments in corrected:
        dg(dagster, "scaffold", "defs", COMPONENT, *arguments)
        assert (folder / arguments[0] / "defs.yaml").is_file()


def test_misspelt_parameter_in_json_is_refused_and_nothing_is_written(dagster: DagsterProject) -> None:
    params = '{"init": true, "enviroment": "dev"}'
    code, output = dg(dagster, "scaffold", "defs", COMPONENT, "shop", "--json-params", params, check=False)
    assert code == 1
    assert '"enviroment"' in output
    assert "Extra inputs are not permitted" in output
    assert not (dagster.root / "sqlmesh_project").exists()


@pytest.mark.parametrize("file", ["defs.yaml", "component.yaml"])
def test_defs_yaml_and_component_yaml_load(dagster: DagsterProject, file: str) -> None:
    project = write_project(dagster.root.parent / "shop", ONE_MODEL)
    dagster.add_component("shop", {"project": str(project)}, file)
    assert [spec.key.to_user_string() for spec in dagster.refresh().resolve_all_asset_specs()] == ["t/one"]


def test_unknown_attribute_is_reported_with_name_and_line_at_any_depth(dagster: DagsterProject) -> None:
    write_project(dagster.root / "shop", ONE_MODEL)
    lines = [
        f"type: {COMPONENT}",
        "attributes:",
        "  project:",
        "    path: ../../../shop",
        "    enviroment: dev",
        "  execution:",
        "    retries:",
        "      max_retries: 3",
        "      backof: linear",
        "  gatewya: local",
    ]
    dagster.add_component("shop", {}).write_text("\n".join(lines))
    code, output = dg(dagster, "check", "yaml", check=False)
    assert code != 0
    errors = re.findall(r"defs\.yaml:(\d+) - .*\('(\w+)' was unexpected\)", output)
    assert sorted(errors) == [("10", "gatewya"), ("5", "enviroment"), ("9", "backof")]
