"""The only place that cuts regions out of a frame for the landmark models, and maps points back."""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

MOST_SHRINK = 2.0  # beyond this, bilinear sampling would skip pixels


@dataclass(frozen=True)
class Region:
    """A square of the frame, perhaps turned: centre and side in pixels, angle in radians clockwise.

    Coordinates are continuous: the first pixel's centre is at 0.5, the frame ends at its width.
    """

    x: float
    y: float
    side: float
    angle: float = 0.0

    @classmethod
    def around(
        cls, points: Float[np.ndarray, "N 2"], angle: float, scale: float, up: float = 0.0
    ) -> "Region":
        """The turned square around points: its longer side times `scale`, moved `up` of it upwards."""
        turned = points @ _turn(angle)  # row vectors: this is the inverse turn
        low, high = turned.min(axis=0), turned.max(axis=0)
        side = float((high - low).max())
        centre = _turn(angle) @ ((low + high) / 2 - (0.0, up * side))
        return cls(float(centre[0]), float(centre[1]), side * scale, angle)

    def to_frame(self, points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Points of the region, in [0, 1], as points of the frame in pixels."""
        return (points - 0.5) * self.side @ _turn(self.angle).T + (self.x, self.y)


def _turn(angle: float) -> Float[np.ndarray, "2 2"]:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


class Picture:
    """A frame with smaller copies of itself, made when a region is shrunk more than by half."""

    def __init__(self, pixels: UInt8[np.ndarray, "Y X 3"]) -> None:
        self.height, self.width = pixels.shape[:2]
        self._levels = [np.ascontiguousarray(pixels)]

    @property
    def whole(self) -> Region:
        """The smallest upright square around the whole frame."""
        return Region(self.width / 2, self.height / 2, float(max(self.width, self.height)))

    def crop(
        self, region: Region, size: int, low: float, border: Literal["zero", "edge"]
    ) -> Float32[np.ndarray, "1 S S 3"]:
        """The region as `size` x `size` pixels from `low` to 1; outside the frame: 0, or its edge."""
        shrink, level = max(region.side, 1.0) / size, 0
        while shrink > MOST_SHRINK and min(self._level(level).shape[:2]) > 2:
            shrink, level = shrink / 2, level + 1
        pixels = self._level(level)
        fit = np.array([pixels.shape[1] / self.width, pixels.shape[0] / self.height])
        matrix = _turn(region.angle) * (region.side / size) * fit[:, None]
        centre = np.array([region.x, region.y]) * fit
        # Pixel k of the crop has its centre at k + 0.5.
        offset = centre - matrix @ np.full(2, (size - 1) / 2) - 0.5
        cut = cv2.warpAffine(
            pixels,
            np.concatenate([matrix, offset[:, None]], axis=1),
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT if border == "zero" else cv2.BORDER_REPLICATE,
        )
        scale = np.float32((1.0 - low) / 255)
        return (cut[None] * scale + np.float32(low)).astype(np.float32)

    def _level(self, number: int) -> UInt8[np.ndarray, "y x 3"]:
        while len(self._levels) <= number:
            above = self._levels[-1]
            size = (max(1, above.shape[1] // 2), max(1, above.shape[0] // 2))
            self._levels.append(cv2.resize(above, size, interpolation=cv2.INTER_AREA))
        return self._levels[number]
