"""Files behave the same on disk and in the cloud."""

import os
from pathlib import Path

import pytest

from omnihuman_jax import storage
from omnihuman_jax.errors import InputError
from tests.cloud import cloud

__all__ = ["cloud"]  # a fixture


@pytest.fixture(params=["disk", "cloud"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path)
    folder = storage.join(request.getfixturevalue("cloud"), request.node.name)
    storage.write_bytes(storage.join(folder, "elsewhere/file"), b"")
    return folder


def test_what_is_written_is_read_whole_and_in_ranges(root: str) -> None:
    path = storage.join(root, "a/b/numbers")
    assert not storage.is_file(path)
    storage.write_bytes(path, bytes(range(200)))
    assert storage.is_file(path)
    assert not storage.is_file(storage.join(root, "a/b"))
    assert storage.read_bytes(path) == bytes(range(200))
    reader = storage.Reader(path)
    seen: list[tuple[int, bytes]] = []
    reader.observer = lambda offset, data: seen.append((offset, data))
    assert (reader.size, reader.read(7, 3), reader.read(200, 0)) == (200, b"\7\10\11", b"")
    assert seen == [(7, b"\7\10\11"), (200, b"")]
    with pytest.raises(InputError, match="cut short"):
        reader.read(198, 3)
    reader.close()


def test_files_are_listed_below_a_folder_and_nowhere_else(root: str) -> None:
    for name in ("x/one", "x/deep/two", "xx/three"):
        storage.write_bytes(storage.join(root, name), b"12")
    assert storage.files(storage.join(root, "x")) == {"deep/two": 2, "one": 2}
    assert storage.files(storage.join(root, "x"), deep=False) == {"one": 2}
    assert storage.files(storage.join(root, "nothing")) == {}
    storage.remove(storage.join(root, "x"))
    assert storage.files(storage.join(root, "x")) == {}
    assert storage.is_file(storage.join(root, "xx/three"))
    storage.remove(storage.join(root, "xx/three"))
    storage.remove(storage.join(root, "xx/three"))  # not there: nothing happens


def test_a_file_appears_whole_or_not_at_all(root: str) -> None:
    path = storage.join(root, "whole")
    with pytest.raises(RuntimeError), storage.writing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert not any(name.startswith((".", "whole")) for name in storage.files(root))
    with storage.writing(path) as file:
        file.write(b"first ")
        file.write(memoryview(b"second"))
    assert storage.read_bytes(path) == b"first second"


def test_a_copy_stays_as_it_is_when_the_other_is_replaced(root: str) -> None:
    one, other = storage.join(root, "one"), storage.join(root, "b/other")
    storage.write_bytes(one, b"1")
    storage.write_bytes(other, b"2")
    storage.copy(one, other)
    assert storage.read_bytes(other) == b"1"
    if not storage.is_remote(root):
        assert Path(one).stat().st_ino == Path(other).stat().st_ino, "no more room is taken"
    storage.write_bytes(one, b"3")
    assert storage.read_bytes(other) == b"1"
    assert set(storage.files(root)) >= {"one", "b/other"} and not any(
        name.startswith(".") for name in storage.files(root)
    )
    with pytest.raises(InputError, match="nowhere"):
        storage.copy(storage.join(root, "nowhere"), other)


def test_a_copy_from_disk_to_cloud_and_back_is_the_same(cloud: str, tmp_path: Path) -> None:
    here, there = str(tmp_path / "x"), f"{cloud}/copied/x"
    storage.write_bytes(here, b"12")
    storage.copy(here, there)
    storage.copy(there, f"{here}2")
    assert storage.read_bytes(f"{here}2") == b"12"


def test_identity_changes_with_the_content(root: str) -> None:
    path = storage.join(root, "changing")
    storage.write_bytes(path, b"one")
    before = storage.identity(path)
    assert storage.identity(path) == before
    storage.write_bytes(path, b"two!")
    assert storage.identity(path) != before


def test_a_reader_keeps_to_one_version(root: str) -> None:
    path = storage.join(root, "changing")
    storage.write_bytes(path, bytes(range(200)))
    assert storage.identities(root) | {} == {
        name: storage.identity(storage.join(root, name)) for name in storage.files(root)
    }
    before = storage.identity(path)
    reader = storage.Reader(path, before)
    view = reader.view(7, 3)
    assert view.tolist() == [7, 8, 9] and not view.flags.writeable
    storage.write_bytes(path, bytes(200))
    try:
        assert reader.read(7, 3) == b"\7\10\11"  # a disk still has it
    except InputError as why:
        assert storage.is_remote(root) and "was replaced or removed" in str(why)
    if not storage.is_remote(root):  # gs:// says so at the first read
        with pytest.raises(InputError, match="was replaced or removed"):
            storage.Reader(path, before)
    assert storage.Reader(path, storage.identity(path)).read(7, 3) == bytes(3)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_process_has_connections_of_its_own(cloud: str) -> None:
    """A parent's connection, used by both, would mix their answers."""
    storage.write_bytes(f"{cloud}/one", b"1" * 1000)
    reader = storage.Reader(f"{cloud}/one")
    assert reader.read(0, 3) == b"111"
    client = storage._client()
    child = os.fork()
    if child == 0:
        good = reader.read(3, 3) == b"111" and storage._client() is not client
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert reader.read(6, 3) == b"111" and storage._client() is client


def test_a_file_cut_short_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(bytes(200))
    reader = storage.Reader(str(path))
    os.truncate(path, 100)
    for read in (reader.read, reader.view):
        with pytest.raises(InputError, match="was cut short while it was read"):
            read(50, 100)


def test_a_missing_file_is_named(root: str) -> None:
    missing = storage.join(root, "missing")
    for use in (storage.read_bytes, storage.identity, storage.Reader):
        with pytest.raises(InputError, match="missing"):
            use(missing)
    with pytest.raises(InputError, match="names no bucket"):
        storage.read_bytes("gs:///name")


def test_a_folder_replaces_another(tmp_path: Path) -> None:
    for name in ("old", "new"):
        storage.write_bytes(str(tmp_path / name / name), b"")
    storage.replace_folder(str(tmp_path / "new"), str(tmp_path / "old"))
    assert storage.files(str(tmp_path)) == {"old/new": 0}
