"""Column lineage, and links from models to their files on the web page of their repository."""

from pathlib import Path

import pytest
from harness import run, write_project
from sqlmesh import Context

from dg_sqlmesh_component.worker.load import lineage_and_links
from dg_sqlmesh_component.worker.load.lineage_and_links import SourceUrls, column_lineage


def test_pairs_of_columns_beyond_the_limit_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage_and_links, "MAX_LINEAGE_PAIRS", 3)
    one = "MODEL (name t.one); SELECT 1 AS a, 2 AS b"
    two = "MODEL (name t.two); SELECT a + b AS c, a - b AS d, a AS e FROM t.one"
    context = Context(paths=[write_project(tmp_path, {"models/one.sql": one, "models/two.sql": two})])
    upstream = context.get_model("t.one", raise_if_missing=True).fqn
    pairs = {"c": ((upstream, "a"), (upstream, "b")), "d": ((upstream, "a"),)}
    assert column_lineage(context, context.get_model("t.two", raise_if_missing=True)) == (pairs, 2)


def repository(folder: Path, remote: str | None) -> tuple[Path, str]:
    """Create a repository with one committed model. Return the model's file and the commit."""
    model = folder / "models" / "one.sql"
    model.parent.mkdir(parents=True)
    model.write_text("MODEL (name t.one); SELECT 1 AS id")
    git = ["git", "-c", "user.name=ada", "-c", "user.email=ada@example.com"]
    run([*git, "init", "-q"], cwd=folder)
    run([*git, "add", "-A"], cwd=folder)
    run([*git, "commit", "-qm", "one"], cwd=folder)
    if remote:
        run([*git, "remote", "add", "origin", remote], cwd=folder)
    return model, run([*git, "rev-parse", "HEAD"], cwd=folder).stdout.strip()


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("https://git.example.com/team/shop.git", "https://git.example.com/team/shop/blob"),
        ("https://ada:hunter2@git.example.com/team/shop", "https://git.example.com/team/shop/blob"),
        ("git@git.example.com:team/shop.git", "https://git.example.com/team/shop/blob"),
        ("ssh://git@git.example.com:2222/team/shop.git", "https://git.example.com/team/shop/blob"),
        ("https://gitlab.example.com/group/sub/shop.git", "https://gitlab.example.com/group/sub/shop/-/blob"),
    ],
)
def test_file_is_linked_at_the_checked_out_commit(remote: str, page: str, tmp_path: Path) -> None:
    model, commit = repository(tmp_path, remote)
    assert SourceUrls().of(model) == f"{page}/{commit}/models/one.sql"


def test_file_that_is_a_link_out_of_the_repository_is_linked_as_its_name_in_it(tmp_path: Path) -> None:
    model, commit = repository(tmp_path / "shop", "git@git.example.com:team/shop.git")
    shared = tmp_path / "shared.sql"
    shared.write_text("MODEL (name t.shared); SELECT 1 AS id")
    (model.parent / "50% of #1.sql").symlink_to(shared)
    page = f"https://git.example.com/team/shop/blob/{commit}/models/50%25%20of%20%231.sql"
    assert SourceUrls().of(model.parent / "50% of #1.sql") == page


@pytest.mark.parametrize("remote", [None, "/srv/git/shop.git"])
def test_no_link_without_a_remote_on_the_web(remote: str | None, tmp_path: Path) -> None:
    model, _ = repository(tmp_path, remote)
    assert SourceUrls().of(model) is None


def test_no_link_outside_of_a_repository(tmp_path: Path) -> None:
    assert SourceUrls().of(tmp_path / "one.sql") is None
