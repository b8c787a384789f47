"""Candidates to examples, with the built-in model's networks."""

import dataclasses

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from omnihuman_jax import encoding
from omnihuman_jax.data import records
from omnihuman_jax.data.candidates import Candidate
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.models import mini
from omnihuman_jax.models.building import FLOAT32

GRID = Grid(9, 16, 32)


def candidate(number: int, *, grid: Grid = GRID, sound: bool = True) -> Candidate:
    rng = np.random.default_rng(number)
    size = (grid.height, grid.width, 3)
    return Candidate(
        id=str(number),
        source="a.mp4",
        grid=grid,
        fps=25.0,
        frames=rng.integers(0, 256, (grid.frames, *size), np.uint8),
        reference=rng.integers(0, 256, size, np.uint8),
        sound=rng.uniform(-0.5, 0.5, 9000).astype(np.float32) if sound else None,
        lead=1280,
        text="" if number == 1 else f"number {number}",
        pose=rng.random((grid.frames, 17, 3), np.float32),
        teaches=frozenset({"reference"}),
    )


@pytest.fixture(scope="module")
def encoder() -> encoding.Encoder:
    return encoding.encoder("mini", "float32", 2)


@pytest.mark.slow
def test_an_example_does_not_depend_on_the_clips_beside_it(encoder: encoding.Encoder) -> None:
    clips = [candidate(i, sound=i != 2) for i in range(3)]
    small = candidate(3, grid=Grid(5, 16, 16))
    forward = encoder([clips[0], small, clips[1], clips[2]])
    assert [e.id for e in forward] == ["0", "3", "1", "2"]
    backward = encoder([clips[2], clips[1], clips[0], small])
    alone = [encoder([clip])[0] for clip in clips]
    for i, clip in enumerate(clips):
        made = {e.id: e for e in (*forward,)}[clip.id], backward[2 - i], alone[i]
        assert len({records.serialize(e) for e in made}) == 1


@pytest.mark.slow
def test_examples_hold_what_the_networks_say_of_the_whole_clip(encoder: encoding.Encoder) -> None:
    clip = candidate(0)
    example = encoder([clip])[0]
    vae = mini.mini().load("vae", FLOAT32)
    whole = vae.encode(jnp.asarray(clip.frames, jnp.float32)[None] / 127.5 - 1)[0]
    np.testing.assert_allclose(
        example.latents.astype(np.float32), np.asarray(whole), rtol=2**-7, atol=1e-4
    )
    still = vae.encode(jnp.asarray(clip.reference, jnp.float32)[None, None] / 127.5 - 1)[0]
    np.testing.assert_allclose(
        example.reference.astype(np.float32), np.asarray(still), rtol=2**-7, atol=1e-4
    )
    assert example.text_features.shape == (len("number 0") + 1, 128)  # bytes and the end mark
    assert encoder([candidate(1)])[0].text_features is None  # no caption
    assert example.audio_features.shape == (9, 5, 96)
    np.testing.assert_array_equal(example.pose, clip.pose.astype(np.float16))


@pytest.mark.slow
def test_the_sound_before_a_clip_is_heard_and_not_stored(encoder: encoding.Encoder) -> None:
    clip = candidate(0)
    later = dataclasses.replace(clip, lead=clip.lead + 640)  # one frame more before the clip
    first, second = (encoder([c])[0].audio_features for c in (clip, later))
    np.testing.assert_array_equal(first[1:], second[:-1])
    assert first.dtype == ml_dtypes.bfloat16


def test_fingerprints_tell_encoders_apart() -> None:
    model = mini.untrained()
    same = encoding.fingerprints(mini.untrained())
    trained = encoding.fingerprints(mini.mini())
    assert trained.keys() == same.keys() and not trained.items() & same.items()
    assert all(value.startswith("sha256:") for value in trained.values())
    assert encoding.fingerprints(model) == same and set(same) == set(encoding.NETWORKS)
    assert all(value.startswith("untrained:") for value in same.values())
    configs = {**model.manifest.configs, "vae": dataclasses.replace(model.config("vae"), dim=4)}
    other = encoding.fingerprints(
        dataclasses.replace(model, manifest=dataclasses.replace(model.manifest, configs=configs))
    )
    assert other["vae"] != same["vae"] and other["text_encoder"] == same["text_encoder"]
    converted = dataclasses.replace(model.manifest, provenance={"files": [
        {"network": "vae", "sha256": "1" * 64}, {"network": "text_encoder", "sha256": "2" * 64}
    ]})  # fmt: skip
    known = encoding._fingerprint(dataclasses.replace(model, manifest=converted), "vae")
    assert known.startswith("sha256:") and known[7:] != same["vae"][10:]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="float32, bfloat16, got float8"):
        encoding.encoder("mini", "float8")
    with pytest.raises(InputError, match="at least one clip, got 0"):
        encoding.encoder("mini", "float32", 0)
