"""The manifest file: writing, reading, and refusing damaged files."""

import json
import multiprocessing
import os
import stat
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from unit.builders import EVERYTHING, manifest, model, standalone

from dg_sqlmesh_component.protocol.errors import ConfigurationError
from dg_sqlmesh_component.protocol.manifest import MANIFEST_VERSION, Manifest
from dg_sqlmesh_component.state.manifest_source import read_manifest, write_manifest

SHOP = manifest(EVERYTHING, model("staging.orders"), standalone_audits=[standalone("add_up", ["core.orders"])])
COMMAND = "dg utils refresh-defs-state"


def stored(project: Manifest, folder: Path) -> Path:
    path = folder / "state"
    write_manifest(project, path)
    return path


def refusal(path: Path) -> str:
    """Return the error for a file that cannot be read."""
    with pytest.raises(ConfigurationError) as refused:
        read_manifest(path)
    message = str(refused.value)
    assert str(path) in message
    assert message.endswith(COMMAND)
    return message


@pytest.mark.parametrize("project", [SHOP, manifest()], ids=["a project", "an empty project"])
def test_written_manifest_is_read_unchanged(project: Manifest, tmp_path: Path) -> None:
    assert read_manifest(stored(project, tmp_path)) == project


def test_file_is_replaced_and_no_temporary_file_is_left(tmp_path: Path) -> None:
    stored(SHOP, tmp_path)
    path = stored(manifest(), tmp_path)
    assert read_manifest(path) == manifest()
    assert [*tmp_path.iterdir()] == [path]


def test_file_permissions_follow_the_umask(tmp_path: Path) -> None:
    """A container image may be built by one user and run by another."""
    before = os.umask(0o027)
    try:
        path = stored(SHOP, tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_no_temporary_file_is_left_if_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(IsADirectoryError):
        stored(SHOP, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_file_that_cannot_be_opened_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    assert "cannot be read: Is a directory. Let the user who runs Dagster read it" in refusal(tmp_path / "a folder")
    assert "cannot be read: No such file or directory." in refusal(tmp_path / "nowhere")


@pytest.mark.advice("cannot be read: {}. Let the user who runs Dagster read it, or replace it")
def test_file_of_another_user_is_read_after_it_was_opened_to_all_or_replaced() -> None:
    user = os.geteuid()
    other = 65534 if user == 0 else user  # root may read every file
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = stored(SHOP, Path(folder))
        remedies: tuple[Callable[[], None], ...] = (lambda: path.chmod(0o644), lambda: write_manifest(SHOP, path))
        for remedy in remedies:
            path.chmod(0)
            os.seteuid(other)
            try:
                message = refusal(path)
            finally:
                os.seteuid(user)
            assert "cannot be read: Permission denied. Let the user who runs Dagster read it, or replace it:" in message
            remedy()
            os.seteuid(other)
            try:
                assert read_manifest(path) == SHOP
            finally:
                os.seteuid(user)


def write_often(path: Path, models: int) -> None:
    project = manifest(*(model(f"core.m{number}") for number in range(models)))
    for _ in range(30):
        write_manifest(project, path)


def test_reading_during_concurrent_writes_gives_one_complete_manifest(tmp_path: Path) -> None:
    path = stored(SHOP, tmp_path)
    model_counts = set()
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        writers = [pool.submit(write_often, path, models) for models in (50, 200)]
        while not all(writer.done() for writer in writers):
            model_counts.add(len(read_manifest(path).models))
    assert [writer.result() for writer in writers] == [None, None]
    assert model_counts <= {len(SHOP.models), 50, 200}
    assert len(model_counts) > 1, "nothing was written while it was read"
    assert [*tmp_path.iterdir()] == [path]


def test_missing_folder_is_created(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "state"
    write_manifest(SHOP, path)
    assert read_manifest(path) == SHOP


def test_same_manifest_is_stored_as_the_same_bytes(tmp_path: Path) -> None:
    assert stored(SHOP, tmp_path / "a").read_bytes() == stored(SHOP, tmp_path / "b").read_bytes()


def test_file_truncated_anywhere_is_refused(tmp_path: Path) -> None:
    path = stored(SHOP, tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"\xff", lambda _: b"\0", lambda byte: byte + b"\n\0"],
    ids=["not unicode", "a zero byte", "a byte too many"],
)
def test_file_damaged_anywhere_is_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = stored(SHOP, tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + damage(whole[place : place + 1]) + whole[place + 1 :])
        refusal(path)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"null", b"[]", b"version: 1", b'{"version": 1}', b'{"version": 1, "models": 7}'], ids=ascii
)
def test_file_with_other_content_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)
    assert "it is damaged or was written by another version" in refusal(path)


@pytest.mark.parametrize("version", [MANIFEST_VERSION - 1, MANIFEST_VERSION + 1], ids=["older", "newer"])
def test_manifest_of_another_version_is_refused(version: int, tmp_path: Path) -> None:
    message = refusal(stored(replace(SHOP, version=version), tmp_path))
    assert f"has version {version}; this dg_sqlmesh_component reads version {MANIFEST_VERSION}." in message


def test_fields_that_an_earlier_release_stored_are_ignored(tmp_path: Path) -> None:
    path = stored(SHOP, tmp_path)
    path.write_text(
        json.dumps({**json.loads(path.read_bytes()), "sqlmesh_version": "0.236.4", "default_catalog": "db"})
    )
    assert read_manifest(path) == SHOP
