"""Videos of any length: segments of the model's own length, joined by motion frames (section 3.4).

    |---- segment 0 ----|
                    |mm---- segment 1 ----|       m: the last 5 frames of segment 0, given clean
                                      |mm---- segment 2 ...

Memory does not grow with the length. What a segment showed may be kept on disk, so that a generation
that was interrupted goes on with the segment it was in, and ends in the same video.
"""

import dataclasses
import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from omnihuman_jax import storage
from omnihuman_jax.conditions import Conditions
from omnihuman_jax.geometry import MOTION_FRAMES


def starts(frames: int, clip: int) -> list[int]:
    """First frames of the segments of `clip` frames that show `frames`; each hands 5 to the next."""
    step = clip - MOTION_FRAMES
    return list(range(0, max(frames - MOTION_FRAMES, 1), step)) if step > 0 else [0]


def covered(frames: int, clip: int) -> int:
    """Frames that these segments show, at least `frames`."""
    return starts(frames, clip)[-1] + clip


def cut(conditions: Conditions, start: int, clip: int) -> Conditions:
    """What a segment hears and how it moves; text and reference are the same in all."""
    return dataclasses.replace(
        conditions,
        **{
            name: value[:, start : start + clip]
            for name in ("audio", "pose")
            if (value := getattr(conditions, name)) is not None
        },
    )


def anchored(
    motion: Float[Array, "B M H W C"], anchor: Float[Array, "B M H W C"], strength: float
) -> Float[Array, "B M H W C"]:
    """Each channel's mean and deviation moved towards those of `anchor` (AdaIN, arXiv 1703.06868, eq. 8).

    Errors of colour add up from segment to segment: each one starts from the faults of the last.
    """

    def statistics(x: Array) -> tuple[Array, Array]:
        axes = (1, 2, 3)
        return jnp.mean(x, axes, keepdims=True), jnp.std(x, axes, keepdims=True)

    (mean, spread), (old, wide) = statistics(motion), statistics(anchor)
    moved = (motion - mean) / jnp.maximum(spread, 1e-6) * wide + old
    return motion + strength * (moved - motion)


@dataclass(frozen=True)
class Kept:
    """The frames of finished segments in a folder, lossless; a folder of another video is not used.

    Attributes:
        folder: where; local.
        video: tells one video from another, see `fingerprint`.
    """

    folder: str
    video: str

    def read(self, segment: int) -> UInt8[np.ndarray, "F Y X 3"] | None:
        """The new frames of a segment, or None if it is not there whole."""
        path = self._path(segment)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as found:
                return found["frames"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def write(self, segment: int, frames: UInt8[np.ndarray, "F Y X 3"]) -> None:
        with storage.writing(str(self._path(segment))) as file:
            np.savez_compressed(file, frames=frames)

    def remove(self) -> None:
        """The video is whole; its pieces go."""
        storage.remove(self.folder)

    def _path(self, segment: int) -> Path:
        return Path(self.folder) / f"{self.video}-{segment:05d}.npz"


def fingerprint(request: Any, model: Mapping[str, Any]) -> str:
    """A number that is another one for another request or model."""
    digest = hashlib.sha256(repr(sorted(model.items())).encode())
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        digest.update(field.name.encode())
        digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return digest.hexdigest()[:16]
