import hashlib
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.landmarks import fetch

CONTENT = {"a.tflite": b"first", "b.tflite": b"second"}


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Two small files stand for the models; a list of the downloads that were made."""
    downloads = []

    def download(work):
        downloads.append(work)
        with zipfile.ZipFile(work / "some.whl", "w") as wheel:
            for name, data in CONTENT.items():
                wheel.writestr(f"package/modules/{name}", data)
            wheel.writestr("package/code.py", "raise SystemExit")

    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
    monkeypatch.setattr(fetch, "SHA256", hashes)
    monkeypatch.setattr(fetch, "_download", download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(fetch.VARIABLE, raising=False)
    return downloads


def read(found):
    return {name: path.read_bytes() for name, path in found.items()}


def test_files_are_fetched_once_and_nothing_else_is_left(published):
    assert read(fetch.models()) == CONTENT
    assert read(fetch.models()) == CONTENT
    assert len(published) == 1
    assert sorted(each.name for each in fetch.cache().iterdir()) == [".lock", *CONTENT]


def test_many_at_once_fetch_once(published):
    with ThreadPoolExecutor(8) as pool:
        assert all(read(found) == CONTENT for found in pool.map(lambda _: fetch.models(), range(8)))
    assert len(published) == 1


def test_a_damaged_file_is_fetched_again(published):
    fetch.models()["b.tflite"].write_bytes(b"secon")
    assert read(fetch.models()) == CONTENT
    assert len(published) == 2


def test_another_file_than_the_published_one_is_refused(published, monkeypatch):
    monkeypatch.setitem(fetch.SHA256, "b.tflite", "0" * 64)
    with pytest.raises(InputError, match=r"b\.tflite is another"):
        fetch.models()
    assert not (fetch.cache() / "b.tflite").exists()


def test_a_folder_of_ones_own_is_used_without_network(published, monkeypatch, tmp_path):
    monkeypatch.setenv(fetch.VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match=r"has no a\.tflite"):
        fetch.models()
    for name, data in CONTENT.items():
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep" / name).write_bytes(data)
    assert read(fetch.models()) == CONTENT
    (tmp_path / "deep/a.tflite").write_bytes(b"else")
    with pytest.raises(InputError, match="sha256 differs"):
        fetch.models()
    assert not published


def test_no_network_is_one_line_that_says_what_to_do(monkeypatch, tmp_path):
    said = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: no such host\n")
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: said)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(fetch.VARIABLE, raising=False)
    with pytest.raises(InputError, match=fetch.VARIABLE) as caught:
        fetch.models()
    assert "ERROR: no such host" in str(caught.value)
    assert "\n" not in str(caught.value)
