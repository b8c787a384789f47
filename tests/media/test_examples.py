"""The example inputs: there, readable, small, and those whose origin is written beside them."""

import hashlib

import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.media import example, read_audio, read_image
from omnihuman_jax.media.examples import FOLDER


def test_they_can_be_used():
    assert read_image(example("portrait.jpg")).shape == (512, 512, 3)
    assert 3 < len(read_audio(example("speech.flac"))) / 16_000 < 5


def test_every_one_has_its_source_written_down_and_they_are_small():
    sources = (FOLDER / "SOURCES.md").read_text()
    files = [file for file in FOLDER.iterdir() if file.name != "SOURCES.md"]
    for file in files:
        assert f"`{file.name}` | `{hashlib.sha256(file.read_bytes()).hexdigest()}`" in sources
    assert sum(file.stat().st_size for file in files) < 300_000


@pytest.mark.parametrize("name", ["nobody.jpg", "../errors.py", "SOURCES.md", ""])
def test_others_are_refused_with_what_there_is(name):
    with pytest.raises(InputError, match=r"there are portrait\.jpg, puppet\.png, speech\.flac"):
        example(name)
