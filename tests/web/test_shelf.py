"""What is kept comes back; nobody guesses an id; what is old goes."""

import os
import time

import pytest

from omnihuman_jax.errors import InputError
from omnihuman_jax.web.form import Form
from omnihuman_jax.web.shelf import Shelf


@pytest.fixture
def kept(tmp_path):
    """A shelf with one request on it; the shelf and the id."""
    (tmp_path / "up").mkdir()
    (tmp_path / "up/voice.wav").write_bytes(b"sound")
    shelf = Shelf(tmp_path / "served")
    name, _ = shelf.put(Form(audio=str(tmp_path / "up/voice.wav"), text="hello", seed=5))
    return shelf, name


def test_a_form_comes_back_with_copies_of_its_files(kept, tmp_path):
    shelf, name = kept
    (tmp_path / "up/voice.wav").unlink()  # the upload goes when it is old
    form = shelf.get(name)
    assert (form.text, form.seed, form.reference) == ("hello", 5, None)
    with open(form.audio, "rb") as file:
        assert file.read() == b"sound"
    assert form.audio.endswith("/voice.wav")


def test_ids_are_random_and_long(kept):
    shelf, first = kept
    names = {first, *(shelf.put(Form())[0] for _ in range(20))}
    assert len(names) == 21 and all(len(name) == 22 for name in names)


@pytest.mark.parametrize("name", ["", "x" * 22, "../requests/abc", "..", "/etc/passwd", "a\0b"])
def test_an_id_that_is_none_finds_nothing(kept, name):
    with pytest.raises(InputError, match="not on the server"):
        kept[0].get(name)


def test_a_path_in_place_of_an_id_leads_nowhere(kept):
    shelf, name = kept
    for other in (f"../requests/{name}", f"./{name}", f"{name}/", f"{name}/../{name}"):
        with pytest.raises(InputError):
            shelf.get(other)


def test_what_is_old_goes_and_what_is_waited_for_stays(kept):
    shelf, old = kept
    waited, new = shelf.put(Form())[0], shelf.put(Form())[0]
    upload = shelf.root / "0123abcd"
    upload.mkdir()
    for folder in (shelf.root / "requests" / old, shelf.root / "requests" / waited, upload):
        for one in (*folder.rglob("*"), folder):
            os.utime(one, (time.time() - 7200,) * 2)
    assert shelf.sweep(3, ()) == 0
    assert shelf.sweep(1, {waited}) == 2
    assert not upload.exists()
    with pytest.raises(InputError):
        shelf.get(old)
    shelf.get(waited), shelf.get(new)
