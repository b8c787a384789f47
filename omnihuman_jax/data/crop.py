"""The only place that decides which part of the picture a clip shows: one still box a clip."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from omnihuman_jax import geometry, skeleton

SURE = 0.3  # confidence from which a point counts as seen
FILLS = 0.5  # of the picture's height or width: then the person is large enough as it is
MARGIN = 0.25  # of the person's box, added on every side
HAIR = 0.8  # of the height of the face points (brows to chin), above them
SHAPES = (9 / 16, 16 / 9)  # width over height, at the most


@dataclass(frozen=True)
class Box:
    """A part of a picture, in its pixels; parts of pixels are possible."""

    top: float
    left: float
    height: float
    width: float

    @property
    def bottom(self) -> float:
        """The row after the last."""
        return self.top + self.height

    @property
    def right(self) -> float:
        """The column after the last."""
        return self.left + self.width


@dataclass(frozen=True)
class View:
    """How to show a box: the whole picture scaled to `scaled`, then `height` x `width` of it from there.

    One scale for both directions but for rounding to whole pixels, so nothing is distorted.
    """

    scaled: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    scale: float

    def pose(self, pose: Float32[np.ndarray, "F J 3"]) -> Float32[np.ndarray, "F J 3"]:
        """Keypoints of the whole picture as they lie in what is shown; what is outside is not there."""
        moved = pose.copy()
        rows, columns = self.scaled
        moved[..., 0] = (pose[..., 0] * columns - self.left) / self.width
        moved[..., 1] = (pose[..., 1] * rows - self.top) / self.height
        outside = ((moved[..., :2] < 0) | (moved[..., :2] > 1)).any(axis=-1)
        moved[..., 2] = np.where(outside, 0, pose[..., 2])
        moved[..., :2] = np.clip(moved[..., :2], -1, 2)
        return moved


def person(pose: Float32[np.ndarray, "F J 3"], height: int, width: int) -> Box | None:
    """The box that holds the person in nearly every frame, hair included; None if nobody is seen.

    Spans the 2nd to the 98th percentile of the frames' own boxes, so that one wrong point in one frame
    does not move it.
    """
    sides = []
    for frame in pose:
        seen = frame[(frame[:, 2] >= SURE) & _inside(frame)]
        if len(seen) < 3:
            continue
        (left, top), (right, bottom) = seen[:, :2].min(axis=0), seen[:, :2].max(axis=0)
        face = frame[skeleton.FACE]
        face = face[face[:, 2] >= SURE]
        if len(face):
            top = min(top, face[:, 1].min() - HAIR * np.ptp(face[:, 1]))
        sides.append((max(top, 0), max(left, 0), min(bottom, 1), min(right, 1)))
    if not sides:
        return None
    low, high = np.percentile(sides, [2, 98], axis=0)
    top, left, bottom, right = low[0], low[1], high[2], high[3]
    return Box(
        float(top * height),
        float(left * width),
        float((bottom - top) * height),
        float((right - left) * width),
    )


def around(person: Box | None, content: Box) -> Box:
    """The part of `content` to show: all of it, or where the person is small in it, what is around.

    The person gets a margin of a quarter on every side, and a shape between 9:16 and 16:9.
    """
    if person is None or person.height >= FILLS * content.height:
        return content
    if person.width >= FILLS * content.width:
        return content
    height, width = person.height * (1 + 2 * MARGIN), person.width * (1 + 2 * MARGIN)
    width = max(width, height * SHAPES[0])
    height = max(height, width / SHAPES[1])
    return _placed(
        person.top + person.height / 2, person.left + person.width / 2, height, width, content
    )


def view(
    box: Box, content: Box, picture: tuple[int, int], areas: Sequence[int], max_upscale: float
) -> View | None:
    """How to show `box` of a picture of this height and width on a grid; None where it is too small.

    The largest of `areas` for which nothing is enlarged by more than `max_upscale`. A small box is
    first widened within `content`, as far as that needs. The grid has the box's own shape as nearly as
    multiples of 16 can; what differs is cut away.
    """
    for area in sorted(areas, reverse=True):
        need = 1.05 * math.sqrt(area) / max_upscale  # 5 %: the grid's shape differs a little
        grow = max(1.0, need / math.sqrt(box.height * box.width))
        middle = box.top + box.height / 2, box.left + box.width / 2
        wide = _placed(*middle, box.height * grow, box.width * grow, content)
        height, width = geometry.nearest_size(round(wide.height), round(wide.width), area)
        scale = max(height / wide.height, width / wide.width)
        if scale <= max_upscale + 1e-9:
            return _view(wide, picture, height, width, scale)
    return None


def _view(box: Box, picture: tuple[int, int], height: int, width: int, scale: float) -> View:
    rows = max(height, round(picture[0] * scale))
    columns = max(width, round(picture[1] * scale))
    top = (box.top + box.height / 2) * scale - height / 2
    left = (box.left + box.width / 2) * scale - width / 2
    return View(
        (rows, columns),
        min(max(0, round(top)), rows - height),
        min(max(0, round(left)), columns - width),
        height,
        width,
        scale,
    )


def _placed(row: float, column: float, height: float, width: float, content: Box) -> Box:
    """A box around a point, moved into `content`, and no larger."""
    height, width = min(height, content.height), min(width, content.width)
    top = min(max(row - height / 2, content.top), content.bottom - height)
    left = min(max(column - width / 2, content.left), content.right - width)
    return Box(top, left, height, width)


def _inside(frame: Float32[np.ndarray, "J 3"]) -> np.ndarray:
    """Whether each point lies in the picture."""
    return np.asarray(((frame[:, :2] >= 0) & (frame[:, :2] <= 1)).all(axis=1))
