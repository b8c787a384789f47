"""Features of texts on disk: the same to the last bit, of no other encoder, and never half a file."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from omnihuman_jax.inference import remembered as module
from omnihuman_jax.inference.generator import Generator
from omnihuman_jax.inference.remembered import Remembered, fingerprint, remembered
from omnihuman_jax.models import directory
from omnihuman_jax.models.building import FLOAT32, PRECISIONS, arbitrary
from omnihuman_jax.models.directory import ModelDirectory
from omnihuman_jax.models.manifest import Manifest
from omnihuman_jax.models.mini import Untrained
from omnihuman_jax.models.umt5 import BYTES, UMT5Encoder
from tests.inference.test_generator import ALL, CONFIGS

TEXTS = dataclasses.replace(
    ALL, text="a man", negative_text="", audio=None, reference=None, pose=None
)


class Watched(ModelDirectory):
    """Says which networks were loaded."""

    loaded: ClassVar[list[str]] = []

    def load(self, name, *args, **kwargs):
        self.loaded.append(name)
        return super().load(name, *args, **kwargs)


def saved(path, seed=0):
    config = CONFIGS["text_encoder"]
    encoder = arbitrary(lambda rngs: UMT5Encoder(config, FLOAT32, rngs=rngs), seed)
    found = directory.save(
        str(path), {"text_encoder": encoder}, weights="safetensors", tokenizer=BYTES
    )
    manifest = dataclasses.replace(found.manifest, configs=CONFIGS)
    return Watched(found.path, manifest)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model") / "one")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(module.SWITCH)
    return tmp_path / "omnihuman_jax/texts"


@pytest.fixture
def loaded(monkeypatch):
    monkeypatch.setattr(Watched, "loaded", [])
    return lambda: list(Watched.loaded)


def features(model, precision=FLOAT32, request=TEXTS):
    conditions, negative = Generator(model, precision).encode([request], lambda *_: None)
    return conditions.text, negative


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_texts_that_are_known_need_no_encoder_and_have_the_same_bits(cache, loaded, model, name):
    first = features(model, PRECISIONS[name])
    assert "text_encoder" in loaded() and len(list(cache.iterdir())) == 2
    Watched.loaded.clear()
    again = features(model, PRECISIONS[name])
    assert loaded() == []
    for a, b in zip(first, again, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    one_more = dataclasses.replace(TEXTS, text="a woman")
    assert (features(model, PRECISIONS[name], one_more)[0] != first[0]).any()
    assert loaded() == ["text_encoder"]


def test_another_encoder_or_precision_or_length_is_another_text(model, tmp_path):
    other = saved(tmp_path / "other", seed=1)
    untold = dataclasses.replace(model.manifest, provenance={"text_encoder": {"trained": 1}})
    numbers = [
        fingerprint(model, FLOAT32),
        fingerprint(model, PRECISIONS["bfloat16"]),
        fingerprint(other, FLOAT32),
        fingerprint(ModelDirectory(model.path, untold), FLOAT32),
    ]
    assert len(set(numbers)) == 4
    trained = dataclasses.replace(model.manifest, provenance={"dit": {"trained": 1}})
    assert fingerprint(ModelDirectory(model.path, trained), FLOAT32) == numbers[0]
    assert Remembered("", "a", 3)._path("x") != Remembered("", "a", 4)._path("x")


def test_it_can_be_turned_off_and_a_model_that_is_not_on_disk_is_not_remembered(
    cache, monkeypatch, model
):
    assert remembered(model, FLOAT32, 4) is not None
    assert remembered(Untrained("none", Manifest(CONFIGS, {})), FLOAT32, 4) is None
    monkeypatch.setenv(module.SWITCH, "off")
    assert remembered(model, FLOAT32, 4) is None
    features(model)
    assert not cache.exists()


def row(value, dtype=jnp.float32):
    return lambda text: np.asarray(jnp.zeros((4, 8), dtype).at[:2].set(value))


@pytest.mark.parametrize("harm", ["cut", "empty", "flipped"])
def test_a_damaged_file_is_written_again(tmp_path, harm):
    texts = Remembered(str(tmp_path), "a", 4)
    texts("x", row(1))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    at = len(whole) - module.DIGEST - 4  # among the numbers
    path.write_bytes(
        {"cut": whole[:at], "empty": b"", "flipped": whole[:at] + b"\x7f" + whole[at + 1 :]}[harm]
    )
    assert texts("x", row(2))[0, 0] == 2
    assert texts("x", row(3))[0, 0] == 2, "it was written again"


def test_odd_numbers_keep_their_bits_and_zeros_take_no_room(tmp_path):
    texts = Remembered(str(tmp_path), "a", 4)
    odd = np.zeros((4, 8), ml_dtypes.bfloat16)
    odd[1] = -0.0
    odd[0, :3] = np.nan, np.inf, 1e-40
    given = np.asarray(jnp.asarray(odd))
    texts("x", lambda text: given)
    found = texts("x", row(1))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(found).view(np.uint16), odd.view(np.uint16))
    nothing = lambda text: np.zeros((4, 8), np.float32)
    texts("", nothing)
    np.testing.assert_array_equal(texts("", row(1)), np.zeros((4, 8)))
    assert texts("", row(1)).dtype == jnp.float32


def test_what_was_unused_for_longest_goes_first(tmp_path):
    texts = Remembered(str(tmp_path), "a", 4, room=700)  # three files
    for name in "abc":
        texts(name, row(1))
    texts("a", row(2))
    texts("d", row(1))
    assert [bool((texts(name, row(2)) == 1).any()) for name in "acd"] == [True] * 3
    assert texts("b", row(2))[0, 0] == 2
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 700


def test_a_disk_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / "file").write_text("no folder")
    texts = Remembered(str(tmp_path / "file"), "a", 4)
    assert texts("x", row(1))[0, 0] == 1


WORKER = """
import sys
import numpy as np
from omnihuman_jax.inference.remembered import Remembered

texts = Remembered(sys.argv[1], "a", 4, room=2000)
for turn in range(20):
    for number in range(12):
        want = float(number + 1)
        made = texts(str(number), lambda text: np.full((4, 8), want, np.float32))
        assert made.shape == (4, 8) and (made == want).all(), made
"""


@pytest.mark.slow
def test_processes_may_write_the_same_texts_and_tidy_at_once(tmp_path):
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    root = Path(__file__).parents[2]
    both = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told.decode()[-800:]
    left = list(tmp_path.iterdir())
    assert left and all(path.suffix == ".npy" for path in left), "nothing unfinished is left"
    assert sum(path.stat().st_size for path in left) <= 2000 + 2 * 300
    texts = Remembered(str(tmp_path), "a", 4)
    assert all(texts._read(path) is not None for path in left), "each is whole"
