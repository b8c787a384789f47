"""The only place that says which pixels of a video count more: those where someone speaks."""

import functools
import json

import numpy as np
from jaxtyping import Float32

from omnihuman_jax import storage

LIPS = slice(23 + 48, 23 + 68)  # of the 133 joints of COCO-WholeBody


def mouths(path: str) -> Float32[np.ndarray, "F 3"] | None:
    """Where the mouth is in each frame of a video: x, y and its width, as shares of the frame.

    A width of 0 where no mouth is seen; None if the json beside the video gives no lips.
    """
    beside = path.rpartition(".")[0] + ".json"
    return _read(beside) if storage.is_file(beside) else None


@functools.lru_cache(maxsize=4096)
def _read(path: str) -> Float32[np.ndarray, "F 3"] | None:
    pose = json.loads(storage.read_bytes(path)).get("pose")
    joints = np.array(pose["keypoints"], np.float32) if pose else np.zeros((0, 0, 3), np.float32)
    if joints.ndim != 3 or joints.shape[1] < LIPS.stop:
        return None
    lips = joints[:, LIPS]
    wide = lips[..., 0].max(axis=1) - lips[..., 0].min(axis=1)
    seen = lips[..., 2].min(axis=1) > 0
    return np.stack([*lips[..., :2].mean(axis=1).T, wide * seen], axis=1).astype(np.float32)


def cut(
    places: Float32[np.ndarray, "F 3"], shape: tuple[int, int], top: int, left: int
) -> Float32[np.ndarray, "F 3"]:
    """The same places in pixels of a square piece of frames of `shape` (height, width)."""
    height, width = shape
    x, y, wide = places.T
    return np.stack([x * width - left, y * height - top, wide * width], axis=1).astype(np.float32)


def around(
    places: Float32[np.ndarray, "F 3"],
    shape: tuple[int, int],
    size: int,
    random: np.random.Generator,
) -> tuple[int, int]:
    """Top and left of a square piece with the mouth in its middle half, as far as the frame allows."""
    seen = places[places[:, 2] > 0, :2].mean(axis=0)
    middle = seen[::-1] * shape + random.uniform(-0.25, 0.25, 2) * size
    corner = np.clip(np.round(middle - size / 2), 0, np.array(shape) - size)
    return int(corner[0]), int(corner[1])


def mirrored(places: Float32[np.ndarray, "F 3"], size: int) -> Float32[np.ndarray, "F 3"]:
    """The places in a mirrored piece."""
    return np.stack([size - places[:, 0], places[:, 1], places[:, 2]], axis=1)
