"""Lips and sound -> Sync-C and Sync-D: SyncNet (Chung & Zisserman 2016), its crops, MFCC and torch names.

The network of `syncnet_v2.model` (github.com/joonson/syncnet_python), for whoever brings that file; it
is published for research, and no package carries it. Its weights were never seen here: layers, names
and the definition of the scores are those of the published code, tested on arbitrary weights against
torch and on what can be worked out by hand, but no score has been compared with the original's.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, UInt8

from omnihuman_jax import skeleton
from omnihuman_jax.models.metric_files import SYNCNET, Part, read
from omnihuman_jax.models.mfcc import mfcc
from omnihuman_jax.weights import Rule

FPS = 25
RATE = 16_000
SIDE = 224  # pixels of a crop
WINDOW = 5  # frames that one lip feature sees
STEPS = 20  # of MFCC that one sound feature sees: the same 0.2 s
STEPS_A_FRAME = 4
SHIFT = 15  # frames either way over which the distances are looked at
WIDTH = 1024
EPS = 1e-5  # of the batch norms
DISTANCE_EPS = 1e-6  # torch's pairwise_distance adds it to each difference
BATCH = 10  # features computed at a time

MARGIN = 0.4  # crop_scale of the published pipeline
STEADY = 13  # frames of the median that steadies the crop
FOREHEAD = 0.3  # a face box reaches above the brows, in heights from brows to chin; our estimate
GREY = 110  # beyond the frame


class SyncScores(NamedTuple):
    """Sync-C, Sync-D and the offset in frames: lips of frame i belong to the sound of i - offset."""

    sync_c: float
    sync_d: float
    offset: int


@dataclass(frozen=True)
class Conv:
    """A convolution with batch norm and ReLU, and a pool after it: (size, strides, padding).

    `at` is its number in torch's Sequential; the norm is the next one. `kernel` ends with channels in
    and out; that of the first lip layer begins with time.
    """

    at: int
    kernel: tuple[int, ...]
    stride: int = 1
    pad: int = 0
    pool: tuple[int, tuple[int, int], int] | None = None


SOUND = (  # on 13 coefficients x 20 steps
    Conv(0, (3, 3, 1, 64), pad=1),
    Conv(4, (3, 3, 64, 192), pad=1, pool=(3, (1, 2), 0)),
    Conv(8, (3, 3, 192, 384), pad=1),
    Conv(11, (3, 3, 384, 256), pad=1),
    Conv(14, (3, 3, 256, 256), pad=1, pool=(3, (2, 2), 0)),
    Conv(18, (5, 4, 256, 512)),
)
LIPS = (
    Conv(0, (5, 7, 7, 3, 96), stride=2, pool=(3, (2, 2), 0)),
    Conv(4, (5, 5, 96, 256), stride=2, pad=1, pool=(3, (2, 2), 1)),
    Conv(8, (3, 3, 256, 256), pad=1),
    Conv(11, (3, 3, 256, 256), pad=1),
    Conv(14, (3, 3, 256, 256), pad=1, pool=(3, (2, 2), 0)),
    Conv(18, (6, 6, 256, 512)),
)
TOWERS = {"sound": (SOUND, "aud"), "lips": (LIPS, "lip")}
HIDDEN = 512

Weights = Mapping[str, Float[Array, "..."]]


class SyncNet:
    """Both towers, in float32, with the batch norms folded into the layers before them."""

    def __init__(self, params: Mapping[str, np.ndarray]) -> None:
        """`params` as `torch_rules` names them."""
        self._weights = {name: jnp.asarray(value) for name, value in _folded(params).items()}

    @classmethod
    def load(cls, path: str) -> "SyncNet":
        """From a folder of `omnihuman convert`, or the user's syncnet_v2.model, .pth or .safetensors.

        Raises:
            InputError: see `metric_files.read`.
        """
        return cls(read(path, "syncnet", PARTS))

    def lips(self, frames: UInt8[np.ndarray, "F 224 224 3"]) -> Float32[np.ndarray, "N 1024"]:
        """A feature for every five frames in a row of RGB crops: F - 4 of them."""
        windows = len(frames) - WINDOW + 1
        features = []
        for start in range(0, windows, BATCH):
            some = frames[start : start + BATCH + WINDOW - 1, :, :, ::-1]  # it learnt on BGR
            filler = np.zeros((BATCH + WINDOW - 1 - len(some), SIDE, SIDE, 3), np.uint8)
            found = _lips(self._weights, jnp.asarray(np.concatenate([some, filler])))
            features.append(np.asarray(found)[: windows - start])
        return np.concatenate([np.zeros((0, WIDTH), np.float32), *features])

    def sound(self, steps: Float64[np.ndarray, "M 13"]) -> Float32[np.ndarray, "N 1024"]:
        """A feature for every frame whose 20 MFCC steps (four a frame) are all there."""
        windows = max(0, (len(steps) - STEPS) // STEPS_A_FRAME + 1)
        features = []
        for start in range(0, windows, BATCH):
            some = [
                steps[STEPS_A_FRAME * k : STEPS_A_FRAME * k + STEPS]
                for k in range(start, min(windows, start + BATCH))
            ]
            batch = np.zeros((BATCH, STEPS, steps.shape[1]), np.float32)
            batch[: len(some)] = some
            found = _sound(self._weights, jnp.asarray(batch.transpose(0, 2, 1)))
            features.append(np.asarray(found)[: len(some)])
        return np.concatenate([np.zeros((0, WIDTH), np.float32), *features])


@jax.jit
def _lips(weights: Weights, frames: jax.Array) -> Float32[Array, "N 1024"]:
    return _tower("lips", weights, frames.astype(jnp.float32))


@jax.jit
def _sound(weights: Weights, steps: Float32[Array, "N 13 20"]) -> Float32[Array, "N 1024"]:
    return _tower("sound", weights, steps[..., None])


def _tower(name: str, weights: Weights, x: Float32[Array, "M ..."]) -> Float32[Array, "N 1024"]:
    """Convolutions, then two linear layers. Time is convolved once, for all windows that share it."""
    for conv in TOWERS[name][0]:
        layer = f"{name}/{conv.at}"
        bias = weights[f"{layer}/bias"][None, None, None]
        x = jax.nn.relu(_convolved(x, weights[f"{layer}/kernel"], conv) + bias)
        x = x if conv.pool is None else _pooled(x, *conv.pool)
    x = x.reshape(len(x), HIDDEN)
    for number in (0, 3):
        kernel, bias = (weights[f"{name}_out/{number}/{part}"] for part in ("kernel", "bias"))
        x = jnp.matmul(x, kernel, precision="highest") + bias[None]
        x = jax.nn.relu(x) if number == 0 else x
    return x


def _convolved(
    x: Float32[Array, "N ..."], kernel: Float32[Array, "..."], conv: Conv
) -> Float32[Array, "M Y X C"]:
    over_time = kernel.ndim == 5
    pads, strides = [(conv.pad, conv.pad)] * 2, (conv.stride, conv.stride)
    found = jax.lax.conv_general_dilated(
        x[None] if over_time else x,
        kernel,
        (1, *strides) if over_time else strides,
        [(0, 0), *pads] if over_time else pads,
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC") if over_time else ("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    return found[0] if over_time else found


def _pooled(
    x: Float32[Array, "N Y X C"], size: int, strides: tuple[int, int], pad: int
) -> Float32[Array, "N y x C"]:
    pads = [(0, 0), (pad, pad), (pad, pad), (0, 0)]
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, *strides, 1), pads
    )


def _folded(params: Mapping[str, np.ndarray]) -> dict[str, Float32[np.ndarray, "..."]]:
    """Kernel and bias of each layer, with what its batch norm does in evaluation."""
    folded = {}
    for name in params:
        layer, _, part = name.rpartition("/")
        if part != "kernel":
            continue
        kernel, bias = params[name].astype(np.float64), params[f"{layer}/bias"].astype(np.float64)
        if f"{layer}/variance" in params:
            gain = params[f"{layer}/scale"] / np.sqrt(params[f"{layer}/variance"] + EPS)
            kernel = kernel * gain
            bias = (bias - params[f"{layer}/mean"]) * gain + params[f"{layer}/shift"]
        folded[name], folded[f"{layer}/bias"] = kernel.astype(np.float32), bias.astype(np.float32)
    return folded


def distances(
    lips: Float32[np.ndarray, "N D"], sound: Float32[np.ndarray, "M D"], shift: int = SHIFT
) -> Float64[np.ndarray, "N K"]:
    """How far lip feature i is from sound feature i + k, k from -shift to shift; zeros beyond the ends."""
    padded = np.zeros((len(lips) + 2 * shift, lips.shape[1]))
    there = sound[: len(lips) + shift]
    padded[shift : shift + len(there)] = there
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * shift + 1, axis=0)
    return np.linalg.norm(lips[..., None] - around + DISTANCE_EPS, axis=1)


def confidence(distances: Float64[np.ndarray, "N K"]) -> SyncScores:
    """The least mean distance over shifts, how far it lies below their median, and its shift.

    Sync-D = min_k m_k and Sync-C = median_k m_k - min_k m_k with m_k = mean_i D[i, k]
    (joonson/syncnet_python, SyncNetInstance.evaluate).
    """
    mean = distances.mean(axis=0)
    best = int(mean.argmin())
    least = float(mean[best])
    return SyncScores(float(np.median(mean)) - least, least, len(mean) // 2 - best)


def sync_scores(
    network: SyncNet,
    crops: UInt8[np.ndarray, "F 224 224 3"],
    sound: Float32[np.ndarray, "samples"],
) -> SyncScores | None:
    """The scores of a clip: RGB crops (`face_crops`), 25 a second, and their 16 kHz sound.

    None for less than six frames of both.
    """
    windows = min(len(crops), len(sound) * FPS // RATE) - WINDOW  # one is left out, as published
    if windows < 1:
        return None
    lips = network.lips(crops[: windows + WINDOW - 1])
    heard = network.sound(mfcc(sound))[:windows]
    return confidence(distances(lips, heard))


def face_crops(
    frames: UInt8[np.ndarray, "F Y X 3"], pose: Float32[np.ndarray, "F J 3"]
) -> UInt8[np.ndarray, "F 224 224 3"] | None:
    """The face in each frame as SyncNet's pipeline cuts it: 1.4 boxes wide and high, more chin than hair.

    The box is made of the face points (brows to chin and a forehead), where the original takes that of
    its detector S3FD. Between frames in which the face is seen it moves evenly. None where the face is
    seen in less than half of the frames.
    """
    if pose.shape[1] < skeleton.FACE.stop or not len(frames):
        return None
    seen = (pose[:, skeleton.FACE, 2] > 0).sum(axis=1) > 34  # half of the 68
    if seen.mean() < 0.5:
        return None
    height, width = frames.shape[1:3]
    points = np.where(pose[..., 2:] > 0, pose[..., :2] * (width, height), np.nan)
    points = points[seen][:, skeleton.FACE]
    low, high = np.nanmin(points, axis=1), np.nanmax(points, axis=1)
    low[:, 1] -= FOREHEAD * (high - low)[:, 1]
    boxes = np.concatenate([(low + high) / 2, (high - low).max(axis=1, keepdims=True) / 2], axis=1)
    number = np.arange(len(frames))
    tracks = [np.interp(number, number[seen], column) for column in boxes.T]
    steady = np.stack([_median(track) for track in tracks], axis=1)
    return np.stack([_cut(*each) for each in zip(frames, steady, strict=True)])


def _median(track: Float64[np.ndarray, "F"]) -> Float64[np.ndarray, "F"]:
    padded = np.pad(track, STEADY // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, STEADY), axis=1)


def _cut(
    frame: UInt8[np.ndarray, "Y X 3"], box: Float64[np.ndarray, "3"]
) -> UInt8[np.ndarray, "224 224 3"]:
    x, y, half = box
    reach = max(half, 1.0) * (1 + MARGIN)  # half the crop's side
    corner = np.array([x - reach, y + MARGIN * half - reach])
    scale = 2 * reach / SIDE
    matrix = np.array([[scale, 0, 0], [0, scale, 0]])
    matrix[:, 2] = corner + scale / 2 - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(frame, matrix, (SIDE, SIDE), flags=flags, borderValue=(GREY, GREY, GREY))
    return np.asarray(cut, np.uint8)


@dataclass(frozen=True)
class SyncNetScorer:
    """`sync_c`, `sync_d` and `offset` of a clip, for the filters and the metrics.

    Attributes:
        landmarks: (frames, fps) -> keypoints Float32 "F 133 3".
    """

    network: SyncNet
    landmarks: Callable[[np.ndarray, float], np.ndarray]

    def __call__(
        self,
        frames: UInt8[np.ndarray, "F Y X 3"],
        sound: Float32[np.ndarray, "samples"] | None,
        fps: float,
    ) -> dict[str, float]:
        """No scores where there is no sound, no face, or less than six frames."""
        if sound is None:
            return {}
        crops = face_crops(frames, self.landmarks(frames, fps))
        if crops is None:
            return {}
        times = np.arange(math.floor(len(frames) / fps * FPS)) / FPS
        found = sync_scores(self.network, crops[np.floor(times * fps + 1e-6).astype(int)], sound)
        return {} if found is None else {name: float(v) for name, v in found._asdict().items()}


def torch_rules() -> list[Rule]:
    """Every tensor of syncnet_v2.model but the counters of its batch norms."""
    rules = []
    for tower, (convs, short) in TOWERS.items():
        for conv in convs:
            rules += _norm(f"netcnn{short}.{conv.at + 1}", f"{tower}/{conv.at}")
            name, path = f"netcnn{short}.{conv.at}", f"{tower}/{conv.at}"
            if len(conv.kernel) == 5:
                kernel = Rule(f"{name}.weight", f"{path}/kernel", axes=(2, 3, 4, 1, 0))
            else:  # kernels of the later lip layers have a time axis of 1
                squeeze = (2,) if tower == "lips" else ()
                kernel = Rule(f"{name}.weight", f"{path}/kernel", (2, 3, 1, 0), squeeze)
            rules += [kernel, Rule(f"{name}.bias", f"{path}/bias")]
        for number in (0, 3):
            name, path = f"netfc{short}.{number}", f"{tower}_out/{number}"
            rules.append(Rule(f"{name}.weight", f"{path}/kernel", axes=(1, 0)))
            rules.append(Rule(f"{name}.bias", f"{path}/bias"))
        rules += _norm(f"netfc{short}.1", f"{tower}_out/0")
    return rules


def _norm(name: str, path: str) -> list[Rule]:
    theirs = ("weight", "bias", "running_mean", "running_var")
    ours = ("scale", "shift", "mean", "variance")
    return [Rule(f"{name}.{t}", f"{path}/{o}") for t, o in zip(theirs, ours, strict=True)]


def shapes() -> dict[str, tuple[int, ...]]:
    """Of every parameter that `torch_rules` makes."""
    found: dict[str, tuple[int, ...]] = {}
    kernels = {f"{tower}/{conv.at}": conv.kernel for tower in TOWERS for conv in TOWERS[tower][0]}
    for tower in TOWERS:
        kernels |= {f"{tower}_out/0": (HIDDEN, HIDDEN), f"{tower}_out/3": (HIDDEN, WIDTH)}
    for path, kernel in kernels.items():
        found |= {f"{path}/kernel": kernel, f"{path}/bias": kernel[-1:]}
        if not path.endswith("_out/3"):
            found |= {f"{path}/{p}": kernel[-1:] for p in ("scale", "shift", "mean", "variance")}
    return found


PARTS = (Part(SYNCNET, torch_rules(), shapes()),)
