"""The only place that knows mediapipe's hand: 21 points, in the order that COCO-WholeBody has too."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from omnihuman_jax.landmarks.pictures import Picture, Region
from omnihuman_jax.landmarks.tflite import Forward

SIZE = 224
RECROP_SIZE = 256
POINTS = 21
WRIST, MIDDLE = 0, 9
KNUCKLES = (6, 10, 14)  # of index, middle and ring finger, by which a hand is turned upright
PALM = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)  # what the next region is made from
MARGIN, UP = 2.0, 0.1
FROM_POSE, FROM_POSE_UP = 2.7, 0.1  # side of the search region over wrist to knuckles, doubled


@dataclass(frozen=True)
class Hand:
    """The points in pixels of the frame, and how sure the model is that there is a hand."""

    points: Float64[np.ndarray, "21 2"]
    presence: float

    @property
    def region(self) -> Region:
        """Where to look in the next frame."""
        index, middle, ring = self.points[list(KNUCKLES)]
        return Region.around(
            self.points[list(PALM)],
            _upright((index + ring) / 4 + middle / 2 - self.points[WRIST]),
            MARGIN,
            UP,
        )

    @property
    def side(self) -> float:
        return float(np.ptp(self.points, axis=0).max())


def look(network: Forward, picture: Picture, region: Region) -> Hand:
    """The hand in the region (hand_landmark_full.tflite)."""
    points, presence = network(picture.crop(region, SIZE, 0.0, "edge"))
    inside = points.reshape(POINTS, 3)[:, :2].astype(np.float64) / SIZE
    return Hand(region.to_frame(inside), float(presence.reshape(())))


def find(
    recrop: Forward,
    picture: Picture,
    wrist: Float64[np.ndarray, "2"],
    little: Float64[np.ndarray, "2"],
    index: Float64[np.ndarray, "2"],
) -> Region:
    """Where the hand is, from three points of the pose and a closer look (hand_recrop.tflite)."""
    middle = (2 * index + little) / 3
    along = middle - wrist
    side = 2 * float(np.linalg.norm(along))
    centre = middle + FROM_POSE_UP * side * along / max(float(np.linalg.norm(along)), 1e-9)
    search = Region(float(centre[0]), float(centre[1]), side * FROM_POSE, _upright(along))
    (found,) = recrop(picture.crop(search, RECROP_SIZE, 0.0, "edge"))
    here, edge = search.to_frame(found.reshape(2, 2).astype(np.float64) / RECROP_SIZE)
    down = edge - here
    up = here - UP * 2 * down
    side = 2 * float(np.linalg.norm(down))
    return Region(float(up[0]), float(up[1]), side, _upright(-down))


def _upright(along: Float64[np.ndarray, "2"]) -> float:
    """The angle of a region in which `along` points up."""
    return math.atan2(along[0], -along[1])
