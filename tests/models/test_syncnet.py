"""SyncNet on arbitrary weights: the published ones are in no package, and were never seen here."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from omnihuman_jax import skeleton
from omnihuman_jax.errors import InputError
from omnihuman_jax.media.examples import example
from omnihuman_jax.media.sound import read_audio
from omnihuman_jax.models import syncnet
from omnihuman_jax.models.mfcc import mfcc
from omnihuman_jax.models.syncnet import Conv, SyncNet
from omnihuman_jax.torch_files import write_safetensors
from omnihuman_jax.weights import to_torch

RANDOM = np.random.default_rng(0)


def arbitrary() -> dict[str, np.ndarray]:
    params = {}
    for name, shape in syncnet.shapes().items():
        value = RANDOM.standard_normal(shape, np.float32)
        if name.endswith("kernel"):
            value *= (2 / math.prod(shape[:-1])) ** 0.5
        elif name.endswith("variance"):
            value = 0.5 + value**2
        params[name] = value if name.endswith(("kernel", "variance")) else 0.1 * value
        if name.endswith("scale"):
            params[name] += 1
    return params


@pytest.fixture(scope="module")
def params():
    return arbitrary()


@pytest.fixture(scope="module")
def network(params):
    return SyncNet(params)


@pytest.fixture(scope="module")
def voice():
    return read_audio(example("speech.flac"))


def test_mfcc_are_those_of_python_speech_features(voice):
    """Step 100 of the example, by version 0.6 of that package; all others agreed to 1e-12 too."""
    theirs = [17.5489, 15.3058, -11.6176, 14.795, -7.6127, -14.1332, -17.2957, -18.2156]
    theirs += [18.0778, 16.2211, 4.7872, -3.8239, -12.0384]
    found = mfcc(voice)
    assert found.shape == (1 + math.ceil((len(voice) - 400) / 160), 13)
    assert found[100] == pytest.approx(theirs, abs=1e-4)
    assert np.isfinite(mfcc(np.zeros(1000, np.float32))).all()


def test_a_layer_is_convolution_norm_relu_pool():
    """Against loops over every output, with a stride, padding, and a kernel over time."""
    x = RANDOM.standard_normal((7, 9, 8, 2)).astype(np.float32)
    params = {
        "a/kernel": RANDOM.standard_normal((5, 3, 3, 2, 4)).astype(np.float32),
        **{f"a/{p}": RANDOM.random(4).astype(np.float32) for p in ("bias", "scale", "shift")},
        **{f"a/{p}": RANDOM.random(4).astype(np.float32) for p in ("mean", "variance")},
    }
    conv = Conv(0, (5, 3, 3, 2, 4), stride=2, pad=1)
    folded = syncnet._folded(params)
    ours = syncnet._convolved(jnp.asarray(x), jnp.asarray(folded["a/kernel"]), conv)
    ours = np.maximum(np.asarray(ours) + folded["a/bias"], 0)

    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    slow = np.zeros((3, 5, 4, 4))
    for f, y, z, c in np.ndindex(slow.shape):
        seen = padded[f : f + 5, 2 * y : 2 * y + 3, 2 * z : 2 * z + 3]
        slow[f, y, z, c] = (seen * params["a/kernel"][..., c]).sum() + params["a/bias"][c]
    slow = (slow - params["a/mean"]) / np.sqrt(params["a/variance"] + 1e-5)
    slow = np.maximum(slow * params["a/scale"] + params["a/shift"], 0)
    assert ours == pytest.approx(slow, abs=1e-4)

    pooled = np.asarray(syncnet._pooled(jnp.asarray(x), 3, (1, 2), 1))
    deep = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    for n, y, z in np.ndindex(7, 9, 4):
        window = deep[n, y : y + 3, 2 * z : 2 * z + 3]
        assert (pooled[n, y, z] == window.max(axis=(0, 1))).all()
    assert pooled.shape == (7, 9, 4, 2)


def test_released_names_give_the_same_network(tmp_path, params, network, voice):
    tensors = to_torch(params, syncnet.torch_rules())
    assert tensors["netcnnlip.0.weight"].shape == (96, 3, 5, 7, 7)
    assert tensors["netcnnlip.4.weight"].shape == (256, 96, 1, 5, 5)
    assert tensors["netcnnaud.18.weight"].shape == (512, 256, 5, 4)
    assert tensors["netfclip.3.weight"].shape == (1024, 512)
    tensors["netcnnaud.1.num_batches_tracked"] = np.array(7)
    path = str(tmp_path / "syncnet.safetensors")
    kinds = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    write_safetensors(path, kinds, lambda name: [tensors[name]])
    steps = mfcc(voice)
    np.testing.assert_array_equal(SyncNet.load(path).sound(steps), network.sound(steps))


def test_another_checkpoint_is_refused(tmp_path, params):
    tensors = to_torch(params, syncnet.torch_rules())
    tensors["netfcaud.3.bias"] = tensors["netfcaud.3.bias"][:7]
    path = str(tmp_path / "other.safetensors")
    kinds = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    write_safetensors(path, kinds, lambda name: [tensors[name]])
    with pytest.raises(InputError, match=r"no files like syncnet_v2\.model"):
        SyncNet.load(path)


def test_a_later_sound_gives_the_same_features_later(network, voice):
    """Three frames are 1920 samples, twelve MFCC steps: exactly three features."""
    sound = voice[: 70 * 640]
    plain = network.sound(mfcc(sound))
    late = network.sound(mfcc(np.concatenate([np.zeros(1920, np.float32), sound])))
    assert len(plain) == len(late) - 3
    assert late[4:] == pytest.approx(plain[1:], abs=1e-4)
    assert np.linalg.norm(late[4:-3] - plain[4:], axis=1).min() > 0.01


def test_a_lip_feature_sees_five_frames(network):
    frames = RANDOM.integers(0, 256, (7, 224, 224, 3), np.uint8)
    found = network.lips(frames)
    assert found.shape == (3, 1024)
    frames[0] = 0
    again = network.lips(frames)
    assert np.abs(again[0] - found[0]).max() > 1e-3
    assert again[1:] == pytest.approx(found[1:], abs=1e-5)


@pytest.mark.parametrize("shift", [-15, -2, 0, 7])
def test_the_offset_is_the_shift(shift):
    """Sound feature i is lip feature i + shift: lips of frame i belong to the sound of i - shift."""
    track = RANDOM.standard_normal((100, 16)).astype(np.float32)
    lips, sound = track[20:60], track[20 + shift : 60 + shift]
    found = syncnet.confidence(syncnet.distances(lips, sound))
    assert found.offset == shift
    assert found.sync_c > 1


def test_scores_worked_out_by_hand():
    """Two frames, one number each, shifts of -1, 0, 1; beyond the ends the sound is 0.

    Distances: |1-0|, |1-1|, |1-4| and |5-1|, |5-4|, |5-0|; their means are 2.5, 0.5, 4.
    """
    lips, sound = np.float32([[1], [5]]), np.float32([[1], [4]])
    table = syncnet.distances(lips, sound, shift=1)
    assert table == pytest.approx(np.array([[1, 0, 3], [4, 1, 5]]), abs=1e-5)
    found = syncnet.confidence(table)
    assert found == pytest.approx((2.0, 0.5, 0), abs=1e-5)


def test_crops_follow_the_face():
    """A white face of 40 pixels at (100, 80), unseen in two frames: the crop shows 1.4 boxes of it."""
    frames = np.zeros((9, 160, 200, 3), np.uint8)
    frames[:, 60:100, 80:120] = 255
    pose = np.zeros((9, skeleton.JOINTS, 3), np.float32)
    x, y = np.meshgrid(np.linspace(80, 120, 17), np.linspace(60, 100, 4))
    pose[:, skeleton.FACE] = np.stack([x.ravel() / 200, y.ravel() / 160, np.ones(68)], axis=1)
    pose[3:5, :, 2] = 0
    crops = syncnet.face_crops(frames, pose)
    assert crops.shape == (9, 224, 224, 3)
    half = 40 * (1 + syncnet.FOREHEAD) / 2
    side = np.sqrt((crops[4, ..., 0] > 127).mean()) * 2 * half * 1.4
    assert side == pytest.approx(40, abs=0.5)
    rows = np.flatnonzero((crops[4, ..., 0] > 127).any(axis=1))
    centre = 80 - 40 * syncnet.FOREHEAD / 2 + 0.4 * half  # the middle of the crop in the frame
    assert (rows.mean() + 0.5) / 224 - 0.5 == pytest.approx((80 - centre) / (2.8 * half), abs=0.01)
    pose[:6, :, 2] = 0
    assert syncnet.face_crops(frames, pose) is None


def test_a_scorer_scores_what_it_can(network, voice):
    frames = RANDOM.integers(0, 256, (9, 64, 64, 3), np.uint8)
    pose = np.full((9, skeleton.JOINTS, 3), 0.5, np.float32)
    pose[:, skeleton.FACE, :2] = RANDOM.random((68, 2)) * 0.4 + 0.3
    scorer = syncnet.SyncNetScorer(network, lambda shown, _: pose[: len(shown)])
    assert scorer(frames, None, 25.0) == {}
    assert scorer(frames[:4], voice, 25.0) == {}
    assert set(scorer(frames, voice[:6400], 25.0)) == {"sync_c", "sync_d", "offset"}
    assert syncnet.SyncNetScorer(network, lambda shown, _: 0 * pose)(frames, voice, 25.0) == {}
