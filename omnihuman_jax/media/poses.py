"""The only place that knows how keypoints are written in a file."""

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from omnihuman_jax.errors import InputError
from omnihuman_jax.media.files import AnyPath, decoding, existing

WANT = 'a .json file {"fps": 25, "keypoints": [[[x, y, confidence], ...], ...]} or a .npz with both'
MOST_BYTES = 256 * 2**20  # hours of whole-body keypoints
OFF_SCREEN = (-1.0, 2.0)  # a knee below the frame is in sight of the model; a pixel number is not


def read_pose(path: AnyPath) -> tuple[Float32[np.ndarray, "F J 3"], float]:
    """Keypoints of every frame, and the frames a second.

    A keypoint is x and y as fractions of the frame's width and height, from its top left, and a
    confidence from 0 to 1. x and y may lie off screen, by one frame at most.

    Raises:
        InputError: not such a file, damaged, uneven, not finite, or out of range.
    """
    file = existing(path, WANT)
    readers = {".json": _from_json, ".npz": _from_npz}
    if file.suffix.lower() not in readers:
        raise InputError(f"A pose is read from .json or .npz, got {path}.")
    if file.stat().st_size > MOST_BYTES:
        raise InputError(f"{path} is larger than {MOST_BYTES // 2**20} MiB; cut the pose shorter.")
    with decoding(path, WANT):
        fps, keypoints = readers[file.suffix.lower()](file)
    return _checked_keypoints(path, keypoints), _checked_fps(path, fps)


def _from_json(file: Path) -> tuple[np.ndarray, np.ndarray]:
    content: Any = json.loads(file.read_bytes())
    # numpy refuses lists of uneven length here, in its own words.
    return np.asarray(content["fps"]), np.asarray(content["keypoints"])


def _from_npz(file: Path) -> tuple[np.ndarray, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
            raise ValueError(f"it unpacks to more than {MOST_BYTES // 2**20} MiB")
    with np.load(file, allow_pickle=False) as arrays:
        return arrays["fps"], arrays["keypoints"]


def _checked_fps(path: AnyPath, fps: np.ndarray) -> float:
    value = float(fps) if fps.ndim == 0 and fps.dtype.kind in "iuf" else math.nan
    if not 0 < value <= 1000:
        raise InputError(f"{path} needs a frame rate fps above 0 and up to 1000, got {fps}.")
    return value


def _checked_keypoints(path: AnyPath, keypoints: np.ndarray) -> Float32[np.ndarray, "F J 3"]:
    shape = keypoints.shape
    if keypoints.dtype.kind not in "iuf" or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise InputError(
            f"{path} needs keypoints of numbers, frames x joints x 3 (x, y, confidence), "
            f"got {keypoints.dtype} of shape {shape}."
        )
    points = keypoints.astype(np.float32)
    if not np.isfinite(points).all():
        frame = int(np.argwhere(~np.isfinite(points))[0, 0])
        raise InputError(f"{path} has a keypoint that is no finite number, in frame {frame}.")
    places, confidence = points[..., :2], points[..., 2]
    if places.min() < OFF_SCREEN[0] or places.max() > OFF_SCREEN[1]:
        raise InputError(
            f"{path} has x and y from {places.min():g} to {places.max():g}; they are fractions of "
            "the frame: divide x by its width and y by its height."
        )
    if confidence.min() < 0 or confidence.max() > 1:
        raise InputError(
            f"{path} has confidences from {confidence.min():g} to {confidence.max():g}; "
            "they lie between 0 and 1."
        )
    return points
