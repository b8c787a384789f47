"""The only place that reads NAME.json beside a raw video: what is given there is not detected."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32

from omnihuman_jax import skeleton, storage
from omnihuman_jax.errors import InputError

JOINTS = (17, skeleton.JOINTS)
OFF_SCREEN = (-1.0, 2.0)  # a knee below the frame is in sight of the model; a pixel number is not


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What somebody knows about a raw video. Empty without a file.

    Attributes:
        caption: what is seen and done.
        speaker: the same for all videos of one person.
        language: of the speech.
        transcript: the words spoken.
        keypoints: of every frame at `pose_fps`, all 133 (those not given with confidence 0).
        pose_fps: frames a second of the keypoints.
        scores: numbers that win over measured ones.
    """

    caption: str = ""
    speaker: str = ""
    language: str = ""
    transcript: str = ""
    keypoints: Float32[np.ndarray, "F 133 3"] | None = None
    pose_fps: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)

    def pose(
        self, fps: float, frames: int, first: int = 0
    ) -> Float32[np.ndarray, "{frames} 133 3"]:
        """Keypoints of frames `first`, `first + 1`, … at `fps`, between two given frames in proportion.

        A point has the lower confidence of the two; past the last frame given it has none.

        Raises:
            InputError: no keypoints are given.
        """
        if self.keypoints is None:
            raise InputError("The sidecar has no keypoints.")
        times = (first + np.arange(frames)) / fps * self.pose_fps
        low = np.clip(np.floor(times + 1e-6).astype(int), 0, len(self.keypoints) - 1)
        high = np.minimum(low + 1, len(self.keypoints) - 1)
        part = np.clip(times - low, 0, 1).astype(np.float32)[:, None, None]
        part[part < 1e-3] = 0  # the same rate: the same points
        below, above = self.keypoints[low], self.keypoints[high]
        points = below + part * (above - below)
        sure = np.minimum(below[..., 2], above[..., 2])
        points[..., 2] = np.where(part[..., 0] > 0, sure, below[..., 2])
        points[times >= len(self.keypoints), :, 2] = 0
        return points.astype(np.float32)


def read_sidecar(video: str) -> Sidecar:
    """The sidecar of a raw video, local or gs://: the same name, ending in .json. Unknown fields pass.

    Raises:
        InputError: no JSON object, a field of the wrong type, keypoints that cannot be.
    """
    folder, slash, name = video.rpartition("/")
    path = folder + slash + name.rpartition(".")[0] + ".json"
    if not storage.is_file(path):
        return Sidecar()
    try:
        content = json.loads(storage.read_bytes(path))
    except (ValueError, RecursionError) as why:  # also bytes that are no UTF-8
        raise InputError(f"{path} is no JSON: {' '.join(str(why).split())}.") from why
    if not isinstance(content, dict):
        raise InputError(f'{path} holds {type(content).__name__}; it needs {{"caption": …}}.')
    words = {name: _text(path, content, name) for name in _WORDS}
    keypoints, fps = _pose(path, content.get("pose"))
    return Sidecar(
        **words, keypoints=keypoints, pose_fps=fps, scores=_scores(path, content.get("scores"))
    )


_WORDS = ("caption", "speaker", "language", "transcript")


def _text(path: str, content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{path} needs text for {name}, got {type(value).__name__}.")
    return " ".join((value or "").split())


def _scores(path: str, given: Any) -> dict[str, float]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"{path} needs scores by name, got {type(given).__name__}.")
    for name, value in given.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise InputError(f"{path} needs a finite number for the score {name}, got {value!r}.")
    return {name: float(value) for name, value in given.items()}


def _pose(path: str, given: Any) -> tuple[np.ndarray | None, float]:
    if given is None:
        return None, 0.0
    if not isinstance(given, dict) or not {"fps", "keypoints"} <= given.keys():
        raise InputError(f'{path} needs "pose" as {{"fps": 25, "keypoints": […]}}.')
    fps = given["fps"]
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= 1000:
        raise InputError(f"{path} needs a frame rate above 0 and up to 1000, got {fps!r}.")
    try:
        points = np.asarray(given["keypoints"], np.float32)
    except (ValueError, TypeError) as why:  # uneven lists, words
        raise InputError(f"{path} has keypoints of uneven lengths, or no numbers.") from why
    if points.ndim != 3 or points.shape[1] not in JOINTS or points.shape[2] != 3 or not len(points):
        raise InputError(
            f"{path} needs keypoints of frames x {JOINTS[1]} (or {JOINTS[0]}) x 3, got {points.shape}."
        )
    places, sure = points[..., :2], points[..., 2]
    seen = places[sure > 0]
    if not np.isfinite(points).all() or sure.min() < 0 or sure.max() > 1:
        raise InputError(
            f"{path} has keypoints that are not finite, or confidences outside 0 to 1."
        )
    if seen.size and (seen.min() < OFF_SCREEN[0] or seen.max() > OFF_SCREEN[1]):
        raise InputError(
            f"{path} has x and y from {seen.min():g} to {seen.max():g}; they are fractions of the "
            "frame: divide x by its width and y by its height."
        )
    whole = np.zeros((len(points), skeleton.JOINTS, 3), np.float32)
    whole[:, : points.shape[1]] = points
    return whole, float(fps)
