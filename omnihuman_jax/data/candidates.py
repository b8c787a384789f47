"""What becomes of a raw video before any network sees it: clips to encode, and rejections with reasons."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, UInt8

from omnihuman_jax.geometry import Grid


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A clip that passed the filters, cut, cropped and at its grid's size.

    Attributes:
        id: unique in the data set and the same in every run, "folder/name.mp4#scene.segment".
        source: the raw video, relative to the folder given.
        reference: one frame of the same scene, outside the clip if the scene is longer.
        sound: 16 kHz in [-1, 1]: `lead` samples before the clip, the clip, and as much after as there
            is, up to the same; None without a sound track.
        lead: samples of `sound` before the clip starts.
        text: the caption; "" without one.
        pose: keypoints in the frame as cropped (skeleton.JOINTS); None when there are none.
        teaches: the conditions that this clip may train.
        scores: each filter's number under its name; a scorer that did not run has no entry.
    """

    id: str
    source: str
    grid: Grid
    fps: float
    frames: UInt8[np.ndarray, "F Y X 3"]
    reference: UInt8[np.ndarray, "Y X 3"]
    sound: Float32[np.ndarray, "samples"] | None
    lead: int = 0
    text: str = ""
    pose: Float32[np.ndarray, "F J 3"] | None
    teaches: frozenset[str]
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A raw video, scene or clip that trains nothing.

    Attributes:
        reason: one word under which it is counted ("decode", "duration", "brightness", …).
        detail: one line for people: the number and the threshold, or what the decoder said.
        failed: the file was at fault (counts towards the 5 % that fail a shard).
        thumbnail: a JPEG strip of some frames; empty when none was decoded.
    """

    id: str
    source: str
    reason: str
    detail: str
    failed: bool = False
    seconds: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)
    thumbnail: bytes = b""
