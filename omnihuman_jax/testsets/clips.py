"""The only place that says what a clip of a test set is before it is cut, and a collection of them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnihuman_jax.data.sidecar import Sidecar
from omnihuman_jax.errors import InputError

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi")

Window = tuple[int, int, int, int]
"""Of a picture: top, left, height, width, in pixels."""


class Unusable(InputError):
    """Nothing can be made of this clip; the others may be fine. One line."""


class Missing(Unusable):
    """This copy of the videos lacks the clip."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Where a clip is and what is known of it.

    Attributes:
        id: unique in the set, and the same on every machine.
        start: where it begins in the video, in seconds.
        end: where it ends, in seconds; None for the end of the video.
        window: height and width of the video → the part of the picture to show; None for all of it.
        sound: a sound file to use in place of the video's own track, on the video's clock.
        pose: given keypoints, on the video's clock; None without.
        truth: lists of a value a frame at `truth_fps`, on the video's clock, cut like the video.
        files: what the clip is made of besides `video` and `sound`.
        identity: who it is; "" if the collection does not say.
        text: a caption; "" without.
        attributes: what else the collection says of it.
    """

    id: str
    video: Path
    start: float = 0.0
    end: float | None = None
    window: Callable[[int, int], Window] | None = None
    sound: Path | None = None
    pose: Sidecar | None = None
    truth: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    truth_fps: float = 0.0
    files: tuple[Path, ...] = ()
    identity: str = ""
    text: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A user's copy of the videos of a set.

    Attributes:
        root: the folder that `files` in an id list are relative to.
        ids: all clips that the publisher lists, whether or not this copy has them.
        clip: the clip of an id; raises Missing if this copy lacks it.
        needs_sound: a clip without sound is of no use in this set.
    """

    root: Path
    ids: tuple[str, ...]
    clip: Callable[[str], Clip]
    needs_sound: bool = True


def folder_of(source: str) -> Path:
    """Raises: InputError: `source` is not a local folder."""
    if source.startswith("gs://"):
        raise InputError(f"A test set is built from a local folder, got {source}; copy it first.")
    if not Path(source).is_dir():
        raise InputError(f"There is no folder {source}; --source is your own copy of the videos.")
    return Path(source)


def videos_by_name(root: Path) -> dict[str, Path]:
    """Every video below `root` by its name without ending; of two of one name the first in order."""
    found: dict[str, Path] = {}
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix.lower() in VIDEOS and not name.startswith("."):
                found.setdefault(path.stem, path)
    return found
