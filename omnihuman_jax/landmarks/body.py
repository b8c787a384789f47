"""The only place that knows mediapipe's pose: 33 points, and which of them are COCO's body and feet."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from omnihuman_jax.landmarks.detect import Found
from omnihuman_jax.landmarks.pictures import Picture, Region
from omnihuman_jax.landmarks.tflite import Forward

SIZE = 256
POINTS = 33
ALL = 39  # with what tracking needs: point 33 is the centre of the hips, 34 the top of the person
MARGIN = 1.25
WINDOW, SURE = 7, 0.5  # heatmap cells around a point, and the least peak that moves it

COCO = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
FEET = (
    31,
    None,
    29,
    32,
    None,
    30,
)  # big toe, small toe (not in this model), heel; left, then right
NOSE = 0
HANDS = ((15, 17, 19), (16, 18, 20))  # wrist, little finger, index finger; left, right


@dataclass(frozen=True)
class Body:
    """The points in pixels of the frame; `seen` is visibility times presence, in [0, 1]."""

    points: Float64[np.ndarray, "33 2"]
    seen: Float64[np.ndarray, "33"]
    presence: float
    region: Region  # where to look in the next frame


def look(network: Forward, picture: Picture, region: Region) -> Body:
    """The pose of the person in the region (pose_landmark_full.tflite)."""
    values, presence, heat = network(picture.crop(region, SIZE, 0.0, "edge"))
    raw = values.reshape(ALL, 5).astype(np.float64)
    inside = _refined(raw[:, :2] / SIZE, 1 / (1 + np.exp(-heat[0])))
    points = region.to_frame(inside)
    visible, present = (1 / (1 + np.exp(-raw[:POINTS, column])) for column in (3, 4))
    return Body(
        points=points[:POINTS],
        seen=visible * present,
        presence=float(presence.reshape(())),
        region=_region(points[POINTS], points[POINTS + 1]),
    )


def detected(found: Found) -> Region:
    """Where the pose is to be looked for, from a detection."""
    return _region(found.points[0], found.points[1])


def _region(hips: Float64[np.ndarray, "2"], top: Float64[np.ndarray, "2"]) -> Region:
    """The circle around the hips that reaches `top`, upright along the line between them."""
    x, y = top - hips
    side = 2 * math.hypot(x, y) * MARGIN
    return Region(float(hips[0]), float(hips[1]), side, math.atan2(x, -y))


def _refined(
    points: Float64[np.ndarray, "39 2"], heat: Float32[np.ndarray, "y x 39"]
) -> Float64[np.ndarray, "39 2"]:
    """Points moved to the mean of the heatmap around them, where that is sure of itself."""
    rows, columns = heat.shape[:2]
    refined = points.copy()
    for number, (u, v) in enumerate(points):
        column, row = int(u * columns), int(v * rows)
        if not (0 <= column < columns and 0 <= row < rows):
            continue
        reach = WINDOW // 2
        top, left = max(0, row - reach), max(0, column - reach)
        window = heat[top : row + reach + 1, left : column + reach + 1, number].astype(np.float64)
        if window.max() >= SURE:
            y, x = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]]
            refined[number] = (window * x).sum() / columns, (window * y).sum() / rows
            refined[number] /= window.sum()
    return refined
