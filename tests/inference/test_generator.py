"""A request becomes frames: the laws that hold whatever the weights are."""

import dataclasses
from unittest.mock import MagicMock

import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax.diffusion.guidance import Constant, Guidance
from omnihuman_jax.errors import InputError
from omnihuman_jax.geometry import Grid
from omnihuman_jax.inference import decoding
from omnihuman_jax.inference.decoding import ahead_by_one, pieces, to_bytes
from omnihuman_jax.inference.generator import Generator, Request
from omnihuman_jax.models.conditioner import AudioConfig, PoseConfig
from omnihuman_jax.models.dit import DiTConfig
from omnihuman_jax.models.manifest import Manifest
from omnihuman_jax.models.mini import Untrained
from omnihuman_jax.models.umt5 import BYTES, UMT5Config
from omnihuman_jax.models.vae import VAEConfig
from omnihuman_jax.models.wav2vec2 import Wav2Vec2Config

CONFIGS = {
    "dit": DiTConfig.tiny(
        text_width=32,
        audio=AudioConfig(width=16, layers=4, window=3, hidden=16),
        pose=PoseConfig(joints=4, hidden=8, channels=2),
    ),
    "vae": VAEConfig.tiny(),
    "text_encoder": UMT5Config.tiny(),
    "audio_encoder": Wav2Vec2Config.tiny(),
}
GRID = Grid(9, 32, 48)
ALL = Request(
    grid=GRID,
    fps=25,
    reference=np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8),
    audio=np.random.default_rng(1).standard_normal(4000).astype(np.float32),
    pose=np.random.default_rng(2).random((5, 4, 3), np.float32),
    text="hi",
    steps=2,
    guidance=Guidance(text=Constant(2.0), audio=Constant(3.0)),
)


@pytest.fixture(scope="module")
def generator():
    model = Untrained("tiny", Manifest(CONFIGS, {}, tokenizer=BYTES))
    return Generator(model, chunk=1)


def made(generator, **changes):
    return np.concatenate(list(generator(dataclasses.replace(ALL, **changes))))


@pytest.fixture(scope="module")
def whole(generator):
    return made(generator)


@pytest.mark.slow
def test_frames_come_in_order_and_the_phases_are_reported(generator, whole):
    seen = []
    pieces = list(generator(ALL, lambda *report: seen.append(report)))
    assert [len(p) for p in pieces] == [1, 4, 4]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)  # the seed decides, nothing else
    assert whole.dtype == np.uint8 and whole.shape == (9, 32, 48, 3)
    for phase, total in (("encode", 3), ("denoise", 2), ("decode", 9)):
        steps = [done for name, done, of in seen if name == phase and of == total]
        assert steps[0] == 0 and steps[-1] == total and steps == sorted(steps)


@pytest.mark.slow
def test_only_the_frames_asked_for_are_decoded(generator, whole):
    np.testing.assert_array_equal(made(generator, frames=6), whole[:6])


@pytest.mark.slow
def test_pieces_of_the_decoder_do_not_show(generator, whole):
    other = dataclasses.replace(generator, chunk=2)
    # Convolutions over other lengths may round differently: one step of 255 at most.
    assert np.abs(made(other).astype(int) - whole.astype(int)).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text", "reference", "audio", "pose", "seed"])
def test_every_input_counts(generator, whole, name):
    assert (made(generator, **{name: 7 if name == "seed" else None}) != whole).any()


@pytest.mark.slow
def test_silence_follows_the_speech_and_what_comes_after_the_clip_does_not_matter(generator, whole):
    assert len(ALL.audio) < 9 / 25 * 16_000  # the speech ends before the clip: silence follows
    padded = np.pad(ALL.audio, (0, 9000))
    np.testing.assert_array_equal(made(generator, audio=padded), whole)


def test_a_pose_of_other_joints_is_refused_before_any_work(generator):
    with pytest.raises(InputError, match="poses of 4 joints, and the pose given has 5"):
        generator(dataclasses.replace(ALL, pose=np.zeros((3, 5, 3), np.float32)))


@pytest.mark.parametrize("missing", ["vae", "text_encoder", "audio_encoder", "tokenizer"])
def test_a_model_without_a_part_says_so_before_any_work(missing):
    configs = {name: config for name, config in CONFIGS.items() if name != missing}
    kind = None if missing == "tokenizer" else BYTES
    with pytest.raises(InputError, match=f"no {missing}"):
        Generator(Untrained("half", Manifest(configs, {}, tokenizer=kind)))(ALL)


def test_plain_wan_refuses_audio():
    plain = CONFIGS | {"dit": DiTConfig.tiny()}
    generator = Generator(Untrained("wan", Manifest(plain, {}, tokenizer=BYTES)))
    with pytest.raises(InputError, match="no audio input"):
        generator(ALL)


@pytest.mark.parametrize(
    "latents, width, says",
    [
        ((1, 13, 24, 24, 16), 16, 6),  # 12 behind the first: two pieces
        ((1, 12, 24, 24, 16), 16, 8),  # 11 cannot be cut evenly into more than 4
        ((1, 21, 60, 104, 16), 96, 1),  # a frame of Wan's decoder at 480p has 0.6 GB
    ],
)
def test_pieces_fit_and_are_even(latents, width, says):
    assert pieces(latents, width) == says


@pytest.mark.parametrize("free, says", [(16, 1), (31, 1), (60, 2), (140, 4)])
def test_pieces_grow_with_the_memory_of_the_device(free, says):
    """Gigabytes; bfloat16 at 480p, of which a frame has 0.3 GB."""
    assert pieces((1, 21, 60, 104, 16), 96, itemsize=2, memory=free * 10**9) == says


def test_bytes_are_rounded_and_a_pixel_that_is_no_number_is_seen():
    video = jnp.float32([-1, 0.004, 1]).reshape(1, 1, 1, 3)
    made, finite = to_bytes(video)
    np.testing.assert_array_equal(made.ravel(), [0, 128, 255])
    assert finite and not to_bytes(video.at[..., 1].set(np.nan))[1]


@pytest.mark.slow
def test_a_video_that_is_not_finite_stops(generator):
    with pytest.raises(FloatingPointError, match="not finite"):
        list(generator.decode(jnp.full((1, 1, 4, 6, 16), np.nan), 1, lambda *_: None))


def test_a_piece_is_given_out_when_the_next_is_on_its_way():
    asked = []
    pieces = ahead_by_one(asked.append(n) or n for n in range(3))
    assert [(piece, len(asked)) for piece in pieces] == [(0, 2), (1, 3), (2, 3)]


def test_processes_decide_by_the_least_memory_of_all(monkeypatch):
    """Else one would join its guidance passes and the others wait for collectives that never come."""
    monkeypatch.setattr(decoding, "jax", mock := MagicMock())
    mock.local_devices.return_value[0].memory_stats.return_value = {
        "bytes_limit": 80 << 30,
        "bytes_in_use": 10 << 30,
    }
    mock.process_count.return_value = 1
    assert decoding.free_memory() == 70 << 30
    mock.process_count.return_value = 2
    others = lambda mine: np.array([mine, mine - 1024])
    monkeypatch.setattr(decoding.multihost_utils, "process_allgather", others)
    assert decoding.free_memory() == 69 << 30
    mock.local_devices.return_value[0].memory_stats.return_value = None
    assert decoding.free_memory() is None
