"""The only place that knows the manifest of a half-body set: one line of JSON a clip.

CyberHost's own test set (269 videos of 119 people, arXiv 2409.01876) was never published; a number on
any other set does not belong in a column with numbers on it. The licence is that of your videos.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from omnihuman_jax import skeleton
from omnihuman_jax.data.sidecar import JOINTS, Sidecar
from omnihuman_jax.errors import InputError
from omnihuman_jax.media import read_pose
from omnihuman_jax.testsets.clips import Clip, Collection, Missing, folder_of

LICENCE = "half_body: that of your own videos"
HOMEPAGE = "https://arxiv.org/abs/2409.01876"
FILE = "manifest.jsonl"
WANT = '{"video": "a.mp4", "id": "a", "start": 0, "end": 5, "pose": "a.json", "identity": "…", "text": "…"}'
KINDS: dict[str, Any] = dict(
    video=str, id=str, identity=str, text=str, pose=str, start=float, end=float
)


def collection(source: str) -> Collection:
    """The clips of a manifest: `source` is the .jsonl file, or a folder with `manifest.jsonl`.

    A line has `video` and `id`, and may have `start` and `end` (seconds), `pose` (a file as
    media.read_pose takes, on the video's clock), `identity` and `text`; what else it has becomes
    attributes. Paths are relative to the manifest.

    Raises:
        InputError: no manifest, a line that is none, two clips of one id.
    """
    path = Path(source) if source.endswith(".jsonl") else folder_of(source) / FILE
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as why:
        raise InputError(
            f"There is no manifest {path}; it has a line {WANT} for each clip."
        ) from why
    except UnicodeDecodeError as why:
        raise InputError(f"{path} is no text of UTF-8.") from why
    clips: dict[str, Clip] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            clip = _parse(f"{path}, line {number}", path.parent, line)
            if clip.id in clips:
                raise InputError(f"{path}, line {number}: the id {clip.id!r} was given before.")
            clips[clip.id] = clip
    if not clips:
        raise InputError(f"{path} has no clips; it needs a line {WANT} for each.")
    return Collection(
        root=path.parent, ids=tuple(clips), clip=lambda name: _found(name, clips), needs_sound=False
    )


def _parse(place: str, root: Path, line: str) -> Clip:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as why:
        raise InputError(f"{place}: no JSON ({' '.join(str(why).split())}).") from why
    if not isinstance(given, dict) or not given.get("video") or not given.get("id"):
        raise InputError(f"{place}: needs at least a video and an id, such as {WANT}.")
    for name, kind in KINDS.items():
        value = given.get(name)
        number = (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )
        if value is not None and not (isinstance(value, str) if kind is str else number):
            raise InputError(f"{place}: {name} is {value!r}; such as {WANT}.")
    start, end = float(given.get("start") or 0), given.get("end")
    if start < 0 or (end is not None and end <= start):
        raise InputError(f"{place}: the clip goes from {start} to {end} s.")
    pose = given.get("pose")
    return Clip(
        id=given["id"],
        video=root / given["video"],
        start=start,
        end=None if end is None else float(end),
        files=(root / pose,) if pose else (),
        identity=given.get("identity") or "",
        text=given.get("text") or "",
        attributes={name: value for name, value in given.items() if name not in KINDS},
    )


def _found(name: str, clips: dict[str, Clip]) -> Clip:
    if name not in clips:
        raise Missing(f"the manifest has no clip {name}")
    clip = clips[name]
    if not clip.video.is_file():
        raise Missing(f"there is no {clip.video.name}")
    if not clip.files:
        return clip
    given, fps = read_pose(clip.files[0])
    if given.shape[1] not in JOINTS:
        raise InputError(
            f"{clip.files[0]} has {given.shape[1]} keypoints a frame; {JOINTS[0]} or {JOINTS[1]} work."
        )
    points = np.zeros((len(given), skeleton.JOINTS, 3), np.float32)
    points[:, : given.shape[1]] = given
    return dataclasses.replace(clip, pose=Sidecar(keypoints=points, pose_fps=fps))
