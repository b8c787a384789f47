"""The only place that scores videos of puppets against what was asked for: lips, pose, identity, words.

Pure functions of frames and truth, so that the benchmark, training's samples and later `evaluate` mean
the same by the same name. None of them knows how a video was made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8

from omnihuman_jax.errors import InputError
from omnihuman_jax.puppets import colour_reading
from omnihuman_jax.puppets.palette import Colour
from omnihuman_jax.puppets.reading import mouth_opening

LAG = 5  # frames: as far as a mouth may be early or late and still be looked for
NEAR = (-0.1, -0.05, 0.0, 0.05, 0.1)  # heads: as far as a face may be from where it should be
SKIN = (
    0.3  # of the middle of a face; drawn ones have at least that, the rest is nose, blush and beard
)
STILL = 1e-4  # of the frame's height: a mouth that moves less does not move


def correlation(a: Float[np.ndarray, "_"], b: Float[np.ndarray, "_"]) -> float:
    """Pearson's, and 0 where one of the two does not move: nothing follows from it.

    Raises:
        InputError: they are not equally long, or shorter than 3.
    """
    if a.shape != b.shape or len(a) < 3:
        raise InputError(
            f"A correlation needs two tracks of one length, 3 or more; got {len(a)} and {len(b)}."
        )
    x, y = (np.asarray(v, np.float64) - np.mean(v) for v in (a, b))
    size = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / size) if min(x.std(), y.std()) > STILL else 0.0


def lip_score(frames: UInt8[np.ndarray, "F Y X 3"], truth: Float[np.ndarray, "F"]) -> float:
    """How well the mouth in the pixels follows `truth` (a clip's `truth["mouth"]`), from -1 to 1.

    On drawn frames of 96x96 it is 0.9 to 0.99 for portraits and half-bodies. In a full-body shot of that
    size a mouth is two pixels high (0.7 to 0.9 as drawn): leave those out. A mouth that never moves, or
    no mouth, has 0.
    """
    return correlation(mouth_opening(frames), np.asarray(truth, np.float32))


def lags(
    read: Float[np.ndarray, "F"], truth: Float[np.ndarray, "F"], most: int = LAG
) -> Float32[np.ndarray, "lags"]:
    """Correlations with the mouth `-most` to `most` frames late; element `most` has none."""
    count = len(truth)
    scores = [
        correlation(read[max(0, k) : count + min(0, k)], truth[max(0, -k) : count - max(0, k)])
        for k in range(-most, most + 1)
    ]
    return np.array(scores, np.float32)


@dataclass(frozen=True)
class Lips:
    """What `lip_table` found. `lag`: frames by which the mouths are late on the whole."""

    scores: Float32[np.ndarray, "clips"]
    shuffled: Float32[np.ndarray, "clips"]
    lag: int
    at_lag: float


def lip_table(
    reads: Sequence[Float[np.ndarray, "F"]], truths: Sequence[Float[np.ndarray, "F"]]
) -> Lips:
    """Every clip's mouth against its own truth, and against all the others' (their mean).

    Args:
        reads: `mouth_opening` of each clip; all clips have one length.
        truths: of each clip.

    Raises:
        InputError: fewer than 2 clips, or of different lengths.
    """
    if len(reads) < 2 or len({len(r) for r in (*reads, *truths)}) != 1:
        raise InputError("Lips are scored over 2 clips or more of one length.")
    table = np.array([[correlation(read, truth) for truth in truths] for read in reads])
    own = np.diagonal(table)
    others = (table.sum(axis=1) - own) / (len(reads) - 1)
    late = np.mean([lags(r, t) for r, t in zip(reads, truths, strict=True)], axis=0)
    best = int(np.argmax(late))
    return Lips(own.astype(np.float32), others.astype(np.float32), best - LAG, float(late[best]))


def pose_error(
    found: Float32[np.ndarray, "F J 3"],
    truth: Float32[np.ndarray, "F J 3"],
    joints: Sequence[int] | None = None,
) -> float:
    """The mean distance of joints from where they should be, as a share of the frame.

    Joints that the truth has outside the frame (confidence 0) do not count; NaN if all are.

    Args:
        found: as `pose_reading.PoseReader` gives them.
        joints: which; None for all.
    """
    away = np.linalg.norm(found[..., :2] - truth[..., :2], axis=-1)
    seen = truth[..., 2] > 0
    if joints is not None:
        away, seen = away[:, list(joints)], seen[:, list(joints)]
    return float(away[seen].mean()) if seen.any() else float("nan")


def rank(
    look: Float32[np.ndarray, "cells 3"], candidates: Float32[np.ndarray, "N cells 3"], own: int
) -> int:
    """How many of the candidates' looks (`colour_reading.look`) are nearer than that of the right one."""
    away = np.sqrt(((candidates - look) ** 2).sum(axis=-1)).mean(axis=-1)
    return int((away < away[own]).sum())


def agrees(
    region: str,
    frames: UInt8[np.ndarray, "F Y X 3"],
    pose: Float32[np.ndarray, "F J 3"],
    choices: dict[str, Colour],
    wanted: str,
) -> bool:
    """Whether a region's colour is more like the wanted one than like any other choice."""
    seen = colour_reading.colour(region, frames, pose)
    return colour_reading.nearest(seen, choices) == wanted


@dataclass(frozen=True)
class Faces:
    """What drawn faces look like, to judge whether a video shows one.

    Attributes:
        known: `colour_reading.face` of drawn clips.
        least: likeness to the most alike of them that a face has: 5 % of drawn clips have less.
    """

    known: Float32[np.ndarray, "N cells"]
    least: float

    @staticmethod
    def of(clips: Sequence[tuple[np.ndarray, np.ndarray]]) -> "Faces":
        """From frames and pose of at least 8 drawn clips of different puppets."""
        if len(clips) < 8:
            raise InputError(f"To know faces, at least 8 clips are needed, got {len(clips)}.")
        known = np.stack([colour_reading.face(frames, pose) for frames, pose in clips])
        like = []
        for k, (frames, pose) in enumerate(clips):
            others = Faces(np.delete(known, k, axis=0), 0.0)
            like.append(others.likeness(frames, pose))
        return Faces(known, float(np.quantile(like, 0.05)))

    def likeness(
        self, frames: UInt8[np.ndarray, "F Y X 3"], pose: Float32[np.ndarray, "F J 3"]
    ) -> float:
        """Correlation with the most alike of the known faces, wherever within `NEAR` of its place."""
        return max(
            float((self.known @ colour_reading.face(frames, pose, (x, y))).max())
            for x in NEAR
            for y in NEAR
        )


def shows_a_puppet(
    frames: UInt8[np.ndarray, "F Y X 3"],
    pose: Float32[np.ndarray, "F J 3"],
    skin: Colour,
    faces: Faces,
) -> bool:
    """A face like a drawn one about where `pose` has it, and enough of it of the right skin."""
    return (
        faces.likeness(frames, pose) >= faces.least
        and colour_reading.skin_share(frames, pose, skin) >= SKIN
    )
