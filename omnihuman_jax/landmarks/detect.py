"""The only place that finds boxes: SSD detectors with mediapipe's anchors, decoding and suppression.

Anchors sit at the centres of grid cells and have no size of their own; boxes and points are offsets
from them in pixels of the network's input (ssd_anchors_calculator, tensors_to_detections_calculator
and non_max_suppression_calculator of mediapipe, and the graphs that set their options).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from omnihuman_jax.landmarks.pictures import Picture, Region
from omnihuman_jax.landmarks.tflite import Forward

SAME = 0.3  # boxes that share more of their union are one
CLIP = 100.0  # of the logits


@dataclass(frozen=True)
class Found:
    """One detection: box as left, top, right, bottom, and its points, in pixels of the frame."""

    box: Float64[np.ndarray, "4"]
    points: Float64[np.ndarray, "K 2"]
    score: float

    @property
    def centre(self) -> Float64[np.ndarray, "2"]:
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def side(self) -> float:
        return float((self.box[2:] - self.box[:2]).max())

    def covers(self, other: "Found") -> bool:
        """Whether the two are one thing, by where they are: detectors draw boxes of different sizes."""
        return bool(np.linalg.norm(self.centre - other.centre) < max(self.side, other.side) / 2)


@dataclass(frozen=True, kw_only=True)
class Detector:
    """One of the detectors; called with a picture, it gives what it finds, best first.

    Attributes:
        network: gives boxes and scores.
        grids: cells a side and anchors a cell of each layer of anchors.
        low: what black is in the input; white is 1.
        least: the score below which nothing was found.
    """

    network: Forward
    size: int
    grids: tuple[tuple[int, int], ...]
    least: float
    low: float = -1.0

    def __call__(self, picture: Picture, region: Region | None = None) -> list[Found]:
        region = picture.whole if region is None else region
        boxes, logits = self.network(picture.crop(region, self.size, self.low, "zero"))
        scores = 1 / (1 + np.exp(-np.clip(logits[0, :, 0].astype(np.float64), -CLIP, CLIP)))
        kept = np.flatnonzero(scores >= self.least)
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        raw = (
            boxes[0, kept].astype(np.float64).reshape(len(kept), boxes.shape[2] // 2, 2) / self.size
        )
        centres = self._anchors()[kept]
        points = raw[:, [0, *range(2, raw.shape[1])]] + centres[:, None]  # centre of the box first
        half = raw[:, 1] / 2
        corners = np.stack([points[:, 0] - half, points[:, 0] + half], axis=1)
        values = np.concatenate([corners, points[:, 1:]], axis=1)
        return [_found(mean, score, region) for mean, score in _merged(values, scores[kept])]

    def _anchors(self) -> Float32[np.ndarray, "anchors 2"]:
        layers = []
        for cells, each in self.grids:
            y, x = np.mgrid[:cells, :cells]
            centres = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / cells
            layers.append(centres.repeat(each, axis=0))
        return np.concatenate(layers).astype(np.float32)


def _merged(
    values: Float64[np.ndarray, "N P 2"], scores: Float64[np.ndarray, "N"]
) -> list[tuple[Float64[np.ndarray, "P 2"], float]]:
    """Detections of the same thing become one, the mean weighted by score; best first."""
    merged = []
    left = np.arange(len(values))
    while len(left):
        same = _overlap(values[left[0], :2], values[left, :2]) > SAME
        same[0] = True
        group = left[same]
        mean = np.average(values[group], axis=0, weights=scores[group])
        merged.append((mean, float(scores[group[0]])))
        left = left[~same]
    return merged


def _overlap(
    box: Float64[np.ndarray, "2 2"], boxes: Float64[np.ndarray, "N 2 2"]
) -> Float64[np.ndarray, "N"]:
    """Intersection over union."""
    shared = np.minimum(box[1], boxes[:, 1]) - np.maximum(box[0], boxes[:, 0])
    both = shared.clip(0).prod(axis=1)
    areas = (boxes[:, 1] - boxes[:, 0]).clip(0).prod(axis=1)
    union = (box[1] - box[0]).clip(0).prod() + areas - both
    return both / np.maximum(union, 1e-12)


def _found(values: Float64[np.ndarray, "P 2"], score: float, region: Region) -> Found:
    points = region.to_frame(values)
    return Found(points[:2].reshape(4), points[2:], score)
